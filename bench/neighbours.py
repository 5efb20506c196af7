"""Neighbours among many photos by FAISS's short codes: how often the best of all is among the candidates.

python -m bench.neighbours [--photos 20000]    # a million take minutes

Synthetic descriptors: places along half of the axes, four photos each, and more noise than that. They are made anew,
block by block, whenever they are read, so that what is held is what the codes take.
"""

import argparse
import time

import numpy as np

from bench.cells import peak_bytes
from bench.table import Row, print_table
from graticule.inference.neighbours import AXES, Candidates

PHOTOS, ASKED, WIDTH = 20_000, 500, 512
BATCH = 8192  # photos made at a time
AMONG = (10, 50, 100)
MIXED = (np.random.default_rng(0).standard_normal((256, WIDTH)) / 16).astype(np.float32)


def views(places: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A photo of each place, which is 256 numbers: a unit vector of ``WIDTH``."""
    rows = places @ MIXED + np.float32(1.2) * rng.standard_normal((len(places), WIDTH), np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def places(number: int) -> np.ndarray:
    return np.random.default_rng([1, number]).standard_normal((BATCH // 4, 256), np.float32)


def block(number: int) -> np.ndarray:
    return views(np.repeat(places(number), 4, axis=0), np.random.default_rng([2, number]))


def neighbours_rows(count: int = PHOTOS) -> list[Row]:
    def known(some: slice | np.ndarray) -> np.ndarray:
        index = np.arange(count)[some] if isinstance(some, slice) else some
        found, number = np.empty((len(index), WIDTH), np.float32), index // BATCH
        for each in np.unique(number):
            found[number == each] = block(each)[index[number == each] % BATCH]
        return found

    rng = np.random.default_rng(3)
    of = rng.choice(count // 4, ASKED, replace=False)
    asked = views(np.stack([places(i // (BATCH // 4))[i % (BATCH // 4)].copy() for i in of]), rng)
    best, likeness = np.zeros(ASKED, np.int64), np.full(ASKED, -np.inf)
    for start in range(0, count, BATCH):
        cosines = asked @ known(slice(start, start + BATCH)).T
        nearer = cosines.max(axis=1) > likeness
        best[nearer] = start + cosines.argmax(axis=1)[nearer]
        likeness = np.maximum(likeness, cosines.max(axis=1))

    begun = time.process_time()
    coded = Candidates(known, count)
    built, begun = time.process_time() - begun, time.process_time()
    candidates = coded.of(asked, AMONG[-1])
    seconds = time.process_time() - begun
    shares = [(candidates[:, :among] == best[:, None]).any(axis=1).mean() for among in AMONG]
    what = ", ".join(f"{share:.1%} of {among}" for share, among in zip(shares, AMONG, strict=True))
    what = f"the best of all is among the candidates: {what}; {1000 * seconds / ASKED:.2f} ms a photo"
    held = f"{built:.0f} s of processors, {peak_bytes() / 2**30:.2f} GiB"
    return [Row(f"codes of {AXES} axes, {count:,} photos", what), Row("  made in", held)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=PHOTOS)
    print_table(neighbours_rows(parser.parse_args().photos))
