"""What the clock and the positions of a drive say about each other."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from graticule.geo import sphere

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def off_track(sequence: ArrayLike, time_s: ArrayLike, lat: ArrayLike, lon: ArrayLike, *, speed_km_h: float) -> Bools:
    """Which frames stand off their track: a leap leads to them, and another away. Shape ``(N,)``.

    A single leap in the midst of a track does not say which half of it is wrong, and tells of no frame. Where most
    of a sequence leaps, more than twice, its clock is at fault and not its positions.

    Args:
        sequence: group codes, shape ``(N,)``.
        time_s: seconds, shape ``(N,)``; NaN is unknown. Clocks count whole seconds, so two frames are at least one
            second apart.
        lat, lon: degrees, shape ``(N,)``.
        speed_km_h: what is faster is a leap.
    """
    order, group, time, lats, lons = _in_order(sequence, time_s, lat, lon)
    off = np.zeros(np.size(time_s), bool)
    if not len(order):
        return off
    km = sphere.great_circle_km(lats[:-1], lons[:-1], lats[1:], lons[1:])
    linked = np.diff(group) == 0
    leap = linked & (km > speed_km_h * np.maximum(np.diff(time), 1.0) / 3600)
    to, away, calm = np.r_[False, leap], np.r_[leap, False], linked & ~leap
    # The first and the last frame have one neighbour; the leap is theirs where that one goes on calmly.
    first = ~np.r_[False, linked] & away & np.r_[calm, False, False][1:]
    last = ~np.r_[linked, False] & to & np.r_[False, False, calm][:-1]
    codes = np.unique(group, return_inverse=True)[1]
    leaps, links = (np.bincount(codes[1:], some, codes.max() + 1) for some in (leap, linked))
    off[order] = (to & away | first | last) & ((leaps <= 2) | (leaps * 2 <= links))[codes]
    return off


def standing_still(
    group: ArrayLike,
    time_s: ArrayLike,
    lat: ArrayLike,
    lon: ArrayLike,
    *,
    more_than: int,
    within_km: float,
    within_s: float,
) -> Bools:
    """Which photos repeat the first of a run taken on one spot, shape ``(N,)``.

    A run is more than so many photos of one group in a row, each within a distance and a time of the first.

    Args:
        group: codes of who took them, shape ``(N,)``.
        time_s: seconds, shape ``(N,)``; NaN is unknown.
        lat, lon: degrees, shape ``(N,)``.
    """
    order, groups, time, lats, lons = _in_order(group, time_s, lat, lon)
    still = np.zeros(np.size(time_s), bool)
    ends = np.searchsorted(groups, groups, side="right")
    start = 0
    while start < len(order):
        end = start + int(np.searchsorted(time[start : ends[start]], time[start] + within_s, side="right"))
        far = sphere.great_circle_km(lats[start], lons[start], lats[start:end], lons[start:end]) > within_km
        length = int(far.argmax()) if far.any() else end - start
        if length > more_than:
            still[order[start + 1 : start + length]] = True
        start += length
    return still


def _in_order(
    group: ArrayLike, time_s: ArrayLike, lat: ArrayLike, lon: ArrayLike
) -> tuple[Ints, Ints, Floats, Floats, Floats]:
    """Row numbers of the photos whose time is known, by group and time; and those four columns in that order."""
    groups, time = np.asarray(group, np.int64), np.asarray(time_s, np.float64)
    order = np.lexsort((time, groups))
    order = order[~np.isnan(time[order])]
    return order, groups[order], time[order], np.asarray(lat, np.float64)[order], np.asarray(lon, np.float64)[order]
