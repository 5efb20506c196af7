"""Sweeps and the reports' tables."""

import json
import re

import polars as pl
import pytest
from test_cli import graticule, write_recipe
from towns import make_town

from graticule.errors import BadRecipeError, BadTableError
from graticule.evaluation.sweep import arms_of, sweep
from graticule.reporting.tables import Run, Span, Table, read_runs, tables_a


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Two encoders on two splits, by the command."""
    folder = tmp_path_factory.mktemp("sweep")
    make_town(folder / "photos")
    recipe = write_recipe(folder / "recipe.yaml", train={"epochs": 1})
    command = ("sweep", recipe, "--photos", folder / "photos/table.csv", "--out", folder / "runs")
    command += ("--encoders", "test_efficientnet,test_vit", "--vary", "split.by=random,sequence")
    command += ("--set", "encoder.options={}", "--set", "image.height=160", "--set", "image.width=160")
    done = graticule(*command)
    assert done.returncode == 0, done.stderr
    return folder, command, done


def test_every_combination_is_trained_and_measured(swept):
    folder, _, done = swept
    assert len(re.findall(": done", done.stdout)) == 4
    for run in read_runs(folder / "runs"):
        assert set(run.metrics) == {"val", "test"}


def test_a_second_sweep_trains_nothing(swept):
    folder, command, _ = swept
    before = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/weights.safetensors")}
    again = graticule(*command)
    assert len(re.findall(": was there", again.stdout)) == 4
    assert before == {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/weights.safetensors")}


def test_a_missing_measurement_is_made_up_for_without_training(swept):
    folder, command, _ = swept
    metrics = folder / "runs/test_vit-sequence/evaluation/test/metrics.json"
    held = metrics.read_text()
    weights = (folder / "runs/test_vit-sequence/weights.safetensors").stat().st_mtime_ns
    metrics.unlink()
    assert graticule(*command).returncode == 0
    assert json.loads(metrics.read_text())["median_km"] == pytest.approx(json.loads(held)["median_km"])
    assert (folder / "runs/test_vit-sequence/weights.safetensors").stat().st_mtime_ns == weights


def test_the_tables_print_what_was_measured(swept, tmp_path):
    folder, _, _ = swept
    out = tmp_path / "tables.md"
    assert graticule("table", "a", "--runs", folder / "runs", "--out", out).returncode == 0
    metrics = json.loads((folder / "runs/test_vit-sequence/evaluation/test/metrics.json").read_text())
    row = next(line for line in out.read_text().splitlines() if line.startswith("| test_vit"))
    assert f"{1000 * metrics['mean_km']:.1f}" in row
    assert f"{100 * metrics['top1']:.2f}%" in row
    side_by_side = graticule("table", "b", "--runs", folder / "runs", "--json")
    parts = [row[2] for row in json.loads(side_by_side.stdout)[0]["rows"]]
    assert parts == ["val", "test"] * 4


def test_a_finished_arm_of_another_recipe_is_not_taken_for_done(tmp_path):
    make_town(tmp_path / "photos")
    recipe = write_recipe(tmp_path / "recipe.yaml", train={"epochs": 1})

    def run(**overrides):
        table, out = tmp_path / "photos/table.csv", tmp_path / "runs"
        [outcome] = sweep(recipe, table, out, {"seed": [0]}, overrides=overrides)
        return outcome

    assert run().error is None
    assert "train.epochs is 2 and was 1" in run(**{"train.epochs": 2}).error
    assert not run().fresh


def test_a_sweep_measures_the_parts_that_the_split_has(tmp_path):
    town = make_town(tmp_path / "photos")
    parts = pl.when(pl.int_range(pl.len()) % 4 == 0).then(pl.lit("test")).otherwise(pl.lit("train"))
    town.frame.with_columns(split=parts).write_csv(tmp_path / "photos/table.csv")
    recipe = write_recipe(tmp_path / "recipe.yaml", train={"epochs": 1}, split={"by": "column"})
    [outcome] = sweep(recipe, tmp_path / "photos/table.csv", tmp_path / "runs", {"seed": [0]})
    assert outcome.error is None
    assert [path.parent.name for path in outcome.bundle.glob("evaluation/*/metrics.json")] == ["test"]


def test_an_arm_that_fails_does_not_stop_the_others(tmp_path):
    make_town(tmp_path / "photos")
    recipe = write_recipe(tmp_path / "recipe.yaml", train={"epochs": 1})
    vary = {"encoder.name": ["no_such_net", "test_efficientnet"]}
    broken, fine = sweep(recipe, tmp_path / "photos/table.csv", tmp_path / "runs", vary)
    assert "no encoder is called" in broken.error
    assert fine.error is None


def test_an_impossible_variant_is_refused_before_anything_is_trained(tmp_path):
    make_town(tmp_path / "photos")
    recipe = write_recipe(tmp_path / "recipe.yaml")
    with pytest.raises(BadRecipeError, match="epochs"):
        list(sweep(recipe, tmp_path / "photos/table.csv", tmp_path / "runs", {"train.epochs": [1, -1]}))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("vary", "sentence"), [({"x": []}, "no values"), ({"x": ["a/b", "a_b"]}, "share the folder")])
def test_values_that_make_no_sweep_are_refused(vary, sentence):
    with pytest.raises(BadRecipeError, match=sentence):
        arms_of(vary)


def test_a_folder_without_runs_says_how_to_make_some(tmp_path):
    with pytest.raises(BadTableError, match="graticule sweep"):
        read_runs(tmp_path)


def run(name, head="cells", alpha=None, share=1.0, by="random", **metrics):
    recipe = {
        "encoder": {"name": f"torchvision/{name}"},
        "head": {"kind": head},
        "target": {"alpha": alpha},
        "train": {"share": share},
        "split": {"by": by},
    }
    return Run(name, recipe, {"test": metrics})


def test_the_layout_is_that_of_the_report():
    runs = [
        run("vit_b_16", top1=0.8379, cross_entropy=1.442, center_distance_km=0.078706, median_km=0.05, mean_km=0.1),
        run("vit_b_16", share=0.25, top1=0.6152, cross_entropy=2.392, center_distance_km=0.215882, mean_km=0.3),
        run("vit_b_16", head="both", alpha=5, top1=0.7909, center_distance_km=0.090714, regression_mean_km=0.126469),
        run("vit_b_16", head="position", mean_km=0.12),
    ]
    one, two = tables_a(runs)
    assert one.rows[0][:4] == ("ViT-B/16", "83.79%", "1.442", "78.7")
    assert one.rows[1][0] == "*25% of the training photos*"
    assert one.rows[2][:4] == ("ViT-B/16", "61.52%", "2.392", "215.9")
    assert [row[0] for row in two.rows] == ["classification alone", "5", "regression alone"]
    assert two.rows[1][1:4] == ("79.09%", "90.7", "126.5")
    assert two.rows[2][1:4] == ("", "", "120.0")


def test_any_runs_stand_in_one_table_with_intervals(swept, tmp_path):
    folder, _, _ = swept
    recipe = folder / "recipe.yaml"
    crossed = graticule("crossval", recipe, "--photos", folder / "photos/table.csv", "--folds", 2, "--group",
                        "sequence", "--baseline", "knn", "--out", folder / "runs/folds", "--json")  # fmt: skip
    assert crossed.returncode == 0, crossed.stderr
    metrics = json.loads(crossed.stdout)
    for suffix in ("md", "csv", "tex"):
        assert graticule("table", "runs", "--runs", folder / "runs", "--out", tmp_path / f"t.{suffix}").returncode == 0
    table = pl.read_csv(tmp_path / "t.csv")
    row = table.filter(pl.col("run") == "folds").row(0, named=True)
    assert row["tested on"] == "2 folds by sequence"
    low, high = metrics["intervals"]["median_km"]
    found = [row["median error, m"], row["median error, m low"], row["median error, m high"]]
    assert found == pytest.approx([1000 * metrics["median_km"], 1000 * low, 1000 * high], rel=1e-5)
    assert row["nearest neighbour: median, m"] > 0
    assert table["held out"].to_list().count("NO") == 4  # both parts of two runs split by frame
    text = f"{1000 * metrics['median_km']:,.0f} ({1000 * low:,.0f}"
    assert text + " to " in (tmp_path / "t.md").read_text()
    assert text + "--" in (tmp_path / "t.tex").read_text()
    assert r"test\_vit" in (tmp_path / "t.tex").read_text()
    printed = graticule("table", "runs", "--runs", folder / "runs", "--format", "latex")
    assert printed.stdout == (tmp_path / "t.tex").read_text()
    assert "2 folds" not in graticule("table", "a", "--runs", folder / "runs").stdout


def test_latex_gets_every_special_character_escaped():
    table = Table("a & b", (r"50% #_{}~^\ ", "n"), [("x", Span(1.234, None, None, 1)), ("y", "")])
    assert r"50\% \#\_\{\}\textasciitilde{}\textasciicircum{}\textbackslash{}" in table.to_latex()
    assert r"\begin{tabular}{lr}" in table.to_latex()
    assert table.to_csv().splitlines()[1:] == ["x,1.234,,", "y,,,"]
