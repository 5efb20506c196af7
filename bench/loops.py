"""Photos a second of ``graticule train`` against the bare network and the two reports' own loops, in one run.

python -m bench.loops [--recipe demo] [--set encoder.name=resnet18] [--frames 256]

On a synthetic city: what ``train`` reaches after its first epoch, from its own history; the same network, loss and
optimiser over tensors that lie on the device (no loop can be faster); and the loops of the reports' public code:
PIL, resize and ``ToTensor`` in the training process (report B's ``num_workers=0``), and torchvision's decoder in as
many workers as ours. All in the same arithmetic. Without a GPU the network is the limit and the loops lie close.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import io, transforms
from torchvision.transforms.v2 import functional as vision

from bench.table import Row, print_table
from graticule.config import Recipe, parse_overrides, read_recipe
from graticule.model.geolocator import Geolocator, build_geolocator
from graticule.model.loading import worker_count
from graticule.photos.table import Photos, read_photos
from graticule.sources.city.make import make_city
from graticule.training.loop import precision
from graticule.training.train import train

RECIPE = Path("demo")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Batches = Iterable[tuple[Tensor, Tensor]]


class Theirs(Dataset[tuple[Tensor, int]]):
    """One photo a call, as both reports' datasets; the labels do not change the speed."""

    def __init__(self, paths: list[Path], height: int, width: int, by_pillow: bool) -> None:
        self.paths, self.size, self.by_pillow = paths, (height, width), by_pillow
        self.pillow = transforms.Compose([transforms.Resize(self.size), transforms.ToTensor()])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if self.by_pillow:
            with Image.open(self.paths[index]) as photo:
                return self.pillow(photo.convert("RGB")), index % 2
        pixels = io.decode_image(str(self.paths[index]), io.ImageReadMode.RGB)
        return vision.resize(pixels, list(self.size), antialias=True) / 255, index % 2


def ours(recipe: Recipe, photos: Photos) -> tuple[float, int]:
    """Photos a second of the median epoch after the first, and how many photos trained."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = train(recipe, photos, Path(folder) / "run")
        lines = (Path(folder) / "run/training/history.csv").read_text().splitlines()
    column = lines[0].split(",").index("photos_per_second")
    return median(float(line.split(",")[column]) for line in lines[2:]), bundle.facts["photos"]


def loop(recipe: Recipe, model: Geolocator, batches: Batches, warm: int) -> float:
    """Photos a second of a plain training loop after its first ``warm`` batches."""
    wanted = recipe.train
    optimizer = torch.optim.AdamW(model.parameters(), lr=wanted.lr, weight_decay=wanted.weight_decay)
    bfloat16 = precision(recipe) == "bf16-mixed"
    photos, since = 0, 0.0
    model.train()
    for number, (images, rows) in enumerate(batches):
        if number == warm:
            settle()
            photos, since = 0, time.perf_counter()
        with torch.autocast(DEVICE, torch.bfloat16, enabled=bfloat16):
            logits = model(images.to(DEVICE, non_blocking=True)).logits
        optimizer.zero_grad()
        functional.cross_entropy(logits.float(), rows.to(DEVICE)).backward()
        optimizer.step()
        photos += len(images)
    settle()
    return photos / (time.perf_counter() - since)


def settle() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def loops_rows(path: Path = RECIPE, overrides: dict[str, Any] | None = None, frames: int = 256) -> list[Row]:
    """One row a loop: photos a second, and its share of the bare network's."""
    recipe = read_recipe(path, {"train.epochs": 3, "split.val": 0.0} | (overrides or {}))
    with tempfile.TemporaryDirectory() as folder:
        make_city(Path(folder) / "city", frames=frames, drives=8, size_km=0.3)
        photos = read_photos(Path(folder) / "city")
        speed, trained = ours(recipe, photos)
        paths = photos.paths()[:trained]
        workers = worker_count(trained, recipe.train.workers)
        height, width = recipe.image.shape
        size = min(recipe.train.batch_size, trained)
        steps = max(trained // size, 2)
        resident = torch.rand(size, 3, height, width, device=DEVICE), torch.arange(size, device=DEVICE) % 2

        def theirs(workers: int, by_pillow: bool) -> Iterator[tuple[Tensor, Tensor]]:
            dataset = Theirs(paths, height, width, by_pillow)
            loader = DataLoader(
                dataset, size, shuffle=True, num_workers=workers, persistent_workers=workers > 0, drop_last=True
            )
            while True:
                yield from loader

        speeds = {
            f"graticule train, {workers} workers": speed,
            "bare network, tensors on the device": loop(
                recipe, build_geolocator(recipe, 2).to(DEVICE), islice([resident] * steps * 3, steps * 3), steps
            ),
            "PIL in the training process (report B)": loop(
                recipe, build_geolocator(recipe, 2).to(DEVICE), islice(theirs(0, True), steps * 2), steps
            ),
            f"torchvision's decoder, {workers} workers": loop(
                recipe, build_geolocator(recipe, 2).to(DEVICE), islice(theirs(workers, False), steps * 3), steps
            ),
        }
    bare = speeds["bare network, tensors on the device"]
    what = f"{recipe.encoder.name}, {height}x{width}, {size} photos a step, {DEVICE}, {os.cpu_count()} cores"
    return [
        Row(what, f"{trained} photos"),
        *(Row(f"  {name}", f"{value:.1f} photos/s, {value / bare:.0%} of bare") for name, value in speeds.items()),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--frames", type=int, default=256)
    parser.add_argument("--set", action="append", default=[], dest="sets")
    asked = parser.parse_args()
    print_table(loops_rows(asked.recipe, parse_overrides(asked.sets), asked.frames))
