"""Pictures of explanations: maps of what matters over a photo, its patches, and how such maps are judged."""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch
from matplotlib.ticker import FuncFormatter
from numpy.typing import ArrayLike, NDArray

from graticule.reporting import maps
from graticule.reporting.figures import BLUE, LINES, SYNTHETIC, VERMILION, chart, dress

FINEST = 100  # squares along the longer side of a map of what matters
SIGNED = ("#9AD8FF", BLUE, "#101018", VERMILION, "#FFD9A0")  # against to for; dark where nothing depends on it


def explanation(
    photo: NDArray[np.uint8],
    heat: ArrayLike,
    *,
    signed: bool,
    label: str,
    method: str,
    title: str,
    synthetic: bool = False,
) -> Figure:
    """A photo, and beside it the same in grey with a map of what matters over it: brighter matters more.

    Args:
        photo: shape ``(H, W, 3)``, in its own aspect.
        heat: a map of the whole photo, of any shape ``(h, w)``.
        signed: values below zero speak against the answer and are drawn in blue; else there are none.
        label: what a value is.
    """
    values = _means(np.asarray(heat, np.float64), FINEST)
    # One value in two hundred may be brighter than the scale: a single one would darken all others.
    top = max(float(np.quantile(np.abs(values), 0.995)), 1e-12)
    height, width = photo.shape[:2]
    figure = Figure(figsize=(maps.WIDTH, 0.75 + 0.41 * maps.WIDTH * height / width), layout="compressed")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    left.imshow(photo)
    right.imshow(photo @ np.array([0.299, 0.587, 0.114]) * 0.45, cmap="gray", vmin=0, vmax=255)
    shown = right.imshow(
        values,
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
        cmap=LinearSegmentedColormap.from_list("against and for", SIGNED) if signed else "inferno",
        vmin=-top if signed else 0,
        vmax=top,
        alpha=0.15 + 0.75 * np.minimum(np.abs(values) / top, 1),
        interpolation="bilinear",
        gid="heat",
    )
    maps.colour_bar(figure, right, shown, label, FuncFormatter(lambda v, _: f"{v:.2g}"))
    for axes in (left, right):
        axes.set(xticks=[], yticks=[], xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
        axes.spines[:].set_visible(False)
    figure.suptitle(f"{title}\n{SYNTHETIC}" if synthetic else title, fontsize=10)
    hint = "orange speaks for it, blue against" if signed else "brighter matters more"
    right.set_title(f"{method}: {hint}", loc="left", fontsize=9)
    return figure


def patches(photo: NDArray[np.uint8], rows: int, columns: int, *, title: str) -> Figure:
    """A photo cut into the patches that a transformer reads, in their order: row by row from the upper left."""
    height, width = photo.shape[:2]
    figure = Figure(figsize=(maps.WIDTH, 0.5 + maps.WIDTH * height / width), layout="compressed")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.imshow(photo)
    for x in np.linspace(0, width, columns + 1) - 0.5:
        axes.axvline(x, color="white", lw=2.5)
    for y in np.linspace(0, height, rows + 1) - 0.5:
        axes.axhline(y, color="white", lw=2.5)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    dress(axes, title, synthetic=False, grid=False)
    return figure


def matches(
    here: NDArray[np.uint8],
    there: NDArray[np.uint8],
    points: NDArray[np.floating[Any]],
    others: NDArray[np.floating[Any]],
    *,
    title: str,
    synthetic: bool = False,
) -> Figure:
    """Two photos side by side, with a line between each two points that one geometry of two cameras explains.

    Args:
        points, others: pixels in each photo, ``(M, 2)``.
    """
    wide = here.shape[1] / here.shape[0] + there.shape[1] / there.shape[0]
    figure = Figure(figsize=(maps.WIDTH, 0.9 + maps.WIDTH / wide), layout="compressed")
    FigureCanvasAgg(figure)
    sizes = [photo.shape[1] / photo.shape[0] for photo in (here, there)]
    both = figure.subplots(1, 2, width_ratios=sizes)
    for axes, photo, name in zip(both, (here, there), ("the photo", "the known photo that agrees most"), strict=True):
        axes.imshow(photo)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        axes.set_title(name, loc="left", fontsize=9)
    for number, (a, b) in enumerate(zip(points, others, strict=True)):
        line = ConnectionPatch(
            a, b, "data", "data", axesA=both[0], axesB=both[1], color=LINES[number % len(LINES)][0], lw=0.8, alpha=0.8
        )
        line.set_in_layout(False)  # which would measure each of hundreds
        figure.add_artist(line)
        for axes, point in zip(both, (a, b), strict=True):
            axes.plot(*point, ".", ms=3, color=LINES[number % len(LINES)][0])
    figure.suptitle(f"{title}\n{SYNTHETIC}" if synthetic else title, fontsize=10)
    return figure


def faithfulness(curves: Mapping[str, tuple[ArrayLike, ArrayLike, ArrayLike]]) -> Figure:
    """Deletion and insertion curves of several methods, with their areas.

    Args:
        curves: by method, ``(share, deletion, insertion)``, each of shape ``(S,)``; ``random`` is the baseline.
    """
    figure, axes = chart(3.4 + 0.2 * len(curves), columns=2)
    looks = dict(zip((name for name in curves if name != "random"), itertools.cycle(LINES[:-1]), strict=False))
    for ax, column, better in ((axes[0], 1, "lower"), (axes[1], 2, "higher")):
        for name, columns in curves.items():
            share, probability = np.asarray(columns[0], np.float64), np.asarray(columns[column], np.float64)
            area = np.trapezoid(probability, share)
            colour, style = looks.get(name, LINES[-1])
            ax.plot(share, probability, ls=style, color=colour, lw=1.8, label=f"{name}: {100 * area:.3g} %")
        ax.set(xlim=(0, 1), ylim=(0, None))
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda part, _: f"{100 * part:.3g}%"))
        # Beneath: curves that rise and fall leave no corner free.
        keys = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.2), "frameon": False, "fontsize": 9}
        ax.legend(**keys, title=f"mean, {better} is better", title_fontsize=9)
    axes[0].set(xlabel="most important part deleted", ylabel="probability of the cell")
    axes[1].set_xlabel("most important part inserted")
    dress(axes[0], "Deletion", synthetic=False)
    dress(axes[1], "Insertion", synthetic=False)
    return figure


def _means(values: NDArray[np.float64], most: int) -> NDArray[np.float64]:
    """Means over small squares, at most ``most`` along the longer side: single pixels do not show in print."""
    size = -(-max(values.shape) // most)
    starts = [np.arange(0, side, size) for side in values.shape]
    sums = np.add.reduceat(np.add.reduceat(values, starts[0], axis=0), starts[1], axis=1)
    counts = [np.diff(np.append(start, side)) for start, side in zip(starts, values.shape, strict=True)]
    means: NDArray[np.float64] = sums / np.outer(*counts)
    return means
