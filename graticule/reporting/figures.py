"""Arrays in, pictures out. Nothing here reads data, keeps state, or touches matplotlib's globals.

Every function returns a :class:`matplotlib.figure.Figure` that belongs to its caller alone, so figures can be
made in threads and in a service. Colours are Okabe and Ito's ("Color Universal Design", 2008), viridis and
inferno: all survive colour blindness, and what matters differs in shape too.
"""

import base64
import io
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter
from numpy.typing import ArrayLike, NDArray

from graticule.files import atomic_file
from graticule.geo import borders
from graticule.geo.sphere import format_km
from graticule.partition.labels import LabelPartition
from graticule.reporting import maps
from graticule.reporting.labels import Basemap

BLUE, VERMILION, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#595959"
NIGHT = "#2B2B33"
DPI = 150
MOST_DOTS = 20_000
SYNTHETIC = "synthetic photos, not the real world"
Point = tuple[float, float]
LINES: tuple[tuple[str, Any], ...] = (  # the last is the baseline's
    (BLUE, "-"), (VERMILION, "--"), (GREEN, "-."), ("#CC79A7", (0, (3, 1, 1, 1, 1, 1))), (GREY, ":")
)  # fmt: skip


class Cells(Protocol):
    """What a figure needs of a :class:`graticule.partition.Partition`."""

    @property
    def photos(self) -> NDArray[np.int64]: ...
    @property
    def lat(self) -> NDArray[np.float64]: ...
    @property
    def lon(self) -> NDArray[np.float64]: ...
    def outlines(self) -> tuple[Any, Any]: ...


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG, whole or not at all."""
    with atomic_file(path) as aside:
        figure.savefig(aside, format="png", dpi=DPI)
    return path


def to_data_uri(figure: Figure) -> str:
    """The PNG as a ``data:`` address, so that a page can carry it along."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=DPI)
    return "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()


def cells_map(
    partition: Cells,
    *,
    title: str,
    lat: ArrayLike | None = None,
    lon: ArrayLike | None = None,
    values: ArrayLike | None = None,
    values_label: str = "photos per cell",
    truth: Point | None = None,
    guess: Point | None = None,
    width: float = maps.WIDTH,
    streets: Basemap | None = None,
    synthetic: bool = False,
    close: bool = False,
) -> Figure:
    """Cells on a map with coasts, countries and US states; darker cells hold more photos.

    Args:
        lat, lon: photos to dot on the map, degrees.
        values: what colours the cells, shape ``(C,)``; the partition's photos per cell if left out.
        truth, guess: a ``(lat, lon)`` each, to mark.
        width: inches; less where the picture is shown small, so that its text is not.
    """
    figure, axes, polygons, rows, frame = _map_of_cells(partition, [truth, guess], width, close=close)
    maps.draw_base(axes, frame, ink="#333333", paper="white", streets=streets)
    shown = np.asarray(partition.photos if values is None else values, np.float64)
    fine = 0.25 if len(shown) > 500 else 0.6
    cells = PolyCollection(
        polygons,
        array=shown[rows],
        cmap="viridis_r",
        norm=maps.spread_norm(shown),
        edgecolors="white",
        linewidths=fine,
        gid="cells",
    )
    axes.add_collection(cells, autolim=False)
    if lat is not None and lon is not None:
        some = _some(np.size(lat), MOST_DOTS)
        size = float(np.clip(3000 / len(some), 1.5, 6))  # rimmed, as the fullest cells are nearly black
        axes.scatter(frame.x(lon)[some], np.asarray(lat)[some], s=size, c="black", ec="white", lw=size / 15, zorder=4)
    maps.mark(axes, frame, truth, guess)
    maps.colour_bar(figure, axes, cells, values_label)
    dress(axes, title, synthetic=synthetic, grid=False)
    return figure


def probability_map(
    partition: Cells,
    probability: ArrayLike,
    *,
    truth: Point | None = None,
    guess: Point | None = None,
    title: str = "Where the model thinks it is",
    width: float = maps.WIDTH,
    streets: Basemap | None = None,
    synthetic: bool = False,
    close: bool = False,
    per_km2: bool = False,
) -> Figure:
    """Cells brighter where the model finds them likelier, on a dark map; truth and best guess marked.

    The map shows both and the likeliest cells that hold 95 % of the probability: a sure answer would be a speck
    on a map of all cells.

    Args:
        probability: of each cell, shape ``(C,)``, in [0, 1].
        width: inches; less where the picture is shown small, so that its text is not.
        close: show truth and guess with as much around them, whatever the cells.
        per_km2: ``probability`` is a density, of the cells' ground.
    """
    shown = np.asarray(probability, np.float64)
    first = np.argsort(-shown, kind="stable")
    likely = first[: 1 + int(np.searchsorted(np.cumsum(shown[first]), 0.95 * shown.sum()))]
    figure, axes, polygons, rows, frame = _map_of_cells(partition, [truth, guess], width, likely, close)
    maps.draw_base(axes, frame, ink="#8A8A9A", paper=NIGHT, streets=streets)
    top = max(float(shown.max()), 1e-12)
    # Three decades: below a thousandth of the likeliest cell, differences say nothing.
    norm = LogNorm(top / 1000, top, clip=True)
    cells = PolyCollection(
        polygons,
        array=shown[rows],
        cmap="inferno",
        norm=norm,
        edgecolors="#5A5A6A",
        linewidths=0.25,
        gid="cells",
    )
    axes.add_collection(cells, autolim=False)
    maps.mark(axes, frame, truth, guess)
    if per_km2:
        maps.colour_bar(figure, axes, cells, "probability per km\u00b2")
    else:
        maps.colour_bar(figure, axes, cells, "probability of the cell", FuncFormatter(lambda p, _: f"{100 * p:.2g} %"))
    dress(axes, title, synthetic=synthetic, grid=False)
    return figure


def errors_map(
    lat: ArrayLike,
    lon: ArrayLike,
    predicted_lat: ArrayLike,
    predicted_lon: ArrayLike,
    error_km: ArrayLike,
    *,
    most: int = 200,
    title: str = "From where photos were taken to where the model puts them",
    streets: Basemap | None = None,
    synthetic: bool = False,
) -> Figure:
    """A line from the true position of each photo (dot) to the guess (open square), for an even sample."""
    lats, lons, to_lats, to_lons, errors = (
        np.asarray(a, np.float64) for a in (lat, lon, predicted_lat, predicted_lon, error_km)
    )
    some = _some(len(lats), most)
    lats, lons, to_lats, to_lons, errors = (a[some] for a in (lats, lons, to_lats, to_lons, errors))
    frame = maps.frame_around(np.r_[lats, to_lats], np.r_[lons, to_lons])
    figure, axes = maps.axes_on(frame)
    maps.draw_base(axes, frame, ink="#AAAAAA", paper="white", streets=streets)
    x = frame.x(lons)
    to_x = x + (to_lons - lons + 180) % 360 - 180  # the short way round, even where that leaves the frame
    paths = [np.array([(x0, y0), (x1, y1)]) for x0, y0, x1, y1 in zip(x, lats, to_x, to_lats, strict=True)]
    paths, rows = maps.copies(paths, frame)
    shown = np.maximum(errors, 0.001)
    lines = LineCollection(
        paths,
        array=shown[rows],
        cmap="viridis_r",
        norm=maps.spread_norm(shown),
        lw=0.8,
        alpha=0.7,
        gid="errors",
    )
    axes.add_collection(lines, autolim=False)
    axes.scatter(frame.x(to_lons), to_lats, s=12, marker="s", fc="none", ec=VERMILION, lw=0.8, zorder=5, label="guess")
    axes.scatter(x, lats, s=8, c="black", lw=0, zorder=6, label="truth")
    maps.colour_bar(figure, axes, lines, "error", FuncFormatter(lambda km, _: maps.label_km(km)))
    maps.keys_below(axes)
    part = f"{title}" if len(lats) == np.size(lat) else f"{title} ({len(lats)} of {np.size(lat):,})"
    dress(axes, part, synthetic=synthetic, grid=False)
    return figure


def photos_per_cell(photos: ArrayLike, *, synthetic: bool = False) -> Figure:
    """Photos of each cell, fullest first, with the median: how even the classes are (report A, figure 3)."""
    counts = np.sort(np.asarray(photos, np.int64))[::-1]
    median = float(np.median(counts))
    figure, axes = chart(2.9)
    axes.stairs(counts, np.arange(len(counts) + 1) + 0.5, fill=True, color=BLUE)
    axes.axhline(median, color=VERMILION, lw=1.5, ls="--", label=f"median: {median:,.0f} photos")
    if counts[0] > 50 * max(counts[-1], 1):
        axes.set_yscale("log")
    axes.set(xlabel="cells, fullest first", ylabel="training photos", xlim=(0.5, len(counts) + 0.5))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda n, _: f"{n:,.0f}"))
    axes.legend(loc="upper right", frameon=False, fontsize=9)
    dress(axes, f"Photos per cell: {counts.sum():,} photos in {len(counts):,} cells", synthetic=synthetic)
    return figure


def learning_curves(history: Mapping[str, Any] | Any, *, synthetic: bool = False) -> Figure:
    """Loss, validation error and learning rate over epochs; panels without data are left out.

    Args:
        history: columns by name (a dict or a Polars frame): ``epoch`` and any of ``train_loss``,
            ``val_loss``, ``val_median_km``, ``lr``. Missing values are null or NaN. Where ``stage`` changes, a
            line is drawn.

    Raises:
        KeyError: no ``epoch``, or none of the others.
    """
    names = list(history.keys() if isinstance(history, Mapping) else history.columns)
    known = {*_CURVES, "epoch", "stage"}
    columns = {name: np.array(list(history[name]), np.float64) for name in names if name in known}
    curves = {name: y for name, y in columns.items() if name in _CURVES and np.isfinite(y).any()}
    if "epoch" not in columns or not curves:
        raise KeyError(
            f"learning curves need the column epoch and any of {', '.join(_CURVES)}; found {', '.join(names)}"
        )
    stage = columns.get("stage", np.zeros_like(columns["epoch"]))
    begun = np.flatnonzero(np.diff(stage)) + 1
    panels = [panel for panel in ("loss", "median error", "learning rate") if panel in {_CURVES[n][0] for n in curves}]
    figure, axes = chart(1.1 + 1.4 * len(panels), rows=len(panels), ratios=[2 if p == "loss" else 1 for p in panels])
    for panel, ax in zip(panels, np.atleast_1d(axes), strict=True):
        for name, y in curves.items():
            where, label, colour, style = _CURVES[name]
            if where == panel:
                real = np.isfinite(y)
                ax.plot(columns["epoch"][real], y[real], style, color=colour, label=label, ms=3.5, lw=1.6)
        ax.set_ylabel(panel)
        for row in begun:
            ax.axvline(columns["epoch"][row] - 0.5, color=GREY, lw=1, ls=(0, (2, 2)), gid="stage")
        if panel == "loss":
            ax.legend(frameon=False, fontsize=9)
        if panel == "median error":
            ax.yaxis.set_major_formatter(FuncFormatter(lambda km, _: maps.label_km(km)))
            ax.set_ylim(bottom=0)
        if panel == "learning rate":
            ax.yaxis.set_major_locator(MaxNLocator(nbins=3))
            ax.yaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:g}"))
        dress(ax, "Learning curves" if panel == panels[0] else "", synthetic=synthetic)
    np.atleast_1d(axes)[-1].set_xlabel("epoch" + ("; at a dotted line a new stage begins" if len(begun) else ""))
    np.atleast_1d(axes)[-1].xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    np.atleast_1d(axes)[-1].set_xlim(columns["epoch"].min() - 0.5, columns["epoch"].max() + 0.5)
    return figure


_CURVES = {
    "train_loss": ("loss", "training photos", BLUE, "o-"),
    "val_loss": ("loss", "validation photos", VERMILION, "s--"),
    "val_median_km": ("median error", "", VERMILION, "s--"),
    "lr": ("learning rate", "", GREY, "-"),
}


def error_distribution(
    error_km: ArrayLike,
    *,
    intervals: Mapping[str, Sequence[float]] | None = None,
    expected_error_km: ArrayLike | None = None,
    synthetic: bool = False,
) -> Figure:
    """Share of photos located within each distance, with the median and the 90th percentile.

    Args:
        intervals: 95 % intervals to shade, by the names ``median_km`` and ``p90_km``, each ``(low, high)``.
        expected_error_km: what the model itself expected, drawn beside it; the two lines of an
            honest model lie together.
    """
    errors = np.sort(np.maximum(np.asarray(error_km, np.float64), 0.001))  # a log axis has no zero
    share = np.arange(1, len(errors) + 1) / len(errors)
    figure, axes = chart(3.6)
    axes.step(errors, share, where="post", color=BLUE, lw=2, label="measured")
    if expected_error_km is not None and np.size(expected_error_km):
        expected = np.sort(np.maximum(np.asarray(expected_error_km, np.float64), 0.001))
        rank = np.arange(1, len(expected) + 1) / len(expected)
        axes.step(expected, rank, where="post", color=GREY, lw=1.4, ls=":", label="expected by the model")
    for name, key, at, colour in (("median", "median_km", 0.5, VERMILION), ("p90", "p90_km", 0.9, GREEN)):
        km = float(np.quantile(errors, at))
        axes.plot([km, km], [0, at], color=colour, lw=1.4, ls="--", label=f"{name}: {format_km(km)}")
        axes.plot([km], [at], "o", color=colour, ms=5)
        if intervals and key in intervals:
            axes.axvspan(max(intervals[key][0], 0.001), intervals[key][1], color=colour, alpha=0.12, lw=0)
    axes.set(xscale="log", ylim=(0, 1.02), xlabel="distance from the guess to the truth", ylabel="share of photos")
    _kilometre_axis(axes)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.legend(loc="upper left", frameon=False, fontsize=9)
    dress(axes, f"How far off: {len(errors):,} photos", synthetic=synthetic)
    return figure


def split_map(
    train_lat: ArrayLike,
    train_lon: ArrayLike,
    test_lat: ArrayLike,
    test_lon: ArrayLike,
    *,
    title: str = "Where training and test photos were taken",
    streets: Basemap | None = None,
    synthetic: bool = False,
) -> Figure:
    """Training photos as blue dots, test photos as orange triangles above them; an even sample where they are many."""
    sides = [[np.asarray(a, np.float64) for a in side] for side in ((train_lat, train_lon), (test_lat, test_lon))]
    frame = maps.frame_around(*(np.concatenate(both) for both in zip(*sides, strict=True)))
    figure, axes = maps.axes_on(frame)
    maps.draw_base(axes, frame, ink="#8A8A8A", paper="white", streets=streets)
    looks: tuple[tuple[str, str, str, float], ...] = (("training", BLUE, "o", 1.0), ("test", VERMILION, "^", 1.7))
    drawn = min(1.0, MOST_DOTS / sum(len(lat) for lat, _ in sides))  # neither side hides the other
    for (lat, lon), (name, colour, marker, larger) in zip(sides, looks, strict=True):
        some = _some(len(lat), math.ceil(drawn * len(lat)))
        size = larger * float(np.clip(20_000 / len(some), 3, 16))
        label = f"{name}: {len(lat):,} photos" + (f", {len(some):,} drawn" if len(some) < len(lat) else "")
        axes.scatter(
            frame.x(lon[some]), lat[some], s=size, c=colour, marker=marker, alpha=0.75, lw=0, zorder=4, label=label
        )
    for key in maps.keys_below(axes).legend_handles:
        key.set(sizes=[36], alpha=1)  # type: ignore[union-attr]
    dress(axes, title, synthetic=synthetic, grid=False)
    return figure


def leak_histogram(
    edges_km: Sequence[float], counts: Sequence[int], *, subtitle: str = "", synthetic: bool = False
) -> Figure:
    """Shares of test photos by the distance to the nearest training photo: how much was seen before.

    Args:
        edges_km: increasing, E of them; a photo exactly at an edge counts as within.
        counts: photos in each of the E + 1 bins, the last of which lies beyond the last edge.

    Raises:
        ValueError: the two do not fit together.
    """
    if len(counts) != len(edges_km) + 1:
        raise ValueError(f"{len(edges_km)} edges make {len(edges_km) + 1} bins, but there are {len(counts)} counts")
    names = [maps.label_km(km) for km in edges_km]
    labels = [
        f"≤ {names[0]}",
        *(f"{a} –\n{b}" for a, b in itertools.pairwise(names)),
        f"> {names[-1]}",
    ]
    shares = np.array(counts) / max(sum(counts), 1)
    figure, axes = chart(3.0)
    bars = axes.bar(
        range(len(counts)),
        shares,
        width=0.85,
        color=[VERMILION if e <= 0.025 else BLUE for e in edges_km] + [BLUE],
    )
    axes.bar_label(bars, [f"{s:.0%}" if s >= 0.005 or s == 0 else "<1%" for s in shares], fontsize=9, padding=2)
    axes.set_xticks(range(len(counts)), labels, fontsize=8.5)
    axes.set(
        ylim=(0, max(shares.max() * 1.15, 0.05)),
        ylabel="share of test photos",
        xlabel="distance to the nearest training photo",
    )
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    title = "How near the test photos are to training photos"
    dress(axes, f"{title}\n{subtitle}" if subtitle else title, synthetic=synthetic)
    return figure


def chart(
    height: float, *, rows: int = 1, columns: int = 1, ratios: Sequence[float] | None = None
) -> tuple[Figure, Any]:
    figure = Figure(figsize=(maps.WIDTH, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, sharex=rows > 1 and columns == 1, height_ratios=ratios)


def _map_of_cells(
    partition: Cells,
    marks: Sequence[Point | None],
    width: float,
    shown: NDArray[np.int64] | None = None,
    close: bool = False,
) -> tuple[Figure, Axes, list[NDArray[np.float64]], NDArray[np.int64], maps.Frame]:
    """Axes framed around marks and the rows ``shown`` (all cells if left out), and each polygon with its cell's row.

    Args:
        close: frame the marks alone, with as much around them: one huge cell would make them a speck.
    """
    polygons = maps.rings(*partition.outlines())
    chosen = np.arange(len(polygons)) if shown is None else shown
    lat, lon = partition.lat[chosen], partition.lon[chosen]
    among = [polygons[row] for row in chosen]
    if shown is None:
        # Where the photos are, and the cells among them; a huge cell with photos in one corner may stick out.
        core = maps.frame_around(lat, lon)
        among = [ring for ring in among if np.ptp(ring[:, 1]) <= (core.north - core.south) / 2] or among
    photos = np.stack([lon, lat], axis=1)
    points = np.concatenate([*among, photos, *([(lon, lat)] for lat, lon in filter(None, marks))])
    frame = maps.frame_around(points[:, 1], points[:, 0])
    if close and all(marks):
        frame = maps.frame_around(*np.transpose([mark for mark in marks if mark]), margin=0.75)
    figure, axes = maps.axes_on(frame, width)
    drawn, owner = _areas(partition, polygons)
    placed, rows = maps.copies(drawn, frame)
    rows = owner[rows]
    # Nested cells and wide clusters lie under what they hold.
    order = np.argsort([-np.prod(np.ptp(ring, axis=0)) for ring in placed], kind="stable")
    return figure, axes, [placed[i] for i in order], rows[order], frame


def _areas(
    partition: Cells, outlines: list[NDArray[np.float64]]
) -> tuple[list[NDArray[np.float64]], NDArray[np.int64]]:
    """What is coloured, and the row of each: the cells' outlines, or the borders where the classes are countries."""
    countries = borders.countries_of(partition.labels) if isinstance(partition, LabelPartition) else None
    parts = [
        maps.rings(*zip(*rings, strict=True)) if rings else [outline]
        for rings, outline in zip(countries or [[]] * len(outlines), outlines, strict=True)
    ]
    rows = np.repeat(np.arange(len(outlines)), [len(part) for part in parts])
    return [ring for part in parts for ring in part], rows


def _kilometre_axis(axes: Axes) -> None:
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 300 else (1,), numticks=12))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda km, _: maps.label_km(km)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _some(n: int, most: int) -> NDArray[np.int64]:
    """Rows of an even sample: the same ones each time."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(np.int64))


def dress(axes: Axes, title: str, *, synthetic: bool, grid: bool = True) -> None:
    """The one place for looks: title at the left, quiet frame, the stamp on what is not the real world."""
    if synthetic and title:
        title = f"{title}\n{SYNTHETIC}"
    axes.set_title(title, loc="left", fontsize=11)
    axes.tick_params(labelsize=8.5, length=3)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_fontsize(9.5)
    if grid:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#E3E3E3", lw=0.7)
        axes.set_axisbelow(True)
