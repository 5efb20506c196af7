"""The networks that the parts of ``bench.gpu`` measure, and their pace."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench.gpu_setup import Setup
from graticule.config import Recipe, read_recipe
from graticule.model.geolocator import Geolocator

CLASSES = 144  # report A's
PACE_S = 2.5  # a plain loop is watched so long
# Recipe, encoder, and what stands in for it where the script is only tried.
NETWORKS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "vit": ("washington-dc", {}, {"encoder.name": "test_vit"}),
    "convnext": ("washington-dc", {"encoder.name": "torchvision/convnext_base"}, {"encoder.name": "test_convnext"}),
    "geovit": (
        "geovit",
        {"train.stages": []},  # the stage that trains every part is the one to be measured
        {"encoder.name": "test_resnet", "encoder.then": {"vit": "test_vit", "grid": 5, "position": "none"}},
    ),
}


def recipe_of(network: str, setup: Setup, **more: Any) -> Recipe:
    """The recipe of a network with random weights; ``more`` are settings with ``__`` for their dots."""
    name, always, tiny = NETWORKS[network]
    cells = {"cells.split_above": max(2, setup.frames // 50), "cells.drop_below": 1}
    sets = always | {"encoder.weights": "none", "split.val": 0.0} | cells
    if setup.small:
        sets |= tiny | {"image.height": 160, "image.width": 160, "train.batch_size": 16, "train.precision": "float32"}
    return read_recipe(Path(name), sets | {key.replace("__", "."): value for key, value in more.items()})


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def settle() -> None:
    """Wait until the device has done what it was asked."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def pace(step: Callable[[], int], seconds: float, warm: int = 3) -> float:
    """Photos a second of a step that tells how many it took, over about so many seconds."""
    for _ in range(warm):
        step()
    settle()
    photos, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        photos += step()
    settle()
    return photos / (time.perf_counter() - begin)


def shape(recipe: Recipe, model: Geolocator) -> tuple[int, int]:
    return recipe.image.shape(model.encoder.input_size)


def seconds(setup: Setup) -> float:
    return 0.5 if setup.small else PACE_S
