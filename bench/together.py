"""Training by two processes on the CPU against one; ``bench.kills`` kills one of them.

Two processes on the cores of one machine are no faster than one: what is measured is that they learn the same. The
network has no batch normalisation, whose statistics are a process's own.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import polars as pl
import torch
import yaml

from bench.table import Row, print_table
from graticule.config import parse_recipe
from graticule.model.bundle import Bundle
from graticule.model.geolocator import build_geolocator
from graticule.sources.city.make import make_city

SAME = 0.01  # of the way that the weights moved
RECIPE = {
    "cells": {"split_above": 30, "drop_below": 5},
    "split": {"by": "sequence", "val": 0.2, "test": 0.1},
    "image": {"height": 64, "width": 64},
    "encoder": {"name": "test_convnext", "weights": "none"},
    "train": {"epochs": 6, "batch_size": 32, "lr": 0.002, "precision": "float32", "workers": 0, "clip": 1.0},
}


def command(folder: Path, name: str, devices: int) -> list[str]:
    run = [
        sys.executable,
        "-m",
        "graticule.cli",
        "train",
        str(folder / "recipe.yaml"),
        "--photos",
        str(folder / "city"),
    ]
    return [*run, "--out", str(folder / name), "--devices", str(devices), "--resume"]


def whole(folder: Path, name: str, devices: int) -> dict[str, torch.Tensor]:
    subprocess.run(command(folder, name, devices), check=True, capture_output=True)
    return Bundle.read(folder / name).model.state_dict()


def together_rows() -> list[Row]:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_city(folder / "city", frames=240, drives=10, size_km=0.3)
        recipe = parse_recipe(RECIPE)
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
        one = whole(folder, "one", 1)
        two = whole(folder, "two", 2)
        start = build_geolocator(recipe, len(Bundle.read(folder / "one").partition)).state_dict()
        moved = torch.cat([(one[name] - start[name]).flatten() for name in one]).norm()
        apart = float(torch.cat([(one[name] - two[name]).flatten() for name in one]).norm() / moved)
        losses = [pl.read_csv(folder / name / "training/history.csv")["train_loss"][-1] for name in ("one", "two")]
    return [
        Row("two processes against one: weights apart", f"{apart:.1e} of their way", f"under {SAME}", apart < SAME),
        Row("  last loss, one and two", f"{losses[0]:.5f} and {losses[1]:.5f}"),
    ]


if __name__ == "__main__":
    print_table(together_rows())
