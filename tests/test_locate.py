import json
import random
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from towns import COLORS, QUARTERS, make_town, photo, tiny_recipe

import graticule
from graticule.errors import BadPhotoError, BundleError, WriteError
from graticule.geo.sphere import great_circle_km
from graticule.inference.formats import WRITERS, to_geojson
from graticule.inference.locate import Locator
from graticule.model.bundle import Bundle
from graticule.model.features import FeatureStore
from graticule.model.index import FILES, INDEX
from graticule.training.fit import fit
from graticule.training.train import train


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    return make_town(tmp_path_factory.mktemp("town"))


@pytest.fixture(scope="module")
def folder(town, tmp_path_factory):
    recipe = tiny_recipe(train={"epochs": 15}, image={"resize": "fit", "longest": 48, "height": None, "width": None})
    out = tmp_path_factory.mktemp("run") / "bundle"
    train(recipe, town, out)
    return out


@pytest.fixture(scope="module")
def locator(folder):
    return graticule.load(folder)


@pytest.mark.parametrize("quarter", range(len(COLORS)))
def test_a_new_photo_is_placed_in_its_quarter(locator, quarter):
    fix = locator.locate(photo(quarter, np.random.default_rng(99)))
    assert great_circle_km(fix.lat, fix.lon, *QUARTERS[quarter]) < 0.5
    assert fix.cells[0].probability > 0.5
    assert sum(cell.probability for cell in fix.cells) <= 1 + 1e-6


def test_photos_are_answered_in_their_order_whatever_their_shape(locator, town):
    paths = town.paths()[:20]
    together = locator.locate(paths)
    alone = [locator.locate(path) for path in paths]
    for one, other in zip(together, alone, strict=True):
        assert (one.lat, one.lon) == pytest.approx((other.lat, other.lon), abs=1e-5)


def test_a_broken_photo_is_a_reply_with_its_reason_among_the_others(locator, town, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(town.paths()[1].read_bytes()[:300])
    photos = [town.paths()[0], broken, tmp_path / "missing.jpg", town.paths()[2]]
    results = list(locator.results(photos))
    assert [result.photo for result in results] == photos
    assert [result.fix is None for result in results] == [False, True, True, False]
    assert results[1].error.reason in {"truncated", "unreadable"}


def test_one_broken_photo_raises_when_it_is_asked_about_alone(locator):
    with pytest.raises(BadPhotoError):
        locator.locate(b"not a photo")


def test_a_store_changes_nothing_but_the_work(town, tmp_path, monkeypatch):
    """Warm and cold give batches of one size, which bounds memory, and the same numbers to the last bit."""
    monkeypatch.setattr("graticule.inference.network.TOGETHER", 8)
    weights = tmp_path / "weights.pth"
    torch.save(timm.create_model("test_efficientnet", num_classes=0).state_dict(), weights)
    bundle = fit(tiny_recipe(encoder={"weights": str(weights), "frozen": True}, train={"epochs": 2}), town)
    paths = town.paths()[:30]

    def asked(store):
        batches = list(Locator(bundle, store=store).predict_batches(paths))
        order = np.argsort(np.concatenate([batch.index for batch in batches]))
        sizes = sorted(len(batch.index) for batch in batches if len(batch.index))
        return sizes, np.concatenate([batch.log_probability for batch in batches])[order]

    sizes, plain = asked(None)
    cold_sizes, cold = asked(FeatureStore(tmp_path / "store"))
    warm_sizes, warm = asked(FeatureStore(tmp_path / "store"))
    assert list((tmp_path / "store").rglob("*.safetensors"))
    assert max(sizes) < len(paths)
    assert sizes == cold_sizes == warm_sizes
    np.testing.assert_array_equal(cold, plain)
    np.testing.assert_array_equal(warm, plain)


def test_features_of_an_encoder_that_was_trained_along_are_not_kept(folder, town, tmp_path):
    Locator(Bundle.read(folder), store=FeatureStore(tmp_path)).locate(town.paths()[:5])
    assert not list(tmp_path.rglob("*.safetensors"))


def test_nothing_is_kept_of_a_photo_by_default(folder, town, tmp_path, monkeypatch):
    monkeypatch.setenv("GRATICULE_CACHE", str(tmp_path / "cache"))
    before = sorted(p for p in folder.rglob("*"))
    graticule.load(folder).locate(town.paths()[0])
    assert sorted(p for p in folder.rglob("*")) == before
    assert not (tmp_path / "cache").exists()


def test_opening_a_bundle_leaves_the_callers_generators_as_they_were(folder):
    def states():
        return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()

    torch.manual_seed(1234567)
    before = states()
    graticule.load(folder)
    assert states() == before


@pytest.mark.parametrize("name", [*FILES, INDEX])
def test_a_bundle_with_a_changed_byte_is_refused(folder, tmp_path, name):
    copy = tmp_path / "bundle"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("training"))
    data = bytearray((copy / name).read_bytes())
    spot = data.index(b"photos") if name == INDEX else len(data) // 2
    data[spot] ^= 1
    (copy / name).write_bytes(bytes(data))
    with pytest.raises(BundleError, match=f"{name} is not (the file that|what) training wrote"):
        graticule.load(copy)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        pytest.param(lambda p: shutil.rmtree(p), "that folder is not there", id="no folder"),
        pytest.param(lambda p: (p / INDEX).unlink(), f"it has no {INDEX}", id="no index"),
        pytest.param(lambda p: (p / "cells.parquet").unlink(), "lacks cells.parquet", id="no cells"),
        pytest.param(lambda p: (p / INDEX).write_text("{"), "cannot be read as JSON", id="no JSON"),
        pytest.param(lambda p: (p / INDEX).write_text(json.dumps({"format": 99})), "has format 99", id="newer"),
    ],
)
def test_what_is_no_whole_bundle_is_refused_with_a_sentence(folder, tmp_path, damage, sentence):
    copy = tmp_path / "bundle"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("training"))
    damage(copy)
    with pytest.raises(BundleError, match=sentence):
        graticule.load(copy)


def test_a_full_disk_leaves_no_half_written_bundle(folder, tmp_path, full_disk):
    with pytest.raises(WriteError, match="no space left on the disk .* run the same command again"):
        Bundle.read(folder).write(tmp_path / "copy")
    assert list((tmp_path / "copy").iterdir()) == []


def test_a_bundle_tells_no_one_where_it_was_trained(folder, town):
    for name in (INDEX, "recipe.yaml"):
        assert str(town.root) not in (folder / name).read_text()


def test_every_format_holds_every_photo(locator, town, tmp_path):
    results = list(locator.results([town.paths()[0], tmp_path / "a&b<c>.jpg"]))
    texts = {name: "".join(write(results)) for name, write in WRITERS.items()}
    rows = json.loads(texts["json"])
    assert rows[0]["lat"] == pytest.approx(results[0].fix.lat, abs=1e-6)
    assert "there is no file" in rows[1]["error"]
    features = json.loads(texts["geojson"])["features"]
    assert features[0]["geometry"]["coordinates"] == [rows[0]["lon"], rows[0]["lat"]]
    assert features[1]["geometry"] is None
    assert len(texts["csv"].splitlines()) == 3
    assert "a&amp;b&lt;c&gt;.jpg" in texts["kml"]


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_a_format_is_written_while_photos_are_still_being_answered(locator, town, name):
    answered = []

    def results():
        for result in locator.results(town.paths()[:8]):
            answered.append(result)
            yield result

    pieces = WRITERS[name](results())
    while not answered:
        next(pieces)
    assert len(answered) == 1


def test_json_in_pieces_is_the_json_of_the_whole(locator, town):
    results = list(locator.results([*town.paths()[:3], "missing.jpg"]))
    for some in (results, []):
        text = "".join(WRITERS["json"](some))
        assert text == json.dumps(json.loads(text), indent=2, ensure_ascii=False) + "\n"
        text = "".join(WRITERS["geojson"](some))
        whole = json.dumps(json.loads(text), indent=2, ensure_ascii=False) + "\n"
        assert "".join(text.split()) == "".join(whole.split())


def test_a_position_of_a_region_stands_on_one_line(locator, town):
    [result] = locator.results(town.paths()[:1])
    fix = replace(result.fix, region=("89c25", "89c27"))
    text = "".join(to_geojson([replace(result, fix=fix)], regions=True))
    [_, region] = json.loads(text)["features"]
    assert region["geometry"]["type"] in ("Polygon", "MultiPolygon")
    assert not re.search(r"^\s*-?[\d.]+,?$", text, re.MULTILINE)
