"""Sources end in one intake: a dataset, or a row of refused.parquet with its reason."""

import json

import polars as pl
import pytest
from conftest import encoded, exif_of, picture

from graticule.errors import BadTableError, TooManyRefusedError, WriteError
from graticule.photos import images
from graticule.photos.table import SwappedColumnsWarning, read_photos
from graticule.sources.folder import import_folder
from graticule.sources.table import import_table


@pytest.fixture
def album(tmp_path, make_jpeg):
    """Six good photos in Sydney, one of them a HEIC."""
    for seed in range(5):
        make_jpeg(tmp_path / "album" / f"{seed}.jpg", -33.8568 - seed / 1000, 151.2153, seed=seed)
    heic = encoded(picture(seed=9), "HEIF", exif=exif_of(-33.9, 151.2, heading=90.0, captured_at="2024:01:02 03:04:05"))
    (tmp_path / "album" / "phone.HEIC").write_bytes(heic)
    return tmp_path / "album"


def refused(out):
    return {row["path"].rsplit("/", 1)[-1]: row for row in pl.read_parquet(out / "refused.parquet").to_dicts()}


def test_a_folder_becomes_a_dataset(album, tmp_path):
    seen = []
    out = import_folder(album, tmp_path / "set", progress=lambda done, total: seen.append((done, total)))
    photos = read_photos(out)
    assert photos.frame.columns == [
        "path", "lat", "lon", "width", "height", "sha256", "dhash",
        "captured_at", "heading", "country",
    ]  # fmt: skip
    assert [path.name for path in photos.paths()] == [*(f"{i}.jpg" for i in range(5)), "phone.HEIC"]
    assert photos.lat == pytest.approx([-33.8568, -33.8578, -33.8588, -33.8598, -33.8608, -33.9], abs=1e-6)
    assert set(photos.column("country")) == {"AU"}
    assert photos.column("heading")[-1] == 90
    assert photos.column("captured_at")[-1] == "2024-01-02T03:04:05"
    first = photos.paths()[0].read_bytes()
    assert photos.frame["sha256"][0] == images.content_hash(first)
    assert photos.frame["dhash"].dtype == pl.UInt64
    assert seen == [(n, 6) for n in range(1, 7)]
    facts = json.loads((out / "dataset.json").read_text())
    assert (facts["source"], facts["synthetic"], facts["photos"], facts["refused"]) == ("folder", False, 6, 0)


def test_every_bad_photo_is_a_refused_row_with_its_reason(album, tmp_path, make_jpeg, monkeypatch):
    monkeypatch.setattr(images, "MAX_BYTES", 50_000)
    make_jpeg(album / "nowhere.jpg")
    make_jpeg(album / "island.jpg", 0.0, 0.0, seed=20)
    make_jpeg(album / "beyond.jpg", 95.0, 10.0, seed=21)
    (album / "tiny.png").write_bytes(encoded(picture(1, 1), "PNG", exif=exif_of(1, 2)))
    (album / "copy.jpg").write_bytes((album / "3.jpg").read_bytes())
    (album / "cut.jpg").write_bytes((album / "1.jpg").read_bytes()[:-900])
    (album / "text.jpg").write_text("not a photo")
    (album / "large.jpg").write_bytes(bytes(50_001))
    out = import_folder(album, tmp_path / "set", max_refused=0.9)
    rows = refused(out)
    assert {name: row["reason"] for name, row in rows.items()} == {
        "nowhere.jpg": "no position",
        "island.jpg": "zero island",
        "beyond.jpg": "off the globe",
        "tiny.png": "too small",
        "copy.jpg": "duplicate",
        "cut.jpg": "truncated",
        "text.jpg": "unreadable",
        "large.jpg": "too large",
    }
    assert rows["copy.jpg"]["detail"] == f"the same bytes as {(album / '3.jpg').as_posix()}; one copy is enough"
    assert len(read_photos(out)) == 6


def test_too_many_refused_stop_the_run_with_the_reasons_counted_and_a_list_to_look_at(album, tmp_path, make_jpeg):
    make_jpeg(album / "nowhere.jpg")
    (album / "text.jpg").write_text("not a photo")
    with pytest.raises(TooManyRefusedError) as caught:
        import_folder(album, tmp_path / "set")
    said = str(caught.value)
    assert said.startswith("2 of 8 photos (25.0%) were refused: 1 no position, 1 unreadable. The first is ")
    assert "its EXIF holds no GPS position" in said
    assert said.endswith("Mend them, or allow more than 5% with --max-refused 0.25")
    assert sorted(refused(tmp_path / "set")) == ["nowhere.jpg", "text.jpg"]
    assert not (tmp_path / "set" / "dataset.json").exists()
    assert len(read_photos(import_folder(album, tmp_path / "set", max_refused=0.25))) == 6


def test_a_folder_of_photos_without_any_position_says_so(tmp_path, make_jpeg):
    make_jpeg(tmp_path / "album" / "a.jpg")
    with pytest.raises(TooManyRefusedError, match=r"1 no position.*No photo is left"):
        import_folder(tmp_path / "album", tmp_path / "set", max_refused=1)


def test_a_folder_without_photos_is_refused_with_the_suffixes_looked_for(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(BadTableError, match=r"holds no photos: no file under it ends in .*\.jpg"):
        import_folder(tmp_path, tmp_path / "set")
    with pytest.raises(BadTableError, match="there is no folder"):
        import_folder(tmp_path / "none", tmp_path / "set")


def test_hidden_files_the_output_and_loops_of_links_are_passed_over(album, tmp_path, make_jpeg):
    make_jpeg(album / ".trash" / "x.jpg", 1.0, 2.0, seed=30)
    make_jpeg(album / "deep" / "er" / "y.JPG", 1.0, 2.0, seed=31)
    make_jpeg(album / "set" / "images" / "z.jpg", 1.0, 2.0, seed=32)
    (album / "deep" / "loop").symlink_to(album)
    photos = read_photos(import_folder(album, album / "set"))
    assert [path.name for path in photos.paths()] == [*(f"{i}.jpg" for i in range(5)), "y.JPG", "phone.HEIC"]


def test_photos_inside_the_dataset_are_stored_relative_so_that_it_can_be_moved(tmp_path, make_jpeg):
    make_jpeg(tmp_path / "set" / "images" / "a.jpg")
    (tmp_path / "set" / "list.csv").write_text("path,lat,lon\nimages/a.jpg,1.5,2.5\n")
    import_table(tmp_path / "set" / "list.csv", tmp_path / "set")
    (tmp_path / "set").rename(tmp_path / "moved")
    assert read_photos(tmp_path / "moved").paths()[0].is_file()


def test_a_table_keeps_its_columns_and_its_own_word(album, tmp_path):
    (album / "list.csv").write_text(
        "file,lat,lon,place,sequence,captured_at,heading,split,country,note\n"
        "0.jpg,1.5,2.5,007,s1,noon,12.5,train,Nowhere,kept\n"
        "1.jpg,-1.5,2.5,008,s1,night,13.5,test,Nowhere,too\n"
    )
    photos = read_photos(import_table(album / "list.csv", tmp_path / "set", columns={"path": "file"}))
    assert photos.lat.tolist() == [1.5, -1.5]  # not the EXIF's
    assert photos.column("place").tolist() == ["007", "008"]
    assert photos.column("captured_at").tolist() == ["noon", "night"]
    assert photos.column("country").tolist() == ["Nowhere"] * 2
    assert photos.frame.columns[7:] == [
        "place",
        "sequence",
        "captured_at",
        "heading",
        "split",
        "country",
        "note",
    ]


def test_bad_rows_of_a_table_are_refused_rows_and_not_errors(album, tmp_path):
    (tmp_path / "list.csv").write_text(
        "path,lat,lon\n0.jpg,1,2\n1.jpg,,2\n2.jpg,95,2\n3.jpg,0,0\n4.jpg,far,2\nnone.jpg,1,2\n,1,2\n0.jpg,5,5\n"
    )
    out = import_table(tmp_path / "list.csv", tmp_path / "set", photos_root=album, max_refused=0.9)
    assert pl.read_parquet(out / "refused.parquet")["reason"].to_list() == [
        "no position", "off the globe", "zero island", "no position", "missing", "missing", "duplicate",
    ]  # fmt: skip
    assert read_photos(out).lat.tolist() == [1.0]


def test_a_table_without_lat_is_an_error(album, tmp_path):
    (album / "list.csv").write_text("path,lats,lon\n0.jpg,1,2\n")
    with pytest.raises(BadTableError, match=r"has no column 'lat'.*--lat lats"):
        import_table(album / "list.csv", tmp_path / "set")


def test_swapped_columns_are_warned_of(album, tmp_path):
    (album / "list.csv").write_text("path,lat,lon\n0.jpg,151.2,-33.8\n1.jpg,151.3,-33.9\n")
    with (
        pytest.warns(SwappedColumnsWarning, match="lat and lon look swapped"),
        pytest.raises(TooManyRefusedError, match="2 off the globe"),
    ):
        import_table(album / "list.csv", tmp_path / "set")


def test_a_full_disk_leaves_nothing_half_written(album, tmp_path, full_disk):
    with pytest.raises(WriteError, match="no space left on the disk"):
        import_folder(album, tmp_path / "set")
    assert list((tmp_path / "set").iterdir()) == []


def test_the_real_photos_are_all_taken(real_data, tmp_path):
    photos = read_photos(import_folder(real_data / "san_francisco", tmp_path / "sf"))
    manifest = read_photos(real_data / "san_francisco" / "manifest.csv")
    assert photos.lat == pytest.approx(manifest.lat, abs=1e-6)
    assert photos.lon == pytest.approx(manifest.lon, abs=1e-6)
    assert set(photos.column("country")) == {"US"}
