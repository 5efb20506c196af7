"""What a bundle knows of how sure it may be: the fitted shape, the known photos, and what held-out photos showed."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from graticule.belief.density import LEAST_WIDTH_KM, Kernels, Shape
from graticule.geo.sphere import Floats
from graticule.partition import Partition
from graticule.partition.base import nearest_other_km

MOST_KNOWN = 5000  # photos that a bundle remembers
COVERAGES = (0.5, 0.8, 0.9, 0.95)
ONE_PLACE_KM = 0.1  # spread of a map of one position


@dataclass(frozen=True, eq=False)
class Known:
    """Training photos that a bundle remembers: where they are, and how they look.

    Attributes:
        lat, lon: degrees, shape ``(P,)``.
        features: what the encoder makes of each, standardised and of length one, float16 of shape ``(P, F)``; none
            where the encoder trained along, since it has seen these photos too often to compare others with them.
        center, scale: of the features before, shape ``(F,)``.
    """

    lat: Floats
    lon: Floats
    features: NDArray[np.float16] | None
    center: NDArray[np.float32] | None
    scale: NDArray[np.float32] | None

    @classmethod
    def of(cls, lat: Floats, lon: Floats, features: NDArray[np.float32] | None, seed: int) -> Self:
        """Remember these photos, or as many of them as a bundle may hold, chosen by the seed."""
        kept = np.arange(len(lat))
        if len(lat) > MOST_KNOWN:
            kept = np.sort(np.random.default_rng(seed).choice(len(lat), MOST_KNOWN, replace=False))
        if features is None:
            return cls(lat[kept], lon[kept], None, None, None)
        center = features.mean(axis=0)
        scale = 1 / np.maximum(features.std(axis=0), 1e-6)
        return cls(lat[kept], lon[kept], _unit((features[kept] - center) * scale).astype(np.float16), center, scale)

    def kernels(self) -> Kernels:
        """Kernels around them; a photo's spread is its distance to the nearest other place."""
        spacing = nearest_other_km(self.lat, self.lon)
        spread = np.full(len(self.lat), ONE_PLACE_KM) if spacing is None else np.maximum(spacing, LEAST_WIDTH_KM)
        return Kernels.of(self.lat, self.lon, spread)

    def cosines(self, features: NDArray[np.float32]) -> Floats | None:
        """Likeness of N photos with each known one, in [-1, 1], shape ``(N, P)``; none without features."""
        if self._rows is None or self.center is None or self.scale is None:
            return None
        found = _unit((features - self.center) * self.scale) @ self._rows.T
        return found.astype(np.float64)

    @cached_property
    def _rows(self) -> NDArray[np.float32] | None:
        return None if self.features is None else self.features.astype(np.float32)


@dataclass(frozen=True)
class Calibration:
    """What photos that did not train showed.

    Attributes:
        shape: of the belief, by maximum likelihood.
        focus: of the point, as of :func:`graticule.inference.decode.belief_points`; chosen for the error.
        region_mass: for each coverage, as text, the mass by the belief of regions that really cover so much.
        median_factor, p90_factor: by how much the belief's own median and 90 % distance are to be multiplied.
        likeness: ascending cosines of held-out photos with the known photo most like them; empty without a gallery.
        photos, places: how many were asked.
        how: in words, such as ``4 folds by place``.
    """

    shape: Shape
    focus: float
    region_mass: dict[str, float]
    median_factor: float
    p90_factor: float
    likeness: tuple[float, ...]
    photos: int
    places: int
    how: str

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> Self:
        """The way back from :func:`dataclasses.asdict` through JSON.

        Raises:
            LookupError, TypeError, ValueError: it is none.
        """
        return cls(
            shape=Shape.from_json(tree["shape"]),
            focus=float(tree["focus"]),
            region_mass={str(level): float(tree["region_mass"][str(level)]) for level in COVERAGES},
            median_factor=float(tree["median_factor"]),
            p90_factor=float(tree["p90_factor"]),
            likeness=tuple(map(float, tree["likeness"])),
            photos=int(tree["photos"]),
            places=int(tree["places"]),
            how=str(tree["how"]),
        )

    def unlike_training(self, cosines: Floats | None) -> Floats | None:
        """Share of held-out photos that were more like a known one than each of these, in [0, 1], shape ``(N,)``."""
        if cosines is None or not self.likeness:
            return None
        rank = np.searchsorted(np.array(self.likeness), cosines.max(axis=1), side="left")
        found: Floats = 1 - rank / len(self.likeness)
        return found


@dataclass(frozen=True, eq=False)
class Confidence:
    """A calibration and the photos that it leans on: all that turns a network's output into a belief."""

    calibration: Calibration
    known: Known


def cell_kernels(partition: Partition) -> Kernels:
    """Kernels around the mean positions of a partition's cells."""
    return Kernels.of(partition.lat, partition.lon, partition.spread_km())


def _unit(vectors: NDArray[Any]) -> NDArray[Any]:
    unit: NDArray[Any] = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return unit
