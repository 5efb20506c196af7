"""Photos that look alike: the same view taken twice, and one picture that stands for many places.

Two photos look alike where their difference hashes (:func:`graticule.photos.images.difference_hash`) differ in few of
64 bits. The search is exact, by bands: multi-index hashing of Norouzi, Punjani and Fleet, Fast Search in Hamming
Space with Multi-Index Hashing (CVPR 2012).
"""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from graticule.geo import sphere
from graticule.photos.images import hamming

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

MOST_PAIRS = 2_000_000  # compared at a time, to bound memory


def near_hashes(
    hashes: ArrayLike, bits: int, groups: NDArray[np.integer[Any]] | None = None
) -> Iterator[tuple[Ints, Ints]]:
    """All pairs of hashes that differ in at most ``bits`` bits, each once, some at a time.

    Cut into ``bits + 1`` bands, two such hashes agree in one band at least; so only hashes that share a band are
    compared. Equal hashes are pairs too: give unique ones where many are equal.

    Args:
        hashes: uint64, shape ``(N,)``.
        bits: from 0 to 63.
        groups: codes, shape ``(N,)``; hashes of different groups are no pair. By bands alone, ten times the photos
            have a hundred times the pairs to compare.

    Yields:
        Row numbers ``(i, j)``, each of shape ``(P,)``.

    Raises:
        ValueError: ``bits`` is out of range.
    """
    if not 0 <= bits <= 63:
        raise ValueError(f"bits={bits}; hashes of 64 bits differ in 0 to 63 bits that can be searched for")
    values = np.asarray(hashes, np.uint64)
    edges = np.linspace(0, 64, bits + 2).astype(int)
    bands = [np.uint64(((1 << (hi - lo)) - 1) << lo) for lo, hi in itertools.pairwise(edges.tolist())]
    for number, band in enumerate(bands):
        order, start = _runs(values & band, groups)
        ranked, count = values[order], np.diff(np.r_[start, len(values)])
        end = np.repeat(start + count, count)
        left = np.arange(len(values))
        for shift in range(1, int(count.max(initial=1))):
            left = left[left + shift < end[left]]
            for some in np.array_split(left, len(left) // MOST_PAIRS + 1):
                a, b = ranked[some], ranked[some + shift]
                found = hamming(a, b) <= bits
                for earlier in bands[:number]:  # a pair that agrees there was told there
                    found &= (a ^ b) & earlier != 0
                if found.any():
                    yield order[some[found]], order[some[found] + shift]


def near_duplicates(
    lat: ArrayLike, lon: ArrayLike, hashes: ArrayLike, *, bits: int, within_km: float, place: ArrayLike | None = None
) -> Ints:
    """For each photo an earlier one that it repeats, shape ``(N,)``; -1 for those worth keeping.

    A photo repeats another where both look alike and lie near each other or at one place. What it repeats is itself
    kept, so a slow change over many views is not thinned to its first.

    Args:
        lat, lon: degrees, shape ``(N,)``.
        hashes: uint64, shape ``(N,)``.
        bits: look-alikes differ in at most so many of 64 bits.
        within_km: how far apart two views of one thing may lie.
        place: group codes, shape ``(N,)``; -1 is no place.
    """
    lats, lons, places = np.asarray(lat, np.float64), np.asarray(lon, np.float64), _codes(place, np.size(lat))
    earlier: list[Ints] = []
    later: list[Ints] = []
    told: list[Ints] = []  # what photos were grouped by before: such pairs are not told again
    for groups in (*_grids(lats, lons, within_km), places):
        rows = np.flatnonzero(places >= 0) if groups is places else np.arange(len(lats))
        for first, second in _expanded(np.asarray(hashes, np.uint64)[rows], bits, groups[rows]):
            i, j = rows[first], rows[second]
            near = sphere.great_circle_km(lats[i], lons[i], lats[j], lons[j]) <= within_km
            near |= (places[i] >= 0) & (places[i] == places[j])
            for before in told:
                near &= before[i] != before[j]
            earlier.append(np.minimum(i, j)[near])
            later.append(np.maximum(i, j)[near])
        told.append(groups)
    like = np.full(len(lats), -1)
    if earlier:
        first, second = np.concatenate(earlier), np.concatenate(later)
        order = np.lexsort((first, second))
        for i, j in zip(first[order].tolist(), second[order].tolist(), strict=True):
            if like[j] < 0 and like[i] < 0:
                like[j] = i
    return like


def one_picture_for_many_places(
    lat: ArrayLike, lon: ArrayLike, hashes: ArrayLike, tones: ArrayLike, *, bits: int, apart_km: float, places: int
) -> Bools:
    """Which photos are one picture shown at several places far apart, as the tile that says "no imagery"; ``(N,)``.

    Args:
        lat, lon: degrees, shape ``(N,)``.
        hashes: uint64, shape ``(N,)``.
        tones: grey levels that copies share, such as mean and percentiles, shape ``(N, T)``. A copy has each of
            them within 3 levels of the median copy's: dark roads share a hash now and then, but not the light.
        bits: copies differ in at most so many of 64 bits.
        apart_km: places count as different beyond this.
        places: how many different places make the picture a placeholder.
    """
    from scipy import sparse

    copies = np.zeros(np.size(lat), bool)
    if not copies.size:
        return copies
    lats, lons, tone = np.asarray(lat, np.float64), np.asarray(lon, np.float64), np.asarray(tones, np.float64)
    unique, member = np.unique(np.asarray(hashes, np.uint64), return_inverse=True)
    pairs = [np.stack(pair) for pair in near_hashes(unique, bits)]
    i, j = np.concatenate(pairs, axis=1) if pairs else np.zeros((2, 0), np.int64)
    graph: Any = sparse.coo_array((np.ones(len(i)), (i, j)), shape=(len(unique), len(unique)))
    order, start = _runs(sparse.csgraph.connected_components(graph, directed=False)[1][member])
    end = np.r_[start[1:], len(order)]
    for large in np.flatnonzero(end - start >= places):
        rows = order[start[large] : end[large]]
        same = rows[(np.abs(tone[rows] - np.median(tone[rows], axis=0)) <= 3).all(axis=1)]
        copies[same] = _far_apart(lats[same], lons[same], apart_km, places)
    return copies


def _far_apart(lat: Floats, lon: Floats, apart_km: float, places: int) -> bool:
    """Whether so many positions can be picked one after another, each far from all picked before."""
    for _ in range(places):
        if not len(lat):
            return False
        beyond = sphere.great_circle_km(lat[0], lon[0], lat, lon) > apart_km
        lat, lon = lat[beyond], lon[beyond]
    return True


def _grids(lat: Floats, lon: Floats, within_km: float) -> Iterator[Ints]:
    """Codes of cubic cells in four shifted grids; two points within reach share a cell of one grid at least.

    A side is four times the reach and each grid is moved by a quarter of it, so a pair lies across a wall of at most
    one of them in each of the three directions (after Chan, Approximate Nearest Neighbor Queries Revisited, 1998).
    """
    points = sphere.unit_vectors(lat, lon) + 1
    side = 4 * 1.001 * max(within_km, 0.001) / sphere.EARTH_RADIUS_KM
    for shift in range(4):
        x, y, z = (points / side + shift / 4).astype(np.int64).T
        yield (x << 42) ^ (y << 21) ^ z  # a code that stands for two cells gives pairs to compare and no more


def _runs(*keys: Any) -> tuple[Ints, Ints]:
    """An order that brings equal rows of keys together, each in their own order, and where each run begins."""
    given = [key for key in keys if key is not None]
    order = np.lexsort(given)
    fresh = np.ones(len(order), bool)
    fresh[1:] = np.logical_or.reduce([key[order[1:]] != key[order[:-1]] for key in given])
    return order, np.flatnonzero(fresh)


def _expanded(hashes: NDArray[np.uint64], bits: int, groups: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Pairs of photos of one group, from pairs of unique hashes: a thousand equal hashes are searched for once."""
    order, start = _runs(hashes, groups)
    count = np.diff(np.r_[start, len(hashes)])
    unique, of = hashes[order[start]], groups[order[start]]
    twice = np.flatnonzero(count > 1)
    for u, v in itertools.chain([(twice, twice)], near_hashes(unique, bits, of)):
        times = count[u] * count[v]
        ends = np.cumsum(times)
        for begin in range(0, int(times.sum()), MOST_PAIRS):
            flat = np.arange(begin, min(begin + MOST_PAIRS, int(ends[-1])))
            pair = np.searchsorted(ends, flat, side="right")
            step = flat - (ends - times)[pair]
            i = order[start[u[pair]] + step // count[v[pair]]]
            j = order[start[v[pair]] + step % count[v[pair]]]
            once = (u[pair] != v[pair]) | (i < j)
            yield i[once], j[once]


def _codes(place: ArrayLike | None, count: int) -> Ints:
    return np.full(count, -1) if place is None else np.asarray(place, np.int64)
