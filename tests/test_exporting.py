"""Bundles by another runtime: ONNX and OpenVINO give the network's own features."""

import importlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from towns import make_town, tiny_recipe
from typer.testing import CliRunner

import graticule
from graticule.cli import app
from graticule.errors import BadRecipeError, BundleError
from graticule.explaining.methods import occlusion
from graticule.model.bundle import Bundle
from graticule.model.exporting import export, open_runtime
from graticule.model.features import feature_key
from graticule.training.train import train

FIT = {"resize": "fit", "longest": 48, "height": None, "width": None}  # two shapes of photo


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    return make_town(tmp_path_factory.mktemp("town"))


@pytest.fixture(scope="module")
def trained(town, tmp_path_factory):
    inner = {"pooling": "average", "inner": ["blocks.1"], "options": {"pad_type": "same"}}
    folder = tmp_path_factory.mktemp("trained") / "bundle"
    train(tiny_recipe(train={"epochs": 1}, image=FIT, encoder=inner), town, folder)
    return folder


@pytest.fixture
def bundle(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "bundle"))


def needed(to):
    for name in ("onnx", "onnxruntime" if to == "onnx" else to):
        pytest.importorskip(name)


@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_a_runtime_answers_as_the_network_does(bundle, town, to):
    needed(to)
    export(bundle, to)
    photos = town.paths()[:9]
    own, theirs = graticule.load(bundle), graticule.load(bundle, runtime=to)
    features = own.features(photos)
    np.testing.assert_allclose(theirs.features(photos), features, rtol=0, atol=1e-4 * np.abs(features).max())
    for one, two in zip(own.locate(photos), theirs.locate(photos), strict=True):
        assert one.cells[0].token == two.cells[0].token
        assert two.lat == pytest.approx(one.lat, abs=1e-4)
    # What is kept of one is never taken for the other's.
    keys = {feature_key(locator.bundle.model, locator.bundle.preprocess) for locator in (own, theirs)}
    assert len(keys) == 2


def test_what_photos_are_compared_by_is_exported_too(tmp_path):
    needed("onnx")
    kept = Path(__file__).parent / "bundles" / "format-6"
    bundle = Path(shutil.copytree(kept, tmp_path / "bundle"))
    export(bundle, "onnx")
    assert Bundle.read(bundle).recipe.encoder.second_order_halves
    own, theirs = (graticule.load(bundle, runtime=runtime).features([kept / "photo.jpg"]) for runtime in (None, "onnx"))
    np.testing.assert_allclose(theirs, own, rtol=0, atol=1e-4 * np.abs(own).max())


def test_an_exported_model_leaves_the_bundle_whole_and_its_features_go_to_a_table(bundle, town, tmp_path):
    needed("onnx")
    before = Bundle.read(bundle)
    runner, out = CliRunner(), str(tmp_path / "f.parquet")
    done = runner.invoke(app, ["export", str(bundle), "--to", "onnx"])
    assert done.exit_code == 0, done.output
    assert Bundle.read(bundle).facts == before.facts
    (town.root / "broken.jpg").write_bytes(b"no photo")
    named = [str(town.paths()[3]), str(town.root / "broken.jpg"), str(town.paths()[0])]
    done = runner.invoke(app, ["features", str(bundle), *named, "--runtime", "onnx", "--out", out])
    (town.root / "broken.jpg").unlink()
    assert done.exit_code == 1
    table = pl.read_parquet(out)
    assert table["path"].to_list() == named
    assert table["error"].is_null().to_list() == [True, False, True]
    assert table["feature"].is_null().to_list() == [False, True, False]
    own = graticule.load(bundle).features([Path(named[0])])
    np.testing.assert_allclose(np.array(table["feature"][0]), own[0], rtol=0, atol=1e-4 * np.abs(own).max())


def test_what_was_not_exported_or_is_of_other_weights_is_refused(bundle, town):
    needed("onnx")
    with pytest.raises(BundleError, match="has no model for onnx; write it once with graticule export"):
        graticule.load(bundle, runtime="onnx")
    export(bundle, "onnx")
    about = bundle / "exported/onnx/about.json"
    facts = json.loads(about.read_text())
    about.write_text(json.dumps(facts | {"weights": "0" * 64}))
    with pytest.raises(BundleError, match="was not exported from the weights"):
        graticule.load(bundle, runtime="onnx")
    about.write_text(json.dumps(facts))
    with pytest.raises(BadRecipeError, match="computes in float32; for bfloat16 use --runtime openvino"):
        open_runtime(Bundle.read(bundle), "onnx", "bfloat16")


def test_a_model_that_gives_other_features_is_not_kept(bundle, monkeypatch):
    needed("onnx")
    exporting = importlib.import_module("graticule.model.exporting")
    monkeypatch.setattr(exporting, "_open", lambda *_: lambda images: torch.zeros(len(images), 1))
    with pytest.raises(BundleError, match="differ by 100.0% from the bundle's own, so it was not kept"):
        export(bundle, "onnx")
    assert not (bundle / "exported/onnx").exists()


def test_a_runtime_that_is_not_installed_says_what_to_install(bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(BadRecipeError, match=r"pip install 'graticule\[openvino\]'"):
        export(bundle, "openvino")


def test_a_runtime_hides_parts_of_a_photo_as_the_network_does(bundle, town):
    needed("onnx")
    export(bundle, "onnx")
    own, theirs = (occlusion(graticule.load(bundle, runtime=to), town.paths()[0]) for to in (None, "onnx"))
    assert theirs.target == own.target
    np.testing.assert_allclose(theirs.heat, own.heat, atol=1e-3 * np.ptp(own.heat))
    done = CliRunner().invoke(
        app, ["explain", str(bundle), str(town.paths()[0]), "--out", str(bundle), "--runtime", "openvino"]
    )
    assert "write it once with graticule export" in str(done.exception)
