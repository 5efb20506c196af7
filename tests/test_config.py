from pathlib import Path

import pytest

from graticule.config import parse_overrides, parse_recipe, read_recipe
from graticule.errors import BadRecipeError
from graticule.trees import packaged_recipes

RECIPES = sorted(packaged_recipes().values())


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_recipe_we_ship_is_read(path):
    assert read_recipe(path).name == path.stem


@pytest.mark.parametrize(
    ("tree", "sentence"),
    [
        pytest.param({"trian": {}}, "unknown setting trian; did you mean train?", id="misspelt section"),
        pytest.param({"train": {"epoch": 3}}, "unknown setting train.epoch; did you mean train.epochs?", id="misspelt"),
        pytest.param({"cells": {"split_above": 5, "drop_below": 9}}, "drop_below=9 exceeds split_above=5", id="cells"),
        pytest.param(
            {"cells": {"kind": "grid", "rows": 3, "columns": 3, "clusters": 2}},
            "clusters goes with kind: kmeans or gaussian; here the kind is grid",
            id="clusters in a grid",
        ),
        pytest.param(
            {"cells": {"kind": "label", "label": "city", "split_above": 9}},
            "split_above goes with kind: s2",
            id="label",
        ),
        pytest.param({"cells": {"label": "city"}}, "label goes with kind: label; here the kind is s2", id="no kind"),
        pytest.param({"cells": {"kind": "grid", "rows": 3}}, "takes rows and columns; not given: columns", id="grid"),
        pytest.param({"cells": {"kind": "hexagons"}}, "cells.kind: should be s2, grid, kmeans", id="no such kind"),
        pytest.param(
            {"cells": {"splitabove": 3}}, "cells.splitabove; did you mean cells.split_above?", id="misspelt cells"
        ),
        pytest.param({"target": {"kind": "distance"}}, "takes tau_km or tau_spacings", id="no tau"),
        pytest.param({"target": {"kind": "distance", "tau_km": 1, "tau_spacings": 1}}, "one of them", id="two taus"),
        pytest.param({"target": {"tau_km": 1}}, "tau_km goes with kind: distance", id="tau without distance"),
        pytest.param({"target": {"smoothing": 0.1}}, "smoothing goes with kind: smoothed", id="stray smoothing"),
        pytest.param({"target": {"kind": "smoothed"}}, "smoothing goes with", id="smoothed without a value"),
        pytest.param({"encoder": {"frozen": True, "weights": "none"}}, "would stay random", id="frozen random weights"),
        pytest.param(
            {"encoder": {"frozen": True}, "augment": {"crop": 0.1}},
            "augment would do nothing",
            id="frozen, augment",
        ),
        pytest.param({"image": {"resize": "fit", "height": 224}}, "give longest", id="fit with a height"),
        pytest.param({"image": {"longest": 224}}, "give height and width", id="squash with a longest side"),
        pytest.param({"split": {"val": 0.5, "test": 0.5}}, "leave no photos to train on", id="no training part"),
        pytest.param({"train": {"lr": -1}}, "train.lr: Input should be greater than 0, found -1", id="negative lr"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_with_a_sentence(tree, sentence):
    with pytest.raises(BadRecipeError) as caught:
        parse_recipe(tree)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(("split_above", "drop_below"), [(1000, 50), (5000, 50), (100, 5), (30, 1), (1, 1)])
def test_small_cells_are_dropped_in_proportion_where_nothing_is_said(split_above, drop_below):
    assert parse_recipe({"cells": {"split_above": split_above}}).cells.drop_below == drop_below


def test_settings_of_other_kinds_that_are_null_are_no_settings():
    nothing = dict.fromkeys(["split_above", "drop_below", "max_level", "keep", "clusters", "label"])
    assert parse_recipe({"cells": nothing | {"kind": "grid", "rows": 2, "columns": 3}}).cells.columns == 3


@pytest.mark.parametrize(
    "cells", [{}, {"drop_below": 7}, {"kind": "kmeans", "clusters": 9}, {"kind": "label", "label": "city"}]
)
def test_cells_are_the_same_after_a_way_through_a_file(cells):
    recipe = parse_recipe({"cells": cells})
    assert parse_recipe(recipe.model_dump(mode="json")) == recipe


def test_overrides_reach_into_sections(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("train: {epochs: 9}\n")
    recipe = read_recipe(path, parse_overrides(["train.lr=0.5", "seed=4"]))
    assert (recipe.train.epochs, recipe.train.lr, recipe.seed) == (9, 0.5, 4)


def test_an_override_without_a_value_is_refused():
    with pytest.raises(BadRecipeError, match="--set takes name=value"):
        parse_overrides(["train.lr"])


def test_a_local_weights_file_is_taken_relative_to_the_recipe(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("encoder: {weights: sub/w.pth}\n")
    assert read_recipe(path).encoder.weights == str(tmp_path / "sub" / "w.pth")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("[1, 2]", "should hold settings"), ("a: [", "is not YAML"), (None, "cannot be read")],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path, text, sentence):
    path = tmp_path / "r.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(BadRecipeError, match=sentence):
        read_recipe(path)


def test_a_recipe_of_the_package_is_named_without_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_recipe(Path("laptop")).name == "laptop"
    with pytest.raises(BadRecipeError, match="no recipe is called 'labtop'; did you mean laptop?"):
        read_recipe(Path("labtop"))
    with pytest.raises(BadRecipeError, match="no file recipes/laptop.yaml; laptop comes with the package: name it"):
        read_recipe(Path("recipes/laptop.yaml"))


def test_a_file_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("laptop").write_text("name: mine")
    assert read_recipe(Path("laptop")).name == "mine"


def test_weights_are_beside_the_recipe_that_names_them_and_here_where_an_option_does(tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    (tmp_path / "there/r.yaml").write_text("encoder: {weights: w.pth}")
    monkeypatch.chdir(tmp_path)
    assert read_recipe(Path("there/r.yaml")).encoder.weights == str(tmp_path / "there/w.pth")
    found = read_recipe(Path("there/r.yaml"), {"encoder.weights": "mine.pth"})
    assert found.encoder.weights == str(tmp_path / "mine.pth")
