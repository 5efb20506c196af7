"""A claimed place against what a bundle believes."""

import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from towns import make_town, tiny_recipe

from graticule.errors import BadRecipeError
from graticule.inference.claims import own_position
from graticule.inference.formats import WRITERS, to_csv
from graticule.inference.locate import Locator
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


def test_an_answer_that_is_not_calibrated_weighs_no_claim(town):
    recipe = tiny_recipe(train={"epochs": 1})
    bare = Locator(fit_calibrated(recipe, town.take(np.arange(60)), None))
    with pytest.raises(BadRecipeError, match="claimed place cannot be weighed"):
        list(bare.results(town.paths()[:1], claims=[(0.0, 0.0)]))


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


def test_a_photo_claims_what_its_exif_says(tmp_path):
    exif = Image.Exif()
    exif[0x8825] = {1: "S", 2: (33.0, 55.0, 0.0), 3: "E", 4: (151.0, 10.0, 0.0)}
    Image.new("RGB", (32, 32)).save(tmp_path / "sydney.jpg", exif=exif)
    Image.new("RGB", (32, 32)).save(tmp_path / "mute.jpg")
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    assert own_position(tmp_path / "sydney.jpg") == pytest.approx((-33 - 55 / 60, 151 + 10 / 60))
    assert own_position(tmp_path / "mute.jpg") is None
    assert own_position(tmp_path / "broken.jpg") is None
