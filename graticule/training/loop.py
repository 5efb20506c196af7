"""The loop: one optimiser over the stages of a recipe, and what is watched."""

import logging
import math
import signal
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, cast

import lightning
import numpy as np
import polars as pl
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging
from timm.optim import param_groups_weight_decay
from torch import Tensor

from graticule.choices import Precision
from graticule.config import Recipe
from graticule.errors import BadRecipeError, DeviceError
from graticule.files import write_text
from graticule.geo.sphere import from_vectors, great_circle_km, unit_vectors
from graticule.model.freezing import freeze, frozen_parameters
from graticule.model.geolocator import Geolocator
from graticule.model.heads import Head, Output
from graticule.model.loading import Progress
from graticule.model.losses import cell_loss, position_loss
from graticule.model.preprocess import Augment
from graticule.partition import NO_CELL, Partition
from graticule.training.checkpoints import Checkpoints, check_checkpoint
from graticule.training.devices import Machines
from graticule.training.schedules import Plateau, Schedule
from graticule.training.trackers import make_logger

LOOK = 8  # batches after which the loss is looked at
EXPLODED = 20.0  # times the loss that a run began with, or times one where that was less
LOST = ("connection", "peer", "socket", "timed out", "timeout", "nccl")  # of a process that is gone


class TrainingModule(lightning.LightningModule):
    """One training step, one validation step, one optimiser over all the stages.

    What a step does depends on the weights, the photos and the step's number alone: its stage, its rate and its
    chance are worked out afresh. So a run that goes on from the middle of an epoch is the run it would have been.

    Args:
        steps_per_epoch: steps of one epoch.

    Raises:
        BadRecipeError: a stage freezes what the network does not have, or all of it.
    """

    cells: Tensor

    def __init__(
        self, model: Geolocator, partition: Partition, recipe: Recipe, tau_km: float, steps_per_epoch: int
    ) -> None:
        super().__init__()
        # A frozen encoder did its work before; only the head is trained, moved and saved in checkpoints.
        self.net: Any = model.head if recipe.encoder.frozen else model
        self.recipe, self.partition, self.tau_km = recipe, partition, tau_km
        self.augment = Augment(recipe.augment.crop, recipe.augment.light, recipe.augment.erase)
        cells = torch.from_numpy(unit_vectors(partition.lat, partition.lon)).float()
        self.register_buffer("cells", cells, persistent=False)
        self.schedule = Schedule(recipe.train, steps_per_epoch)
        self.plateau = Plateau()
        self.movable = {name for name, p in self.net.named_parameters() if p.requires_grad}
        self.frozen = [frozen_parameters(model, stage.freeze) for stage in self.schedule.plan]
        for stage, frozen in zip(self.schedule.plan, self.frozen, strict=True):
            if self.movable <= frozen:
                raise BadRecipeError(f"freeze: {list(stage.freeze)} leaves nothing to train; freeze less")
        self.stage: int | None = None
        self.seen = EpochMetrics()
        if recipe.train.compile:
            self.net.compile()

    @property
    def head(self) -> Head:
        head = self.net.head if isinstance(self.net, Geolocator) else self.net
        return cast(Head, head)  # others are not trained

    def on_train_batch_start(self, batch: Any, index: int) -> None:
        step, parts = self.global_step, self.recipe.train.accumulate
        step_now = self.schedule.at(step, self.plateau.factor)
        if step_now.stage != self.stage:
            self.stage = step_now.stage
            freeze(self.net, self.frozen[step_now.stage], self.movable)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"], group["betas"] = step_now.lr, (step_now.beta1, group["betas"][1])
        # Dropout and augmentation depend on the seed, the step and the share of it alone.
        share = self.global_rank * parts + index % parts
        chance = np.random.SeedSequence((self.recipe.seed, step, share))
        seed = int(chance.generate_state(1, np.uint64)[0] >> 1)
        if self.device.type == "cpu":
            torch.default_generator.manual_seed(seed)  # the other asks each kind of accelerator: a fifth of a step
        else:
            torch.manual_seed(seed)

    def training_step(self, batch: dict[str, Any], _: int) -> Tensor:
        inputs = batch["features"] if "features" in batch else self.augment(batch["images"] / 255)
        loss = self._loss(self.net(inputs), batch)
        # The mean over all shares of the step, whatever their sizes, is then the mean over its photos.
        shares = self.trainer.world_size * self.recipe.train.accumulate
        return loss if shares == 1 else loss * (batch["own"] * shares / batch["of"])

    def validation_step(self, batch: dict[str, Any], _: int) -> None:
        output = self.net(batch["features"] if "features" in batch else batch["images"])
        if batch["own"]:
            self.seen.add(output, self._losses(output, batch), batch["index"])

    def _loss(self, output: Output, batch: dict[str, Any]) -> Tensor:
        return sum((loss for loss, _ in self._losses(output, batch)), torch.zeros((), device=self.device))

    def _losses(self, output: Output, batch: dict[str, Any]) -> list[tuple[Tensor, Tensor | int]]:
        """The parts of the loss, each with the number of photos that it is a mean of."""
        target = self.recipe.target
        found: list[tuple[Tensor, Tensor | int]] = []
        if output.logits is not None:
            loss = cell_loss(
                output.logits.float(),
                batch["row"],
                batch["position"],
                self.cells,
                kind=target.kind,
                smoothing=target.smoothing or 0.0,
                tau_km=self.tau_km,
            )
            everywhere = target.kind == "distance"  # else a photo outside every cell has no target
            found.append((loss, len(batch["row"]) if everywhere else (batch["row"] != NO_CELL).sum()))
        if output.position is not None and self.head.frame is not None:
            loss = position_loss(output.position, batch["position"], self.head.frame)
            found.append(((target.alpha or 1.0) * loss, len(batch["position"])))
        return found

    def configure_optimizers(self) -> torch.optim.Optimizer:
        wanted = self.recipe.train
        kept = getattr(getattr(self.net, "encoder", None), "body", None)  # such as position embeddings
        named = {f"encoder.body.{name}" for name in getattr(kept, "no_weight_decay", set)()}
        groups = param_groups_weight_decay(self.net, wanted.weight_decay, no_weight_decay_list=named)
        kind = torch.optim.AdamW if wanted.optimizer == "adamw" else torch.optim.Adam
        return kind(groups, lr=wanted.lr, fused=True) if wanted.fused else kind(groups, lr=wanted.lr)

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        if self.recipe.train.clip:
            torch.nn.utils.clip_grad_norm_(self.parameters(), self.recipe.train.clip)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["plateau"] = asdict(self.plateau)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.plateau = Plateau(**checkpoint["plateau"])


class History(Callback):
    """Counts photos, keeps the history, tells the progress. Its state travels in the checkpoint."""

    def __init__(self, recipe: Recipe, progress: Progress, path: Path | None) -> None:
        self.recipe, self.progress, self.path = recipe, progress, path
        self.rows: list[dict[str, float]] = []
        self.total: Tensor | float = 0.0  # of the losses of the running epoch
        self.steps, self.photos, self.seconds = 0.0, 0.0, 0.0
        self.mark, self.reported = 0.0, 0.0
        self.recent: list[Tensor] = []
        self.begun: float | None = None  # the mean loss of the first LOOK batches
        self.mean_of_ranks: Callable[[Tensor], Tensor] = lambda value: value

    def state_dict(self) -> dict[str, Any]:
        self._count_time()
        total = float(self.mean_of_ranks(torch.as_tensor(self.total)))
        running = {"total": total, "steps": self.steps, "photos": self.photos, "seconds": self.seconds}
        return {"history": self.rows, "running": running, "begun": self.begun}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows, self.begun = list(state["history"]), state.get("begun")
        for name, value in state["running"].items():
            setattr(self, name, value)

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self.mark = time.monotonic()
        self.mean_of_ranks = partial(trainer.strategy.reduce, reduce_op="mean")
        for logger in trainer.loggers:
            logger.log_hyperparams(self.recipe.model_dump(mode="json"))

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        self.total, self.steps, self.photos, self.seconds, self.mark = 0.0, 0.0, 0.0, 0.0, time.monotonic()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, _: int) -> None:
        loss, parts = outputs["loss"].detach(), self.recipe.train.accumulate  # Lightning divides the loss by the parts
        self.total = self.total + loss.double()
        self.steps += 1 / parts
        self.photos += batch["of"] / parts
        self.recent.append(loss * parts)
        if len(self.recent) == LOOK:
            self._check_loss(trainer)
        now = time.monotonic()
        if now - self.reported > 0.2:  # reading the loss waits for the GPU: not at every step
            self.reported = now
            rate = self.photos / max(self.seconds + now - self.mark, 1e-9)
            note = (
                f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  loss {loss * parts:.3f}  {rate:.0f} photos/s"
            )
            self.progress(trainer.global_step, module.schedule.steps, note)

    def on_validation_start(self, trainer: Any, module: Any) -> None:
        self._count_time()

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        self._count_time()
        mean = float(self.mean_of_ranks(torch.as_tensor(self.total))) / max(self.steps, 1)
        found = validation(trainer, module)
        for name, loss in (("loss", mean), ("validation loss", found.get("val_loss", mean))):
            if not math.isfinite(loss):
                raise self._ran_away(name, loss, trainer)
        module.plateau.update(found.get("val_loss", mean))
        row = {
            "epoch": trainer.current_epoch + 1,
            "stage": module.stage + 1,
            "train_loss": round(mean, 5),
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            "photos_per_second": round(self.photos / max(self.seconds, 1e-9), 1),
        }
        self.rows.append(row | {name: round(value, 5) for name, value in found.items()})
        for logger in trainer.loggers:
            logger.log_metrics(self.rows[-1], step=trainer.global_step)
        if self.path and trainer.is_global_zero:
            write_text(self.path, pl.DataFrame(self.rows).write_csv())
        if trainer.global_step >= module.schedule.steps:
            self.progress(trainer.global_step, trainer.global_step, f"{row['epoch']} epochs, loss {mean:.3f}")

    def _check_loss(self, trainer: Any) -> None:
        """Stop where the loss is no number, or far above where it began: all ranks at once."""
        mean = float(self.mean_of_ranks(torch.stack(self.recent).mean()))  # read seldom: it waits for the GPU
        self.recent.clear()
        if self.begun is None and math.isfinite(mean):
            self.begun = mean
        if not math.isfinite(mean) or mean > EXPLODED * max(self.begun or 0.0, 1.0):
            raise self._ran_away("loss", mean, trainer)

    def _ran_away(self, name: str, loss: float, trainer: Any) -> BadRecipeError:
        wanted = self.recipe.train
        began = "" if self.begun is None or not math.isfinite(loss) else f" from {self.begun:.3g}"
        return BadRecipeError(
            f"the {name} became {loss:.3g}{began} in epoch {trainer.current_epoch + 1}; "
            f"lower train.lr (now {wanted.lr}), set train.clip (now {wanted.clip}) or train.precision: float32"
        )

    def _count_time(self) -> None:
        """Training's own seconds, up to now or to where validation began."""
        now = time.monotonic()
        if self.mark:
            self.seconds += now - self.mark
            self.mark = now


class EpochMetrics:
    """What the validation photos of one epoch gave: sums of losses, and an answer for each photo."""

    def __init__(self) -> None:
        self.index: list[Tensor] = []
        self.cells: list[Tensor] = []  # the likeliest
        self.positions: list[Tensor] = []
        self.sums: dict[int, float] = {}  # of each part of the loss
        self.counts: dict[int, int] = {}

    def add(self, output: Output, losses: list[tuple[Tensor, Tensor | int]], index: Tensor) -> None:
        """One batch: its outputs, its mean losses with the photos that each is a mean of, and which photos they are."""
        self.index.append(index.cpu())
        if output.logits is not None:
            self.cells.append(output.logits.argmax(dim=1).cpu())
        if output.position is not None:
            self.positions.append(output.position.cpu())
        for part, (loss, counted) in enumerate(losses):
            count = int(counted)  # read here alone: a training step would wait for the GPU
            self.counts[part] = self.counts.get(part, 0) + count
            if count:
                self.sums[part] = self.sums.get(part, 0.0) + count * float(loss)

    def of_all_ranks(self) -> "EpochMetrics":
        """What all the processes saw, on each of them."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return self
        ranks: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(ranks, self)
        found = EpochMetrics()
        for seen in ranks:
            found.index += seen.index
            found.cells += seen.cells
            found.positions += seen.positions
            for part, count in seen.counts.items():
                found.counts[part] = found.counts.get(part, 0) + count
                found.sums[part] = found.sums.get(part, 0.0) + seen.sums.get(part, 0.0)
        return found

    def loss(self) -> float | None:
        """The mean loss over the photos that count in each of its parts; none where no photo counts."""
        parts = [self.sums[part] / self.counts[part] for part in self.sums if self.counts[part]]
        return sum(parts) if parts else None


def validation(trainer: Any, module: TrainingModule) -> dict[str, float]:
    """What the validation photos of this epoch gave: the loss, and the error of each way to answer."""
    seen, module.seen = module.seen.of_all_ranks(), EpochMetrics()
    if not seen.index:
        return {}
    places = trainer.val_dataloaders.dataset.extras["position"][torch.cat(seen.index)].numpy()
    lat, lon = from_vectors(places)
    loss = seen.loss()
    found = {} if loss is None else {"val_loss": loss}
    if seen.cells:
        rows = torch.cat(seen.cells).numpy()
        error_km = great_circle_km(lat, lon, module.partition.lat[rows], module.partition.lon[rows])
        found["val_median_km"] = float(np.median(error_km))
    if seen.positions:
        error_km = great_circle_km(lat, lon, *from_vectors(torch.cat(seen.positions).numpy()))
        found["val_regression_median_km"] = float(np.median(error_km))
        found["val_regression_mean_km"] = float(error_km.mean())
    return found


class Ranks(Callback):
    """Tells the orders of the batches which of the processes this is, once Lightning has counted them."""

    def __init__(self, loaders: list[Any]) -> None:
        self.loaders = loaders

    def setup(self, trainer: Any, module: Any, stage: str) -> None:
        for loader in self.loaders:
            loader.sampler.rank = trainer.global_rank

    def on_train_start(self, trainer: Any, module: Any) -> None:
        # Lightning's own answer to SIGTERM asks the other processes, which may no longer listen: it waits for ever.
        if trainer.world_size > 1 and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # the same as Ctrl-C


def run_epochs(
    module: TrainingModule,
    loaders: list[Any],
    history: History,
    checkpoint: Path | None,
    resume: bool,
    machines: Machines | None = None,
) -> None:
    """Train with the first loader, validate with the second if there is one.

    Of several processes that train together, the first returns and the others end here: nothing is left for them.

    Args:
        checkpoint: the file to keep the run in; none keeps nothing.
        resume: go on from that file where it exists.

    Raises:
        BadRecipeError: the loss is no number or explodes, or the checkpoint cannot be resumed.
        DeviceError: another of the processes has ended.
    """
    machines = machines or Machines()
    wanted = module.recipe.train
    epochs = sum(stage.epochs for stage in wanted.plan)
    average = EMAWeightAveraging(decay=wanted.ema) if wanted.ema else None
    callbacks: list[Callback] = [Ranks(loaders), *([average] if average else []), history]
    if checkpoint:
        every = max(1, epochs // 20) if module.recipe.encoder.frozen else 1
        callbacks.append(Checkpoints(checkpoint, every, wanted.checkpoint_minutes, wanted.accumulate))
    with warnings.catch_warnings():
        # Lightning's advice on workers and logging intervals is for its own users, not for ours.
        warnings.filterwarnings("ignore", module="lightning")
        for talker in ("lightning.pytorch", "lightning.fabric"):
            logging.getLogger(talker).setLevel(logging.ERROR)
        # Which ends this process where one that it started has ended, and says so.
        logging.getLogger("lightning.fabric.strategies.launchers.subprocess_script").setLevel(logging.INFO)
        trainer = lightning.Trainer(
            max_epochs=epochs,
            accelerator="gpu" if torch.cuda.is_available() else "cpu",
            devices=machines.devices,
            num_nodes=machines.nodes,
            strategy=machines.strategy(any(module.frozen)),
            plugins=machines.launcher(),
            sync_batchnorm=machines.world > 1 and torch.cuda.is_available(),
            accumulate_grad_batches=wanted.accumulate,
            precision=precision(module.recipe),
            callbacks=callbacks,
            logger=make_logger(machines.tracker, module.recipe.name, checkpoint and checkpoint.parent.parent),
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=checkpoint is not None,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
        go_on = checkpoint if resume and checkpoint and checkpoint.exists() else None
        val = loaders[1] if len(loaders) > 1 else None
        if go_on:
            check_checkpoint(go_on, module)
        try:
            trainer.fit(module, loaders[0], val, ckpt_path=go_on, weights_only=True)
        except SystemExit as stopped:  # what Lightning makes of Ctrl-C, after it turned Ctrl-C off
            signal.signal(signal.SIGINT, signal.default_int_handler)
            raise KeyboardInterrupt from stopped
        except RuntimeError as error:
            if machines.world == 1 or not any(word in str(error).lower() for word in LOST):
                raise
            raise DeviceError(
                "another process of this run has ended or never came, so this one cannot go on; its own words say why, "
                "if it had any. The same command with --resume goes on after the last checkpoint"
            ) from error
    if average:
        average.on_train_end(trainer, module)  # which Lightning leaves out where a finished run is resumed
    if not trainer.is_global_zero:
        raise SystemExit(0)


def precision(recipe: Recipe) -> Any:
    """Lightning's name of the arithmetic of a run; see :func:`chosen_precision`."""
    return "bf16-mixed" if chosen_precision(recipe)[0] == "bfloat16" else "32-true"


def chosen_precision(recipe: Recipe) -> tuple[Precision, str]:
    """The arithmetic that a recipe trains in, and why in a few words.

    ``auto`` is bfloat16 on a GPU that multiplies it and float32 elsewhere. A CPU's instruction set does not decide: two
    machines would train two models from one recipe and seed.
    """
    wanted = recipe.train.precision
    if recipe.encoder.frozen:
        return "float32", "the encoder is frozen, and only a small head trains"
    if wanted != "auto":
        return wanted, "as train.precision says"
    if not torch.cuda.is_available():
        return "float32", "train.precision: auto on a CPU"
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return "bfloat16", "train.precision: auto on a GPU that has it"
    return "float32", "train.precision: auto on a GPU without bfloat16"
