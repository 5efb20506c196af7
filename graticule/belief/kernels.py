"""One kernel on the sphere, exponential in the distance: its density, its mass within a radius, and draws. Pure arrays.

Errors of a geolocator have a heavy tail at every scale; a sum of exponentials of several widths follows it where a
Gaussian cannot. The normaliser is exact on the whole sphere, for the integral of ``exp(-a t) sin(t)`` is elementary.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from graticule.geo.sphere import EARTH_RADIUS_KM, Floats, from_vectors

STEPS = 10  # of a radius, at most
MISSED = 1e-7  # of a share


def log_density(distance_km: ArrayLike, width_km: ArrayLike) -> NDArray[Any]:
    """Density at a distance from the centre, natural logarithm, per km2; the two broadcast.

    ``(1 + a^2) / (2 pi R^2 (1 + exp(-a pi))) exp(-a t)`` with ``a = R / width`` and ``t = distance / R``.

    Args:
        distance_km: along the sphere, at most half of its circumference.
        width_km: distance over which the density falls to 1/e; twice it is the mean distance where it is small.
    """
    distance, width = np.asarray(distance_km), np.asarray(width_km)
    a = EARTH_RADIUS_KM / width
    scale = np.log1p(a**2) - np.log1p(np.exp(-a * np.pi)) - np.log(2 * np.pi * EARTH_RADIUS_KM**2)
    found: NDArray[Any] = scale - distance / width
    return found


def mass_within(radius_km: ArrayLike, width_km: ArrayLike) -> Floats:
    """Share of a kernel that lies within a radius of its centre."""
    radius, width = np.asarray(radius_km, np.float64), np.asarray(width_km, np.float64)
    a, t = EARTH_RADIUS_KM / width, radius / EARTH_RADIUS_KM
    found: Floats = (1 - np.exp(-a * t) * (a * np.sin(t) + np.cos(t))) / (1 + np.exp(-a * np.pi))
    return found


def draw(center: Floats, width_km: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """One draw from each of S kernels, ``(lat, lon)`` of shape ``(S,)``, degrees.

    Args:
        center: unit vectors, shape ``(S, 3)``.
        width_km: shape ``(S,)``.
    """
    from scipy.special import gammaincinv

    wanted = rng.random(len(center))
    low, high = np.zeros(len(center)), np.full(len(center), np.pi * EARTH_RADIUS_KM)
    radius = np.minimum(gammaincinv(2, wanted) * width_km, high)  # exact in a plane
    for _ in range(STEPS):  # Newton's, or to the middle of what holds the radius where those leave it
        missed = mass_within(radius, width_km) - wanted
        if np.abs(missed).max(initial=0) < MISSED:
            break
        low, high = np.where(missed < 0, radius, low), np.where(missed < 0, high, radius)
        around = 2 * np.pi * EARTH_RADIUS_KM * np.maximum(np.sin(radius / EARTH_RADIUS_KM), 1e-12)
        radius = radius - missed / np.maximum(np.exp(log_density(radius, width_km)) * around, 1e-300)
        radius = np.where((radius >= low) & (radius <= high), radius, (low + high) / 2)
    across = rng.normal(size=center.shape)
    across -= (across * center).sum(axis=1, keepdims=True) * center
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    t = (radius / EARTH_RADIUS_KM)[:, None]
    return from_vectors(np.cos(t) * center + np.sin(t) * across)
