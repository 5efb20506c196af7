"""Areas that a user draws, and what a belief says of them, against draws and against areas that are known."""

import json

import numpy as np
import pytest
from test_belief import belief

from graticule.belief.density import softmax
from graticule.belief.ground import Ground
from graticule.errors import BadRecipeError
from graticule.geo import s2
from graticule.geo.areas import read_areas, shares_in
from graticule.geo.sphere import EARTH_RADIUS_KM


def drawn(tmp_path, coordinates, **properties):
    tree = {"type": "Polygon", "coordinates": coordinates}
    if properties:
        tree = {
            "type": "FeatureCollection",
            "features": [{"type": "Feature", "properties": properties, "geometry": tree}],
        }
    (tmp_path / "area.geojson").write_text(json.dumps(tree))
    return read_areas(str(tmp_path / "area.geojson"))[0]


def box(west, south, east, north):
    return [[west, south], [east, south], [east, north], [west, north], [west, south]]


def zone_km2(south, north, degrees=360.0):
    return 2 * np.pi * EARTH_RADIUS_KM**2 * (np.sin(np.radians(north)) - np.sin(np.radians(south))) * degrees / 360


ARCTIC = [[lon, 66.0] for lon in range(-180, 180, 5)]
AREAS = {
    "a town": ([box(8.9, 48.7, 9.4, 48.9)], zone_km2(48.7, 48.9, 0.5)),
    "with a hole": ([box(0, 0, 10, 10), box(2, 2, 4, 4)], zone_km2(0, 10, 10) - zone_km2(2, 4, 2)),
    "across the antimeridian": ([box(179, -20, -178, -15)], zone_km2(-20, -15, 3)),
    "the same beyond 180": ([box(179, -20, 182, -15)], zone_km2(-20, -15, 3)),
    "around the north pole": ([ARCTIC], zone_km2(66, 90)),
    "down to the south pole": ([[[-180, -60], [180, -60], [180, -90], [-180, -90], [-180, -60]]], zone_km2(-90, -60)),
    "a zone": ([box(-180, -5, 180, 5)], zone_km2(-5, 5)),
}


@pytest.mark.parametrize("name", AREAS)
@pytest.mark.parametrize("level", [0, 3])
def test_shares_of_cells_in_a_polygon_add_up_to_its_area(tmp_path, name, level):
    coordinates, km2 = AREAS[name]
    cells = s2.face_cells()
    for _ in range(level):
        cells = s2.children(cells).ravel()
    share = shares_in(np.sort(cells), drawn(tmp_path, coordinates).shape)
    assert share @ s2.areas_km2(np.sort(cells)) == pytest.approx(km2, rel=2e-3)
    assert 0 <= share.min() <= share.max() <= 1


@pytest.fixture(scope="module", params=[(-17.0, 180.0)], ids=["Fiji"])
def place(request):
    """A belief of one photo near a place, its ground and draws."""
    rng = np.random.default_rng(0)
    lat, lon = request.param
    points = (np.clip(lat + rng.normal(0, 0.02, 20), -90, 90), (lon + rng.normal(0, 0.02, 20) + 180) % 360 - 180)
    one = belief(*points, np.full(20, 0.5), softmax(rng.normal(0, 1, (1, 20))))
    ground = Ground.of(one)
    return request.param, ground, ground.masses(one)[0], [side[0] for side in one.samples(20_000, seed=3)]


def test_the_probability_of_a_polygon_is_the_share_of_draws_in_it(tmp_path, place):
    (lat, lon), ground, masses, draws = place
    ring = [
        [(lon + 3 * np.sin(t) / np.cos(np.radians(min(lat, 80))) + 180) % 360 - 180, min(lat + 0.02 * np.cos(t), 90)]
        for t in np.linspace(0, 2 * np.pi, 60)
    ]
    if lat > 80:
        ring = [[float(degrees), 89.91] for degrees in range(0, 360, 5)]
        inside = draws[0] >= 89.91
    else:
        across = (draws[1] - lon + 180) % 360 - 180
        inside = (across * np.cos(np.radians(lat)) / 3) ** 2 + ((draws[0] - lat) / 0.02) ** 2 <= 1
    share = drawn(tmp_path, [ring], name="here").shares(ground.cells)
    assert masses @ share == pytest.approx(inside.mean(), abs=0.015)


@pytest.mark.parametrize("level", [0, 6, 11, 15, 22])
def test_the_probability_of_an_s2_cell_of_any_level_is_the_share_of_draws_in_it(place, level):
    _, ground, masses, draws = place
    leaves = s2.leaf_cells(*draws)
    cells = np.unique(s2.parents(leaves, level))
    found = ground.mass_of(masses, cells)
    assert found.sum() <= 1 + 1e-9
    counted = np.bincount(np.searchsorted(cells, s2.parents(leaves, level)), minlength=len(cells)) / len(leaves)
    assert found[counted.argmax()] == pytest.approx(counted.max(), abs=0.02)
    by_area = read_areas(s2.to_tokens(cells[[counted.argmax()]])[0])[0].shares(ground.cells)
    assert masses @ by_area == pytest.approx(found[counted.argmax()])


def test_all_cells_of_a_level_hold_the_whole_belief(place):
    _, ground, masses, _ = place
    assert ground.mass_of(masses, s2.children(s2.face_cells()).ravel()).sum() == pytest.approx(1)


def test_areas_take_their_names_from_the_file(tmp_path):
    assert drawn(tmp_path, [box(0, 0, 1, 1)], name="Null Island").name == "Null Island"
    assert drawn(tmp_path, [box(0, 0, 1, 1)]).name == "area"
    assert [area.name for area in read_areas("89c25, 89c27")] == ["89c25", "89c27"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{}", "holds no Polygon"),
        ("no json", "is not GeoJSON"),
        ('{"type": "Polygon", "coordinates": [[[1, 99], [2, 3], [3, 1]]]}', "the longitude first"),
        ('{"type": "Polygon", "coordinates": [[1, 2]]}', r"lists of \[lon, lat\]"),
    ],
)
def test_a_file_without_areas_is_one_sentence(tmp_path, text, said):
    (tmp_path / "area.json").write_text(text)
    with pytest.raises(BadRecipeError, match=said):
        read_areas(str(tmp_path / "area.json"))
    with pytest.raises(BadRecipeError, match="neither a GeoJSON file nor tokens"):
        read_areas("nowhere.geojson")
