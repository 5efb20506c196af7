"""Honest numbers for small collections: train and test on K grouped folds, and pool."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import yaml

from graticule.choices import Together
from graticule.config import Recipe
from graticule.evaluation.baselines import with_baselines
from graticule.evaluation.evaluate import Evaluation
from graticule.evaluation.predictions import predict_rows, summary
from graticule.evaluation.verdicts import verdicts
from graticule.files import write_text
from graticule.geo.sphere import map_scale
from graticule.inference.locate import Locator
from graticule.model.bundle import portable
from graticule.model.features import FeatureStore
from graticule.model.index import RECIPE
from graticule.model.loading import Progress, silent
from graticule.photos.leakage import LeakAudit, audit
from graticule.photos.splits import fold_masks
from graticule.photos.table import Photos
from graticule.training.calibrate import fit_calibrated


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
    """Train and test on K grouped folds; each photo is predicted once, by a model that never saw its group.

    Args:
        group: ``block``, ``world`` or a group of :func:`graticule.photos.splits.groups_of`, such as ``place``.
        baseline, together: as for :func:`graticule.evaluation.evaluate.evaluate`.

    Marked photos are predicted, but train in no fold.
    """
    sizes = {"block_km": recipe.split.block_km, "buffer_km": recipe.split.buffer_km}
    parts: list[pl.DataFrame] = []
    audits: list[LeakAudit] = []
    cells: list[int] = []
    seconds = 0.0
    for fold, (rest, tested) in enumerate(fold_masks(photos, folds, group, recipe.seed, **sizes)):
        train, test = photos.take(rest & photos.may_train()), photos.take(tested)

        def report_progress(done: int, total: int, note: str, fold: int = fold) -> None:
            progress(done, total, f"fold {fold + 1}/{folds}  {note}")

        started = time.monotonic()
        bundle = fit_calibrated(
            recipe, train, by=group, albums=together is not None, store=store, progress=report_progress
        )
        seconds += time.monotonic() - started
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
        "calibration": bundle.facts.get("calibration"),  # of the last fold
        "never_trained": int((~photos.may_train()).sum()),
        "training_seconds": round(seconds, 1),  # calibration included
        "median_km_by_fold": median_km,
        "audits": [replace(a, worst=[]).to_json() for a in audits],
    }
    metrics = facts | summary(rows, scale_km)
    return Evaluation(metrics | {"verdicts": verdicts(metrics)}, rows, _worst(audits))


def write_folds(found: Evaluation, recipe: Recipe, folder: Path) -> Path:
    """Write what :func:`crossval` found, and the recipe, so that a table of runs can say what each was."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / RECIPE, yaml.safe_dump(portable(recipe), sort_keys=False))
    return found.write(folder)


def _worst(audits: Sequence[LeakAudit]) -> LeakAudit:
    """The audit of the fold whose test photos lie nearest to training photos."""
    return min(audits, key=lambda a: a.median_nearest_km)
