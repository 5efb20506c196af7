"""What else could have answered, beside a network that was trained on a tiny town."""

import json
import re

import numpy as np
import polars as pl
import pytest
from test_cli import graticule, write_recipe
from towns import make_town, tiny_recipe

from graticule.errors import BadPhotoError, BadRecipeError
from graticule.evaluation.folds import crossval
from graticule.inference import albums
from graticule.inference.albums import Albums, albums_of
from graticule.inference.locate import Locator, load
from graticule.training.fit import fit


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    make_town(folder / "photos")
    table = pl.read_csv(folder / "photos/table.csv")
    table = table.with_columns(place=pl.int_range(pl.len()) // 8, captured_at=pl.lit("2024-07-09T10:00:00"))
    table.write_csv(folder / "photos/table.csv")
    recipe = write_recipe(folder / "recipe.yaml", train={"epochs": 2})
    done = graticule("train", recipe, "--photos", folder / "photos/table.csv", "--out", folder / "bundle")
    assert done.returncode == 0, done.stderr
    return folder


def test_several_photos_of_a_place_get_one_answer(town):
    locator = load(town / "bundle")
    photos = [town / f"photos/{i:03}.jpg" for i in (0, 4, 8)]
    logs = np.concatenate([said.log_probability for said in locator.predict_batches(photos)])
    fix = locator.locate(photos, together=True, top=1)
    pooled = np.exp(albums.pooled(logs))
    assert fix.cells[0].probability == pytest.approx(pooled.max(), rel=1e-5)
    assert fix.cells[0].token == locator.bundle.partition.names[pooled.argmax()]


def test_an_unreadable_photo_has_no_say_and_gets_its_own_reply(town, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff no photo")
    locator = load(town / "bundle")
    good = [town / "photos/000.jpg", town / "photos/004.jpg"]
    both = [good[0], tmp_path / "broken.jpg", good[1]]
    results = list(locator.results(both, albums=Albums("place", [np.arange(3)])))
    assert [result.photo for result in results] == both
    assert results[1].fix is None
    assert results[0].fix == results[2].fix == locator.locate(good, together=True)
    with pytest.raises(BadPhotoError):
        locator.locate(both, together=True)


def test_albums_that_lie_scattered_are_answered_in_the_order_asked(town):
    locator = load(town / "bundle")
    photos = [town / f"photos/{i:03}.jpg" for i in range(12)]
    scattered = Albums.of("place", np.arange(12) % 3)
    results = list(locator.results(photos, albums=scattered))
    assert [result.photo for result in results] == photos
    assert results[0].fix == results[3].fix == results[9].fix


def test_a_network_without_cells_cannot_hear_several(town):
    photos = make_town(town / "photos2", count=48)
    locator = Locator(fit(tiny_recipe(head={"kind": "position"}, train={"epochs": 1}), photos))
    with pytest.raises(BadRecipeError, match="this bundle has none"):
        locator.locate(photos.paths()[:2], together=True)


def test_albums_follow_the_table(town):
    from graticule.photos.table import read_photos

    photos = read_photos(town / "photos/table.csv")
    assert len(albums_of(photos, "place").rows) == 12
    assert [len(rows) for rows in albums_of(photos, "sequence").rows] == [16] * 6


@pytest.mark.parametrize("together", ["place", "sequence"])
def test_an_evaluation_measures_neighbours_and_albums_beside_the_network(town, tmp_path, together):
    command = ("evaluate", town / "bundle", town / "photos/table.csv", "--out", tmp_path / "out", "--allow-leak")
    done = graticule(*command, "--baseline", "knn", "--together", together, "--json")
    assert done.returncode == 0, done.stderr
    others = json.loads(done.stdout)["others"]
    assert set(others) == {"answered together", "nearest neighbour", "density of neighbours"}
    rows = pl.read_parquet(tmp_path / "out/predictions.parquet")
    assert others["nearest neighbour"]["median_km"] == pytest.approx(rows["nearest_error_km"].median())
    plain = graticule(*command, "--baseline", "knn")
    assert re.search("density of neighbours +median", plain.stdout)


def test_the_baseline_says_what_it_lacks(town, tmp_path):
    (tmp_path / "bundle").mkdir()
    for file in (town / "bundle").glob("*.*"):
        (tmp_path / "bundle" / file.name).write_bytes(file.read_bytes())
    done = graticule("evaluate", tmp_path / "bundle", town / "photos/table.csv", "--split", "all", "--baseline", "knn")
    assert done.returncode == 1
    assert "the baseline asks the training photos" in done.stderr


def test_folds_pool_what_else_answered(town):
    photos = make_town(town / "photos3")
    recipe = tiny_recipe(train={"epochs": 1})
    found = crossval(recipe, photos, folds=2, group="sequence", baseline=True, together="place")
    assert found.metrics["others"]["answered together"]["photos"] == 96


@pytest.mark.parametrize("together", ["place", "sequence"])
def test_photos_are_asked_together_by_table_or_by_folder(town, tmp_path, together):
    asked = graticule("predict", town / "bundle", town / "photos/table.csv", "--together", together, "--format", "json")
    assert asked.returncode == 0, asked.stderr
    assert len(json.loads(asked.stdout)) == 96
    (tmp_path / "album").mkdir()
    for i in (0, 4):
        (tmp_path / f"album/{i}.jpg").write_bytes((town / f"photos/{i:03}.jpg").read_bytes())
    folder = graticule("predict", town / "bundle", tmp_path / "album", "--together", "place", "--format", "json")
    first, second = json.loads(folder.stdout)
    assert (first["lat"], first["lon"]) == (second["lat"], second["lon"])
