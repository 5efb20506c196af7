"""Territories that a user names, with no network."""

import json

import numpy as np
import pytest

from graticule.errors import BadRecipeError
from graticule.geo.sphere import great_circle_km
from graticule.geo.territory import TOWN_KM, read_territory, town_position


def inside(area, *places):
    lat, lon = np.array(places, float).T
    return area.contains(lat, lon).tolist()


def test_a_box_may_reach_over_the_180th_meridian_and_is_filled_evenly():
    fiji = read_territory("-20,176,-15,-178")
    assert inside(fiji, (-17, 179), (-17, -179), (-17, 170), (-17, 0), (-21, 179)) == [True, True, False, False, False]
    lat, lon = fiji.grid(1000)
    assert fiji.contains(lat, lon).all()
    assert len(lat) == pytest.approx(1000, rel=0.05)
    spacing = [np.sort(great_circle_km(a, o, lat, lon))[1] for a, o in zip(lat[::50], lon[::50], strict=True)]
    assert max(spacing) < 1.2 * min(spacing)


def test_a_hole_of_a_polygon_and_what_is_no_polygon_are_left_out(tmp_path):
    square, hole = ([[w, w], [e, w], [e, e], [w, e], [w, w]] for w, e in ((0, 10), (4, 6)))
    polygon = {"type": "Polygon", "coordinates": [square, hole]}
    features = [{"type": "Feature", "geometry": geometry} for geometry in (polygon, {"type": "Point"})]
    (tmp_path / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    area = read_territory(str(tmp_path / "a.geojson"))
    assert inside(area, (1, 1), (5, 5), (11, 5), (5, 3)) == [True, False, False, True]
    lat, lon = area.grid(500)
    assert len(lat) == pytest.approx(500, rel=0.1)
    assert area.contains(lat, lon).all()
    (tmp_path / "b.json").write_text(json.dumps({"type": "Point", "coordinates": [1, 2]}))
    with pytest.raises(BadRecipeError, match="holds no Polygon or MultiPolygon"):
        read_territory(str(tmp_path / "b.json"))


def test_names_are_those_of_countries_then_states_then_towns_the_most_populous_first():
    assert inside(read_territory("georgia"), (41.7, 44.8), (33.7, -84.4)) == [True, False]  # Tbilisi, and not Atlanta
    assert inside(read_territory("Bavaria"), (48.14, 11.58), (52.5, 13.4)) == [True, False]
    paris = read_territory("Paris")
    assert inside(paris, (48.86, 2.35), (33.66, -95.55)) == [True, False]
    assert inside(read_territory("Paris, United States"), (48.86, 2.35), (33.66, -95.55)) == [False, True]
    assert great_circle_km(48.86, 2.35, *town_position("Paris, France")) < 3
    lat, lon = paris.grid(2000)
    assert len(lat) == pytest.approx(2000, rel=0.05)
    assert great_circle_km(48.86, 2.35, lat, lon).max() < TOWN_KM + 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1,2,3", "a box is S,W,N,E"),
        ("9,0,1,5", "is no box"),
        ("Bavarria", "did you mean bavaria"),
        ("a.json", "a.json is neither"),
    ],
)
def test_what_is_no_area_is_refused_in_a_sentence(text, said):
    with pytest.raises(BadRecipeError, match=said):
        read_territory(text)
