"""What a training step of ours costs above the bare network: decoding, batching, Lightning, callbacks.

python -m bench.training

A mid-sized encoder is trained on photos from disk by ``graticule.training.fit.fit``, and by a plain loop over tensors
that lie in memory, in turns. The goal is about wall time, which needs a machine left alone: the range over the pairs
tells how far to trust it. Processor time stands beside it and is no substitute: it falls when a core waits and rises
when two threads share a core. Augmentation is off: it is work that a recipe asks for. Setting up, checkpoints and
validation come once a run or an epoch, not a step.
"""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import polars as pl
import psutil
import torch
from torch.nn import functional

from bench.decoding import noisy_gradients
from bench.table import Row, print_table
from graticule.config import Recipe, parse_recipe
from graticule.model.bundle import Bundle
from graticule.model.geolocator import build_geolocator
from graticule.photos.table import Photos
from graticule.training.fit import fit

GOAL = 5  # percent
COUNT, BATCH, EPOCHS = 128, 32, 3  # photos, photos a step, and epochs of which the first is for warming up
STEPS = COUNT // BATCH  # an epoch
RECIPE = {
    "cells": {"split_above": 8, "drop_below": 1},
    "image": {"height": 128, "width": 128},
    "encoder": {"name": "resnet18", "weights": "none"},
    "train": {"epochs": EPOCHS, "batch_size": BATCH, "precision": "float32"},
}


@dataclass(frozen=True)
class Spent:
    """Seconds: on the clock, and of processors in this process and in its workers."""

    wall: float
    here: float
    workers: float

    @classmethod
    def so_far(cls) -> "Spent":
        workers = [child.cpu_times() for child in psutil.Process().children()]
        return cls(time.perf_counter(), time.process_time(), sum(used.user + used.system for used in workers))

    def a_step_until(self, end: "Spent", steps: int) -> "Spent":
        return Spent(
            (end.wall - self.wall) / steps,
            (end.here - self.here) / steps,
            (end.workers - self.workers) / steps,
        )


def make_photos(folder: Path) -> Photos:
    rng = np.random.default_rng(0)
    names = [f"{i}.jpg" for i in range(COUNT)]
    for name, data in zip(names, noisy_gradients(COUNT, 256, 192), strict=True):
        (folder / name).write_bytes(data)
    lat, lon = rng.uniform(-60, 60, COUNT), rng.uniform(-180, 180, COUNT)
    return Photos(pl.DataFrame({"path": names, "lat": lat, "lon": lon}), folder)


def ours(recipe: Recipe, photos: Photos) -> tuple[Spent, Bundle]:
    """What a step of ``fit`` takes after the first epoch."""
    marks: list[tuple[int, Spent]] = []

    def progress(step: int, of: int, note: str) -> None:
        if step >= STEPS:
            marks.append((step, Spent.so_far()))

    bundle = fit(recipe, photos, progress=progress)
    (first, begin), (last, end) = marks[0], marks[-1]
    return begin.a_step_until(end, last - first), bundle


def bare(recipe: Recipe, photos: Photos, bundle: Bundle) -> Spent:
    """What a step takes in a plain loop: the same network, loss and optimiser, on ready tensors."""
    model = build_geolocator(recipe, len(bundle.partition)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.train.lr, weight_decay=recipe.train.weight_decay)
    images = torch.stack([bundle.preprocess(path.read_bytes()) for path in photos.paths()]) / 255
    images = ((images - model.mean) / model.std).contiguous(memory_format=torch.channels_last)
    rows = torch.from_numpy(bundle.partition.rows_of(photos))
    batches = list(zip(images.split(BATCH), rows.split(BATCH), strict=True))

    def steps(batches: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        for batch, row in batches:
            optimizer.zero_grad()
            functional.cross_entropy(model.head(model.encoder(batch)).logits, row).backward()
            optimizer.step()

    steps(batches[:2])
    begin, again = Spent.so_far(), EPOCHS - 1
    steps(batches * again)
    return begin.a_step_until(Spent.so_far(), STEPS * again)


def training_rows(pairs: int = 3) -> list[Row]:
    """The bare step, and by how many percent ours takes longer: medians over pairs of runs."""
    recipe = parse_recipe(RECIPE)
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        photos = make_photos(Path(folder))
        for _ in range(pairs):
            spent, bundle = ours(recipe, photos)
            runs.append((spent, bare(recipe, photos, bundle)))
    bare_wall, bare_here = (median(getattr(b, name) for _, b in runs) for name in ("wall", "here"))
    wall = [100 * (a.wall / b.wall - 1) for a, b in runs]
    here = [100 * (a.here / b.here - 1) for a, b in runs]
    workers = [100 * a.workers / b.here for a, b in runs]
    what = f"bare step, resnet18, {BATCH} photos"
    return [
        Row(what, f"{bare_wall:.2f} s, {bare_here:.2f} s of processors"),
        Row("  ours above it", percent(wall), f"under {GOAL} %", median(wall) < GOAL),
        Row("  processors: decoding in workers", percent(workers)),
        Row("  processors: Lightning, loop, callbacks", percent(here)),
    ]


def percent(values: list[float]) -> str:
    return f"{median(values):+.1f} % ({min(values):+.1f} to {max(values):+.1f})"


if __name__ == "__main__":
    print_table(training_rows())
