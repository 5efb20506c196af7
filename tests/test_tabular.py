"""Tables as people have them: written by the libraries that write them, read without an option."""

import bz2
import gzip
import json
import lzma
import os
import struct
import unicodedata
import warnings
import zipfile

import gpxpy.gpx
import numpy as np
import polars as pl
import pyogrio
import pytest
import xlsxwriter
from conftest import encoded, picture

from graticule.errors import BadTableError, Note
from graticule.photos.degrees import read_degrees
from graticule.photos.table import positions, read_photos, read_points
from graticule.photos.tabular import read_table
from graticule.sources.ingest import find_file

NEED = ("path", "lat", "lon")
FRAME = pl.DataFrame({"path": ["a.jpg", "b.jpg", "c.jpg"], "lat": [37.7, 37.8, -1.5], "lon": [-122.4, -122.5, 0.25]})


def read(file, **options):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        frame = read_table(file, need=NEED, **options)
        lat, lon = positions(frame, file)
    return frame.with_columns(lat=pl.Series(lat), lon=pl.Series(lon)), [str(each.message) for each in said]


def check(file, **options):
    frame, said = read(file, **options)
    assert frame.select("path", "lat", "lon").sort("path").equals(FRAME)
    return said


def text_of(frame=FRAME, separator=",", comma=False, **names):
    text = frame.rename(names).write_csv(separator=separator)
    return text.replace(".jpg", "§").replace(".", ",").replace("§", ".jpg") if comma else text


@pytest.mark.parametrize(
    "names",
    [
        ("filename", "latitude", "longitude"),
        ("image", "lat", "lng"),
        ("Path", "Lat", "Lon"),
        ("file", "GPSLatitude", "GPSLongitude"),
        ("photo", "y", "x"),
        ("SourceFile", "GPSLatitude", "GPSLongitude"),
        ("Image Name", "Latitude (deg)", "Longitude (deg)"),
        ("Dateiname", "Breitengrad", "Längengrad"),
        ("archivo", "latitud", "longitud"),
        ("which", "decimalLatitude", "gps.lng"),  # by its values: all are names of photos
        ("файл", "широта", "долгота"),
        ("url", "est_lat", "est_lon"),
        ("SourceFile", "Composite:GPSLatitude", "Composite:GPSLongitude"),
    ],
)
def test_a_usual_other_name_is_taken_and_said(tmp_path, names):
    (tmp_path / "t.csv").write_text(text_of(**dict(zip(NEED, names, strict=True))))
    said = " ".join(check(tmp_path / "t.csv"))
    changed = [(ours, theirs) for ours, theirs in zip(NEED, names, strict=True) if ours != theirs]
    assert all(f"the column {theirs} is read as {ours}" in said for ours, theirs in changed)


def test_two_candidates_are_refused_with_both_named(tmp_path):
    frame = FRAME.rename({"lat": "latitude"}).with_columns(gps_lat=pl.lit(1.0))
    frame.write_csv(tmp_path / "t.csv")
    with pytest.raises(BadTableError, match=r"both latitude and gps_lat may be the lat; say which with --lat latitude"):
        read_table(tmp_path / "t.csv", need=NEED)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("latlon", '"{lat}, {lon}"'),
        ("Coordinates", '"[{lon}, {lat}]"'),  # no latitude is -122
        ("wkt_geom", "POINT ({lon} {lat})"),
        ("geom", "SRID=4326;POINT Z ({lon} {lat} 12.5)"),
        ("GPSPosition", '"{lat} N, {lon} E"'),
        ("location", "\"{{'lat': {lat}, 'lng': {lon}}}\""),
        ("geometry", '"{{""type"": ""Point"", ""coordinates"": [{lon}, {lat}]}}"'),
        ("location", '"https://www.google.com/maps?q={lat},{lon}&z=4"'),
        ("coords", '"geo:{lat},{lon}"'),
    ],
)
def test_positions_in_one_column_are_two(tmp_path, name, text):
    rows = FRAME.with_columns(pl.col("lat", "lon").abs()) if "N," in text else FRAME
    lines = [f"{path},{text.format(lat=lat, lon=lon)}" for path, lat, lon in rows.iter_rows()]
    (tmp_path / "t.csv").write_text("\n".join([f"path,{name}", *lines]))
    with pytest.warns(Note, match="is read as l"):
        found = positions(read_table(tmp_path / "t.csv", need=NEED), tmp_path)
    np.testing.assert_allclose(found, rows.select("lat", "lon").to_numpy().T)


def test_well_known_binary_structures_and_lists_are_positions_too(tmp_path):
    wkb = [struct.pack("<BIIdd", 1, 0x20000001, 4326, lon, lat) for _, lat, lon in FRAME.iter_rows()]  # as PostGIS
    for way in (
        pl.Series("geometry", wkb),
        pl.Series("geom", [shape.hex() for shape in wkb]),
        FRAME.select(pl.struct("lat", "lon").alias("at"))["at"],
        FRAME.select(pl.concat_list("lat", "lon").alias("location"))["location"],
    ):
        FRAME.select("path", way).write_parquet(tmp_path / "t.parquet")
        check(tmp_path / "t.parquet")


@pytest.mark.parametrize("letters", [("N", "S"), ("North", "South")])
def test_a_column_that_names_the_hemisphere_signs_the_one_beside_it(tmp_path, letters):
    """exiftool writes GPSLatitude without a sign, and its letter into GPSLatitudeRef."""
    east = [{"N": "E", "S": "W"}[letter[0]] + letter[1:] for letter in letters]
    FRAME.select(
        "path",
        pl.col("lat").abs().alias("GPSLatitude"),
        pl.when(pl.col("lat") < 0).then(pl.lit(letters[1])).otherwise(pl.lit(letters[0])).alias("GPSLatitudeRef"),
        pl.col("lon").alias("GPSLongitude"),  # signed already
        pl.when(pl.col("lon") < 0).then(pl.lit(east[1])).otherwise(pl.lit(east[0])).alias("GPSLongitudeRef"),
    ).write_csv(tmp_path / "t.csv")
    assert "GPSLatitudeRef is read as the hemisphere of GPSLatitude" in " ".join(check(tmp_path / "t.csv"))
    with pytest.warns(Note, match="hemisphere"):
        lat, lon = read_points(tmp_path / "t.csv", "GPSLatitude", "GPSLongitude")
    assert (lat.tolist(), lon.tolist()) == (FRAME["lat"].to_list(), FRAME["lon"].to_list())


def test_a_table_without_a_header_or_of_something_else_says_so(tmp_path):
    (tmp_path / "t.csv").write_text("a.jpg,37.7,-122.4\nb.jpg,37.8,-122.5\n")
    with pytest.raises(BadTableError, match=r"begins with values \(a.jpg, 37.7, -122.4\).*path,lat,lon above them"):
        read_table(tmp_path / "t.csv", need=NEED)
    (tmp_path / "t.txt").write_bytes(encoded(picture()))
    with pytest.raises(BadTableError, match="is a photo, not a text table"):
        read_table(tmp_path / "t.txt", need=NEED)


@pytest.mark.parametrize(
    "data",
    [
        FRAME.write_csv().encode("utf-16-le"),
        ("sep=;\n" + FRAME.write_csv(separator=";")).encode(),
        ("# of a walk\n#\n" + FRAME.write_csv()).encode(),
        FRAME.write_csv().replace("\n", "\r").encode(),
        FRAME.write_csv(separator=" ").replace(" ", "   ").encode(),
        ("Photos of my town\n\n" + FRAME.write_csv()).encode(),
        FRAME.write_csv().replace("\n", ",\n").replace("lon,", "lon").encode(),
        ("path,lat,lon\n" + "".join(f'="{path}",="{lat}","{lon}"\n' for path, lat, lon in FRAME.iter_rows())).encode(),
    ],
    ids=[
        "UTF-16 without its mark",
        "Excel's separator line",
        "comments",
        "returns alone",
        "spaces",
        "a title",
        "empty fields at the end",
        "Excel's text",
    ],
)
def test_text_of_other_habits(tmp_path, data):
    (tmp_path / "t.csv").write_bytes(data)
    check(tmp_path / "t.csv")


ROWS = FRAME.to_dicts()


@pytest.mark.parametrize(
    "tree",
    [
        {"images": [{"file_name": row["path"], "gps": {"lat": row["lat"], "lng": row["lon"]}} for row in ROWS]},
        {"info": [{"year": 1}], "photos": ROWS},
        {row["path"]: {"latitude": row["lat"], "longitude": row["lon"]} for row in ROWS},
        {row["path"]: [row["lat"], row["lon"]] for row in ROWS},
        FRAME.to_dict(as_series=False),
        {name: {str(row): value for row, value in enumerate(FRAME[name])} for name in FRAME.columns},
        {"columns": FRAME.columns, "index": [0, 1, 2], "data": FRAME.rows()},
        [{"path": p, "location": {"type": "Point", "coordinates": [lon, lat]}} for p, lat, lon in FRAME.iter_rows()],
    ],
    ids=["nested", "one of two lists", "by name", "pairs by name", "columns", "pandas", "pandas split", "GeoJSON"],
)
def test_json_in_many_wrappings(tmp_path, tree):
    (tmp_path / "t.json").write_text(json.dumps(tree))
    check(tmp_path / "t.json")


def test_json_under_another_suffix_packed_or_in_utf_16(tmp_path):
    lines = FRAME.write_ndjson()
    for name, data in {
        "t.json": lines.encode(), "t.jsonl": json.dumps(ROWS).encode(), "t.txt": json.dumps(ROWS).encode(),
        "t.jsonl.gz": gzip.compress(lines.encode()), "u.json": json.dumps(ROWS).encode("utf-16"),
    }.items():  # fmt: skip
        (tmp_path / name).write_bytes(data)
        check(tmp_path / name)


def test_features_that_only_their_number_names_and_of_another_system(tmp_path):
    features = [
        {"type": "Feature", "id": path, "geometry": {"type": "MultiPoint", "coordinates": [[lon, lat, 2.0]]}}
        for path, lat, lon in FRAME.iter_rows()
    ]
    tree = {"type": "FeatureCollection", "features": features}
    (tmp_path / "t.geojson").write_text(json.dumps(tree))
    check(tmp_path / "t.geojson")
    tree["crs"] = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::3857"}}
    (tmp_path / "t.geojson").write_text(json.dumps(tree))
    with pytest.raises(BadTableError, match=r"positions are in urn:ogc:def:crs:EPSG::3857, not in degrees.*ogr2ogr"):
        read(tmp_path / "t.geojson")


def test_features_a_line(tmp_path):
    lines = [
        {"type": "Feature", "geometry": {"type": "Point", "coordinates": [row["lon"], row["lat"]]},
         "properties": {"path": row["path"]}}
        for row in ROWS
    ]  # fmt: skip
    (tmp_path / "t.geojsonl").write_text("".join("\x1e" + json.dumps(line) + "\n" for line in lines))
    check(tmp_path / "t.geojsonl")


def test_a_column_of_our_own_name_is_never_passed_over(tmp_path):
    FRAME.with_columns(latitude=pl.lit(1.0)).write_csv(tmp_path / "t.csv")
    assert check(tmp_path / "t.csv") == []


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_decimal_commas_and_any_separator(tmp_path, separator):
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbf" + text_of(separator=separator, comma=True).encode())
    assert "read as decimal commas" in " ".join(check(tmp_path / "t.csv"))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "utf-8-sig"])
def test_a_mark_at_the_beginning_says_the_encoding(tmp_path, encoding):
    mark = "\ufeff".encode("utf-16-le") if encoding == "utf-16-le" else b""
    (tmp_path / "t.txt").write_bytes(mark + text_of(separator="\t").encode(encoding))
    check(tmp_path / "t.txt")


def test_another_encoding_is_asked_for_by_name(tmp_path):
    frame = FRAME.with_columns(place=pl.lit("Zürich"))
    (tmp_path / "t.csv").write_bytes(frame.write_csv().encode("cp1252"))
    with pytest.raises(BadTableError, match="is not UTF-8 text .*--encoding cp1252"):
        read(tmp_path / "t.csv")
    assert read(tmp_path / "t.csv", encoding="cp1252")[0]["place"][0] == "Zürich"
    with pytest.raises(BadTableError, match="there is no encoding 'martian'"):
        read(tmp_path / "t.csv", encoding="martian")


def test_compressed_tables(tmp_path):
    for name, pack in {"t.csv.gz": gzip.compress, "t.csv.bz2": bz2.compress, "t.xz": lzma.compress}.items():
        (tmp_path / name).write_bytes(pack(text_of().encode()))
        check(tmp_path / name)
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(text_of().encode())[:-9])
    with pytest.raises(BadTableError, match="cannot be unpacked .*cut short"):
        read(tmp_path / "t.csv.gz")


def test_arrow_json_lines_and_lists_of_objects(tmp_path):
    FRAME.write_ipc(tmp_path / "t.arrow")
    FRAME.write_ipc_stream(tmp_path / "t.arrows")
    FRAME.write_ndjson(tmp_path / "t.jsonl")
    (tmp_path / "t.json").write_text(json.dumps(FRAME.to_dicts()))
    for name in ("t.arrow", "t.arrows", "t.jsonl", "t.json"):
        check(tmp_path / name)


def test_an_excel_workbook(tmp_path):
    FRAME.write_excel(tmp_path / "t.xlsx")
    check(tmp_path / "t.xlsx")
    book = xlsxwriter.Workbook(tmp_path / "u.xlsx")
    book.add_worksheet("About").write_column("A1", ["of a walk", "by nobody"])
    sheet = book.add_worksheet("Photos")
    FRAME.write_excel(book, sheet, position="A4")
    sheet.write("A1", "All photos")
    sheet.write("A9", "Total 3")
    book.close()
    (tmp_path / "u.xlsx").rename(tmp_path / "u.xls")  # it is told by what is in it
    said = " ".join(check(tmp_path / "u.xls"))
    assert "of its 2 sheets 'Photos' is read" in said
    assert "'Total 3'" in said


def write_map(file, driver, field="path", crs="EPSG:4326", frame=FRAME, **options):
    shapes = [struct.pack("<BIdd", 1, 1, lon, lat) for lat, lon in frame.select("lat", "lon").iter_rows()]
    columns = {"geometry": np.array(shapes, object), "field_data": [frame["path"].to_numpy()], "fields": [field]}
    pyogrio.raw.write(file, **columns, geometry_type="Point", crs=crs, driver=driver, **options)


@pytest.mark.parametrize(
    ("name", "driver"),
    [
        ("t.gpkg", "GPKG"),
        ("t.shp", "ESRI Shapefile"),
        ("t.geojson", "GeoJSON"),
        ("t.kml", "KML"),
        ("t.fgb", "FlatGeobuf"),
    ],
)
def test_points_of_map_files_written_by_gdal(tmp_path, name, driver):
    write_map(tmp_path / name, driver, "Name" if driver == "KML" else "path")
    check(tmp_path / name)
    if driver == "KML":
        with zipfile.ZipFile(tmp_path / "t.kmz", "w") as packed:
            packed.write(tmp_path / name, "doc.kml")
        check(tmp_path / "t.kmz")


def test_a_map_file_in_metres_is_moved_to_degrees(tmp_path):
    """By Snyder (1987), p. 41: x = R lon, y = R ln tan(pi/4 + lat/2) with the radius 6378137 m."""
    mercator = FRAME.with_columns(
        lon=6378137 * pl.col("lon").radians(), lat=6378137 * (np.pi / 4 + pl.col("lat").radians() / 2).tan().log()
    )
    for name, driver in (("t.gpkg", "GPKG"), ("t.shp", "ESRI Shapefile")):
        write_map(tmp_path / name, driver, crs="EPSG:3857", frame=mercator)
        frame, said = read(tmp_path / name)
        np.testing.assert_allclose(frame.select("lat", "lon"), FRAME.select("lat", "lon"), atol=1e-9)
        assert "its positions are in EPSG:3857 and are moved to WGS 84" in " ".join(said)


def test_of_several_layers_that_of_the_photos_is_read_and_of_a_kml_all(tmp_path):
    write_map(tmp_path / "t.gpkg", "GPKG", "shop", layer="a")
    write_map(tmp_path / "t.gpkg", "GPKG", layer="b", append=True)
    assert "of its layers 'b' is read" in " ".join(check(tmp_path / "t.gpkg"))
    write_map(tmp_path / "t.gpkg", "GPKG", layer="c", append=True)
    with pytest.raises(BadTableError, match="several layers of points: a, b, c; save the one of the photos"):
        read(tmp_path / "t.gpkg")
    mark = "<Placemark><name>{}</name><Point><coordinates>{},{}</coordinates></Point></Placemark>"
    marks = [mark.format(path, lon, lat) for path, lat, lon in FRAME.iter_rows()]
    folders = "".join(f"<Folder><name>{name}</name>{mark}</Folder>" for name, mark in zip("ABC", marks, strict=True))
    kml = f'<kml xmlns="http://www.opengis.net/kml/2.2"><Document>{folders}</Document></kml>'
    (tmp_path / "t.kml").write_text(kml)
    check(tmp_path / "t.kml")


def test_waypoints_of_a_gpx_file(tmp_path):
    gpx = gpxpy.gpx.GPX()
    gpx.waypoints = [gpxpy.gpx.GPXWaypoint(lat, lon, name=path) for path, lat, lon in FRAME.iter_rows()]
    (tmp_path / "t.gpx").write_text(gpx.to_xml())
    check(tmp_path / "t.gpx")
    (tmp_path / "t.gpx").rename(tmp_path / "t.xml")
    check(tmp_path / "t.xml")


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("t.xlsx", b"PK\x03\x04" + bytes(range(256)), "an Excel workbook"),
        ("t.csv", b"PK\x03\x04" + bytes(range(256)), "a zip file or a spreadsheet"),
        ("t.db", b"SQLite format 3\0" + bytes(100), "an SQLite database"),
        ("t.gpkg", b"nothing of the kind", "a GeoPackage"),
        ("t.geojson", b"{", "cannot be read as JSON"),
        ("t.mat", b"MATLAB 5.0 MAT-file" + bytes(40), "a binary file of a kind that is not known"),
        ("t.txt", b"<?xml version='1.0'?><a/>", "an XML file"),
    ],
)
def test_what_cannot_be_read_is_named_and_its_bytes_are_not_printed(tmp_path, name, data, kind):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(BadTableError, match=kind) as caught:
        read(tmp_path / name)
    assert str(caught.value).isprintable()


def test_blank_lines_second_headers_and_totals_are_dropped_and_counted(tmp_path):
    lines = text_of().splitlines()
    below = [",,", "Mean,24.7,-81.6", "Total 3,,", ",,"]
    (tmp_path / "t.csv").write_text("\n".join([lines[0], ",deg,deg", *lines[1:3], "PATH,Lat,Lon", *lines[3:], *below]))
    said = " ".join(check(tmp_path / "t.csv"))
    assert "2 blank rows dropped" in said
    assert "1 repeated headers dropped" in said
    assert "the first row ('') names no photo and is dropped" in said
    assert "the last row ('Mean') names no photo" in said
    assert "the last row ('Total 3') names no photo and is dropped" in said


def test_a_line_with_too_many_fields_is_named(tmp_path):
    (tmp_path / "t.csv").write_text("path,lat,lon\na.jpg,37,7,-122,4\n")
    with pytest.raises(BadTableError, match="line 2 has 5 fields and the header 3; put quotes .* decimal commas"):
        read(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("text", "axis", "degrees"),
    [
        ("37°46'12\"N", "lat", 37.77),
        ("37° 46′ 12″ S", "lat", -37.77),
        ("122 25 9.84 W", "lon", -(122 + 25 / 60 + 9.84 / 3600)),
        ("W122°25.164'", "lon", -(122 + 25.164 / 60)),
        ("122:25:09,84 E", "lon", 122 + 25 / 60 + 9.84 / 3600),
        ("-0°30'0\"", "lon", -0.5),
        ("37.77N", "lat", 37.77),
        ("37,77 s", "lat", -37.77),
        ("-122,4194", "lon", -122.4194),
        ("\u2212122.4194", "lon", -122.4194),
        ("1.5e1", "lat", 15.0),
        ("37.77E", "lat", None),  # a letter of the other axis
        ("37d46m12sN", "lat", 37.77),
        ("37 deg 46 min 12 sec South", "lat", -37.77),
        ("37˚46´12´´ N", "lat", 37.77),
        ("37º46’12”n", "lat", 37.77),
        ("37-46-12.00N", "lat", 37.77),
        ("37-46", "lat", None),  # perhaps a range
        ("37,46.2N", "lat", 37.77),  # as XMP
        ("'-122.4194", "lon", -122.4194),
        ("N: 37.77°", "lat", 37.77),
        ("37°61'N", "lat", None),
        ("-37.77 S", "lat", None),
        ("north", "lat", None),
        ("1.234,5", "lat", None),
    ],
)
def test_degrees_as_people_write_them(text, axis, degrees):
    [found], _ = read_degrees(pl.Series(axis, [text]), axis)
    assert found == pytest.approx(degrees, abs=1e-12) if degrees is not None else np.isnan(found)


def test_the_letter_o_is_east_or_west_by_the_other_letter_of_its_column():
    assert read_degrees(pl.Series("lon", ["13° 24' O", "2° 30' W"]), "lon")[0].tolist() == [13.4, -2.5]
    assert read_degrees(pl.Series("lon", ["13.4 O", "2.5 E"]), "lon")[0].tolist() == [-13.4, 2.5]
    with pytest.raises(
        BadTableError, match=r"the letter O may be Ost \(east\) or Ouest and Oeste \(west\); write E or W"
    ):
        read_degrees(pl.Series("lon", ["13.4 O"]), "lon")


@pytest.mark.parametrize("other", ["37,7", "37.7N", "37°42'N"])
def test_a_column_that_mixes_ways_is_refused_with_both_rows(other):
    with pytest.raises(BadTableError, match=r"the column lat mixes decimal degrees \(row 2: 37.5\) and .* \(row 3: "):
        read_degrees(pl.Series("lat", ["37", "37.5", other]), "lat")


def test_files_are_found_as_other_systems_write_their_names(tmp_path):
    (tmp_path / "ph").mkdir()
    for name in ("a b.jpg", unicodedata.normalize("NFD", "é.jpg")):
        (tmp_path / "ph" / name).touch()
    first = tmp_path / "ph" / "a b.jpg"
    written = [
        "ph/a b.jpg",
        "ph\\a b.jpg",
        first.as_uri(),
        str(first),
        "C:\\Users\\me\\ph\\a b.jpg",
        "file:///D:/x/ph/a%20b.jpg",
        "\\\\server\\share\\ph\\a b.jpg",
        "/home/else/ph/a b.jpg",
        f"{tmp_path.name}\\ph\\a b.jpg",
        " ph/a b.jpg ",
    ]
    assert [find_file(tmp_path, name) for name in written] == [first] * len(written)
    assert find_file(tmp_path, "ph/é.jpg").is_file()
    assert find_file(tmp_path, "ph\\none.jpg") == tmp_path / "ph\\none.jpg"


def test_files_are_found_whatever_their_capitals_and_without_their_suffix(tmp_path):
    (tmp_path / "Photos").mkdir()
    for name in ("IMG_1.JPG", "b.jpg", "b.png"):
        (tmp_path / "Photos" / name).touch()
    first = tmp_path / "Photos/IMG_1.JPG"
    for written in ("photos/img_1.jpg", "Photos\\IMG_1.jpg", "Photos/IMG_1"):
        assert find_file(tmp_path, written) == first
    assert find_file(tmp_path, "Photos/b") == tmp_path / "Photos/b"  # two fit


def test_a_table_is_trained_on_with_the_same_habits(tmp_path):
    (tmp_path / "t.csv").write_text(
        text_of(separator=";", comma=True, path="filename", lat="Latitude", lon="Longitude")
    )
    with pytest.warns(Note):
        photos = read_photos(tmp_path / "t.csv")
    assert photos.frame.select("path", "lat", "lon").equals(FRAME)
    assert os.fspath(photos.root) == str(tmp_path)
