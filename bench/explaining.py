"""How long an occlusion map takes: ours against ``captum.attr.Occlusion`` as it comes, one square at a time.

python -m bench.explaining

A ViT-S/16 with random weights looks at 224 pixels through 625 squares of 32 pixels moved by 8, on one thread. Processor
time counts, since the clock would count the neighbours too. The maps must be the same: the largest difference stands
beside the time, as a share of the map's range. ``python -m bench`` takes some minutes longer for it.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from captum.attr import Occlusion

from bench.decoding import noisy_gradients
from bench.table import Row, print_table
from graticule.config import parse_recipe
from graticule.explaining.methods import grey_of, occlusion
from graticule.inference.locate import Locator
from graticule.model.bundle import Bundle
from graticule.model.geolocator import build_geolocator
from graticule.model.preprocess import Preprocess
from graticule.partition import CellPartition

GOAL = 5
SIDE, PATCH, STRIDE = 224, 32, 8
RECIPE = {
    "cells": {"split_above": 20, "drop_below": 1},
    "encoder": {"name": "vit_small_patch16_224", "weights": "none"},
}


def make_locator() -> Locator:
    rng = np.random.default_rng(0)
    partition = CellPartition.fit(
        rng.uniform(-60, 60, 2000), rng.uniform(-180, 180, 2000), split_above=20, drop_below=1
    )
    recipe = parse_recipe(RECIPE)
    model = build_geolocator(recipe, len(partition))
    preprocess = Preprocess("squash", SIDE, SIDE, SIDE, model.encoder.mean, model.encoder.std)
    return Locator(Bundle(model, partition, preprocess, recipe), device="cpu")


def captums_map(locator: Locator, data: bytes, target: int, stride: int) -> np.ndarray:
    pixels = locator.bundle.preprocess(data)[None] / 255
    method = Occlusion(lambda images: torch.softmax(locator.bundle.model(images).logits, dim=1))
    grey = grey_of(locator).expand_as(pixels)
    drops = method.attribute(
        pixels, sliding_window_shapes=(3, PATCH, PATCH), strides=(3, stride, stride), baselines=grey, target=target
    )
    return drops[0, 0].numpy()


def spent(work: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.process_time()
    result = work()
    return time.process_time() - begun, result


def explaining_rows(stride: int = STRIDE) -> list[Row]:
    """Processor seconds of both, how many times less ours takes, and how far the maps differ.

    Args:
        stride: a longer step takes fewer squares; the ratio stays.
    """
    locator, data = make_locator(), noisy_gradients(1, 320, 240)[0]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        fast, ours = spent(lambda: occlusion(locator, data, patch=PATCH, stride=stride))
        slow, theirs = spent(lambda: captums_map(locator, data, ours.target, stride))
    finally:
        torch.set_num_threads(threads)
    off = np.abs(ours.heat - theirs).max() / np.ptp(theirs)
    return [
        Row(f"occlusion of ViT-S/16, {ours.settings['squares']} squares", f"{slow:.1f} -> {fast:.1f} s"),
        Row("  ratio to captum", f"{slow / fast:.2f} times", f"at least {GOAL}", slow / fast >= GOAL),
        Row("  largest difference of the maps", f"{100 * off:.2g} % of the range"),
    ]


if __name__ == "__main__":
    print_table(explaining_rows())
