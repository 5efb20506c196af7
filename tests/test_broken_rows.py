"""Ten thousand broken rows of every kind: each refused with its own reason, the rest kept, memory flat."""

import os
import subprocess
import sys
import zlib

import polars as pl
import pytest
from conftest import encoded, picture

GOOD = 40
ROWS = 10_000
# kind: (path, lat, lon, the reason, words of the sentence)
KINDS = {
    "no latitude": ("0.jpg", "", "2", "no position", "missing or no number"),
    "no longitude": ("1.jpg", "1", "", "no position", "missing or no number"),
    "words for a latitude": ("2.jpg", "north", "2", "no position", "missing or no number"),
    "not a number": ("3.jpg", "nan", "2", "no position", "missing or no number"),
    "infinity": ("4.jpg", "inf", "2", "off the globe", "lat=inf"),
    "minus infinity": ("4.jpg", "1", "-inf", "off the globe", "lon=-inf"),
    "a latitude of 91": ("5.jpg", "91", "2", "off the globe", "lat=91.0"),
    "a longitude of 181": ("6.jpg", "1", "181", "off the globe", "lon=181.0"),
    "zero island": ("7.jpg", "0", "0.0", "zero island", "0/0"),
    "no such file": ("none.jpg", "1", "2", "missing", "there is no file"),
    "no path": ("", "1", "2", "missing", "gives no path"),
    "a link to itself": ("loop.jpg", "1", "2", "missing", "there is no file"),
    "a folder": ("folder.jpg", "1", "2", "unreadable", "is a folder or a device"),
    "an endless device": ("/dev/zero", "1", "2", "unreadable", "is a folder or a device"),
    "a pipe nobody writes to": ("pipe.jpg", "1", "2", "unreadable", "is a folder or a device"),
    "a name too long": ("n" * 300 + ".jpg", "1", "2", "unreadable", "cannot be opened"),
    "text": ("text.jpg", "1", "2", "unreadable", "a text of 5 bytes"),
    "an error page": ("page.jpg", "1", "2", "unreadable", "a web page; download the photo"),
    "an empty file": ("empty.jpg", "1", "2", "unreadable", "the file is empty"),
    "noise after a JPEG's first bytes": ("noise.jpg", "1", "2", "unreadable", "cannot be decoded"),
    "half a JPEG": ("half.jpg", "1", "2", "truncated", "ends before its picture does"),
    "half a PNG": ("half.png", "1", "2", "truncated", "ends before its picture does"),
    "half a HEIC": ("half.heic", "1", "2", "truncated", "ends before its picture does"),
    "a pixel": ("tiny.png", "1", "2", "too small", "pixels"),
    "a picture that unpacks to gigabytes": ("bomb.png", "1", "2", "too large", "40000 x 40000 pixels"),
    "a file of 65 MiB": ("large.jpg", "1", "2", "too large", "65 MiB"),
    "a copy": ("copy.jpg", "1", "2", "duplicate", "the same bytes as"),
}


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """The files, and tables of 1,000 and 10,000 broken rows, each with the same good ones in between."""
    folder = tmp_path_factory.mktemp("broken")
    for i in range(GOOD):
        (folder / f"{i}.jpg").write_bytes(encoded(picture(64, 48, seed=i)))
    half = {"jpg": "JPEG", "png": "PNG", "heic": "HEIF"}
    for suffix, format_ in half.items():
        data = encoded(picture(64, 48), format_)
        (folder / f"half.{suffix}").write_bytes(data[: len(data) // 2])
    # with two megabytes of comments, so that a refusal that holds on to its photo shows
    data = (folder / "half.jpg").read_bytes()
    (folder / "half.jpg").write_bytes(data[:2] + (b"\xff\xfe\xff\xff" + bytes(65_533)) * 32 + data[2:])
    png = encoded(picture(64, 48), "PNG")
    wide = png[:16] + (40_000).to_bytes(4, "big") * 2 + png[24:29]
    (folder / "bomb.png").write_bytes(wide + zlib.crc32(wide[12:29]).to_bytes(4, "big") + png[33:])
    (folder / "tiny.png").write_bytes(encoded(picture(1, 1), "PNG"))
    (folder / "noise.jpg").write_bytes(b"\xff\xd8\xff" + bytes(range(256)))
    (folder / "text.jpg").write_text("hello")
    (folder / "page.jpg").write_text("<!doctype html><title>404</title>")
    (folder / "empty.jpg").touch()
    (folder / "copy.jpg").write_bytes((folder / "39.jpg").read_bytes())
    (folder / "folder.jpg").mkdir()
    (folder / "loop.jpg").symlink_to("loop.jpg")
    os.mkfifo(folder / "pipe.jpg")
    with (folder / "large.jpg").open("wb") as file:
        file.truncate(65 * 2**20)  # a hole: it takes no room on the disk
    good = [(f"{i}.jpg", "48.5", "2.5", "FR") for i in range(GOOD)]
    kinds = list(KINDS.values())
    for count in (1_000, ROWS):
        rows = [(*kinds[i % len(kinds)][:3], "FR") for i in range(count)]
        # the good ones stand first, so that the copy is the second
        pl.DataFrame(good + rows, schema=["path", "lat", "lon", "country"], orient="row").write_csv(
            folder / f"{count}.csv"
        )
    return folder


def test_ten_thousand_broken_rows_are_refused_each_with_its_reason_and_in_flat_memory(broken, tmp_path):
    code = (
        "import resource, sys; from pathlib import Path; from graticule.sources.table import import_table;"
        "out, *tables = map(Path, sys.argv[1:]);"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "[(import_table(t, out / t.stem, max_refused=1), print(peak())) for t in tables]"
    )
    tables = [broken / "1000.csv", broken / f"{ROWS}.csv"]
    done = subprocess.run([sys.executable, "-c", code, tmp_path, *tables], capture_output=True, text=True, check=True)
    few, many = (int(line) / 1024 for line in done.stdout.split())
    assert many - few < 24  # MiB, less than 3 KB a row; where refusals held on to their photos it was 339
    kept = pl.read_parquet(tmp_path / f"{ROWS}/photos.parquet")
    assert len(kept) == GOOD
    assert set(kept["lat"]) == {48.5}
    refused = pl.read_parquet(tmp_path / f"{ROWS}/refused.parquet")
    kinds = list(KINDS.values())
    expected = [kinds[i % len(kinds)] for i in range(ROWS)]
    assert refused["reason"].to_list() == [reason for *_, reason, _ in expected]
    for (kind, (*_, words)), detail in zip(KINDS.items(), refused["detail"], strict=False):
        assert words in detail, kind


def test_a_photo_whose_name_is_not_utf8_is_refused_and_the_others_are_kept(tmp_path, make_jpeg):
    from graticule.sources.folder import import_folder

    make_jpeg(tmp_path / "album/good.jpg", 1.0, 2.0)
    make_jpeg(tmp_path / "album/other.jpg", 1.0, 2.0, seed=1).rename(
        os.fsdecode(os.fsencode(tmp_path) + b"/album/caf\xe9.jpg")
    )
    out = import_folder(tmp_path / "album", tmp_path / "set", max_refused=0.5)
    assert pl.read_parquet(out / "refused.parquet").rows() == [
        ("caf\ufffd.jpg", "unreadable", "its name is not UTF-8, so no table can hold it; rename it")
    ]
    assert len(pl.read_parquet(out / "photos.parquet")) == 1
