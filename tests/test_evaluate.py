import json

import numpy as np
import polars as pl
import pytest
from towns import make_town, tiny_recipe

from graticule.config import parse_recipe
from graticule.errors import BadTableError, LeakError
from graticule.evaluation import folds
from graticule.evaluation.evaluate import evaluate
from graticule.evaluation.folds import crossval
from graticule.evaluation.leak_table import leak_table
from graticule.geo.sphere import great_circle_km
from graticule.model.bundle import Bundle
from graticule.photos.table import Photos
from graticule.training.prepare import split_photos
from graticule.training.train import train


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    return make_town(tmp_path_factory.mktemp("town"))


@pytest.fixture(scope="module")
def bundle(town, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "bundle"
    train(tiny_recipe(train={"epochs": 8}), town, out)
    return Bundle.read(out)


def test_the_test_part_is_the_one_that_training_held_out(bundle, town):
    found = evaluate(bundle, town)
    held = pl.read_parquet(bundle.path / "training/photos.parquet").filter(pl.col("split") == "test")
    assert set(found.rows["path"]) == set(held["path"])
    assert found.audit.shared_sequences == 0


def test_the_numbers_are_those_of_the_rows(bundle, town):
    found = evaluate(bundle, town)
    rows, metrics = found.rows, found.metrics
    error_km = great_circle_km(*(rows[c].to_numpy() for c in ("lat", "lon", "predicted_lat", "predicted_lon")))
    np.testing.assert_allclose(rows["error_km"], error_km)
    assert metrics["median_km"] == pytest.approx(np.median(error_km))
    assert metrics["top1"] == pytest.approx((rows["true_cell"] == rows["predicted_cell"]).mean())
    assert metrics["cross_entropy"] == pytest.approx(rows["nll"].mean())
    low, high = metrics["intervals"]["median_km"]
    assert low <= metrics["median_km"] <= high
    assert metrics["by_country"][0]["label"] == "US"


def test_numbers_on_whole_drives_are_held_out_and_say_why(bundle, town):
    metrics = evaluate(bundle, town).metrics
    assert metrics["held_out"] is True
    assert metrics["held_out_reason"].startswith("Held out by sequence: no sequence is shared")
    metrics = evaluate(bundle, town, split="train").metrics
    assert metrics["held_out"] is False
    assert "trained on" in metrics["held_out_reason"]


def test_photos_of_drives_that_training_has_seen_are_not_measured_unless_told(town, tmp_path):
    train(tiny_recipe(split={"by": "random"}, train={"epochs": 1}), town, tmp_path)
    leaking = Bundle.read(tmp_path)
    with pytest.raises(LeakError, match=r"NOT held out: training shares 6 sequences with 100% .* with --allow-leak"):
        evaluate(leaking, town)
    metrics = evaluate(leaking, town, allow_leak=True).metrics
    assert metrics["held_out"] is False
    assert metrics["held_out_reason"].startswith("NOT held out")
    (tmp_path / "training/photos.parquet").unlink()
    alone = evaluate(leaking, town, split="all").metrics
    assert alone["held_out"] is None
    assert "not beside the bundle" in alone["held_out_reason"]


def test_a_split_in_the_dataset_holds_unless_the_recipe_names_another(town):
    parts = ["test" if i % 4 == 0 else "train" for i in range(len(town))]
    written = Photos(town.frame.with_columns(split=pl.Series(parts)), town.root)
    silent = tiny_recipe().model_dump()
    del silent["split"]
    assert split_photos(parse_recipe(silent), written).tolist() == parts
    assert split_photos(tiny_recipe(), written).tolist() != parts
    assert split_photos(parse_recipe(silent), town).tolist() != parts


def test_centre_to_centre_is_nought_where_the_cell_is_right(bundle, town):
    rows = evaluate(bundle, town, split="train").rows
    right = rows.filter(pl.col("top1"))
    assert right["center_distance_km"].max() == 0
    assert right["error_km"].min() > 0


def test_photos_outside_every_cell_are_counted_and_wrong(bundle, town):
    moved = town.frame.with_columns(pl.when(pl.int_range(pl.len()) < 10).then(51.0).otherwise("lat").alias("lat"))
    found = evaluate(bundle, Photos(moved, town.root), split="all", allow_leak=True)
    assert found.metrics["outside_cells"] == 10
    assert found.metrics["photos"] == len(town)
    assert not found.rows.filter(pl.col("true_cell").is_null())["top5"].any()


def test_a_photo_that_cannot_be_read_is_a_row_with_its_reason(bundle, town):
    gone = town.frame.with_columns(
        pl.when(pl.int_range(pl.len()) == 3).then(pl.lit("gone.jpg")).otherwise("path").alias("path")
    )
    found = evaluate(bundle, Photos(gone, town.root), split="all", allow_leak=True)
    assert found.metrics["unreadable"] == 1
    [reason] = found.rows["error"].drop_nulls()
    assert "gone.jpg; correct the path" in reason


def test_photos_of_another_table_need_to_be_asked_about_as_a_whole(bundle, tmp_path):
    other = make_town(tmp_path / "other", count=12, seed=5)
    with pytest.raises(BadTableError, match="--split all"):
        evaluate(bundle, other)
    found = evaluate(bundle, other, split="all", allow_leak=True)  # drives of the same names
    assert found.metrics["photos"] == 12
    assert found.audit.test_photos == 12


def test_an_evaluation_is_written_as_json_and_parquet(bundle, town, tmp_path):
    found = evaluate(bundle, town)
    found.write(tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text())["median_km"] == found.metrics["median_km"]
    assert pl.read_parquet(tmp_path / "predictions.parquet").equals(found.rows)
    assert json.loads((tmp_path / "audit.json").read_text())["test_photos"] == len(found.rows)


def test_crossval_asks_about_each_photo_once_and_never_in_its_own_group(town):
    found = crossval(tiny_recipe(train={"epochs": 2}), town, folds=3, group="sequence")
    assert sorted(found.rows["path"]) == sorted(town.frame["path"])
    assert found.rows.group_by("sequence").agg(pl.col("fold").n_unique())["fold"].max() == 1
    assert len(found.metrics["median_km_by_fold"]) == 3
    assert found.metrics["median_km"] == pytest.approx(found.rows["error_km"].median())


def test_crossval_without_a_place_column_groups_by_position(town):
    found = crossval(tiny_recipe(train={"epochs": 1}), town, folds=2, group="place")
    key = found.rows.with_columns((pl.col("lat") * 1000).round(), (pl.col("lon") * 1000).round())
    assert key.group_by("lat", "lon").agg(pl.col("fold").n_unique())["fold"].max() == 1


def test_folds_of_blocks_keep_a_buffer_around_the_tested_block(town):
    recipe = tiny_recipe(train={"epochs": 1}, split={"block_km": 0.5, "buffer_km": 0.3})
    found = crossval(recipe, town, folds=2, group="block")
    assert all(audit["nearest_within"]["within_100_m"] == 0 for audit in found.metrics["audits"])


def test_the_leak_table_has_a_classifier_and_a_neighbour_for_each_split(town):
    rows = leak_table(tiny_recipe(train={"epochs": 2}, answer="center"), town, ["random", "sequence"])
    assert [(row.split, row.method) for row in rows] == [
        ("random", "one_cell, center"),
        ("random", "1-nearest neighbour"),
        ("sequence", "one_cell, center"),
        ("sequence", "1-nearest neighbour"),
    ]
    assert rows[0].shared_sequences > 0 == rows[2].shared_sequences


def test_a_fold_whose_median_error_is_zero_says_zero(town, monkeypatch):
    asked = folds.predict_rows
    monkeypatch.setattr(folds, "predict_rows", lambda *a, **k: asked(*a, **k).with_columns(error_km=pl.lit(0.0)))
    found = crossval(tiny_recipe(train={"epochs": 1}), town, folds=2, group="sequence")
    assert found.metrics["median_km_by_fold"] == [0.0, 0.0]
    assert found.metrics["median_km"] == 0.0
