"""Adaptive cells: small where photos are dense, large where they are rare. The classes of the classifier."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from graticule import s2
from graticule.errors import BadRecipeError, BadTableError
from graticule.files import write_parquet
from graticule.geo import Floats, Ints, check_latlon, chord_to_km, from_vectors, unit_vectors

NO_CELL = -1

Keep = Literal["planet", "nested"]

_CHUNK = 1 << 13  # photos at a time, where several numbers are held of each
_BUCKET_BITS = 17  # half a megabyte of buckets
_MIXED = -2  # a bucket with more than one owner


@dataclass(frozen=True, slots=True, eq=False)
class Partition:
    """C cells; the row number is the class index. Cells may contain one another (``keep="nested"``).

    Attributes:
        cells: cell ids, shape ``(C,)``, uint64, strictly increasing.
        photos: how many photos lie in each cell, shape ``(C,)``; those in a smaller cell inside it count too.
        lat, lon: spherical mean of these photos, shape ``(C,)``, degrees.
    """

    cells: s2.Cells
    photos: Ints
    lat: Floats
    lon: Floats
    _owners: "_Owners" = field(init=False, repr=False)

    def __post_init__(self) -> None:
        dtypes = {"cells": "uint64", "photos": "int64", "lat": "float64", "lon": "float64"}
        for name, dtype in dtypes.items():
            if getattr(self, name).dtype != dtype:
                raise TypeError(f"{name} must be {dtype}, got {getattr(self, name).dtype}")
        shapes = [getattr(self, name).shape for name in dtypes]
        if len(set(shapes)) > 1 or self.cells.ndim != 1 or not len(self.cells):
            raise ValueError(f"cells, photos, lat and lon must share one shape (C,) with C at least 1, got {shapes}")
        if not s2.are_valid(self.cells).all():
            bad = self.cells[~s2.are_valid(self.cells)][0]
            raise ValueError(f"{bad:#018x} is not the id of an S2 cell")
        if (self.cells[:-1] >= self.cells[1:]).any():
            raise ValueError("cells must be sorted and must not repeat")
        if self.photos.min() < 1:
            raise ValueError(f"every cell needs at least one photo, the least has {self.photos.min()}")
        check_latlon(self.lat, self.lon)
        object.__setattr__(self, "_owners", _Owners.of(self.cells))

    @classmethod
    def fit(
        cls,
        lat: ArrayLike,
        lon: ArrayLike,
        *,
        split_above: int,
        drop_below: int,
        max_level: int = s2.MAX_LEVEL,
        keep: Keep = "planet",
    ) -> "Partition":
        """Grow cells from the positions of N photos.

        ``planet`` (Weyand et al., "PlaNet", ECCV 2016): start from the six faces; split every cell with more
        than ``split_above`` photos into its four children, down to ``max_level``; drop cells with fewer than
        ``drop_below``. The cells are disjoint.

        ``nested`` (report A's code): keep every cell of any level down to ``max_level`` that holds between
        ``drop_below`` and ``split_above`` photos, both included. A photo belongs to the smallest kept cell
        around it, so a cell all of whose photos lie in smaller kept cells is a class without photos.

        Args:
            lat, lon: positions of the training photos, shape ``(N,)``, degrees.
            split_above: the most photos a cell may hold, unless it is of ``max_level``.
            drop_below: the fewest photos a cell may hold.
            max_level: the smallest cells, 0 (a face, 9,220 km wide) to 30 (1 cm).
            keep: which cells to keep, as above.

        Raises:
            BadRecipeError: a setting is impossible or contradicts another, or no cell holds enough photos.
            BadCoordinateError: a position is off the globe.
            BadTableError: there are no photos.
        """
        _check_settings(split_above, drop_below, max_level, keep)
        lats, lons = (side.ravel() for side in check_latlon(lat, lon))
        leaves = s2.leaf_cells(lats, lons)
        if not len(leaves):
            raise BadTableError("there are no photos to grow cells from")
        in_order = np.sort(leaves)
        grow = _planet if keep == "planet" else _nested
        cells, photos = grow(in_order, split_above, drop_below, max_level)
        if not len(cells):
            _, any_photos = grow(in_order, split_above, 1, max_level)
            raise _nothing_kept(len(leaves), any_photos.max(initial=0), split_above, drop_below)
        del in_order
        order = np.argsort(cells)
        mean_lat, mean_lon = _means(lats, lons, leaves, cells[order])
        return cls(cells[order], photos[order], mean_lat, mean_lon)

    def assign(self, lat: ArrayLike, lon: ArrayLike) -> Ints:
        """Row of the smallest cell around each point, or ``NO_CELL``; shape of the input.

        Raises:
            BadCoordinateError: a point is off the globe.
        """
        return self.assign_leaves(s2.leaf_cells(lat, lon))

    def assign_leaves(self, leaves: s2.Cells) -> Ints:
        """As :meth:`assign`, for points already mapped to level-30 cells."""
        return self._owners.of_leaves(leaves)

    def __len__(self) -> int:
        return len(self.cells)

    @property
    def level(self) -> Ints:
        """Level of each cell, 0 to 30."""
        return s2.level_of(self.cells)

    @property
    def tokens(self) -> list[str]:
        """Text form of each cell."""
        return s2.to_tokens(self.cells)

    @property
    def center_lat(self) -> Floats:
        """Latitude of the middle of each cell, degrees."""
        return s2.centers(self.cells)[0]

    @property
    def center_lon(self) -> Floats:
        """Longitude of the middle of each cell, degrees."""
        return s2.centers(self.cells)[1]

    def spacing_km(self) -> Floats:
        """Distance from each cell's mean position to the nearest other mean position, shape ``(C,)``.

        Nested cells with the same photos share one mean position, which counts once. Where there is only
        one, the spacing is the side of a square of the cell's area.
        """
        from scipy.spatial import KDTree

        about_1_cm = np.round(np.stack([self.lat, self.lon], axis=1), 7)
        _, first, place = np.unique(about_1_cm, axis=0, return_index=True, return_inverse=True)
        if len(first) == 1:
            return np.sqrt(s2.areas_km2(self.cells))
        points = unit_vectors(self.lat[first], self.lon[first])
        chord, _ = KDTree(points).query(points, k=2)
        return chord_to_km(chord[:, 1])[place.ravel()]

    def spread_km(self) -> Floats:
        """Distance to expect from a photo anywhere in a cell to the cell's middle, shape ``(C,)``.

        The mean distance to the middle of a square of side 1 is (sqrt(2) + asinh(1)) / 6 = 0.3826.
        """
        spread: Floats = (np.sqrt(2) + np.arcsinh(1)) / 6 * np.sqrt(s2.areas_km2(self.cells))
        return spread

    def summary(self, total: int | None = None) -> dict[str, Any]:
        """Counts for people and for JSON; ``total`` is how many photos the cells were grown from."""
        inside = int(self.photos[_outermost(self.cells)].sum())
        levels, counts = np.unique(self.level, return_counts=True)
        side_km = np.sqrt(s2.areas_km2(self.cells))
        return {
            "cells": len(self),
            "photos": inside if total is None else total,
            "photos_outside": 0 if total is None else total - inside,
            "levels": dict(zip(map(str, levels.tolist()), counts.tolist(), strict=True)),
            "photos_per_cell": {
                "min": int(self.photos.min()),
                "median": float(np.median(self.photos)),
                "max": int(self.photos.max()),
            },
            "side_km": {"min": float(side_km.min()), "max": float(side_km.max())},
        }

    def write(self, path: Path) -> None:
        """Write a Parquet file, one row a cell, sorted by cell.

        The columns are ``cell`` (uint64), ``token``, ``level``, ``photos``, ``lat``, ``lon``, ``center_lat``,
        ``center_lon``. Token, level and center follow from the cell and are for other programs.

        Raises:
            WriteError: the file could not be written whole.
        """
        import polars as pl

        center_lat, center_lon = s2.centers(self.cells)
        table = pl.DataFrame(
            {
                "cell": self.cells,
                "token": self.tokens,
                "level": self.level,
                "photos": self.photos,
                "lat": self.lat,
                "lon": self.lon,
                "center_lat": center_lat,
                "center_lon": center_lon,
            }
        )
        write_parquet(Path(path), table)

    @classmethod
    def read(cls, path: Path) -> "Partition":
        """Read what :meth:`write` wrote.

        Raises:
            BadTableError: the file is missing, not Parquet, lacks a column, or does not hold a partition.
        """
        import polars as pl

        try:
            table = pl.read_parquet(path)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise BadTableError(
                f"{path} cannot be read as a Parquet file of cells ({error}); make one with 'graticule cells'"
            ) from error
        missing = [name for name in ("cell", "photos", "lat", "lon") if name not in table.columns]
        if missing:
            raise BadTableError(
                f"{path} has no column {', '.join(missing)}; it has {', '.join(table.columns)}. "
                f"Cells come from 'graticule cells'"
            )
        try:
            return cls(*(table[name].to_numpy(writable=True) for name in ("cell", "photos", "lat", "lon")))
        except (TypeError, ValueError) as error:
            raise BadTableError(f"{path} does not hold a partition: {error}") from error


@dataclass(frozen=True, slots=True)
class _Owners:
    """The curve of leaf ids, cut where the smallest cell around changes: S pieces, each with its owner.

    A search among thousands of cuts is slow for leaves in no order. So the curve between the first and the
    last cut is also divided into equal buckets: a bucket within one piece answers at once, and only leaves in
    the others are searched for.
    """

    cuts: s2.Cells  # first leaf of every piece but the first, shape (S - 1,), increasing
    rows: Ints  # owner of each piece, shape (S,)
    buckets: NDArray[np.int32]  # owner of each bucket, or _MIXED; the last lies behind all cuts
    shift: np.uint64  # a bucket holds 2**shift leaf ids

    @classmethod
    def of(cls, cells: s2.Cells) -> "_Owners":
        first, after = s2.range_min(cells), _after(cells)
        cuts = np.unique(np.concatenate([first, after]))
        rows = np.full(len(cuts) + 1, NO_CELL, np.int64)
        level = s2.level_of(cells)
        for depth in np.unique(level):  # smaller cells come later and overrule
            at = np.flatnonzero(level == depth)
            start, stop = np.searchsorted(cuts, first[at]), np.searchsorted(cuts, after[at])
            rows[_runs(start, stop) + 1] = np.repeat(at, stop - start)

        span = int(cuts[-1] - cuts[0])
        shift = np.uint64(max(0, span.bit_length() - _BUCKET_BITS))
        bucket = np.arange((span >> int(shift)) + 2, dtype=np.uint64)
        begin = cuts[0] + (bucket << shift)
        end = begin + ((np.uint64(1) << shift) - np.uint64(1))
        piece = np.searchsorted(cuts, begin, side="right")
        pure = piece == np.searchsorted(cuts, end, side="right")
        return cls(cuts, rows, np.where(pure, rows[piece], _MIXED).astype(np.int32), shift)

    def of_leaves(self, leaves: s2.Cells) -> Ints:
        result = np.empty(leaves.shape, np.int64)
        flat_leaves, flat_result = leaves.reshape(-1), result.reshape(-1)
        for start in range(0, leaves.size, _CHUNK):
            some = slice(start, start + _CHUNK)
            self._of_chunk(flat_leaves[some], flat_result[some])
        return result

    def _of_chunk(self, leaves: s2.Cells, result: Ints) -> None:
        bucket = leaves - self.cuts[0]  # what lies before the first cut wraps around, to behind the last
        bucket >>= self.shift
        np.minimum(bucket, np.uint64(len(self.buckets) - 1), out=bucket)
        np.copyto(result, self.buckets.take(bucket.view(np.int64)))
        mixed = np.flatnonzero(result == _MIXED)
        result[mixed] = self.rows[np.searchsorted(self.cuts, leaves[mixed], side="right")]


def _after(cells: s2.Cells) -> s2.Cells:
    """The first leaf id behind each cell: leaf ids are odd."""
    return s2.range_max(cells) + np.uint64(2)


def _runs(start: Ints, stop: Ints) -> Ints:
    """``start[0], start[0] + 1, ..., stop[0] - 1, start[1], ...``"""
    sizes = stop - start
    return np.arange(sizes.sum()) + np.repeat(stop - np.cumsum(sizes), sizes)


def _check_settings(split_above: int, drop_below: int, max_level: int, keep: str) -> None:
    if keep not in get_args(Keep):
        raise BadRecipeError(f"keep={keep!r} is unknown; valid are {' and '.join(map(repr, get_args(Keep)))}")
    if split_above < 1:
        raise BadRecipeError(f"split_above={split_above} would split for ever; give at least 1")
    if drop_below < 1:
        raise BadRecipeError(f"drop_below={drop_below} would keep cells without photos; give at least 1")
    if drop_below > split_above:
        raise BadRecipeError(
            f"drop_below={drop_below} exceeds split_above={split_above}, so that cells would be split and "
            f"their parts dropped; choose drop_below at most {split_above}"
        )
    if not 0 <= max_level <= s2.MAX_LEVEL:
        raise BadRecipeError(f"max_level={max_level} does not exist; S2 levels run from 0 to {s2.MAX_LEVEL}")


def _counts(in_order: s2.Cells, cells: s2.Cells) -> Ints:
    """How many of the sorted leaves lie in each cell: a cell is an unbroken run of them."""
    start = np.searchsorted(in_order, s2.range_min(cells))
    return np.searchsorted(in_order, s2.range_max(cells), side="right") - start


def _planet(in_order: s2.Cells, split_above: int, drop_below: int, max_level: int) -> tuple[s2.Cells, Ints]:
    kept = []
    cells = s2.face_cells()
    for level in range(max_level + 1):
        photos = _counts(in_order, cells)
        split = (photos > split_above) & (level < max_level)
        keep = ~split & (photos >= drop_below)
        kept.append((cells[keep], photos[keep]))
        cells = s2.children(cells[split]).ravel()
    return np.concatenate([c for c, _ in kept]), np.concatenate([p for _, p in kept])


def _nested(in_order: s2.Cells, split_above: int, drop_below: int, max_level: int) -> tuple[s2.Cells, Ints]:
    kept = []
    cells = s2.face_cells()
    for level in range(max_level + 1):
        photos = _counts(in_order, cells)
        keep = (photos >= drop_below) & (photos <= split_above)
        kept.append((cells[keep], photos[keep]))
        if level < max_level:
            cells = s2.children(cells[photos >= drop_below]).ravel()  # a part never holds more than the whole
    return np.concatenate([c for c, _ in kept]), np.concatenate([p for _, p in kept])


def _nothing_kept(photos_in_all: int, fullest: int, split_above: int, drop_below: int) -> BadRecipeError:
    advice = (
        f"the fullest holds {fullest}, so drop_below={fullest} would give at least one cell"
        if fullest
        else f"each holds more than split_above={split_above}; raise split_above or max_level"
    )
    return BadRecipeError(f"of {photos_in_all} photos no cell holds at least drop_below={drop_below}: {advice}")


def _means(lat: Floats, lon: Floats, leaves: s2.Cells, cells: s2.Cells) -> tuple[Floats, Floats]:
    """Spherical mean of the photos in each of the sorted cells, degrees: sums by piece, then by cell."""
    owners = _Owners.of(cells)
    sums = np.zeros((3, len(owners.rows)))
    at_a_time = max(_CHUNK, len(owners.rows))  # so that adding up the sums takes no longer than making them
    for start in range(0, len(leaves), at_a_time):
        some = slice(start, start + at_a_time)
        piece = np.searchsorted(owners.cuts, leaves[some], side="right")
        for total, side in zip(sums, unit_vectors(lat[some], lon[some]).T, strict=True):
            total += np.bincount(piece, side, minlength=len(total))
    # A cell is an unbroken run of pieces. `reduceat` sums from each index to the next: every other is a cell.
    first = np.searchsorted(owners.cuts, s2.range_min(cells)) + 1
    after = np.searchsorted(owners.cuts, _after(cells)) + 1
    runs = np.stack([first, after], axis=1).ravel()
    closed = np.concatenate([sums, np.zeros((3, 1))], axis=1)  # so that `after` may be the end
    return from_vectors(np.add.reduceat(closed, runs, axis=1)[:, ::2].T)


def _outermost(cells: s2.Cells) -> NDArray[np.bool_]:
    """Which of the sorted cells lie in no other of them."""
    first, last = s2.range_min(cells), s2.range_max(cells)
    order = np.lexsort((s2.level_of(cells), first))  # a cell comes right before the cells inside it
    reach = np.maximum.accumulate(last[order])
    outer = np.ones(len(cells), np.bool_)
    outer[order[1:]] = first[order[1:]] > reach[:-1]
    return outer
