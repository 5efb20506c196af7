"""Photos in Parquet: where each lies, its bytes, and what is said of a broken shard."""

import multiprocessing
import shutil
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from towns import make_town

from graticule.errors import BadPhotoError, BadTableError, SourceError
from graticule.photos import shards
from graticule.photos.images import content_hash, read_file
from graticule.photos.table import read_photos
from graticule.sources.pack import PICTURE, pack


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    return make_town(tmp_path_factory.mktemp("town"))


@pytest.fixture(scope="module")
def packed(town, tmp_path_factory):
    """Four shards of 24 photos."""
    return pack(town, tmp_path_factory.mktemp("packed") / "town", shard_mb=sizes(town) / 4 / 2**20)


def sizes(photos):
    return sum(path.stat().st_size for path in photos.paths())


@pytest.fixture
def bucket(packed):
    """The packed town in fsspec's store in memory, which reads as a remote one does."""
    store = fsspec.filesystem("memory")
    store.put(str(packed), "/bucket/town", recursive=True)
    yield Path("memory://bucket/town")
    store.rm("/bucket", recursive=True)


def test_a_url_survives_its_way_through_a_path():
    assert shards.url_of(Path("s3://bucket/town")) == "s3://bucket/town"
    assert shards.url_of(Path("s3://bucket/town") / "data/a.parquet") == "s3://bucket/town/data/a.parquet"
    assert shards.url_of(Path("/data/town")) is None
    assert shards.url_of(Path("town")) is None


def test_only_a_row_of_a_parquet_file_is_a_packed_photo():
    assert shards.shard_row(Path("a/data/train-00000-of-00001.parquet#17")) == (
        "a/data/train-00000-of-00001.parquet",
        17,
    )
    for name in ("photo.jpg", "photo#17.jpg", "a.parquet", "a.parquet#", "a.parquet#1.jpg"):
        assert shards.shard_row(Path(name)) is None


def test_a_remote_dataset_reads_as_the_local_one(packed, bucket):
    here, there = read_photos(packed), read_photos(bucket)
    assert there.frame.equals(here.frame)
    assert [read_file(path) for path in there.paths()] == [read_file(path) for path in here.paths()]
    assert np.array_equal(shards.row_groups(there.paths()), shards.row_groups(here.paths()))
    assert shards.measured(there.paths(), "sha256").tolist() == here.column("sha256").tolist()


def hashes(paths):
    return [content_hash(read_file(path)) for path in paths]


def test_forked_workers_read_while_this_process_holds_the_shards_open(packed):
    photos = read_photos(packed)
    paths = photos.paths()
    read_file(paths[0])  # opens the first shard here
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.map(hashes, [paths[:48], paths[48:]])
    assert found[0] + found[1] == photos.column("sha256").tolist() == hashes(paths)


def test_row_groups_are_told_apart_within_and_between_shards(packed):
    paths = read_photos(packed).paths()
    codes = shards.row_groups(paths)
    files = sorted((packed / "data").glob("*.parquet"))
    heads = [pq.read_metadata(file) for file in files]
    rows = [head.row_group(i).num_rows for head in heads for i in range(head.num_row_groups)]
    assert np.bincount(codes).tolist() == rows
    back = np.random.default_rng(0).permutation(len(paths))
    mixed = shards.row_groups([paths[i] for i in back])
    assert (np.equal.outer(mixed, mixed) == np.equal.outer(codes[back], codes[back])).all()


def test_files_and_bytes_have_no_row_groups(town, packed):
    paths = read_photos(packed).paths()
    assert shards.row_groups(town.paths()) is None
    assert shards.row_groups([*paths, town.paths()[0]]) is None
    assert shards.row_groups([b"photo"]) is None
    assert shards.measured(town.paths(), "width") is None


def test_a_parquet_file_of_the_hub_that_is_not_ours_is_read_but_its_sizes_are_not_believed(town, tmp_path):
    pictures = [{"bytes": path.read_bytes(), "path": path.name} for path in town.paths()[:5]]
    pq.write_table(pa.table({"image": pictures, "width": [1] * 5}), tmp_path / "train.parquet", row_group_size=2)
    paths = [tmp_path / f"train.parquet#{row}" for row in range(5)]
    assert [read_file(path) for path in paths] == [one["bytes"] for one in pictures]
    assert shards.row_groups(paths).tolist() == [0, 0, 1, 1, 2]
    assert shards.measured(paths, "width") is None


def test_few_row_groups_and_shards_are_held_at_once(packed, monkeypatch):
    monkeypatch.setattr(shards, "HELD_GROUPS", 2)
    monkeypatch.setattr(shards, "OPEN_SHARDS", 1)
    photos = read_photos(packed)
    reader = shards._Reader()
    for path, expected in zip(photos.paths()[::7], photos.column("sha256")[::7], strict=True):
        data = reader.photo(*shards.shard_row(path))
        assert content_hash(data) == expected
        assert len(reader.groups) <= 2
        assert len(reader.shards) <= 1


def test_a_shard_that_is_gone_cut_or_short_is_named(packed, tmp_path):
    shutil.copytree(packed, tmp_path / "town")
    first, second, third, _ = sorted((tmp_path / "town/data").glob("*.parquet"))
    first.unlink()
    second.write_bytes(second.read_bytes()[:-100])
    damaged = bytearray(third.read_bytes())
    damaged[4:2000] = bytes(1996)
    third.write_bytes(damaged)
    for shard, reason, sentence in (
        (first, "missing", "there is no shard"),
        (second, "unreadable", "cannot be read .*damaged or no Parquet file"),
        (third, "unreadable", "cannot be read"),
    ):
        with pytest.raises(BadPhotoError, match=sentence) as caught:
            read_file(Path(f"{shard}#0"))
        assert caught.value.reason == reason
        assert shard.name in str(caught.value)
    assert shards.row_groups([Path(f"{first}#0")]) is None
    assert shards.measured([Path(f"{first}#0")], "width") is None


def test_a_row_beyond_the_end_and_a_row_without_a_picture_are_missing(packed, tmp_path):
    shard = next((packed / "data").glob("*.parquet"))
    with pytest.raises(BadPhotoError, match="has 24 rows and no row 99"):
        read_file(Path(f"{shard}#99"))
    assert shards.measured([Path(f"{shard}#99")], "width") is None
    empty = pa.array([{"bytes": None, "path": "a.jpg"}], PICTURE)
    pq.write_table(pa.table({"image": empty}), tmp_path / "a.parquet")
    with pytest.raises(BadPhotoError, match="holds no picture"):
        read_file(tmp_path / "a.parquet#0")
    pl.DataFrame({"lat": [1.0]}).write_parquet(tmp_path / "b.parquet")
    with pytest.raises(BadPhotoError, match="no Parquet file with a column 'image'"):
        read_file(tmp_path / "b.parquet#0")


def test_a_store_that_is_not_known_or_empty_is_told(bucket):
    with pytest.raises(SourceError, match="nosuch://bucket/town/photos.parquet cannot be opened"):
        read_photos(Path("nosuch://bucket/town"))
    with pytest.raises(BadTableError, match=r"memory://bucket/elsewhere has no photos.parquet"):
        read_photos(Path("memory://bucket/elsewhere"))
    with pytest.raises(BadPhotoError, match="there is no shard memory:"):
        read_file(Path("memory://bucket/town/data/none.parquet#0"))


@contextmanager
def store(folder, faults):
    """A store that answers ranges; ``faults`` go wrong one after the other: a status or a word."""

    class Store(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.send_response(200)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(len((folder / self.path[1:]).read_bytes())))
            self.end_headers()

        def do_GET(self):
            fault = faults.pop(0) if faults else None
            if isinstance(fault, int):
                return self.send_error(fault)
            first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
            data = bytearray((folder / self.path[1:]).read_bytes()[first : last + 1])
            if fault == "false":
                data[len(data) // 2] ^= 1
            self.send_response(206)
            self.send_header("Content-Length", str(len(data) // 2 if fault == "short" else len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if fault in ("cut", "short") else data)
            return None

    with ThreadingHTTPServer(("127.0.0.1", 0), Store) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_store_that_throttles_breaks_off_or_sends_too_little_or_other_bytes_is_asked_again(packed, monkeypatch):
    monkeypatch.setattr(shards, "PAUSES", (0, 0, 0))
    shard = next((packed / "data").glob("*.parquet"))
    row = pq.read_table(shard)["image"][3].as_py()["bytes"]
    faults = [503, "cut", "short"]
    with store(packed, faults) as url:
        reader, name = shards._Reader(), f"{url}/data/{shard.name}"
        assert reader.ends(name) == [24]
        assert not faults
        faults += ["short", "false", "cut"]
        assert reader.photo(name, 3) == row
        assert not faults
        faults += [503] * 99
        with pytest.raises(BadPhotoError, match=r"asked 4 times\); see that its store can be reached"):
            shards._Reader().photo(name, 3)
