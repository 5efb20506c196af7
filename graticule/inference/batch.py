"""Many photos to one table of rows: features, or answers."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from graticule.inference.locate import Locator
from graticule.model.features import encode
from graticule.model.loading import Progress, silent


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
