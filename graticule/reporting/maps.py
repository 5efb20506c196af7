"""The flat map: which part of the Earth a figure shows, and how cells, borders and a scale lie on it.

The projection is plate carrée: x is longitude, y is latitude, and the axes are stretched so that a kilometre
is equally long both ways in the middle of the frame. ``x`` runs on through the antimeridian (181 is 179° W),
so that a frame around Fiji is small and nothing is torn; labels are wrapped back for the reader.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.patches import PathPatch
from matplotlib.path import Path as MplPath
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import ScaledTranslation, Transform, blended_transform_factory
from numpy.typing import ArrayLike, NDArray

from graticule.geo import borders
from graticule.geo.sphere import EARTH_RADIUS_KM
from graticule.reporting.labels import Basemap, write_names

Floats = NDArray[np.float64]
Point = tuple[float, float]  # lat, lon
WIDTH = 7.0  # inches of every figure; at this width 10-point text stays legible on a phone
KM_PER_DEGREE = math.pi * EARTH_RADIUS_KM / 180  # along a meridian
WHOLE_TURN_ABOVE = 200  # degrees of longitude; wider data gets the customary map from 180° W to 180° E
WATER = "#9CC3E5"
BORDERS_ABOVE_KM = 40  # 1:50m lines are off by up to a kilometre and would mislead in a city
SCALE_BELOW_KM = 3000  # on a wider map a kilometre is not equally long everywhere


@dataclass(frozen=True, slots=True)
class Frame:
    """A part of the flat map, degrees; ``west`` may lie below -180 or ``east`` above 180, not both."""

    west: float
    east: float
    south: float
    north: float

    def x(self, lon: ArrayLike) -> Floats:
        """Longitudes as map x: the copy of each that is nearest to the middle of the frame."""
        middle = (self.west + self.east) / 2
        return middle + _within_half_turn(np.asarray(lon, np.float64) - middle)

    @property
    def stretch(self) -> float:
        """How many degrees of longitude are as long as one of latitude, in the middle of the frame."""
        return 1 / _shrink((self.south + self.north) / 2)

    @property
    def width_km(self) -> float:
        return (self.east - self.west) / self.stretch * KM_PER_DEGREE

    @property
    def height_km(self) -> float:
        return (self.north - self.south) * KM_PER_DEGREE


def frame_around(lat: ArrayLike, lon: ArrayLike, *, margin: float = 0.05, least_km: float = 0.2) -> Frame:
    """The smallest good-looking frame that holds all points.

    It starts after the largest gap in longitude: points on both sides of the antimeridian lie side by side.

    Args:
        margin: share of the width and height left free on each side.
        least_km: a frame is at least this wide and high.
    """
    lats, lons = np.ravel(np.asarray(lat, np.float64)), np.ravel(np.asarray(lon, np.float64))
    turned = np.sort(lons % 360)
    gaps = np.diff(turned, append=turned[0] + 360)
    widest = int(gaps.argmax())
    west = float(_within_half_turn(turned[(widest + 1) % len(turned)]))
    span = 360 - float(gaps[widest])
    if span > WHOLE_TURN_ABOVE:
        west, span = -180.0, 360.0
    south, north = lats.min(), lats.max()

    # A very flat frame is hard to read, and a tall one fills more than a page, so the short side grows.
    shrink = _shrink((south + north) / 2)
    least_deg = least_km / KM_PER_DEGREE
    wide, high = max(span * shrink, least_deg), max(north - south, least_deg)
    wide, high = (1 + 2 * margin) * max(wide, 0.9 * high), (1 + 2 * margin) * max(high, wide / 2)
    half = min(wide / shrink, 360) / 2
    middle = west + span / 2
    south, north = (south + north - high) / 2, (south + north + high) / 2
    return Frame(float(middle - half), float(middle + half), float(max(south, -90)), float(min(north, 90)))


def rings(lat: Sequence[Floats] | Floats, lon: Sequence[Floats] | Floats) -> list[Floats]:
    """Cell outlines as polygons ``(P, 2)`` of x and y on the flat map, each in one piece.

    Args:
        lat, lon: C outlines of any number of points, degrees, counter-clockwise, as of
            :meth:`graticule.partition.Partition.outlines`.
    """
    return [_ring(*outline) for outline in zip(lat, lon, strict=True)]


def copies(polygons: Sequence[Floats], frame: Frame) -> tuple[list[Floats], NDArray[np.int64]]:
    """The polygons as seen in a frame, and which of ``polygons`` each of them is.

    A polygon that leaves a whole-Earth frame on one side is drawn once more, a full turn away, where it
    enters on the other; the axes clip both.
    """
    placed, rows = [], []
    for row, polygon in enumerate(polygons):
        low, high = polygon[:, 0].min(), polygon[:, 0].max()
        for turns in range(math.ceil((frame.west - high) / 360), math.floor((frame.east - low) / 360) + 1):
            placed.append(np.add(polygon, (360.0 * turns, 0.0)))
            rows.append(row)
    return placed, np.array(rows, np.int64)


def draw_base(axes: Axes, frame: Frame, *, ink: str, paper: str, streets: Basemap | None = None) -> None:
    """Set the frame, and draw borders or, close up, streets, degrees along the edges, and a scale where one holds.

    Args:
        streets: what a map of a town shows, and no farther off; a line of one point is drawn as a dot.
    """
    axes.set(xlim=(frame.west, frame.east), ylim=(frame.south, frame.north), aspect=frame.stretch, facecolor=paper)
    if frame.width_km > BORDERS_ABOVE_KM:
        # Close up, cells are large and lines few: a rim keeps a dark line visible on a dark cell.
        rim = [withStroke(linewidth=1.8, foreground=paper)] if frame.width_km < SCALE_BELOW_KM else []
        for kind, width in (("coast", 0.6), ("country", 0.6), ("state", 0.35)):
            lat, lon = borders.lines(kind)
            x = frame.x(lon)
            seams = np.flatnonzero(np.abs(np.diff(x)) > 180) + 1
            axes.plot(
                np.insert(x, seams, np.nan),
                np.insert(lat, seams, np.nan),
                color=ink,
                lw=width * _smaller(axes),
                zorder=3,
                gid=kind,
                path_effects=rim,
            )
    elif streets is not None:
        lakes = [
            PathPatch(
                MplPath.make_compound_path(*(MplPath(_on(frame, ring), closed=True) for ring in rings)),
                facecolor=WATER, edgecolor="none", alpha=0.6, zorder=2.2, gid="water",
            )
            for rings in streets.water
        ]  # fmt: skip
        for lake in lakes:
            axes.add_patch(lake)
        creeks, thin = streets.creeks, _smaller(axes)
        axes.plot(frame.x(creeks[1]), creeks[0], color=WATER, lw=1.5 * thin, zorder=2.3, gid="water")
        lat, lon = streets.lat, streets.lon
        # Over the cells, so faint that they are seen through it.
        rim = [withStroke(linewidth=1.6 * _smaller(axes), foreground=paper)]
        look: dict[str, Any] = {"color": ink, "lw": 0.7 * _smaller(axes), "alpha": 0.55, "path_effects": rim}
        axes.plot(frame.x(lon), lat, zorder=2.5, gid="streets", **look)
        gap = np.isnan(np.concatenate([[np.nan], lat, [np.nan]]))
        alone = ~gap[1:-1] & gap[:-2] & gap[2:]
        axes.plot(frame.x(lon[alone]), lat[alone], ".", color=ink, ms=4 * _smaller(axes), alpha=0.8, mew=0, zorder=2.5)
        write_names(axes, frame, streets.names, ink="#222222" if paper == "white" else "#EDEDF2", paper=paper)
    _label_degrees(axes, frame)
    if frame.width_km < SCALE_BELOW_KM:
        _draw_scale(axes, frame)


def scale_km(width_km: float) -> float:
    """The longest round length (1, 2 or 5 times a power of ten) below a quarter of a map's width."""
    power = 10.0 ** math.floor(math.log10(width_km / 4))
    return max(factor * power for factor in (1, 2, 5) if factor * power <= width_km / 4)


def label_km(km: float) -> str:
    """A round distance for a scale or an axis: ``50 m``, ``2 km``."""
    return f"{km * 1000:,.6g} m" if km < 0.9995 else f"{km:,.6g} km"


def axes_on(frame: Frame, width: float = WIDTH) -> tuple[Figure, Axes]:
    """A figure of its own, as high as the frame needs, with room for a colour bar at the right."""
    height = (width - 1.6) * frame.height_km / frame.width_km + 0.9
    figure = Figure(figsize=(width, height), layout="compressed", facecolor="white")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def mark(axes: Axes, frame: Frame, truth: Point | None, guess: Point | None) -> None:
    """Mark the true position (red dot) and the best guess (white cross, smaller, as it may lie on it)."""
    if truth and guess:
        x, y = frame.x([truth[1], guess[1]]), [truth[0], guess[0]]
        axes.plot(x, y, "k-", lw=2.4, zorder=7)
        axes.plot(x, y, "w--", lw=1.2, zorder=7)
    small = _smaller(axes)
    for name, point, marker, colour, edge, size in (
        ("truth", truth, "o", "#E8112D", "white", 12 * small),
        ("best guess", guess, "X", "white", "black", 10 * small),
    ):
        if point:
            x = frame.x([point[1]])
            axes.plot(x, [point[0]], marker, color=colour, mec=edge, mew=small, ms=size, ls="", zorder=8, label=name)
    if truth or guess:
        keys_below(axes)


def keys_below(axes: Axes) -> Legend:
    """The legend in a row beneath the map, where it hides no part of it: right of the scale, or below it."""
    row = 0 if _smaller(axes) == 1 else 1
    return axes.legend(
        loc="center right", bbox_to_anchor=(1, 0), bbox_transform=_beneath(axes, row), borderaxespad=0, ncols=2,
        columnspacing=0.9, handletextpad=0.4, fontsize=9, frameon=False,
    )  # fmt: skip


def colour_bar(figure: Figure, axes: Axes, mappable: Any, label: str, text: Any = None) -> None:
    """Explain the colours; ``text`` is a matplotlib formatter where plain numbers will not do."""
    bar = figure.colorbar(mappable, ax=axes, pad=0.02, aspect=25)
    bar.set_label(label, fontsize=9)
    bar.ax.tick_params(labelsize=8)
    if isinstance(mappable.norm, LogNorm):
        low, high = mappable.get_clim()
        narrow = high < 100 * low
        bar.ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,)))
        bar.ax.yaxis.set_minor_formatter(NullFormatter())
    elif not text:
        bar.ax.yaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))  # photos are counted whole
    values = mappable.get_array()
    if values.size and values.min() == values.max():
        bar.set_ticks([float(values.min())], minor=False)
    bar.ax.yaxis.set_major_formatter(text or FuncFormatter(lambda n, _: f"{n:,.6g}"))
    bar.outline.set_visible(False)


def spread_norm(values: NDArray[np.float64]) -> Normalize:
    """Logarithmic where the values spread enough to need it, and defined where they do not spread at all."""
    low, high = float(values.min()), float(values.max())
    if low > 0 and high / low > 5:
        return LogNorm(low, high)
    return Normalize(low, high) if high > low else Normalize(low - 0.5, low + 0.5)


def _on(frame: Frame, ring: Floats) -> Floats:
    """A ring of lon, lat on the flat map."""
    return np.column_stack([frame.x(ring[:, 0]), ring[:, 1]])


def _draw_scale(axes: Axes, frame: Frame) -> None:
    """A bar of a round length beneath the map's left corner, where it hides no part of it."""
    km = scale_km(frame.width_km)
    ends = [frame.west, frame.west + km * frame.stretch / KM_PER_DEGREE]
    below = blended_transform_factory(axes.transData, _beneath(axes))
    axes.plot(ends, [0, 0], color="black", lw=2.5, solid_capstyle="butt", transform=below, clip_on=False, gid="scale")
    axes.annotate(
        label_km(km), (ends[1], 0), (4, 0), below, textcoords="offset points", va="center", fontsize=9,
        annotation_clip=False,
    )  # fmt: skip


def _beneath(axes: Axes, row: int = 0) -> Transform:
    """As the axes' own shares, a little lower: below zero lie the degrees, and here what explains the map."""
    return axes.transAxes + ScaledTranslation(0, -(28 + 14 * row) / 72, axes.get_figure(root=True).dpi_scale_trans)  # type: ignore[union-attr]


def _label_degrees(axes: Axes, frame: Frame) -> None:
    for axis, span, signs in (
        (axes.xaxis, frame.east - frame.west, "EW"),
        (axes.yaxis, frame.north - frame.south, "NS"),
    ):
        steps = [1, 1.5, 3, 4.5, 6, 9, 10] if span > 30 else [1, 2, 5, 10]
        axis.set_major_locator(MaxNLocator(nbins=max(2, round(5 * _smaller(axes))), steps=steps))
        decimals = max(0, math.ceil(-math.log10(span / 5)))

        def text(value: float, _: object, signs: str = signs, decimals: int = decimals) -> str:
            degrees = round((value + 180) % 360 - 180 if signs == "EW" else value, decimals)
            side = "" if degrees in (0, -180) else signs[0] if degrees > 0 else signs[1]
            return f"{abs(degrees):.{decimals}f}°{side}"

        axis.set_major_formatter(FuncFormatter(text))


def _ring(lat: Floats, lon: Floats) -> Floats:
    x = _run_on(lon)
    turn = x[-1] + _within_half_turn(lon[0] - lon[-1]) - x[0]
    if abs(turn) > 180 or np.abs(lat).max() > 90 - 1e-6:
        return _polar_ring(lat, lon)
    return np.stack([x, lat], axis=-1)


def _polar_ring(lat: Floats, lon: Floats) -> Floats:
    """A ring with a pole on it or in it: on the flat map, a pole is a whole edge."""
    points: list[tuple[float, float]] = []
    for i, (y, here) in enumerate(zip(lat, lon, strict=True)):
        if abs(y) > 90 - 1e-6:  # the longitude of a pole means nothing: come and go along its neighbours' meridians
            points += [(lon[i - 1], math.copysign(90, y)), (lon[(i + 1) % len(lon)], math.copysign(90, y))]
        else:
            points.append((here, y))
    outline = np.array(points)
    x, y = _run_on(outline[:, 0]), outline[:, 1]
    turn = x[-1] + _within_half_turn(outline[0, 0] - x[-1]) - x[0]
    if abs(turn) > 180:  # once around: counter-clockwise is eastward around the north pole
        pole = math.copysign(90, turn)
        x = np.r_[x, x[0] + turn, x[0] + turn, x[0]]
        y = np.r_[y, y[0], pole, pole]
    return np.stack([x, y], axis=-1)


def _run_on(lon: Floats) -> Floats:
    """Longitudes along a line, without jumps of a full turn."""
    return np.concatenate([lon[:1], lon[0] + np.cumsum(_within_half_turn(np.diff(lon)))])


def _within_half_turn(degrees: ArrayLike) -> Floats:
    wrapped: Floats = (np.asarray(degrees, np.float64) + 180) % 360 - 180
    return wrapped


def _smaller(axes: Axes) -> float:
    """Width of the figure against the usual, for marks and lines that may not cover a small map."""
    return float(axes.get_figure(root=True).get_figwidth()) / WIDTH  # type: ignore[union-attr]


def _shrink(lat: float) -> float:
    """Length of a degree of longitude against one of latitude; not let vanish near the poles."""
    return math.cos(math.radians(min(abs(lat), 80)))
