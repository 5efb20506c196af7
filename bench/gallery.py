"""What a large gallery costs a photo, beside its encoder: 100,000 places of random numbers, on one thread.

python -m bench.gallery

The encoder is left out: it takes hundreds of times as long, and the gallery does not change it.
"""

import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch

from bench.table import Row, print_table
from graticule.geo.sphere import from_vectors
from graticule.inference.decode import fixes
from graticule.inference.network import TOGETHER, Network
from graticule.partition import PointPartition
from graticule.zoo.tensors import blank_bundle

PLACES = 100_000
GOAL_MS = 5.0
REFINE = 2


def network(refine: int = 0) -> Network:
    """A bundle with a head of GeoCLIP's shape and scale."""
    rng = np.random.default_rng(0)
    partition = PointPartition.of(*from_vectors(rng.normal(size=(PLACES, 3))))
    tree = {
        "name": "gallery",
        "cells": {"kind": "points"},
        "encoder": {"name": "test_vit", "weights": "none"},
        "head": {"kind": "matching", "widths": (768, 512), "refine": refine},
        "answer": "regressed" if refine else "mode",
    }
    bundle = blank_bundle(tree, partition)
    head = bundle.model.head
    head.scale.fill_(40.0)
    head.places.copy_(torch.nn.functional.normalize(torch.randn(PLACES, 512), dim=1))
    return Network(bundle)


def milliseconds(work: Callable[[], object], photos: int, repeats: int = 9) -> float:
    work()
    times = []
    for _ in range(repeats):
        begun = time.process_time()  # of this one thread; the clock would count the neighbours too
        work()
        times.append(time.process_time() - begun)
    return 1000 * median(times) / photos


def gallery_rows() -> list[Row]:
    """Milliseconds of one core a photo."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows = []
    try:
        asked = network()
        for photos, refine in ((TOGETHER, 0), (1, 0), (TOGETHER, REFINE)):
            asked = network(refine) if refine else asked
            features = torch.randn(photos, asked.bundle.model.encoder.num_features)
            index = np.arange(photos)

            @torch.inference_mode()
            def answer(asked: Network = asked, index: np.ndarray = index, features: torch.Tensor = features) -> object:
                said = asked.said(index, features)
                return fixes(said.points, said.log_probability, asked.bundle.partition, 5)

            found = milliseconds(answer, photos)
            goal = (f"under {GOAL_MS:g}", found < GOAL_MS) if photos == TOGETHER and not refine else ()
            how = f"{photos} photos at once" + (f", refined {refine} times" if refine else "")
            rows.append(Row(f"gallery of {PLACES:,} places, {how}", f"{found:.2f} ms a photo", *goal))
    finally:
        torch.set_num_threads(threads)
    return rows


if __name__ == "__main__":
    print_table(gallery_rows())
