"""Points on a sphere. The ground floor: NumPy and SciPy only, no files, no settings.

Conventions kept by the whole package:
  * ``lat`` and ``lon`` are degrees (WGS 84), always in that order;
  * a radian value carries the suffix ``_rad`` and does not leave this module and ``s2``;
  * a distance is kilometres along the great circle and says so, ``_km``.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from graticule.choices import MapScale
from graticule.errors import BadCoordinateError, BadRecipeError

EARTH_RADIUS_KM = 6371.0088  # mean radius R1; Moritz (2000), Geodetic Reference System 1980
WORLD_MAP_DIAGONAL_KM = 14_927.0  # the usual 1492.7 km scale of the score, times ten: Haas et al., PIGEON, 2023
OVERSHOOT = 1e-4  # degrees beyond a pole or the antimeridian that rounding explains
WORLD_ABOVE_KM = 2000.0  # photos spread wider than this are scored on the scale of the world

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def check_latlon(lat: ArrayLike, lon: ArrayLike) -> tuple[Floats, Floats]:
    """Return both as float64 arrays of one shape.

    Raises:
        BadCoordinateError: a value is not finite, ``|lat| > 90`` or ``|lon| > 180``.
    """
    lats, lons = np.broadcast_arrays(np.asarray(lat, np.float64), np.asarray(lon, np.float64))
    bad = ~((np.abs(lats) <= 90) & (np.abs(lons) <= 180))  # NaN and inf fail both comparisons
    if bad.any():
        first = np.flatnonzero(bad.ravel())[0]
        raise BadCoordinateError(
            f"{bad.sum()} of {bad.size} points are off the globe; the first is "
            f"lat={lats.ravel()[first]}, lon={lons.ravel()[first]} at index {first}. "
            f"Latitudes lie in [-90, 90] and longitudes in [-180, 180] degrees"
        )
    return lats, lons


def unit_vectors(lat: ArrayLike, lon: ArrayLike) -> Floats:
    """Map degrees to points on the unit sphere, shape ``(..., 3)``."""
    lats, lons = check_latlon(lat, lon)
    lat_rad, lon_rad = np.radians(lats), np.radians(lons)
    out = np.empty((*lats.shape, 3))
    cos_lat = np.cos(lat_rad)
    out[..., 0] = cos_lat * np.cos(lon_rad)
    out[..., 1] = cos_lat * np.sin(lon_rad)
    out[..., 2] = np.sin(lat_rad)
    return out


def from_vectors(xyz: ArrayLike) -> tuple[Floats, Floats]:
    """Latitude and longitude in degrees of vectors of any length above zero, shape ``(..., 3)``."""
    x, y, z = np.moveaxis(np.asarray(xyz, np.float64), -1, 0)
    return np.degrees(np.arctan2(z, np.hypot(x, y))), np.degrees(np.arctan2(y, x))


def great_circle_km(lat_a: ArrayLike, lon_a: ArrayLike, lat_b: ArrayLike, lon_b: ArrayLike) -> Floats:
    """Great-circle distance, elementwise with broadcasting.

    The cross/dot form stays accurate for near and for antipodal points, where
    arccos loses digits and a haversine may take the root of a negative number.
    """
    a, b = unit_vectors(lat_a, lon_a), unit_vectors(lat_b, lon_b)
    cross = np.linalg.norm(np.cross(a, b), axis=-1)
    km: Floats = EARTH_RADIUS_KM * np.arctan2(cross, (a * b).sum(axis=-1))
    return km


def bearing(lat_a: ArrayLike, lon_a: ArrayLike, lat_b: ArrayLike, lon_b: ArrayLike) -> Floats:
    """The initial course from a to b along the great circle, degrees clockwise from north in [0, 360).

    Shapes broadcast. Snyder, "Map Projections: A Working Manual" (1987), equation 5-4b.
    """
    lat_a, lat_b, turn = (np.radians(np.asarray(v, np.float64)) for v in (lat_a, lat_b, np.subtract(lon_b, lon_a)))
    east = np.cos(lat_b) * np.sin(turn)
    north = np.cos(lat_a) * np.sin(lat_b) - np.sin(lat_a) * np.cos(lat_b) * np.cos(turn)
    course: Floats = np.degrees(np.arctan2(east, north)) % 360
    return course


def chords(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """Straight distances between unit vectors ``(M, 3)`` or ``(3,)`` and ``(C, 3)``, shape ``(M, C)`` or ``(C,)``.

    One matrix product. It loses digits below about 1e-8 rad, 6 cm on Earth; :func:`great_circle_km` does not.
    """
    found: NDArray[Any] = np.sqrt(np.clip(2 - 2 * (a @ b.T), 0, 4))
    return found


def chord_to_km(chord: ArrayLike) -> Floats:
    """Great-circle distance of two points whose straight distance on the unit sphere is ``chord``."""
    half = np.clip(np.asarray(chord, np.float64) / 2, 0, 1)
    km: Floats = 2 * EARTH_RADIUS_KM * np.arcsin(half)
    return km


def spherical_mean(lat: ArrayLike, lon: ArrayLike) -> tuple[float, float]:
    """Return the mean direction of N points, in degrees.

    An S2 cell is convex on the sphere, so the mean of points in a cell lies in
    that cell; the mean of their latitudes and longitudes need not.
    """
    mean_lat, mean_lon = from_vectors(unit_vectors(lat, lon).reshape(-1, 3).mean(axis=0))
    return float(mean_lat), float(mean_lon)


def nearest_km(lat: ArrayLike, lon: ArrayLike, to_lat: ArrayLike, to_lon: ArrayLike) -> tuple[Floats, Ints]:
    """Distance from each of N points to the nearest of M others, and which one that is.

    Returns:
        ``(km, index)``, both of shape ``(N,)``; ``index`` counts in ``to_lat``.

    Raises:
        ValueError: there is no point to be near to.
    """
    from scipy.spatial import KDTree

    targets = unit_vectors(to_lat, to_lon).reshape(-1, 3)
    if not len(targets):
        raise ValueError("there is no point to measure the distance to")
    points = unit_vectors(lat, lon).reshape(-1, 3)
    chord, index = KDTree(targets).query(points)
    return chord_to_km(chord), index.astype(np.int64)


def near_pairs(
    points: Floats, others: Floats, reach: float, *, at_once: int = 2_000_000
) -> Iterator[tuple[Ints, Ints, Floats]]:
    """All pairs of N points and M others, shapes ``(N, D)`` and ``(M, D)``, no farther apart than ``reach``.

    Yields:
        ``(i, j, distance)``, arrays of one length: rows of ``points``, rows of ``others`` and their straight
        distance; about ``at_once`` pairs at a time, the pairs of one point together.
    """
    from scipy import spatial

    if not len(points) or not len(others):
        return
    kd_tree: Any = spatial.KDTree  # SciPy brings no types
    tree = kd_tree(others)
    pairs = np.cumsum(tree.query_ball_point(points, reach, return_length=True))
    for some in np.split(np.arange(len(points)), np.flatnonzero(np.diff(pairs // at_once)) + 1):
        near = kd_tree(points[some]).sparse_distance_matrix(tree, reach, output_type="ndarray")
        yield some[near["i"]], near["j"].astype(np.int64), near["v"]


def within_rounding(lat: ArrayLike, lon: ArrayLike) -> tuple[Floats, Floats]:
    """Positions that rounding put up to 0.0001 degrees (11 m) off the globe, put back; others and NaN stay."""
    lats, lons = np.array(lat, np.float64), np.array(lon, np.float64)
    over = (np.abs(lats) > 90) & (np.abs(lats) <= 90 + OVERSHOOT)
    lats[over] = np.sign(lats[over]) * 90
    over = (np.abs(lons) > 180) & (np.abs(lons) <= 180 + OVERSHOOT)
    lons[over] -= np.sign(lons[over]) * 360
    return lats, lons


def map_diagonal_km(lat: ArrayLike, lon: ArrayLike) -> float:
    """Diagonal of the map that holds all points: twice the largest distance from their mean.

    For points spread over the whole Earth this nears half its girth, about 20,000 km.

    Raises:
        ValueError: no points.
    """
    lats, lons = check_latlon(lat, lon)
    if lats.size == 0:
        raise ValueError("no points, so no map")
    mean_lat, mean_lon = spherical_mean(lats, lons)
    reach_km = float(great_circle_km(mean_lat, mean_lon, lats, lons).max())
    return min(2 * reach_km, np.pi * EARTH_RADIUS_KM)


def map_scale(lat: Floats, lon: Floats, given_km: float | None) -> tuple[float, MapScale]:
    """The diagonal of the map that photos at these positions are scored on, and where it comes from.

    Of a model the positions are those of its whole table, test photos included: the map that it was made to play on,
    the same by :func:`graticule.evaluation.evaluate.evaluate` and by :func:`graticule.evaluation.folds.crossval`.

    Raises:
        BadRecipeError: the given one is no positive distance.
    """
    if given_km is not None:
        if not 0 < given_km < np.inf:
            raise BadRecipeError(f"map_diagonal_km={given_km}: the diagonal of a map is a positive distance")
        return given_km, "given"
    own_km = map_diagonal_km(lat, lon)
    if own_km > WORLD_ABOVE_KM or own_km == 0:  # one position spans no map of its own
        return WORLD_MAP_DIAGONAL_KM, "world"
    return own_km, "positions"


def position_keys(lat: ArrayLike, lon: ArrayLike, decimals: int = 3) -> Ints:
    """One integer a point, equal for points whose positions round to the same decimals.

    Three decimals are cells of about 111 m in latitude: a stand-in for a place where none is known.
    """
    lats, lons = check_latlon(lat, lon)
    scale = 10**decimals
    rows = np.rint(lats * scale).astype(np.int64) + 90 * scale
    columns = np.rint(lons * scale).astype(np.int64) + 180 * scale
    columns %= 360 * scale  # 180 and -180 are one meridian
    keys: Ints = rows * (360 * scale) + columns
    return keys


def geojson_position(lat: float, lon: float) -> list[float]:
    """GeoJSON's ``[lon, lat]`` (RFC 7946, section 3.1.1): the only place where the order turns."""
    return [round(float(lon), 7), round(float(lat), 7)]


def map_link(lat: float, lon: float, reach_km: float = 1.0) -> str:
    """OpenStreetMap with a pin at a position in degrees, and about ``reach_km`` around it in the window."""
    zoom = int(np.clip(np.log2(2 * np.pi * EARTH_RADIUS_KM / max(reach_km, 1e-3)) - 1, 2, 18))
    at = f"{lat:.5f}", f"{lon:.5f}"
    return f"https://www.openstreetmap.org/?mlat={at[0]}&mlon={at[1]}#map={zoom}/{at[0]}/{at[1]}"


def format_km(km: float) -> str:
    """A distance for people: metres below one kilometre."""
    if not np.isfinite(km):
        return "unknown"
    if km < 0.9995:
        return f"{km * 1000:.0f} m"
    return f"{km:.1f} km" if km < 100 else f"{km:,.0f} km"
