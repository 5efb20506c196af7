"""Photos whose place is known, asked by likeness: the nearest neighbour, and the density of several. Pure arrays.

Up to ``neighbours.EXACT`` photos, or without the extra ``faiss``, a question is compared with all of them. Of more,
codes name ``PROPOSED`` times as many candidates as neighbours are asked for, and only these are compared.

The baseline of Hays and Efros, "IM2GPS" (CVPR 2008): a network that does not beat it is not worth its training.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from graticule.geo.sphere import EARTH_RADIUS_KM, Floats, Ints, chord_to_km, from_vectors, unit_vectors
from graticule.inference import neighbours

AT_ONCE = 2**24  # similarities held at a time, or numbers of candidates
PROPOSED = 10
TRIED_NEIGHBOURS = (3, 10, 30, 100)
TRIED_SOFTNESS = (0.02, 0.05, 0.1)
TRIED_WIDTHS = (0.5, 2.0, 8.0)  # of the kernel, in units of the median distance between neighbouring places
MOST_QUESTIONS = 500  # known photos that the settings are chosen with
SHIFTS = 10  # steps of the mean shift; it has arrived long before


@dataclass(frozen=True, slots=True)
class Kernel:
    """How neighbours vote.

    Attributes:
        neighbours: how many.
        softness: a neighbour whose cosine is smaller than the best one's by this much weighs 1/e of it.
        width_km: standard deviation of the Gaussian on the ground around each neighbour.
    """

    neighbours: int
    softness: float
    width_km: float


@dataclass(frozen=True, eq=False)
class Gallery:
    """N known photos.

    Args:
        features: what an encoder makes of each, shape ``(N, F)``. Cosines are taken around their mean: what all photos
            have in common tells no place.
        lat, lon: where each was taken, shape ``(N,)``, degrees.
        places: group codes, shape ``(N,)``: photos of one place say nothing about how well others are found.
    """

    features: NDArray[np.float32]
    lat: Floats
    lon: Floats
    places: Ints
    _center: NDArray[np.float32] = field(init=False, repr=False)
    _points: Floats = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not len(self.features) or {len(self.lat), len(self.lon), len(self.places)} != {len(self.features)}:
            raise ValueError(
                f"features, lat, lon and places need one row a photo, at least one; got {len(self.features)}, "
                f"{len(self.lat)}, {len(self.lon)}, {len(self.places)}"
            )
        object.__setattr__(self, "_center", self.features.mean(axis=0))
        object.__setattr__(self, "_points", unit_vectors(self.lat, self.lon))

    def nearest(self, features: NDArray[np.float32]) -> Ints:
        """The known photo most like each of M others, shape ``(M,)``."""
        return np.concatenate([index[:, 0] for index, _ in self._neighbours(features, 1)])

    def density_mode(self, features: NDArray[np.float32], kernel: Kernel) -> tuple[Floats, Floats]:
        """Where the density of the neighbours is highest, ``(lat, lon)`` of shape ``(M,)``, degrees."""
        found = [
            self._modes(index, likeness, kernel) for index, likeness in self._neighbours(features, kernel.neighbours)
        ]
        return from_vectors(np.concatenate(found))

    def best_kernel(self, seed: int = 0) -> Kernel:
        """The kernel with the smallest median error when known photos are predicted and their own places are not
        there to answer: nothing but the gallery itself decides.
        """
        asked = np.random.default_rng(seed).permutation(len(self.lat))[:MOST_QUESTIONS]
        width_km = self._spacing_km()
        parts = [*self._neighbours(self.features[asked], max(TRIED_NEIGHBOURS), asked, len(asked))]
        index, likeness = (np.concatenate(part) for part in zip(*parts, strict=True))
        told = np.isfinite(likeness[:, 0])  # whose candidates are not all of their own place
        index, likeness, asked = index[told], likeness[told], asked[told]
        truth = self._points[asked]
        kernels = [
            Kernel(k, softness, wide * width_km)
            for k, softness, wide in itertools.product(TRIED_NEIGHBOURS, TRIED_SOFTNESS, TRIED_WIDTHS)
        ]

        def median_error(kernel: Kernel) -> float:
            k = kernel.neighbours
            modes = self._modes(index[:, :k], likeness[:, :k], kernel)
            return float(np.median(np.linalg.norm(modes - truth, axis=1)))

        return min(kernels, key=median_error)

    def _spacing_km(self) -> float:
        """Median distance from a place to the nearest other one."""
        from scipy.spatial import KDTree

        points = np.unique(self._points.round(7), axis=0)  # to a metre
        if len(points) == 1:
            return 1.0
        return float(np.median(chord_to_km(KDTree(points).query(points, k=2)[0][:, 1])))

    def _modes(self, index: Ints, likeness: Floats, kernel: Kernel) -> Floats:
        """Mean shift from the densest neighbour, unit vectors of shape ``(M, 3)``."""
        weight = np.exp((likeness - likeness[:, :1]) / kernel.softness)
        points = self._points[index]
        width = kernel.width_km / EARTH_RADIUS_KM

        def pull(x: Floats) -> Floats:
            """Weights of the neighbours seen from ``(M, J, 3)`` points, shape ``(M, J, K)``."""
            squared = ((x[:, :, None] - points[:, None]) ** 2).sum(axis=3)
            drawn: Floats = weight[:, None] * np.exp(-squared / (2 * width**2))
            return drawn

        densest = pull(points).sum(axis=2).argmax(axis=1)
        x = points[np.arange(len(points)), densest]
        for _ in range(SHIFTS):
            x = np.einsum("mk,mkd->md", pull(x[:, None])[:, 0], points)
            x /= np.linalg.norm(x, axis=1, keepdims=True)
        modes: Floats = x
        return modes

    def _neighbours(
        self, features: NDArray[np.float32], k: int, own: Ints | None = None, at_once: int | None = None
    ) -> Iterator[tuple[Ints, Floats]]:
        """The ``k`` most alike of the gallery, best first, and their cosines, some photos at a time.

        Args:
            own: rows of the gallery that the features belong to, whose places are then left out.
        """
        width = self.features.shape[1]
        k = min(k, len(self.features))
        by_codes = neighbours.worth_it(len(self.features))
        compared = PROPOSED * k * width if by_codes else max(len(self.features), 3 * k * k)  # pairs come later
        step = at_once if at_once and not by_codes else max(1, AT_ONCE // compared)
        known = None if by_codes else self._rows(slice(None))
        for start in range(0, len(features), step):
            questions = _unit(features[start : start + step] - self._center)
            if known is not None:
                rows = np.broadcast_to(np.arange(len(known)), (len(questions), len(known)))
                likeness = (questions @ known.T).astype(np.float64)
            else:
                rows = self._candidates.of(questions, min(PROPOSED * k, len(self.features)))
                of_each = self._rows(rows.ravel()).reshape(*rows.shape, width)
                likeness = np.einsum("mf,mcf->mc", questions, of_each).astype(np.float64)
                likeness[rows < 0] = -np.inf
            if own is not None:
                mine = self.places[own[start : start + step]]
                likeness[mine[:, None] == self.places[rows]] = -np.inf
            top = np.argpartition(-likeness, k - 1, axis=1)[:, :k]
            found = np.take_along_axis(likeness, top, axis=1)
            order = np.argsort(-found, axis=1, kind="stable")
            best = np.take_along_axis(top, order, axis=1)
            yield np.take_along_axis(rows, best, axis=1), np.take_along_axis(found, order, axis=1)

    @cached_property
    def _candidates(self) -> neighbours.Candidates:
        return neighbours.Candidates(self._rows, len(self.features))

    def _rows(self, some: slice | Ints) -> NDArray[np.float32]:
        """Features of these photos around the mean, as unit vectors."""
        return _unit(self.features[some] - self._center)


def _unit(vectors: ArrayLike) -> NDArray[Any]:
    array = np.asarray(vectors)
    unit: NDArray[Any] = array / np.maximum(np.linalg.norm(array, axis=1, keepdims=True), 1e-12)
    return unit
