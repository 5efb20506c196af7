"""A claimed place against what a bundle believes."""

import json
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import shapely
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from shapely.geometry import shape
from towns import make_town, tiny_recipe

from graticule.errors import BadRecipeError
from graticule.geo import s2
from graticule.geo.areas import read_areas
from graticule.geo.outlines import geojson_outline
from graticule.geo.sphere import great_circle_km
from graticule.geo.towns import area_in_words, nearest_in_words, nearest_towns
from graticule.inference.claims import own_position
from graticule.inference.formats import WRITERS, to_csv, to_geojson, to_kml, to_words
from graticule.inference.locate import Locator
from graticule.inference.names import Names, PlaceGuess
from graticule.training.calibrate import fit_calibrated


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    return make_town(tmp_path_factory.mktemp("town"), count=120)


@pytest.fixture(scope="module")
def locator(town, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file(timm.create_model("test_efficientnet").state_dict(), path)
    recipe = tiny_recipe(encoder={"weights": str(path), "frozen": True}, split={"by": "place"}, train={"epochs": 1})
    return Locator(fit_calibrated(recipe, town, by="place"))


def claimed(locator, photos, claims, **how):
    return [result.fix.claim for result in locator.results(photos, claims=claims, **how)]


def test_a_claim_at_the_answer_is_as_probable_as_half_and_lies_in_a_region(locator, town):
    photo = town.paths()[0]
    fix = locator.locate(photo)
    [claim] = claimed(locator, [photo], [(fix.lat, fix.lon)])
    assert claim.distance_km == pytest.approx(0, abs=1e-3)
    assert claim.within_km == pytest.approx(fix.median_error_km)
    factor = locator.bundle.confidence.calibration.median_factor
    if factor == pytest.approx(1, abs=0.2):  # the circle is the corrected one, the probability the belief's own
        assert claim.probability == pytest.approx(0.5, abs=0.15)
    assert claim.region is not None


def test_a_claim_on_the_other_side_of_the_earth_lies_outside_every_region(locator, town):
    photo = town.paths()[0]
    fix = locator.locate(photo)
    [claim] = claimed(locator, [photo], [(-fix.lat, fix.lon - 180 if fix.lon > 0 else fix.lon + 180)], within_km=1.0)
    assert claim.distance_km == pytest.approx(np.pi * 6371.0088, rel=1e-3)
    assert claim.probability < 1e-6
    assert claim.region is None


def test_claims_stay_with_their_photos_and_may_be_missing(locator, town):
    photos = town.paths()[:5]
    places = [(float(town.lat[i]), float(town.lon[i])) for i in range(5)]
    claims = [places[0], None, places[2], places[3], None]
    found = claimed(locator, photos, claims)
    assert [claim and (claim.lat, claim.lon) for claim in found] == claims


def test_a_wider_circle_is_more_probable(locator, town):
    place = (float(town.lat[3]), float(town.lon[3]))
    photo = [town.paths()[3]]
    found = [claimed(locator, photo, [place], within_km=km)[0].probability for km in (0.05, 0.5, 50, 20_000)]
    assert found == sorted(found)
    assert found[-1] == pytest.approx(1, abs=0.01)


def test_every_format_tells_how_probable_areas_are(locator, town):
    fix = locator.locate(town.paths()[0])
    around = s2.to_tokens(s2.parents(s2.leaf_cells([fix.lat], [fix.lon]), 2))[0]
    results = list(locator.results(town.paths()[:2], inside=read_areas(f"{around},1")))
    near, far = results[0].fix.inside
    assert (near.name, far.name) == (around, "1")
    assert near.probability > 0.9 > 0.1 > far.probability
    assert json.loads("".join(WRITERS["json"](results)))[0]["inside"][0]["probability"] == round(near.probability, 6)
    header, row, _ = "".join(to_csv(results, inside=[around, "1"])).splitlines()
    assert header.endswith(f",inside {around},inside 1")
    assert float(row.split(",")[-2]) == round(near.probability, 6)
    assert f"inside {around}: " in "".join(to_words(results))


def test_of_an_answer_that_is_not_calibrated_only_the_distance_of_a_claim_is_told(town):
    recipe = tiny_recipe(train={"epochs": 1})
    bare = Locator(fit_calibrated(recipe, town.take(np.arange(60)), None))
    [claim] = claimed(bare, town.paths()[:1], [(0.0, 0.0)])
    assert claim.distance_km > 0
    with pytest.raises(BadRecipeError, match="how probable an area is"):
        list(bare.results(town.paths()[:1], inside=read_areas("1")))
    assert (claim.within_km, claim.probability, claim.region) == (None, None, None)
    assert claim.in_words().endswith("from the answer, which is not calibrated")


def test_every_format_tells_of_a_claim(locator, town):
    results = list(locator.results(town.paths()[:2], claims=[(1.0, 2.0), None]))
    one, other = json.loads("".join(WRITERS["json"](results)))
    assert (one["claim"]["lat"], one["claim"]["lon"]) == (1.0, 2.0)
    assert other["claim"] is None
    header, row, last = "".join(to_csv(results, claims=True)).splitlines()
    assert header.endswith("claim_distance_km,claim_within_km,claim_probability,claim_region")
    assert float(row.split(",")[-4]) == one["claim"]["distance_km"]
    assert last.endswith(",,,,")
    assert "claim" not in "".join(to_csv(results)).splitlines()[0]
    assert "the claimed place: " in "".join(WRITERS["kml"](results))


def test_a_geojson_holds_the_region_and_a_circle_beside_the_point_where_they_are_asked_for(locator, town):
    results = list(locator.results([*town.paths()[:2], "missing.jpg"]))
    features = json.loads("".join(to_geojson(results, regions=True)))["features"]
    around = ["Point", "MultiPolygon", "MultiPolygon"]
    assert [f["geometry"] and f["geometry"]["type"] for f in features] == [*around, *around, None]
    fix = results[0].fix
    assert features[1]["properties"] == {
        "photo": str(town.paths()[0]), "coverage": 0.9, "area_km2": round(fix.area_km2, 4)
    }  # fmt: skip
    outline = shape(features[1]["geometry"])
    held = [shapely.contains_xy(outline, *s2.centers(s2.from_tokens([token]))[::-1])[0] for token in fix.region]
    assert all(held)
    assert features[2]["properties"]["radius_km"] == round(fix.p90_error_km, 4)
    edge = great_circle_km(fix.lat, fix.lon, *shapely.get_coordinates(shape(features[2]["geometry"]))[:, ::-1].T)
    assert edge == pytest.approx(fix.p90_error_km, rel=1e-4)
    assert len(json.loads("".join(to_geojson(results)))["features"]) == 3


def test_a_kml_holds_point_region_and_circle_as_gdal_reads_it(locator, town, tmp_path):
    pyogrio = pytest.importorskip("pyogrio")
    results = list(locator.results([town.paths()[0], tmp_path / "<missing>.jpg"]))
    (tmp_path / "a.kml").write_text("".join(to_kml(results, regions=True)), encoding="utf-8")
    fix = results[0].fix
    layers = pyogrio.list_layers(tmp_path / "a.kml")[:, 0]
    assert str(town.paths()[0]) in layers
    geometries = pyogrio.raw.read(tmp_path / "a.kml", layer=str(town.paths()[0]))[2]
    point, region, circle = shapely.force_2d(shapely.from_wkb(geometries))
    assert (point.x, point.y) == pytest.approx((fix.lon, fix.lat), abs=1e-6)
    assert region.equals_exact(shape(geojson_outline(s2.from_tokens(fix.region))), 1e-6)
    assert circle.contains(point)
    assert len(ElementTree.fromstring("".join(to_kml(results))).findall(".//{*}Placemark")) == 2


def test_a_photo_claims_what_its_exif_says(tmp_path):
    exif = Image.Exif()
    exif[0x8825] = {1: "S", 2: (33.0, 55.0, 0.0), 3: "E", 4: (151.0, 10.0, 0.0)}
    Image.new("RGB", (32, 32)).save(tmp_path / "sydney.jpg", exif=exif)
    Image.new("RGB", (32, 32)).save(tmp_path / "mute.jpg")
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    assert own_position(tmp_path / "sydney.jpg") == pytest.approx((-33 - 55 / 60, 151 + 10 / 60))
    assert own_position(tmp_path / "mute.jpg") is None
    assert own_position(tmp_path / "broken.jpg") is None


def test_answers_in_words_name_the_town_the_errors_and_the_area_that_is_known(locator, town):
    photo = town.paths()[0]
    [result] = locator.results([photo], names=True, claims=[(0.0, 0.0)])
    town_name = str(nearest_towns(result.fix.lat, result.fix.lon)[0])
    assert result.fix.near == town_name
    assert sum(place.probability for place in result.fix.places) <= 1 + 1e-9
    assert town_name.endswith(result.fix.places[0].name.rpartition(", ")[2])
    text = "".join(to_words([result]))
    assert text.startswith(f"{photo}\n  near {town_name} (")
    assert "half of such photos lie within" in text
    assert "openstreetmap.org/?mlat=" in text
    assert "\n  claimed: 0.00000, 0.00000; " in text
    assert "".join(to_words([result], own=True)).startswith(f"{photo}\n  the photo itself says 0.00000, 0.00000; ")
    strange = replace(result.fix, unlike_training=1.0)
    text = "".join(to_words([replace(result, fix=strange)], knows=locator.area))
    assert f"this model knows {locator.area}" in text


def test_a_photo_without_an_answer_says_why_in_words(locator, town, tmp_path):
    results = list(locator.results([town.paths()[0], tmp_path / "none.jpg"], names=True, max_error_km=0))
    text = "".join(to_words(results))
    assert "cannot tell: half of such photos lie more than" in text
    assert "near" not in text
    assert "there is no file" in text


def test_the_likely_names_are_the_parts_of_what_is_sure():
    rows = np.arange(4)
    names = Names(
        (
            (["Norway"], rows * 0),
            (["Oslo, Norway", "Vestland, Norway"], rows // 2),
            (["a", "b", "c", "d"], rows),
        )
    )
    assert names.likely(np.array([0.5, 0.2, 0.3, 0.0]))[0] == PlaceGuess("Oslo, Norway", 0.7)
    assert names.likely(np.array([0.92, 0.07, 0.005, 0.005])) == (PlaceGuess("a", 0.92), PlaceGuess("b", 0.07))


def test_a_quarter_is_told_by_its_city_and_a_town_beside_the_city_by_itself():
    where = [(37.79, -122.41), (37.70, -122.46), (37.871, -122.27), (52.498, 13.40), (48.855, 2.36), (38.89, -77.0)]
    cities = ["San Francisco", "Daly City", "Berkeley", "Berlin", "Paris", "Washington"]
    assert [town.name for town in nearest_towns(*np.transpose(where))] == cities


def test_a_place_at_sea_is_told_with_how_far_the_nearest_town_is():
    ashore, at_sea = nearest_in_words([37.77, 30.0], [-122.42, -40.0])
    assert ashore == "San Francisco, California, United States"
    assert at_sea == "Lajes das Flores, Azores, Portugal, 1,317 km away"


def test_a_model_of_few_photos_says_so_first_and_one_name_for_all_is_said_once(locator, town):
    [result] = locator.results(town.paths()[:1], names=True)
    sure = replace(result, fix=replace(result.fix, places=(PlaceGuess(result.fix.near, 1.0),)))
    text = "".join(to_words([sure], learned_from=56))
    assert text.startswith("this model learned from 56 photos only")
    assert text.count(result.fix.near) == 1
    assert "photos only" not in "".join(to_words([sure], learned_from=5600))


@pytest.mark.parametrize(
    ("places", "said"),
    [
        ([(37.77, -122.42)] * 9 + [(37.34, -121.89)], "San Francisco, California, United States"),
        ([(37.77, -122.42)] * 5 + [(37.34, -121.89)] * 5, "California, United States"),
        ([(37.77, -122.42), (40.7, -74.0)], "United States"),
        ([(37.77, -122.42), (52.5, 13.4), (48.85, 2.35), (52.5, 13.4)], "3 countries, among them Germany"),
    ],
)
def test_an_area_is_told_by_the_smallest_name_that_holds_most_of_it(places, said):
    assert area_in_words(nearest_towns(*np.transpose(places))).startswith(said)
