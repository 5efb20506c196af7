"""A recipe and photos to a bundle: prepare the run, fit the network, finish the bundle."""

import time
from pathlib import Path

from graticule.config import Recipe
from graticule.geo.sphere import map_scale
from graticule.model.bundle import Bundle
from graticule.model.features import FeatureStore
from graticule.model.loading import Progress, silent
from graticule.photos.cards import write_card
from graticule.photos.table import MARKED, Photos
from graticule.training.calibrate import fit_calibrated
from graticule.training.devices import Machines
from graticule.training.prepare import Run, prepare

SINGLE = ("auto", "column", "random", "time")  # splits that make no folds; photos are then held out the honest way


def train(
    recipe: Recipe,
    photos: Photos,
    out: Path,
    *,
    resume: bool = False,
    store: FeatureStore | None = None,
    machines: Machines | None = None,
    progress: Progress = silent,
) -> Bundle:
    """Train on the photos' training part and write a bundle with its model card to ``out``.

    Beside the bundle, ``out/training`` keeps the table with its split, the split's leak audit, the history and the
    last checkpoint.

    Args:
        resume: go on after the last finished epoch of an interrupted run; the result is the uninterrupted one's.
        machines: devices to train on. Lightning starts the other processes of this machine as copies of this command;
            they end with the last epoch, and this one writes the bundle.

    Raises:
        BadRecipeError: the recipe does not fit the photos, or ``out`` holds another run.
        NotEnoughMemoryError: a training step would not fit.
        BadPhotoError: a photo of the table can no longer be read.
        BadTableError: the photos are a benchmark, for evaluation only.
    """
    run = prepare(recipe, photos, out, resume=resume, machines=machines)
    val = run.part("val")
    by = None if recipe.split.by in SINGLE or "split" not in recipe.model_fields_set else recipe.split.by
    started = time.monotonic()
    bundle = fit_calibrated(
        recipe,
        run.part("train"),
        val if len(val) else None,
        by=by,
        folder=run.folder,
        resume=resume,
        store=store,
        machines=machines,
        progress=progress,
    )
    bundle.facts["calibration_seconds"] = round(time.monotonic() - started - bundle.facts["seconds"], 1)
    return finish(run, bundle, out)


def finish(run: Run, bundle: Bundle, out: Path) -> Bundle:
    """Write the bundle and its model card, with what the whole table says of the run."""
    parts = ("train", "val", "test", "buffer", MARKED)
    bundle.facts["map_diagonal_km"] = map_scale(run.photos.lat, run.photos.lon, None)[0]
    bundle.facts["split"] = {name: int((run.split == name).sum()) for name in parts}
    bundle.write(out)
    write_card(out)
    return bundle
