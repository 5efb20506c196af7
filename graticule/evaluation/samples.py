"""Anyone's distributions, as samples or weighted points of each photo: what they say of the truths. Pure arrays."""

from dataclasses import dataclass

import numpy as np

from graticule.belief import kernels
from graticule.belief.calibration import likeliest_shares
from graticule.belief.confidence import COVERAGES
from graticule.belief.density import SPHERE_KM2
from graticule.belief.points import best_point
from graticule.geo.sphere import Floats, Ints, chord_to_km, chords, from_vectors, unit_vectors
from graticule.photos.splits import fold_groups

WIDTHS_KM = np.geomspace(0.003, 6000, 22)  # of kernels around points: from a receiver's accuracy to a continent
MOST_POINTS = 2000  # of one photo, the heaviest
MOST_TRUTHS = 3000  # that the map without a photo is made of
FOLDS = 4
DRAWS = 200  # from each density, by which the mass of what is denser than the truth is told
PSEUDO_PHOTOS = 1.0  # spread over the widths beforehand, so that none is impossible
SHARP_RAD = 1e-7  # spread of a point: 60 cm


@dataclass(frozen=True, slots=True)
class Weighed:
    """What the distributions of N photos say; each shape ``(N,)``.

    Attributes:
        lat, lon: the points of least expected distance, degrees.
        log_density, prior_log_density: of the truths, nats per km2: by the distributions, and by the map of the truths
            of other places alone.
        needed: mass of what is denser than the truth: the coverage of the smallest region that just leaves it out.
    """

    lat: Floats
    lon: Floats
    log_density: Floats
    prior_log_density: Floats
    needed: Floats

    @property
    def bits(self) -> Floats:
        """Bits of location of each photo, beyond the map."""
        found: Floats = (self.log_density - self.prior_log_density) / np.log(2)
        return found

    def covered(self) -> dict[str, Floats]:
        """For each coverage, whether the region that says it holds the truth."""
        return {f"coverage_{round(100 * level)}": (self.needed < level).astype(np.float64) for level in COVERAGES}


def weigh_samples(
    photo: Ints, lat: Floats, lon: Floats, weight: Floats, true_lat: Floats, true_lon: Floats, places: Ints
) -> Weighed:
    """Make a density of each photo's points, and ask it about the truth.

    Points have no density: an exponential kernel is laid around each, of widths whose shares are those under which the
    truths of other places are likeliest (``FOLDS`` parts by place, so that no photo has a say in its own). A thousandth
    at least lies anywhere.

    Args:
        photo: which of N photos each of M points is of, shape ``(M,)``; every photo has one at least.
        weight: above 0, of any sum, shape ``(M,)``.
        true_lat, true_lon: degrees, shape ``(N,)``.
        places: codes, shape ``(N,)``.

    Raises:
        BadRecipeError: all photos are of one place.
    """
    count = len(true_lat)
    points, truths = unit_vectors(lat, lon), unit_vectors(true_lat, true_lon)
    order = np.lexsort((-weight, photo))
    groups = [rows[:MOST_POINTS] for rows in np.split(order, np.flatnonzero(np.diff(photo[order])) + 1)]
    masses = [weight[rows] / weight[rows].sum() for rows in groups]
    centers = [points[rows] for rows in groups]
    own = np.vstack([_by_width(truths[[n]], centers[n], masses[n]) for n in range(count)])
    parts = min(FOLDS, len(np.unique(places)))
    fold = fold_groups(places, parts, name="place")
    log_density, prior, needed = (np.empty(count) for _ in range(3))
    for k in range(parts):
        asked, others = np.flatnonzero(fold == k), np.flatnonzero(fold != k)
        shares = _fitted(own[others])
        log_density[asked] = np.log(own[asked] @ shares)
        for n in asked:
            draws = _drawn(centers[n], masses[n], shares, np.random.default_rng(n))
            needed[n] = (_by_width(draws, centers[n], masses[n]) @ shares > np.exp(log_density[n])).mean()
        prior[asked] = _prior(truths, places, asked, others)
    at = np.array([best_point(masses[n], centers[n], np.full(len(masses[n]), SHARP_RAD)) for n in range(count)])
    return Weighed(*from_vectors(at), log_density, prior, needed)


def _prior(truths: Floats, places: Ints, asked: Ints, others: Ints) -> Floats:
    """Log-density at some truths by the map of others, whose widths are fitted leaving each one's place out."""
    others = others[:: -(-len(others) // MOST_TRUTHS) or 1]
    apart = (places[others][:, None] != places[others]).astype(np.float64)
    kept = apart.sum(axis=1) > 0
    apart = apart[kept] / apart[kept].sum(axis=1, keepdims=True)
    shares = _fitted(_by_width(truths[others][kept], truths[others], apart))
    even = np.full(len(others), 1 / len(others))
    found: Floats = np.log(_by_width(truths[asked], truths[others], even) @ shares)
    return found


def _by_width(at: Floats, centers: Floats, weights: Floats) -> Floats:
    """Density of each width at M points, and of anywhere, per km2, shape ``(M, W + 1)``.

    Args:
        at, centers: unit vectors, shapes ``(M, 3)`` and ``(C, 3)``.
        weights: of the centers, shape ``(C,)``, or ``(M, C)``.
    """
    distance = chord_to_km(chords(at, centers))
    weights = np.broadcast_to(weights, distance.shape)
    columns = [np.einsum("mc,mc->m", np.exp(kernels.log_density(distance, width)), weights) for width in WIDTHS_KM]
    return np.stack([*columns, np.full(len(at), 1 / SPHERE_KM2)], axis=1)


def _drawn(centers: Floats, masses: Floats, shares: Floats, rng: np.random.Generator) -> Floats:
    """Draws from one photo's density, unit vectors, shape ``(DRAWS, 3)``."""
    width = rng.choice(len(shares), DRAWS, p=shares / shares.sum())
    around = centers[rng.choice(len(centers), DRAWS, p=masses)]
    near = unit_vectors(*kernels.draw(around, WIDTHS_KM[np.minimum(width, len(WIDTHS_KM) - 1)], rng))
    anywhere = rng.normal(size=(DRAWS, 3))
    anywhere /= np.linalg.norm(anywhere, axis=1, keepdims=True)
    found: Floats = np.where((width == len(WIDTHS_KM))[:, None], anywhere, near)
    return found


def _fitted(density: Floats) -> Floats:
    before = np.full(density.shape[1], PSEUDO_PHOTOS / density.shape[1])
    return likeliest_shares(density, before)[0]
