"""Points as classes: the positions of a gallery, such as the one that a public model is asked with."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from graticule.geo.sphere import EARTH_RADIUS_KM, Floats, Ints, check_latlon, from_vectors, nearest_km, unit_vectors
from graticule.partition.base import MeasuredPartition, Partition, check_positions, measure, measured
from graticule.partition.cells import CellPartition

MOST_ALONE = 5000  # points that a belief is laid around one by one; more are gathered into cells of S2
GATHERED = 2000  # cells at least that more points are gathered into
_CORNERS = 8


@dataclass(frozen=True, eq=False)
class PointPartition(MeasuredPartition):
    """Each point is a class, and a position belongs to the nearest one.

    Attributes:
        labels: a name for each point, all different, shape ``(C,)``; none for the row with a letter before it.
    """

    kind: ClassVar[str] = "points"
    labels: list[str] | None = None

    def __post_init__(self) -> None:
        MeasuredPartition.__post_init__(self)
        if self.labels is not None and (len(self.labels) != len(self) or len(set(self.labels)) != len(self)):
            raise ValueError(f"{len(self)} points need as many names, all different")

    @classmethod
    def fit(cls, lat: ArrayLike, lon: ArrayLike) -> "PointPartition":
        """Make each different position of N photos a class.

        Raises:
            BadCoordinateError: a position is off the globe.
            BadTableError: there are no photos.
        """
        lats, lons = check_positions(lat, lon)
        _, first, row = np.unique(np.stack([lats, lons]), axis=1, return_index=True, return_inverse=True)
        return cls(**measure(lats, lons, row.ravel(), len(first)))

    @classmethod
    def of(cls, lat: ArrayLike, lon: ArrayLike, labels: list[str] | None = None) -> "PointPartition":
        """A gallery as it is, row by row; points at one position stay points.

        Raises:
            BadCoordinateError, BadTableError: as :meth:`fit`.
        """
        lats, lons = check_positions(lat, lon)
        facts = measure(lats, lons, np.arange(len(lats)), len(lats))
        return cls(**facts | {"lat": lats, "lon": lons}, labels=labels)

    def assign(self, lat: ArrayLike, lon: ArrayLike) -> Ints:
        """Row of the nearest point: every position of the globe has one; shape of the input.

        Raises:
            BadCoordinateError: a position is off the globe.
        """
        lats, lons = check_latlon(lat, lon)
        _, rows = nearest_km(lats.ravel(), lons.ravel(), self.lat, self.lon)
        return rows.reshape(lats.shape)

    @cached_property
    def _names(self) -> list[str]:
        digits = len(str(len(self) - 1))
        return self.labels or [f"p{row:0{digits}}" for row in range(len(self))]

    @property
    def names(self) -> list[str]:
        """The labels, or the row with a letter before it, such as ``p00042``."""
        return self._names

    @property
    def _called(self) -> str:
        return "points"

    def outlines(self) -> tuple[Floats, Floats]:
        """An octagon around each point that reaches as far as the point's spread, shape ``(C, 8)``."""
        up = unit_vectors(self.lat, self.lon)
        lon_rad = np.radians(self.lon)
        east = np.stack([-np.sin(lon_rad), np.cos(lon_rad), np.zeros(len(self))], axis=1)
        north = np.cross(up, east)
        reach = np.tan(np.minimum(self.spread / EARTH_RADIUS_KM, 1.5))[:, None, None]
        turns = np.arange(_CORNERS)[:, None] * 2 * np.pi / _CORNERS
        rim = np.cos(turns) * east[:, None] + np.sin(turns) * north[:, None]
        return from_vectors(up[:, None] + reach * rim)

    @cached_property
    def _gathered(self) -> tuple[CellPartition, Ints, Ints] | None:
        """Cells, the points in their order, and where each cell's points begin in it; none of few points."""
        if len(self) <= MOST_ALONE:
            return None
        cells = CellPartition.fit(self.lat, self.lon, split_above=len(self) // GATHERED, drop_below=1)
        row = cells.assign(self.lat, self.lon)
        order = np.argsort(row, kind="stable")
        return cells, order, np.searchsorted(row[order], np.arange(len(cells)))

    def coarse(self) -> Partition:
        """Cells of S2 that hold some dozens of points each, where there are more points than a belief can follow."""
        return self if self._gathered is None else self._gathered[0]

    def coarse_logits(self, logits: Floats) -> Floats:
        """The logarithm of the sum of what each cell's points weigh."""
        if self._gathered is None:
            return logits
        _, order, starts = self._gathered
        top = logits.max(axis=1, keepdims=True)
        weight = np.exp(logits - top).take(order, axis=1)
        found: Floats = np.log(np.maximum(np.add.reduceat(weight, starts, axis=1), 1e-300)) + top
        return found

    def _to_metadata(self) -> dict[str, str]:
        return {"graticule.named": "yes" if self.labels else "no"}

    @classmethod
    def _from_columns(cls, columns: dict[str, Any], facts: dict[str, str]) -> "PointPartition":
        names: NDArray[Any] = columns["name"]
        return cls(**measured(columns), labels=list(names) if facts["graticule.named"] == "yes" else None)
