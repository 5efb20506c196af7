"""One point for a density on the sphere: of the least distance or the highest score to expect, or where it is densest.

All three minimise a sum over components of a loss of ``h = hypot(arc, spread)``, which rises with ``h``; pure arrays.
"""

import math
from collections.abc import Callable

import numpy as np

from graticule.belief.density import LEAST_WIDTH_KM, Belief
from graticule.belief.mixture import Mixture
from graticule.geo.sphere import EARTH_RADIUS_KM, Floats, Ints, chords

CANDIDATES = 16  # likeliest components among which a search starts
LOOKED_AT = 256  # likeliest components that a search begins with; it ends with all of them
BEGINNINGS = 3  # searches of a score, which may have several tops
STEPS = 30  # at most, of one search; it stops before when no answer gets better
GAIN = 1e-12  # share of the loss below which an answer is no better
CENTERS = 64  # densest components that may hold the densest point

Loss = Callable[[Floats], tuple[Floats, Floats, Floats]]  # of h in radians: the loss, its slope, and the slope of that


def distance(h: Floats) -> tuple[Floats, Floats, Floats]:
    """The loss whose least is the geometric median."""
    return h, np.ones_like(h), np.zeros_like(h)


def missed_score(scale_rad: float) -> Loss:
    """Minus ``exp(-h / scale)``: a 5000th of :func:`graticule.evaluation.metrics.map_score`, turned round."""

    def loss(h: Floats) -> tuple[Floats, Floats, Floats]:
        points = np.exp(-h / scale_rad)
        return -points, points / scale_rad, -points / scale_rad**2

    return loss


def best_point(weights: Floats, centers: Floats, spread_rad: Floats, scale_rad: float | None = None) -> Floats:
    """The unit vector with the least expected distance, or with the highest expected score, shape ``(3,)``.

    Args:
        weights: of C components, summing to one, shape ``(C,)``.
        centers: unit vectors, shape ``(C, 3)``.
        spread_rad: distance to expect from a center to what its component holds, shape ``(C,)``. It lies at right
            angles to any direction on average, so a component is ``hypot(arc, spread)`` away.
        scale_rad: a tenth of the map's diagonal, for the score; none for the distance.
    """
    loss = distance if scale_rad is None else missed_score(scale_rad)
    top = _largest(weights, LOOKED_AT)
    near, p, spread = centers[top], weights[top], spread_rad[top]
    h = np.hypot(2 * np.arcsin(chords(near[:CANDIDATES], near) / 2), spread)
    order = np.argsort(loss(h)[0] @ p, kind="stable")[: 1 if scale_rad is None else BEGINNINGS]
    found = [_descend(near[i], p, near, spread, loss) for i in order]
    x, _ = min(found, key=lambda end: end[1])
    return x if len(top) == len(weights) else _descend(x, weights, centers, spread_rad, loss)[0]


def densest_point(belief: Belief | Mixture, n: int) -> Floats:
    """The unit vector where the belief of photo ``n`` is densest, shape ``(3,)``.

    Exponential kernels have their tops at their centers, and so has their sum, but for where many wide ones overlap:
    the best center is found first, and left if there is a way up. What lies anywhere is the same everywhere.
    """
    centers, heights, width_rad = belief.heights(n)
    total = heights.sum(axis=1)
    kept = _largest(total, LOOKED_AT)
    scales = np.flatnonzero(heights[kept].sum(axis=0) > 0)
    near, a, width = centers[kept], heights[np.ix_(kept, scales)], width_rad[np.ix_(kept, scales)]

    def loss(h: Floats) -> tuple[Floats, Floats, Floats]:
        density = a * np.exp(-h[..., None] / width)
        return -density.sum(axis=-1), (density / width).sum(axis=-1), -(density / width**2).sum(axis=-1)

    arc = 2 * np.arcsin(chords(near[:CENTERS], near) / 2)
    best = int(loss(arc)[0].sum(axis=1).argmin())
    soft = np.full(len(kept), LEAST_WIDTH_KM / EARTH_RADIUS_KM / 10)  # a top has no slope
    return _descend(near[best], np.ones(len(kept)), near, soft, loss)[0]


def _largest(values: Floats, most: int) -> Ints:
    """Where the largest values stand, largest first."""
    most = min(most, len(values))
    found = np.argpartition(-values, most - 1)[:most]
    return found[np.argsort(-values[found], kind="stable")]


def _descend(x: Floats, p: Floats, centers: Floats, spread_rad: Floats, loss: Loss) -> tuple[Floats, float]:
    """From a point to the nearest least loss, and what that is.

    Newton's steps in the tangent plane where the loss is convex there. Else, and where such a step does not help,
    Weiszfeld's with the sphere's logarithm (Fletcher, Venkatasubramanian, Joshi, "The geometric median on Riemannian
    manifolds", NeuroImage 2009), which never goes up: the loss is concave in ``h`` squared. The spread keeps it from
    sticking to a center.
    """
    cost, newton, careful, slope = _look(x, p, centers, spread_rad, loss)
    for _ in range(STEPS):
        step = careful if newton is None else newton
        if step @ slope < GAIN * abs(cost):  # about what it would gain
            break
        moved = _go(x, step)
        found = _look(moved, p, centers, spread_rad, loss)
        if newton is not None and not found[0] < cost:
            moved = _go(x, careful)
            found = _look(moved, p, centers, spread_rad, loss)
        if not found[0] < cost:
            break
        x, (cost, newton, careful, slope) = moved, found
    return x, cost


def _look(
    x: Floats, p: Floats, centers: Floats, spread_rad: Floats, loss: Loss
) -> tuple[float, Floats | None, Floats, Floats]:
    """The loss at a point; the steps of Newton (none where it is not convex) and of Weiszfeld; and the way down.

    The last three are vectors ``(3,)`` in the tangent plane; the way down is minus the gradient.
    """
    chord2 = np.maximum(2 - 2 * (centers @ x), 1e-24)
    half = np.sqrt(chord2) / 2
    arc = 2 * np.arcsin(np.minimum(half, 1))
    h = np.sqrt(arc**2 + spread_rad**2)
    value, slope, bend = loss(h)
    pull = p * slope / h
    # The logarithm of a center seen from x is (center - cos(arc) x) arc / sin(arc).
    cos = 1 - chord2 / 2
    stretch = arc / np.maximum(2 * half * np.sqrt(np.maximum(1 - chord2 / 4, 0)), 1e-12)
    along = pull * stretch
    gradient = along @ centers - (along @ cos) * x
    weight = float(pull.sum())
    careful = gradient / max(weight, 1e-300)
    plane = _tangent_plane(x)
    u, v = (centers @ plane.T).T * stretch / arc  # of length 1: the direction that each center lies in
    # d2/darc2 of the loss along a direction, and slope / tan(arc) across it.
    lengthwise = p * (bend * arc**2 + slope * spread_rad**2 / h) / h**2
    across = along * cos
    uu, vv, uv = lengthwise - across, across.sum(), u * v
    a, b, c = uu @ u**2 + vv, uu @ uv, uu @ v**2 + vv
    determinant = a * c - b * b
    cost = float(value @ p) if value.ndim == 1 else float(value.sum())
    if not (a > 0 and determinant > 1e-12 * a * c):
        return cost, None, careful, gradient
    g = plane @ gradient
    step = np.array([c * g[0] - b * g[1], a * g[1] - b * g[0]]) / determinant
    return cost, step @ plane, careful, gradient


def _tangent_plane(x: Floats) -> Floats:
    """Two unit vectors at right angles to this one and to each other, shape ``(2, 3)``.

    Duff, Burgess, Christensen, Hery, Kensler, Liani, Villemin, "Building an orthonormal basis, revisited", Journal of
    Computer Graphics Techniques 6(1), 2017; by numbers, since numpy's cross product of two vectors costs as much as
    all else of a step.
    """
    a, b, c = x.tolist()
    sign = math.copysign(1.0, c)
    k = -1 / (sign + c)
    return np.array([[1 + sign * a * a * k, sign * a * b * k, -sign * a], [a * b * k, sign + b * b * k, -b]])


def _go(x: Floats, step: Floats) -> Floats:
    moved = x + step
    found: Floats = moved / np.sqrt(moved @ moved)
    return found
