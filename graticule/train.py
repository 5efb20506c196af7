"""A recipe and photos to a bundle."""

import hashlib
import json
import logging
import math
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import polars as pl
import psutil
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from numpy.typing import NDArray
from torch import Tensor, nn

from graticule import decode
from graticule.bundle import INDEX, TRAINING, Bundle
from graticule.config import Recipe
from graticule.data import (
    Batches,
    FeatureDataset,
    FeatureStore,
    PhotoDataset,
    Progress,
    ShapeBatches,
    encode,
    shapes_of,
    silent,
    worker_count,
)
from graticule.errors import BadRecipeError, NotEnoughMemoryError
from graticule.files import write_json, write_parquet, write_text
from graticule.geo import great_circle_km, unit_vectors
from graticule.model.geolocator import Geolocator, build_geolocator
from graticule.model.losses import loss
from graticule.partition import NO_CELL, Partition
from graticule.photos import Photos
from graticule.preprocess import Augment, Preprocess
from graticule.splits import audit, make_split

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
    """Train on the photos' training part and write a bundle to ``out``.

    Beside the bundle, ``out/training`` keeps the table with its split, the split's leak audit, the history and the
    last checkpoint.

    Args:
        resume: go on after the last finished epoch of an interrupted run; the result is the uninterrupted one's.

    Raises:
        BadRecipeError: the recipe does not fit the photos, or ``out`` holds another run.
        NotEnoughMemoryError: a training step would not fit.
        BadPhotoError: a photo of the table can no longer be read.
    """
    folder = out / TRAINING
    fingerprint = _fingerprint(recipe, photos)
    _claim(out, folder, fingerprint, resume)
    split = split_photos(recipe, photos)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / RUN, {"fingerprint": fingerprint})
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
    bundle.facts["split"] = {name: int((split == name).sum()) for name in ("train", "val", "test", "buffer")}
    bundle.write(out)
    return bundle


def split_photos(recipe: Recipe, photos: Photos) -> NDArray[Any]:
    """Which part each photo belongs to: ``train``, ``val``, ``test`` or ``buffer``, shape ``(N,)``."""
    wanted = recipe.split
    strata = None
    if wanted.by == "random":  # report A stratified its frames by cell
        strata = grow_cells(recipe, photos).assign(photos.lat, photos.lon)
    return make_split(
        photos,
        wanted.by,
        shares=(1 - wanted.val - wanted.test, wanted.val, wanted.test),
        seed=recipe.seed,
        block_km=wanted.block_km,
        buffer_km=wanted.buffer_km,
        strata=strata,
    )


def grow_cells(recipe: Recipe, photos: Photos) -> Partition:
    """The recipe's cells over these photos."""
    cells = recipe.cells
    return Partition.fit(
        photos.lat,
        photos.lon,
        split_above=cells.split_above,
        drop_below=cells.drop_below,
        max_level=cells.max_level,
        keep=cells.keep,
    )


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
    partition = grow_cells(recipe, photos)
    if len(partition) < 2:
        raise BadRecipeError(
            f"{len(photos)} training photos make only one cell, so there is nothing to tell apart; lower "
            f"cells.split_above (now {recipe.cells.split_above}) or cells.drop_below (now {recipe.cells.drop_below})"
        )
    model = build_geolocator(recipe, len(partition))
    preprocess = Preprocess(
        recipe.image.resize,
        *recipe.image.shape,
        longest=recipe.image.longest or 224,
        mean=tuple(model.mean.flatten().tolist()),
        std=tuple(model.std.flatten().tolist()),
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device)
    parts = [
        _Part.of(name, table, model, partition, preprocess, recipe, store, progress)
        for name, table in (("train", photos), ("val", val))
        if table is not None
    ]
    if recipe.encoder.frozen:
        model.head.standardise(parts[0].dataset.features.to(device))
    check_memory(model, parts[0].shapes, recipe, device)
    tau_km = recipe.target.tau_km or (recipe.target.tau_spacings or 1) * float(np.median(partition.spacing_km()))
    fitting = _Fitting(model, partition, recipe, tau_km)
    watch = _Watch(recipe, progress, folder / HISTORY if folder else None)
    _run(fitting, parts, recipe, watch, folder, resume)
    model.eval().cpu()
    rows = parts[0].rows
    facts = {
        "photos": len(photos),
        "places": len(np.unique(photos.places())),
        "cells": len(partition),
        "photos_outside_cells": int((rows == NO_CELL).sum()),
        "tau_km": round(tau_km, 4) if recipe.target.kind == "distance" else None,
        "synthetic": photos.synthetic,
        "epochs": watch.history[-1] if watch.history else {},
        "seconds": round(time.monotonic() - started, 1),
    }
    return Bundle(model, partition, preprocess, recipe, facts, folder.parent if folder else None)


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
        rows = partition.assign(photos.lat, photos.lon)
        if recipe.target.kind != "distance" and name == "train":  # a photo without a cell teaches nothing
            photos, rows = photos.take(rows != NO_CELL), rows[rows != NO_CELL]
        position = torch.from_numpy(unit_vectors(photos.lat, photos.lon)).float()
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


class _Fitting(lightning.LightningModule):
    """One training step, one validation step, one optimiser."""

    cells: Tensor

    def __init__(self, model: Geolocator, partition: Partition, recipe: Recipe, tau_km: float) -> None:
        super().__init__()
        # A frozen encoder did its work before; only the head is trained, moved and saved in checkpoints.
        self.net: nn.Module = model.head if recipe.encoder.frozen else model
        self.recipe, self.partition, self.tau_km = recipe, partition, tau_km
        self.augment = Augment(recipe.augment.crop, recipe.augment.light, recipe.augment.erase)
        cells = torch.from_numpy(unit_vectors(partition.lat, partition.lon)).float()
        self.register_buffer("cells", cells, persistent=False)
        self.seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def on_train_epoch_start(self) -> None:
        # Dropout and augmentation depend on the epoch alone, so a resumed run repeats an uninterrupted one.
        torch.manual_seed(self.recipe.seed * 100_003 + self.current_epoch)

    def training_step(self, batch: dict[str, Any], _: int) -> Tensor:
        inputs = batch["features"] if "features" in batch else self.augment(batch["images"] / 255)
        return self._loss(self.net(inputs), batch)

    def validation_step(self, batch: dict[str, Any], _: int) -> None:
        logits = self.net(batch["features"] if "features" in batch else batch["images"]).float()
        self.seen.append((logits.cpu(), self._loss(logits, batch).cpu(), batch["index"].cpu()))

    def _loss(self, logits: Tensor, batch: dict[str, Any]) -> Tensor:
        target = self.recipe.target
        return loss(
            logits.float(),
            batch["row"],
            batch["position"],
            self.cells,
            kind=target.kind,
            smoothing=target.smoothing or 0.0,
            tau_km=self.tau_km,
        )

    def configure_optimizers(self) -> Any:
        wanted = self.recipe.train
        weights = [p for p in self.net.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=wanted.lr, weight_decay=wanted.weight_decay)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule: Any
        if wanted.schedule == "onecycle" and steps >= 4:  # fewer steps have no room for a rise and a fall
            start = max(wanted.warmup, 2 / steps)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, wanted.lr, total_steps=steps, pct_start=start)
        else:
            schedule = torch.optim.lr_scheduler.LambdaLR(
                optimizer, lambda step: _ramp(step, steps, wanted.warmup, wanted.schedule == "cosine")
            )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class _Watch(Callback):
    """Counts photos, keeps the history, tells the progress. Its state travels in the checkpoint."""

    def __init__(self, recipe: Recipe, progress: Progress, path: Path | None) -> None:
        self.recipe, self.progress, self.path = recipe, progress, path
        self.history: list[dict[str, float]] = []
        self.losses: list[Tensor] = []
        self.photos, self.since, self.told = 0, 0.0, 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.history = list(state["history"])

    def on_train_epoch_start(self, trainer: Any, fitting: Any) -> None:
        self.losses, self.photos, self.since = [], 0, time.monotonic()

    def on_train_batch_end(self, trainer: Any, fitting: Any, outputs: Any, batch: Any, _: int) -> None:
        self.losses.append(outputs["loss"].detach())
        self.photos += len(batch["index"])
        now = time.monotonic()
        if now - self.told > 0.2:  # reading the loss waits for the GPU: not at every step
            self.told = now
            rate = self.photos / max(now - self.since, 1e-9)
            note = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  loss {self.losses[-1]:.3f}"
            self.progress(trainer.global_step, int(trainer.estimated_stepping_batches), f"{note}  {rate:.0f} photos/s")

    def on_train_epoch_end(self, trainer: Any, fitting: Any) -> None:
        mean = float(torch.stack(self.losses).mean()) if self.losses else math.nan
        if not math.isfinite(mean):
            raise BadRecipeError(
                f"the loss became {mean} in epoch {trainer.current_epoch + 1}; lower train.lr "
                f"(now {self.recipe.train.lr}) or set train.precision: float32"
            )
        row = {
            "epoch": trainer.current_epoch + 1,
            "train_loss": round(mean, 5),
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            "photos_per_second": round(self.photos / max(time.monotonic() - self.since, 1e-9), 1),
        }
        self.history.append(row | self._validation(trainer, fitting))
        if self.path:
            write_text(self.path, pl.DataFrame(self.history).write_csv())
        if trainer.global_step >= trainer.estimated_stepping_batches:
            self.progress(trainer.global_step, trainer.global_step, f"{row['epoch']} epochs, loss {mean:.3f}")

    def _validation(self, trainer: Any, fitting: Any) -> dict[str, float]:
        if not fitting.seen:
            return {}
        part = trainer.val_dataloaders.dataset
        index = torch.cat([index for _, _, index in fitting.seen])
        probability = torch.cat([logits for logits, _, _ in fitting.seen]).double().softmax(dim=1).numpy()
        counts = torch.tensor([len(index) for _, _, index in fitting.seen])
        losses = torch.stack([value for _, value, _ in fitting.seen])
        fitting.seen.clear()
        found = decode.points(probability, fitting.partition, "mode")
        x, y, z = part.extras["position"][index].double().numpy().T
        lat, lon = np.degrees(np.arcsin(np.clip(z, -1, 1))), np.degrees(np.arctan2(y, x))
        return {
            "val_loss": round(float((losses.nan_to_num() * counts).sum() / counts.sum()), 5),
            "val_median_km": round(float(np.median(great_circle_km(lat, lon, found.lat, found.lon))), 5),
        }


def _run(
    fitting: _Fitting, parts: list[_Part], recipe: Recipe, watch: _Watch, folder: Path | None, resume: bool
) -> None:
    wanted = recipe.train
    workers = 0 if recipe.encoder.frozen else worker_count(len(parts[0].rows), wanted.workers)
    on_gpu = torch.cuda.is_available()
    loaders = [
        Batches(
            part.dataset,
            ShapeBatches(
                part.shapes,
                wanted.batch_size,
                seed=None if i else recipe.seed,
                drop_small=i == 0,
                blocks=part.dataset.blocks(),
                workers=workers,
            ),
            workers,
            pin=on_gpu,
        )
        for i, part in enumerate(parts)
    ]
    callbacks: list[Callback] = [watch]
    checkpoint = folder / CHECKPOINTS / LAST if folder else None
    if checkpoint:
        # Written aside and renamed by Lightning, after the history of the epoch is complete.
        every = max(1, wanted.epochs // 20) if recipe.encoder.frozen else 1
        callbacks.append(
            ModelCheckpoint(
                checkpoint.parent,
                "last",
                every_n_epochs=every,
                save_top_k=1,
                save_on_train_epoch_end=True,
                enable_version_counter=False,
            )
        )
    with warnings.catch_warnings():
        # Lightning's advice on workers and logging intervals is for its own users, not for ours.
        warnings.filterwarnings("ignore", module="lightning")
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        trainer = lightning.Trainer(
            max_epochs=wanted.epochs,
            accelerator="gpu" if on_gpu else "cpu",
            devices=1,
            precision=precision(recipe),
            callbacks=callbacks,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=checkpoint is not None,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
        go_on = checkpoint if resume and checkpoint and checkpoint.exists() else None
        val = loaders[1] if len(loaders) > 1 else None
        trainer.fit(fitting, loaders[0], val, ckpt_path=go_on, weights_only=False)


def precision(recipe: Recipe) -> str:
    """Lightning's name of the arithmetic: bfloat16 where the machine has it, unless the recipe says otherwise."""
    wanted = recipe.train.precision
    if recipe.encoder.frozen or wanted == "float32":
        return "32-true"  # a head on features takes milliseconds; nothing to gain
    if wanted == "bfloat16" or torch.cuda.is_available():
        return "bf16-mixed"
    return "bf16-mixed" if torch.cpu._is_avx512_bf16_supported() else "32-true"


def check_memory(model: Geolocator, shapes: NDArray[np.int64], recipe: Recipe, device: str) -> None:
    """Refuse a training step that would not fit, before the first epoch.

    Weights, gradients and AdamW's two moments take 16 bytes a weight; activations are measured on one photo.

    Raises:
        NotEnoughMemoryError: saying how much is needed, how much is free, and a batch size that fits.
    """
    if recipe.encoder.frozen:
        return
    fixed = 16 * sum(p.numel() for p in model.parameters())
    sizes: list[int] = []

    def count(_: nn.Module, __: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            sizes.append(output.numel() * output.element_size())

    hooks = [m.register_forward_hook(count) for m in model.modules() if not list(m.children())]
    height, width = (int(v) for v in shapes[shapes.prod(axis=1).argmax()])
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, height, width, device=device))
    for hook in hooks:
        hook.remove()
    model.train()
    per_photo = sum(sizes) + 4 * 3 * height * width
    free = torch.cuda.mem_get_info()[0] if device == "cuda" else psutil.virtual_memory().available
    needed = fixed + recipe.train.batch_size * per_photo
    if needed > free:
        fitting = int((0.8 * free - fixed) // per_photo)
        advice = f"train.batch_size: {fitting} would fit" if fitting >= 1 else "choose a smaller encoder or photo size"
        raise NotEnoughMemoryError(
            f"a step of {recipe.encoder.name} with train.batch_size: {recipe.train.batch_size} at {height}x{width} "
            f"needs about {needed / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB are free; {advice}"
        )


def _ramp(step: int, steps: int, warmup: float, cosine: bool) -> float:
    rising = warmup * steps
    if step < rising:
        return (step + 1) / (rising + 1)
    if not cosine:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(steps - rising, 1)))


def _fingerprint(recipe: Recipe, photos: Photos) -> str:
    """Hash of what a run depends on: its recipe and which photos it is given."""
    table = hashlib.sha256(recipe.model_dump_json().encode())
    table.update("\n".join(photos.frame["path"]).encode())
    table.update(photos.lat.tobytes() + photos.lon.tobytes())
    return table.hexdigest()


def _claim(out: Path, folder: Path, fingerprint: str, resume: bool) -> None:
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
    if json.loads(run.read_text()).get("fingerprint") != fingerprint:
        raise BadRecipeError(
            f"the run in {out} was started with another recipe or other photos; "
            f"resume it with those, or choose another folder"
        )
