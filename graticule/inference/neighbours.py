"""Candidates for the nearest neighbours of millions of photos, by FAISS: short codes in an inverted file.

A code is half a byte for each of 128 principal axes, turned at random so that each carries as much, in the list of its
nearest center (Sivic and Zisserman, "Video Google", ICCV 2003). With its number a photo takes 72 bytes, which are
mapped from a file and read where a question comes near: 0.7 GB for ten million. Codes are coarse: who asks compares
the candidates anew, see :class:`graticule.inference.gallery.Gallery`.
"""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graticule.geo.sphere import Ints

EXACT = 200_000  # photos up to which all are compared
AXES = 128  # of a code
LEARNED = 50  # photos that each list is learned from
PROBED, SHARE = 64, 16  # lists that a question looks into: so many, or one in so many where that is more
BATCH = 65_536
Rows = Callable[[slice | Ints], NDArray[np.float32]]


class Candidates:
    """Photos whose codes are near to a question's.

    Args:
        rows: unit vectors of F numbers of the photos asked for; all are read once, some at a time.
        count: how many photos there are.
    """

    def __init__(self, rows: Rows, count: int, seed: int = 0) -> None:
        import faiss

        lists = int(4 * np.sqrt(count))
        some = np.random.default_rng(seed).choice(count, min(count, LEARNED * lists), replace=False)
        learned = rows(np.sort(some))
        axes = min(AXES, learned.shape[1])
        index = faiss.index_factory(learned.shape[1], f"PCAR{axes},IVF{lists},SQ4")
        index.train(learned)
        for start in range(0, count, BATCH):
            index.add(rows(slice(start, start + BATCH)))
        with TemporaryDirectory() as folder:  # a file that is mapped stays readable without its name
            file = str(Path(folder) / "codes.faiss")
            faiss.write_index(index, file)
            self._index: Any = faiss.read_index(file, faiss.IO_FLAG_MMAP)
        faiss.extract_index_ivf(self._index).nprobe = max(PROBED, lists // SHARE)

    def of(self, asked: NDArray[np.float32], count: int) -> Ints:
        """For each of M unit vectors ``count`` rows, likeliest first, ``(M, count)``; -1 where there are no more."""
        rows: Ints = self._index.search(np.ascontiguousarray(asked), count)[1]
        return rows


def worth_it(count: int) -> bool:
    """Whether so many photos are better asked by their codes: they are many, and FAISS is installed."""
    return count > EXACT and find_spec("faiss") is not None
