"""The photo table: what is read, what is refused, and with which sentence."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from graticule.errors import BadTableError, WriteError
from graticule.photos.table import Photos, SwappedColumnsWarning, looks_swapped, read_photos, read_points, write_dataset
from graticule.photos.tabular import read_table


@pytest.fixture
def table(tmp_path):
    def write(text, name="photos.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def sentence(source, read=read_photos, **options):
    with pytest.raises(BadTableError) as caught:
        read(source, **options)
    return str(caught.value)


def photos(**columns):
    n = len(next(iter(columns.values())))
    frame = {"path": [f"{i}.jpg" for i in range(n)], "lat": [10.0 + i for i in range(n)], "lon": [20.0] * n}
    return Photos(pl.DataFrame(frame | columns), root=Path("/photos"))


@pytest.mark.parametrize("read", [read_photos, read_points])
def test_a_table_without_lat_says_what_it_has_and_what_to_type(table, read):
    path = table("path,Breadth,lon\na.jpg,1,2\n")
    assert sentence(path, read) == (
        f"{path} has no column 'lat'; it has: path, Breadth, lon. Name the right one with --lat NAME"
    )


@pytest.mark.parametrize(
    ("header", "advice"),
    [
        ("paths,lat,lon", "--path paths"),
        ("path,lat,lonn", "--lon lonn"),
        ("path,lat,breadth", "--lon NAME"),
    ],
)
def test_a_likely_column_is_suggested(table, header, advice):
    assert sentence(table(f"{header}\na,1,2\n")).endswith(advice)


def test_a_column_can_be_named(table):
    read = read_photos(table("path,latitude,lon,lat\na.jpg,1.5,2,old\n"), {"lat": "latitude"})
    assert read.frame.columns == ["path", "lat", "lon"]
    assert read.lat.tolist() == [1.5]


def test_a_named_column_that_is_not_there_is_refused(table):
    assert "has no column 'breite'" in sentence(table("path,lat,lon\na,1,2\n"), columns={"lat": "breite"})
    assert "cannot be two of" in sentence(table("path,lat,lon\na,1,2\n"), columns={"lat": "lon"})


@pytest.mark.parametrize("read", [read_photos, read_points])
@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("95", "lat=95"),
        ("north", "lat=north, which is no number"),
        ("", "lat=None, which is no number"),
        ("nan", "which is no number"),
    ],
)
def test_a_bad_latitude_is_named_with_its_row(table, read, value, what):
    path = table(f"path,lat,lon\na.jpg,48,2\nb.jpg,{value},2\nc.jpg,48,2\nd.jpg,48,2\ne.jpg,48,2\nf.jpg,48,2\n")
    said = sentence(path, read)
    assert "row 2 (the first under the header is row 1)" in said
    assert what in said
    assert "1 of 6 rows. Correct or delete these rows" in said


def test_latitude_95_is_told_the_valid_range(table):
    assert "which is not in [-90, 90] degrees" in sentence(table("path,lat,lon\na.jpg,95,120\n"))


@pytest.mark.parametrize("read", [read_photos, read_points])
def test_swapped_columns_are_warned_of_and_never_swapped_in_silence(table, read):
    path = table("path,lat,lon\na.jpg,-122.4,37.8\nb.jpg,-122.5,37.7\n")
    with pytest.warns(SwappedColumnsWarning, match="look swapped.*--lat lon --lon lat"):
        assert "look swapped" in sentence(path, read)
    assert read_photos(path, {"lat": "lon", "lon": "lat"}).lat.tolist() == [37.8, 37.7]


@pytest.mark.parametrize(
    ("lat", "lon", "expected"),
    [
        ([-122.4, -122.5], [37.8, 37.7], True),
        ([37.8, 37.7], [-122.4, -122.5], False),
        ([48.0, 2.0], [2.0, 48.0], False),  # either way is a place on Earth
        ([95.0, 40.0, 41.0, 42.0, 43.0, 44.0], [2.0] * 6, False),  # one wrong value
        ([151.0, 2.0, -74.0, 139.0], [-33.0, 48.0, 40.0, 35.0], True),
        ([200.0, 151.0], [10.0, 10.0], False),
        ([np.nan], [np.nan], False),
        ([], [], False),
    ],
)
def test_columns_look_swapped_only_where_swapping_would_mend_all(lat, lon, expected):
    assert looks_swapped(np.array(lat, float), np.array(lon, float)) is expected


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty; a table begins with a line of column names"),
        (b"path,lat,lon\n", "has no rows under its header path, lat, lon"),
        (b"path,lat,lon\n\xff\xfe,1,2\n", "is not UTF-8 text (byte 13)"),
        (b"path,lat,lon\na,1,2,3\n", "line 2 has 4 fields and the header 3"),
        (b"path,lat,lon\n,1,2\n", "row 1 has no path"),
    ],
)
def test_a_broken_table_is_refused_in_words(table, content, said):
    assert said in sentence(table(content))


def test_a_file_that_only_bears_the_name_of_parquet_is_refused(table):
    assert "cannot be read as Parquet" in sentence(table("path,lat,lon", "photos.parquet"))


def test_what_is_not_there_is_said(tmp_path):
    assert "there is no file or folder" in sentence(tmp_path / "none.csv")
    assert sentence(tmp_path).endswith(f"Make one first: graticule data folder {tmp_path} OUT")
    pl.DataFrame({"path": ["a"], "lat": [1.0], "lon": [2.0]}).write_parquet(tmp_path / "photos.parquet")
    assert "writing it was cut short" in sentence(tmp_path)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_text_stays_text_and_large_ids_stay_exact(table, separator):
    rows = [
        "path,lat,lon,id,code,note,mean",
        "a,1,2,9007199254740993,007,1.10,1.5",
        "b,3,4,18014398509481985,8,2.0,2.0",
    ]
    frame = read_table(table("\n".join(rows).replace(",", separator)))
    assert frame["id"].to_list() == [9007199254740993, 18014398509481985]
    assert frame["code"].to_list() == ["007", "8"]
    assert frame["note"].to_list() == ["1.10", "2.0"]
    assert frame["mean"].to_list() == [1.5, 2.0]


def test_spaces_and_a_byte_order_mark_from_a_spreadsheet_do_no_harm(table):
    read = read_photos(table("\ufeffpath,lat,lon\na.jpg, 1.5 ,2\n".encode()))
    assert (read.lat[0], read.lon[0]) == (1.5, 2)


def test_relative_paths_start_from_the_table_and_absolute_ones_stay(table, tmp_path):
    read = read_photos(table("path,lat,lon\nimages/a.jpg,1,2\n/b.jpg,1,2\n"))
    assert [str(path) for path in read.paths()] == [str(tmp_path / "images/a.jpg"), "/b.jpg"]


def test_a_photo_table_checks_itself_at_birth():
    with pytest.raises(BadTableError, match="needs a column 'lat' of type Float64"):
        photos(lat=[1, 2])
    with pytest.raises(ValueError, match="off the globe"):
        photos(lat=[91.0])


def test_taking_by_mask_or_by_rows_keeps_order_and_what_is_known():
    all_ = photos(place=["x", "y", "z"])
    assert all_.take(np.array([True, False, True])).column("place").tolist() == ["x", "z"]
    assert all_.take([2, 0]).column("place").tolist() == ["z", "x"]
    assert len(all_.take(np.zeros(3, bool))) == 0
    with pytest.raises(ValueError, match="the mask has shape"):
        all_.take(np.array([True]))


def test_groups_are_codes_and_each_missing_value_is_a_group_of_its_own():
    codes = photos(sequence=["b", None, "a", "b", None]).groups("sequence")
    assert codes.dtype == np.int64
    assert codes.tolist() == [1, 2, 0, 1, 3]
    assert photos(sequence=[None, None]).groups("sequence").tolist() == [0, 1]


def test_places_are_the_column_or_else_the_position_to_a_thousandth_of_a_degree():
    near = {"lat": [1.0, 1.0004, 1.0006], "lon": [2.0, 2.0, 2.0]}
    assert len(set(photos(**near).groups("place")[:2])) == 1
    assert len(set(photos(**near).groups("place"))) == 2
    assert photos(**near, place=[7, 8, 7]).groups("place").tolist() == [0, 1, 0]


def test_a_missing_column_is_answered_with_those_there_are():
    for ask in (Photos.groups, Photos.column):
        with pytest.raises(BadTableError, match="no column 'drive'; they have: path, lat, lon, sequence"):
            ask(photos(sequence=["a"]), "drive")


FRAME = pl.DataFrame({"path": ["a.jpg"], "lat": [1.0], "lon": [2.0], "dhash": pl.Series([2**64 - 1], dtype=pl.UInt64)})
REFUSED = pl.DataFrame({"path": ["b.jpg"], "reason": ["truncated"], "detail": ["..."]})


def test_a_dataset_comes_back_as_it_was_written(tmp_path):
    write_dataset(tmp_path / "set", FRAME, REFUSED, {"source": "test", "synthetic": True})
    read = read_photos(tmp_path / "set")
    assert read.frame.equals(FRAME)
    assert (read.synthetic, read.name, read.root) == (True, "set", tmp_path / "set")
    facts = json.loads((tmp_path / "set" / "dataset.json").read_text())
    assert (facts["source"], facts["photos"], facts["refused"]) == ("test", 1, 1)
    assert pl.read_parquet(tmp_path / "set" / "refused.parquet").equals(REFUSED)
    assert [points.tolist() for points in read_points(tmp_path / "set")] == [[1.0], [2.0]]


def test_a_full_disk_leaves_the_old_dataset_and_nothing_half_written(tmp_path, request):
    write_dataset(tmp_path, FRAME, REFUSED, {"source": "old"})
    request.getfixturevalue("full_disk")
    with pytest.raises(WriteError, match=r"no space left on the disk.*nothing half-written was left"):
        write_dataset(tmp_path, FRAME.clear(), REFUSED, {"source": "new"})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "README.md",
        "dataset.json",
        "photos.parquet",
        "refused.parquet",
    ]
    assert len(read_photos(tmp_path)) == 1


def test_the_real_manifests_read_as_they_are(real_data):
    city = read_photos(real_data / "san_francisco" / "manifest.csv")
    world = read_photos(real_data / "webcams_world" / "manifest.csv")
    assert (len(city), len(world), len(np.unique(world.places()))) == (595, 1051, 644)
    assert city.paths()[0].is_file()
    assert len(read_points(real_data / "coordinates" / "cogito_sv_points_latlong_collected.csv")[0]) == 165_999
