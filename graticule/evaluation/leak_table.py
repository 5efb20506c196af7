"""What a leaking split would have claimed, beside what an honest one shows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graticule.config import Recipe
from graticule.evaluation.baselines import neighbour_errors_km
from graticule.evaluation.predictions import predict_rows
from graticule.inference.locate import Locator
from graticule.model.features import FeatureStore
from graticule.model.loading import Progress, silent
from graticule.photos.leakage import audit
from graticule.photos.table import Photos
from graticule.training.fit import fit
from graticule.training.prepare import split_photos


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
