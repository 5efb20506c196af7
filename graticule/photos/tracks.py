"""What the clock and the positions of a drive say about each other."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from graticule.geo import sphere

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
GAP_S = 300  # longer gaps of a track are not bridged


class Track(NamedTuple):
    """Where something was and when; all of shape ``(N,)``, by time.

    Attributes:
        second: of any one clock.
        lat, lon: degrees.
    """

    second: Floats
    lat: Floats
    lon: Floats

    def at(self, second: ArrayLike) -> tuple[Floats, Floats, Floats]:
        """Latitude, longitude and how far off they may be in kilometres at other times, on the way between two points.

        NaN before the first point, after the last, and in gaps of more than :data:`GAP_S`. Half the distance between
        the two points bounds the error where the way between them is straight; on a point itself it is nought.
        """
        times = np.asarray(second, np.float64)
        after = np.minimum(np.searchsorted(self.second, times), len(self.second) - 1)
        exact = self.second[after] == times
        before = np.where(exact, after, np.maximum(after - 1, 0))
        gap = self.second[after] - self.second[before]
        share = np.where(exact, 0.0, (times - self.second[before]) / np.where(gap > 0, gap, 1.0))
        known = exact | ((gap > 0) & (gap <= GAP_S) & (share >= 0) & (share <= 1))
        east = (self.lon[after] - self.lon[before] + 180) % 360 - 180
        lat = self.lat[before] + share * (self.lat[after] - self.lat[before])
        lon = (self.lon[before] + share * east + 180) % 360 - 180
        apart = sphere.great_circle_km(self.lat[before], self.lon[before], self.lat[after], self.lon[after])
        return tuple(np.where(known, each, np.nan) for each in (lat, lon, apart / 2))  # type: ignore[return-value]


def spaced(lat: ArrayLike, lon: ArrayLike, every_km: float) -> Ints:
    """Rows of points along a way that are at least so far from the one chosen before; the first is one.

    The distance is measured straight from point to point, so that the jitter of a receiver that stands still adds up
    to nothing. NaN is never chosen.
    """
    lats, lons = np.asarray(lat, np.float64), np.asarray(lon, np.float64)
    rows = np.flatnonzero(~np.isnan(lats))
    chosen = list(rows[:1])
    start = 1
    while start < len(rows):  # in stretches, since the next one is near
        some = rows[start : start + 256]
        far = sphere.great_circle_km(lats[chosen[-1]], lons[chosen[-1]], lats[some], lons[some]) >= every_km
        if far.any():
            chosen.append(some[far.argmax()])
            start += int(far.argmax()) + 1
        else:
            start += len(some)
    return np.array(chosen, np.int64)


def headings(track: Track, second: ArrayLike, *, around_km: float = 0.003) -> Floats:
    """Where something on a track goes, degrees clockwise from north in [0, 360).

    From where it was two seconds before to where it is two after; NaN where that is less than ``around_km``, since a
    receiver's jitter has no course.
    """
    times = np.asarray(second, np.float64)
    ends = [np.clip(times + step, track.second[0], track.second[-1]) for step in (-2.0, 2.0)]
    (lat_a, lon_a, _), (lat_b, lon_b, _) = (track.at(end) for end in ends)
    course = sphere.bearing(lat_a, lon_a, lat_b, lon_b)
    return np.where(sphere.great_circle_km(lat_a, lon_a, lat_b, lon_b) >= around_km, course, np.nan)


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
    # Of most photos the one so many later tells already that no run begins there.
    starts = np.flatnonzero(np.arange(more_than, len(order) + more_than) < ends)
    last = starts + more_than
    near = time[last] <= time[starts] + within_s
    near &= sphere.great_circle_km(lats[starts], lons[starts], lats[last], lons[last]) <= within_km
    done = 0
    for start in starts[near].tolist():
        if start < done:
            continue
        end = start + int(np.searchsorted(time[start : ends[start]], time[start] + within_s, side="right"))
        far = sphere.great_circle_km(lats[start], lons[start], lats[start:end], lons[start:end]) > within_km
        length = int(far.argmax()) if far.any() else end - start
        if length > more_than:
            still[order[start + 1 : start + length]] = True
            done = start + length
    return still


def _in_order(
    group: ArrayLike, time_s: ArrayLike, lat: ArrayLike, lon: ArrayLike
) -> tuple[Ints, Ints, Floats, Floats, Floats]:
    """Row numbers of the photos whose time is known, by group and time; and those four columns in that order."""
    groups, time = np.asarray(group, np.int64), np.asarray(time_s, np.float64)
    order = np.lexsort((time, groups))
    order = order[~np.isnan(time[order])]
    return order, groups[order], time[order], np.asarray(lat, np.float64)[order], np.asarray(lon, np.float64)[order]
