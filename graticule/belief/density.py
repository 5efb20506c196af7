"""The belief itself: a density on the sphere, made of cells, of known photos that look alike, and of the map alone."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from graticule.belief import kernels
from graticule.geo.sphere import EARTH_RADIUS_KM, Floats, Ints, chord_to_km, chords, from_vectors, unit_vectors

LOCAL = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0, 8.0, 16.0, 64.0)  # widths of kernels, in spreads of their center
SCALES = 2 * len(LOCAL)  # the same again in the usual spread: widths that are one everywhere
LEAST_WIDTH_KM = 0.003  # no photo's position is known better: the accuracy of a phone's receiver
SPHERE_KM2 = 4 * np.pi * EARTH_RADIUS_KM**2
AT_ONCE = 2**22  # distances held at a time


@dataclass(frozen=True)
class Shape:
    """How what is known of a photo becomes a density, fitted on photos that did not train.

    Attributes:
        temperature: divides the logits of cells.
        sharpness: multiplies the cosines of known photos.
        cells: share of each scale of kernel around the cells, as the network weighs them.
        gallery: the same around known photos, as they look like this one; zero where there is no gallery.
        map: the same around known photos, all alike: what is known without a photo.
        anywhere: share that lies anywhere on the sphere. Together they sum to one.
        without_photo: shares of the scales and of anywhere in the best density that sees no photo.
        usual_km: the usual spread of cells and of known photos, which half of the scales are multiples of. Bundles of
            before have none: theirs was the median of their own centers, which halves where S2 cells are a level finer.
    """

    temperature: float
    sharpness: float
    cells: tuple[float, ...]
    gallery: tuple[float, ...]
    map: tuple[float, ...]
    anywhere: float
    without_photo: tuple[float, ...]
    usual_km: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.temperature < np.inf or not 0 < self.sharpness < np.inf:
            raise ValueError(f"temperature and sharpness must be above 0, got {self.temperature}, {self.sharpness}")
        shares = [*self.cells, *self.gallery, *self.map, self.anywhere]
        for values, count in ((shares, 3 * SCALES + 1), (self.without_photo, SCALES + 1)):
            if len(values) != count or min(values) < 0 or abs(sum(values) - 1) > 1e-6:
                raise ValueError(f"the shares of a belief are {count} numbers, none below 0, that sum to one")

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> Self:
        """The way back from :func:`dataclasses.asdict` through JSON.

        Raises:
            LookupError, TypeError, ValueError: it is none.
        """
        cells, gallery, of_map, without = (
            tuple(map(float, tree[name])) for name in ("cells", "gallery", "map", "without_photo")
        )
        temperature, sharpness, anywhere = (float(tree[name]) for name in ("temperature", "sharpness", "anywhere"))
        usual_km = None if tree.get("usual_km") is None else (float(tree["usual_km"][0]), float(tree["usual_km"][1]))
        return cls(temperature, sharpness, cells, gallery, of_map, anywhere, without, usual_km)


@dataclass(frozen=True, eq=False)
class Kernels:
    """Where parts of a density stand: C centers, each with kernels of ``SCALES`` widths.

    Attributes:
        center: unit vectors, shape ``(C, 3)``.
        width_km: shape ``(C, SCALES)``.
        usual_km: what half of the widths are multiples of.
    """

    center: Floats
    width_km: Floats
    usual_km: float

    @classmethod
    def of(cls, lat: ArrayLike, lon: ArrayLike, spread_km: ArrayLike, usual_km: float | None = None) -> Self:
        """Kernels around positions in degrees.

        Args:
            spread_km: how far from each of them its photos lie, shape ``(C,)``.
            usual_km: the usual spread, of the shape that the kernels are to have; by default their median one.
        """
        spread = np.asarray(spread_km, np.float64)[:, None]
        usual = float(np.median(spread)) if usual_km is None else usual_km
        widths = np.hstack([spread * LOCAL, np.tile(usual * np.array(LOCAL), (len(spread), 1))])
        return cls(unit_vectors(lat, lon), np.maximum(widths, LEAST_WIDTH_KM), usual)

    def __len__(self) -> int:
        return len(self.center)

    @cached_property
    def first(self) -> Ints:
        """For each scale the first that is as wide around every center, ``(SCALES,)``: many are as narrow as may be."""
        _, first, inverse = np.unique(self.width_km, axis=1, return_index=True, return_inverse=True)
        found: Ints = first[inverse]
        return found

    @cached_property
    def tops(self) -> Floats:
        """Density of each kernel at its center, per km2, shape ``(C, SCALES)``."""
        found: Floats = np.exp(kernels.log_density(0.0, self.width_km))
        return found

    def by_scale(self, lat: ArrayLike, lon: ArrayLike, weights: Floats) -> Floats:
        """Density of each scale at M points, where center c weighs ``weights[m, c]``; per km2, ``(M, SCALES)``.

        Args:
            weights: shape ``(M, C)``, or ``(C,)`` where all points share them; several such after one another, of shape
                ``(T, M, C)``, give ``(T, M, SCALES)`` in little more time than one.
        """
        points = unit_vectors(lat, lon)
        weights = np.broadcast_to(weights, (*weights.shape[:-2], len(points), len(self)))
        out = np.empty((*weights.shape[:-1], SCALES))
        step = max(1, AT_ONCE // len(self))
        for start in range(0, len(points), step):
            rows = slice(start, start + step)
            distance = chord_to_km(chords(points[rows], self.center))
            for k in np.unique(self.first):
                density = np.exp(kernels.log_density(distance, self.width_km[:, k]))
                out[..., rows, k] = np.einsum("mc,...mc->...m", density, weights[..., rows, :])
        found: Floats = out[..., self.first]
        return found

    def reach_km(self, shares: ArrayLike) -> Floats:
        """Mean distance from a center to what its kernels hold, shape ``(C,)``."""
        share = np.asarray(shares)
        total = share.sum()
        found: Floats = 2 * self.width_km @ (share / total) if total > 0 else self.width_km[:, 0]
        return np.minimum(found, np.pi / 2 * EARTH_RADIUS_KM)


@dataclass(frozen=True, eq=False)
class Belief:
    """What is believed of the places of N photos: densities on the sphere that share their centers.

    Attributes:
        cells, known: kernels around C cells and P known photos.
        cell_weight, known_weight: of each photo, rows that sum to one, shapes ``(N, C)`` and ``(N, P)``.
    """

    shape: Shape
    cells: Kernels
    known: Kernels
    cell_weight: Floats
    known_weight: Floats
    _alike: Floats = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_alike", np.full(len(self.known), 1 / len(self.known)))

    def __len__(self) -> int:
        return len(self.cell_weight)

    def take(self, rows: slice | NDArray[np.int64]) -> "Belief":
        """The same of some of the photos."""
        return Belief(self.shape, self.cells, self.known, self.cell_weight[rows], self.known_weight[rows])

    def log_density(self, lat: ArrayLike, lon: ArrayLike) -> Floats:
        """Of photo n at point n, natural logarithm per km2, shape ``(N,)``; degrees."""
        parts = np.hstack(
            [
                self.cells.by_scale(lat, lon, self.cell_weight),
                self.known.by_scale(lat, lon, self.known_weight),
                with_anywhere(self.known.by_scale(lat, lon, self._alike)),
            ]
        )
        shares = [*self.shape.cells, *self.shape.gallery, *self.shape.map, self.shape.anywhere]
        found: Floats = np.log(parts @ np.array(shares))
        return found

    def log_prior(self, lat: ArrayLike, lon: ArrayLike) -> Floats:
        """As :meth:`log_density`, of the best density that sees no photo: what the map of known photos tells alone."""
        by_scale = self.known.by_scale(lat, lon, self._alike)
        found: Floats = np.log(with_anywhere(by_scale) @ np.array(self.shape.without_photo))
        return found

    def focused(self, power: float) -> "Belief":
        """The same with what is likely likelier: weights of cells and of known photos to this power."""
        raised = [w**power / (w**power).sum(axis=1, keepdims=True) for w in (self.cell_weight, self.known_weight)]
        return Belief(self.shape, self.cells, self.known, *raised)

    def components(self) -> tuple[Floats, Floats, Floats]:
        """Centers, weights of each photo, and mean distances of what lies around each center in km.

        Shapes ``(C + P, 3)``, ``(N, C + P)`` and ``(C + P,)``; the share of anywhere is left out.
        """
        shape = self.shape
        weights = np.hstack(
            [
                sum(shape.cells) * self.cell_weight,
                sum(shape.gallery) * self.known_weight + sum(shape.map) * self._alike,
            ]
        )
        around_known = np.add(shape.gallery, shape.map)
        reach = np.concatenate([self.cells.reach_km(shape.cells), self.known.reach_km(around_known)])
        return np.vstack([self.cells.center, self.known.center]), weights, reach

    def heights(self, n: int) -> tuple[Floats, Floats, Floats]:
        """What photo ``n``'s kernels are made of: centers, density of each at its center, and widths in radians.

        Shapes ``(C + P, 3)``, ``(C + P, SCALES)`` and ``(C + P, SCALES)``; per km2; the share of anywhere is left out.
        """
        shape = self.shape
        of_known = np.outer(self.known_weight[n], shape.gallery) + np.array(shape.map) / len(self.known)
        tops = np.vstack([np.outer(self.cell_weight[n], shape.cells) * self.cells.tops, of_known * self.known.tops])
        widths = np.vstack([self.cells.width_km, self.known.width_km]) / EARTH_RADIUS_KM
        return np.vstack([self.cells.center, self.known.center]), tops, widths

    def samples(self, count: int, seed: int = 0) -> tuple[Floats, Floats]:
        """Draws from each photo's density, ``(lat, lon)`` of shape ``(N, count)``, degrees."""
        rng = np.random.default_rng(seed)
        shares = np.array([*self.shape.cells, *self.shape.gallery, *self.shape.map, self.shape.anywhere])
        out = np.empty((2, len(self), count))
        for n in range(len(self)):
            part = rng.choice(len(shares), count, p=shares / shares.sum())
            sources = [
                (self.cells, self.cell_weight[n]),
                (self.known, self.known_weight[n]),
                (self.known, self._alike),
            ]
            for i, (where, weight) in enumerate(sources):
                mine = np.flatnonzero(part // SCALES == i)
                center = rng.choice(len(where), len(mine), p=weight / weight.sum())
                width = where.width_km[center, part[mine] % SCALES]
                out[:, n, mine] = kernels.draw(where.center[center], width, rng)
            rest = np.flatnonzero(part == 3 * SCALES)
            out[:, n, rest] = from_vectors(rng.normal(size=(len(rest), 3)))
        return out[0], out[1]


def with_anywhere(by_scale: Floats) -> Floats:
    """One more column: the density of anywhere."""
    return np.hstack([by_scale, np.full((len(by_scale), 1), 1 / SPHERE_KM2)])


def softmax(logits: Floats) -> Floats:
    """Rows of weights that sum to one, shape ``(N, C)``."""
    weight = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: Floats = weight / weight.sum(axis=1, keepdims=True)
    return found
