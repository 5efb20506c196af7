"""The sphere: known distances, the places where formulas break, and the one order of coordinates."""

import numpy as np
import pytest
import s2geometry as s2

from graticule.errors import BadCoordinateError
from graticule.geo import sphere

HALF_GIRTH_KM = np.pi * sphere.EARTH_RADIUS_KM


def random_points(n, seed=0):
    rng = np.random.default_rng(seed)
    return np.degrees(np.arcsin(rng.uniform(-1, 1, n))), rng.uniform(-180, 180, n)


@pytest.mark.parametrize(
    ("a", "b", "km"),
    [
        ((0, 0), (0, 0), 0),
        ((0, 0), (0, 180), HALF_GIRTH_KM),
        ((90, 10), (-90, -70), HALF_GIRTH_KM),
        ((90, 0), (90, 135), 0),
        ((0, 179.5), (0, -179.5), HALF_GIRTH_KM / 180),
        ((0, 0), (1e-6, 0), HALF_GIRTH_KM / 180e6),
        ((48.8584, 2.2945), (40.6892, -74.0445), 5837.4),
    ],
)
def test_great_circle_distances(a, b, km):
    assert sphere.great_circle_km(*a, *b) == pytest.approx(km, rel=1e-4, abs=1e-9)


def test_distances_agree_with_s2geometry():
    lat_a, lon_a = random_points(500)
    lat_b, lon_b = random_points(500, seed=1)
    expected = [
        s2.S2LatLng.FromDegrees(*a).GetDistance(s2.S2LatLng.FromDegrees(*b)).radians() * sphere.EARTH_RADIUS_KM
        for a, b in zip(zip(lat_a, lon_a, strict=True), zip(lat_b, lon_b, strict=True), strict=True)
    ]
    assert sphere.great_circle_km(lat_a, lon_a, lat_b, lon_b) == pytest.approx(expected, rel=1e-9)


def test_antipodal_points_are_half_the_girth_apart_and_never_nan():
    lat, lon = random_points(2000)
    km = sphere.great_circle_km(lat, lon, -lat, np.where(lon > 0, lon - 180, lon + 180))
    assert km == pytest.approx(HALF_GIRTH_KM)


def test_a_chord_and_its_arc_are_one_distance():
    lat, lon = random_points(200)
    a, b = sphere.unit_vectors(lat[:100], lon[:100]), sphere.unit_vectors(lat[100:], lon[100:])
    arc = sphere.great_circle_km(lat[:100], lon[:100], lat[100:], lon[100:])
    assert sphere.chord_to_km(np.linalg.norm(a - b, axis=1)) == pytest.approx(arc, rel=1e-7)
    assert sphere.chord_to_km(2 + 1e-12) == pytest.approx(HALF_GIRTH_KM)  # rounding above the diameter


def test_vectors_turn_back_into_degrees():
    lat, lon = random_points(200)
    back = sphere.from_vectors(7 * sphere.unit_vectors(lat, lon))
    assert np.allclose(back, (lat, lon), atol=1e-10)


@pytest.mark.parametrize(("lat", "lon"), [(90.001, 0), (0, 180.001), (float("nan"), 0), (0, float("inf"))])
def test_points_off_the_globe_are_refused_with_the_valid_range(lat, lon):
    with pytest.raises(BadCoordinateError, match=r"1 of 2 points are off the globe.*index 1.*\[-90, 90\]"):
        sphere.check_latlon([0, lat], [0, lon])


@pytest.mark.parametrize(("lat", "lon"), [(90, 180), (-90, -180), (0, 0)])
def test_the_edges_of_the_globe_are_on_it(lat, lon):
    assert sphere.check_latlon(lat, lon) == (lat, lon)


def test_the_mean_of_points_across_the_antimeridian_lies_between_them():
    lat, lon = sphere.spherical_mean([10, 10], [179, -179])
    assert abs(lon) == pytest.approx(180)
    assert lat == pytest.approx(10, abs=0.01)
    assert sphere.spherical_mean([80, 80, 80, 80], [0, 90, 180, -90])[0] == pytest.approx(90)


def test_the_nearest_is_that_of_all_pairs():
    lat, lon = random_points(60)
    to_lat, to_lon = random_points(40, seed=1)
    to_lat[0], to_lon[0] = 0, -179.9
    lat[0], lon[0] = 0, 179.9
    every = sphere.great_circle_km(lat[:, None], lon[:, None], to_lat, to_lon)
    km, index = sphere.nearest_km(lat, lon, to_lat, to_lon)
    assert np.array_equal(index, every.argmin(axis=1))
    assert km == pytest.approx(every.min(axis=1), rel=1e-9)
    assert (index[0], index.dtype) == (0, np.int64)


def test_nothing_is_near_to_nothing():
    with pytest.raises(ValueError, match="no point"):
        sphere.nearest_km([1], [2], [], [])


@pytest.mark.parametrize(
    ("lat", "lon", "km"),
    [
        ([5], [5], 0),
        ([0, 0], [-1, 1], 2 * HALF_GIRTH_KM / 180),
        ([0, 0], [179, -179], 2 * HALF_GIRTH_KM / 180),
        ([0, 0, 0, 1], [0, 120, -120, 0], HALF_GIRTH_KM),
    ],
)
def test_the_diagonal_of_the_map(lat, lon, km):
    assert sphere.map_diagonal_km(lat, lon) == pytest.approx(km, rel=1e-6, abs=1e-6)


def test_no_points_have_no_map():
    with pytest.raises(ValueError, match="no map"):
        sphere.map_diagonal_km([], [])


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ((1.0001, 2.0), (1.0004, 2.0), True),
        ((1.0004, 2.0), (1.0006, 2.0), False),
        ((0, 180), (0, -180), True),
        ((0, 179.9999), (0, -179.9999), True),
        ((0, 179.999), (0, -179.999), False),
        ((1, 2), (2, 1), False),
        ((-1, 2), (1, 2), False),
        ((-0.0004, 0), (0.0004, 0), True),
        ((90, 180), (-90, 180), False),
    ],
)
def test_positions_that_round_alike_share_a_key(a, b, same):
    keys = sphere.position_keys([a[0], b[0]], [a[1], b[1]])
    assert keys.dtype == np.int64
    assert (keys[0] == keys[1]) is np.bool_(same)


def test_keys_are_as_many_as_rounded_positions():
    lat, lon = random_points(5000)
    lat, lon = lat / 300, lon / 300
    pairs = set(zip(np.rint(lat * 1000).astype(int), np.rint(lon * 1000).astype(int), strict=True))
    assert len(np.unique(sphere.position_keys(lat, lon))) == len(pairs)


def test_geojson_turns_the_order():
    assert sphere.geojson_position(48.8584, 2.2945) == [2.2945, 48.8584]


@pytest.mark.parametrize(
    ("km", "text"),
    [
        (0, "0 m"),
        (0.0123, "12 m"),
        (0.9994, "999 m"),
        (0.9996, "1.0 km"),
        (12.34, "12.3 km"),
        (99.94, "99.9 km"),
        (1234.5, "1,234 km"),
        (float("nan"), "unknown"),
    ],
)
def test_distances_for_people(km, text):
    assert sphere.format_km(km) == text


def test_near_pairs_are_those_of_a_comparison_of_all_with_all():
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0, 1, (80, 4)), rng.uniform(0, 1, (120, 4))
    apart = np.linalg.norm(a[:, None] - b, axis=-1)
    found = list(sphere.near_pairs(a, b, 0.3, at_once=50))
    assert len(found) > 3
    i, j, distance = (np.concatenate(parts) for parts in zip(*found, strict=True))
    assert set(zip(i.tolist(), j.tolist(), strict=True)) == set(map(tuple, np.argwhere(apart <= 0.3).tolist()))
    np.testing.assert_allclose(distance, apart[i, j])
    assert list(sphere.near_pairs(a[:0], b, 1.0)) == []
