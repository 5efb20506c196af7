"""Which photos one drive took: as their sequences say, and as clocks and positions do.

A sequence id is the name of an upload. Where there is one, a drive is sequences joined that one car must have taken;
where there is none, a drive is what hangs together in time and space.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from graticule.geo import sphere
from graticule.photos.columns import days, is_empty, joined, seconds, uploader_column, uploaders
from graticule.photos.table import Photos
from graticule.photos.times import read_times

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SAME_DRIVE_KM, SAME_DRIVE_S = 0.1, 10.0  # a car in town goes as far in as long
# Without sequences: minutes apart in one town, or on one spot a little later, so that a drive ends at a gap in time and
# space. Of the pairs of photos that truly share a sequence these find 100, 83 and 100 % in three real tables, and 57,
# 70 and 85 % of the pairs that they make are such. A walk through San Francisco by several cameras is 3 drives, where
# steps between one photo and the next would make 128; tests/test_splits.py.
REACHES = ((10.0, 120.0), (0.1, 600.0))
FEWEST, LARGEST = 5, 0.7  # drives that a split needs, and the share of photos that one of them may hold
MAX_GAP_MINUTES, MAX_STEP_KM = 2.0, 1.0
# Of gaps of 0.5 to 30 minutes and steps of 30 m to 1 km, these found the most pairs of photos that truly share a
# sequence without merging many that do not: 100, 81 and 70 % of the pairs in three real tables; tests/test_splits.py.


def drive_source(photos: Photos) -> str:
    """What :func:`drives` starts from: ``sequence``, or without such a column ``uploader+day``, or ``rebuilt``."""
    if not is_empty(photos, "sequence"):
        return "sequence"
    known = uploader_column(photos) and not is_empty(photos, "captured_at")
    return "uploader+day" if known else "rebuilt"


def drives(photos: Photos) -> Ints:
    """Group codes of drives, shape ``(N,)``, so that no two of them come as near in time and space as one drive would.

    Sequences, where there are any: a drive may have been cut into several, or have been uploaded twice under other
    names, and those that come as near as :func:`drive_points` says are made one. Else what each uploader took on a day.
    Else photos that ``REACHES`` link: two minutes apart in one town, or ten minutes on one spot. Leaving photos out
    never makes one drive of two, so a part of the table shares no more drives with another than the whole said.
    """
    source = drive_source(photos)
    second = None if is_empty(photos, "captured_at") else read_times(photos.frame["captured_at"])["second"].to_numpy()
    if source == "rebuilt":
        if second is None:
            return rebuild_sequences(photos)
        when = seconds(photos)
        unknown = np.isnan(when)
        codes = np.arange(len(photos))
        if unknown.any():  # as they follow one another in the table
            codes[unknown] = len(photos) + rebuild_sequences(photos.take(unknown))
        return _linked(photos, np.unique(codes, return_inverse=True)[1].astype(np.int64), when, REACHES)
    codes = photos.groups("sequence") if source == "sequence" else joined(uploaders(photos), days(photos))
    return codes if second is None else _linked(photos, codes, second, [(SAME_DRIVE_KM, SAME_DRIVE_S)])


def too_few(drive: Ints) -> str:
    """Why these drives, codes of shape ``(N,)``, cannot be split into honest parts; empty where they can."""
    sizes = np.unique(drive, return_counts=True)[1]
    largest = sizes.max() / sizes.sum()
    if len(sizes) >= FEWEST and largest <= LARGEST:
        return ""
    return f"{len(sizes)} drive{'s' if len(sizes) > 1 else ''}, the largest with {largest:.0%} of the photos"


def drive_points(
    lat: ArrayLike, lon: ArrayLike, second: ArrayLike, *, km: float = SAME_DRIVE_KM, s: float = SAME_DRIVE_S
) -> Floats:
    """Points in space and time, shape ``(N, 4)``; two photos no farther apart than 1 count as of one drive.

    The distance is ``sqrt((d / km)² + (t / s)²)``; by default of 100 m and 10 s.
    """
    xyz = sphere.unit_vectors(lat, lon) * (sphere.EARTH_RADIUS_KM / km)  # a chord this short is as its arc
    points: Floats = np.c_[xyz, np.asarray(second, np.float64) / s]
    return points


def _linked(photos: Photos, codes: Ints, second: Floats, reaches: Iterable[tuple[float, float]]) -> Ints:
    """Groups made one where two of their photos are linked, shape ``(N,)``; photos of unknown time link nothing."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rows = np.flatnonzero(~np.isnan(second))
    for km, s in reaches:
        points = drive_points(photos.lat[rows], photos.lon[rows], second[rows], km=km, s=s)
        for i, j, _ in sphere.near_pairs(points, points, 1.0):
            count = int(codes.max()) + 1
            ends = np.divmod(np.unique(codes[rows[i]] * count + codes[rows[j]]), count)
            graph = coo_array((np.ones(len(ends[0])), ends), shape=(count, count))
            codes = connected_components(graph, directed=False)[1].astype(np.int64)[codes]
    return codes


def rebuild_sequences(
    photos: Photos, *, max_gap_minutes: float = MAX_GAP_MINUTES, max_step_km: float = MAX_STEP_KM
) -> Ints:
    """Guess which photos a service would have called one sequence, shape ``(N,)``, from uploader, time and position.

    The photos of an uploader (all photos, where the column is missing) are put in the order of their time; a sequence
    ends at a pause longer than ``max_gap_minutes`` or a jump farther than ``max_step_km``. Photos without a time
    keep the order of the table, and only a jump ends a sequence.
    """
    second, uploader = seconds(photos), uploaders(photos)
    order = np.lexsort((second, uploader))  # stable, NaN last
    here, after = order[:-1], order[1:]
    step_km = sphere.great_circle_km(photos.lat[here], photos.lon[here], photos.lat[after], photos.lon[after])
    pause = second[after] - second[here]
    begins = (uploader[here] != uploader[after]) | (step_km > max_step_km) | (pause > 60 * max_gap_minutes)
    begins |= np.isnan(second[here]) != np.isnan(second[after])
    codes = np.empty(len(photos), np.int64)
    codes[order] = np.cumsum(np.r_[0, begins][: len(photos)])
    return codes
