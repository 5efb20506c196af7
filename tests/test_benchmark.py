"""Benchmarks with local photos: read as their tables mean it, asked about, never trained on."""

import json
import re

import numpy as np
import polars as pl
import pytest
from conftest import encoded, picture
from test_cli import graticule, write_recipe
from towns import make_town

from graticule.errors import BadTableError
from graticule.evaluation.published import QUOTED, comparable, recomputed
from graticule.photos.table import read_photos
from graticule.sources.benchmark import import_benchmark

PIXEL = 20


def fill(folder, names):
    """A tiny photo of its own for each name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        rng = np.random.default_rng(list(name.encode()))
        (folder / name).write_bytes(encoded(rng.integers(0, 255, (PIXEL, PIXEL, 3), np.uint8)))
    return folder


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("im2gps", "published_predictions/meta__im2gps_places365.csv"),  # its headers LON and LAT are each other's
        ("im2gps3k", "coordinates/im2gps3k_places365.csv"),
    ],
)
def test_the_published_tables_are_read_as_the_published_results_understand_them(real_data, tmp_path, name, table):
    ids = pl.read_csv(real_data / table)["IMG_ID"].to_list()
    fill(tmp_path / "photos", ids[:237])
    out = import_benchmark(name, tmp_path / "set", tmp_path / "photos", table=real_data / table, max_refused=1)
    photos = read_photos(out)
    results = pl.read_csv(
        real_data / f"published_predictions/results__{name}__base_M-fstar.csv", infer_schema=False
    ).select("img_id", pl.col("gt_lat", "gt_long").cast(pl.Float64, strict=False))
    both = photos.frame.with_columns(img_id=pl.col("path").str.split("/").list.last()).join(results, on="img_id")
    assert len(both) == 237
    assert both["lat"].to_list() == both["gt_lat"].to_list()
    assert both["lon"].to_list() == both["gt_long"].to_list()
    facts = json.loads((out / "dataset.json").read_text())
    assert facts["evaluation_only"] is True
    assert facts["table_rows"] == facts["published_photos"] == len(ids)


@pytest.mark.parametrize("name", ["im2gps3k__base_L-m", "im2gps3k__base_M-fstar", "im2gps__base_M-fstar"])
def test_a_line_from_published_predictions_is_the_one_that_their_authors_printed_below_them(real_data, name):
    file = real_data / f"published_predictions/results__{name}.csv"
    _, *rows, _, _, printed = (line.split(",") for line in file.read_text().splitlines())
    truth = pl.DataFrame([(row[0], row[1], row[3]) for row in rows], ["path", "lat", "lon"], orient="row")
    [line] = recomputed(file, truth.with_columns(pl.col("lat", "lon").cast(pl.Float64)))
    assert line.within == pytest.approx([float(share) for share in printed[:5]], abs=1e-6)


def test_a_line_of_other_photos_is_not_compared(tmp_path):
    photos = pl.DataFrame({"path": ["a/1.jpg", "2.jpg"], "lat": [1.0, 2.0], "lon": [3.0, 4.0]})
    (tmp_path / "peer.csv").write_text("IMG_ID,pred_lat,pred_lng\n1.png,1,3\n")
    with pytest.raises(BadTableError, match="no prediction of 1 of these 2 photos"):
        recomputed(tmp_path / "peer.csv", photos)
    with pytest.raises(BadTableError, match="no table in .* each of these 2 photos"):
        recomputed(tmp_path, photos)
    [line] = recomputed(tmp_path, photos[:1])
    assert line.within == (1, 1, 1, 1, 1)
    assert comparable(QUOTED["im2gps3k"], 2996) == []


def test_photos_are_found_by_path_by_name_below_the_folder_and_under_another_suffix(tmp_path):
    fill(tmp_path / "photos/deep", ["1.jpg", "2.jpeg"])
    fill(tmp_path / "photos", ["3_x.jpg"])
    (tmp_path / "yfcc4k_places365.csv").write_text(
        "IMG_ID,AUTHOR,LAT,LON\nf/1.jpg,a,1,2\n2.jpg,a,3,4\n3_x.jpg,a,5,6\n4.jpg,a,7,8\n"
    )
    out = import_benchmark("yfcc4k", tmp_path / "set", tmp_path / "photos", max_refused=0.25)
    photos = read_photos(out)
    assert [path.relative_to(tmp_path.resolve() / "photos").as_posix() for path in photos.paths()] == [
        "deep/1.jpg", "deep/2.jpeg", "3_x.jpg",
    ]  # fmt: skip
    assert photos.lat.tolist() == [1, 3, 5]
    assert pl.read_parquet(out / "refused.parquet")["reason"].to_list() == ["missing"]


def test_two_files_of_one_name_are_not_chosen_between(tmp_path):
    fill(tmp_path / "photos/rgb", ["1.jpg"])
    fill(tmp_path / "photos/seg", ["1.jpg"])
    (tmp_path / "photos/im2gps3k_places365.csv").write_text("IMG_ID,lat,lon\n1.jpg,1,2\n")
    with pytest.raises(BadTableError, match=r"more than one file called 1\.jpg"):
        import_benchmark("im2gps3k", tmp_path / "set", tmp_path / "photos")


def test_without_its_table_a_benchmark_says_which_and_where(tmp_path):
    fill(tmp_path / "photos", ["1.jpg"])
    done = graticule("data", "yfcc4k", tmp_path / "set", "--images", tmp_path / "photos")
    assert done.returncode == 1
    assert "yfcc4k_places365.csv" in done.stderr
    assert "IMG_ID, lat, lon" in done.stderr
    (tmp_path / "photos/yfcc4k_places365.csv").write_text("IMG_ID,LAT\n1.jpg,1\n")
    done = graticule("data", "yfcc4k", tmp_path / "set", "--images", tmp_path / "photos")
    assert "has no column LON" in done.stderr


def test_a_benchmark_is_evaluated_and_never_trained_on(tmp_path):
    make_town(tmp_path / "town")
    recipe = write_recipe(tmp_path / "r.yaml", train={"epochs": 1})
    trained = graticule("train", recipe, "--photos", tmp_path / "town/table.csv", "--out", tmp_path / "bundle")
    assert trained.returncode == 0, trained.stderr
    fill(tmp_path / "photos", [f"{i}.jpg" for i in range(12)])
    rows = "".join(f"{i}.jpg,38.9{i:02},-77.03\n" for i in range(12))
    (tmp_path / "im2gps_places365.csv").write_text("IMG_ID,lat,lon\n" + rows)
    done = graticule("data", "im2gps", tmp_path / "set", "--images", tmp_path / "photos")
    assert done.returncode == 0, done.stderr
    asked = graticule("evaluate", tmp_path / "bundle", tmp_path / "set", "--json")
    assert json.loads(asked.stdout)["photos"] == 12
    peer = "".join(f"{i}.jpg,38.9{i:02},-77.04\n" for i in range(12))
    (tmp_path / "peer.csv").write_text("img_id,predicted_lat,predicted_long\n" + peer)
    beside = graticule(
        "benchmark", tmp_path / "bundle", "im2gps", "--images", tmp_path / "photos", "--peers", tmp_path / "peer.csv"
    )
    assert beside.returncode == 0, beside.stderr
    assert "225 of 237 photos are missing; figures on the 12 found" in beside.stdout
    assert "StreetCLIP" not in beside.stdout
    assert re.search(r"peer +100.0 +100.0 .*its published predictions", beside.stdout)
    for command, photos in (("train", "set"), ("crossval", "set/photos.parquet"), ("leak", "set")):
        out = ("--out", tmp_path / "other") if command == "train" else ()
        by = ("--by", "random") if command == "leak" else ()
        refused = graticule(command, recipe, "--photos", tmp_path / photos, *out, *by)
        assert refused.returncode == 1
        assert "set is a benchmark and for evaluation only" in refused.stderr
    assert not (tmp_path / "other").exists()


def test_a_photo_of_a_benchmark_that_cannot_be_read_is_refused(tmp_path):
    fill(tmp_path / "photos", ["1.jpg", "2.jpg"])
    (tmp_path / "photos/3.jpg").write_bytes(encoded(picture(64, 48))[:300])
    (tmp_path / "photos/im2gps3k_places365.csv").write_text("IMG_ID,lat,lon\n1.jpg,1,2\n2.jpg,1,200\n3.jpg,1,2\n")
    out = import_benchmark("im2gps3k", tmp_path / "set", tmp_path / "photos", max_refused=0.7)
    assert pl.read_parquet(out / "refused.parquet")["reason"].to_list() == ["off the globe", "truncated"]
