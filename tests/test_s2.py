"""Every id and every shape against s2geometry, the reference implementation."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import s2geometry

from graticule.errors import BadCoordinateError
from graticule.geo import s2
from graticule.geo.sphere import EARTH_RADIUS_KM, great_circle_km

COORDINATES = Path(__file__).parents[1] / ".." / "shared" / "data" / "coordinates"
FILES = sorted(COORDINATES.glob("*.csv")) or [
    pytest.param(Path("none"), marks=pytest.mark.skip(reason="the real data is not on this machine"))
]
CORNER = float(np.degrees(np.arctan(1 / np.sqrt(2))))  # latitude of the corners of the cube


def oracle_leaves(lat, lon):
    ids = [
        s2geometry.S2CellId(s2geometry.S2LatLng.FromDegrees(a, b)).id()
        for a, b in zip(lat.tolist(), lon.tolist(), strict=True)
    ]
    return np.array(ids, np.uint64)


def oracle(cells):
    return [s2geometry.S2CellId(cell) for cell in cells.tolist()]


def degrees(latlng):
    return latlng.lat().degrees(), latlng.lng().degrees()


def anywhere(n, seed=0):
    rng = np.random.default_rng(seed)
    return np.degrees(np.arcsin(rng.uniform(-1, 1, n))), rng.uniform(-180, 180, n)


def near(points):
    """The points and what lies 1e-15 degrees to a leaf cell around them, held within the globe."""
    steps = np.array([0, 1e-15, 1e-14, 1e-12, 1e-9, 1e-8, 1e-7])
    steps = np.concatenate([steps, -steps])
    lat, lon = np.array(points, float).T
    lat = (lat[:, None, None] + steps[:, None] + 0 * steps).ravel()
    lon = (lon[:, None, None] + 0 * steps[:, None] + steps).ravel()
    return np.clip(lat, -90, 90), np.clip(lon, -180, 180)


@pytest.fixture(scope="module")
def cells():
    """About 4,000 cells of every level and face."""
    leaves = s2.leaf_cells(*anywhere(4000))
    return np.concatenate([s2.parents(leaves[level::31], level) for level in range(31)])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_leaf_cells_of_real_positions_are_those_of_s2geometry(path):
    table = pl.read_csv(path, columns=["lat", "lon"])
    lat, lon = table["lat"].to_numpy(), table["lon"].to_numpy()
    np.testing.assert_array_equal(s2.leaf_cells(lat, lon), oracle_leaves(lat, lon))


def test_leaf_cells_all_over_the_globe_are_those_of_s2geometry():
    lat, lon = anywhere(100_000)
    np.testing.assert_array_equal(s2.leaf_cells(lat, lon), oracle_leaves(lat, lon))


@pytest.mark.parametrize(
    "points",
    [
        pytest.param([(a, b) for a in (90, -90) for b in range(-180, 181, 15)], id="poles"),
        pytest.param([(a, b) for a in range(-90, 91, 5) for b in (180, -180)], id="antimeridian"),
        pytest.param([(a, b) for a in range(-90, 91, 5) for b in (-135, -45, 45, 135)], id="face ties"),
        pytest.param([(a, b) for a in (CORNER, -CORNER) for b in (-135, -45, 45, 135)], id="cube corners"),
        pytest.param([(0, b) for b in range(-180, 181, 5)], id="equator"),
        pytest.param([(a, b) for a in (0.0, -0.0) for b in (0.0, -0.0, 90, -90)], id="signed zeros"),
        pytest.param([(np.degrees(np.arctan(np.cos(np.radians(b)))), b) for b in range(-45, 46)], id="face edge"),
        pytest.param([(1e-300, -1e-300), (5e-324, 5e-324), (-5e-324, 90), (90, 5e-324)], id="denormals"),
    ],
)
def test_leaf_cells_of_hard_points_are_those_of_s2geometry(points):
    lat, lon = near(points)
    np.testing.assert_array_equal(s2.leaf_cells(lat, lon), oracle_leaves(lat, lon))


def test_leaf_cells_on_the_borders_of_cells_are_those_of_s2geometry(cells):
    lat, lon = (side.ravel() for side in s2.outlines(cells, 2))
    np.testing.assert_array_equal(s2.leaf_cells(lat, lon), oracle_leaves(lat, lon))


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 5), (2**13,), (2**13 + 1,), (3, 2**13)])
def test_leaf_cells_keep_the_shape_of_the_points(shape):
    lat, lon = np.full(shape, 48.85), np.full(shape, 2.35)
    cells = s2.leaf_cells(lat, lon)
    assert (cells.shape, cells.dtype) == (shape, np.uint64)
    assert set(cells.ravel().tolist()) <= {oracle_leaves(np.array([48.85]), np.array([2.35])).item()}


def test_leaf_cells_take_a_strided_view_and_one_longitude_for_all():
    table = np.stack(anywhere(1000), axis=1)
    np.testing.assert_array_equal(s2.leaf_cells(table[:, 0], table[:, 1]), oracle_leaves(*table.T))
    np.testing.assert_array_equal(s2.leaf_cells(table[:, 0], 7.0), oracle_leaves(table[:, 0], np.full(1000, 7.0)))


def test_a_latitude_of_95_is_refused():
    with pytest.raises(BadCoordinateError, match=r"1 of 2 points are off the globe; the first is lat=95"):
        s2.leaf_cells([48, 95], [2, 2])


def test_levels_parents_and_ranges_are_those_of_s2geometry(cells):
    ids = oracle(cells)
    assert s2.level_of(cells).tolist() == [cell.level() for cell in ids]
    assert s2.range_min(cells).tolist() == [cell.range_min().id() for cell in ids]
    assert s2.range_max(cells).tolist() == [cell.range_max().id() for cell in ids]
    assert s2.are_valid(cells).all()
    for level in range(31):
        small = cells[s2.level_of(cells) >= level]
        assert s2.parents(small, level).tolist() == [cell.parent(level).id() for cell in oracle(small)]


def test_children_are_those_of_s2geometry(cells):
    large = cells[s2.level_of(cells) < 30]
    expected = [[cell.child(n).id() for n in range(4)] for cell in oracle(large)]
    assert s2.children(large).tolist() == expected
    assert s2.children(large[:6].reshape(2, 3)).tolist() == [expected[:3], expected[3:6]]


def test_face_cells_are_those_of_s2geometry():
    expected = [s2geometry.S2CellId.FromFacePosLevel(face, 0, 0).id() for face in range(6)]
    assert s2.face_cells().tolist() == expected
    assert s2.range_max(s2.face_cells()).dtype == np.uint64


def test_tokens_are_those_of_s2geometry(cells):
    assert s2.to_tokens(cells) == [cell.ToToken() for cell in oracle(cells)]


@pytest.mark.parametrize(
    ("number", "valid"),
    [(0, False), (1, True), (2, False), (4, True), (6 << 61 | 1 << 60, False), (5 << 61 | 1 << 60, True)],
)
def test_a_number_is_a_cell_as_s2geometry_sees_it(number, valid):
    assert s2.are_valid(np.array([number], np.uint64)).tolist() == [valid]
    assert s2geometry.S2CellId(number).is_valid() == valid


def test_a_small_cell_is_no_parent_of_a_large_one():
    with pytest.raises(ValueError, match="a cell of level 0 has no parent of level 3"):
        s2.parents(s2.face_cells(), 3)
    with pytest.raises(ValueError, match="level 31 does not exist"):
        s2.parents(s2.face_cells(), 31)
    with pytest.raises(ValueError, match="a cell of level 30 has no children"):
        s2.children(s2.leaf_cells([0], [0]))


def test_centers_are_those_of_s2geometry(cells):
    lat, lon = s2.centers(cells)
    expected_lat, expected_lon = np.array([degrees(cell.ToLatLng()) for cell in oracle(cells)]).T
    assert great_circle_km(lat, lon, expected_lat, expected_lon).max() < 1e-11


def test_outlines_are_the_corners_of_s2geometry(cells):
    lat, lon = s2.outlines(cells)
    corners = [
        [degrees(s2geometry.S2LatLng(s2geometry.S2Cell(cell).GetVertex(k))) for k in range(4)] for cell in oracle(cells)
    ]
    expected = np.array(corners)
    assert lat.shape == (len(cells), 4)
    assert great_circle_km(lat, lon, expected[..., 0], expected[..., 1]).max() < 1e-11


def test_more_points_of_an_outline_lie_on_its_edges(cells):
    corner_lat, corner_lon = s2.outlines(cells)
    lat, lon = s2.outlines(cells, 5)
    assert lat.shape == (len(cells), 20)
    np.testing.assert_array_equal((lat[:, ::5], lon[:, ::5]), (corner_lat, corner_lon))
    next_lat, next_lon = np.roll(corner_lat, -1, axis=1), np.roll(corner_lon, -1, axis=1)
    edge_km = great_circle_km(corner_lat, corner_lon, next_lat, next_lon)
    detour_km = great_circle_km(corner_lat, corner_lon, lat[:, 2::5], lon[:, 2::5]) + great_circle_km(
        lat[:, 2::5], lon[:, 2::5], next_lat, next_lon
    )
    np.testing.assert_allclose(detour_km, edge_km, rtol=1e-6, atol=1e-11)


def test_areas_are_those_of_s2geometry_and_the_faces_make_a_sphere(cells):
    exact = [s2geometry.S2Cell(cell).ExactArea() * EARTH_RADIUS_KM**2 for cell in oracle(cells)]
    np.testing.assert_allclose(s2.areas_km2(cells), exact, rtol=1e-5)
    assert s2.areas_km2(s2.face_cells()).sum() == pytest.approx(4 * np.pi * EARTH_RADIUS_KM**2)
