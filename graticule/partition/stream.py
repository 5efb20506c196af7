"""Adaptive cells of more points than memory holds: read twice in batches, and counted.

What is kept is one number for each occupied cell of the finest level, however many photos lie in it.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from graticule.choices import Engine, Keep
from graticule.geo import s2
from graticule.geo.sphere import Floats, Ints, from_vectors
from graticule.partition.cells import (
    CellPartition,
    Owners,
    check_settings,
    grow_counted,
    means_of_sums,
    nothing_kept,
    sums_by_piece,
)
from graticule.parts import Folder
from graticule.photos.table import read_span

Batch = tuple[Floats, Floats]
Span = tuple[Path, int, int]
Counted = tuple[s2.Cells, NDArray[np.uint32]]  # cells, sorted, and the photos of each
T = TypeVar("T")
R = TypeVar("R")
_BUCKETS = 64  # of cell ids, each merged by itself, so that a merge holds little twice
_PENDING = 1 << 16  # counts that a bucket collects before it merges, at least


def fit_batches(
    batches: Callable[[], Iterable[Batch]],
    *,
    split_above: int,
    drop_below: int,
    max_level: int = s2.MAX_LEVEL,
    keep: Keep = "planet",
) -> tuple[CellPartition, int]:
    """As :meth:`CellPartition.fit`, of points that come in batches.

    Args:
        batches: gives latitudes and longitudes, degrees, batch by batch; called twice, and alike.

    Returns:
        The partition of all points (its means differ by rounding, since sums are added in another order), and how many
        points there are.

    Raises:
        BadRecipeError: as :meth:`CellPartition.fit`.
    """
    return _fit(
        lambda: _threaded(partial(_count, level=max_level), batches()),
        lambda cells: _threaded(partial(_sums, owners=Owners.of(cells)), batches()),
        split_above,
        drop_below,
        max_level,
        keep,
    )


def fit_in_parts(
    folder: Path,
    spans: Sequence[Span],
    lat: str,
    lon: str,
    *,
    split_above: int,
    drop_below: int,
    max_level: int = s2.MAX_LEVEL,
    keep: Keep = "planet",
    engine: Engine = "here",
    cores: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[CellPartition, int]:
    """As :func:`fit_batches`, to the same bytes, with what each batch gives kept in a folder: a killed fit goes on.

    Args:
        folder: of parts, to be deleted once the partition is written.
        spans: of :func:`graticule.photos.table.point_spans`.
        lat, lon: names of the columns.
        engine, cores: who counts; see :func:`graticule.parts.each`.
        progress: called with (batches done now, batches to do now), of which there are two readings.
    """

    def told(before: int, after: int) -> Callable[[int, int], None]:
        return lambda done, total: progress(before + done, before + total + after) if progress else None

    counting = Folder(folder / "counts", CountJob(lat, lon, max_level), spans, 1, "batches")

    def counts() -> Iterator[Counted]:
        counting.make(engine, cores=cores, progress=told(0, len(spans)))
        for part in counting.read():
            yield part["cell"].to_numpy(), part["photos"].to_numpy()

    def sums(cells: s2.Cells) -> Iterator[Floats]:
        adding = Folder(folder / "sums", SumJob(lat, lon, cells), spans, 1, "batches")
        adding.make(engine, cores=cores, progress=told(len(spans), 0))
        for part in adding.read():
            yield part.to_numpy().T

    return _fit(counts, sums, split_above, drop_below, max_level, keep)


@dataclass(frozen=True, slots=True)
class CountJob:
    """How many points lie in each occupied cell; see :class:`graticule.parts.Job`."""

    lat: str
    lon: str
    level: int

    def about(self) -> dict[str, Any]:
        return {"kind": "counts", **asdict(self)}

    def open(self, _: int | None) -> Callable[[Sequence[Span]], pl.DataFrame]:
        def counted(spans: Sequence[Span]) -> pl.DataFrame:
            [span] = spans
            cells, photos = _count(read_span(*span, self.lat, self.lon), self.level)
            return pl.DataFrame({"cell": cells, "photos": photos})

        return counted


@dataclass(frozen=True, slots=True, eq=False)
class SumJob:
    """Sum of the unit vectors of the points in each piece of the curve; see :class:`graticule.parts.Job`."""

    lat: str
    lon: str
    cells: s2.Cells

    def about(self) -> dict[str, Any]:
        return {
            "kind": "sums", "lat": self.lat, "lon": self.lon, "cells": sha256(self.cells.tobytes()).hexdigest(),
        }  # fmt: skip

    def open(self, _: int | None) -> Callable[[Sequence[Span]], pl.DataFrame]:
        owners = Owners.of(self.cells)

        def added(spans: Sequence[Span]) -> pl.DataFrame:
            [span] = spans
            return pl.DataFrame(dict(zip("xyz", _sums(read_span(*span, self.lat, self.lon), owners), strict=True)))

        return added


def _fit(
    counts: Callable[[], Iterable[Counted]],
    sums: Callable[[s2.Cells], Iterable[Floats]],
    split_above: int,
    drop_below: int,
    max_level: int,
    keep: Keep,
) -> tuple[CellPartition, int]:
    """Cells by the counts of all batches, and their means by the sums of each batch over the sorted cells."""
    check_settings(split_above, drop_below, max_level, keep)
    cells, photos, total = _grown(counts(), split_above, drop_below, max_level, keep)
    order = np.argsort(cells)
    owners = Owners.of(cells[order])
    of_all = np.zeros((3, len(owners.rows)))
    for some in sums(cells[order]):
        of_all += some
    lat, lon = from_vectors(means_of_sums(of_all, owners, cells[order]))
    return CellPartition(cells[order], photos[order], lat, lon), total


def _grown(
    counted: Iterable[Counted], split_above: int, drop_below: int, max_level: int, keep: Keep
) -> tuple[s2.Cells, Ints, int]:
    """The cells to keep, in no order, the photos of each, and of all."""
    counts = _Counts()
    for some, of_them in counted:
        counts.add(some, of_them)
    keys, before = counts.finish()
    total = int(before[-1])

    def count(cells: s2.Cells) -> Ints:
        start = np.searchsorted(keys, s2.range_min(cells))
        found: Ints = before[np.searchsorted(keys, s2.range_max(cells), side="right")] - before[start]
        return found

    cells, photos = grow_counted(count, split_above, drop_below, max_level, keep)
    if not len(cells):
        _, any_photos = grow_counted(count, split_above, 1, max_level, keep)
        raise nothing_kept(total, any_photos.max(initial=0), split_above, drop_below)
    return cells, photos, total


def _count(batch: Batch, level: int) -> Counted:
    leaves = np.sort(s2.leaf_cells(*batch))
    return _reduced(s2.parents(leaves, level), np.ones(len(leaves), np.uint32))


def _sums(batch: Batch, owners: Owners) -> Floats:
    return sums_by_piece(*batch, s2.leaf_cells(*batch), owners)


def _reduced(keys: s2.Cells, counts: NDArray[np.uint32]) -> Counted:
    """Each of the sorted keys once, with its counts added up."""
    first = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])) if len(keys) else np.empty(0, np.int64)
    return keys[first], np.add.reduceat(counts, first) if len(first) else counts


@dataclass
class _Counts:
    """Photos by cell: sorted runs, merged bucket by bucket."""

    runs: list[list[Counted]] = field(default_factory=lambda: [[] for _ in range(_BUCKETS)])

    def add(self, cells: s2.Cells, photos: NDArray[np.uint32]) -> None:
        bounds = (np.arange(1, _BUCKETS, dtype=np.uint64) * np.uint64(2**64 // _BUCKETS)).astype(np.uint64)
        cuts = np.searchsorted(cells, bounds)
        parts = zip(np.split(cells, cuts), np.split(photos, cuts), strict=True)
        for number, (keys, counts) in enumerate(parts):
            if len(keys):
                self.runs[number].append((keys.copy(), counts.copy()))
                merged, *pending = (len(run) for run, _ in self.runs[number])
                if sum(pending) > max(merged, _PENDING):
                    self._merge(number)

    def finish(self) -> tuple[s2.Cells, Ints]:
        """All K cells, sorted, and how many photos lie before each and after the last, shape ``(K + 1,)``."""
        for number in range(_BUCKETS):
            self._merge(number)
        keys = np.concatenate([keys for runs in self.runs for keys, _ in runs] or [np.empty(0, np.uint64)])
        before = np.zeros(len(keys) + 1, np.int64)
        at = 1
        for runs in self.runs:
            for _, counts in runs:
                before[at : at + len(counts)] = counts
                at += len(counts)
            runs.clear()
        return keys, np.cumsum(before, out=before)

    def _merge(self, number: int) -> None:
        runs = self.runs[number]
        if len(runs) < 2:
            return
        keys, counts = (np.concatenate(parts) for parts in zip(*runs, strict=True))
        order = np.argsort(keys, kind="stable")  # which merges runs that are sorted
        self.runs[number] = [_reduced(keys[order], counts[order])]


def _threaded(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Results in order, computed by as many threads as there are cores, of which few wait."""
    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[object] = deque()
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()  # type: ignore[attr-defined]
        while waiting:
            yield waiting.popleft().result()  # type: ignore[attr-defined]
