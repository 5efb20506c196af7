"""A recipe and photos to a bundle."""

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor

from graticule.config import Recipe
from graticule.errors import BadRecipeError, NotEnoughMemoryError
from graticule.files import write_json, write_parquet
from graticule.geo.sphere import great_circle_km, map_scale, spherical_mean, unit_vectors
from graticule.model.bundle import INDEX, TRAINING, Bundle
from graticule.model.features import FeatureStore, encode
from graticule.model.geolocator import Geolocator, build_geolocator
from graticule.model.heads import PLANE_REACH_KM
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
from graticule.partition import NO_CELL, Partition, grow
from graticule.photos.cards import write_card
from graticule.photos.leakage import audit
from graticule.photos.shards import url_of
from graticule.photos.splits import is_empty, make_split
from graticule.photos.table import MARKED, Photos
from graticule.training.loop import History, TrainingModule, chosen_precision, run_epochs

PHOTOS, RUN, HISTORY, CHECKPOINTS = "photos.parquet", "run.json", "history.csv", "checkpoints"
AUDIT, LAST = "audit.json", "last.ckpt"


def train(
    recipe: Recipe,
    photos: Photos,
    out: Path,
    *,
    resume: bool = False,
    store: FeatureStore | None = None,
    progress: Progress = silent,
) -> Bundle:
    """Train on the photos' training part and write a bundle with its model card to ``out``.

    Beside the bundle, ``out/training`` keeps the table with its split, the split's leak audit, the history and the
    last checkpoint.

    Args:
        resume: go on after the last finished epoch of an interrupted run; the result is the uninterrupted one's.

    Raises:
        BadRecipeError: the recipe does not fit the photos, or ``out`` holds another run.
        NotEnoughMemoryError: a training step would not fit.
        BadPhotoError: a photo of the table can no longer be read.
        BadTableError: the photos are a benchmark, for evaluation only.
    """
    photos.check_trainable()
    folder = out / TRAINING
    split = split_photos(recipe, photos)
    fingerprint = run_fingerprint(recipe, photos, split)
    check_output_folder(out, folder, fingerprint, resume)
    folder.mkdir(parents=True, exist_ok=True)
    # Where the photos lie, so that they can be asked again as neighbours. The folder is not part of the bundle.
    root = photos.root if url_of(photos.root) else photos.root.resolve()
    write_json(folder / RUN, {"fingerprint": fingerprint, "root": str(root)})
    write_parquet(folder / PHOTOS, photos.frame.with_columns(pl.Series("split", split)))
    test = photos.take(split == "test")
    if len(test):
        write_json(folder / AUDIT, audit(photos.take(split == "train"), test).to_json())
    val = photos.take(split == "val")
    bundle = fit(
        recipe,
        photos.take(split == "train"),
        val if len(val) else None,
        folder=folder,
        resume=resume,
        store=store,
        progress=progress,
    )
    bundle.facts["map_diagonal_km"] = map_scale(photos.lat, photos.lon, None)[0]
    bundle.facts["split"] = {name: int((split == name).sum()) for name in ("train", "val", "test", "buffer", MARKED)}
    bundle.write(out)
    write_card(out)
    return bundle


def split_photos(recipe: Recipe, photos: Photos) -> NDArray[Any]:
    """Which part each photo belongs to: ``train``, ``val``, ``test`` or ``buffer``, shape ``(N,)``.

    A photo that may not train (:meth:`Photos.may_train`) is ``marked`` where it would be ``train``.
    """
    wanted = recipe.split
    # A split that was written into the dataset holds where the recipe asks for none of its own.
    written = "split" not in recipe.model_fields_set and not is_empty(photos, "split")
    by = "column" if written else wanted.by
    strata = None
    if by == "random":  # report A stratified its frames by cell
        strata = grow_cells(recipe, photos).rows_of(photos)
    split = make_split(
        photos,
        by,
        shares=(1 - wanted.val - wanted.test, wanted.val, wanted.test),
        seed=recipe.seed,
        block_km=wanted.block_km,
        buffer_km=wanted.buffer_km,
        strata=strata,
    )
    return np.where((split == "train") & ~photos.may_train(), MARKED, split)


def grow_cells(recipe: Recipe, photos: Photos) -> Partition:
    """The recipe's cells over these photos."""
    cells = recipe.cells
    labels = photos.column(cells.label) if cells.label else ()
    return grow(photos.lat, photos.lon, labels=labels, seed=recipe.seed, **cells.model_dump(exclude_none=True))


def fit(
    recipe: Recipe,
    photos: Photos,
    val: Photos | None = None,
    *,
    folder: Path | None = None,
    resume: bool = False,
    store: FeatureStore | None = None,
    progress: Progress = silent,
) -> Bundle:
    """Train on all of these photos; cells and normalisers come from them alone.

    Args:
        val: photos to watch the loss on after each epoch; they change nothing.
        folder: where checkpoints and history go; nothing is written without it.

    Raises:
        BadRecipeError, NotEnoughMemoryError, BadPhotoError: as :func:`train`.
    """
    started = time.monotonic()
    photos.check_trainable()
    partition = grow_cells(recipe, photos)
    if len(partition) < 2 and recipe.head.kind != "position":
        raise BadRecipeError(
            f"{len(photos)} training photos make only one cell, so there is nothing to tell apart; "
            f"{_more_cells(recipe)}"
        )
    photos = photos.take(_share(partition.rows_of(photos), recipe.train.share, recipe.seed))
    recipe = _with_coordinates(recipe, photos)
    model = build_geolocator(recipe, len(partition))
    preprocess = Preprocess(
        recipe.image.resize,
        *recipe.image.shape(model.encoder.input_size),
        longest=recipe.image.longest or max(model.encoder.input_size),
        mean=tuple(model.mean.flatten().tolist()),
        std=tuple(model.std.flatten().tolist()),
        interpolation=recipe.image.interpolation or model.encoder.interpolation,
    )
    _check_size(model, preprocess, recipe)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device)
    parts = [
        _Part.of(name, table, model, partition, preprocess, recipe, store, progress)
        for name, table in (("train", photos), ("val", val))
        if table is not None
    ]
    if recipe.encoder.frozen:
        model.head.standardise(parts[0].dataset.features.to(device))
    if model.head.frame is not None:
        model.head.frame.fit(parts[0].dataset.extras["position"].to(device))
    check_memory(model, parts[0].shapes, recipe, device)
    tau_km = recipe.target.tau_km or (recipe.target.tau_spacings or 1) * float(np.median(partition.spacing_km()))
    loaders = _loaders(parts, recipe)
    module = TrainingModule(model, partition, recipe, tau_km, len(loaders[0]))
    history = History(recipe, progress, folder / HISTORY if folder else None)
    run_epochs(module, loaders, history, folder / CHECKPOINTS / LAST if folder else None, resume)
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
    }
    return Bundle(model, partition, preprocess, recipe, facts, folder.parent if folder else None)


@torch.no_grad()
def _check_size(model: Geolocator, preprocess: Preprocess, recipe: Recipe) -> None:
    """Refuse a size of photo that the encoder cannot take, such as a transformer's fixed grid of patches."""
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


def _loaders(parts: "list[_Part]", recipe: Recipe) -> list[Any]:
    """Batches of each part; those of the first are shuffled anew every epoch."""
    wanted = recipe.train
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    rank, world = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if together else (0, 1)
    workers = 0 if recipe.encoder.frozen else worker_count(len(parts[0].rows), wanted.workers)
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
                rank=rank,
                world=world,
            ),
            workers,
            pin=torch.cuda.is_available(),
        )
        for i, part in enumerate(parts)
    ]


def _more_cells(recipe: Recipe) -> str:
    cells = recipe.cells
    if cells.kind == "s2":
        return f"lower cells.split_above (now {cells.split_above}) or cells.drop_below (now {cells.drop_below})"
    if cells.kind == "label":
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
        features = torch.empty(len(paths), model.encoder.num_features)
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
            features[torch.from_numpy(index)] = batch.cpu()
        return cls(FeatureDataset(features, extras), rows, np.zeros((len(paths), 2), np.int64))


def check_memory(model: Geolocator, shapes: NDArray[np.int64], recipe: Recipe, device: str) -> None:
    """Refuse a training step that would not fit, before the first epoch; ``train.check_memory: false`` leaves it out.

    Weights, gradients and AdamW's two moments take 16 bytes a weight; what a photo takes is measured.

    Raises:
        NotEnoughMemoryError: saying how much is needed, how much is free, and a batch size that fits.
    """
    if recipe.encoder.frozen or not recipe.train.check_memory:
        return
    fixed = 16 * sum(p.numel() for p in model.parameters())
    height, width = (int(v) for v in shapes[shapes.prod(axis=1).argmax()])
    per_photo = saved_bytes(model, recipe, torch.zeros(2, 3, height, width, device=device)) / 2
    free = torch.cuda.mem_get_info()[0] if device == "cuda" else psutil.virtual_memory().available
    needed = fixed + recipe.train.batch_size * per_photo
    if needed > free:
        most = int((0.8 * free - fixed) // per_photo)
        advice = f"train.batch_size: {most} would fit" if most >= 1 else "choose a smaller encoder or photo size"
        raise NotEnoughMemoryError(
            f"a step of {recipe.encoder.name} with train.batch_size: {recipe.train.batch_size} at {height}x{width} "
            f"needs about {needed / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB are free; {advice}, or go on all the "
            f"same with train.check_memory: false"
        )


def saved_bytes(model: Geolocator, recipe: Recipe, images: Tensor) -> int:
    """Bytes that a forward pass over ``images`` keeps for the backward pass, in the arithmetic of the recipe.

    Each storage counts once, and the weights not at all. Batch normalisation does as in evaluation, so that the pass
    leaves the network as it was.
    """
    own = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    half = chosen_precision(recipe)[0] == "bfloat16"
    model.eval()
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, torch.autocast(images.device.type, torch.bfloat16, enabled=half):
        output = model(images)  # while the answer lives, so does all that was kept, and no address is used twice
    del output
    model.train()
    return sum(sizes.values()) + images.nbytes


def run_fingerprint(recipe: Recipe, photos: Photos, split: NDArray[Any]) -> str:
    """Hash of what a run depends on: its recipe, its photos, the part of each and the labels that are its classes.

    Args:
        split: of :func:`split_photos`. Whatever columns it was made from (split, marked, sequence, place, times), a
            change of who trains is a change of this array.
    """
    label = recipe.cells.label
    columns = [photos.frame["path"].to_list(), split.tolist(), photos.column(label).tolist() if label else []]
    table = hashlib.sha256(recipe.model_dump_json().encode())
    table.update(json.dumps(columns, default=str).encode())
    table.update(photos.lat.tobytes() + photos.lon.tobytes())
    return table.hexdigest()


def check_output_folder(out: Path, folder: Path, fingerprint: str, resume: bool) -> None:
    """Make sure that a run may write to ``out``: nothing of another run is overwritten unasked."""
    run = folder / RUN
    if not run.exists():
        if out.exists() and any(out.iterdir()):
            raise BadRecipeError(f"{out} is not empty and holds no run; choose a new folder")
        return
    if not (folder / CHECKPOINTS / LAST).exists() and not (out / INDEX).exists():
        return  # it never finished an epoch: nothing is lost by starting again
    if not resume:
        raise BadRecipeError(
            f"{out} holds a run already; add --resume to go on with it, or choose another folder or remove this one"
        )
    check_same_run(out, fingerprint)


def check_same_run(out: Path, fingerprint: str) -> None:
    """Make sure that the run in ``out`` is the one with this :func:`run_fingerprint`.

    Raises:
        BadRecipeError: it was started with something else.
    """
    run = out / TRAINING / RUN
    if not run.is_file() or json.loads(run.read_text(encoding="utf-8")).get("fingerprint") != fingerprint:
        raise BadRecipeError(
            f"the run in {out} was started with another recipe, other photos or another split of them; "
            f"resume it with those, or choose another folder"
        )
