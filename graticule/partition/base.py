"""What every division of the map answers: whose photo is this, where is that class, what does it look like."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from graticule.errors import BadRecipeError, BadTableError
from graticule.files import write_parquet
from graticule.geo import s2
from graticule.geo.sphere import Floats, Ints, check_latlon, chord_to_km, from_vectors, great_circle_km, unit_vectors
from graticule.photos.table import Photos

NO_CELL = -1
KIND = "graticule.kind"  # where a Parquet file says which division it holds; cells of S2 need not
LEAST_SPREAD_KM = 0.001  # no position is known better than this

# The mean distance from the points of a square of side 1 to its middle is (sqrt(2) + asinh(1)) / 6 = 0.3826.
SPREAD_OF_SIDE = (np.sqrt(2) + np.arcsinh(1)) / 6


class Partition(ABC):
    """C classes, each a part of the map; the row number is the class index.

    Attributes:
        kind: the name of this way to divide, as in a recipe's ``cells.kind``.
        photos: how many training photos belong to each class, shape ``(C,)``, int64, at least 1.
        lat, lon: spherical mean of these photos, shape ``(C,)``, degrees.
    """

    kind: ClassVar[str]
    photos: Ints
    lat: Floats
    lon: Floats

    def __len__(self) -> int:
        return len(self.photos)

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """A name for each class, all different."""

    @property
    def title(self) -> str:
        """What the classes are, for people, such as ``21 k-means clusters``."""
        return f"{len(self):,} {self._called}"

    @property
    @abstractmethod
    def _called(self) -> str: ...

    @property
    def center_lat(self) -> Floats:
        """Latitude of the middle of each class, degrees."""
        return self.lat

    @property
    def center_lon(self) -> Floats:
        """Longitude of the middle of each class, degrees."""
        return self.lon

    @abstractmethod
    def assign(self, lat: Any, lon: Any) -> Ints:
        """Row of the class of each point, or ``NO_CELL``; shape of the input.

        Raises:
            BadCoordinateError: a point is off the globe.
        """

    def rows_of(self, photos: Photos) -> Ints:
        """Row of the class of each photo, or ``NO_CELL``, shape ``(N,)``.

        Raises:
            BadTableError: the classes are values of a column that these photos lack.
        """
        return self.assign(photos.lat, photos.lon)

    @abstractmethod
    def outlines(self) -> tuple[Any, Any]:
        """Latitudes and longitudes of each class's border, degrees, as
        :func:`graticule.reporting.maps.rings` takes them.

        C arrays each, counter-clockwise seen from outside, not closed.
        """

    @abstractmethod
    def spread_km(self) -> Floats:
        """Distance to expect from a photo of a class to the class's middle, shape ``(C,)``."""

    def around(self) -> s2.Cells | None:
        """The S2 cell around each class, shape ``(C,)``, whose ancestors are a hierarchy; none where there is none."""
        return None

    def coarse(self) -> "Partition":
        """The classes that a belief is laid around: these, or fewer that hold them where these are very many."""
        return self

    def coarse_logits(self, logits: Floats) -> Floats:
        """Logits of :meth:`coarse`, shape ``(N, D)``, from those of these classes, ``(N, C)``."""
        return logits

    def spacing_km(self) -> Floats:
        """Distance from each class's mean position to the nearest other mean position, shape ``(C,)``.

        Classes with the same photos share one mean position, which counts once. Where there is only one, the
        spacing is the side of a square with the class's spread.
        """
        spacing = nearest_other_km(self.lat, self.lon)
        return self.spread_km() / SPREAD_OF_SIDE if spacing is None else spacing

    def summary(self, total: int | None = None) -> dict[str, Any]:
        """Counts for people and for JSON; ``total`` is how many photos the classes were grown from."""
        inside = self._photos_inside()
        return {
            "kind": self.kind,
            "cells": len(self),
            "photos": inside if total is None else total,
            "photos_outside": 0 if total is None else total - inside,
            "photos_per_cell": {
                "min": int(self.photos.min()),
                "median": float(np.median(self.photos)),
                "max": int(self.photos.max()),
            },
            "spread_km": {"min": float(self.spread_km().min()), "max": float(self.spread_km().max())},
        }

    def write(self, path: Path) -> None:
        """Write a Parquet file, one row a class; :func:`graticule.partition.read_partition` reads it.

        Raises:
            WriteError: the file could not be written whole.
        """
        import polars as pl

        columns = {name: pl.Series(name, values) for name, values in self._to_columns().items()}
        write_parquet(Path(path), pl.DataFrame(columns), metadata={KIND: self.kind} | self._to_metadata())

    def _photos_inside(self) -> int:
        return int(self.photos.sum())

    @abstractmethod
    def _to_columns(self) -> dict[str, Any]:
        """The columns of the file, each of length C."""

    def _to_metadata(self) -> dict[str, str]:
        """What holds for the whole file."""
        return {}

    @classmethod
    @abstractmethod
    def _from_columns(cls, columns: dict[str, Any], facts: dict[str, str]) -> Self:
        """The way back from columns and metadata.

        Raises:
            KeyError: a column is missing.
            TypeError, ValueError: one does not make sense.
        """

    def _check(self, **own: str) -> None:
        """Whether photos, lat, lon and a kind's own arrays (dtypes by name) are of one length and make sense.

        Raises:
            TypeError, ValueError: they do not.
        """
        dtypes = own | {"photos": "int64", "lat": "float64", "lon": "float64"}
        for name, dtype in dtypes.items():
            if getattr(self, name).dtype != dtype:
                raise TypeError(f"{name} must be {dtype}, got {getattr(self, name).dtype}")
        shapes = [getattr(self, name).shape[:1] for name in dtypes]
        if len(set(shapes)) > 1 or self.photos.ndim != 1 or not len(self.photos):
            raise ValueError(f"{', '.join(dtypes)} must share one shape (C,) with C at least 1, got {shapes}")
        if self.photos.min() < 1:
            raise ValueError(f"every cell needs at least one photo, the least has {self.photos.min()}")
        check_latlon(self.lat, self.lon)


@dataclass(frozen=True, eq=False)
class MeasuredPartition(Partition):
    """Classes without a size of their own: how far their photos spread is measured on the training photos.

    Attributes:
        spread: mean distance of a photo from its class's mean position, km, shape ``(C,)``, above 0.
    """

    photos: Ints
    lat: Floats
    lon: Floats
    spread: Floats

    def __post_init__(self) -> None:
        self._check(spread="float64")
        if not (self.spread > 0).all():
            raise ValueError(f"every spread must be above 0 km, the least is {self.spread.min()}")

    def spread_km(self) -> Floats:
        """Distance to expect from a photo of a class to the class's mean position, shape ``(C,)``."""
        return self.spread

    def _to_columns(self) -> dict[str, Any]:
        facts = {"photos": self.photos, "lat": self.lat, "lon": self.lon, "spread_km": self.spread}
        return {"name": self.names} | facts | {"center_lat": self.center_lat, "center_lon": self.center_lon}


def measured(columns: dict[str, Any]) -> dict[str, Any]:
    """The attributes of a :class:`MeasuredPartition`, from the columns of its file."""
    return {name: columns[name] for name in ("photos", "lat", "lon")} | {"spread": columns["spread_km"]}


def measure(lat: Floats, lon: Floats, rows: Ints, count: int) -> dict[str, Any]:
    """The attributes of a :class:`MeasuredPartition`, from N photos and their rows.

    Every class has a photo at least; photos in ``NO_CELL`` are left out. A class whose photos are all of one place
    shows no spread: it is taken for a square that reaches halfway to the nearest other class.
    """
    known = rows != NO_CELL
    lat, lon, rows = lat[known], lon[known], rows[known]
    photos = np.bincount(rows, minlength=count)
    sums = np.stack([np.bincount(rows, side, minlength=count) for side in unit_vectors(lat, lon).T], axis=1)
    mean_lat, mean_lon = from_vectors(sums)
    off_km = great_circle_km(lat, lon, mean_lat[rows], mean_lon[rows])
    # The mean was fitted to these very photos, so they lie nearer to it than others will: Bessel's correction.
    spread = np.bincount(rows, off_km, minlength=count) / np.sqrt(photos * np.maximum(photos - 1, 1))
    spacing = nearest_other_km(mean_lat, mean_lon)
    if spacing is not None:
        spread = np.where(spread < LEAST_SPREAD_KM, SPREAD_OF_SIDE * spacing, spread)
    return {"photos": photos, "lat": mean_lat, "lon": mean_lon, "spread": np.maximum(spread, LEAST_SPREAD_KM)}


def check_positions(lat: Any, lon: Any) -> tuple[Floats, Floats]:
    """Positions to grow classes from, flat.

    Raises:
        BadCoordinateError: a position is off the globe.
        BadTableError: there are none.
    """
    lats, lons = (side.ravel() for side in check_latlon(lat, lon))
    if not len(lats):
        raise BadTableError("there are no photos to grow cells from")
    return lats, lons


def check_count(name: str, count: int, values: Any, what: str) -> None:
    """Refuse to make more parts than there are different ``values``.

    Raises:
        BadRecipeError: too many parts, or none.
    """
    most = len(np.unique(values, axis=0))
    if not 1 <= count <= most:
        raise BadRecipeError(f"{name}={count} is impossible: the photos have {most} different {what}, so 1 to {most}")


def nearest_other_km(lat: Floats, lon: Floats) -> Floats | None:
    """Distance from each of C points to the nearest that is not the same one; none where all are one."""
    from scipy.spatial import KDTree

    about_1_cm = np.round(np.stack([lat, lon], axis=1), 7)
    _, first, place = np.unique(about_1_cm, axis=0, return_index=True, return_inverse=True)
    if len(first) == 1:
        return None
    points = unit_vectors(lat[first], lon[first])
    chord, _ = KDTree(points).query(points, k=2)
    return chord_to_km(chord[:, 1])[place.ravel()]
