"""A bundle and photos to honest numbers: one evaluation, K folds, and what a leaking split would have claimed."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from graticule.config import Precision, Recipe
from graticule.errors import BadTableError, LeakError
from graticule.evaluation.baselines import BASELINES, neighbour_errors_km, with_baselines
from graticule.evaluation.metrics import TOP, bootstrap_intervals, by_group, cross_entropies, position_metrics, top_hits
from graticule.files import write_json, write_parquet
from graticule.geo.sphere import from_vectors, great_circle_km, map_scale
from graticule.inference.albums import Together
from graticule.inference.locate import Locator
from graticule.model.bundle import TRAINING, Bundle
from graticule.model.features import FeatureStore
from graticule.model.loading import Progress, silent
from graticule.partition import NO_CELL
from graticule.photos.cards import write_card
from graticule.photos.leakage import LeakAudit, audit
from graticule.photos.splits import BLOCKS_KM, block_sizes, make_folds, within_buffer
from graticule.photos.table import MARKED, Photos, read_photos
from graticule.training.train import AUDIT, PHOTOS, RUN, fit, split_photos

METRICS, PREDICTIONS = "metrics.json", "predictions.parquet"
SHOWN_CELLS = 20  # likeliest cells kept for each photo, for the probability maps of the report
CARRIED = ("place", "sequence", "country", "heading", "captured_at", MARKED)


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes:
        metrics: plain values for JSON; units are in the names.
        rows: one row a photo that could be read.
        audit: what the training photos give away about these; none where they are not at hand.
    """

    metrics: dict[str, Any]
    rows: pl.DataFrame
    audit: LeakAudit | None

    def write(self, folder: Path) -> Path:
        """Write ``metrics.json``, ``predictions.parquet`` and, where there is one, ``audit.json``."""
        folder.mkdir(parents=True, exist_ok=True)
        write_parquet(folder / PREDICTIONS, self.rows)
        if self.audit:
            write_json(folder / AUDIT, self.audit.to_json())
        write_json(folder / METRICS, self.metrics)
        return folder


def evaluate(
    bundle: Bundle,
    photos: Photos,
    *,
    split: str = "test",
    allow_leak: bool = False,
    baseline: bool = False,
    together: Together | None = None,
    store: FeatureStore | None = None,
    precision: Precision = "float32",
    progress: Progress = silent,
) -> Evaluation:
    """Ask a bundle about photos whose place is known.

    ``metrics["held_out"]`` says whether the numbers may be called held out (none: it cannot be told), and
    ``metrics["held_out_reason"]`` why.

    Args:
        split: ``test``, ``val`` or ``train`` of the photos the bundle was trained on, or ``all`` for other photos.
        allow_leak: measure photos that are not held out all the same. Not needed for ``train``, which nobody
            takes for held out.
        baseline: measure the nearest training photos too: what the encoder gives without the training.
        together: measure the photos of each ``place`` or ``sequence`` answered together too.
        precision: as for :class:`graticule.inference.locate.Locator`.

    Raises:
        BadTableError: there are no such photos, or no training photos for the baseline.
        LeakError: training has seen drives or places of these photos, and ``allow_leak`` is not given.
    """
    training = training_photos(bundle)
    chosen = _choose(photos, training, split)
    leak = None
    held_out, reason = None, "Cannot tell whether held out: the table of training photos is not beside the bundle."
    if training is not None:
        leak = audit(training.take(training.column("split") == "train"), chosen)
        held_out, reason = leak.held_out, leak.verdict
    if split == "train":
        held_out, reason = False, "NOT held out: these are the photos that the bundle was trained on."
    elif held_out is False and not allow_leak:
        raise LeakError(
            f"{reason} A number measured on these photos would be memory in part. Split by whole drives or by blocks "
            f"and train again (graticule data split), or measure them all the same with --allow-leak"
        )
    locator = Locator(bundle, store=store, precision=precision)
    rows = predict_rows(locator, chosen, progress=progress)
    known = None
    if baseline:
        if training is None:
            raise BadTableError(
                "the baseline asks the training photos, and their table is not beside the bundle; copy its folder "
                f"{TRAINING} too, or leave the baseline out"
            )
        known = training.take(training.column("split") == "train")
    rows = with_baselines(rows, locator, chosen, known, together=together, seed=bundle.recipe.seed, progress=progress)
    scale_km, scale_from = bundle.facts.get("map_diagonal_km"), "photos"
    if scale_km is None:  # a bundle of before this was written down
        scale_km, scale_from = map_scale(bundle.partition.lat, bundle.partition.lon, None)[0], "cells"
    facts = {
        "split": split,
        "map_diagonal_from": scale_from,
        "held_out": held_out,
        "held_out_reason": reason,
        "recipe": bundle.recipe.name,
        "encoder": bundle.recipe.encoder.name,
        "answer": bundle.recipe.answer,
        "precision": precision,
        "synthetic": photos.synthetic,
        "trained_on": bundle.facts.get("photos"),
        "cells": len(bundle.partition),
    }
    return Evaluation(facts | summary(rows, scale_km), rows, leak)


def evaluate_folder(
    bundle_path: Path,
    dataset: Path,
    out: Path,
    *,
    split: str = "test",
    allow_leak: bool = False,
    baseline: bool = False,
    together: Together | None = None,
    store: FeatureStore | None = None,
    precision: Precision = "float32",
    progress: Progress = silent,
) -> Evaluation:
    """:func:`evaluate` from paths to paths; the bundle's model card is renewed with what it holds by then."""
    bundle, photos = Bundle.read(bundle_path), read_photos(dataset)
    found = evaluate(
        bundle,
        photos,
        split=split,
        allow_leak=allow_leak,
        baseline=baseline,
        together=together,
        store=store,
        precision=precision,
        progress=progress,
    )
    found.write(out)
    write_card(bundle_path)
    return found


def training_photos(bundle: Bundle) -> Photos | None:
    """The table that a bundle was trained on, with its split; none where the bundle travelled without it."""
    if bundle.path is None or not (bundle.path / TRAINING / PHOTOS).exists():
        return None
    about = bundle.path / TRAINING / RUN
    run = json.loads(about.read_text(encoding="utf-8")) if about.exists() else {}
    return Photos(pl.read_parquet(bundle.path / TRAINING / PHOTOS), Path(run.get("root", bundle.path)))


def predict_rows(locator: Locator, photos: Photos, *, progress: Progress = silent) -> pl.DataFrame:
    """One row a photo: truth, answer, error and what the network said of the cells.

    A photo that cannot be read has nulls and its reason in ``error``. ``true_cell`` is null outside every cell.
    ``center_distance_km`` is report A's distance, centre of the predicted cell to centre of the true cell: zero
    whenever the cell is right, however large the cell. A network without cells leaves null what is about cells;
    ``regression_error_km`` is the error of a regressed position, whichever answer was asked for.
    """
    partition = locator.bundle.partition
    true_row = partition.rows_of(photos)
    count = len(photos)
    number = {
        name: np.full(count, np.nan)
        for name in ("predicted_lat", "predicted_lon", "expected_error_km", "probability", "nll", "regression_error_km")
    }
    read = np.zeros(count, bool)
    best = np.full(count, NO_CELL)
    has_cells = locator.bundle.model.head.cells is not None
    hits = {f"top{k}": np.zeros(count, bool) for k in TOP}
    reasons: list[str | None] = [None] * count
    shown = min(SHOWN_CELLS, len(partition))
    likely = np.zeros((count, shown), np.int64)
    likely_probability = np.zeros((count, shown))
    for predictions in locator.predict_batches(photos.paths(), progress=progress):
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
        if log_probability is None:
            continue
        likely[index] = np.argsort(-log_probability, axis=1, kind="stable")[:, :shown]
        likely_probability[index] = np.exp(np.take_along_axis(log_probability, likely[index], axis=1))
        best[index] = likely[index, 0]
        number["probability"][index] = likely_probability[index, 0]
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
    names = [*partition.names, None]  # NO_CELL takes the last
    nothing: list[None] = [None] * count
    texts, numbers = pl.List(pl.String), pl.List(pl.Float64)
    return photos.frame.select("path", "lat", "lon", *(c for c in CARRIED if photos.has(c))).with_columns(
        pl.Series("place_code", photos.places()),
        pl.Series("true_cell", [names[i] for i in true_row], pl.String),
        pl.Series("predicted_cell", [names[i] for i in best], pl.String),
        *(pl.Series(name, values).fill_nan(None) for name, values in number.items()),
        pl.Series("error_km", error_km).fill_nan(None),
        pl.Series("center_distance_km", between).fill_nan(None),
        *(pl.Series(name, values if has_cells else nothing, pl.Boolean) for name, values in hits.items()),
        pl.Series("top_cells", [[names[j] for j in row] for row in likely] if has_cells else nothing, texts),
        pl.Series("top_probabilities", likely_probability.round(5).tolist() if has_cells else nothing, numbers),
        pl.Series("error", reasons, pl.String),
    )


def summary(rows: pl.DataFrame, scale_km: float) -> dict[str, Any]:
    """The numbers of :func:`predict_rows`, pooled; 95 % intervals are resampled by place.

    Where some photo is marked, ``unmarked`` holds the position metrics of the others.

    Raises:
        BadTableError: no photo could be read.
    """
    read = rows.filter(pl.col("error").is_null())
    if read.is_empty():
        raise BadTableError(f"none of the {len(rows)} photos could be read, so there is nothing to measure")
    error_km, place = read["error_km"].to_numpy(), read["place_code"].to_numpy()
    hits = {f"top{k}": read[f"top{k}"].to_numpy() for k in TOP if read[f"top{k}"].null_count() == 0}
    regressed = read["regression_error_km"]
    return {
        "photos": len(read),
        "unreadable": len(rows) - len(read),
        "places": int(read["place_code"].n_unique()),
        "outside_cells": int(read["true_cell"].null_count()),
        **{f"top{k}": read[f"top{k}"].mean() for k in TOP},  # null, as the next, where the network has no cells
        "cross_entropy": read["nll"].mean(),  # of the photos inside a cell; outside it would be infinite
        **position_metrics(error_km, scale_km),
        "map_diagonal_km": scale_km,
        "center_distance_km": read["center_distance_km"].mean(),
        "regression_median_km": regressed.median(),
        "regression_mean_km": regressed.mean(),
        "expected_error_km": read["expected_error_km"].mean(),
        "intervals": {
            name: list(ends) for name, ends in bootstrap_intervals(error_km, scale_km, place, shares=hits).items()
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
            spans = bootstrap_intervals(error_km, scale_km, place)
            intervals = {key: list(ends) for key, ends in spans.items()}
            found[name] = {"photos": len(read), **position_metrics(error_km, scale_km), "intervals": intervals}
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


def crossval(
    recipe: Recipe,
    photos: Photos,
    *,
    folds: int,
    group: str,
    baseline: bool = False,
    together: Together | None = None,
    store: FeatureStore | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """Train and test on K grouped folds; each photo is asked about once, by a model that never saw its group.

    Args:
        group: ``block``, ``world`` or a group of :func:`graticule.photos.splits.groups_of`, such as ``place``.
        baseline, together: as for :func:`evaluate`.

    Marked photos are asked about, but train in no fold.
    """
    block_km, buffer_km = block_sizes(group, recipe.split.block_km, recipe.split.buffer_km)
    number = make_folds(photos, folds, group, recipe.seed, block_km=block_km)
    parts: list[pl.DataFrame] = []
    audits: list[LeakAudit] = []
    cells: list[int] = []
    for fold in range(folds):
        test = photos.take(number == fold)
        rest = (number != fold) & photos.may_train()
        if group in BLOCKS_KM:  # blocks touch: what lies beside the test's would give it away
            rest &= ~within_buffer(photos.lat, photos.lon, test.lat, test.lon, buffer_km)
        train = photos.take(rest)

        def report_progress(done: int, total: int, note: str, fold: int = fold) -> None:
            progress(done, total, f"fold {fold + 1}/{folds}  {note}")

        bundle = fit(recipe, train, store=store, progress=report_progress)
        locator = Locator(bundle, store=store)
        rows = predict_rows(locator, test, progress=report_progress)
        known = train if baseline else None
        rows = with_baselines(rows, locator, test, known, together=together, seed=recipe.seed, progress=report_progress)
        parts.append(rows.with_columns(pl.lit(fold).alias("fold")))
        audits.append(audit(train, test))
        cells.append(len(bundle.partition))
    # Place codes count within a fold; a place lies in one fold where it is the group, else its parts stay apart.
    rows = pl.concat(parts, how="vertical_relaxed").with_columns(
        pl.struct("fold", "place_code").rank("dense").alias("place_code")
    )
    scale_km, _ = map_scale(photos.lat, photos.lon, None)
    median_km = [float(np.median(part["error_km"].drop_nulls().to_numpy())) for part in parts]
    facts = {
        "recipe": recipe.name,
        "encoder": recipe.encoder.name,
        "answer": recipe.answer,
        "folds": folds,
        "group": group,
        "synthetic": photos.synthetic,
        "cells": cells,
        "never_trained": int((~photos.may_train()).sum()),
        "median_km_by_fold": median_km,
        "audits": [replace(a, worst=[]).to_json() for a in audits],
    }
    return Evaluation(facts | summary(rows, scale_km), rows, _worst(audits))


@dataclass(frozen=True, slots=True)
class LeakRow:
    """One line of the leak table: a method on a split."""

    split: str
    method: str
    train_photos: int
    test_photos: int
    top1: float | None
    center_distance_km: float | None
    median_km: float
    mean_km: float
    within_25_m: float
    within_5_m_of_training: float
    shared_sequences: int | None


def leak_table(
    recipe: Recipe,
    photos: Photos,
    methods: Sequence[str],
    *,
    store: FeatureStore | None = None,
    progress: Progress = silent,
) -> list[LeakRow]:
    """The same recipe and a 1-nearest-neighbour on its encoder, on each of several splits.

    What a split by frame promises beyond the split by drive is leak, not skill.

    Args:
        methods: values of ``split.by``, such as ``("random", "sequence")``.
    """
    table: list[LeakRow] = []
    for by in methods:
        own = recipe.model_copy(update={"split": recipe.split.model_copy(update={"by": by})})
        split = split_photos(own, photos)
        # Validation photos train too: nothing is tuned here, and the report's split had no third part.
        train = photos.take(((split == "train") | (split == "val")) & photos.may_train())
        test = photos.take(split == "test")

        def report_progress(done: int, total: int, note: str, by: str = by) -> None:
            progress(done, total, f"split by {by}  {note}")

        bundle = fit(own, train, store=store, progress=report_progress)
        locator = Locator(bundle, store=store)
        leak = audit(train, test)
        rows = predict_rows(locator, test, progress=report_progress)
        top1: Any = rows["top1"].mean()
        centers: Any = rows["center_distance_km"].mean()
        nearest_km, _ = neighbour_errors_km(locator, train, test, seed=own.seed, progress=report_progress)
        learned = own.target.kind if own.head.kind != "position" else "position"
        methods_run: list[tuple[str, float | None, float | None, NDArray[np.float64]]] = [
            (f"{learned}, {own.answer}", top1, centers, rows["error_km"].to_numpy()),
            ("1-nearest neighbour", None, None, nearest_km),
        ]
        table += [
            LeakRow(
                split=by,
                method=method,
                train_photos=len(train),
                test_photos=len(test),
                top1=hit,
                center_distance_km=between_km,
                median_km=float(np.median(error_km)),
                mean_km=float(error_km.mean()),
                within_25_m=float((error_km <= 0.025).mean()),
                within_5_m_of_training=leak.nearest_within["within_5_m"],
                shared_sequences=leak.shared_sequences,
            )
            for method, hit, between_km, error_km in methods_run
        ]
    return table


def _choose(photos: Photos, training: Photos | None, split: str) -> Photos:
    """The photos of one part: as training divided them, else as the table's own column says."""
    if split == "all":
        return photos
    if training is not None:
        names = training.frame.select("lat", "lon", pl.col("path"), "split")
        keyed = photos.frame.select("path", "lat", "lon").join(
            names, on=["path", "lat", "lon"], how="left", maintain_order="left"
        )
        part = keyed["split"].to_numpy() if len(keyed) == len(photos) else np.full(len(photos), None)
        if (part != None).any():  # noqa: E711 - elementwise
            chosen = photos.take(np.asarray(part == split, bool))
            if len(chosen):
                return chosen
            raise BadTableError(f"the bundle's split left no photos for {split!r}; use --split all, or another part")
    if photos.has("split"):
        chosen = photos.take(photos.column("split") == split)
        if len(chosen):
            return chosen
    raise BadTableError(
        f"none of these {len(photos)} photos is in the part {split!r}: the bundle was not trained on this table, "
        f"and it has no such value in a column 'split'; use --split all to ask about every photo"
    )


def _worst(audits: Sequence[LeakAudit]) -> LeakAudit:
    """The audit of the fold whose test photos lie nearest to training photos."""
    return min(audits, key=lambda a: a.median_nearest_km)
