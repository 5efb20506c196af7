"""Outlines of S2 cells as GeoJSON, against the areas of the cells themselves."""

import json

import numpy as np
import pytest
import shapely
from shapely.geometry import shape

from graticule.geo import s2
from graticule.geo.outlines import geojson_circle, geojson_outline
from graticule.geo.sphere import EARTH_RADIUS_KM, great_circle_km


def area_km2(geometry):
    """On the sphere, by Lambert's cylinder, whose map keeps areas."""
    equal_area = shapely.transform(
        shape(geometry), lambda xy: np.c_[np.radians(xy[:, 0]), np.sin(np.radians(xy[:, 1]))]
    )
    return equal_area.area * EARTH_RADIUS_KM**2


def around(lat, lon, level, reach_km):
    """All cells of a level whose middle lies near a point, without some, so that there are holes."""
    cells = s2.face_cells()
    for deeper in range(1, level + 1):
        cells = s2.children(cells).ravel()
        half_km = 2 * np.sqrt(s2.areas_km2(cells[:1])[0] * 2)
        cells = cells[great_circle_km(lat, lon, *s2.centers(cells)) < reach_km + (half_km if deeper < level else 0)]
    return cells


@pytest.mark.parametrize(
    ("lat", "lon"),
    [(37.77, -122.42), (0.0, 180.0), (-17.0, 179.99), (90.0, 0.0), (-89.9, 10.0), (64.0, -170.0), (45.0, 45.0)],
)
@pytest.mark.parametrize(("level", "reach_km"), [(4, 2500.0), (9, 60.0), (16, 0.6)])
def test_an_outline_is_valid_on_the_globe_and_has_the_area_of_its_cells(lat, lon, level, reach_km):
    cells = around(lat, lon, level, reach_km)
    assert len(cells) > 4
    coarse = np.unique(s2.parents(cells, level - 1))
    mixed = np.concatenate([coarse[::2], s2.children(coarse[1::2]).ravel()])  # of two levels, side by side
    for some in (cells, mixed, cells[::3]):
        geometry = geojson_outline(some)
        assert geometry["type"] == "MultiPolygon"
        assert shape(geometry).is_valid
        west, south, east, north = shape(geometry).bounds
        assert -180 <= west < east <= 180
        assert -90 <= south < north <= 90
        assert area_km2(geometry) == pytest.approx(s2.areas_km2(some).sum(), rel=3e-3)
        json.dumps(geometry)


def test_the_whole_sphere_is_one_rectangle():
    geometry = geojson_outline(s2.face_cells())
    assert area_km2(geometry) == pytest.approx(4 * np.pi * EARTH_RADIUS_KM**2, rel=1e-4)
    assert shape(geometry).bounds == pytest.approx((-180, -90, 180, 90))


def test_middles_of_cells_lie_inside_the_outline_and_those_of_others_do_not():
    cells = around(52.0, 4.9, 12, 12.0)
    outline = shape(geojson_outline(cells[::2]))
    inside = shapely.contains_xy(outline, *s2.centers(cells)[::-1])
    assert inside.tolist() == [i % 2 == 0 for i in range(len(cells))]


def test_exterior_rings_run_against_the_clock_as_the_standard_asks():
    for polygon in geojson_outline(around(52.0, 4.9, 12, 12.0))["coordinates"]:
        assert shapely.LinearRing(polygon[0]).is_ccw


@pytest.mark.parametrize(
    ("lat", "lon"),
    [(37.77, -122.42), (0.0, 180.0), (-17.0, 179.99), (90.0, 0.0), (-89.9, 10.0), (64.0, -170.0), (67.5, 45.0)],
)
@pytest.mark.parametrize("radius_km", [0.12, 30.0, 2501.8, 9000.0, 15000.0, 25000.0])
def test_a_circle_is_valid_on_the_globe_and_holds_what_is_near(lat, lon, radius_km):
    circle = shape(geojson_circle(lat, lon, radius_km))
    assert circle.is_valid
    cap = 2 * np.pi * EARTH_RADIUS_KM**2 * (1 - np.cos(min(radius_km / EARTH_RADIUS_KM, np.pi)))
    assert area_km2(circle) == pytest.approx(cap, rel=0.01)
    rng = np.random.default_rng(0)
    lats, lons = np.degrees(np.arcsin(rng.uniform(-1, 1, 500))), rng.uniform(-180, 180, 500)
    off = great_circle_km(lat, lon, lats, lons)
    clear = abs(off / radius_km - 1) > 0.02  # corners lie on the circle, edges inside
    held = shapely.contains_xy(circle, lons, lats)
    assert held[clear].tolist() == (off < radius_km)[clear].tolist()
