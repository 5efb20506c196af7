import json
from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest
from PIL import Image

from graticule.errors import BadRecipeError
from graticule.geo import sphere
from graticule.photos import images
from graticule.sources.city import scene
from graticule.sources.city.make import make_city
from graticule.sources.city.paint import light_of
from graticule.sources.city.view import render

CENTER = (38.9, -77.03)
SMALL = {"frames": 60, "drives": 3, "size_km": 0.2, "center": CENTER, "seed": 4, "width": 96, "height": 72}


@pytest.fixture(scope="module")
def city(tmp_path_factory):
    return make_city(tmp_path_factory.mktemp("city") / "out", workers=1, **SMALL)


@pytest.fixture(scope="module")
def photos(city):
    return pl.read_parquet(city / "photos.parquet")


def files_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_seed_gives_the_same_bytes_whatever_the_number_of_workers(city, tmp_path):
    again = make_city(tmp_path / "out", workers=2, **SMALL)
    assert files_of(again) == files_of(city)


def test_another_seed_is_another_city(photos, tmp_path):
    other = make_city(tmp_path / "other", **{**SMALL, "seed": 5, "frames": 3})
    there = pl.read_parquet(other / "photos.parquet")
    assert not set(there["sha256"]) & set(photos["sha256"])
    assert not set(there["lat"]) & set(photos["lat"])


def test_a_larger_picture_shows_the_same_view(tmp_path):
    some = {**SMALL, "frames": 3}
    small = make_city(tmp_path / "small", **some)
    large = make_city(tmp_path / "large", **{**some, "width": 192, "height": 144})
    for path in pl.read_parquet(small / "photos.parquet")["path"]:
        expected = np.asarray(Image.open(small / path), float)
        shrunk = Image.open(large / path).resize((96, 72), Image.Resampling.BOX)
        assert np.abs(np.asarray(shrunk, float) - expected).mean() < 12


def test_columns_and_types_are_those_of_the_photo_table(photos):
    assert dict(photos.schema) == {
        "path": pl.String, "lat": pl.Float64, "lon": pl.Float64, "width": pl.Int32, "height": pl.Int32,
        "sha256": pl.String, "dhash": pl.UInt64, "place": pl.String, "sequence": pl.String,
        "captured_at": pl.Datetime("us"), "heading": pl.Float64, "weather": pl.String,
    }  # fmt: skip
    assert photos.null_count().sum_horizontal().item() == 0
    assert photos["heading"].is_between(0, 360, closed="left").all()


def test_frames_are_dealt_evenly_to_drives(photos):
    counts = photos.group_by("sequence").len().sort("sequence")
    assert counts.rows() == [("drive-00", 20), ("drive-01", 20), ("drive-02", 20)]


def test_each_row_tells_the_truth_about_its_file(city, photos):
    for path, width, height, sha256, dhash in photos.select("path", "width", "height", "sha256", "dhash").rows():
        data = (city / path).read_bytes()
        rgb = images.decode(data)
        assert rgb.shape == (height, width, 3) == (72, 96, 3)
        assert images.content_hash(data) == sha256
        assert images.difference_hash(rgb) == dhash


def test_everything_says_that_it_is_synthetic(city, photos):
    facts = json.loads((city / "dataset.json").read_text())
    assert facts["source"] == "city"
    assert facts["synthetic"] is True
    assert b"synthetic" in Image.open(city / photos["path"][0]).info["comment"]
    assert pl.read_parquet(city / "refused.parquet").columns == ["path", "reason", "detail"]


def test_all_positions_lie_in_the_square(photos):
    lat, lon = photos["lat"].to_numpy(), photos["lon"].to_numpy()
    assert sphere.great_circle_km(lat, CENTER[1], *CENTER).max() <= 0.1
    assert sphere.great_circle_km(lat, lon, lat, CENTER[1]).max() <= 0.1


def test_a_drive_moves_on_by_a_few_metres_and_seconds(photos):
    for drive in photos.partition_by("sequence"):
        lat, lon = drive["lat"].to_numpy(), drive["lon"].to_numpy()
        step_km = sphere.great_circle_km(lat[:-1], lon[:-1], lat[1:], lon[1:])
        assert step_km.max() < 0.04
        assert np.median(step_km) > 0.006
        seconds = drive["captured_at"].diff().drop_nulls()
        assert seconds.min() > timedelta(seconds=0.9)
        assert seconds.max() < timedelta(seconds=2)


def test_drives_have_days_of_their_own(photos):
    assert photos.group_by("sequence").agg(pl.col("captured_at").dt.date().n_unique())["captured_at"].max() == 1
    assert photos["captured_at"].dt.date().n_unique() == 3
    assert photos["captured_at"].min() > datetime(2023, 1, 1)


def test_places_repeat_across_drives(photos):
    drives = photos.group_by("place").agg(pl.col("sequence").n_unique())["sequence"]
    assert (drives > 1).mean() > 0.2


def test_one_place_is_about_fifteen_metres_of_street(photos):
    extent = photos.group_by("place").agg(
        (pl.col("lat").max() - pl.col("lat").min()) * 111_195, pl.len().alias("photos")
    )
    assert extent["lat"].max() < 35  # both directions, and both sides of a crossing


def test_a_place_looks_most_like_itself_under_another_light():
    def structure(rgb):
        """Slopes of a small grey picture, normalised: what light and weather change least."""
        grey = np.asarray(Image.fromarray(rgb).convert("L").resize((32, 24), Image.Resampling.BOX), float)
        slopes = np.concatenate([np.diff(grey, axis=0).ravel(), np.diff(grey, axis=1).ravel()])
        return slopes / np.linalg.norm(slopes)

    plan = scene.plan_city(seed=3, size_km=0.5)
    shots = scene.plan_drives(plan, [80])[0][::8]
    later = [replace(shot, drive=1, x=shot.x + 0.7, y=shot.y - 0.7, heading=(shot.heading + 1) % 360) for shot in shots]
    noon, evening = light_of(12, "clear", season=0.5), light_of(17, "rain", season=0.8)

    def look(views, light):
        frames = [render(plan, v, light, np.random.default_rng([v.drive, v.number]), 128, 96) for v in views]
        return np.stack([structure(frame) for frame in frames])

    alike = look(shots, noon) @ look(later, evening).T
    same, other = np.diag(alike), alike[~np.eye(len(shots), dtype=bool)]
    assert (same[:, None] > other).mean() > 0.95


def test_a_finished_city_is_left_as_it_is(city):
    before = {path: path.stat().st_mtime_ns for path in city.rglob("*")}
    make_city(city, **SMALL)
    assert {path: path.stat().st_mtime_ns for path in city.rglob("*")} == before


def test_an_incomplete_or_different_city_is_made_anew(tmp_path):
    tiny = {**SMALL, "frames": 4, "drives": 2}
    out = make_city(tmp_path / "city", **tiny)
    first = files_of(out)
    (out / "images/drive-01/00001.jpg").unlink()
    assert files_of(make_city(out, **tiny)) == first
    make_city(out, **{**tiny, "frames": 2})
    assert len(list(out.glob("images/*/*.jpg"))) == 2


def test_a_folder_with_something_else_is_not_overwritten(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(BadRecipeError, match="is not a synthetic city, so it is left alone"):
        make_city(tmp_path, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_another_dataset_is_not_overwritten(tmp_path):
    (tmp_path / "dataset.json").write_text('{"source": "folder", "synthetic": false}')
    with pytest.raises(BadRecipeError, match="choose another folder, or delete that one"):
        make_city(tmp_path, **SMALL)


def test_an_empty_folder_is_used(tmp_path):
    assert make_city(tmp_path, **{**SMALL, "frames": 3}) == tmp_path
    assert (tmp_path / "photos.parquet").is_file()


def test_progress_ends_with_all_frames(tmp_path):
    seen = []
    make_city(tmp_path / "city", **{**SMALL, "frames": 5}, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (5, 5)
    assert seen == sorted(seen)


@pytest.mark.parametrize("center", [(-33.9, 179.9995), (84.9, 10.0), (0.0, 0.0)])
def test_a_city_may_lie_almost_anywhere(center, tmp_path):
    out = make_city(tmp_path / "city", **{**SMALL, "frames": 8, "drives": 8, "center": center})
    photos = pl.read_parquet(out / "photos.parquet")
    away = sphere.great_circle_km(photos["lat"].to_numpy(), photos["lon"].to_numpy(), *center)
    assert away.max() < 0.1 * 2**0.5


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        pytest.param({"frames": 2}, "2 frames cannot make 3 drives; give at least", id="few frames"),
        pytest.param({"drives": 0}, "60 frames cannot make 0 drives", id="no drives"),
        pytest.param({"size_km": 0}, "a city of 0.0 km .* its side is 0.1 to 50 km", id="no size"),
        pytest.param({"size_km": -1}, "a city of -1.0 km", id="negative size"),
        pytest.param({"size_km": 51}, "a city of 51.0 km", id="too large"),
        pytest.param({"size_km": float("nan")}, "a city of nan km", id="no number"),
        pytest.param({"center": (86, 0)}, "latitudes go from -85 to 85 here", id="near the pole"),
        pytest.param({"center": (0, 181)}, "the centre lat=0.0, lon=181.0 cannot", id="off the globe"),
        pytest.param({"center": (float("nan"), 0)}, "the centre lat=nan", id="no position"),
        pytest.param({"seed": -1}, "the seed is -1; give a whole number from 0 up", id="negative seed"),
        pytest.param({"width": 8}, "photos of 8 x 72 pixels cannot be drawn", id="too small"),
        pytest.param({"workers": 0}, "0 workers cannot draw anything", id="no workers"),
    ],
)  # fmt: skip
def test_impossible_settings_are_refused_before_anything_is_written(wrong, sentence, tmp_path):
    with pytest.raises(BadRecipeError, match=sentence):
        make_city(tmp_path / "city", **{**SMALL, **wrong})
    assert not list(tmp_path.iterdir())
