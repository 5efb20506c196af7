"""Photos whose position stands elsewhere than in EXIF: XMP, Google Takeout, Mapillary's tools, GPS loggers."""

import json
import unicodedata
from datetime import UTC, datetime, timedelta

import gpxpy.gpx
import numpy as np
import polars as pl
import pytest
from conftest import encoded, exif_of, picture
from PIL import Image
from test_cli import graticule

from graticule.errors import TooManyRefusedError
from graticule.geo.sphere import within_rounding
from graticule.photos import images
from graticule.photos.xmp import Xmp, read_xmp
from graticule.sources.beside import takeout
from graticule.sources.folder import import_folder

EXIF_NS, PANO_NS = "http://ns.adobe.com/exif/1.0/", "http://ns.google.com/photos/1.0/panorama/"


def packet(**facts):
    said = " ".join(f'{name.replace("_", ":")}="{value}"' for name, value in facts.items())
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" xmlns:exif="{EXIF_NS}" xmlns:GPano="{PANO_NS}" '
        f'xmlns:drone="http://www.dji.com/drone-dji/1.0/" {said}/></rdf:RDF></x:xmpmeta>'
    )


def photo(file, seed=0, gps=None, taken=None, xmp=None):
    """A JPEG as Pillow writes it; ``gps`` is (lat, lon) as decimal degrees with letters, or a whole GPS directory."""
    exif = Image.Exif()
    if isinstance(gps, tuple):
        lat, lon = gps
        gps = {1: "N" if lat >= 0 else "S", 2: abs(lat), 3: "E" if lon >= 0 else "W", 4: abs(lon)}
    if gps:
        exif[0x8825] = gps
    if taken:
        exif[0x8769] = {0x9003: taken}
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(64, 48, seed=seed)).save(file, exif=exif, **({"xmp": xmp.encode()} if xmp else {}))


def dataset(folder, out, **options):
    import_folder(folder, out, **options)
    return pl.read_parquet(out / "photos.parquet").sort("path")


@pytest.mark.parametrize(
    ("facts", "found"),
    [
        ({"exif_GPSLatitude": "48,12.5N", "exif_GPSLongitude": "17,6.25W"}, (48 + 12.5 / 60, -17 - 6.25 / 60)),
        ({"exif_GPSLatitude": "48,12,30S", "exif_GPSLongitude": "17,6,15E"}, (-48 - 12.5 / 60, 17 + 6.25 / 60)),
        (
            {"exif_GPSLatitude": "48.25", "exif_GPSLatitudeRef": "S", "exif_GPSLongitude": "-17.5"},
            (-48.25, -17.5),
        ),
        ({"exif_GPSLatitude": "48.25", "exif_GPSLongitude": "-17.5"}, (48.25, -17.5)),  # a sign says how both are meant
        (
            {
                "exif_GPSLatitude": "48,20833",
                "exif_GPSLatitudeRef": "N",
                "exif_GPSLongitude": "16,37",
                "exif_GPSLongitudeRef": "W",
            },
            (48.20833, -16.37),  # decimal commas: no minute is 20833
        ),
        (
            {"exif_GPSLatitude": "48/1,12/1,30/1", "exif_GPSLatitudeRef": "North", "exif_GPSLongitude": "W 17,6.25"},
            (48 + 12.5 / 60, -17 - 6.25 / 60),
        ),
        (
            {"exif_GPSLatitude": "48 deg 12' 30.00&quot; N", "exif_GPSLongitude": "17°6'15&quot;W"},
            (48 + 12.5 / 60, -17 - 6.25 / 60),
        ),
        ({"drone_GpsLatitude": "+22.5", "drone_GpsLongtitude": "-113.25"}, (22.5, -113.25)),  # so DJI spelled it
        ({"exif_GPSLatitude": "48.25", "exif_GPSLongitude": "17.5"}, (None, None)),  # of which hemisphere?
        ({"exif_GPSLatitude": "48,12.5E", "exif_GPSLongitude": "17,6.25W"}, (None, None)),
    ],
)
def test_positions_in_xmp(facts, found):
    assert read_xmp(packet(**facts))[:2] == pytest.approx(found)


def test_elements_say_what_attributes_do():
    text = packet().replace("/></rdf:RDF>", "><exif:GPSLatitude>1,30N</exif:GPSLatitude><exif:GPSLongitude>2,0E"
                            "</exif:GPSLongitude></rdf:Description></rdf:RDF>")  # fmt: skip
    assert read_xmp(text) == Xmp(1.5, 2.0, None)


@pytest.mark.parametrize("text", ["", "<x", "no xml", '<!DOCTYPE x [<!ENTITY a "b">]><x>&a;</x>', "<x>" + " " * 2**20])
def test_a_packet_that_is_none_says_nothing(text):
    assert read_xmp(text) == Xmp()


def test_a_cropped_panorama_looks_where_the_middle_of_what_is_left_looks():
    assert read_xmp(packet(GPano_PoseHeadingDegrees="350")).heading == 350
    assert read_xmp(packet(exif_GPSImgDirection="12345/100")).heading == 123.45
    right_half = {"FullPanoWidthPixels": 800, "CroppedAreaLeftPixels": 400, "CroppedAreaImageWidthPixels": 400}
    crop = {f"GPano_{name}": value for name, value in right_half.items()}
    assert read_xmp(packet(GPano_PoseHeadingDegrees="350", **crop)).heading == pytest.approx(80)


def test_exif_comes_before_xmp_and_xmp_before_a_file_beside(tmp_path):
    says = packet(exif_GPSLatitude="1,0N", exif_GPSLongitude="1,0E")
    photo(tmp_path / "ph/a.jpg", 1, gps=(50.0, 5.0), xmp=says)
    photo(tmp_path / "ph/b.jpg", 2, xmp=says)
    photo(tmp_path / "ph/c.jpg", 3)
    photo(tmp_path / "ph/d.jpg", 4, xmp=says)
    photo(tmp_path / "ph/e.jpg", 5, gps=(0.0, 0.0))  # which cameras write that know nothing
    for name in ("C.XMP", "d.jpg.xmp", "e.xmp"):
        (tmp_path / "ph" / name).write_text(packet(exif_GPSLatitude="2,0N", exif_GPSLongitude="2,0E"), "utf-16")
    (tmp_path / "ph/c.jpg.xmp").write_text(packet(GPano_PoseHeadingDegrees="90"))  # two of one photo
    found = dataset(tmp_path / "ph", tmp_path / "out")
    assert found["lat"].to_list() == [50, 1, 2, 1, 2]
    assert found["heading"].to_list() == [None, None, 90, None, None]


def test_rounding_beyond_the_globe_is_put_back_and_more_is_refused(tmp_path):
    lat, lon = within_rounding([90.00003, -90.0001, 90.001, np.nan], [180.00001, -180.0001, 181, 0])
    np.testing.assert_allclose(lat, [90, -90, 90.001, np.nan])
    np.testing.assert_allclose(lon, [-179.99999, 179.9999, 181, 0])
    photo(tmp_path / "ph/a.jpg", 1, gps=(90.000003, 0.5))
    photo(tmp_path / "ph/b.jpg", 2, gps=(10.0, 180.0000083))
    photo(tmp_path / "ph/c.jpg", 3, gps=(90.01, 5.0))
    found = dataset(tmp_path / "ph", tmp_path / "out", max_refused=1)
    assert found["lat"].to_list() == pytest.approx([90, 10])
    assert found["lon"].to_list() == pytest.approx([0.5, -179.9999917])
    assert pl.read_parquet(tmp_path / "out/refused.parquet")["reason"].to_list() == ["off the globe"]


def test_a_position_without_its_hemisphere_has_a_reason_of_its_own_and_an_option(tmp_path):
    photo(tmp_path / "ph/a.jpg", 1, gps={2: 52.18, 4: 4.83})
    assert images.inspect((tmp_path / "ph/a.jpg").read_bytes()).no_hemisphere == "52.18000 4.83000"
    with pytest.raises(TooManyRefusedError, match=r"1 no hemisphere.*52.18000 4.83000 without .*--hemisphere"):
        import_folder(tmp_path / "ph", tmp_path / "none")
    done = graticule("data", "folder", tmp_path / "ph", tmp_path / "out", "--hemisphere", "SW")
    assert done.returncode == 0, done.stderr
    assert pl.read_parquet(tmp_path / "out/photos.parquet").select("lat", "lon").row(0) == pytest.approx(
        (-52.18, -4.83)
    )
    assert (
        "takes NE, NW, SE or SW"
        in graticule("data", "folder", tmp_path / "ph", tmp_path / "x", "--hemisphere", "N").stderr
    )


def test_absolute_paths_of_mapillarys_tools_and_what_they_could_not_place(tmp_path):
    photo(tmp_path / "ph/a.jpg", 0)
    photo(tmp_path / "ph/b.jpg", 1)
    rows = [{"filename": "/elsewhere/ph/a.jpg", "MAPLatitude": 1.5, "MAPLongitude": 2.5},
            {"filename": "/elsewhere/ph/b.jpg", "MAPLatitude": 3.5, "MAPLongitude": 4.5, "MAPCompassHeading": None},
            {"filename": "/elsewhere/ph/a.jpg", "error": {"type": "MapillaryDuplicationError"}},
            {"filename": "/elsewhere/ph/c/a.jpg", "MAPLatitude": 5.5, "MAPLongitude": 6.5}]  # fmt: skip
    photo(tmp_path / "ph/c/a.jpg", 2)
    (tmp_path / "ph/mapillary_image_description.json").write_text(json.dumps(rows))
    assert dataset(tmp_path / "ph", tmp_path / "out")["lat"].to_list() == [1.5, 3.5, 5.5]


def test_the_clock_of_the_receiver_tells_the_time_where_the_cameras_does_not():
    exif = exif_of(10.0, 20.0)
    exif.get_ifd(0x8825).update({29: "2020:05:01", 7: (10.0, 0.0, 5.0)})
    found = images.inspect(encoded(picture(), exif=exif))
    assert found.captured_at == datetime(2020, 5, 1, 10, 0, 5, tzinfo=UTC)


@pytest.mark.parametrize("way", ["track", "route", "waypoints"])
def test_a_track_places_photos_by_their_clock_however_its_logger_wrote_it(tmp_path, way):
    moment = datetime(2020, 5, 1, 10, 0, 0, tzinfo=UTC)
    at = [{"latitude": 47 + i / 1000, "longitude": 8.0, "time": moment + timedelta(seconds=100 * i)} for i in (0, 1, 2)]
    gpx = gpxpy.gpx.GPX()
    if way == "track":
        points = [gpxpy.gpx.GPXTrackPoint(**each) for each in at]
        gpx.tracks = [gpxpy.gpx.GPXTrack("Zürich")]
        gpx.tracks[0].segments = [gpxpy.gpx.GPXTrackSegment(points)]
    elif way == "route":
        gpx.routes = [gpxpy.gpx.GPXRoute()]
        gpx.routes[0].points = [gpxpy.gpx.GPXRoutePoint(**each) for each in at]
    else:
        gpx.waypoints = [gpxpy.gpx.GPXWaypoint(**each) for each in at]
    text = gpx.to_xml().replace("UTF-8", "ISO-8859-1")
    (tmp_path / "t.gpx").write_text(text, "latin-1")
    photo(tmp_path / "ph/a.jpg", 1, taken="2020:05:01 12:01:50")
    photo(tmp_path / "ph/b.jpg", 2, taken="2020:05:01 18:00:00")
    photo(tmp_path / "ph/c.jpg", 3)
    photo(tmp_path / "ph/d.jpg", 4, gps=(50.0, 5.0), taken="2020:05:01 12:01:50")
    options = {"tracks": [tmp_path / "t.gpx"], "clock_offset": timedelta(hours=-2)}
    found = dataset(tmp_path / "ph", tmp_path / "out", max_refused=1, **options)
    assert found["lat"].to_list() == pytest.approx([47.0011, 50])
    assert found["position_error_km"].to_list() == [pytest.approx(0.0556, abs=1e-4), None]  # EXIF has none of it
    refused = pl.read_parquet(tmp_path / "out/refused.parquet").sort("path")["detail"].to_list()
    assert "2020-05-01 16:00:00 UTC, outside the tracks of 2020-05-01 10:00:00 to 2020-05-01 10:03:20 UTC" in refused[0]
    assert "does not say when it was taken" in refused[1]


LONG = "a photo with a long name that somebody gave it once.jpg"  # 55 letters


@pytest.mark.parametrize(
    ("name", "beside", "fits"),
    [
        ("IMG_1.jpg", "IMG_1.jpg.json", True),
        ("IMG_1(2).jpg", "IMG_1.jpg(2).json", True),
        ("IMG_1(2).jpg", "IMG_1(2).jpg.json", True),
        ("IMG_1.jpg", "IMG_1.jpg(2).json", False),
        ("IMG_1(2).jpg", "IMG_1.jpg(3).json", False),
        ("IMG_1.jpg", "IMG_1.jpg.supplemental-metadata.json", True),
        ("IMG_1.jpg", "IMG_1.jpg.suppl.json", True),
        ("IMG_1(2).jpg", "IMG_1.jpg.supplemental-metadata(2).json", True),
        ("IMG_1-edited.jpg", "IMG_1.jpg.json", True),
        ("IMG_1-bearbeitet(2).jpg", "IMG_1.jpg(2).json", True),
        ("IMG_1.JPG", "IMG_1.json", True),
        ("IMG_1.JPG", "IMG_1.jpg.JSON", True),
        ("IMG_1.jpg", "IMG_1.HEIC.json", True),  # converted after the export
        ("IMG_1-編集済み.jpg", "IMG_1.jpg.json", True),
        (unicodedata.normalize("NFD", "IMG_1-modifié.jpg"), "IMG_1.jpg.json", True),
        (LONG, LONG[:46] + ".json", True),
        (LONG, LONG[:20] + ".json", False),
        ("IMG_1.jpg", "IMG_10.jpg.json", False),
        ("IMG_1.jpg", "IMG_1.png.json", False),
    ],
)
def test_takeouts_names_of_the_json_beside_a_photo(tmp_path, name, beside, fits):
    said = {"geoData": {"latitude": 1.5, "longitude": 2.5}, "photoTakenTime": {"timestamp": "1600000000"}}
    (tmp_path / beside).write_text(json.dumps(said))
    found = takeout()(tmp_path / name, None)
    assert (found is not None) == fits
    if found:
        assert (found.lat, found.lon) == (1.5, 2.5)
        assert found.captured_at == datetime(2020, 9, 13, 12, 26, 40, tzinfo=UTC)


def test_each_photo_of_a_takeout_has_its_own_json(tmp_path):
    for i, (name, beside) in enumerate(
        [("a.jpg", "a.jpg.json"), ("a(1).jpg", "a.jpg(1).json"), ("b.jpg", "b.jpg.json")]
    ):
        photo(tmp_path / "to" / name, i)
        nowhere, here = {"latitude": 0.0, "longitude": 0.0}, {"latitude": 10.0 + i, "longitude": 20.0}
        tree = {"geoData": nowhere, "geoDataExif": here} if i else {"geoData": here}
        (tmp_path / "to" / beside).write_text(json.dumps(tree))
    found = dataset(tmp_path / "to", tmp_path / "out")
    names = [path.rsplit("/")[-1] for path in found["path"]]
    assert dict(zip(names, found["lat"], strict=True)) == {"a.jpg": 10, "a(1).jpg": 11, "b.jpg": 12}
