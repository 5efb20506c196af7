"""One row a photo, with what was predicted and how far off; and the rows summed up."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from graticule.errors import BadTableError
from graticule.evaluation.metrics import (
    TOP,
    bootstrap_intervals,
    by_group,
    calibration_error,
    cross_entropies,
    median_difference,
    position_metrics,
    top_hits,
)
from graticule.evaluation.sureness import COVERED, belief_metrics, belief_values
from graticule.geo import s2
from graticule.geo.sphere import Floats, from_vectors, great_circle_km
from graticule.inference.albums import Albums
from graticule.inference.decode import likeliest
from graticule.inference.locate import Locator
from graticule.inference.said import Predictions
from graticule.inference.views import Exact
from graticule.model.loading import Progress, silent
from graticule.partition import NO_CELL
from graticule.photos.table import MARKED, Photos

SHOWN_PHOTOS = 4  # best, and as many worst, whose beliefs are kept for the report
SHOWN_CELLS = 20  # likeliest cells kept for each photo, for the probability maps of the report
AT_ONCE = 65_536  # photos asked at once, and rows whose lists are made at once
BELIEF = (  # columns of a calibrated bundle; null of any other
    "log_density", "prior_log_density", *COVERED, "area_90_km2", "searched_km2", "median_error_km", "p90_error_km",
    "unlike_training",
)  # fmt: skip
BASELINES = {  # column of the predictions, what else answered the photo
    "together_error_km": "answered together",
    "nearest_error_km": "nearest neighbour",
    "density_error_km": "density of neighbours",
}
CARRIED = ("place", "sequence", "country", "heading", "captured_at", MARKED)


def predict_rows(
    locator: Locator, photos: Photos, *, albums: Albums | None = None, progress: Progress = silent
) -> pl.DataFrame:
    """One row a photo: truth, answer, error and what the network said of the cells.

    A photo that cannot be read has nulls and its reason in ``error``. ``true_cell`` is null outside every cell.
    ``center_distance_km`` is report A's distance, centre of the predicted cell to centre of the true cell: zero
    whenever the cell is right, however large the cell. A network without cells leaves null what is about cells;
    ``regression_error_km`` is the error of a regressed position, whichever answer was asked for.

    Args:
        albums: which photos are answered together; each by itself where there are none.
    """
    partition = locator.bundle.partition
    true_row = partition.rows_of(photos)
    count = len(photos)
    number = {
        name: np.full(count, np.nan)
        for name in (
            "predicted_lat",
            "predicted_lon",
            "expected_error_km",
            "probability",
            "nll",
            "regression_error_km",
            *BELIEF,
        )
    }
    read = np.zeros(count, bool)
    best = np.full(count, NO_CELL)
    has_cells = locator.bundle.model.head.has_cells
    hits = {f"top{k}": np.zeros(count, bool) for k in TOP}
    reasons: list[str | None] = [None] * count
    shown = min(SHOWN_CELLS, len(partition))
    likely = np.zeros((count, shown), np.int32)
    likely_probability = np.zeros((count, shown), np.float32)
    for predictions in _predicted(locator, photos, albums, progress):
        for i, error in predictions.errors.items():
            reasons[i] = str(error)
        index, log_probability = predictions.index, predictions.log_probability
        read[index] = True
        number["predicted_lat"][index] = predictions.points.lat
        number["predicted_lon"][index] = predictions.points.lon
        number["expected_error_km"][index] = predictions.points.expected_error_km
        if predictions.position is not None:
            spot = from_vectors(predictions.position)
            number["regression_error_km"][index] = great_circle_km(photos.lat[index], photos.lon[index], *spot)
        for name, values in _of_belief(locator, predictions, photos.lat[index], photos.lon[index]).items():
            number[name][index] = values
        if log_probability is None:
            continue
        likely[index] = likeliest(log_probability, shown)
        probability = np.exp(np.take_along_axis(log_probability, likely[index], axis=1))
        likely_probability[index] = probability
        best[index] = likely[index, 0]
        number["probability"][index] = probability[:, 0]
        number["nll"][index] = cross_entropies(log_probability, true_row[index])
        for name, hit in top_hits(log_probability, true_row[index]).items():
            hits[name][index] = hit
    error_km = np.full(count, np.nan)
    error_km[read] = great_circle_km(
        photos.lat[read], photos.lon[read], number["predicted_lat"][read], number["predicted_lon"][read]
    )
    between = np.full(count, np.nan)
    both = (best != NO_CELL) & (true_row != NO_CELL)
    lat, lon = partition.center_lat, partition.center_lon
    between[both] = great_circle_km(lat[best[both]], lon[best[both]], lat[true_row[both]], lon[true_row[both]])
    names = pl.Series([*partition.names, None], dtype=pl.String)  # NO_CELL takes the last
    nothing = pl.Series([None], dtype=pl.Null).new_from_index(0, count)
    # Of millions of photos this is most of the memory: names as codes, lists some rows at a time, arrays let go.
    names = names.cast(pl.Categorical)
    texts, numbers = pl.List(pl.Categorical), pl.List(pl.Float32)
    if has_cells:
        cells = _lists(likely, names.gather, texts)
        del likely
        probabilities = _lists(likely_probability, lambda some: pl.Series(some.round(5)), numbers)
        del likely_probability
    else:
        cells, probabilities = nothing.cast(texts), nothing.cast(numbers)
    return photos.frame.select("path", "lat", "lon", *(c for c in CARRIED if photos.has(c))).with_columns(
        pl.Series("place_code", photos.places()),
        names.gather(true_row % len(names)).alias("true_cell"),
        names.gather(best % len(names)).alias("predicted_cell"),
        *(pl.Series(name, number.pop(name)).fill_nan(None) for name in [*number]),
        pl.Series("error_km", error_km).fill_nan(None),
        pl.Series("center_distance_km", between).fill_nan(None),
        *(pl.Series(name, values if has_cells else nothing, pl.Boolean) for name, values in hits.items()),
        cells.alias("top_cells"),
        probabilities.alias("top_probabilities"),
        pl.Series("error", reasons, pl.String),
    )


def _predicted(locator: Locator, photos: Photos, albums: Albums | None, progress: Progress) -> Iterator[Predictions]:
    """What is predicted; some photos at a time, since the paths of millions alone take gigabytes."""
    if albums:
        yield from locator.predict_together(photos.paths(), albums, progress=progress)
        return
    for start in range(0, len(photos), AT_ONCE):
        some = photos.take(range(start, min(start + AT_ONCE, len(photos))))

        def told(done: int, total: int, note: str, before: int = start, others: int = len(photos) - len(some)) -> None:
            progress(before + done, others + total, note)

        for found in locator.predict_batches(some.paths(), progress=told):
            errors = {start + i: error for i, error in found.errors.items()}
            yield replace(found, index=start + found.index, errors=errors)


def _lists(values: NDArray[Any], make: Callable[[NDArray[Any]], pl.Series], kind: pl.List) -> pl.Series:
    """Each row of ``values`` as a list of what ``make`` makes of its numbers."""
    width, starts = values.shape[1], range(0, max(1, len(values)), AT_ONCE)
    parts = (make(values[start : start + AT_ONCE].ravel()).reshape((-1, width)).cast(kind) for start in starts)
    return pl.concat(parts, rechunk=False)


def _of_belief(locator: Locator, predictions: Predictions, lat: Floats, lon: Floats) -> dict[str, Floats]:
    """The columns ``BELIEF`` of one batch, whose truths are these; nothing of a bundle that is not calibrated."""
    belief, sureness = predictions.belief, locator.sureness(predictions)
    if belief is None or sureness is None:
        return {}
    ground = locator.ground()
    row = ground.row_of(lat, lon)
    needed = ground.needed_mass(sureness.masses, row)
    levels = zip(COVERED, sureness.calibration.region_mass.values(), strict=True)
    found = {
        "log_density": belief.log_density(lat, lon),
        "prior_log_density": belief.log_prior(lat, lon),
        **{name: (needed <= mass).astype(np.float64) for name, mass in levels},
        "area_90_km2": sureness.area_km2,
        "searched_km2": ground.searched_km2(sureness.masses, row),
        "median_error_km": sureness.median_error_km,
        "p90_error_km": sureness.p90_error_km,
    }
    return found if sureness.unlike_training is None else found | {"unlike_training": sureness.unlike_training}


def with_shown_beliefs(rows: pl.DataFrame, locator: Locator, photos: Photos) -> pl.DataFrame:
    """The rows of these photos, with what is believed of the few that a report shows: best and worst, one a place.

    ``belief_cells`` are S2 tokens, ``belief_per_km2`` the density in each; null of all other rows, and of a bundle
    that is not calibrated.
    """
    by_error = rows.select("path", "place_code", "error_km").with_row_index().drop_nulls("error_km")
    by_error = by_error.sort("error_km", "path").drop("path", "error_km")
    shown = pl.concat(
        ranked.unique("place_code", keep="first", maintain_order=True).head(SHOWN_PHOTOS)
        for ranked in (by_error, by_error.reverse())
    )["index"].unique()
    cells: dict[int, list[str]] = {}
    per_km2: dict[int, list[float]] = {}
    paths = photos.take(shown.to_numpy()).paths()
    for index, result in zip(shown, locator.results(paths, masses=True), strict=True):
        view = result.fix and Exact(locator, result.fix, result.masses, result.calibration)
        if view and (density := view.density()):
            cells[index] = s2.to_tokens(density[0])
            per_km2[index] = (density[1] / s2.areas_km2(density[0])).tolist()
    every = range(len(rows))
    return rows.with_columns(
        pl.Series("belief_cells", map(cells.get, every), pl.List(pl.String)),
        pl.Series("belief_per_km2", map(per_km2.get, every), pl.List(pl.Float64)),
    )


def summary(rows: pl.DataFrame, scale_km: float) -> dict[str, Any]:
    """The numbers of :func:`predict_rows`, pooled; 95 % intervals are resampled by place.

    Where some photo is marked, ``unmarked`` holds the position metrics of the others.

    Raises:
        BadTableError: no photo could be read.
    """
    read = rows.drop("top_cells", "top_probabilities", strict=False)  # of millions of photos most of what is copied
    if read["error"].null_count() < len(read):
        read = read.filter(pl.col("error").is_null())
    if read.is_empty():
        raise BadTableError(f"none of the {len(rows)} photos could be read, so there is nothing to measure")
    error_km, place = read["error_km"].to_numpy(), read["place_code"].to_numpy()
    hits = {f"top{k}": read[f"top{k}"].to_numpy() for k in TOP if read[f"top{k}"].null_count() == 0}
    values = hits | belief_values(read)
    regressed = read["regression_error_km"]
    return {
        "photos": len(read),
        "unreadable": len(rows) - len(read),
        "places": int(read["place_code"].n_unique()),
        "outside_cells": int(read["true_cell"].null_count()),
        **{f"top{k}": read[f"top{k}"].mean() for k in TOP},  # null, as the next, where the network has no cells
        "ece": calibration_error(read["probability"].to_numpy(), hits["top1"]) if "top1" in hits else None,
        "cross_entropy": read["nll"].mean(),  # of the photos inside a cell; outside it would be infinite
        **position_metrics(error_km, scale_km),
        "map_diagonal_km": scale_km,
        "center_distance_km": read["center_distance_km"].mean(),
        "regression_median_km": regressed.median(),
        "regression_mean_km": regressed.mean(),
        "expected_error_km": read["expected_error_km"].mean(),
        **belief_metrics(read),
        "intervals": {
            name: list(ends) for name, ends in bootstrap_intervals(error_km, scale_km, place, shares=values).items()
        },
        "by_country": by_group(error_km, read["country"].to_numpy()) if "country" in read.columns else [],
        **_unmarked(read, scale_km),
        **_others(read, scale_km),
    }


def _others(read: pl.DataFrame, scale_km: float) -> dict[str, Any]:
    """Position metrics of what else answered these photos, by name; nothing where nothing else was asked."""
    found = {}
    for column, name in BASELINES.items():
        if column in read.columns:
            error_km, place = read[column].to_numpy(), read["place_code"].to_numpy()
            theirs = {column.replace("error_km", one): one for one in BELIEF}
            believed = None
            if theirs.keys() <= set(read.columns):
                believed = read.select(pl.col(column).alias("error_km"), *theirs).rename(theirs)
            spans = bootstrap_intervals(
                error_km, scale_km, place, shares=None if believed is None else belief_values(believed)
            )
            ends = median_difference(read["error_km"].to_numpy(), error_km, place)
            found[name] = {
                "photos": len(read),
                **position_metrics(error_km, scale_km),
                **({} if believed is None else belief_metrics(believed)),
                "intervals": {key: list(span) for key, span in spans.items()},
                # Of the model's median less this one's; null of a single place.
                "median_difference_km": list(ends) if np.isfinite(ends).all() else None,
            }
    return {"others": found} if found else {}


def _unmarked(read: pl.DataFrame, scale_km: float) -> dict[str, Any]:
    """Position metrics without the marked photos; nothing where none is marked, or all are."""
    fine = read.filter(pl.col(MARKED).is_null()) if MARKED in read.columns else read
    if len(fine) in (0, len(read)):
        return {}
    error_km, place = fine["error_km"].to_numpy(), fine["place_code"].to_numpy()
    intervals = bootstrap_intervals(error_km, scale_km, place)
    return {
        "unmarked": {
            "photos": len(fine),
            **position_metrics(error_km, scale_km),
            "intervals": {name: list(ends) for name, ends in intervals.items()},
        }
    }
