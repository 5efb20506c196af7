"""Fitting a belief to photos that did not train: its shape by maximum likelihood, its regions by conformal ranks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graticule.belief.density import AT_ONCE, SCALES, Belief, Kernels, Shape, softmax, with_anywhere
from graticule.geo.sphere import Floats

TEMPERATURES = (0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)
SHARPNESSES = (5.0, 10.0, 20.0, 40.0, 80.0)
ROUNDS = 300  # of expectation and maximisation; the likelihood is concave in the shares, so they end at its top
PSEUDO_PHOTOS = 3.0  # spread over the shares beforehand as the density without a photo would spread them
LEAST_ANYWHERE = 1e-3
ROUNDING = 1e-9  # of a sum of weights
CROWDED = 5  # times the median number of photos: a group of more counts as if it had so many


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What one model says of N photos that it did not train on.

    Attributes:
        logits: of C cells, at temperature one, shape ``(N, C)``.
        cosines: with P known photos, shape ``(N, P)``; none where there is no gallery.
        nearest: distance to the known photo most like each, shape ``(N,)``; none where there is no gallery.
        lat, lon: where the photos truly are, degrees, shape ``(N,)``.
    """

    cells: Kernels
    known: Kernels
    logits: Floats
    cosines: Floats | None
    nearest: Floats | None
    lat: Floats
    lon: Floats

    def __len__(self) -> int:
        return len(self.lat)

    def belief(self, shape: Shape) -> Belief:
        """What is believed of these photos with a shape."""
        return believe(shape, self.cells, self.known, self.logits, self.cosines)

    def take(self, rows: NDArray[np.int64]) -> "HeldOut":
        """The same of some of the photos."""
        cosines, nearest = (None if part is None else part[rows] for part in (self.cosines, self.nearest))
        return HeldOut(self.cells, self.known, self.logits[rows], cosines, nearest, self.lat[rows], self.lon[rows])


def believe(shape: Shape, cells: Kernels, known: Kernels, logits: Floats, cosines: Floats | None) -> Belief:
    """The belief of N photos from what the network says of cells ``(N, C)`` and of known photos ``(N, P)``."""
    weights = _weights(logits, cosines, shape.temperature, shape.sharpness, len(known))
    return Belief(shape, cells, known, *weights)


def fit_shape(
    parts: Sequence[HeldOut],
    temperatures: Sequence[float] = TEMPERATURES,
    sharpnesses: Sequence[float] = SHARPNESSES,
) -> Shape:
    """The shape under which the truths of all parts are likeliest.

    For each temperature and sharpness the shares by expectation and maximisation (Dempster, Laird and Rubin, JRSS B
    39(1), 1977): the kernels stand and only their shares are free, so the likelihood has one top. The density without
    a photo is among what is mixed, and a few pseudo-photos speak for it: a model that knows nothing ends at the map.
    """
    map_density = np.concatenate(
        [with_anywhere(p.known.by_scale(p.lat, p.lon, np.full(len(p.known), 1 / len(p.known)))) for p in parts]
    )
    of_cells = np.concatenate([_by_scale(p, p.cells, p.logits, 1 / np.array(temperatures)) for p in parts], axis=1)
    galleries = [(part, part.cosines) for part in parts if part.cosines is not None]
    of_gallery = np.zeros((1, len(map_density), SCALES))
    if len(galleries) == len(parts):
        of_gallery = np.concatenate(
            [_by_scale(p, p.known, cosines, np.array(sharpnesses)) for p, cosines in galleries], axis=1
        )
    without, _ = likeliest_shares(map_density, np.zeros(SCALES + 1))
    before = PSEUDO_PHOTOS * np.concatenate([np.zeros(2 * SCALES), without])
    fits = [
        (
            *likeliest_shares(np.hstack([of_cells[t], of_gallery[b], map_density]), before),
            temperatures[t],
            sharpnesses[b],
        )
        for t, b in np.ndindex(len(of_cells), len(of_gallery))
    ]
    shares, _, temperature, sharpness = max(fits, key=lambda found: found[1])
    cells, gallery, of_map = (tuple(shares[i * SCALES : (i + 1) * SCALES].tolist()) for i in range(3))
    usual_km = parts[0].cells.usual_km, parts[0].known.usual_km
    return Shape(temperature, sharpness, cells, gallery, of_map, float(shares[-1]), tuple(without.tolist()), usual_km)


def _by_scale(part: HeldOut, where: Kernels, logits: Floats, factors: Floats) -> Floats:
    """Densities at the truths with weights of several sharpnesses, ``(T, N, SCALES)``; some photos at a time."""
    out = np.empty((len(factors), len(logits), SCALES))
    step = max(1, AT_ONCE // (len(factors) * len(where)))
    for start in range(0, len(logits), step):
        rows = slice(start, start + step)
        weights = np.stack([softmax(logits[rows] * factor) for factor in factors])
        out[:, rows] = where.by_scale(part.lat[rows], part.lon[rows], weights)
    return out


def conformal_level(scores: Floats, groups: NDArray[np.int64], share: float) -> float:
    """The score that the next photo's stays below with probability ``share``, or infinity if too few are known.

    Split conformal prediction (Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World", 2005; Angelopoulos
    and Bates, arXiv 2107.07511, section 1): the ``ceil((n + 1) share) / n`` quantile of ``n`` scores of photos that did
    not train. Photos of one place or drive are right or wrong together, so ``n`` is how many photos of groups of their
    own would tell as much (:func:`effective_count`). With the number of groups as ``n`` coverage would be at least
    ``share`` however alike a group's photos are (Lee, Barber and Willett, arXiv 2306.06342), but 16 drives of 120
    photos would cover 95 % where 90 are asked; with no correction (CDF pooling of Dunn, Wasserman and Ramdas, arXiv
    1809.07441) they would cover fewer than are asked. Photos weigh as :func:`photo_weights` has it.

    Args:
        scores: shape ``(N,)``.
        groups: codes, shape ``(N,)``.
    """
    order = np.argsort(scores, kind="stable")
    below = np.cumsum(photo_weights(groups)[order])
    usual = scores[order][(below >= share - ROUNDING).argmax()]
    n = effective_count(scores <= usual, groups)
    reached = below * n / (n + 1) >= share - ROUNDING
    return float(scores[order][reached.argmax()]) if reached.any() else np.inf


def photo_weights(groups: NDArray[np.int64]) -> Floats:
    """What each of N photos weighs among all, shape ``(N,)``, summing to one: all the same, but for crowded groups.

    Coverage is a share of photos, and photos of crowded places are often easier than others: were all groups to weigh
    the same, regions would cover too much there. A group of more than ``CROWDED`` times as many photos as the median
    one weighs no more than that, lest one of them decide alone (weights are trimmed so in surveys: Potter, "A study of
    procedures to identify and trim extreme sampling weights", ASA 1990).
    """
    _, code, size = np.unique(groups, return_inverse=True, return_counts=True)
    weight = np.minimum(size, CROWDED * np.median(size)) / size
    found: Floats = weight[code] / (weight @ size)
    return found


def effective_count(held: NDArray[np.bool_], groups: NDArray[np.int64]) -> float:
    """How many photos of groups of their own would tell the share of ``held`` as well as these N do.

    The effective sample size of clusters, N over the design effect (Kish, "Survey Sampling", 1965): the variance of one
    photo over that of the weighted mean, taken from what the groups add to it. It is the number of groups where all
    photos of a group agree and groups are of one size, and N where they have nothing in common.

    Args:
        held: shape ``(N,)``.
        groups: codes, shape ``(N,)``.
    """
    weight = photo_weights(groups)
    _, code, size = np.unique(groups, return_inverse=True, return_counts=True)
    fewest = 1 / np.square(np.bincount(code, weight)).sum()
    share = weight @ held
    alone = share * (1 - share)
    if len(size) == 1 or alone < 1e-12:
        return float(fewest)  # nothing tells how much photos of one group agree
    added = np.bincount(code, weight * (held - share))
    variance = np.square(added).sum() * len(size) / (len(size) - 1)
    return float(np.clip(alone / max(variance, 1e-12), fewest, 1 / np.square(weight).sum()))


def coverage_within(places: int, share: float, sure: float = 0.9) -> tuple[float, float]:
    """Between which shares a region's coverage lies, had other photos calibrated it, with probability ``sure``.

    It is Beta-distributed with ``ceil((n + 1) share)`` and the rest of ``n + 1`` (Vovk, "Conditional validity of
    inductive conformal predictors", ACML 2012; Angelopoulos and Bates, arXiv 2107.07511, section 3.2).
    """
    from scipy.special import betaincinv

    rank = int(np.ceil((places + 1) * share - ROUNDING))
    if rank > places:
        return 1.0, 1.0  # the region is everywhere
    low, high = betaincinv(rank, places + 1 - rank, [(1 - sure) / 2, (1 + sure) / 2])
    return float(low), float(high)


def _weights(
    logits: Floats, cosines: Floats | None, temperature: float, sharpness: float, known: int
) -> tuple[Floats, Floats]:
    alike = np.full((len(logits), known), 1 / known) if cosines is None else softmax(sharpness * cosines)
    return softmax(logits / temperature), alike


def likeliest_shares(density: Floats, before: Floats) -> tuple[Floats, float]:
    """The likeliest shares of J densities at N truths ``(N, J)``, and the mean log-density with them.

    Args:
        density: per km2; the last column is that of anywhere, which keeps ``LEAST_ANYWHERE``.
        before: pseudo-photos of each share, shape ``(J,)``.
    """
    shares = np.full(density.shape[1], 1 / density.shape[1])
    shares = np.where(density.any(axis=0) | (before > 0), shares, 0)
    for _ in range(ROUNDS):
        shares = shares * (density.T @ (1 / (density @ shares))) + before
        shares /= shares.sum()
    shares = shares * (1 - LEAST_ANYWHERE)
    shares[-1] += LEAST_ANYWHERE
    return shares, float(np.log(density @ shares).mean())
