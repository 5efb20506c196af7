"""One HTML page for a run: numbers, maps, figures and examples, in one file that needs nothing else.

:func:`context_of` gathers what the folders hold into plain values; the template lays them out. A part
whose file is missing is left out, and the page says so: a report of half a run is still a report.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from graticule.errors import BadTableError
from graticule.files import write_text
from graticule.geo import s2
from graticule.geo.sphere import format_km, map_link
from graticule.partition import Partition, read_partition
from graticule.partition.cells import CellPartition
from graticule.photos.table import Photos
from graticule.reporting import figures
from graticule.reporting.browse import Browse, browse_of
from graticule.reporting.labels import Basemap
from graticule.reporting.pages import Picture, picture, render, thumbnail
from graticule.reporting.streets import read_basemap, tracks_of

EXAMPLES = 4  # best and worst photos shown
EXAMPLE_WIDTH = 4.2  # inches of their maps, which stand two in a row
RADII = ("25_m", "50_m", "100_m", "200_m", "500_m", "1_km", "25_km", "200_km", "750_km", "2500_km")
MEASURES = (  # key in metrics.json, name, what it means
    ("median_km", "median error", "half of the photos are nearer than this"),
    ("mean_km", "mean error", "a few far misses pull it up"),
    ("p90_km", "90th percentile", "nine photos of ten are nearer than this"),
    ("expected_error_km", "mean error that the model expected", "near the mean error, if it knows itself"),
    (
        "center_distance_km",
        "centre to centre, mean",
        "between the centres of the predicted and the true cell: zero for any photo in the right cell, so it flatters",
    ),
    ("regression_median_km", "regressed position, median error", "of the head's second answer, whichever was given"),
    ("regression_mean_km", "regressed position, mean error", ""),
    ("top1", "right cell", ""),
    ("top3", "right cell among the first 3", ""),
    ("top5", "right cell among the first 5", ""),
    *((f"within_{radius}", f"within {radius.replace('_', ' ')}", "") for radius in RADII),
    ("score", "score", "0 to 5000: the mean of 5000 exp(-10 d / D), d the error, D the diagonal of the map"),
    ("bits", "bits of location", "beyond the map of the training photos; below zero it knows less than that map"),
    *((f"coverage_{n}", f"in the {n} % region", f"should be {n} %") for n in (50, 80, 90, 95)),
    ("median_area_90_km2", "90 % region, median", "the smallest ground that holds nine of ten such photos"),
    ("median_circle_90_km2", "circle as sure, median", "around the point, as wide as it must be to hold as many"),
    ("one_circle_90_km2", "one circle for all", "around every point, so wide that it holds as many"),
    ("median_searched_km2", "searched until found, median", "likeliest ground first"),
    ("median_expected_error_km", "error that it expects, median", "near the median error, if it knows itself"),
    ("ece", "calibration error of cells", "how far the network's own probabilities lie from what comes true"),
    ("cross_entropy", "cross-entropy", "nats a photo, of photos inside a cell"),
    ("photos", "photos", ""),
    ("places", "places", "the intervals are resampled by place: its photos are right or wrong together"),
    ("outside_cells", "photos outside every cell", "counted, not hidden: their cell cannot be right"),
    ("unreadable", "unreadable photos", "in none of the figures"),
)
ANSWERERS = {  # name in metrics.json, what it is
    "answered together": "the same network, which hears all photos of a place or a drive before it answers",
    "nearest neighbour": "the place of the training photo that looks most like it to the encoder",
    "density of neighbours": "where the training photos that look most like it lie densest (Im2GPS)",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table of numbers; ``interval`` and ``meaning`` may be empty."""

    name: str
    value: str
    interval: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Answerer:
    """One line of the table of what else could have answered; ``interval`` is the median's."""

    name: str
    median: str
    interval: str
    mean: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Country:
    """One line of the table by country."""

    name: str
    photos: str
    median: str
    within_25_km: str


@dataclass(frozen=True, slots=True)
class Example:
    """One photo of the examples: where it is, where the model puts it, both with a link to a map."""

    path: str
    error: str
    expected: str
    where: str
    where_link: str
    guess: str
    guess_link: str
    photo: Picture | None
    map: Picture | None


@dataclass(frozen=True, slots=True)
class Context:
    """All that the template knows.

    Attributes:
        verdict: of the leak audit, in a sentence.
        colours: what those of the examples' maps are, where that must be said.
        verdicts: what the figures come to, a sentence each.
        held_out: whether the numbers may be called so; none where that cannot be told.
        known_spots: held out, but most of the photos stand within 5 m of a training photo.
        pictures: figures by name: ``cells``, ``photos_per_cell``, ``curves``, ``errors``, ``errors_map``,
            ``leak``.
        missing: a sentence for each part that the page had to leave out.
        facts: what was trained and how, by name; ``recipe`` is the YAML text.
    """

    title: str
    synthetic: bool
    headline: str
    headline_interval: str
    measured_on: str
    verdict: str
    verdicts: list[str]
    colours: str
    held_out: bool | None
    known_spots: bool
    numbers: list[Row]
    answerers: list[Answerer]
    countries: list[Country]
    pictures: dict[str, Picture]
    best: list[Example]
    worst: list[Example]
    browse: Browse | None
    facts: dict[str, str]
    recipe: str
    missing: list[str]


def write_report(
    bundle_dir: Path, evaluation_dir: Path, out: Path, *, photos: Path | None = None, basemap: Path | None = None
) -> Path:
    """Write the page.

    Args:
        bundle_dir: a folder that ``graticule train`` wrote.
        evaluation_dir: a folder that ``graticule evaluate`` wrote.
        out: the HTML file.
        photos: the dataset, or its table: paths of examples start there. Without it there are no thumbnails.
        basemap: whose streets are drawn on maps of a town; without it the tracks of the training photos are.

    Raises:
        BadTableError: there is neither ``metrics.json`` nor a bundle: nothing to report.
        WriteError: ``out`` cannot be written.
    """
    root = photos.parent if photos is not None and photos.is_file() else photos
    context = context_of(bundle_dir, evaluation_dir, root, basemap)
    write_text(out, render("report.html.j2", report=context))
    return out


def context_of(bundle_dir: Path, evaluation_dir: Path, photos: Path | None, basemap: Path | None = None) -> Context:
    """Gather what the folders hold; raises as :func:`write_report`."""
    metrics = _json(evaluation_dir / "metrics.json")
    index = _json(bundle_dir / "bundle.json")
    if not metrics and not index:
        raise BadTableError(
            f"nothing to report: neither {evaluation_dir / 'metrics.json'} nor {bundle_dir / 'bundle.json'} "
            f"is there. `graticule train` writes a bundle and `graticule evaluate` the numbers"
        )
    audit = _json(evaluation_dir / "audit.json") or metrics.get("audit") or {}
    rows = _table(evaluation_dir / "predictions.parquet")
    history = _table(bundle_dir / "training" / "history.csv")
    partition = read_partition(bundle_dir / "cells.parquet") if (bundle_dir / "cells.parquet").is_file() else None
    synthetic = bool(metrics.get("synthetic", index.get("facts", {}).get("synthetic", False)))
    read = rows.filter(pl.col("error_km").is_not_null()) if rows is not None else None

    streets = _streets(_table(bundle_dir / "training" / "photos.parquet"), read, basemap)
    pictures, missing = _pictures(metrics, audit, read, history, partition, streets, synthetic)
    best, worst = _examples(read, partition, photos, streets, synthetic)
    if not metrics:
        missing.insert(0, "no numbers: the evaluation has no metrics.json")
    if photos is None and best:
        missing.append("no photos beside the examples: the report was not told where they lie")
    unknown = "Not audited: how near these photos are to the training photos is unknown."
    verdict = str(metrics.get("held_out_reason") or audit.get("verdict") or unknown)
    intervals = metrics.get("intervals") or {}
    recipe = bundle_dir / "recipe.yaml"
    return Context(
        title=f"Report on the model {metrics.get('recipe') or bundle_dir.name}",
        synthetic=synthetic,
        headline=format_km(metrics["median_km"]) if "median_km" in metrics else "",
        headline_interval=_interval("median_km", intervals),
        measured_on=_measured_on(metrics),
        verdict=verdict,
        verdicts=[str(sentence) for sentence in metrics.get("verdicts") or []],
        colours=_colours(metrics, rows),
        held_out=metrics.get("held_out", audit.get("held_out")),
        known_spots=(audit.get("nearest_within") or {}).get("within_5_m", 0) > 0.5,
        numbers=_numbers(metrics, intervals),
        answerers=_answerers(metrics),
        countries=_countries(metrics.get("by_country") or []),
        pictures=pictures,
        best=best,
        worst=worst,
        browse=browse_of(read, _names(read), partition, photos),
        facts=_facts(index, metrics),
        recipe=recipe.read_text(encoding="utf-8") if recipe.is_file() else "",
        missing=missing,
    )


def _streets(trained: pl.DataFrame | None, read: pl.DataFrame | None, basemap: Path | None) -> Basemap | None:
    """Of the basemap, else of the tracks of the training photos; none where neither is there."""
    known = read if trained is None else trained
    if known is None or not len(known):
        return None
    photos = Photos(known, Path())
    return read_basemap(basemap, photos.lat, photos.lon) if basemap else tracks_of(photos)


def _pictures(
    metrics: Mapping[str, Any],
    audit: Mapping[str, Any],
    rows: pl.DataFrame | None,
    history: pl.DataFrame | None,
    partition: Partition | None,
    streets: Basemap | None,
    synthetic: bool,
) -> tuple[dict[str, Picture], list[str]]:
    pictures: dict[str, Picture] = {}
    missing: list[str] = []
    if partition is not None:
        cells = figures.cells_map(partition, title=partition.title, streets=streets, synthetic=synthetic)
        pictures["cells"] = picture(cells, "Map of the cells, coloured by photos per cell")
        bars = figures.photos_per_cell(partition.photos, synthetic=synthetic)
        pictures["photos_per_cell"] = picture(bars, "Photos of each cell, fullest first")
    else:
        missing.append("no map of the cells: the bundle has no cells.parquet")
    if history is not None and len(history):
        curves = figures.learning_curves(history, synthetic=synthetic)
        pictures["curves"] = picture(curves, "Loss and median error over the epochs")
    else:
        missing.append("no learning curves: the bundle came without training/history.csv")
    if rows is not None and len(rows):
        expected = rows["expected_error_km"].drop_nulls() if "expected_error_km" in rows.columns else None
        spread = figures.error_distribution(
            rows["error_km"],
            intervals=metrics.get("intervals"),
            expected_error_km=expected,
            synthetic=synthetic,
        )
        pictures["errors"] = picture(spread, "Share of photos located within each distance")
        columns = (rows[name] for name in ("lat", "lon", "predicted_lat", "predicted_lon", "error_km"))
        lines = figures.errors_map(*columns, streets=streets, synthetic=synthetic)
        pictures["errors_map"] = picture(lines, "Map with a line from the truth to each guess")
    else:
        missing.append("no error distribution and no examples: the evaluation has no predictions.parquet")
    bins = audit.get("nearest_photos")
    if bins:
        edges_km = [_edge_km(name) for name in list(bins)[:-1]]
        leak = figures.leak_histogram(edges_km, list(bins.values()), synthetic=synthetic)
        pictures["leak"] = picture(leak, "Test photos by the distance to the nearest training photo")
    else:
        missing.append("no leak histogram: the evaluation has no audit.json (it needs the training photos)")
    return pictures, missing


def _examples(
    rows: pl.DataFrame | None,
    partition: Partition | None,
    photos: Path | None,
    streets: Basemap | None,
    synthetic: bool,
) -> tuple[list[Example], list[Example]]:
    """The photos with the smallest and the largest errors, one a place, so that they are not all of one street."""
    if rows is None or not len(rows):
        return [], []
    if "belief_cells" in rows.columns and rows["belief_cells"].count():
        rows = rows.filter(pl.col("belief_cells").is_not_null())  # evaluation chose them so
    place = next((name for name in ("place", "place_code") if name in rows.columns), "path")
    ranked = rows.sort("error_km", "path").unique(place, keep="first", maintain_order=True)
    wrong = rows.sort("error_km", "path", descending=True).unique(place, keep="first", maintain_order=True)
    few = min(EXAMPLES, len(ranked) // 2 or 1)
    names = _names(rows)

    def example(row: dict[str, Any]) -> Example:
        expected = row.get("expected_error_km")
        name = names[row["path"]]
        return Example(
            path=name,
            error=format_km(row["error_km"]),
            expected=format_km(expected) if expected is not None else "",
            where=f"{row['lat']:.5f}, {row['lon']:.5f}",
            where_link=map_link(row["lat"], row["lon"]),
            guess=f"{row['predicted_lat']:.5f}, {row['predicted_lon']:.5f}",
            guess_link=map_link(row["predicted_lat"], row["predicted_lon"], max(row["error_km"], 0.2)),
            photo=thumbnail(photos / row["path"], name) if photos is not None else None,
            map=_example_map(row, partition, streets, synthetic) if partition is not None else None,
        )

    return [example(row) for row in ranked.head(few).to_dicts()], [example(row) for row in wrong.head(few).to_dicts()]


def _colours(metrics: Mapping[str, Any], rows: pl.DataFrame | None) -> str:
    if rows is not None and "belief_cells" in rows.columns and rows["belief_cells"].count():
        return "The colours are how likely the model finds each spot, of which its answer is the best one."
    if metrics.get("bits") is None:
        return ""
    return (
        "The colours are what the network alone says of its cells. The answer (the white cross) also weighs the known "
        "photos that look alike and where photos are at all, so it may lie outside the brightest cell, even where "
        "that cell holds the truth."
    )


def _names(rows: pl.DataFrame | None) -> dict[str, str]:
    """What to call each path: a page that is passed on tells nobody's folders."""
    paths = [] if rows is None else rows["path"].to_list()
    absolute = [path for path in paths if os.path.isabs(path)]  # noqa: PTH117
    private = os.path.commonpath([os.path.dirname(path) for path in absolute]) if absolute else ""  # noqa: PTH120
    return {path: os.path.relpath(path, private) if os.path.isabs(path) else path for path in paths}  # noqa: PTH117


def _example_map(row: Mapping[str, Any], partition: Partition, streets: Basemap | None, synthetic: bool) -> Picture:
    """The belief, or of each cell the probability, where the table keeps them, else all cells; truth and guess."""
    truth, guess = (row["lat"], row["lon"]), (row["predicted_lat"], row["predicted_lon"])
    alt = "Map with the true position and the best guess"
    shown: dict[str, Any] = {
        "truth": truth, "guess": guess, "width": EXAMPLE_WIDTH, "streets": streets, "synthetic": synthetic,
        "close": True,
    }  # fmt: skip
    if row.get("belief_cells"):
        cells = s2.from_tokens(row["belief_cells"])
        order = np.argsort(cells)
        ground = CellPartition(cells[order], np.ones(len(cells), np.int64), *s2.centers(cells[order]))
        density = np.asarray(row["belief_per_km2"])[order]
        figure = figures.probability_map(ground, density, title="What the model believes", per_km2=True, **shown)
        return picture(figure, f"{alt}, and how likely the model finds each spot")
    if not row.get("top_cells"):
        return picture(figures.cells_map(partition, title="Truth and guess", **shown), alt)
    probability = np.zeros(len(partition))
    row_of = {name: number for number, name in enumerate(partition.names)}
    probability[[row_of[name] for name in row["top_cells"]]] = row["top_probabilities"]
    title = "The network's own cells, and the answer"
    figure = figures.probability_map(partition, probability, title=title, **shown)
    return picture(figure, f"{alt}, and the cells that the network alone finds likeliest")


def _numbers(metrics: Mapping[str, Any], intervals: Mapping[str, Any]) -> list[Row]:
    rows: list[Row] = []
    for key, name, meaning in MEASURES:
        value = metrics.get(key)
        # Once every photo is within a radius, larger ones say nothing more.
        idle = key.startswith("within") and value == 1 and rows[-1].value == _percent(1)
        if value is not None and not idle:
            rows.append(Row(name, _value(key, value), _interval(key, intervals), meaning))
    if "map_diagonal_km" in metrics:
        meaning = "D of the score: a guess a tenth of D away scores 1839 of 5000"
        rows.append(Row("diagonal of the map", format_km(metrics["map_diagonal_km"]), "", meaning))
    if "unmarked" in metrics:
        fine = metrics["unmarked"]
        meaning = f"of the {fine['photos']:,} photos that `graticule data check` found fit to train with"
        interval = _interval("median_km", fine.get("intervals") or {})
        rows.append(Row("median error, unmarked photos", format_km(fine["median_km"]), interval, meaning))
    return rows


def _answerers(metrics: Mapping[str, Any]) -> list[Answerer]:
    """The model itself and the others that were asked; nothing where there were none."""
    others = metrics.get("others") or {}
    return [
        Answerer(
            name,
            format_km(found["median_km"]),
            _interval("median_km", found.get("intervals") or {}),
            format_km(found["mean_km"]),
            ANSWERERS.get(name, "each photo alone"),
        )
        for name, found in ({"this model": metrics} | others if others else {}).items()
    ]


def _countries(rows: Sequence[Mapping[str, Any]]) -> list[Country]:
    return [
        Country(
            name=str(row["label"]),
            photos=f"{row['photos']:,}",
            median=format_km(row["median_km"]),
            within_25_km=_percent(row["within_25_km"]),
        )
        for row in rows
    ]


def _facts(index: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, str]:
    trained = index.get("facts") or {}
    named = {
        "encoder": metrics.get("encoder"),
        "answer": metrics.get("answer"),
        "training photos": trained.get("photos"),
        "training places": trained.get("places"),
        "cells": trained.get("cells"),
        "seconds of training": trained.get("seconds"),
        **{f"version of {name}": version for name, version in (index.get("versions") or {}).items()},
        **{f"SHA-256 of {name}": digest for name, digest in (index.get("sha256") or {}).items()},
    }
    return {name: f"{v:,}" if isinstance(v, int | float) else str(v) for name, v in named.items() if v is not None}


def _value(key: str, value: float) -> str:
    if key.endswith("_km") and not key.startswith("within"):
        return format_km(value)
    if key.startswith(("within", "top", "coverage")):
        return _percent(value)
    if key.endswith("_km2"):
        return f"{value:,.0f} km\u00b2" if value >= 100 else f"{value:.3g} km\u00b2"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if key == "score" else f"{value:.2f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _interval(key: str, intervals: Mapping[str, Any]) -> str:
    if key not in intervals:
        return ""
    low, high = (_value(key, end).replace(" ", "\u00a0") for end in intervals[key])  # a unit stays with its number
    return f"{low} to {high}"


def _measured_on(metrics: Mapping[str, Any]) -> str:
    if not metrics:
        return ""
    part = {"all": "photos"}.get(metrics.get("split", "test"), f"photos of the part “{metrics.get('split', 'test')}”")
    return f"{metrics.get('photos', 0):,} {part} at {metrics.get('places', 0):,} places"


def _edge_km(name: str) -> float:
    """``up_to_25_m`` is 0.025."""
    number, unit = name.removeprefix("up_to_").split("_")
    return float(number) / (1000 if unit == "m" else 1)


def _json(path: Path) -> dict[str, Any]:
    """A JSON object, or nothing where there is no file."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadTableError(f"{path} is not JSON ({error}); run the command that wrote it again") from error
    if not isinstance(value, dict):
        raise BadTableError(f"{path} holds a {type(value).__name__}, not named values; it is not what graticule wrote")
    return value


def _table(path: Path) -> pl.DataFrame | None:
    if not path.is_file():
        return None
    return pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path)
