"""Checkpoints that a run goes on from exactly: when they are written, and what is read of one."""

import pickle
import time
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Checkpoint
from torch import nn

from graticule.errors import BadRecipeError

ASKED = 8  # steps after which ranks ask each other whether it is time
# What a checkpoint must hold for a run to go on exactly; Lightning passes over some of these where they are missing.
KEPT = {
    "pytorch-lightning_version": str,
    "state_dict": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
    "loops": dict,
    "callbacks": dict,
    "plateau": dict,
}


class Checkpoints(Checkpoint):
    """Writes ``path`` at the end of every so many epochs, and within an epoch once so many minutes have passed.

    Lightning writes aside and renames, and calls checkpoints last, after the history of the epoch is complete.
    """

    def __init__(self, path: Path, epochs: int, minutes: float, parts: int = 1) -> None:
        self.path, self.epochs, self.seconds, self.parts = path, epochs, 60 * minutes, parts
        self.written = time.monotonic()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
        last = index + 1 >= trainer.num_training_batches  # the end of the epoch is about to be written
        if last or (index + 1) % self.parts or (trainer.world_size > 1 and trainer.global_step % ASKED):
            return
        # Clocks differ, and all ranks write or none: so they ask each other, but not at every step.
        if trainer.strategy.reduce_boolean_decision(time.monotonic() - self.written > self.seconds, all=False):
            self._write(trainer)

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        if (trainer.current_epoch + 1) % self.epochs == 0:
            self._write(trainer)

    def _write(self, trainer: Any) -> None:
        trainer.save_checkpoint(self.path)
        self.written = time.monotonic()


def check_checkpoint(path: Path, module: nn.Module) -> None:
    """Read a checkpoint as tensors and plain values alone: a pickle from a stranger could run code.

    Raises:
        BadRecipeError: it is damaged, of another network, or holds anything else.
    """
    try:
        with zipfile.ZipFile(path) as packed:
            if member := packed.testzip():  # torch does not compare checksums
                raise ValueError(f"{member} is not what was written")
        held = torch.load(path, map_location="cpu", weights_only=True)
        for name, kind in KEPT.items():
            if not isinstance(held[name], kind):
                raise ValueError(f"{name} is no {kind.__name__}")
        module.load_state_dict(held["state_dict"])
    except (
        pickle.UnpicklingError,
        zipfile.BadZipFile,
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
        LookupError,
        TypeError,
    ) as error:
        raise BadRecipeError(
            f"the checkpoint {path} cannot be resumed: it is damaged, of another network or holds more than tensors "
            f"and numbers, which could run as code ({type(error).__name__}); remove it to train from the start"
        ) from error
