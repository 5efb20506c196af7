"""Whether training from shards is as fast as from files: the same photos, decoded to the same tensors.

python -m bench.shards

Both lie on this machine and in its page cache, which is where files are at their best. Each turn reads the photos
in the order of another epoch, from files and from shards in turns; the ratio is of the two in one turn. Without
workers it is of processor time, which the neighbours on a busy machine do not change; with workers it is of the clock.
"""

import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import polars as pl

from bench.decoding import noisy_gradients
from bench.table import Row, print_table
from graticule.config import parse_recipe
from graticule.model.loading import Batches, PhotoDataset, ShapeBatches, shapes_of
from graticule.model.preprocess import Preprocess
from graticule.photos.table import Photos, read_photos
from graticule.sources.pack import pack
from graticule.training.fit import fit

COUNT, DRAWN, BATCH, SIDE = 512, 32, 32, 224
SLACK = 0.97  # what two runs of one thing differ by on this kind of machine
TURNS = 4
RECIPE = {
    "cells": {"split_above": 64, "drop_below": 1},
    "image": {"height": 128, "width": 128},
    "encoder": {"name": "test_efficientnet", "weights": "none"},
    "train": {"epochs": 2, "batch_size": BATCH, "precision": "float32"},
}


def make_photos(folder: Path) -> Photos:
    """Files of 640 x 480 pixels; drawing takes long, so each drawing is told apart by bytes behind its end."""
    rng = np.random.default_rng(0)
    drawn = noisy_gradients(DRAWN, 640, 480)
    names = [f"{i:05}.jpg" for i in range(COUNT)]
    for i, name in enumerate(names):
        (folder / name).write_bytes(drawn[i % DRAWN] + i.to_bytes(4, "big"))
    lat, lon = rng.uniform(-60, 60, COUNT), rng.uniform(-180, 180, COUNT)
    return Photos(pl.DataFrame({"path": names, "lat": lat, "lon": lon}), folder)


class Epochs:
    """A loader over photos, an epoch after another."""

    def __init__(self, photos: Photos, workers: int) -> None:
        preprocess = Preprocess("squash", SIDE, SIDE, longest=SIDE, mean=(0.5,) * 3, std=(0.5,) * 3)
        dataset = PhotoDataset(photos.paths(), preprocess)
        shapes, _ = shapes_of(dataset.photos, preprocess)
        self.order = ShapeBatches(shapes, BATCH, seed=0, blocks=dataset.blocks(), workers=workers)
        self.loader, self.epoch = Batches(dataset, self.order, workers), 0

    def photos_per_second(self) -> float:
        self.epoch += 1
        self.order.set_epoch(self.epoch)
        clock = time.perf_counter if self.loader.num_workers else time.process_time
        begun = clock()
        count = sum(len(batch["index"]) for batch in self.loader)
        return count / (clock() - begun)


def steps_per_second(photos: Photos) -> float:
    """Of a small network, in the last epoch of ``fit``."""
    photos_per_second: float = fit(parse_recipe(RECIPE), photos).facts["epochs"]["photos_per_second"]
    return photos_per_second / BATCH


def shards_rows(turns: int = TURNS) -> list[Row]:
    """Photos per second from files, from shards of the same bytes and from shards of smaller photos."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "files").mkdir()
        files = make_photos(root / "files")
        packed = read_photos(pack(files, root / "packed", shard_mb=16))
        small = read_photos(pack(files, root / "small", shard_mb=16, side=256))
        for workers in (0, 2):
            loaders = [Epochs(photos, workers) for photos in (files, packed, small)]
            loaded = [[loader.photos_per_second() for loader in loaders] for _ in range(turns + 1)][1:]
            from_files, from_shards, from_small = (median(column) for column in zip(*loaded, strict=True))
            ratios = [shards / plain for plain, shards, _ in loaded]
            rows += [
                Row(f"loading files, {workers} workers", f"{from_files:.0f} photos/s"),
                _ratio(f"  shards, {from_shards:.0f} photos/s", ratios),
                Row(f"  shards of --side 256, {from_small:.0f} photos/s", f"{from_small / from_files:.2f} times"),
            ]
            del loaders
        steps = []
        for turn in range(4):  # in turns, so that a machine that grows busier favours neither
            rates = {turn % 2: steps_per_second((files, packed)[turn % 2])}
            rates[1 - turn % 2] = steps_per_second((files, packed)[1 - turn % 2])
            steps.append((rates[0], rates[1]))
        rows += [
            Row("training steps from files", f"{median(plain for plain, _ in steps):.2f} a second"),
            _ratio("  from shards", [shards / plain for plain, shards in steps]),
        ]
    return rows


def _ratio(what: str, ratios: list[float]) -> Row:
    middle = median(ratios)
    measured = f"{middle:.2f} times ({min(ratios):.2f} to {max(ratios):.2f})"
    return Row(what, measured, f"not slower (above {SLACK})", middle > SLACK)


if __name__ == "__main__":
    print_table(shards_rows())
