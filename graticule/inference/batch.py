"""Many photos to one table of rows: features, or answers."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from graticule.inference.formats import to_rows
from graticule.inference.locate import Locator
from graticule.model.features import encode
from graticule.model.loading import Progress, silent

F = pl.Float64
ANSWER: dict[str, type[pl.DataType]] = {
    "photo": pl.String, "lat": F, "lon": F, "expected_error_km": F, "calibrated": pl.Boolean, "median_error_km": F,
    "p90_error_km": F, "area_km2": F, "unlike_training": F, "cannot_tell": pl.String, "cell": pl.String,
    "probability": F, "error": pl.String,
}  # fmt: skip


def feature_table(locator: Locator, photos: Sequence[Path], *, progress: Progress = silent) -> pl.DataFrame:
    """One row a photo, in their order: ``path``, ``feature`` (an array of float32) and ``error``.

    A photo that cannot be read has no feature, and the reason in ``error``; any other has no error.
    """
    model = locator.bundle.model
    features = np.zeros((len(photos), model.encoder.num_features), np.float32)
    error: list[str | None] = [None] * len(photos)
    found = encode(model, locator.bundle.preprocess, photos, store=locator.store, progress=progress)
    for index, batch, errors in found:
        if len(index):
            features[index] = batch.cpu().numpy()
        for i, reason in errors.items():
            error[i] = str(reason)
    frame = pl.DataFrame({"path": [str(photo) for photo in photos], "feature": features, "error": error})
    frame = frame.cast({"error": pl.String})
    there = pl.when(pl.col("error").is_null()).then(pl.col("feature"))
    return frame.with_columns(there.alias("feature"))


def answer_table(
    locator: Locator,
    photos: Sequence[Path],
    *,
    top: int = 1,
    max_error_km: float | None = None,
    min_probability: float = 0.5,
) -> pl.DataFrame:
    """One row a photo, in their order: what ``graticule predict --format csv`` writes, typed.

    A photo that cannot be read has the reason in ``error`` and nothing else; any other has no error.
    """
    results = locator.results(photos, top=max(top, 1), max_error_km=max_error_km, min_probability=min_probability)
    rows = list(to_rows(results, top))
    more: dict[str, type[pl.DataType]] = {}
    for n in range(2, top + 1):
        more |= {f"cell_{n}": pl.String, f"probability_{n}": F}
    return pl.DataFrame(rows, ANSWER | more)
