"""Semantic cells: clusters of places within cells of S2, so that borders run where nobody takes photos."""

from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from graticule.errors import BadRecipeError
from graticule.geo import s2
from graticule.geo.sphere import Floats, Ints, check_latlon, unit_vectors
from graticule.partition.base import NO_CELL, check_positions
from graticule.partition.cells import CellPartition, Owners
from graticule.partition.hulls import HullPartition, hulled, measure_with_hulls

_APART = 4.0  # between two parents, beside which every chord of the unit sphere is short


@dataclass(frozen=True, eq=False)
class SemanticPartition(HullPartition):
    """Clusters of places inside parent cells of S2; a point belongs to the cluster of its parent's nearest place.

    PIGEON's geocells (Haas et al., arXiv 2307.05845, section 3.1 and algorithm 1), with S2 cells in place of
    administrative areas and HDBSCAN (Campello, Moulavi and Sander, PAKDD 2013) in place of OPTICS: it needs no
    distance, so that one setting serves a town and the world. A cell is the union of its places' Voronoi cells.

    Attributes:
        parents: the S2 cell around each class, shape ``(C,)``, uint64, increasing; no two parents overlap.
        member_lat, member_lon: the different positions of each class's training photos, C arrays each, degrees.
    """

    kind: ClassVar[str] = "semantic"
    parents: s2.Cells
    member_lat: list[Floats]
    member_lon: list[Floats]

    def __post_init__(self) -> None:
        HullPartition.__post_init__(self)
        self._check(parents="uint64")
        if not s2.are_valid(self.parents).all() or (self.parents[:-1] > self.parents[1:]).any():
            raise ValueError("parents are ids of S2 cells, in order")
        if not len(self.member_lat) == len(self.member_lon) == len(self) or not all(map(len, self.member_lat)):
            raise ValueError(f"each of {len(self)} classes needs a place")

    @classmethod
    def fit(
        cls,
        lat: ArrayLike,
        lon: ArrayLike,
        *,
        split_above: int,
        min_cluster_size: int,
        max_level: int = s2.MAX_LEVEL,
    ) -> "SemanticPartition":
        """Cluster the places of N photos by scikit-learn's ``HDBSCAN``; its noise goes to the nearest cluster.

        Photos of one position are one place, however many there are. The order of the photos does not matter.

        Args:
            lat, lon: positions of the training photos, shape ``(N,)``, degrees.
            split_above: the most places a parent may hold, unless it is of ``max_level``.
            min_cluster_size: the fewest places of a cluster, at least 2; a parent in which no two such clusters are
                found is one class.
            max_level: of the smallest parents, as for :meth:`CellPartition.fit`.

        Raises:
            BadRecipeError: a setting is impossible.
            BadCoordinateError: a position is off the globe.
            BadTableError: there are no photos.
        """
        if min_cluster_size < 2:
            raise BadRecipeError(f"min_cluster_size={min_cluster_size} is no cluster; give at least 2")
        lats, lons = check_positions(lat, lon)
        place, of_place = np.unique(np.stack([lats, lons]), axis=1, return_inverse=True)
        around = CellPartition.fit(*place, split_above=split_above, drop_below=1, max_level=max_level)
        parent = around.assign(*place)
        order = np.argsort(parent, kind="stable")
        points = unit_vectors(*place)
        row = np.empty(len(order), np.int64)
        count = 0
        for own in np.split(order, np.flatnonzero(np.diff(parent[order])) + 1):
            labels = _clusters(points[own], min_cluster_size)
            row[own] = count + labels
            count += int(labels.max()) + 1
        row = _along_the_curve(row, s2.leaf_cells(*place), count)
        own = np.argsort(row, kind="stable")
        first = np.searchsorted(row[own], np.arange(count))
        members = [np.split(side[own], first[1:]) for side in place]
        facts = measure_with_hulls(lats, lons, row[of_place.ravel()], count)
        return cls(**facts, parents=around.cells[parent[own[first]]], member_lat=members[0], member_lon=members[1])

    def assign(self, lat: ArrayLike, lon: ArrayLike) -> Ints:
        """Row of the cluster of each point, or ``NO_CELL`` where no parent is; shape of the input.

        Raises:
            BadCoordinateError: a point is off the globe.
        """
        lats, lons = check_latlon(lat, lon)
        rows = self._owners.of_leaves(s2.leaf_cells(lats, lons))
        inside = rows != NO_CELL
        _, nearest = self._places.query(_beside(lats[inside], lons[inside], rows[inside]))
        rows[inside] = self._row_of_place[nearest]
        return rows

    @cached_property
    def _owners(self) -> Owners:
        return Owners.of(np.unique(self.parents))

    @cached_property
    def _row_of_place(self) -> Ints:
        return np.repeat(np.arange(len(self)), [len(places) for places in self.member_lat])

    @cached_property
    def _places(self) -> Any:
        """A tree of all places in which the nearest one is always one of the same parent."""
        from scipy.spatial import KDTree

        _, parent = np.unique(self.parents, return_inverse=True)
        lat, lon = np.concatenate(self.member_lat), np.concatenate(self.member_lon)
        return KDTree(_beside(lat, lon, parent[self._row_of_place]))

    def around(self) -> s2.Cells:
        """The parent of each class."""
        return self.parents

    @property
    def names(self) -> list[str]:
        """S2's token of the parent, with the number of the cluster where it has several, such as ``80858c.2``."""
        found = []
        for token, same in groupby(s2.to_tokens(self.parents)):
            count = len(list(same))
            found += [f"{token}.{number}" for number in range(count)] if count > 1 else [token]
        return found

    @property
    def _called(self) -> str:
        return "semantic cells"

    def _to_columns(self) -> dict[str, Any]:
        members = {name: [part.tolist() for part in getattr(self, name)] for name in ("member_lat", "member_lon")}
        return HullPartition._to_columns(self) | {"parent": self.parents} | members

    @classmethod
    def _from_columns(cls, columns: dict[str, Any], _: dict[str, str]) -> "SemanticPartition":
        lat, lon = ([np.asarray(part, np.float64) for part in columns[name]] for name in ("member_lat", "member_lon"))
        return cls(**hulled(columns), parents=columns["parent"], member_lat=lat, member_lon=lon)


def _clusters(points: Floats, min_cluster_size: int) -> Ints:
    """The cluster of each of N places, shape ``(N,)``, numbered from 0: the leaves of HDBSCAN's tree."""
    from scipy.spatial import KDTree
    from sklearn.cluster import HDBSCAN

    if len(points) < 2 * min_cluster_size:
        return np.zeros(len(points), np.int64)
    near = points - points.mean(axis=0)  # so that a town keeps its digits
    model = HDBSCAN(min_cluster_size=min_cluster_size, cluster_selection_method="leaf", copy=True)
    labels: Ints = model.fit(near / (np.abs(near).max() or 1)).labels_.astype(np.int64)
    noise = labels < 0
    if noise.all():
        return np.zeros(len(points), np.int64)
    _, nearest = KDTree(points[~noise]).query(points[noise])
    labels[noise] = labels[~noise][nearest]
    return labels


def _along_the_curve(rows: Ints, leaves: s2.Cells, count: int) -> Ints:
    """The same rows, renumbered in the order in which the curve meets them."""
    order = np.argsort(leaves, kind="stable")
    found, first = np.unique(rows[order], return_index=True)
    number = np.empty(count, np.int64)
    number[found[np.argsort(first)]] = np.arange(count)
    return number[rows]


def _beside(lat: Floats, lon: Floats, parent: Ints) -> Floats:
    """Unit vectors with the parent as a fourth coordinate: places of another are farther off than any of the same."""
    return np.hstack([unit_vectors(lat, lon), _APART * parent[:, None]])
