"""Answers on a coarse scale keep their secret from who asks again and again."""

from pathlib import Path

import numpy as np
import pytest
from conftest import encoded, picture
from PIL import Image
from starlette.testclient import TestClient
from test_serve import PHOTO, ask

import graticule
from graticule.geo import s2
from graticule.geo.sphere import EARTH_RADIUS_KM, great_circle_km
from graticule.photos.images import decode
from graticule.serving import blur
from graticule.serving.app import create_app
from graticule.serving.blur import Coarse
from graticule.serving.service import Model, Service, head_key

KEPT = Path(__file__).parent / "bundles" / "format-3"
KM = 1.0


@pytest.fixture(scope="module")
def coarse():
    return Coarse(KM, b"a key")


def everywhere(count, seed=0):
    rng = np.random.default_rng(seed)
    return np.degrees(np.arcsin(rng.uniform(-1, 1, count))), rng.uniform(-180, 180, count)


def moved(lat, lon, km, rng, count):
    """Points around one, normally distributed."""
    north, east = rng.normal(0, np.degrees(km / EARTH_RADIUS_KM), (2, count))
    return lat + north, lon + east / np.cos(np.radians(lat))


@pytest.mark.parametrize("km", [0.02, 1, 30, 1000])
def test_a_point_lies_within_a_few_cells_of_what_is_told_of_it_and_no_cell_is_finer_than_asked(km):
    coarse, (lat, lon) = Coarse(km, b"a key"), everywhere(500)
    cells = coarse.assign(lat, lon)
    assert set(s2.level_of(cells)) == {coarse.level}
    assert np.sqrt(s2.areas_km2(cells)).min() >= 0.85 * km  # a cell is a rhombus: its area is less than width squared
    off = great_circle_km(lat, lon, *s2.centers(cells))
    assert off.max() < 8 * km
    assert np.median(off) > km / 4


def test_the_nearest_site_is_found_among_those_that_are_looked_at(coarse, monkeypatch):
    lat, lon = everywhere(60, seed=1)
    found = coarse.assign(lat, lon)
    monkeypatch.setattr(blur, "REACH", 4.0)
    monkeypatch.setattr(blur, "STEPS", 25)
    assert (coarse.assign(lat, lon) == found).all()


def test_another_key_draws_other_borders():
    lat, lon = everywhere(300)
    one, other = (Coarse(KM, key).assign(lat, lon) for key in (b"a key", b"another"))
    assert 0.3 < (one != other).mean() < 0.9


def test_asking_again_with_crops_finds_the_point_on_a_known_grid_and_not_behind_secret_borders(coarse):
    """The attack: a photo is asked 400 times with crops, which move its point a little; the answers are averaged."""
    rng, off_known, off_secret = np.random.default_rng(0), [], []
    lat, lon = 60 * rng.uniform(-1, 1, 60), rng.uniform(-180, 180, 60)
    # On a known grid the attacker also picks the photos that lie near a border: here, all do.
    corner_lat, corner_lon = (values[:, 0] for values in s2.outlines(s2.parents(s2.leaf_cells(lat, lon), coarse.level)))
    for at, on in zip(corner_lat, corner_lon, strict=True):
        again = moved(at, on, 0.15 * KM, rng, 400)
        known = s2.centers(s2.parents(s2.leaf_cells(*again), coarse.level))
        secret = s2.centers(coarse.assign(*again))
        for found, off in ((known, off_known), (secret, off_secret)):
            off.append(float(great_circle_km(found[0].mean(), found[1].mean(), at, on)))
    assert np.median(off_known) < 0.25 * KM
    assert np.median(off_secret) > 0.6 * KM
    assert np.quantile(off_secret, 0.1) > 0.25 * KM


def test_probabilities_are_told_to_a_power_of_two_and_follow_no_small_move(coarse):
    rng = np.random.default_rng(0)
    cells = []
    for _ in range(20):
        lat, lon = moved(48.8512, 2.3513, 0.01, rng, 1)
        around = moved(lat[0], lon[0], 0.2, np.random.default_rng(1), 2000)
        told = coarse.release((lat[0], lon[0]), *around, np.full(2000, 1 / 2000))
        ratio = np.log2(told.mass / told.mass.max())
        assert np.allclose(ratio, np.round(ratio))
        cells.append((told.at, told.mass.round(6).tolist()))
    assert len({str(each) for each in cells}) < 8


@pytest.fixture(scope="module")
def blurred():
    locator = graticule.load(KEPT)
    model = Model("town", locator, Coarse(KM, head_key(locator)))
    with TestClient(create_app(Service([model])), base_url="http://127.0.0.1") as client:
        yield client, model


def test_every_number_of_a_blurred_answer_is_that_of_a_coarse_cell(blurred):
    client, model = blurred
    assert client.get("/v1/model").json()["coarsest_answer_km"] == KM
    answer = ask(
        client, PHOTO.read_bytes(), regions=True, density=True, neighbours=3, claim="38.91,-77.02", within_km=0.001
    )
    [fix] = answer.json()["fixes"]
    exact = model.locator.locate(PHOTO)
    level = model.coarse.level
    assert set(s2.level_of(s2.from_tokens([cell["token"] for cell in fix["cells"]]))) == {level}
    assert s2.level_of(s2.from_tokens(fix["region"])).max() <= level
    for name in ("expected_error_km", "median_error_km", "p90_error_km"):
        assert fix[name] >= KM
    assert fix["claim"]["within_km"] >= KM
    assert great_circle_km(fix["lat"], fix["lon"], exact.lat, exact.lon) < 4 * KM
    assert str(round(exact.lat, 5)) not in answer.text
    assert "neighbours" not in fix
    assert str(exact.cells[0].lat)[:9] not in answer.text
    shown = fix["density"]["features"]
    assert min(np.log2(cell["properties"]["mass"] / shown[-1]["properties"]["mass"]) % 1 for cell in shown) < 1e-3


def test_what_is_claimed_is_weighed_against_what_is_told_and_nothing_finer(blurred):
    client, _ = blurred
    data = PHOTO.read_bytes()
    [fix] = ask(client, data, density=True).json()["fixes"]
    densities = set()
    for lat in np.linspace(38.902, 38.918, 9):
        found = ask(client, data, path="/v1/probability", name="photo", lat=lat, lon=-77.0203).json()
        densities.add(found["density_per_km2"])
    told = {cell["properties"]["per_km2"] for cell in fix["density"]["features"]}
    assert densities <= told | {0.0}


def test_areas_are_weighed_by_what_is_told_and_no_second_point_is(blurred):
    client, _ = blurred
    data = PHOTO.read_bytes()
    [fix] = ask(client, data).json()["fixes"]
    tokens = ",".join(cell["token"] for cell in fix["cells"])
    [inside] = [each["inside"] for each in ask(client, data, inside=tokens).json()["fixes"]]
    shares = [each["probability"] for each in inside]
    assert shares == pytest.approx([cell["probability"] for cell in fix["cells"]], rel=0.02)
    refused = ask(client, data, answer="densest")
    assert refused.status_code == 422
    assert "blurs its answers" in refused.json()["detail"]


def test_crops_of_a_photo_do_not_average_to_its_place(blurred):
    client, model = blurred
    pixels = decode(PHOTO.read_bytes())
    height, width = pixels.shape[:2]
    rng, exact, told = np.random.default_rng(0), [], []
    for _ in range(24):
        top, left = (int(rng.integers(0, max(1, side // 12))) for side in (height, width))
        crop = encoded(np.asarray(Image.fromarray(pixels[top:, left:])), "PNG")
        fix = model.locator.locate(crop)
        exact.append((fix.lat, fix.lon))
        [fix] = ask(client, crop).json()["fixes"]
        told.append((fix["lat"], fix["lon"]))
    middle, found = np.mean(exact, axis=0), np.mean(told, axis=0)
    spread = np.median(great_circle_km(*middle, *np.array(exact).T))
    assert spread < 0.2 * KM  # without the blur, crops would tell
    assert great_circle_km(*middle, *found) > 0.2 * KM


def test_an_explanation_of_a_blurred_answer_names_no_fine_cell(blurred):
    client, model = blurred
    answer = ask(client, PHOTO.read_bytes(), path="/v1/explain", name="photo", method="saliency")
    assert answer.json()["scores"]["cell"] is None
    assert str(model.locator.locate(PHOTO).cells[0].lat)[:9] not in answer.text


def test_photos_together_and_a_bundle_that_is_not_calibrated_are_blurred_too(blurred):
    client, model = blurred
    photos = [encoded(picture(64, 48, seed=i)) for i in range(2)]
    [fix] = ask(client, *photos, together=True).json()["fixes"]
    assert {int(s2.level_of(s2.from_tokens([cell["token"]]))[0]) for cell in fix["cells"]} == {model.coarse.level}
    assert fix["expected_error_km"] >= KM
