"""Clusters of photos: k-means and Gaussian mixtures, fitted by scikit-learn, kept as arrays."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from graticule.geo import s2
from graticule.geo.sphere import Floats, Ints, check_latlon, from_vectors, unit_vectors
from graticule.partition.base import check_count, check_positions
from graticule.partition.hulls import HullPartition, hulled, measure_with_hulls

_CHUNK = 1 << 13  # points at a time, where a number is held of each point and class
_TRIES = 4  # starts of k-means, of which the best is kept


@dataclass(frozen=True, eq=False)
class ClusterPartition(HullPartition):
    """Clusters of points on the unit sphere, sorted along S2's curve, so that neighbours have near rows.

    Attributes:
        middle: the middle of each cluster as a vector inside the unit sphere, shape ``(C, 3)``.
    """

    middle: Floats

    def __post_init__(self) -> None:
        HullPartition.__post_init__(self)
        self._check(middle="float64")
        if self.middle.shape != (len(self), 3):
            raise ValueError(f"the middles of {len(self)} clusters are vectors of 3, got shape {self.middle.shape}")

    @property
    def names(self) -> list[str]:
        """The row with a letter before it, such as ``c07``."""
        digits = len(str(len(self) - 1))
        return [f"c{row:0{digits}}" for row in range(len(self))]

    @property
    def center_lat(self) -> Floats:
        """Latitude of the middle of each cluster, degrees."""
        return from_vectors(self.middle)[0]

    @property
    def center_lon(self) -> Floats:
        """Longitude of the middle of each cluster, degrees."""
        return from_vectors(self.middle)[1]

    def assign(self, lat: ArrayLike, lon: ArrayLike) -> Ints:
        """Row of the cluster of each point: every point of the globe has one; shape of the input.

        Raises:
            BadCoordinateError: a point is off the globe.
        """
        lats, lons = check_latlon(lat, lon)
        rows = np.empty(lats.shape, np.int64)
        flat_lat, flat_lon, flat = lats.reshape(-1), lons.reshape(-1), rows.reshape(-1)
        for start in range(0, lats.size, _CHUNK):
            some = slice(start, start + _CHUNK)
            flat[some] = self._nearness(unit_vectors(flat_lat[some], flat_lon[some])).argmax(axis=1)
        return rows

    def _nearness(self, points: Floats) -> Floats:
        """What is greatest for a point's own cluster, shape ``(N, C)``, of unit vectors ``(N, 3)``."""
        raise NotImplementedError

    def _to_columns(self) -> dict[str, Any]:
        return HullPartition._to_columns(self) | {"middle": self.middle.tolist()}


@dataclass(frozen=True, eq=False)
class KMeansPartition(ClusterPartition):
    """Clusters by k-means: a point belongs to the nearest middle."""

    kind: ClassVar[str] = "kmeans"

    @classmethod
    def fit(cls, lat: ArrayLike, lon: ArrayLike, *, clusters: int, seed: int = 0) -> "KMeansPartition":
        """Cluster the positions of N photos as unit vectors, by scikit-learn's ``KMeans``.

        Args:
            lat, lon: positions of the training photos, shape ``(N,)``, degrees.

        Raises:
            BadRecipeError: more clusters than there are different positions.
            BadCoordinateError: a position is off the globe.
            BadTableError: there are no photos.
        """
        from sklearn.cluster import KMeans

        lats, lons, points, origin, scale = _enlarged(lat, lon, clusters)
        model = KMeans(clusters, n_init=_TRIES, random_state=seed).fit(points)
        order = _along_the_curve(model.cluster_centers_ * scale + origin)
        middle = (model.cluster_centers_ * scale + origin)[order]
        return cls(**measure_with_hulls(lats, lons, np.argsort(order)[model.labels_], clusters), middle=middle)

    @property
    def _called(self) -> str:
        return "k-means clusters"

    def _nearness(self, points: Floats) -> Floats:
        # Minus half the squared distance, without the points' own part; from near the middles, to keep digits.
        origin = self.middle.mean(axis=0)
        middle = self.middle - origin
        nearness: Floats = (points - origin) @ middle.T - (middle**2).sum(axis=1) / 2
        return nearness

    @classmethod
    def _from_columns(cls, columns: dict[str, Any], _: dict[str, str]) -> "KMeansPartition":
        return cls(**hulled(columns), middle=_vectors(columns["middle"]))


@dataclass(frozen=True, eq=False)
class GaussianPartition(ClusterPartition):
    """Clusters by a mixture of Gaussians: a point belongs to the Gaussian most likely to have made it.

    Attributes:
        weight: of each Gaussian in the mixture, shape ``(C,)``.
        whiten: ``(x - middle) @ whiten`` has unit variance, shape ``(C, 3, 3)``: the Cholesky factor of the precision.
    """

    kind: ClassVar[str] = "gaussian"
    weight: Floats
    whiten: Floats

    def __post_init__(self) -> None:
        ClusterPartition.__post_init__(self)
        self._check(weight="float64", whiten="float64")
        if self.whiten.shape != (len(self), 3, 3) or not (self.weight > 0).all():
            raise ValueError("each Gaussian needs a weight above 0 and a matrix of 3 by 3")

    @classmethod
    def fit(cls, lat: ArrayLike, lon: ArrayLike, *, clusters: int, seed: int = 0) -> "GaussianPartition":
        """Fit a mixture to the positions of N photos as unit vectors, by scikit-learn's ``GaussianMixture``.

        GeoKnowr fits latitudes and longitudes, where Fiji is two places and degrees shrink towards the poles.
        A Gaussian to which no photo belongs in the end is no class.

        Args:
            lat, lon: positions of the training photos, shape ``(N,)``, degrees.

        Raises:
            BadRecipeError, BadCoordinateError, BadTableError: as :meth:`KMeansPartition.fit`.
        """
        from sklearn.mixture import GaussianMixture

        lats, lons, points, origin, scale = _enlarged(lat, lon, clusters)
        model = GaussianMixture(clusters, max_iter=500, random_state=seed).fit(points)
        kept, rows = np.unique(model.predict(points), return_inverse=True)
        middle = model.means_[kept] * scale + origin
        order = _along_the_curve(middle)
        return cls(
            **measure_with_hulls(lats, lons, np.argsort(order)[rows], len(kept)),
            middle=middle[order],
            weight=model.weights_[kept][order],
            whiten=model.precisions_cholesky_[kept][order] / scale,
        )

    @property
    def _called(self) -> str:
        return "clusters of a Gaussian mixture"

    def _nearness(self, points: Floats) -> Floats:
        """Logarithm of weight times density, up to what all share."""
        log_determinant = np.log(np.diagonal(self.whiten, axis1=1, axis2=2)).sum(axis=1)
        nearness = np.empty((len(points), len(self)))
        for row, (middle, whiten) in enumerate(zip(self.middle, self.whiten, strict=True)):
            nearness[:, row] = -0.5 * (((points - middle) @ whiten) ** 2).sum(axis=1)
        nearness += log_determinant + np.log(self.weight)
        return nearness

    def _to_columns(self) -> dict[str, Any]:
        whiten = self.whiten.reshape(-1, 9).tolist()
        return ClusterPartition._to_columns(self) | {"weight": self.weight, "whiten": whiten}

    @classmethod
    def _from_columns(cls, columns: dict[str, Any], _: dict[str, str]) -> "GaussianPartition":
        whiten = _vectors(columns["whiten"]).reshape(-1, 3, 3)
        return cls(**hulled(columns), middle=_vectors(columns["middle"]), weight=columns["weight"], whiten=whiten)


def _enlarged(lat: ArrayLike, lon: ArrayLike, clusters: int) -> tuple[Floats, Floats, Floats, Floats, float]:
    """Positions, and as vectors around their mean at a spread of one: ``(lat, lon, points, origin, scale)``.

    scikit-learn's tolerances and floors are absolute; a town on the unit sphere would lie below them all.
    """
    lats, lons = check_positions(lat, lon)
    vectors = unit_vectors(lats, lons)
    check_count("clusters", clusters, vectors, "positions")
    origin = vectors.mean(axis=0)
    scale = float(np.sqrt(((vectors - origin) ** 2).sum(axis=1).mean())) or 1.0
    return lats, lons, (vectors - origin) / scale, origin, scale


def _along_the_curve(middle: Floats) -> Ints:
    return np.argsort(s2.leaf_cells(*from_vectors(middle)), kind="stable")


def _vectors(column: Any) -> Floats:
    """A column of lists as an array of shape ``(C, length)``."""
    return np.array([np.asarray(row, np.float64) for row in column])
