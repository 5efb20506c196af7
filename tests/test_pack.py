"""Datasets packed into shards: what is kept, what is measured anew, and what the hub expects."""

import io
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import encoded, exif_of, picture
from PIL import Image
from test_cli import graticule, write_recipe
from towns import make_town

from graticule.errors import BadRecipeError, BadTableError, TooManyRefusedError, WriteError
from graticule.photos import images
from graticule.photos.table import Photos, read_photos
from graticule.sources import pack as packing
from graticule.sources.pack import pack

SMALL = 0.02  # MiB a shard: the town makes several


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    return make_town(tmp_path_factory.mktemp("town"))


@pytest.fixture(scope="module")
def packed(town, tmp_path_factory):
    return pack(town, tmp_path_factory.mktemp("packed") / "town", shard_mb=SMALL)


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def originals(photos):
    return {images.content_hash(path.read_bytes()): row for row, path in enumerate(photos.paths())}


def test_every_photo_comes_back_byte_for_byte_with_its_row(town, packed):
    back = read_photos(packed)
    row_of = originals(town)
    rows = [row_of[images.content_hash(images.read_file(path))] for path in back.paths()]
    assert sorted(rows) == list(range(len(town)))
    assert rows != sorted(rows)  # mixed
    assert back.frame.select("lat", "lon", "sequence", "country").equals(
        town.frame[rows].select("lat", "lon", "sequence", "country")
    )
    assert set(back.frame["width"]) == {48, 64}
    assert [images.content_hash(images.read_file(path)) for path in back.paths()] == back.column("sha256").tolist()


def test_the_shards_are_laid_out_as_the_hub_documents(town, packed):
    names = sorted(path.name for path in (packed / "data").iterdir())
    assert len(names) > 2
    assert names == [f"train-{i:05}-of-{len(names):05}.parquet" for i in range(len(names))]
    head = (packed / "README.md").read_text().split("---")[1]
    [config] = yaml.safe_load(head)["configs"]
    assert config == {"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}
    schema = pq.read_schema(packed / "data" / names[0])
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert features == {"image": {"_type": "Image"}}
    # datasets.Image.pa_type; Features.from_arrow_schema takes the feature only where the field equals it
    assert schema.field("image") == pa.field("image", pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    table = pq.read_table(packed / "data" / names[0])
    for row in table.slice(0, 3).to_pylist():
        assert Image.open(io.BytesIO(row["image"]["bytes"])).size == (row["width"], row["height"])
        assert row["image"]["path"] in set(town.frame["path"])


def test_pictures_are_stored_as_they_are_and_in_small_row_groups(packed):
    for path in (packed / "data").iterdir():
        head = pq.read_metadata(path)
        columns = [head.row_group(0).column(i) for i in range(head.num_columns)]
        [pictures] = [column for column in columns if column.path_in_schema == "image.bytes"]
        assert pictures.compression == "UNCOMPRESSED"
        assert not pictures.is_stats_set  # else the smallest and the largest photo would stand in the footer
        assert all(head.row_group(i).num_rows <= packing.GROUP_PHOTOS for i in range(head.num_row_groups))


def test_a_row_group_stays_below_its_bytes(town, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "GROUP_BYTES", 8_000)
    out = pack(town, tmp_path / "town")
    [path] = (out / "data").iterdir()
    head = pq.read_metadata(path)
    assert head.num_row_groups > 5
    rows = read_photos(out)
    ends = np.cumsum([head.row_group(i).num_rows for i in range(head.num_row_groups)])
    for group in np.split(np.array([len(images.read_file(path)) for path in rows.paths()]), ends[:-1]):
        assert group.sum() <= 8_000


def test_each_part_of_a_split_has_its_own_shards(town, tmp_path):
    parts = np.array(["train", "val", "te st", None] * 24, object)
    split = Photos(town.frame.with_columns(pl.Series("split", parts)), town.root)
    out = pack(split, tmp_path / "town")
    names = {path.name.split("-")[0]: path.name for path in (out / "data").iterdir()}
    assert set(names) == {"train", "val", "te_st", "none"}
    for name, value in (("train", "train"), ("val", "val"), ("te_st", "te st"), ("none", None)):
        assert set(pl.read_parquet(out / "data" / names[name], columns=["split"])["split"]) == {value}
    listed = yaml.safe_load((out / "README.md").read_text().split("---")[1])["configs"][0]["data_files"]
    assert {entry["split"] for entry in listed} == set(names)


def test_a_side_shrinks_once_turns_upright_and_leaves_the_exif_behind(tmp_path):
    pixels = picture(320, 240)
    (tmp_path / "large.jpg").write_bytes(encoded(pixels, quality=95, exif=exif_of(38.9, -77.0, orientation=6)))
    (tmp_path / "small.png").write_bytes(encoded(picture(80, 60), "PNG"))
    frame = pl.DataFrame({"path": ["large.jpg", "small.png"], "lat": [38.9, 38.8], "lon": [-77.0, -77.1]})
    out = pack(Photos(frame, tmp_path), tmp_path / "out", side=120)
    back = read_photos(out)
    for row, path in zip(back.frame.to_dicts(), back.paths(), strict=True):
        data = images.read_file(path)
        facts = images.inspect(data)
        upright = row["lat"] == 38.9
        assert (row["width"], row["height"]) == (facts.width, facts.height) == ((120, 160) if upright else (80, 60))
        assert facts.format == "JPEG"
        assert facts.lat is None
        assert facts.camera is None
        assert row["sha256"] == images.content_hash(data)
        expected = np.asarray(Image.fromarray(np.rot90(pixels, -1)).resize((120, 160))) if upright else picture(80, 60)
        assert np.abs(images.decode(data).astype(int) - expected).mean() < 2.5
    assert pl.read_parquet(out / "photos.parquet").schema["dhash"] == pl.UInt64


def test_what_the_source_said_is_kept_and_packing_a_packing_changes_no_byte(packed, town, tmp_path):
    facts = {"source": "city", "synthetic": True, "evaluation_only": True, "photos": 3, "licence": "CC BY 4.0"}
    out = pack(Photos(town.frame, town.root, synthetic=True), tmp_path / "one", facts=facts)
    told = json.loads((out / "dataset.json").read_text())
    assert (told["synthetic"], told["evaluation_only"], told["licence"]) == (True, True, "CC BY 4.0")
    assert (told["source"], told["packed"]["source"], told["photos"]) == ("pack", "city", len(town))
    again = read_photos(pack(read_photos(packed), tmp_path / "two"))
    assert set(again.frame["sha256"]) == set(read_photos(packed).frame["sha256"])


def test_where_photos_lay_on_this_machine_is_not_told(town, tmp_path):
    absolute = town.frame.with_columns(pl.Series("path", [str(path) for path in town.paths()]))
    out = pack(Photos(absolute, tmp_path), tmp_path / "town")
    for name, data in files_of(out).items():
        assert str(town.root).encode() not in data, name


def test_unreadable_photos_are_listed_and_too_many_stop_it(town, tmp_path):
    broken = town.frame.with_columns(
        pl.when(pl.int_range(pl.len()) % 24 == 5).then(pl.lit("gone-") + pl.col("path")).otherwise("path").alias("path")
    )
    photos = Photos(broken, town.root)
    out = pack(photos, tmp_path / "town", shard_mb=SMALL)
    refused = pl.read_parquet(out / "refused.parquet")
    assert sorted(refused["path"]) == ["gone-005.jpg", "gone-029.jpg", "gone-053.jpg", "gone-077.jpg"]
    assert set(refused["reason"]) == {"missing"}
    assert len(read_photos(out)) == 92
    assert len({images.read_file(path) for path in read_photos(out).paths()}) == 92
    with pytest.raises(TooManyRefusedError, match=r"more than 1% of all\. The first is gone-\d+.jpg: there is no file"):
        pack(photos, tmp_path / "strict", shard_mb=SMALL, max_refused=0.01)
    strict = pl.read_parquet(tmp_path / "strict/refused.parquet")
    assert set(strict["reason"]) == {"missing"}


RUN = """
import sys
from pathlib import Path
from graticule.sources.pack import pack
from graticule.photos.table import read_photos
pack(read_photos(Path(sys.argv[1])), Path(sys.argv[2]), shard_mb=0.002, side=40)
"""


def test_a_killed_packing_goes_on_to_the_same_bytes(town, tmp_path):
    command = [sys.executable, "-c", RUN, str(town.root / "table.csv")]
    whole = pack(town, tmp_path / "whole/town", shard_mb=0.002, side=40)
    target = tmp_path / "killed/town"
    killed = subprocess.Popen([*command, str(target)])
    deadline = time.monotonic() + 60
    while killed.poll() is None and time.monotonic() < deadline and len(list(target.glob("data/*.parquet"))) < 3:
        time.sleep(0.002)
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    before = {path: path.stat().st_mtime_ns for path in target.glob("data/*.parquet")}
    assert 3 <= len(before) < len(list(whole.glob("data/*.parquet")))
    with pytest.raises(BadTableError):
        read_photos(target)
    pack(town, target, shard_mb=0.002, side=40)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    left = {name: data for name, data in files_of(target).items() if not name.endswith(".part")}
    assert left == files_of(whole)


def test_a_photo_that_was_mended_meanwhile_is_refused_no_more(town, tmp_path, monkeypatch):
    gone = town.frame.with_columns(pl.col("path").replace("007.jpg", "later.jpg"))
    photos = Photos(gone, town.root)
    with monkeypatch.context() as patched:
        patched.setattr(packing, "_index", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            pack(photos, tmp_path / "out")
    assert pl.read_parquet(tmp_path / "out/refused/*.parquet")["path"].to_list() == ["later.jpg"]
    [shard] = (tmp_path / "out/data").iterdir()
    shard.unlink()
    later = town.root / "later.jpg"
    later.write_bytes((town.root / "007.jpg").read_bytes())
    try:
        out = pack(photos, tmp_path / "out")
    finally:
        later.unlink()
    assert pl.read_parquet(out / "refused.parquet").is_empty()
    assert len(read_photos(out)) == 96


def test_a_finished_packing_is_left_alone_and_another_is_not_overwritten(town, packed, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in packed.rglob("*")}
    pack(town, packed, shard_mb=SMALL)
    assert {path: path.stat().st_mtime_ns for path in packed.rglob("*")} == before
    with pytest.raises(BadRecipeError, match="holds something else already, or photos packed with other settings"):
        pack(town, packed, shard_mb=SMALL, seed=1)
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(BadRecipeError, match="holds something else"):
        pack(town, tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"side": 8}, "8 pixels cannot be stored; the side is at least 16"),
        ({"side": 64, "quality": 0}, "1 to 100; found 0"),
        ({"shard_mb": 0}, "0 MiB hold nothing"),
        ({"seed": -1}, "the seed is -1"),
    ],
)
def test_impossible_settings_are_refused(town, tmp_path, settings, sentence):
    with pytest.raises(BadRecipeError, match=sentence):
        pack(town, tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_no_half_shard(town, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(WriteError, match="no space left on the disk"):
        pack(town, tmp_path / "out")
    assert files_of(tmp_path / "out") == {}


def test_a_packed_dataset_goes_through_the_commands(town, tmp_path):
    done = graticule("data", "pack", town.root / "table.csv", tmp_path / "packed", "--shard-mb", SMALL)
    assert done.returncode == 0, done.stderr
    assert "96 photos in" in done.stdout
    recipe, bundle = write_recipe(tmp_path / "r.yaml", train={"epochs": 6}), tmp_path / "bundle"
    trained = graticule("train", recipe, "--photos", tmp_path / "packed", "--out", bundle)
    assert trained.returncode == 0, trained.stderr
    found = json.loads(graticule("evaluate", bundle, tmp_path / "packed", "--json").stdout)
    assert found["median_km"] < 1
    assert found["photos"] > 10
    assert found["unreadable"] == 0
    asked = graticule("predict", bundle, read_photos(tmp_path / "packed").paths()[0], "--format", "json")
    assert asked.returncode == 0, asked.stderr
    failed = graticule("predict", bundle, tmp_path / "gone/train-00000-of-00001.parquet#3")
    assert failed.returncode == 1
    assert "there is no shard" in failed.stderr
