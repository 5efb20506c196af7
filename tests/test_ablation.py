"""What each setting of a recipe is worth: measured by folds, paired with the plain recipe photo by photo."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from towns import make_town, tiny_recipe

from graticule.cli.runs import SWITCHES, _switch
from graticule.config import parse_overrides, read_recipe
from graticule.errors import BadRecipeError
from graticule.evaluation import ablation
from graticule.evaluation.ablation import Collection, ablate, effects, folder_of, variants_of
from graticule.evaluation.evaluate import Evaluation
from graticule.reporting.tables import table_of_effects


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    photos = make_town(tmp_path_factory.mktemp("town"), count=60)
    return Collection("town", photos, "place")


@pytest.fixture
def folds(monkeypatch, town):
    """Cross-validation whose errors are known: 100 m by chance, a tenth of it with a hidden layer of 7."""
    asked = []

    def crossval(recipe, photos, *, folds, group, store, progress):
        asked.append((recipe.head.hidden, recipe.seed, folds, group))
        if recipe.head.dropout:
            raise BadRecipeError("dropout is out of order")
        error = np.random.default_rng(recipe.seed).exponential(0.1, len(photos))
        error = error / 10 if recipe.head.hidden == 7 else error
        rows = photos.frame.select("path").with_columns(
            error_km=error, log_density=pl.lit(1.0), prior_log_density=pl.lit(0.0), error=pl.lit(None, pl.String)
        )
        told = {"median_km": float(np.median(error)), "mean_km": error.mean(), "bits": 1 / np.log(2)}
        return Evaluation(told | {"coverage_90": 0.9, "median_area_90_km2": 2.0, "training_seconds": 3.0}, rows, None)

    monkeypatch.setattr(ablation, "crossval", crossval)
    return asked


def variants(**heads):
    recipes = {name: tiny_recipe(head=head) for name, head in heads.items()}
    return variants_of(recipes, tiny_recipe(), None)


def test_what_is_tried_unless_told_otherwise_changes_the_laptops_recipe_alone_and_together():
    tried = dict(_switch(text) for text in SWITCHES)
    every = [word for words in tried.values() for word in words]
    plain, together = (read_recipe(Path("laptop"), parse_overrides(words)) for words in ([], every))
    recipes = {name: read_recipe(Path("laptop"), parse_overrides(words)) for name, words in tried.items()}
    assert len(variants_of(recipes, plain, together)) == len(SWITCHES) + 2
    assert (together.cells.kind, together.head.hierarchy, together.remember) == ("semantic", True, False)


def test_a_setting_that_helps_is_told_from_one_that_does_nothing(town, folds, tmp_path):
    asked = variants(hidden={"hidden": 7}, other={"hidden": 8})
    assert all(t.fresh and t.error is None for t in ablate(asked, [town], tmp_path / "a", seeds=(0, 1), folds=3))
    plain, hidden, other = effects(tmp_path / "a", list(asked), [town], (0, 1))
    assert (plain.verdict, hidden.verdict, other.verdict) == ("", "nearer", "not told apart")
    assert hidden.median_km == pytest.approx(plain.median_km / 10)
    low, high = hidden.median_difference_km
    assert low < hidden.median_km - plain.median_km < high < 0
    assert other.median_difference_km == (0, 0)
    assert other.bits_difference == (0, 0)
    (table,) = table_of_effects([vars_of(each) for each in (plain, hidden, other)])
    assert [row[-1] for row in table.texts()] == ["", "nearer", "not told apart"]


def vars_of(effect):
    return {name: getattr(effect, name) for name in effect.__slots__}


def test_what_is_there_is_not_measured_again_and_a_new_switch_joins_it(town, folds, tmp_path):
    list(ablate(variants(hidden={"hidden": 7}), [town], tmp_path / "a", seeds=(0,)))
    again = list(ablate(variants(hidden={"hidden": 7}, more={"hidden": 9}), [town], tmp_path / "a", seeds=(0,)))
    assert [trial.fresh for trial in again] == [False, False, True]
    assert [hidden for hidden, *_ in folds] == [None, 7, 9]


def test_a_switch_that_fails_is_told_and_does_not_keep_the_others_from_running(town, folds, tmp_path):
    asked = variants(broken={"dropout": 0.5}, hidden={"hidden": 7})
    trials = list(ablate(asked, [town], tmp_path / "a", seeds=(0,)))
    assert [trial.error for trial in trials] == [None, "dropout is out of order", None]
    assert [effect.variant for effect in effects(tmp_path / "a", list(asked), [town], (0,))] == ["plain", "hidden"]


def test_a_folder_of_another_ablation_is_refused(town, folds, tmp_path):
    list(ablate(variants(hidden={"hidden": 7}), [town], tmp_path / "a", seeds=(0,)))
    with pytest.raises(BadRecipeError, match="begun with another hidden"):
        list(ablate(variants(hidden={"hidden": 8}), [town], tmp_path / "a", seeds=(0,)))
    with pytest.raises(BadRecipeError, match="begun with 5 folds"):
        list(ablate(variants(hidden={"hidden": 7}), [town], tmp_path / "a", seeds=(0,), folds=3))
    assert json.loads((folder_of(tmp_path / "a", "town", "hidden", 0) / "metrics.json").read_text())["bits"] > 1


def test_a_switch_that_changes_nothing_is_refused():
    with pytest.raises(BadRecipeError, match="the switch same changes nothing"):
        variants_of({"same": tiny_recipe()}, tiny_recipe(), None)
