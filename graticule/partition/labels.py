"""A column of the table as classes: cities, countries, whatever it says."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from graticule.errors import BadRecipeError, BadTableError
from graticule.geo.sphere import Ints, check_latlon, nearest_km
from graticule.partition.base import NO_CELL, check_positions
from graticule.partition.hulls import HullPartition, hulled, measure_with_hulls
from graticule.photos.table import Photos


@dataclass(frozen=True, eq=False)
class LabelPartition(HullPartition):
    """Each value of a column is a class; its middle is the mean position of its training photos.

    Attributes:
        labels: the values as text, sorted, shape ``(C,)``.
        column: where they stand.
    """

    kind: ClassVar[str] = "label"
    labels: list[str]
    column: str

    def __post_init__(self) -> None:
        HullPartition.__post_init__(self)
        if len(set(self.labels)) != len(self) or self.labels != sorted(self.labels):
            raise ValueError(f"{len(self)} classes need as many labels, sorted and all different")

    @classmethod
    def fit(cls, lat: ArrayLike, lon: ArrayLike, labels: ArrayLike, *, column: str) -> "LabelPartition":
        """Take the labels of N photos as they are; a missing or an empty one makes no class.

        Args:
            lat, lon: positions of the training photos, shape ``(N,)``, degrees.
            labels: the values of the column, shape ``(N,)``.

        Raises:
            BadRecipeError: no photo has a label.
            BadCoordinateError: a position is off the globe.
            BadTableError: there are no photos.
        """
        lats, lons = check_positions(lat, lon)
        texts = _texts(labels)
        if len(texts) != len(lats):
            raise ValueError(f"{len(lats)} photos need as many labels, got {len(texts)}")
        known = sorted({text for text in texts if text is not None})
        if not known:
            raise BadRecipeError(f"the column {column!r} is empty in all {len(lats)} photos; name another as label")
        rows = _rows(texts, known)
        return cls(**measure_with_hulls(lats, lons, rows, len(known)), labels=known, column=column)

    def assign(self, lat: ArrayLike, lon: ArrayLike) -> Ints:
        """Row of the label whose photos' mean is nearest: all that a position tells, and right for cities.

        Where the column is at hand, :meth:`rows_of` reads it.

        Raises:
            BadCoordinateError: a point is off the globe.
        """
        lats, lons = check_latlon(lat, lon)
        _, rows = nearest_km(lats.ravel(), lons.ravel(), self.lat, self.lon)
        return rows.reshape(lats.shape)

    def rows_of(self, photos: Photos) -> Ints:
        """Row of each photo's label, shape ``(N,)``; ``NO_CELL`` for a label that training never saw.

        Raises:
            BadTableError: the photos lack the column.
        """
        if not photos.has(self.column):
            raise BadTableError(
                f"the classes are values of the column {self.column!r}, which these photos lack; "
                f"they have: {', '.join(photos.frame.columns)}"
            )
        return _rows(_texts(photos.column(self.column)), self.labels)

    @property
    def names(self) -> list[str]:
        """The values of the column."""
        return self.labels

    @property
    def _called(self) -> str:
        return f"values of the column {self.column}"

    def _to_metadata(self) -> dict[str, str]:
        return {"graticule.column": self.column}

    @classmethod
    def _from_columns(cls, columns: dict[str, Any], facts: dict[str, str]) -> "LabelPartition":
        return cls(**hulled(columns), labels=list(columns["name"]), column=facts["graticule.column"])


def _texts(labels: ArrayLike) -> list[str | None]:
    """Labels as text: what is a number in one table may be text in another; none where there is nothing."""
    values = np.asarray(labels, object).ravel().tolist()
    return [None if value is None or value != value or not str(value).strip() else str(value) for value in values]


def _rows(texts: list[str | None], known: list[str]) -> Ints:
    row_of = {label: row for row, label in enumerate(known)}
    return np.array([NO_CELL if text is None else row_of.get(text, NO_CELL) for text in texts], np.int64)
