"""A bundle and photos to honest numbers."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from graticule.choices import Answer, Precision, Runtime, Together
from graticule.errors import BadTableError, LeakError
from graticule.evaluation.baselines import with_baselines
from graticule.evaluation.predictions import predict_rows, summary, with_shown_beliefs
from graticule.evaluation.verdicts import verdicts
from graticule.files import write_json, write_parquet
from graticule.geo.sphere import map_scale
from graticule.inference.locate import Locator, answering
from graticule.model.bundle import Bundle
from graticule.model.features import FeatureStore
from graticule.model.index import RUN, TRAINING
from graticule.model.loading import Progress, silent
from graticule.photos.cards import write_card
from graticule.photos.leakage import LeakAudit, audit
from graticule.photos.table import Photos, read_photos
from graticule.training.prepare import AUDIT, PHOTOS

GALLERY = "gallery"  # the part of photos that a bundle got to know after its training
METRICS, PREDICTIONS = "metrics.json", "predictions.parquet"


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
    runtime: Runtime | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """Ask a bundle about photos whose place is known.

    ``metrics["held_out"]`` says whether the numbers may be called held out (none: it cannot be told), and
    ``metrics["held_out_reason"]`` why.

    Args:
        split: ``test``, ``val`` or ``train`` of the photos the bundle was trained on, or ``all`` for other photos.
        allow_leak: measure photos that are not held out all the same. Not needed for ``train``, which is never
            called held out.
        baseline: measure the nearest training photos too: what the encoder gives without the training.
        together: measure the photos of each ``place`` or ``sequence`` answered together too.
        precision, runtime: as for :class:`graticule.inference.locate.Locator`.

    Raises:
        BadTableError: there are no such photos, or no training photos for the baseline.
        LeakError: training has seen drives or places of these photos, and ``allow_leak`` is not given.
    """
    training = training_photos(bundle)
    chosen = choose_photos(photos, training, split)
    leak = None
    held_out, reason = None, "Cannot tell whether held out: the table of training photos is not beside the bundle."
    locator = Locator(bundle, store=store, precision=precision, runtime=runtime)
    if training is not None:
        leak = audit(seen(training), chosen)
        held_out, reason = leak.held_out, leak.verdict
    for city in locator.cities:  # what a city has seen is not held out either
        theirs = training_photos(city)
        if theirs is not None and (found := audit(seen(theirs), chosen)).held_out is False:
            leak, held_out, reason = found, False, found.verdict
    if split == "train":
        held_out, reason = False, "NOT held out: these are the photos that the bundle was trained on."
    elif held_out is False and not allow_leak:
        raise LeakError(
            f"{reason} A number measured on these photos would be memory in part. Split by whole drives or by blocks "
            f"and train again (graticule data split), or measure them all the same with --allow-leak"
        )
    rows = predict_rows(locator, chosen, progress=progress)
    known = None
    if baseline:
        if training is None:
            raise BadTableError(
                "the baseline asks the training photos, and their table is not beside the bundle; copy its folder "
                f"{TRAINING} too, or leave the baseline out"
            )
        known = seen(training)
    rows = with_baselines(rows, locator, chosen, known, together=together, seed=bundle.recipe.seed, progress=progress)
    rows = with_shown_beliefs(rows, locator, chosen)
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
        "runtime": runtime or "torch",
        "synthetic": photos.synthetic,
        "trained_on": bundle.facts.get("photos"),
        "cells": len(bundle.partition),
        "calibration": bundle.facts.get("calibration"),
    }
    metrics = facts | summary(rows, scale_km)
    return Evaluation(metrics | {"verdicts": verdicts(metrics)}, rows, leak)


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
    runtime: Runtime | None = None,
    answer: Answer | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """:func:`evaluate` from paths to paths; the bundle's model card is renewed with what it holds by then.

    Args:
        answer: which point to answer with; by default the recipe's.
    """
    bundle, photos = answering(Bundle.read(bundle_path), answer), read_photos(dataset)
    found = evaluate(
        bundle,
        photos,
        split=split,
        allow_leak=allow_leak,
        baseline=baseline,
        together=together,
        store=store,
        precision=precision,
        runtime=runtime,
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


def seen(training: Photos) -> Photos:
    """Of a bundle's table the photos that its answers rest on: those that trained it and those of its gallery."""
    return training.take(np.isin(training.column("split"), ("train", GALLERY)))


def note_added(bundle: Path, photos: Photos) -> None:
    """Write photos that were added to a bundle's gallery into its table of photos, where that lies beside it."""
    table = bundle / TRAINING / PHOTOS
    if not table.exists():
        return
    paths = [str(path.resolve()) for path in photos.paths()]
    more = photos.frame.with_columns(pl.Series("path", paths), pl.lit(GALLERY).alias("split"))
    write_parquet(table, pl.concat([pl.read_parquet(table), more], how="diagonal_relaxed"))


def choose_photos(photos: Photos, training: Photos | None, split: str) -> Photos:
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
