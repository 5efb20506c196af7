"""Adaptive cells: small where photos are dense, large where they are rare. The classes of the classifier."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from graticule.choices import Keep
from graticule.errors import BadRecipeError
from graticule.geo import s2
from graticule.geo.sphere import Floats, Ints, from_vectors, unit_vectors
from graticule.partition.base import NO_CELL, SPREAD_OF_SIDE, Partition, check_positions

_CHUNK = 1 << 13  # photos at a time, where several numbers are held of each
_BUCKET_BITS = 17  # half a megabyte of buckets
_MIXED = -2  # a bucket with more than one owner


@dataclass(frozen=True, slots=True, eq=False)
class CellPartition(Partition):
    """C cells of S2; they may contain one another (``keep="nested"``).

    Attributes:
        cells: cell ids, shape ``(C,)``, uint64, strictly increasing.
        photos: how many photos lie in each cell, shape ``(C,)``; those in a smaller cell inside it count too.
        lat, lon: spherical mean of these photos, shape ``(C,)``, degrees.
    """

    kind: ClassVar[str] = "s2"
    cells: s2.Cells
    photos: Ints
    lat: Floats
    lon: Floats
    _owners: "Owners" = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._check(cells="uint64")
        if not s2.are_valid(self.cells).all():
            bad = self.cells[~s2.are_valid(self.cells)][0]
            raise ValueError(f"{bad:#018x} is not the id of an S2 cell")
        if (self.cells[:-1] >= self.cells[1:]).any():
            raise ValueError("cells must be sorted and must not repeat")
        object.__setattr__(self, "_owners", Owners.of(self.cells))

    @classmethod
    def fit(
        cls,
        lat: ArrayLike,
        lon: ArrayLike,
        *,
        split_above: int,
        drop_below: int,
        max_level: int = s2.MAX_LEVEL,
        keep: Keep = "planet",
    ) -> "CellPartition":
        """Grow cells from the positions of N photos.

        ``planet`` (Weyand et al., "PlaNet", ECCV 2016): start from the six faces; split every cell with more
        than ``split_above`` photos into its four children, down to ``max_level``; drop cells with fewer than
        ``drop_below``. The cells are disjoint.

        ``nested`` (report A's code): keep every cell of any level down to ``max_level`` that holds between
        ``drop_below`` and ``split_above`` photos, both included. A photo belongs to the smallest kept cell
        around it, so a cell all of whose photos lie in smaller kept cells is a class without photos.

        Args:
            lat, lon: positions of the training photos, shape ``(N,)``, degrees.
            split_above: the most photos a cell may hold, unless it is of ``max_level``.
            drop_below: the fewest photos a cell may hold.
            max_level: the smallest cells, 0 (a face, 9,220 km wide) to 30 (1 cm).
            keep: which cells to keep, as above.

        Raises:
            BadRecipeError: a setting is impossible or contradicts another, or no cell holds enough photos.
            BadCoordinateError: a position is off the globe.
            BadTableError: there are no photos.
        """
        check_settings(split_above, drop_below, max_level, keep)
        lats, lons = check_positions(lat, lon)
        leaves = s2.leaf_cells(lats, lons)
        count = partial(_counts, np.sort(leaves))
        cells, photos = grow_counted(count, split_above, drop_below, max_level, keep)
        if not len(cells):
            _, any_photos = grow_counted(count, split_above, 1, max_level, keep)
            raise nothing_kept(len(leaves), any_photos.max(initial=0), split_above, drop_below)
        del count
        order = np.argsort(cells)
        mean_lat, mean_lon = _means(lats, lons, leaves, cells[order])
        return cls(cells[order], photos[order], mean_lat, mean_lon)

    def assign(self, lat: ArrayLike, lon: ArrayLike) -> Ints:
        """Row of the smallest cell around each point, or ``NO_CELL``; shape of the input.

        Raises:
            BadCoordinateError: a point is off the globe.
        """
        return self.assign_leaves(s2.leaf_cells(lat, lon))

    def assign_leaves(self, leaves: s2.Cells) -> Ints:
        """As :meth:`assign`, for points already mapped to level-30 cells."""
        return self._owners.of_leaves(leaves)

    def around(self) -> s2.Cells:
        """The cells themselves."""
        return self.cells

    @property
    def level(self) -> Ints:
        """Level of each cell, 0 to 30."""
        return s2.level_of(self.cells)

    @property
    def names(self) -> list[str]:
        """S2's token of each cell: hexadecimal text, since JSON numbers lose digits above 2**53."""
        return s2.to_tokens(self.cells)

    @property
    def _called(self) -> str:
        return "adaptive S2 cell" + "s" * (len(self) != 1)

    @property
    def center_lat(self) -> Floats:
        """Latitude of the middle of each cell, degrees."""
        return s2.centers(self.cells)[0]

    @property
    def center_lon(self) -> Floats:
        """Longitude of the middle of each cell, degrees."""
        return s2.centers(self.cells)[1]

    def outlines(self) -> tuple[Floats, Floats]:
        """The border of each cell, shape ``(C, P)``, with enough points that a flat map bends as the edges do."""
        coarsest = int(self.level.min())
        # The edge of a cell is a great circle, which a flat map bends; small cells do not show it.
        return s2.outlines(self.cells, points_per_edge=16 if coarsest < 4 else 4 if coarsest < 9 else 1)

    def spread_km(self) -> Floats:
        """Distance to expect from a photo anywhere in a cell to the cell's middle, shape ``(C,)``: a square's."""
        spread: Floats = SPREAD_OF_SIDE * np.sqrt(s2.areas_km2(self.cells))
        return spread

    def summary(self, total: int | None = None) -> dict[str, Any]:
        """As of every partition, with the levels and the least and greatest side."""
        levels, counts = np.unique(self.level, return_counts=True)
        side_km = np.sqrt(s2.areas_km2(self.cells))
        return Partition.summary(self, total) | {
            "levels": dict(zip(map(str, levels.tolist()), counts.tolist(), strict=True)),
            "side_km": {"min": float(side_km.min()), "max": float(side_km.max())},
        }

    def _photos_inside(self) -> int:
        return int(self.photos[_outermost(self.cells)].sum())

    def _to_columns(self) -> dict[str, Any]:
        """``cell`` (uint64), ``photos``, ``lat``, ``lon``; the others follow from the cell, for other programs."""
        center_lat, center_lon = s2.centers(self.cells)
        return {
            "cell": self.cells,
            "token": self.names,
            "level": self.level,
            "photos": self.photos,
            "lat": self.lat,
            "lon": self.lon,
            "center_lat": center_lat,
            "center_lon": center_lon,
        }

    @classmethod
    def _from_columns(cls, columns: dict[str, Any], _: dict[str, str]) -> "CellPartition":
        return cls(*(columns[name] for name in ("cell", "photos", "lat", "lon")))


@dataclass(frozen=True, slots=True)
class Owners:
    """The curve of leaf ids, cut where the smallest cell around changes: S pieces, each with its owner.

    A search among thousands of cuts is slow for leaves in no order. So the curve between the first and the
    last cut is also divided into equal buckets: a bucket within one piece answers at once, and only leaves in
    the others are searched for.
    """

    cuts: s2.Cells  # first leaf of every piece but the first, shape (S - 1,), increasing
    rows: Ints  # owner of each piece, shape (S,)
    buckets: NDArray[np.int32]  # owner of each bucket, or _MIXED; the last lies behind all cuts
    shift: np.uint64  # a bucket holds 2**shift leaf ids

    @classmethod
    def of(cls, cells: s2.Cells) -> "Owners":
        first, after = s2.range_min(cells), _after(cells)
        cuts = np.unique(np.concatenate([first, after]))
        rows = np.full(len(cuts) + 1, NO_CELL, np.int64)
        level = s2.level_of(cells)
        for depth in np.unique(level):  # smaller cells come later and overrule
            at = np.flatnonzero(level == depth)
            start, stop = np.searchsorted(cuts, first[at]), np.searchsorted(cuts, after[at])
            rows[_runs(start, stop) + 1] = np.repeat(at, stop - start)

        span = int(cuts[-1] - cuts[0])
        shift = np.uint64(max(0, span.bit_length() - _BUCKET_BITS))
        bucket = np.arange((span >> int(shift)) + 2, dtype=np.uint64)
        begin = cuts[0] + (bucket << shift)
        end = begin + ((np.uint64(1) << shift) - np.uint64(1))
        piece = np.searchsorted(cuts, begin, side="right")
        pure = piece == np.searchsorted(cuts, end, side="right")
        return cls(cuts, rows, np.where(pure, rows[piece], _MIXED).astype(np.int32), shift)

    def of_leaves(self, leaves: s2.Cells) -> Ints:
        result = np.empty(leaves.shape, np.int64)
        flat_leaves, flat_result = leaves.reshape(-1), result.reshape(-1)
        for start in range(0, leaves.size, _CHUNK):
            some = slice(start, start + _CHUNK)
            self._of_chunk(flat_leaves[some], flat_result[some])
        return result

    def _of_chunk(self, leaves: s2.Cells, result: Ints) -> None:
        bucket = leaves - self.cuts[0]  # what lies before the first cut wraps around, to behind the last
        bucket >>= self.shift
        np.minimum(bucket, np.uint64(len(self.buckets) - 1), out=bucket)
        np.copyto(result, self.buckets.take(bucket.view(np.int64)))
        mixed = np.flatnonzero(result == _MIXED)
        result[mixed] = self.rows[np.searchsorted(self.cuts, leaves[mixed], side="right")]


def _after(cells: s2.Cells) -> s2.Cells:
    """The first leaf id behind each cell: leaf ids are odd."""
    return s2.range_max(cells) + np.uint64(2)


def _runs(start: Ints, stop: Ints) -> Ints:
    """``start[0], start[0] + 1, ..., stop[0] - 1, start[1], ...``"""
    sizes = stop - start
    return np.arange(sizes.sum()) + np.repeat(stop - np.cumsum(sizes), sizes)


def check_settings(split_above: int, drop_below: int, max_level: int, keep: str) -> None:
    if keep not in get_args(Keep):
        raise BadRecipeError(f"keep={keep!r} is unknown; valid are {' and '.join(map(repr, get_args(Keep)))}")
    if split_above < 1:
        raise BadRecipeError(f"split_above={split_above} would split for ever; give at least 1")
    if drop_below < 1:
        raise BadRecipeError(f"drop_below={drop_below} would keep cells without photos; give at least 1")
    if drop_below > split_above:
        raise BadRecipeError(
            f"drop_below={drop_below} exceeds split_above={split_above}, so that cells would be split and "
            f"their parts dropped; choose drop_below at most {split_above}"
        )
    if not 0 <= max_level <= s2.MAX_LEVEL:
        raise BadRecipeError(f"max_level={max_level} does not exist; S2 levels run from 0 to {s2.MAX_LEVEL}")


def _counts(in_order: s2.Cells, cells: s2.Cells) -> Ints:
    """How many of the sorted leaves lie in each cell: a cell is an unbroken run of them."""
    start = np.searchsorted(in_order, s2.range_min(cells))
    return np.searchsorted(in_order, s2.range_max(cells), side="right") - start


def grow_counted(
    count: Callable[[s2.Cells], Ints], split_above: int, drop_below: int, max_level: int, keep: Keep
) -> tuple[s2.Cells, Ints]:
    """The cells to keep, in no order, and their photos; ``count`` tells how many photos lie in each of some cells."""
    return (_planet if keep == "planet" else _nested)(count, split_above, drop_below, max_level)


def _planet(
    count: Callable[[s2.Cells], Ints], split_above: int, drop_below: int, max_level: int
) -> tuple[s2.Cells, Ints]:
    kept = []
    cells = s2.face_cells()
    for level in range(max_level + 1):
        photos = count(cells)
        split = (photos > split_above) & (level < max_level)
        keep = ~split & (photos >= drop_below)
        kept.append((cells[keep], photos[keep]))
        cells = s2.children(cells[split]).ravel()
    return np.concatenate([c for c, _ in kept]), np.concatenate([p for _, p in kept])


def _nested(
    count: Callable[[s2.Cells], Ints], split_above: int, drop_below: int, max_level: int
) -> tuple[s2.Cells, Ints]:
    kept = []
    cells = s2.face_cells()
    for level in range(max_level + 1):
        photos = count(cells)
        keep = (photos >= drop_below) & (photos <= split_above)
        kept.append((cells[keep], photos[keep]))
        if level < max_level:
            cells = s2.children(cells[photos >= drop_below]).ravel()  # a part never holds more than the whole
    return np.concatenate([c for c, _ in kept]), np.concatenate([p for _, p in kept])


def nothing_kept(photos_in_all: int, fullest: int, split_above: int, drop_below: int) -> BadRecipeError:
    advice = (
        f"the fullest holds {fullest}, so drop_below={fullest} would give at least one cell"
        if fullest
        else f"each holds more than split_above={split_above}; raise split_above or max_level"
    )
    return BadRecipeError(f"of {photos_in_all} photos no cell holds at least drop_below={drop_below}: {advice}")


def _means(lat: Floats, lon: Floats, leaves: s2.Cells, cells: s2.Cells) -> tuple[Floats, Floats]:
    """Spherical mean of the photos in each of the sorted cells, degrees: sums by piece, then by cell."""
    owners = Owners.of(cells)
    return from_vectors(means_of_sums(sums_by_piece(lat, lon, leaves, owners), owners, cells))


def sums_by_piece(lat: Floats, lon: Floats, leaves: s2.Cells, owners: Owners) -> Floats:
    """Sum of the unit vectors of the photos in each piece of the curve, shape ``(3, S)``."""
    sums = np.zeros((3, len(owners.rows)))
    at_a_time = max(_CHUNK, len(owners.rows))  # so that adding up the sums takes no longer than making them
    for start in range(0, len(leaves), at_a_time):
        some = slice(start, start + at_a_time)
        piece = np.searchsorted(owners.cuts, leaves[some], side="right")
        for total, side in zip(sums, unit_vectors(lat[some], lon[some]).T, strict=True):
            total += np.bincount(piece, side, minlength=len(total))
    return sums


def means_of_sums(sums: Floats, owners: Owners, cells: s2.Cells) -> Floats:
    """Sum of the unit vectors of the photos in each of the sorted cells, shape ``(C, 3)``."""
    # A cell is an unbroken run of pieces. `reduceat` sums from each index to the next: every other is a cell.
    first = np.searchsorted(owners.cuts, s2.range_min(cells)) + 1
    after = np.searchsorted(owners.cuts, _after(cells)) + 1
    runs = np.stack([first, after], axis=1).ravel()
    closed = np.concatenate([sums, np.zeros((3, 1))], axis=1)  # so that `after` may be the end
    found: Floats = np.add.reduceat(closed, runs, axis=1)[:, ::2].T
    return found


def _outermost(cells: s2.Cells) -> NDArray[np.bool_]:
    """Which of the sorted cells lie in no other of them."""
    first, last = s2.range_min(cells), s2.range_max(cells)
    order = np.lexsort((s2.level_of(cells), first))  # a cell comes right before the cells inside it
    reach = np.maximum.accumulate(last[order])
    outer = np.ones(len(cells), np.bool_)
    outer[order[1:]] = first[order[1:]] > reach[:-1]
    return outer
