"""A recipe that names a bundle for its encoder, somebody else's or one's own."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from public_weights import TINY, write_geoclip, write_megaloc
from test_cli import graticule
from towns import make_town, tiny_recipe

from graticule import zoo
from graticule.config import parse_recipe, read_recipe
from graticule.errors import BadRecipeError, BundleError
from graticule.inference.locate import Locator
from graticule.model import salad
from graticule.model.bundle import Bundle
from graticule.model.geolocator import build_geolocator
from graticule.training.train import train
from graticule.zoo.models import geoclip, megaloc


@pytest.fixture
def recipe(tmp_path):
    def write(encoder, **more):
        tree = {
            "name": "borrowed", "encoder": encoder, "cells": {"split_above": 30, "drop_below": 5},
            "split": {"by": "sequence", "val": 0.17, "test": 0.17},
            "train": {"epochs": 2, "batch_size": 16, "lr": 0.01, "precision": "float32", "workers": 0},
        }  # fmt: skip
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree | more))
        return tmp_path / "recipe.yaml"

    return write


def encoder_of(model):
    return {key: value for key, value in model.state_dict().items() if key.startswith("encoder.")}


def test_a_town_is_trained_on_the_features_of_a_public_model(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("GRATICULE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(geoclip.TOWER, "options", TINY)
    write_geoclip(tmp_path / "files")
    done = graticule("get", "geoclip", "--from", tmp_path / "files")
    assert done.returncode == 0, done.stderr
    town = make_town(tmp_path / "town", count=48)
    read = read_recipe(recipe({"bundle": "geoclip", "frozen": True}, cells={"split_above": 15, "drop_below": 1}))
    assert (read.image.resize, read.image.height, read.image.interpolation) == ("crop", 224, "bicubic")
    bundle = train(read, town, tmp_path / "bundle")
    theirs = Bundle.read(tmp_path / "cache" / "models" / "geoclip")
    for key, value in encoder_of(theirs.model).items():
        assert torch.equal(value, bundle.model.state_dict()[key]), key
    again = Bundle.read(tmp_path / "bundle")  # which needs no other bundle
    (tmp_path / "cache").rename(tmp_path / "away")
    fix = Locator(again).locate(town.paths()[0])
    assert abs(fix.lat - 38.9) < 0.1
    assert str(tmp_path) not in (tmp_path / "bundle" / "recipe.yaml").read_text()


def test_a_descriptor_of_places_is_an_encoder_and_answers_nothing_itself(recipe, tmp_path, monkeypatch):
    for name, size in (("CLUSTERS", 4), ("CLUSTER_WIDTH", 8), ("TOKEN_WIDTH", 8), ("HIDDEN", 16), ("WIDTH", 24)):
        monkeypatch.setattr(salad, name, size)
    monkeypatch.setitem(megaloc.TOWER, "options", megaloc.TOWER["options"] | TINY)
    write_megaloc(tmp_path / "files", salad.Salad(TINY["embed_dim"]))
    bundle = zoo.get("megaloc", tmp_path / "files")
    bundle.write(tmp_path / "megaloc")
    town = make_town(tmp_path / "town", count=8)
    locator = Locator(Bundle.read(tmp_path / "megaloc"))
    features = locator.features(town.paths())
    assert features.shape == (8, 24)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)
    with pytest.raises(BadRecipeError, match="megaloc is an encoder and answers nothing by itself"):
        locator.locate(town.paths()[0])
    read = read_recipe(recipe({"bundle": "megaloc", "frozen": True}))
    model = build_geolocator(read, 3)
    for key, value in encoder_of(bundle.model).items():
        assert torch.equal(value, model.state_dict()[key]), key


def test_the_command_line_may_name_the_bundle_for_any_recipe(tmp_path):
    town = make_town(tmp_path / "town")
    bundle = train(tiny_recipe(), town, tmp_path / "own")
    read = read_recipe(Path("laptop"), {"encoder.bundle": str(tmp_path / "own"), "encoder.frozen": True})
    assert (read.encoder.name, read.encoder.frozen, read.image.height) == ("test_efficientnet", True, 32)
    model = build_geolocator(read, 3)
    for key, value in encoder_of(bundle.model).items():
        assert torch.equal(value, model.state_dict()[key]), key


def test_a_bundle_that_is_none_or_was_changed_or_is_of_another_encoder_is_refused(recipe, tmp_path):
    with pytest.raises(BadRecipeError, match="encoder.bundle: .* is no bundle"):
        read_recipe(recipe({"bundle": "nowhere"}))
    town = make_town(tmp_path / "town")
    train(tiny_recipe(), town, tmp_path / "own")
    with pytest.raises(BadRecipeError, match="brings its own name; beside it only frozen can be said"):
        read_recipe(recipe({"bundle": "own", "name": "resnet18"}))
    other = {"name": "test_resnet", "weights": str(tmp_path / "own")}
    with pytest.raises(BadRecipeError, match="is not the one of this recipe"):
        build_geolocator(parse_recipe({"encoder": other}), 3)
    weights = tmp_path / "own" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(BundleError, match="is not the file that was written with its bundle"):
        build_geolocator(read_recipe(recipe({"bundle": "own"})), 3)
