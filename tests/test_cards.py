"""Cards: what the folder holds, in the form that the hub reads."""

import json

import polars as pl
import pytest
from huggingface_hub import DatasetCard, ModelCard
from test_cli import graticule, write_recipe
from towns import make_town

from graticule.errors import BadTableError
from graticule.photos.cards import datasheet, model_card, write_card
from graticule.photos.table import write_dataset


def photos(count=3, **columns):
    return pl.DataFrame(
        {"path": [f"{i}.jpg" for i in range(count)], "lat": [48.0] * count, "lon": [9.0] * count, **columns}
    )


REFUSED = pl.DataFrame({"path": ["x.jpg"], "reason": ["truncated"], "detail": ["it ends early"]})


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cards")
    make_town(folder / "photos")
    recipe = write_recipe(folder / "recipe.yaml", train={"epochs": 1})
    table = folder / "photos/table.csv"
    assert graticule("train", recipe, "--photos", table, "--out", folder / "bundle").returncode == 0
    return folder / "bundle", table


def test_training_writes_a_card_and_evaluation_renews_it(bundle):
    folder, table = bundle
    assert "Nothing yet" in (folder / "README.md").read_text()
    assert graticule("evaluate", folder, table).returncode == 0
    text = (folder / "README.md").read_text()
    metrics = json.loads((folder / "evaluation/test/metrics.json").read_text())
    assert f"| top-1 | {metrics['top1']:.1%} |" in text
    assert metrics["held_out_reason"] in text
    for use in ("Navigation or emergency", "Surveillance", "private persons"):
        assert use in text.partition("## What it is not for")[2].partition("## ")[0]


def test_the_hub_reads_the_figures_of_a_model_card(bundle):
    folder, table = bundle
    graticule("evaluate", folder, table)
    card = ModelCard(model_card(folder), ignore_metadata_errors=False)
    metrics = json.loads((folder / "evaluation/test/metrics.json").read_text())
    found = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert found["median_km"] == pytest.approx(metrics["median_km"], abs=1e-6)
    assert card.data.library_name == "graticule"


def test_the_hub_reads_a_datasheet_and_its_licence():
    text = datasheet(photos(licence=["CC-BY-SA-4.0"] * 3), REFUSED, {"source": "mapillary"}, name="town")
    card = DatasetCard(text, ignore_metadata_errors=False)
    assert card.data.license == "cc-by-sa-4.0"
    assert "| truncated | 1 |" in text


def test_two_licences_are_not_one():
    text = datasheet(photos(licence=["CC-BY-SA-4.0", "CC0", "CC0"]), REFUSED, {"source": "table"}, name="town")
    assert DatasetCard(text).data.license == "other"
    assert "CC-BY-SA-4.0, CC0" in text


def test_a_value_cannot_break_out_of_its_table():
    text = datasheet(photos(country=["a|b", "c", "c"]), None, {"source": "table"}, name="town")
    assert "| a\\|b | 1 |" in text


def test_a_dataset_gets_its_datasheet(tmp_path):
    write_dataset(tmp_path / "town", photos(), REFUSED, {"source": "table"})
    assert "3 street-level photos" in (tmp_path / "town/README.md").read_text()


def test_somebody_elses_readme_stays(tmp_path):
    (tmp_path / "README.md").write_text("# My holidays")
    write_dataset(tmp_path, photos(), REFUSED, {"source": "table"})
    assert (tmp_path / "README.md").read_text() == "# My holidays"
    assert "3 street-level photos" in (tmp_path / "CARD.md").read_text()


def test_the_card_command_renews_a_datasheet(tmp_path):
    write_dataset(tmp_path, photos(), REFUSED, {"source": "table"})
    photos(2).write_parquet(tmp_path / "photos.parquet")
    assert graticule("card", tmp_path).returncode == 0
    assert "2 street-level photos" in (tmp_path / "README.md").read_text()


def test_a_folder_that_is_neither_is_refused(tmp_path):
    with pytest.raises(BadTableError, match="neither a bundle"):
        write_card(tmp_path)


def written_bundle(folder, recipe="name: town", **evaluations):
    (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
    (folder / "bundle.json").write_text(
        json.dumps({"versions": {"graticule": "0"}, "facts": {"photos": 3, "cells": 2}})
    )
    for part, metrics in evaluations.items():
        (folder / "evaluation" / part).mkdir(parents=True)
        (folder / "evaluation" / part / "metrics.json").write_text(json.dumps({"photos": 3} | metrics))
    return model_card(folder)


def test_a_recipes_name_is_neither_html_nor_markup_in_the_card(tmp_path):
    name = "<script>alert(1)</script> [a](b)"
    text = written_bundle(tmp_path, f"name: '{name}'\n# ```\n# ````")
    prose = text.split("---\n", 2)[2]
    assert "# &lt;script&gt;alert(1)&lt;/script&gt; \\[a\\](b)" in prose
    assert "<script>" not in prose.split("`````yaml")[0]
    assert ModelCard(text).data.model_name == name


@pytest.mark.parametrize("held_out", [False, None])
def test_a_number_that_is_not_held_out_is_no_result_and_comes_last(tmp_path, held_out):
    memory = {"held_out": held_out, "median_km": 0.032, "held_out_reason": "NOT held out."}
    honest = {"held_out": True, "median_km": 0.256, "held_out_reason": "Held out by place."}
    text = written_bundle(tmp_path, all=memory, test=honest)
    assert [result.metric_value for result in ModelCard(text).data.eval_results] == [0.256]
    assert text.index("256 m") < text.index("Not shown to be held out, so no result of this model: part `all`")
