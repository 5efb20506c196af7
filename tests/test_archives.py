"""Photos out of tar files and WebDataset shards: whole, under names of our making, never outside their folder."""

import io
import json
import tarfile

import polars as pl
import pytest
from conftest import encoded, exif_of, picture
from test_cli import graticule

from graticule.errors import BadTableError
from graticule.photos import images
from graticule.photos.table import read_photos
from graticule.sources.folder import import_folder


def make_tar(file, members, mode="w"):
    """``members``: name to bytes, to a JSON value, or to a TarInfo that is written as it is."""
    with tarfile.open(file, mode) as archive:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file


def jpeg(seed, lat=None, lon=None):
    return encoded(picture(64, 48, seed), exif=exif_of(lat, lon))


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tgz", "tar.xz"])
def test_a_tar_of_photos_becomes_a_dataset_by_their_exif(tmp_path, suffix):
    heic = encoded(picture(64, 48, 9), "HEIF", exif=exif_of(-33.9, 151.2))
    mode = {"tar": "w", "tgz": "w:gz"}.get(suffix, f"w:{suffix[4:]}")
    tar = make_tar(
        tmp_path / f"album.{suffix}",
        {"day/a.jpg": jpeg(1, -33.8, 151.1), "day/b.HEIC": heic, "notes.txt": b"hello", ".hidden.jpg": b"x"},
        mode,
    )
    done = graticule("data", "folder", tar, tmp_path / "set")
    assert done.returncode == 0, done.stderr
    photos = read_photos(tmp_path / "set")
    assert photos.frame["path"].to_list() == [f"images/album.{suffix}/day__a.jpg", f"images/album.{suffix}/day__b.HEIC"]
    assert photos.lat == pytest.approx([-33.8, -33.9], abs=1e-6)
    assert all(path.is_file() for path in photos.paths())
    assert json.loads((tmp_path / "set/dataset.json").read_text())["archives"] == [tar.name]


def test_webdataset_shards_carry_their_positions_and_columns(tmp_path):
    (tmp_path / "shards").mkdir()
    told = [
        {
            "latitude": 48.5,
            "longitude": 2.5,
            "sequence": "s1",
            "id": 7,
            "tags": ["a"],
            "width": 1,
            "path": "/etc/passwd",
        },
        {"lat": "48.6", "lng": 2.6, "sequence": "s2", "id": 8, "country": "FR"},
        {"Latitude": -48.7, "Longitude": 2, "sequence": None, "id": 9, "x": 3, "y": 4},
    ]
    first = {
        "000.json": told[0],
        "000.jpg": jpeg(1),
        "000.cls": b"3",
        "001.jpg": jpeg(2, 1.0, 1.0),
        "001.json": told[1],
    }
    make_tar(tmp_path / "shards/train-0.tar", first)
    make_tar(tmp_path / "shards/train-1.tar", {"000.jpg": jpeg(3), "000.json": told[2]})
    photos = read_photos(import_folder(tmp_path / "shards", tmp_path / "set"))
    assert photos.frame["path"].to_list() == [
        "images/train-0.tar/000.jpg", "images/train-0.tar/001.jpg", "images/train-1.tar/000.jpg",
    ]  # fmt: skip
    assert photos.lat.tolist() == [48.5, 48.6, -48.7]  # the shard's word, not the EXIF's
    assert photos.lon.tolist() == [2.5, 2.6, 2.0]
    assert photos.frame["sequence"].to_list() == ["s1", "s2", None]
    assert photos.frame["id"].to_list() == [7, 8, 9]
    assert photos.frame["width"].to_list() == [64, 64, 64]
    assert "tags" not in photos.frame.columns


def test_hostile_members_stay_inside_the_dataset(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_BYTES", 20_000)
    link, hard, device = (tarfile.TarInfo(name) for name in ("link.jpg", "hard.jpg", "device.jpg"))
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    hard.type, hard.linkname = tarfile.LNKTYPE, "../../etc/passwd"
    device.type, device.devmajor, device.devminor = tarfile.CHRTYPE, 1, 5  # /dev/zero
    tar = make_tar(
        tmp_path / "evil.tar",
        {
            "../../up.jpg": jpeg(1, 1.0, 2.0),
            "/abs.jpg": jpeg(2, 1.0, 2.0),
            "a/b.jpg": jpeg(3, 1.0, 2.0),
            "a__b.jpg": jpeg(4, 1.0, 2.0),
            "c\\..\\win.jpg": jpeg(5, 1.0, 2.0),
            "caf\udce9.jpg": jpeg(6, 1.0, 2.0),
            "long/" * 100 + "name.jpg": jpeg(7, 1.0, 2.0),
            "n.jpg": bytes(20_001),
            "deep.json": b"[" * 15_000,
            "large.json": b" " * 70_000,
            "link.jpg": link,
            "hard.jpg": hard,
            "device.jpg": device,
        },
    )
    before = {path for path in tmp_path.rglob("*") if "set" not in path.parts}
    out = import_folder(tar, tmp_path / "set", max_refused=0.5)
    assert {path for path in tmp_path.rglob("*") if "set" not in path.parts} == before
    names = [path.removeprefix("images/evil.tar/") for path in read_photos(out).frame["path"]]
    assert names[:6] == ["up.jpg", "abs.jpg", "a__b.jpg", "3__a__b.jpg", "c__win.jpg", "caf?.jpg"]
    assert names[6].endswith("long__long__name.jpg")
    assert pl.read_parquet(out / "refused.parquet").select("path", "reason").rows() == [
        ("evil.tar/n.jpg", "too large"),
        ("evil.tar/large.json", "too large"),
        ("evil.tar/link.jpg", "unreadable"),
        ("evil.tar/hard.jpg", "unreadable"),
        ("evil.tar/device.jpg", "unreadable"),
    ]


def test_unpacking_again_writes_nothing_again(tmp_path):
    tar = make_tar(tmp_path / "a.tar", {"a.jpg": jpeg(1, 1.0, 2.0), "b.jpg": jpeg(2, 1.0, 2.0)})
    import_folder(tar, tmp_path / "set")
    first, second = (tmp_path / f"set/images/a.tar/{name}.jpg" for name in "ab")
    stamp = first.stat().st_mtime_ns
    second.write_bytes(b"half")
    import_folder(tar, tmp_path / "set")
    assert first.stat().st_mtime_ns == stamp
    assert second.read_bytes() == jpeg(2, 1.0, 2.0)


def test_a_damaged_tar_says_so_and_makes_no_dataset(tmp_path):
    whole = make_tar(tmp_path / "a.tar", {"a.jpg": jpeg(1, 1.0, 2.0), "b.jpg": jpeg(2, 1.0, 2.0)}).read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[:1500])
    with pytest.raises(BadTableError, match=r"a\.tar is no tar file, or is damaged or cut off after 1 members"):
        import_folder(tmp_path / "a.tar", tmp_path / "set")
    (tmp_path / "b.tar.gz").write_bytes(b"hello")
    with pytest.raises(BadTableError, match="is no tar file"):
        import_folder(tmp_path / "b.tar.gz", tmp_path / "set")
    assert not (tmp_path / "set/dataset.json").exists()


def test_photos_beside_tars_and_a_tar_without_photos_are_refused(tmp_path, make_jpeg):
    make_tar(tmp_path / "mixed.tar", {"notes.txt": b"hello"})
    with pytest.raises(BadTableError, match="holds no photos: no member ends in"):
        import_folder(tmp_path, tmp_path / "set")
    make_jpeg(tmp_path / "a.jpg", 1.0, 2.0)
    with pytest.raises(BadTableError, match=r"photos \(a\.jpg\) beside tar files \(mixed\.tar\)"):
        import_folder(tmp_path, tmp_path / "set")
