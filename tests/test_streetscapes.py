"""Global Streetscapes: from tables of a hub on this machine to a trained bundle, and the real tables' quirks."""

import json
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from hub_server import serve
from services import TOKEN, Services, Shot, city_of, serving
from test_cli import graticule, write_recipe
from towns import QUARTERS, photo

from graticule.errors import BadRecipeError, BadTableError, Note
from graticule.photos.table import read_photos
from graticule.sources.web import http, streetscapes
from graticule.sources.web.streetscapes import SeveralCitiesWarning, choose, exact_id, identified


@pytest.fixture
def washington(monkeypatch, tmp_path):
    """A hub with the tables of a town like Washington, and the two services with its photos."""
    import huggingface_hub.constants as hub

    rng = np.random.default_rng(0)
    shots = []
    for i in range(96):
        lat, lon = QUARTERS[i % 4] + rng.normal(0, 0.001, 2)
        shots.append(Shot(i, lat, lon, f"drive-{i % 6}", photo(i % 4, rng), day=f"2020-01-{1 + i % 28:02}"))
    with serving(Services(shots, city_of(shots))) as services:
        for name in ("GRATICULE_MAPILLARY_URL", "GRATICULE_KARTAVIEW_URL", "HF_ENDPOINT"):
            monkeypatch.setenv(name, services.api)
        monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setenv("MAPILLARY_TOKEN", TOKEN)
        monkeypatch.setattr(http, "FIRST_WAIT_S", 0.01)
        yield services


def test_the_whole_way_from_the_hubs_tables_to_a_trained_bundle(washington, tmp_path):
    ids = list(washington.shots)
    washington.faults = {ids[0]: [500, "breaks"], ids[1]: [404] * 9, ids[2]: [403], ids[3]: ["page"]}
    out = tmp_path / "washington"
    done = graticule(
        "data", "streetscapes", out, "--city", "washington", "--country", "US", "--where", "quality=good",
        "--where", "lighting_condition=day", "--keep", "weather", "--rate", 10000,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    good = [shot for i, shot in enumerate(washington.shots.values()) if i % 10 != 9]
    assert f"{len(good) - 1} photos in" in done.stdout
    assert "refused 1: 1 gone" in done.stdout
    frame = read_photos(out).frame
    assert set(frame["orig_id"]) == {shot.id for shot in good} - {ids[1]}
    row = frame.filter(orig_id=ids[4]).row(0, named=True)
    shot = washington.shots[ids[4]]
    expected = {
        "lat": shot.lat, "lon": shot.lon, "sequence": shot.sequence, "heading": shot.heading, "source": "mapillary",
        "captured_at": "2020-01-05T12:00:00+00:00", "camera_type": "perspective", "city": "Washington",
        "country": "US", "country_name": "United States", "continent": "North America", "quality": "good",
        "lighting_condition": "day", "weather": "clear", "licence": "CC-BY-SA-4.0",
    }  # fmt: skip
    assert {name: row[name] for name in expected} == expected
    assert row["attribution"].endswith(f"https://www.mapillary.com/app/?pKey={shot.id}")
    for command in (
        ("data", "split", out, "--by", "sequence", "--test", "0.34"),
        ("cells", out, "--split-above", 30, "--drop-below", 5, "--out", tmp_path / "cells.parquet"),
        ("train", write_recipe(tmp_path / "r.yaml", split={"by": "column"}, train={"epochs": 1}), "--photos", out,
         "--out", tmp_path / "bundle"),
    ):  # fmt: skip
        done = graticule(*command)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "bundle/weights.safetensors").is_file()
    written = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
    assert TOKEN.encode() not in written
    assert washington.tokens_at_photos == []


def test_tables_of_the_hub_are_fetched_once_and_only_those_that_are_needed(washington, tmp_path):
    for _ in range(2):
        done = graticule("data", "streetscapes", tmp_path / "out", "--city", "Washington", "--no-images")
        assert done.returncode == 0, done.stderr
    assert washington.asked["simplemaps.csv"] == washington.asked["metadata_common_attributes.csv"] == 1
    assert washington.asked["contextual.csv"] == 0
    assert "96 photos found" in done.stdout
    assert washington.whole.total() == 0
    assert pl.read_parquet(tmp_path / "out/found.parquet").height == 96


def test_how_much_is_fetched_is_said_before_and_a_disk_without_room_is_refused(washington, tmp_path, monkeypatch):
    monkeypatch.setattr(streetscapes, "WORTH_SAYING", 1)
    command = ("data", "streetscapes", tmp_path / "out", "--city", "Washington", "--no-images")
    with monkeypatch.context() as small:
        small.setattr(streetscapes.shutil, "disk_usage", lambda _: SimpleNamespace(free=1))
        full = graticule(*command)
    assert full.returncode == 1
    assert "the tables of Global Streetscapes take 0.0 GB, and" in full.stderr
    assert washington.whole.total() == 0
    assert "are fetched once, 0.0 GB, into" in graticule(*command).stderr
    assert "are fetched once" not in graticule(*command).stderr  # they lie in the cache


def test_of_the_hubs_parquet_copy_one_city_is_fetched_and_no_more(tmp_path, monkeypatch):
    cities, each = 20, 2000
    rng, n = np.random.default_rng(0), cities * each
    joined = pl.DataFrame({
        "uuid": map("{:032x}".format, rng.integers(2**63, size=n).tolist()), "source": "Mapillary",
        "orig_id": 10**15 + np.arange(n),
        "lat": rng.uniform(-60, 60, n), "lon": rng.uniform(-180, 180, n), "iso2": "US", "quality": "good",
        "city": [f"City {i // each}" for i in range(n)], "hour": rng.integers(0, 24, n),
        "datetime_local": [datetime(2024, 7, 9, 3, 24, 18, 913000, UTC)] * n,
    })  # fmt: skip
    seasons = joined.select("uuid", "source", "orig_id", season=pl.lit("Summer"))
    whole = tmp_path / "hub/data/parquet/streetscapes.parquet"
    whole.parent.mkdir(parents=True)
    joined.write_parquet(whole, row_group_size=each)
    seasons.write_csv(tmp_path / "hub/data/season.csv")
    with serve(streetscapes.REPO, tmp_path / "hub", monkeypatch, tmp_path / "cache") as sent:
        found = choose([("city", "city 7"), ("hour", "6..18")])
        assert sent["data/parquet/streetscapes.parquet"] < whole.stat().st_size / 6
        assert sent.keys() == {"data/parquet/streetscapes.parquet"}
        expected = joined.filter(pl.col("city") == "City 7", pl.col("hour").is_between(6, 18)).sort("uuid")
        assert found["orig_id"].to_list() == expected["orig_id"].cast(pl.String).to_list()
        assert found["lat"].cast(pl.Float64).to_list() == expected["lat"].to_list()
        assert identified(found)[0]["captured_at"][0] == "2024-07-09T03:24:18.913000+00:00"
        assert choose([("city", "City 7")], ["season"])["season"].to_list() == ["Summer"] * each  # not in the copy
        with pytest.raises(BadTableError, match="no photo has city=City 77; the table has City 7, .* and 20 values"):
            choose([("city", "City 77")])
    assert choose([("hour", "6..18"), ("city", "city 7")], tables=whole.parent).equals(found)  # a copy on this machine


def test_a_parquet_copy_that_cannot_be_used_is_told_and_the_csv_is_read(tmp_path, monkeypatch):
    (tmp_path / "hub/data/parquet").mkdir(parents=True)
    pl.DataFrame({"image": ["a"], "lat": [1.0]}).write_parquet(tmp_path / "hub/data/parquet/streetscapes.parquet")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/streetscapes.parquet").write_bytes(b"PAR1 no table PAR1")
    with pytest.raises(BadTableError, match="streetscapes.parquet is no Parquet file"):
        choose([], tables=tmp_path / "broken")
    for name, text in city_of([]).items():
        (tmp_path / "hub/data" / name).write_text(text)
    told = "streetscapes.parquet of .* has no uuid, source, orig_id; its CSV tables are read instead"
    with (
        serve(streetscapes.REPO, tmp_path / "hub", monkeypatch, tmp_path / "cache") as sent,
        pytest.warns(Note, match=told),
    ):
        assert choose([("city", "stuttgart")]).height == 5
    assert "data/simplemaps.csv" in sent


def test_what_no_row_has_is_said_with_what_is_near(washington):
    with pytest.raises(BadTableError, match="no photo has city=Washingtn; the table has Washington"):
        choose([("city", "Washingtn")])
    with pytest.raises(BadTableError, match="no table has the column 'colour'; columns to choose by are .*weather"):
        choose([("colour", "red")])
    with pytest.raises(BadTableError, match="no photo fits all of what was asked for"):
        choose([("city", "Washington"), ("country", "Germany")])


@pytest.mark.parametrize(
    ("written", "page", "id_"),
    [
        ("1666317524185318", None, "1666317524185318"),
        ("818314000000000.0", "https://www.mapillary.com/app/?pKey=818314428814995&focus=photo", "818314428814995"),
        ("818314000000000.0", None, None),
        ("8.18314e+14", None, None),
        ("1362331837.0", "https://kartaview.org/details/3788073/311/track-info", "1362331837"),
        ("1125268781289755.0", None, "1125268781289755"),
        ("10203040506070809.0", None, None),  # beyond 2**53 a float may be another's
        ("", None, None),
        (None, None, None),
    ],
)
def test_an_id_is_exact_or_none(written, page, id_):
    assert exact_id(written, page) == id_


def test_a_row_whose_id_was_rounded_is_refused_with_the_reason(tmp_path, washington):
    (tmp_path / "tables").mkdir()
    rows = ["uuid,source,orig_id,lat,lon,sequence_id"]
    rows += [f"u{i},Mapillary,{id_},{s.lat},{s.lon},s" for i, (id_, s) in enumerate(washington.shots.items())]
    rows.append("lost,Mapillary,818314000000000.0,38.9,-77.0,s")
    (tmp_path / "tables/mine.csv").write_text("\n".join(rows))
    done = graticule("data", "streetscapes", tmp_path / "out", "--tables", tmp_path / "tables", "--rate", 10000)
    assert done.returncode == 0, done.stderr
    refused = pl.read_parquet(tmp_path / "out/refused.parquet").to_dicts()
    assert [(row["path"], row["reason"]) for row in refused] == [("streetscapes/lost", "no id")]
    assert "818314000000000.0 was rounded" in refused[0]["detail"]
    assert json.loads((tmp_path / "out/dataset.json").read_text())["photos"] == 96


def test_a_missing_token_is_asked_for_before_anything_is_fetched(washington, tmp_path, monkeypatch):
    monkeypatch.delenv("MAPILLARY_TOKEN")
    done = graticule("data", "streetscapes", tmp_path / "out", "--city", "Washington")
    assert done.returncode == 1
    assert "set the environment variable MAPILLARY_TOKEN" in done.stderr


def test_the_real_tables_are_joined_and_chosen_from(real_data):
    tables = real_data / "global_streetscapes"
    every, _ = identified(choose([], tables=tables))
    assert every.height == 2319
    assert every["source"].value_counts().sort("source").rows() == [("kartaview", 427), ("mapillary", 1892)]
    stuttgart, refused = identified(choose([("city", "stuttgart"), ("hour", "6..18")], ["highway"], tables))
    assert refused == []
    common = pl.read_csv(tables / "02_metadata_common_attributes.csv", infer_schema=False)
    cities = pl.read_csv(tables / "01_simplemaps.csv", infer_schema=False)
    expected = common.join(cities, on="uuid").filter(
        (pl.col("city") == "Stuttgart") & pl.col("hour").cast(pl.Int64).is_between(6, 18)
    )
    assert stuttgart.height == expected.height > 100
    both = stuttgart.join(expected.select("uuid", "orig_id", "lat", "sequence_id", "datetime_local"), on="uuid")
    assert (both["orig_id"] == both["orig_id_right"]).all()  # to the last digit
    assert (both["lat"] == both["lat_right"].cast(pl.Float64)).all()
    assert (both["sequence"] == both["sequence_id"]).all()
    assert both["highway"].drop_nulls().len() > 0
    assert set(stuttgart["country"]) == {"DE"}
    assert both["captured_at"][0] == both["datetime_local"][0].replace(" ", "T")


def test_real_ids_that_went_through_a_float_are_read_from_the_photos_page(real_data, tmp_path):
    (tmp_path / "imageo.csv").symlink_to(real_data / "coordinates" / "imageo_dataset1.csv")
    found, refused = identified(choose([], ["weather"], tmp_path))
    assert refused == []
    assert found.height == 6152
    assert found["orig_id"].str.contains(r"^\d{6,17}$").all()
    assert not found.filter(source="mapillary")["orig_id"].str.ends_with("000000").any()
    dull = choose([("weather", "cloudy"), ("weather", "foggy"), ("continent", "Asia")], tables=tmp_path)
    assert set(dull["weather"]) == {"cloudy", "foggy"}
    assert set(dull["continent"]) == {"Asia"}
    with pytest.raises(BadRecipeError, match=r"no range of numbers; write such as weather=6\.\.18"):
        choose([("weather", "a..b")], tables=tmp_path)


def test_cities_of_one_name_are_told_apart(tmp_path):
    lines = ["uuid,source,orig_id,lat,lon,city,city_id,admin_name,iso2,country"]
    lines += [f"a{i},Mapillary,{i + 1},1,2,Springfield,1,Illinois,US,United States" for i in range(3)]
    lines += ["b,Mapillary,9,1,2,Springfield,2,Missouri,US,United States"]
    (tmp_path / "simplemaps.csv").write_text("\n".join(lines))
    with pytest.warns(SeveralCitiesWarning, match="Springfield, Illinois, US: 3; Springfield, Missouri, US: 1"):
        choose([("city", "Springfield")], tables=tmp_path)
    assert choose([("city", "Springfield"), ("admin_name", "missouri")], tables=tmp_path).height == 1
