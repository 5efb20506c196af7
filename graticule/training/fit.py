"""Photos to a trained network: cells, batches, epochs."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from graticule.config import Recipe
from graticule.errors import BadRecipeError
from graticule.geo.sphere import great_circle_km, spherical_mean, unit_vectors
from graticule.model.bundle import Bundle
from graticule.model.features import FeatureStore, encode
from graticule.model.geolocator import Geolocator, build_geolocator, preprocess_of
from graticule.model.heads import PLANE_REACH_KM, Head
from graticule.model.loading import (
    Batches,
    FeatureDataset,
    PhotoDataset,
    Progress,
    ShapeBatches,
    shapes_of,
    silent,
    worker_count,
)
from graticule.model.preprocess import Preprocess
from graticule.partition import NO_CELL, Partition
from graticule.photos.table import Photos
from graticule.sections import LabelCells, S2Cells
from graticule.training.devices import Machines
from graticule.training.loop import History, TrainingModule, chosen_precision, run_epochs
from graticule.training.memory import check_memory, recompute
from graticule.training.prepare import CHECKPOINTS, HISTORY, LAST, grow_cells


def fit(
    recipe: Recipe,
    photos: Photos,
    val: Photos | None = None,
    *,
    folder: Path | None = None,
    resume: bool = False,
    store: FeatureStore | None = None,
    machines: Machines | None = None,
    progress: Progress = silent,
) -> Bundle:
    """Train on all of these photos; cells and normalisers come from them alone.

    Args:
        val: photos to watch the loss on after each epoch; they change nothing.
        folder: where checkpoints and history go; nothing is written without it.
        machines: as of :func:`graticule.training.train.train`.

    Raises:
        BadRecipeError, NotEnoughMemoryError, BadPhotoError: as :func:`graticule.training.train.train`.
    """
    started = time.monotonic()
    if recipe.head.kind in ("matching", "offsets", "none"):
        raise BadRecipeError(
            f"head.kind: {recipe.head.kind} comes with the weights of a public model (graticule get) and is not "
            f"trained; train cells, position or both, on its encoder with encoder: {{bundle: FOLDER}}"
        )
    machines = machines or Machines()
    machines.check(recipe.train.batch_size, recipe.train.accumulate, recipe.encoder.frozen)
    photos.check_trainable()
    partition = grow_cells(recipe, photos)
    if len(partition) < 2 and recipe.head.kind != "position":
        raise BadRecipeError(
            f"{len(photos)} training photos make only one cell, so there is nothing to tell apart; "
            f"{_more_cells(recipe)}"
        )
    photos = photos.take(_share(partition.rows_of(photos), recipe.train.share, recipe.seed))
    recipe = _with_coordinates(recipe, photos)
    model = build_geolocator(recipe, len(partition), around=partition.around())
    if recipe.train.gradient_checkpointing:
        recompute(model)
    preprocess = _preprocess(model, recipe)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device)
    if recipe.train.channels_last:
        model.to(memory_format=torch.channels_last)
    encoding = time.monotonic()
    parts = [
        _Part.of(name, table, model, partition, preprocess, recipe, store, progress)
        for name, table in (("train", photos), ("val", val))
        if table is not None
    ]
    feature_seconds = time.monotonic() - encoding if recipe.encoder.frozen else 0.0
    head = model.head
    if recipe.encoder.frozen and isinstance(head, Head):
        head.standardise(parts[0].dataset.features.to(device))
    if head.frame is not None:
        head.frame.fit(parts[0].dataset.extras["position"].to(device))
    check_memory(model, parts[0].shapes, recipe, device, machines)
    tau_km = recipe.target.tau_km or (recipe.target.tau_spacings or 1) * float(np.median(partition.spacing_km()))
    loaders = _loaders(parts, recipe, machines)
    module = TrainingModule(model, partition, recipe, tau_km, len(loaders[0]) // recipe.train.accumulate)
    history = History(recipe, progress, folder / HISTORY if folder else None)
    run_epochs(module, loaders, history, folder / CHECKPOINTS / LAST if folder else None, resume, machines)
    model.eval().cpu()
    rows = parts[0].rows
    last = history.rows[-1] if history.rows else {}
    facts = {
        "photos": len(photos),
        "places": len(np.unique(photos.places())),
        "cells": len(partition),
        "photos_outside_cells": int((rows == NO_CELL).sum()),
        "tau_km": round(tau_km, 4) if recipe.target.kind == "distance" else None,
        "regression_error_km": last.get("val_regression_mean_km"),  # what a regressed answer expects of itself
        "precision": chosen_precision(recipe)[0],
        "synthetic": photos.synthetic,
        "epochs": last,
        "seconds": round(time.monotonic() - started, 1),
        "feature_seconds": round(feature_seconds, 1),
    }
    return Bundle(model, partition, preprocess, recipe, facts, folder.parent if folder else None)


@torch.no_grad()
def _preprocess(model: Geolocator, recipe: Recipe) -> Preprocess:
    """What the recipe says of photos, and for the rest what the encoder's weights were trained with.

    Raises:
        BadRecipeError: a size that the encoder cannot take, such as one that misses a transformer's grid of patches.
    """
    preprocess = preprocess_of(model, recipe)
    height, width = preprocess.shape_for(1200, 1600)
    try:
        model.eval().features(torch.zeros(1, 3, height, width))
    except (AssertionError, RuntimeError) as error:
        own = "x".join(str(side) for side in model.encoder.input_size)
        raise BadRecipeError(
            f"{recipe.encoder.name} is made for photos of {own} and does not take {height}x{width} ({error}); "
            f"leave out image.height and image.width, or give encoder.options: {{img_size: [{height}, {width}]}}"
        ) from error
    finally:
        model.train()
    return preprocess


def _share(rows: NDArray[np.int64], share: float, seed: int) -> NDArray[np.int64]:
    """Which photos train: of each cell the share asked for, at least one; in the table's order."""
    if share == 1:
        return np.arange(len(rows))
    rng = np.random.default_rng(seed)
    taken = []
    for row in np.unique(rows):
        members = np.flatnonzero(rows == row)
        taken.append(rng.choice(members, max(1, round(share * len(members))), replace=False))
    return np.sort(np.concatenate(taken))


def _with_coordinates(recipe: Recipe, photos: Photos) -> Recipe:
    """The recipe with ``head.coordinates: auto`` decided by how far the photos lie from their mean."""
    if recipe.head.kind == "cells" or recipe.head.coordinates != "auto":
        return recipe
    reach_km = great_circle_km(*spherical_mean(photos.lat, photos.lon), photos.lat, photos.lon).max()
    head = recipe.head.model_copy(update={"coordinates": "plane" if reach_km <= PLANE_REACH_KM else "sphere"})
    return recipe.model_copy(update={"head": head})


def _loaders(parts: "list[_Part]", recipe: Recipe, machines: Machines) -> list[Any]:
    """Batches of each part; those of the first are shuffled anew every epoch. Which rank this is is said later."""
    wanted = recipe.train
    workers = 0 if recipe.encoder.frozen else worker_count(len(parts[0].rows), wanted.workers, machines.devices)
    return [
        Batches(
            part.dataset,
            ShapeBatches(
                part.shapes,
                wanted.batch_size,
                seed=None if i else recipe.seed,
                drop_small=i == 0,
                blocks=part.dataset.blocks(),
                workers=workers,
                world=machines.world,
                parts=1 if i else wanted.accumulate,
            ),
            workers,
            pin=torch.cuda.is_available(),
        )
        for i, part in enumerate(parts)
    ]


def _more_cells(recipe: Recipe) -> str:
    cells = recipe.cells
    if isinstance(cells, S2Cells):
        return f"lower cells.split_above (now {cells.split_above}) or cells.drop_below (now {cells.drop_below})"
    if isinstance(cells, LabelCells):
        return f"name a column with more values than cells.label: {cells.label} has"
    return "ask for more of them under cells"


@dataclass(frozen=True)
class _Part:
    """Photos ready to be batched: their dataset, true cells and shapes."""

    dataset: Any
    rows: NDArray[np.int64]
    shapes: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        name: str,
        photos: Photos,
        model: Geolocator,
        partition: Partition,
        preprocess: Preprocess,
        recipe: Recipe,
        store: FeatureStore | None,
        progress: Progress,
    ) -> "_Part":
        rows = partition.rows_of(photos)
        about_cells = recipe.head.kind != "position" and recipe.target.kind != "distance"
        if about_cells and name == "train":  # a photo without a cell teaches nothing
            photos, rows = photos.take(rows != NO_CELL), rows[rows != NO_CELL]
        position = torch.from_numpy(unit_vectors(photos.lat, photos.lon))
        extras = {"row": torch.from_numpy(rows), "position": position}
        paths = photos.paths()
        if not recipe.encoder.frozen:
            shapes, errors = shapes_of(paths, preprocess)
            for i, error in errors.items():
                raise type(error)(error.reason, f"{paths[i]}: {error}")
            return cls(PhotoDataset(paths, preprocess, extras), rows, shapes)
        features = torch.empty(len(paths), model.encoder.num_pooled)  # what heads read
        for index, batch, errors in encode(
            model,
            preprocess,
            paths,
            workers=recipe.train.workers,
            store=store,
            progress=lambda done, total, _: progress(done, total, f"features of {name} photos"),
        ):
            for i, error in errors.items():
                raise type(error)(error.reason, f"{paths[i]}: {error}")
            features[torch.from_numpy(index)] = batch[:, : features.shape[1]].cpu()
        return cls(FeatureDataset(features, extras), rows, np.zeros((len(paths), 2), np.int64))
