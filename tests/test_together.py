"""Photos answered together have a belief, and a bundle gets to know photos after its training."""

import json
import shutil
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import timm
import torch
from safetensors.torch import save_file
from test_cli import graticule
from towns import make_town, tiny_recipe

from graticule.belief import ground
from graticule.belief.calibration import believe
from graticule.belief.confidence import Confidence, Known
from graticule.belief.density import SCALES, Kernels, Shape
from graticule.errors import BadRecipeError, BadTableError, BundleError
from graticule.evaluation.evaluate import note_added
from graticule.geo.sphere import great_circle_km
from graticule.inference.albums import Albums, Fuser
from graticule.inference.locate import Locator, load
from graticule.model.bundle import Bundle
from graticule.photos.table import read_photos
from graticule.training.calibrate import remember
from graticule.training.joining import join
from graticule.training.train import train

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module", autouse=True)
def coarse():
    """Fewer cells on the ground: these tests are not about how fine they are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ground, "DRAWS", 2**12)
        patch.setattr(ground, "MOST_DRAWS", 8)
        yield


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file(timm.create_model("test_efficientnet").state_dict(), path)
    return path


@pytest.fixture(scope="module")
def town(tmp_path_factory, weights, coarse):
    """A frozen, calibrated bundle, on photos of 48 places and six drives; one drive was left out."""
    return made(tmp_path_factory.mktemp("town"), weights)


def made(folder, weights, **how):
    make_town(folder, **how)
    table = pl.read_csv(folder / "table.csv").with_columns(place=pl.int_range(pl.len()) // 2)
    table.filter(pl.col("sequence") != "drive-0").write_csv(folder / "most.csv")
    table.filter(pl.col("sequence") == "drive-0").write_csv(folder / "rest.csv")
    frozen = {"weights": str(weights), "frozen": True}
    recipe = tiny_recipe(encoder=frozen, split={"by": "place", "val": 0, "test": 0}, train={"epochs": 1})
    train(recipe, read_photos(folder / "most.csv"), folder / "bundle")
    return folder


def photos_of(town):
    return read_photos(town / "rest.csv").paths()


@pytest.mark.parametrize("together", ["place", "sequence"])
def test_photos_together_tell_as_much_as_one(town, together):
    bundle = Bundle.read(town / "bundle")
    assert together in bundle.confidence.together
    locator = Locator(bundle)
    album = Albums(together, [np.arange(4)])
    fixes = [result.fix for result in locator.results(photos_of(town)[:4], albums=album, max_error_km=100)]
    for fix in fixes:
        assert fix.calibrated
        assert fix.region
        assert 0 < fix.median_error_km <= fix.p90_error_km
        assert 0 <= fix.unlike_training <= 1
    assert (len(set(fixes)) == 1) is (together == "place")


def test_a_bundle_that_saw_no_drives_gives_points_along_one_and_nothing_more(town):
    bundle = Bundle.read(town / "bundle")
    confidence = bundle.confidence
    locator = Locator(replace(bundle, confidence=Confidence(confidence.calibration, confidence.known)))
    fix = next(locator.results(photos_of(town)[:2], albums=Albums("sequence", [np.arange(2)]))).fix
    assert not fix.calibrated
    assert fix.region == ()


def shape(**shares):
    none = np.zeros(SCALES)
    one = np.eye(SCALES)[4]
    parts = {"cells": none, "gallery": none, "map": none} | {name: share * one for name, share in shares.items()}
    rest = 1 - sum(shares.values())
    without = np.append(one * 0.9, 0.1)
    return Shape(1.0, 1.0, *(tuple(parts[name]) for name in ("cells", "gallery", "map")), rest, tuple(without))


def alone(photos=3):
    lat, lon = 38.9 + RNG.uniform(0, 0.01, 12), -77.03 + RNG.uniform(0, 0.01, 12)
    cells, known = Kernels.of(lat[:5], lon[:5], np.full(5, 0.1)), Kernels.of(lat[5:], lon[5:], np.full(7, 0.05))
    return believe(
        shape(cells=0.5, gallery=0.3, map=0.1),
        cells,
        known,
        RNG.normal(0, 2, (photos, 5)),
        RNG.normal(0, 2, (photos, 7)),
    )


@pytest.mark.parametrize("together", ["place", "sequence"])
def test_an_album_of_one_photo_weighs_as_the_photo_does(together):
    belief = alone(1)
    fuser = Fuser(belief.cells, belief.known)
    said, _ = fuser.heard(belief, Albums(together, [np.arange(1)]), 0.0 if together == "place" else 1.0)
    weights = belief.components()[1]
    np.testing.assert_allclose(np.exp(said), weights / weights.sum())


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_a_power_says_how_far_photos_of_a_place_are_witnesses_of_their_own(power):
    belief = alone(4)
    fuser, album = Fuser(belief.cells, belief.known), Albums("place", [np.arange(4)])
    said, _ = fuser.heard(belief, album, power)
    weights = np.prod(belief.components()[1], axis=0) ** (4**power / 4)
    np.testing.assert_allclose(np.exp(said), np.tile(weights / weights.sum(), (4, 1)))


def test_photos_that_are_added_are_the_likeliest_for_themselves_and_are_said(town, tmp_path):
    rest = read_photos(town / "rest.csv")
    done = graticule("gallery", "add", town / "bundle", town / "rest.csv", "--out", tmp_path / "more")
    assert done.returncode == 0, done.stderr
    before, after = Bundle.read(town / "bundle"), Bundle.read(tmp_path / "more")
    known = after.confidence.known
    assert len(known.lat) == len(before.confidence.known.lat) + len(rest)
    assert after.confidence.calibration == before.confidence.calibration
    for said in Locator(after).predict_batches(rest.paths()):
        first = said.belief.known_weight.argmax(axis=1)
        own = great_circle_km(known.lat[first], known.lon[first], rest.lat[said.index], rest.lon[said.index])
        np.testing.assert_allclose(own, 0, atol=1e-9)
    assert json.loads((tmp_path / "more/bundle.json").read_text())["facts"]["known_added"] == len(rest)
    assert f"since then {len(rest)} known photos were added" in (tmp_path / "more/README.md").read_text()


def test_photos_that_are_added_are_no_test_any_more(town, tmp_path):
    shutil.copytree(town / "bundle", tmp_path / "bundle")
    asked = ("evaluate", tmp_path / "bundle", town / "rest.csv", "--split", "all", "--json")
    note_added(tmp_path / "bundle", read_photos(town / "rest.csv"))
    done = graticule(*asked)
    assert done.returncode == 1
    assert "memory in part" in done.stderr


def test_photos_are_added_once_and_only_to_bundles_that_compare(town):
    bundle = Bundle.read(town / "bundle")
    rest = read_photos(town / "rest.csv")
    more, count = remember(bundle, rest)
    again, none = remember(more, rest)
    assert (count, none) == (len(rest), 0)
    assert len(again.confidence.known.lat) == len(more.confidence.known.lat)
    known = bundle.confidence.known
    blind = replace(
        bundle, confidence=Confidence(bundle.confidence.calibration, Known(known.lat, known.lon, None, None, None))
    )
    with pytest.raises(BadRecipeError, match="compares photos with none that it knows"):
        remember(blind, rest)


WORLD = [(48.85, 2.35), (-33.87, 151.21), (35.68, 139.69), (-22.91, -43.17)]


def test_a_world_goes_down_to_a_city(town, weights, tmp_path):
    world = made(tmp_path / "world", weights, quarters=WORLD, seed=1, count=48)
    tables = ("--photos", town / "table.csv", "--photos", world / "table.csv")
    done = graticule("join", world / "bundle", town / "bundle", *tables, "--allow-leak")
    assert done.returncode == 0, done.stderr
    photos = read_photos(town / "rest.csv")
    with pytest.raises(BadTableError, match="of 16 places in the cities and of 0 outside"):
        join(Bundle.read(world / "bundle"), [Bundle.read(town / "bundle")], photos)
    joined, alone = load(world / "bundle"), Locator(Bundle.read(world / "bundle"), alone=True)
    truth = [
        np.concatenate([said.belief.log_density(photos.lat[said.index], photos.lon[said.index]) for said in some])
        for some in (joined.predict_batches(photos.paths()), alone.predict_batches(photos.paths()))
    ]
    assert truth[0].mean() > truth[1].mean() + 3  # nats: a city is known where the world knows four others
    fix = joined.locate(photos.paths()[0])
    assert fix.calibrated
    assert fix.region
    with pytest.raises(BadRecipeError, match="goes down to cities"):
        joined.locate(photos.paths()[:2], together=True)
    shutil.rmtree(town / "bundle" / "training")  # no part of the bundle
    load(world / "bundle")
    facts = json.loads((world / "bundle/cities.json").read_text())
    facts["cities"][0]["sha256"] = "0"
    (world / "bundle/cities.json").write_text(json.dumps(facts))
    with pytest.raises(BundleError, match="is not the one that was joined"):
        load(world / "bundle")
