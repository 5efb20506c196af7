"""Commands as a user types them, and the sentences that a user reads."""

import io
import json
import subprocess
import sys
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import polars as pl
import pytest
import yaml
from towns import make_town, tiny_recipe

from graticule import __version__
from graticule.cli import main
from graticule.cli.console import print_metrics, progress
from graticule.explaining.render import doubts
from graticule.model.bundle import Bundle
from graticule.model.features import FeatureStore, encode

RECIPES = Path(__file__).parents[1] / "graticule" / "recipes"
KEPT = Path(__file__).parent / "bundles"


def graticule(*arguments):
    """Run a command as the console script would; a process of its own would spend its time importing torch."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    with (
        mock.patch.object(sys, "argv", ["graticule", *map(str, arguments)]),
        warnings.catch_warnings(),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        warnings.simplefilter("default")
        try:
            main()
        except SystemExit as exit:
            status = int(exit.code or 0)
    return SimpleNamespace(returncode=status, stdout=out.getvalue(), stderr=err.getvalue())


def write_recipe(path, **changes):
    path.write_text(yaml.safe_dump(tiny_recipe(**changes).model_dump(mode="json", exclude_none=True)))
    return path


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A dataset, a recipe and a trained bundle, all made by commands."""
    folder = tmp_path_factory.mktemp("shop")
    make_town(folder / "photos")
    write_recipe(folder / "recipe.yaml", train={"epochs": 8})
    for command in (
        ("data", "table", folder / "photos/table.csv", folder / "town"),
        ("train", folder / "recipe.yaml", "--photos", folder / "town", "--out", folder / "bundle"),
    ):
        done = graticule(*command)
        assert done.returncode == 0, done.stderr
    return folder


def test_the_whole_way_from_photos_to_a_report(shop):
    evaluated = graticule("evaluate", shop / "bundle", shop / "town", "--json")
    assert evaluated.returncode == 0, evaluated.stderr
    metrics = json.loads(evaluated.stdout)
    assert metrics["median_km"] < 1
    assert 0 <= metrics["within_25_km"] <= 1
    assert metrics["audit"]["shared_sequences"] == 0
    page = graticule("report", shop / "bundle", "--photos", shop / "town")
    assert page.returncode == 0, page.stderr
    assert (shop / "bundle/report.html").read_text().startswith("<!")


def test_a_dataset_can_be_split_and_the_split_is_used(shop, tmp_path):
    graticule("data", "table", shop / "photos/table.csv", tmp_path / "town")
    done = graticule("data", "split", tmp_path / "town", "--by", "sequence", "--test", "0.34", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["audit"]["shared_sequences"] == 0
    recipe = write_recipe(tmp_path / "r.yaml", split={"by": "column"}, train={"epochs": 1})
    trained = graticule("train", recipe, "--photos", tmp_path / "town", "--out", tmp_path / "bundle")
    assert trained.returncode == 0, trained.stderr
    used = pl.read_parquet(tmp_path / "bundle/training/photos.parquet")["split"].value_counts()
    assert dict(used.iter_rows()) == json.loads(done.stdout)["split"]


@pytest.fixture
def points(tmp_path):
    """A table of positions alone, under foreign names: twelve drives of ten photos, one a day."""
    rows = [
        {
            "latitude": 48 + drive / 1000 + i / 1e4, "lon": 2.0, "seq": f"d{drive}", "town": "ab"[drive // 6],
            "taken": f"2024-07-{drive + 1:02} 10:00:{i:02}+02:00", "who": "ann",
        }
        for drive in range(12)
        for i in range(10)
    ]  # fmt: skip
    pl.DataFrame(rows).write_csv(tmp_path / "points.csv")
    return tmp_path / "points.csv"


NAMES = ("--lat", "latitude", "--sequence", "seq", "--captured-at", "taken", "--creator", "who")


def test_a_plain_table_is_split_into_a_new_one_and_audited_with_a_page(points, tmp_path):
    out = tmp_path / "split.csv"
    done = graticule("data", "split", points, *NAMES, "--track", "revisit", "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["by"], facts["drives_from"], facts["drives"]) == ("drive", "sequence", 12)
    table = pl.read_csv(out)
    assert table.group_by("sequence").agg(pl.col("split").n_unique())["split"].max() == 1
    audited = graticule("data", "audit", out, "--out", tmp_path / "page", "--json")
    assert json.loads(audited.stdout) == json.loads((tmp_path / "page/audit.json").read_text()) == facts["audit"]
    assert (tmp_path / "page/audit.html").read_text().startswith("<!")
    assert facts["audit"]["held_out"] is True


def test_two_tables_of_other_names_are_audited_against_each_other(points, tmp_path):
    pl.read_csv(points).head(15).rename({"seq": "sequence", "latitude": "lat"}).write_csv(tmp_path / "test.csv")
    done = graticule("data", "audit", points, tmp_path / "test.csv", *NAMES, "--out", tmp_path / "page")
    assert done.returncode == 0, done.stderr
    assert (
        "NOT held out: 15 test photos (100%) are training photos themselves; "
        "training shares 2 sequences with 100% of the test photos; 15 test photos (100%)" in done.stdout
    )
    assert "audit.html" in done.stdout


def test_a_split_in_time_says_its_days_and_by_city_keeps_cities_whole(points, tmp_path):
    done = graticule("data", "split", points, *NAMES, "--by", "time", "--out", tmp_path / "t.parquet")
    assert "train 2024-07-01 to 2024-07-08  val 2024-07-09 to 2024-07-10  test 2024-07-11 to 2024-07-12" in done.stdout
    done = graticule(
        "data", "split", points, *NAMES, "--by", "town", "--val", 0, "--test", "0.5", "--out", tmp_path / "c.parquet"
    )
    assert done.returncode == 0, done.stderr
    assert pl.read_parquet(tmp_path / "c.parquet").group_by("town").agg(pl.col("split").n_unique())["split"].max() == 1


def test_sequences_are_rebuilt_where_there_are_none_and_replaced_only_when_told(points, tmp_path):
    out = tmp_path / "s.parquet"
    done = graticule("data", "sequences", points, "--lat", "latitude", "--captured-at", "taken", "--out", out)
    assert "12 sequences of 120 photos, rebuilt from their times" in done.stdout
    refused = graticule("data", "sequences", out)
    assert refused.returncode == 1
    assert "has sequences already; --force replaces them" in refused.stderr
    assert graticule("data", "sequences", out, "--force", "--max-gap-minutes", 1e6, "--out", out).returncode == 0
    assert pl.read_parquet(out)["sequence"].n_unique() == 1


def test_a_leaking_bundle_is_evaluated_only_when_told(shop, tmp_path):
    recipe = write_recipe(tmp_path / "r.yaml", split={"by": "random"}, train={"epochs": 1})
    graticule("train", recipe, "--photos", shop / "town", "--out", tmp_path / "bundle")
    refused = graticule("evaluate", tmp_path / "bundle", shop / "town")
    assert refused.returncode == 1
    assert "NOT held out: training shares 6 sequences" in refused.stderr
    assert "--allow-leak" in refused.stderr
    assert not (tmp_path / "bundle/evaluation").exists()
    told = graticule("evaluate", tmp_path / "bundle", shop / "town", "--allow-leak")
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith("NOT held out: training shares 6 sequences")


@pytest.mark.parametrize("format", ["table", "words", "json", "csv", "geojson", "kml"])
def test_prediction_writes_every_format(shop, tmp_path, format):
    out = tmp_path / "answers"
    done = graticule("predict", shop / "bundle", shop / "photos/000.jpg", "--format", format, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "000.jpg" in out.read_text()


@pytest.mark.parametrize(
    ("claim", "said"),
    [
        ("exif", "none of the 1 photos says where it was taken"),
        ("38.9", "--claim takes LAT,LON in degrees"),
        ("Berlinn", "no town is called 'Berlinn'; did you mean berlin"),
    ],
)
def test_a_claim_that_cannot_be_weighed_is_one_sentence(shop, claim, said):
    done = graticule("predict", shop / "bundle", shop / "photos/000.jpg", "--claim", claim)
    assert done.returncode == 1
    assert said in done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--min-probability", "0.9"], "give that distance too, such as --max-error-km 25"),
        (["--min-probability", "90", "--max-error-km", "1"], "lies between 0 and 1, such as 0.9; found 90"),
    ],
)
def test_a_least_probability_that_says_nothing_is_one_sentence(options, said):
    done = graticule("predict", KEPT / "format-3", KEPT / "format-3" / "photo.jpg", *options)
    assert done.returncode == 1
    assert said in done.stderr


def test_locate_answers_in_words_with_the_model_of_the_environment(shop, monkeypatch):
    monkeypatch.setenv("GRATICULE_MODEL", str(shop / "bundle"))
    done = graticule("locate", shop / "photos/000.jpg")
    assert done.returncode == 0, done.stderr
    assert "000.jpg\n  near " in done.stdout
    monkeypatch.delenv("GRATICULE_MODEL")
    done = graticule("locate", shop / "photos/000.jpg")
    assert done.returncode == 1
    assert "no model is named: give --model BUNDLE, or set GRATICULE_MODEL" in done.stderr


def test_a_folder_that_was_stopped_goes_on_from_what_the_encoder_made(shop, tmp_path):
    asked = ("locate", shop / "photos", "--model", shop / "bundle", "--format", "csv", "--resume", tmp_path / "aside")
    first = graticule(*asked, "--map", tmp_path / "a.html")
    with mock.patch("graticule.model.geolocator.Geolocator.features", side_effect=AssertionError("computed again")):
        second = graticule(*asked, "--map", tmp_path / "b.html")
    assert first.stdout == second.stdout
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    photos = sorted((shop / "photos").glob("*.jpg"))
    bundle, store = Bundle.read(shop / "bundle"), FeatureStore(tmp_path / "stopped")
    computing = encode(bundle.model, bundle.preprocess, photos, batch_size=2, store=store)
    next(computing)
    computing.close()
    assert FeatureStore(tmp_path / "stopped").facts()["features"] == 2


def test_a_broken_photo_is_a_row_and_exit_status_one(shop, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff no photo")
    done = graticule("predict", shop / "bundle", shop / "photos/001.jpg", tmp_path / "broken.jpg", "--format", "json")
    rows = json.loads(done.stdout)
    assert done.returncode == 1
    assert "lat" in rows[0]
    assert "error" in rows[1]
    assert "1 of 2 photos could not be read" in done.stderr


def test_a_folder_is_asked_about_in_order(shop):
    done = graticule("predict", shop / "bundle", shop / "photos", "--format", "csv")
    names = [line.split(",")[0] for line in done.stdout.splitlines()[1:97]]
    assert names == sorted(names)
    assert len(names) == 96


def test_crossval_reads_a_plain_table(shop):
    done = graticule(
        "crossval", shop / "recipe.yaml", "--photos", shop / "photos/table.csv", "--folds", 2, "--json",
        "--group", "sequence", "--set", "train.epochs=1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["photos"] == 96


def test_the_leak_table_is_one_command(shop):
    done = graticule(
        "leak", shop / "recipe.yaml", "--photos", shop / "town", "--set", "train.epochs=1", "--json"
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {row["split"] for row in json.loads(done.stdout)} == {"random", "sequence"}


def test_cells_are_made_drawn_and_told(tmp_path):
    table = pl.DataFrame({"lat": [48.0 + i / 1000 for i in range(300)], "lon": [2.0] * 300})
    table.write_csv(tmp_path / "points.csv")
    done = graticule(
        "cells", tmp_path / "points.csv", "--split-above", 60, "--drop-below", 5, "--out", tmp_path / "c.parquet",
        "--plot", tmp_path / "c.png", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    cells = pl.read_parquet(tmp_path / "c.parquet")
    assert cells.columns == ["cell", "token", "level", "photos", "lat", "lon", "center_lat", "center_lon"]
    assert len(cells) == facts["cells"]
    assert cells["photos"].sum() + facts["photos_outside"] == 300
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "found"),
    [
        pytest.param(
            ("--kind", "grid", "--rows", 3, "--columns", 4), "12 cells of a quantile grid of 3 by 4", id="grid"
        ),
        pytest.param(("--kind", "kmeans", "--clusters", 7, "--seed", 3), "7 k-means clusters", id="kmeans"),
        pytest.param(("--kind", "gaussian", "--clusters", 2), "2 clusters of a Gaussian mixture", id="gaussian"),
        pytest.param(("--kind", "label", "--label", "city"), "2 values of the column city", id="label"),
        pytest.param(
            ("--kind", "grid"), "kind: grid takes rows and columns; not given: rows, columns", id="too little"
        ),
        pytest.param(("--rows", 3), "rows goes with kind: grid; here the kind is s2", id="stray"),
        pytest.param(
            ("--kind", "label", "--label", "town"), "no column 'town'; it has: lat, lon, city", id="no column"
        ),
    ],
)
def test_the_map_can_be_divided_in_other_ways(tmp_path, options, found):
    lat, lon = np.random.default_rng(0).normal(0, 1, (2, 400))
    cities = ["Aba" if x < 0 else "Bor" for x in lon]
    pl.DataFrame({"lat": lat, "lon": lon, "city": cities}).write_csv(tmp_path / "points.csv")
    done = graticule("cells", tmp_path / "points.csv", "--out", tmp_path / "c.parquet", *options)
    assert found in done.stdout + done.stderr
    assert (tmp_path / "c.parquet").exists() == (done.returncode == 0)


def test_published_predictions_are_scored(real_data):
    file = real_data / "published_predictions/results__im2gps3k__base_M-fstar.csv"
    done = graticule(
        "score", file, "--lat", "gt_lat", "--lon", "gt_long", "--predicted-lon", "predicted_long", "--json"
    )
    facts = json.loads(done.stdout)
    assert facts["photos"] == 2997
    assert facts["within_25_km"] == pytest.approx(0.27027, abs=1e-5)  # the table's own summary


def test_a_small_city_is_made_by_command(tmp_path):
    done = graticule("data", "city", tmp_path / "city", "--frames", 12, "--drives", 2, "--size-km", "0.3")
    assert done.returncode == 0, done.stderr
    assert "12 photos" in done.stdout
    assert json.loads((tmp_path / "city/dataset.json").read_text())["synthetic"] is True


@pytest.mark.parametrize("recipe", ["demo", "report-a-demo"])
def test_the_recipes_of_the_demo_run_on_a_small_city(tmp_path, recipe):
    graticule("data", "city", tmp_path / "city", "--frames", 80, "--drives", 8, "--size-km", "0.2")
    small = ["--set", "train.epochs=1", "--set", "cells.split_above=30", "--set", "cells.drop_below=2"]
    trained = graticule("train", recipe, "--photos", tmp_path / "city", "--out", tmp_path / "bundle", *small)
    assert trained.returncode == 0, trained.stderr
    evaluated = graticule("evaluate", tmp_path / "bundle", tmp_path / "city", "--json")
    metrics = json.loads(evaluated.stdout)
    assert metrics["synthetic"] is True
    assert metrics["audit"]["shared_sequences"] == 0


def test_the_recipe_for_a_laptop_keeps_its_promise_on_half_of_the_photos_at_half_the_size(
    real_data, tmp_path, monkeypatch
):
    monkeypatch.setenv("GRATICULE_CACHE", str(tmp_path))
    half = pl.read_csv(real_data / "san_francisco/manifest.csv")
    half = half.with_columns(path=str(real_data / "san_francisco") + "/" + half["path"])[::2]
    half.write_csv(tmp_path / "half.csv")
    done = graticule(
        "crossval", "laptop", "--photos", tmp_path / "half.csv", "--folds", 2, "--group", "place",
        "--set", "image.longest=256", "--json",
    )  # fmt: skip
    metrics = json.loads(done.stdout)
    assert metrics["photos"] == 298
    assert metrics["bits"] > 0.5  # 1.97 of all photos at full size, five folds
    assert metrics["median_km"] < 0.35  # 0.169
    assert 0.8 < metrics["coverage_90"] < 0.97


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        pytest.param("path,breadth,lon\na.jpg,1,2\n", "no column 'lat'", id="no lat"),
        pytest.param("path,lat,lon\na.jpg,95,2\n", "95", id="latitude 95"),
    ],
)
def test_a_bad_table_is_one_sentence_and_exit_status_one(shop, tmp_path, table, sentence):
    (tmp_path / "t.csv").write_text(table)
    done = graticule("crossval", shop / "recipe.yaml", "--photos", tmp_path / "t.csv")
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_swapped_columns_are_warned_about(tmp_path):
    rows = "".join(f"{-77 - i / 100},{38 + i / 100}\n" for i in range(50))
    (tmp_path / "t.csv").write_text("lat,lon\n" + rows.replace("-77.", "-122."))
    done = graticule("cells", tmp_path / "t.csv")
    assert done.returncode == 1
    assert "swapped" in done.stderr


def test_cells_and_an_audit_write_nothing_unasked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"{38 + i / 100},{i / 100},{'train' if i % 2 else 'test'}\n" for i in range(50))
    Path("t.csv").write_text("lat,lon,split\n" + rows)
    assert "Nothing is written: --out FILE" in graticule("cells", "t.csv").stdout
    assert json.loads(graticule("cells", "t.csv", "--json").stdout)["out"] is None
    assert "--out DIR" in graticule("data", "audit", "t.csv").stdout
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def test_a_wrong_setting_is_told_without_the_defaults_that_grow_from_it(tmp_path):
    (tmp_path / "t.csv").write_text("lat,lon\n1,2\n")
    said = graticule("cells", tmp_path / "t.csv", "--split-above", 30, "--drop-below", 40).stderr
    assert "exceeds split_above=30" in said
    assert "factory" not in said
    assert "Undefined" not in said


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        pytest.param(("data", "folder", "{empty}", "{out}"), "photos", id="a folder without photos"),
        pytest.param(("train", "{recipe}", "--photos", "{nowhere}", "--out", "{out}"), "nowhere", id="no photos"),
        pytest.param(
            ("train", "{recipe}", "--photos", "{town}", "--out", "{out}", "--set", "encoder.name=resnet5O"),
            "near ones: resnet50",
            id="unknown encoder",
        ),
        pytest.param(
            ("train", "{recipe}", "--photos", "{town}", "--out", "{out}", "--set", "train.epoch=5"),
            "did you mean train.epochs?",
            id="unknown setting",
        ),
        pytest.param(("predict", "{empty}", "{photo}"), "is no bundle", id="no bundle"),
        pytest.param(("predict", "{bundle}", "{empty}"), "holds no photos", id="an empty folder to predict"),
        pytest.param(("data", "city", "{out}", "--center", "north"), "LAT,LON", id="no position"),
        pytest.param(("data", "split", "{town}", "--by", "camera"), "or by any column", id="an unknown split"),
        pytest.param(
            ("data", "split", "{town}", "--by", "place", "--track", "unseen"), "is --by block", id="two splits at once"
        ),
        pytest.param(("data", "split", "{table}"), "--out FILE", id="a table would be overwritten"),
        pytest.param(("data", "audit", "{town}", "--sequence", "drive"), "no column 'drive'", id="no such name"),
        pytest.param(("data", "audit", "{town}"), "no column 'split'", id="an audit of one side"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(shop, tmp_path, command, sentence):
    (tmp_path / "empty").mkdir()
    names = {
        "empty": tmp_path / "empty",
        "out": tmp_path / "out",
        "nowhere": tmp_path / "nowhere",
        "recipe": shop / "recipe.yaml",
        "town": shop / "town",
        "table": shop / "photos/table.csv",
        "photo": shop / "photos/000.jpg",
        "bundle": shop / "bundle",
    }
    done = graticule(*(part.format(**names) for part in command))
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") or "\nerror: " in done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_the_recipes_are_listed_and_printed():
    listed = graticule("recipes")
    assert all(f" {name} " in listed.stdout for name in ("laptop", "demo", "washington-dc"))
    assert graticule("recipes", "laptop").stdout == (RECIPES / "laptop.yaml").read_text()
    assert "did you mean laptop" in graticule("recipes", "labtop").stderr


def test_the_version_is_said():
    assert graticule("--version").stdout.strip() == f"graticule {__version__}"


@pytest.mark.parametrize(
    "command", [("crossval", "{0}"), ("leak", "{0}"), ("sweep", "{0}", "--out", "x"), ("train", "{0}", "--out", "x")]
)
def test_photos_that_are_none_are_said_before_anything_slow(tmp_path, command):
    code = (
        "import sys; from graticule.cli import app\n"
        "try: app(sys.argv[1:], standalone_mode=False)\n"
        "except Exception as error: print(error)\n"
        "print('torch' in sys.modules)"
    )
    words = [word.format("laptop") for word in command]
    call = [sys.executable, "-c", code, *words, "--photos", str(tmp_path)]
    said = subprocess.run(call, capture_output=True, text=True, check=True).stdout
    assert "is not a dataset" in said
    assert said.endswith("False\n")


@pytest.mark.parametrize("command", [("predict",), ("evaluate",), ("report",), ("explain", "--out", "x")])
def test_a_bundle_that_is_none_is_said_before_anything_slow(tmp_path, command):
    (tmp_path / "photo.jpg").touch()
    (tmp_path / "run/training").mkdir(parents=True)
    (tmp_path / "run/training/run.json").write_text("{}")
    name, *options = command
    more = [tmp_path] if name != "report" else []
    for bundle, sentence in [
        (tmp_path / "none", "that folder is not there"),
        (RECIPES / "laptop.yaml", "is a recipe, not a bundle"),
        (tmp_path / "photo.jpg", "its folder comes first: graticule predict BUNDLE"),
        (tmp_path / "run", "was interrupted, so it is no bundle yet; repeat its command with --resume"),
    ]:
        done = graticule(name, bundle, *more, *options)
        assert done.returncode == 1
        assert sentence in done.stderr


def test_a_photo_without_a_bundle_says_what_comes_first(tmp_path):
    assert "is a file, not a bundle" in graticule("predict", __file__).stderr


def test_a_map_that_does_worse_than_chance_says_so(tmp_path):
    for name, own in [("good", 0.1), ("bad", 0.3)]:
        scores = {"saliency": {"deletion_area": own}, "random": {"deletion_area": 0.2}}
        (tmp_path / f"{name}.json").write_text(json.dumps({"photo": name, "method": "saliency", "scores": scores}))
    said = doubts([tmp_path / "good.json", tmp_path / "bad.json", tmp_path / "bad.png"])
    assert said == [
        "bad: the saliency map does no better than chance (deletion 30.0% against 20.0%); do not rely on it"
    ]


def test_a_table_of_answers_names_the_shared_folder_once_and_as_many_cells_as_asked(shop):
    photos = sorted((shop / "photos").rglob("*.jpg"))[:3]
    done = graticule("predict", shop / "bundle", *photos, shop / "none.jpg", "--top", 2)
    assert done.returncode == 1
    assert done.stdout.startswith(f"in {photos[0].parent}:")
    assert "2 likeliest cells" in done.stdout
    assert str(shop) not in done.stdout.split(":", 1)[1]  # and no reason for a photo that is not there
    assert "none.jpg: there is no file" in done.stderr
    alone = graticule("predict", shop / "bundle", shop / "none.jpg")
    assert alone.stderr.startswith("error: there is no file")  # before the bundle is opened
    assert max(map(len, done.stdout.splitlines())) < 160


def test_a_csv_has_the_likely_cells_that_were_asked_for(shop, tmp_path):
    photo = next((shop / "photos").rglob("*.jpg"))
    said = graticule("predict", shop / "bundle", photo, "--format", "csv", "--top", 3, "--out", tmp_path / "a.csv")
    assert said.stdout == f"1 photo answered, written to {tmp_path / 'a.csv'}\n"
    row = pl.read_csv(tmp_path / "a.csv").drop_nulls("lat").row(0, named=True)
    assert row["probability"] >= row["probability_2"] >= row["probability_3"] > 0


def test_cells_follow_the_number_of_points_and_one_cell_is_answered_with_a_hint(points):
    done = graticule("cells", points, "--lat", "latitude")
    assert done.stdout.startswith("120 points make 42 adaptive S2 cells, with 1 to 4 points each")
    done = graticule("cells", points, "--lat", "latitude", "--split-above", 1000)
    assert "one cell is no division: --split-above 2 would make some dozens" in done.stderr


def test_a_log_gets_a_line_now_and_then_and_no_bars(capsys, monkeypatch):
    for seconds, said in ((30.0, ""), (0.0, "photos 1/1,000\nheads 2/1,000\n")):
        monkeypatch.setattr("graticule.cli.console.LOG_S", seconds)
        with progress("photos") as show:
            show(1, 1000)
            show(2, 1000, "heads")
        assert capsys.readouterr().err == said


@pytest.mark.parametrize(("outside", "said"), [(5, False), (50, True)])
def test_many_photos_outside_every_cell_are_explained(capsys, outside, said):
    facts = dict.fromkeys(["median_km", "mean_km", "p90_km", "score", "map_diagonal_km"], 1.0)
    print_metrics(facts | {"photos": 100, "outside_cells": outside})
    assert ("are of the others alone" in capsys.readouterr().out) == said
