"""Neighbours among many photos by FAISS's short codes: how often the best of all is among the candidates.

python -m bench.neighbours [--photos 20000]

Synthetic descriptors: places that lie along few axes, four photos each, and noise.
"""

import argparse
import time

import numpy as np

from bench.table import Row, print_table
from graticule.inference.neighbours import AXES, Candidates

PHOTOS, ASKED, WIDTH = 20_000, 500, 512
AMONG = (10, 50, 100)


def descriptors(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    places = rng.standard_normal((-(-count // 4), 64)) @ rng.standard_normal((64, WIDTH)) / 8
    rows = np.repeat(places, 4, axis=0)[:count] + 0.7 * rng.standard_normal((count, WIDTH))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def neighbours_rows(count: int = PHOTOS) -> list[Row]:
    rows = descriptors(count + ASKED)
    rng = np.random.default_rng(1)
    order = rng.permutation(len(rows))
    known, asked = rows[order[ASKED:]], rows[order[:ASKED]]
    best = (asked @ known.T).argmax(axis=1)

    coded = Candidates(lambda some: known[some], count)
    begun = time.process_time()
    candidates = coded.of(asked, AMONG[-1])
    seconds = time.process_time() - begun
    shares = [(candidates[:, :among] == best[:, None]).any(axis=1).mean() for among in AMONG]
    what = ", ".join(f"{share:.1%} of {among}" for share, among in zip(shares, AMONG, strict=True))
    what = f"the best of all is among the candidates: {what}; {1000 * seconds / ASKED:.2f} ms a photo"
    return [Row(f"codes of {AXES} axes, {count:,} photos", what)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=PHOTOS)
    print_table(neighbours_rows(parser.parse_args().photos))
