"""OpenStreetView-5M from a stand-in hub and from local copies; what is wanted is fetched, and nothing twice."""

import json
import zipfile

import numpy as np
import polars as pl
import pytest
from hub_server import serve
from test_cli import graticule, write_recipe
from towns import photo

from graticule.errors import BadRecipeError, BadTableError
from graticule.photos.table import read_photos
from graticule.sources import osv5m
from graticule.sources.osv5m import REPO, Selection, import_osv5m, import_osv_mini

REGIONS = [("US", "Texas", 31.0, -99.0), ("US", "Oregon", 44.0, -120.5), ("FR", "Île-de-France", 48.8, 2.3)]
HEADER = (
    "id,latitude,longitude,thumb_original_url,country,sequence,captured_at,lon_bin,lat_bin,cell,region,sub-region,"
    'city,land_cover,road_index,drive_side,climate,soil,dist_sea,quadtree_10_1000,creator_username,creator_id'
)  # fmt: skip
ZIPS = {"train": 4, "test": 2}


def make_copy(folder, per_zip=6, seed=0):
    """The dataset in small, laid out as the hub's: photo k of each zip lies in region k modulo three."""
    rng = np.random.default_rng(seed)
    number = 100
    for part, zips in ZIPS.items():
        lines = [HEADER]
        for z in range(zips):
            file = folder / f"images/{part}/{z:02}.zip"
            file.parent.mkdir(parents=True, exist_ok=True)
            with zipfile.ZipFile(file, "w") as archive:
                for k in range(per_zip):
                    number += 1
                    country, region, lat, lon = REGIONS[k % 3]
                    lat, lon = np.array([lat, lon]) + rng.normal(0, 0.2, 2)
                    lines.append(
                        f'{number},{lat},{lon},https://x,{country},s{number // 2},1612345678901,,8,"(0, 8)",{region},,'
                        f"Town,4,4.66,1,15,3,0.0068,{k},roadroid,111336221091714.0"
                    )
                    archive.writestr(f"{z:02}/{number}.jpg", photo(k % 3, rng))
        (folder / f"{part}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    return make_copy(tmp_path_factory.mktemp("osv5m"))


@pytest.fixture
def sent(copy, tmp_path, monkeypatch):
    with serve(REPO, copy, monkeypatch, tmp_path / "cache") as sent:
        yield sent


def about(out):
    return json.loads((out / "dataset.json").read_text())


def test_the_whole_way_from_the_hub_to_a_trained_and_tested_bundle(sent, tmp_path):
    done = graticule("data", "osv5m", tmp_path / "osv")
    assert done.returncode == 0, done.stderr
    photos = read_photos(tmp_path / "osv")
    assert photos.frame["split"].value_counts(sort=True).rows() == [("train", 24), ("test", 12)]
    first = photos.frame.row(0, named=True)
    assert first["path"] == "images/train/00/101.jpg"
    assert (first["region"], first["city"], first["climate"]) == ("Texas", "Town", 15)
    assert (first["licence"], first["attribution"]) == ("CC-BY-SA-4.0", "roadroid on Mapillary")
    assert first["captured_at"] == "2021-02-03T09:47:58+00:00"  # 1612345678.901 s, as `date -u -d @1612345678` says
    recipe = write_recipe(
        tmp_path / "r.yaml", split={"by": "column"}, cells={"split_above": 10, "drop_below": 2}, train={"epochs": 1}
    )
    trained = graticule("train", recipe, "--photos", tmp_path / "osv", "--out", tmp_path / "bundle")
    assert trained.returncode == 0, trained.stderr
    tested = graticule("evaluate", tmp_path / "bundle", tmp_path / "osv", "--json")
    assert json.loads(tested.stdout)["photos"] == 12  # the official test


@pytest.mark.parametrize(
    ("options", "regions"),
    [
        pytest.param(("--country", "fr"), {"Île-de-France"}, id="country"),
        pytest.param(("--region", "oregon", "--region", "Texas"), {"Oregon", "Texas"}, id="regions"),
        pytest.param(("--bbox", "25,-107,37,-93"), {"Texas"}, id="box"),
        pytest.param(("--bbox", "40,0,55,-110"), {"Oregon", "Île-de-France"}, id="box over the 180th meridian"),
    ],
)
def test_a_country_a_region_or_a_box_is_taken_and_the_rest_is_not(copy, tmp_path, options, regions):
    done = graticule("data", "osv5m", tmp_path / "osv", "--local", copy, *options, "--split", "train")
    assert done.returncode == 0, done.stderr
    photos = read_photos(tmp_path / "osv")
    assert set(photos.column("region")) == regions
    assert len(photos) == 8 * len(regions)
    assert len(list((tmp_path / "osv/images").rglob("*.jpg"))) == len(photos)


def test_a_share_opens_no_other_zip(sent, tmp_path):
    import_osv5m(tmp_path / "osv", Selection(share=0.3))
    assert {name for name in sent if name.endswith(".zip")} == {
        "images/train/00.zip", "images/train/01.zip", "images/test/00.zip",
    }  # fmt: skip
    assert read_photos(tmp_path / "osv").frame["split"].value_counts(sort=True).rows() == [("train", 12), ("test", 6)]
    assert about(tmp_path / "osv")["selection"]["zips"] == [
        "images/train/00.zip", "images/train/01.zip", "images/test/00.zip",
    ]  # fmt: skip


def test_of_a_zip_only_the_wanted_photos_travel(sent, copy, tmp_path, monkeypatch):
    monkeypatch.setattr(osv5m, "SKIP", 64)
    import_osv5m(tmp_path / "osv", Selection(limit=1), parts=("train",))
    assert sent["images/train/00.zip"] < (copy / "images/train/00.zip").stat().st_size / 2
    assert "images/train/01.zip" not in sent


def test_a_limit_takes_the_same_photos_each_time(copy, tmp_path):
    ids = [
        read_photos(import_osv5m(tmp_path / name, Selection(limit=8), parts=("train",), local=copy))
        .frame["id"]
        .to_list()
        for name in ("a", "b")
    ]
    assert ids[0] == ids[1]
    assert len(ids[0]) == 8
    # of zip 01, sha256sum says 0fd4... of "109" and 3346... of "107", the smallest of its six
    assert set(ids[0]) - set(map(str, range(101, 107))) == {"107", "109"}


def test_a_run_that_was_cut_short_goes_on_and_fetches_nothing_twice(sent, copy, tmp_path, monkeypatch):
    keep, kept = osv5m._keep, []

    def cut(archive, member, file):
        if len(kept) == 9:
            raise ConnectionResetError("cut")
        keep(archive, member, file)
        kept.append(file)

    monkeypatch.setattr(osv5m, "_keep", cut)
    with pytest.raises(ConnectionResetError):
        import_osv5m(tmp_path / "osv", parts=("train",))
    assert not (tmp_path / "osv/dataset.json").exists()
    monkeypatch.undo()
    stamps = {file: file.stat().st_mtime_ns for file in kept}
    import_osv5m(tmp_path / "osv", parts=("train",), local=copy)
    assert {file: file.stat().st_mtime_ns for file in kept} == stamps
    assert len(read_photos(tmp_path / "osv")) == 24


def test_a_zip_that_is_cut_off_says_so(tmp_path):
    copy = make_copy(tmp_path / "copy")
    whole = (copy / "images/train/01.zip").read_bytes()
    (copy / "images/train/01.zip").write_bytes(whole[: len(whole) // 2])
    done = graticule("data", "osv5m", tmp_path / "osv", "--local", copy)
    assert done.returncode == 1
    assert "images/train/01.zip is no whole zip" in done.stderr


def test_a_damaged_photo_in_a_zip_is_a_refused_row_and_a_lacking_one_too(tmp_path):
    copy = make_copy(tmp_path / "copy")
    file = copy / "images/train/00.zip"
    with zipfile.ZipFile(file) as archive:
        start = archive.getinfo("00/103.jpg").header_offset
    data = bytearray(file.read_bytes())
    data[start + 200] ^= 255
    file.write_bytes(data)
    with (copy / "train.csv").open("a") as table:
        table.write('999,48.8,2.3,https://x,FR,s1,1612345678901,,8,"(0, 8)",Île-de-France,,Town,4,4,1,15,3,0,0,,\n')
    out = import_osv5m(tmp_path / "osv", local=copy, max_refused=0.1)
    refused = {row["path"]: row for row in pl.read_parquet(out / "refused.parquet").to_dicts()}
    assert {path: row["reason"] for path, row in refused.items()} == {
        "images/train/00/103.jpg": "unreadable",
        "images/train/999.jpg": "missing",
    }
    assert "in images/train/00.zip: its bytes are damaged" in refused["images/train/00/103.jpg"]["detail"]
    assert len(read_photos(out)) == 35


def test_an_unpacked_copy_is_read_where_it_lies(copy, tmp_path):
    for name in ("train.csv", "test.csv"):
        (tmp_path / name).write_bytes((copy / name).read_bytes())
    for file in copy.rglob("*.zip"):
        with zipfile.ZipFile(file) as archive:
            archive.extractall(tmp_path / file.relative_to(copy).parent)
    photos = read_photos(import_osv5m(tmp_path / "osv", local=tmp_path))
    assert len(photos) == 36
    assert photos.paths()[0] == tmp_path.resolve() / "images/train/00/101.jpg"
    some = read_photos(import_osv5m(tmp_path / "some", Selection(share=0.5), local=tmp_path))
    assert set(some.frame["id"]) < set(photos.frame["id"])


def test_report_bs_ten_states_are_rebuilt_by_rule(copy, tmp_path, monkeypatch):
    monkeypatch.setattr("graticule.sources.osv5m.MINI_PHOTOS", 10)
    out = import_osv_mini(tmp_path / "mini", local=copy)
    photos = read_photos(out)
    assert photos.frame["split"].value_counts(sort=True).rows() == [("train", 10), ("test", 8)]
    assert set(photos.column("region")) == {"Texas", "Oregon"}
    assert "smallest SHA-256" in about(out)["selection"]["train"]


def test_the_kaggle_copy_of_the_ten_states_is_read_as_it_is(tmp_path):
    rng = np.random.default_rng(0)
    lines = ["id,latitude,longitude,sequence,captured_at,region,sub-region,city,climate"]
    for number, part in ((1, "train"), (2, "train"), (3, "test")):
        file = tmp_path / f"osv5m/{part}_images/New Mexico/{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(photo(number, rng))
        row = f"{number},35.{number},-106.0,s,1612345678901,New Mexico,Bernalillo,Albuquerque,6"
        table = tmp_path / f"osv5m/{part}_mini.csv"
        table.write_text((table.read_text() if table.exists() else lines[0]) + "\n" + row)
    done = graticule("data", "osv-mini", tmp_path / "mini", "--local", tmp_path)
    assert done.returncode == 0, done.stderr
    photos = read_photos(tmp_path / "mini")
    assert sorted(photos.frame.select("id", "split", "country").rows()) == [
        ("1", "train", "US"), ("2", "train", "US"), ("3", "test", "US"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("selection", "sentence"),
    [
        pytest.param(Selection(regions=("Tejas",)), "no region 'Tejas'; it knows Texas", id="region"),
        pytest.param(Selection(countries=("USA",)), "no country 'USA'; it knows FR, US", id="country"),
        pytest.param(Selection(box=(-50, 10, -40, 20)), "widen the selection", id="box at sea"),
    ],
)
def test_a_selection_without_photos_says_what_there_is(copy, tmp_path, selection, sentence):
    with pytest.raises(BadTableError, match=sentence):
        import_osv5m(tmp_path / "osv", selection, local=copy)


def test_an_impossible_selection_is_refused_before_anything_is_fetched(tmp_path):
    with pytest.raises(BadRecipeError, match="share 0"):
        Selection(share=0)
    for box in ("1,2,3", "40,0,30,10", "0,0,1,200", "north"):
        done = graticule("data", "osv5m", tmp_path / "osv", "--bbox", box)
        assert done.returncode == 1
        assert "S,W,N,E" in done.stderr or "south,west,north,east" in done.stderr


def test_a_dataset_that_the_hub_does_not_have_is_one_sentence(sent, copy, tmp_path):
    (copy / "train.csv").rename(copy / "away.csv")
    try:
        done = graticule("data", "osv5m", tmp_path / "osv")
    finally:
        (copy / "away.csv").rename(copy / "train.csv")
    assert done.returncode == 1
    assert "error: the hub has no train.csv of the dataset osv5m/osv5m" in done.stderr
    assert "Traceback" not in done.stderr
