"""What lies beneath the maps of a town: streets, water, and as many of their names as fit side by side."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

if TYPE_CHECKING:
    from graticule.reporting.maps import Frame

Floats = NDArray[np.float64]
STREET, PLACE = 5.0, 7.5  # font sizes, points: legible on a page of A4, and lighter than the map's own words
WIDE = 0.55  # of a letter against its font size, in the mean
STEP = 8.0  # points from one sample along a street to the next
PER_INCH = 1.2  # streets named on each square inch, at most


class Name(NamedTuple):
    """Words for a map: along a line, or at a point; degrees.

    Attributes:
        lat, lon: with a NaN after each line; of a place a single point.
        rank: of a place, 0 for a city and more for smaller ones; None for a street.
    """

    text: str
    lat: Floats
    lon: Floats
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class Basemap:
    """Degrees; lines have a NaN after each.

    Attributes:
        lat, lon: streets.
        water: areas of any number of rings ``(P, 2)`` of lon, lat, the first outside and the others holes in it.
        creeks: latitudes and longitudes of rivers that are drawn as lines.
    """

    lat: Floats
    lon: Floats
    water: Sequence[Sequence[Floats]] = ()
    creeks: tuple[Floats, Floats] = (np.empty(0), np.empty(0))
    names: Sequence[Name] = ()


def write_names(axes: Axes, frame: "Frame", names: Sequence[Name], *, ink: str, paper: str) -> None:
    """Write places first, then the longest streets, and none over another."""
    width = (axes.get_figure(root=True).get_figwidth() - 1.6) * 72  # type: ignore[union-attr]
    scale = width / (frame.east - frame.west)
    height = (frame.north - frame.south) * scale * frame.stretch
    most = PER_INCH * width * height / 72**2
    taken = np.empty((0, 2))
    for name, x, y in sorted(_spots(frame, names, scale), key=lambda spot: _first(*spot)):
        size = STREET if name.rank is None else PLACE - min(name.rank, 4) * 0.5
        if name.rank is None and most < 1:
            break
        length = len(name.text) * WIDE * size
        found = _along(x, y, length) if name.rank is None else (float(x[0]), float(y[0]), 0.0)
        if found is None:
            continue
        here = _cover(*found, length, size)
        if (here < 0).any() or (here > (width, height)).any():
            continue
        if len(taken) and (np.hypot(*(here[:, None] - taken[None]).transpose(2, 0, 1)) < 1.3 * size).any():
            continue
        taken = np.concatenate([taken, here])
        most -= name.rank is None
        middle = found[0] / scale + frame.west, found[1] / scale / frame.stretch + frame.south
        axes.annotate(
            name.text, middle, rotation=found[2], rotation_mode="anchor", ha="center", va="center", fontsize=size,
            color=ink, fontweight="bold" if name.rank == 0 else "normal", zorder=5, gid="name", annotation_clip=True,
            path_effects=[withStroke(linewidth=1.7, foreground=paper)],
        )  # fmt: skip


def _spots(frame: "Frame", names: Sequence[Name], scale: float) -> list[tuple[Name, Floats, Floats]]:
    """The longest part of each name within the frame, in points from its corner."""
    spots = []
    for name in names:
        x = (frame.x(name.lon) - frame.west) * scale
        y = (name.lat - frame.south) * scale * frame.stretch
        wide, high = (frame.east - frame.west) * scale, (frame.north - frame.south) * scale * frame.stretch
        runs = [
            _within(*_even(x[part], y[part]), wide, high) for part in _parts(x)
        ] if name.rank is None else [(x[:1], y[:1])]  # fmt: skip
        best = max(runs, key=lambda run: len(run[0]), default=None)
        if best is not None and len(best[0]):
            spots.append((name, *best))
    return spots


def _first(name: Name, x: Floats, _: Floats) -> tuple[int, int, str]:
    return (0, name.rank, name.text) if name.rank is not None else (1, -len(x), name.text)


def _parts(x: Floats) -> list[NDArray[np.int64]]:
    rows = np.split(np.arange(len(x)), np.flatnonzero(np.isnan(x)))
    return [kept for part in rows if len(kept := part[~np.isnan(x[part])]) > 1]


def _even(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Points of a line at even steps."""
    along = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(x), np.diff(y)))])
    at = np.linspace(0, along[-1], int(np.clip(along[-1] / STEP, 1, 5000)) + 1)
    return np.interp(at, along, x), np.interp(at, along, y)


def _within(x: Floats, y: Floats, wide: float, high: float) -> tuple[Floats, Floats]:
    """The longest run of points in the frame."""
    inside = (x >= 0) & (x <= wide) & (y >= 0) & (y <= high)
    runs = np.split(np.arange(len(x)), np.flatnonzero(np.diff(inside.astype(int))) + 1)
    best = max((run for run in runs if inside[run[0]]), key=len, default=runs[0][:0])
    return x[best], y[best]


def _along(x: Floats, y: Floats, length: float) -> tuple[float, float, float] | None:
    """Middle and angle in degrees of words along a line; None where it is too short or too crooked."""
    half = math.ceil(length / STEP / 2) + 1
    middle = len(x) // 2
    if middle - half < 0 or middle + half >= len(x):
        return None
    east, north = x[middle + half] - x[middle - half], y[middle + half] - y[middle - half]
    if math.hypot(east, north) < 0.95 * 2 * half * STEP * 0.98:
        return None
    angle = math.degrees(math.atan2(north, east))
    return float(x[middle]), float(y[middle]), (angle + 90) % 180 - 90


def _cover(x: float, y: float, angle: float, length: float, size: float) -> Floats:
    """Points that words cover, a letter's height apart."""
    steps = np.linspace(-length / 2, length / 2, max(2, math.ceil(length / size)))
    turn = math.radians(angle)
    return np.column_stack([x + steps * math.cos(turn), y + steps * math.sin(turn)])
