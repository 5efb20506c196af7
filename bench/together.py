"""Training by two processes on the CPU against one, and after the second was killed at random moments.

python -m bench.together [--kills 10]

Two processes on the cores of one machine are no faster than one: what is measured is that they learn the same, and that
a run goes on whenever one of them dies. The network has no batch normalisation, whose statistics are a process's own.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import polars as pl
import psutil
import torch
import yaml

from bench.table import Row, print_table
from graticule.config import parse_recipe
from graticule.model.bundle import Bundle
from graticule.model.geolocator import build_geolocator
from graticule.sources.city.make import make_city

KILLS = 10
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


def kill_once(folder: Path, name: str, after: float) -> bool:
    """Kill the second process so many seconds after it began; whether the first then stopped with its sentence."""
    run = subprocess.Popen(command(folder, name, 2), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    second: list[psutil.Process] = []
    while not second and run.poll() is None:
        time.sleep(0.02)
        with suppress(psutil.Error):  # the command, or a child of its own that is gone again
            second = [child for child in psutil.Process(run.pid).children() if "train" in child.cmdline()]
    time.sleep(after)
    for child in second:
        child.kill()
    said = run.communicate()[1]
    return run.returncode == 1 and "another process of this run has ended" in said


def together_rows(kills: int = KILLS) -> list[Row]:
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_city(folder / "city", frames=240, drives=10, size_km=0.3)
        recipe = parse_recipe(RECIPE)
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
        one = whole(folder, "one", 1)
        begun = time.monotonic()
        two = whole(folder, "two", 2)
        seconds = time.monotonic() - begun
        stopped = sum(kill_once(folder, "killed", rng.uniform(0, 0.8 * seconds)) for _ in range(kills))
        killed = whole(folder, "killed", 2)
        start = build_geolocator(recipe, len(Bundle.read(folder / "one").partition)).state_dict()
        moved = torch.cat([(one[name] - start[name]).flatten() for name in one]).norm()
        apart = float(torch.cat([(one[name] - two[name]).flatten() for name in one]).norm() / moved)
        same = all(torch.equal(two[name], killed[name]) for name in two)
        losses = [pl.read_csv(folder / name / "training/history.csv")["train_loss"][-1] for name in ("one", "two")]
    return [
        Row("two processes against one: weights apart", f"{apart:.1e} of their way", f"under {SAME}", apart < SAME),
        Row("  last loss, one and two", f"{losses[0]:.5f} and {losses[1]:.5f}"),
        Row(f"  second process killed {kills} times", f"{stopped} stopped with a sentence"),
        Row("  weights afterwards", "the same bits" if same else "other ones", "the same bits", same),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=KILLS)
    print_table(together_rows(parser.parse_args().kills))
