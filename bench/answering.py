"""What an answer costs beside its network: the photo decoded, the belief, its region, its names.

python -m bench.answering BUNDLE PHOTOS [--count 48] [--threads 2]

Without arguments a tiny bundle of the tests and noisy pictures: that shows the way, and no figure worth telling.
Each photo is asked alone, and the best of its turns counts, since a busy machine only ever adds.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch

import graticule
from bench.decoding import noisy_gradients
from bench.table import Row, print_table
from graticule.photos.table import read_photos

GOAL = 0.1  # of the network's own time
TURNS = 3
TINY = Path(__file__).parents[1] / "tests" / "bundles" / "format-2"


def answering_rows(source: Path = TINY, photos: Path | None = None, count: int = 48) -> list[Row]:
    """The network's time a photo, that of the rest of its answer, and the median of their ratios."""
    locator = graticule.load(source)
    if photos:
        paths = read_photos(photos).paths()
        chosen = np.random.default_rng(0).choice(len(paths), min(count, len(paths)), replace=False)
        data = [paths[i].read_bytes() for i in np.sort(chosen)]
    else:
        data = noisy_gradients(count, 640, 480)
    began, network, decoded = 0.0, 0.0, 0.0

    def before(*_: object) -> None:
        nonlocal began
        began = time.perf_counter()

    def after(*_: object) -> None:
        nonlocal network, decoded
        decoded = began
        network = time.perf_counter() - began

    encoder = locator.bundle.model.encoder
    hooks = encoder.register_forward_pre_hook(before), encoder.register_forward_hook(after)
    locator.locate(data[0])  # grows the ground of the regions
    best = np.full((len(data), 3), np.inf)
    for _ in range(TURNS):
        for i, photo in enumerate(data):
            start = time.perf_counter()
            locator.locate(photo)
            whole = time.perf_counter() - start
            best[i] = np.minimum(best[i], (network, decoded - start, whole - network - (decoded - start)))
    for hook in hooks:
        hook.remove()
    ratio = float(np.median(best[:, 2] / best[:, 0]))
    said = [f"{value:.1f}" for value in np.median(best, axis=0) * 1e3]
    name = locator.bundle.recipe.encoder.name
    return [
        Row(f"one photo alone, {name}", f"network {said[0]} ms, decoding {said[1]} ms, the rest {said[2]} ms"),
        Row(
            "the rest of an answer / its network",
            f"{ratio:.1%}, {len(data)} photos, {torch.get_num_threads()} threads",
            f"at most {GOAL:.0%}" if photos else "",
            ratio <= GOAL if photos else None,
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.answering", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--count", type=int, default=48)
    parser.add_argument("--threads", type=int)
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    print_table(answering_rows(given.bundle, given.photos, given.count))


if __name__ == "__main__":
    main()
