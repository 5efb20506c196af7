"""The quantile grid: rows and columns that hold equally many photos."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from graticule.geo.sphere import Floats, Ints, check_latlon
from graticule.partition.base import NO_CELL, MeasuredPartition, check_count, check_positions, measure, measured

_LONGEST_EDGE = 60.0  # degrees between two points of an outline: past a half turn the way round is ambiguous


@dataclass(frozen=True, eq=False)
class GridPartition(MeasuredPartition):
    """The cells of a grid of parallels and meridians in which a training photo lies.

    A point belongs to a cell where ``south < lat <= north`` and ``west < lon <= east``; the outermost cells
    reach on to the poles, and to the meridian in the middle of the widest gap between the photos.

    Attributes:
        south, north: degrees, shape ``(C,)``; the first and last are those of the photos farthest out.
        west, east: degrees, shape ``(C,)``, in one unbroken count: east of the antimeridian they pass 180.
    """

    kind: ClassVar[str] = "grid"
    south: Floats
    north: Floats
    west: Floats
    east: Floats
    _row_edges: Floats = field(init=False, repr=False)
    _column_edges: Floats = field(init=False, repr=False)
    _class_of: Ints = field(init=False, repr=False)  # by row and column

    def __post_init__(self) -> None:
        MeasuredPartition.__post_init__(self)
        self._check(south="float64", north="float64", west="float64", east="float64")
        if (self.south > self.north).any() or (self.west > self.east).any():
            raise ValueError("a cell's south must not lie beyond its north, nor its west beyond its east")
        rows, columns = np.union1d(self.south, self.north), np.union1d(self.west, self.east)
        class_of = np.full((max(len(rows) - 1, 1), max(len(columns) - 1, 1)), NO_CELL)
        at = np.searchsorted(rows[:-1], self.south), np.searchsorted(columns[:-1], self.west)
        class_of[at] = np.arange(len(self))
        for name, value in (("_row_edges", rows), ("_column_edges", columns), ("_class_of", class_of)):
            object.__setattr__(self, name, value)

    @classmethod
    def fit(cls, lat: ArrayLike, lon: ArrayLike, *, rows: int, columns: int) -> "GridPartition":
        """Cut the latitudes into ``rows`` and the longitudes into ``columns`` of equal counts, each axis by itself.

        This is the quantile grid of report A's notebook: cells where rows and columns meet may hold any number
        of photos, and those without one are no class. Values that many photos share may make fewer rows. The
        longitudes are counted from the middle of their widest gap, so that photos on both sides of the
        antimeridian stay together.

        Args:
            lat, lon: positions of the training photos, shape ``(N,)``, degrees.

        Raises:
            BadRecipeError: more rows than latitudes, or more columns than longitudes.
            BadCoordinateError: a position is off the globe.
            BadTableError: there are no photos.
        """
        lats, lons = check_positions(lat, lon)
        cut = _widest_gap(lons)
        x = _from_cut(lons, cut)
        check_count("rows", rows, lats, "latitudes")
        check_count("columns", columns, x, "longitudes")
        row_edges, column_edges = (
            np.unique(np.quantile(values, np.linspace(0, 1, count + 1)))
            for values, count in ((lats, rows), (x, columns))
        )
        at_row, at_column = _between(row_edges, lats), _between(column_edges, x)
        cells, found = np.unique(np.stack([at_row, at_column]), axis=1, return_inverse=True)
        row, column = cells
        return cls(
            **measure(lats, lons, found.ravel(), len(row)),
            south=row_edges[row],
            north=row_edges[np.minimum(row + 1, len(row_edges) - 1)],
            west=column_edges[column],
            east=column_edges[np.minimum(column + 1, len(column_edges) - 1)],
        )

    def assign(self, lat: ArrayLike, lon: ArrayLike) -> Ints:
        """Row of the cell around each point, or ``NO_CELL`` where no photo was; shape of the input.

        Raises:
            BadCoordinateError: a point is off the globe.
        """
        lats, lons = check_latlon(lat, lon)
        # Any meridian of the gap will do, since no photo lies there: the middle is the fairest.
        cut = (self._column_edges[0] + self._column_edges[-1] - 360) / 2
        x = _from_cut(lons, cut)
        result: Ints = self._class_of[_between(self._row_edges, lats), _between(self._column_edges, x)]
        return result

    @property
    def names(self) -> list[str]:
        """Row from the south and column from the west, such as ``r03c07``."""
        digits = len(str(max(self._class_of.shape) - 1))
        rows, columns = np.unravel_index(np.flatnonzero(self._class_of.ravel() != NO_CELL), self._class_of.shape)
        order = np.argsort(self._class_of[rows, columns])
        return [f"r{rows[i]:0{digits}}c{columns[i]:0{digits}}" for i in order]

    @property
    def _called(self) -> str:
        rows, columns = self._class_of.shape
        return f"cells of a quantile grid of {rows} by {columns}"

    @property
    def center_lat(self) -> Floats:
        """Latitude of the middle of each cell, degrees."""
        return (self.south + self.north) / 2

    @property
    def center_lon(self) -> Floats:
        """Longitude of the middle of each cell, degrees."""
        return _wrapped((self.west + self.east) / 2)

    def outlines(self) -> tuple[Floats, Floats]:
        """The border of each cell, shape ``(C, P)``; on a flat map, parallels and meridians are straight."""
        steps = int(np.ceil((self.east - self.west).max() / _LONGEST_EDGE)) or 1
        along = np.arange(steps + 1) / steps
        x = self.west[:, None] + (self.east - self.west)[:, None] * along
        lat = np.repeat(np.stack([self.south, self.north], axis=1), steps + 1, axis=1)
        return lat, _wrapped(np.concatenate([x, x[:, ::-1]], axis=1))

    def _to_columns(self) -> dict[str, Any]:
        edges = {"south": self.south, "north": self.north, "west": self.west, "east": self.east}
        return MeasuredPartition._to_columns(self) | edges

    @classmethod
    def _from_columns(cls, columns: dict[str, Any], _: dict[str, str]) -> "GridPartition":
        return cls(**measured(columns), **{name: columns[name] for name in ("south", "north", "west", "east")})


def _widest_gap(lon: Floats) -> float:
    """The meridian in the middle of the widest gap between longitudes, in [-540, 180]."""
    around = np.unique(lon)
    gaps = np.diff(around, prepend=around[-1] - 360)
    widest = int(gaps.argmax())
    return float(around[widest] - gaps[widest] / 2)


def _from_cut(lon: Floats, cut: float) -> Floats:
    """Longitudes in [cut, cut + 360). Turned by whole turns only, so that equal ones stay equal."""
    x = np.where(lon < cut, lon + 360, lon)
    return np.where(x >= cut + 360, x - 360, x)


def _between(edges: Floats, values: Floats) -> Ints:
    """The number of the interval (edge, next edge] around each value; those farther out belong to the outermost."""
    return np.searchsorted(edges[1:-1], values)


def _wrapped(lon: Floats) -> Floats:
    """Longitudes in [-180, 180], untouched where they lie there already."""
    return np.where(lon > 180, lon - 360, np.where(lon < -180, lon + 360, lon))
