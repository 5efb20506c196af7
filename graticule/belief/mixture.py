"""Several models' beliefs of the same photos as one: a world and the cities that it goes down to. Pure arrays."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from graticule.belief import kernels
from graticule.belief.density import SPHERE_KM2, Belief, Kernels
from graticule.geo import s2
from graticule.geo.sphere import Floats, chord_to_km, chords, unit_vectors

LEAST_ALIKE = 1 / 200  # of a photo that is stranger than all that were held out
LEAST_MASS = 1e-12  # so that the logarithm of a city's probability is finite
RIDGE = 3.0  # photos' worth of doubt about a gate that is not the one to begin with


@dataclass(frozen=True, eq=False)
class Mixture:
    """Beliefs of N photos by K models, each model answering for a share of each photo (a mixture of experts).

    Attributes:
        parts: of the world, then of each city.
        share: rows that sum to one, shape ``(N, K)``.
        before: the models' shares before a photo is seen, shape ``(K,)``.
    """

    parts: tuple[Belief, ...]
    share: Floats
    before: Floats

    def __len__(self) -> int:
        return len(self.share)

    def take(self, rows: slice | NDArray[np.int64]) -> "Mixture":
        """The same of some of the photos."""
        return Mixture(tuple(part.take(rows) for part in self.parts), self.share[rows], self.before)

    def log_density(self, lat: ArrayLike, lon: ArrayLike) -> Floats:
        """As of :class:`graticule.belief.density.Belief`."""
        return _mixed([part.log_density(lat, lon) for part in self.parts], self.share)

    def log_prior(self, lat: ArrayLike, lon: ArrayLike) -> Floats:
        """As of :class:`graticule.belief.density.Belief`: what all maps of known photos tell together."""
        return _mixed([part.log_prior(lat, lon) for part in self.parts], self.before)

    def focused(self, power: float) -> "Mixture":
        """The same with what is likely likelier, inside each part."""
        return Mixture(tuple(part.focused(power) for part in self.parts), self.share, self.before)

    def components(self) -> tuple[Floats, Floats, Floats]:
        """As of :class:`graticule.belief.density.Belief`, the parts' one after another."""
        centers, weights, reach = zip(*(part.components() for part in self.parts), strict=True)
        shared = [share[:, None] * weight for share, weight in zip(self.share.T, weights, strict=True)]
        return np.vstack(centers), np.hstack(shared), np.concatenate(reach)

    def heights(self, n: int) -> tuple[Floats, Floats, Floats]:
        """As of :class:`graticule.belief.density.Belief`, the parts' one after another."""
        centers, tops, widths = zip(*(part.heights(n) for part in self.parts), strict=True)
        shared = [share * top for share, top in zip(self.share[n], tops, strict=True)]
        return np.vstack(centers), np.vstack(shared), np.vstack(widths)


@dataclass(frozen=True, eq=False)
class Extent:
    """What the beliefs of one model say of an area: the same few numbers for every photo.

    Attributes:
        of_cells, of_known: mass in the area of each cell's and each known photo's kernels.
        rest: of what is the same for all photos.
    """

    of_cells: Floats
    of_known: Floats
    rest: float

    @classmethod
    def of(cls, belief: Belief, cells: NDArray[np.uint64]) -> Self:
        """For beliefs with these centers and this shape; the area is S2 cells, told by their middles."""
        shape, area_km2 = belief.shape, s2.areas_km2(cells)
        middles = unit_vectors(*s2.centers(cells))

        def held(where: Kernels, shares: tuple[float, ...]) -> Floats:
            distance = chord_to_km(chords(where.center, middles))
            mass = np.zeros(len(where))
            for k in np.flatnonzero(shares):
                density = np.exp(kernels.log_density(distance, where.width_km[:, k, None]))
                mass += shares[k] * np.minimum(density @ area_km2, 1.0)
            return mass

        rest = float(held(belief.known, shape.map).mean() + shape.anywhere * area_km2.sum() / SPHERE_KM2)
        return cls(held(belief.cells, shape.cells), held(belief.known, shape.gallery), rest)

    def probability(self, belief: Belief) -> Floats:
        """That each photo was taken there, in [0, 1], shape ``(N,)``."""
        found: Floats = belief.cell_weight @ self.of_cells + belief.known_weight @ self.of_known + self.rest
        return np.clip(found, LEAST_MASS, 1.0)


@dataclass(frozen=True)
class Gate:
    """When a photo goes down to a city: the log-odds against the world, fitted on photos that trained neither.

    Attributes:
        bias: beforehand.
        by_belief: for each nat of the world's own probability of the city's area.
        by_likeness: for each nat of the share of the city's own held-out photos that were as strange or stranger.
    """

    bias: float = 0.0
    by_belief: float = 1.0
    by_likeness: float = 1.0

    def log_odds(self, probability: Floats, unlike: Floats | None) -> Floats:
        """Of N photos; ``unlike`` is the city's ``unlike_training``, none where it has no gallery."""
        alike = np.zeros(len(probability)) if unlike is None else np.log(np.maximum(1 - unlike, LEAST_ALIKE))
        found: Floats = self.bias + self.by_belief * np.log(probability) + self.by_likeness * alike
        return found


def shares_of(log_odds: Floats) -> Floats:
    """Shares of the world and of K cities, from the cities' log-odds against it ``(N, K)``; shape ``(N, 1 + K)``."""
    whole = np.hstack([np.zeros((len(log_odds), 1)), log_odds])
    raised = np.exp(whole - whole.max(axis=1, keepdims=True))
    found: Floats = raised / raised.sum(axis=1, keepdims=True)
    return found


def fit_gates(probability: Floats, unlike: list[Floats | None], log_density: Floats) -> list[Gate]:
    """Gates under which the truths of N photos are likeliest.

    The likelihood of a mixture of experts (Jacobs, Jordan, Nowlan and Hinton, "Adaptive mixtures of local experts",
    Neural Computation 3(1), 1991), with a few photos' worth of doubt about any other than a first guess.

    Args:
        probability: of each city's area by the world, shape ``(N, K)``.
        unlike: of each city, shape ``(N,)``, or none.
        log_density: at the truth, of the world and of each city, shape ``(N, 1 + K)``.
    """
    from scipy.optimize import minimize

    count = probability.shape[1]
    first = np.tile([0.0, 1.0, 1.0], count)

    def gates(values: Floats) -> list[Gate]:
        return [Gate(*map(float, some)) for some in values.reshape(count, 3)]

    def loss(values: Floats) -> float:
        odds = [gate.log_odds(probability[:, k], unlike[k]) for k, gate in enumerate(gates(values))]
        share = shares_of(np.stack(odds, axis=1))
        doubt = RIDGE * np.square((values - first) / np.tile([10.0, 1.0, 1.0], count)).sum()
        return float(doubt - _mixed(list(log_density.T), share).sum())

    bounds = [(None, None), (0.0, None), (0.0, None)] * count
    found: Any = minimize(loss, first, method="L-BFGS-B", bounds=bounds)
    return gates(found.x)


def _mixed(logs: list[Floats], shares: Floats) -> Floats:
    with np.errstate(divide="ignore"):
        together = np.stack(logs, axis=1) + np.log(shares)
    top = together.max(axis=1, keepdims=True)
    found: Floats = top[:, 0] + np.log(np.exp(together - top).sum(axis=1))
    return found
