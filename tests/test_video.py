"""Videos that know where they went: made by PyAV, their tracks by gpxpy, GoPro's stream as its manual lays it out."""

import struct
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import gpxpy.gpx
import numpy as np
import polars as pl
import pytest
from conftest import encoded, exif_of, picture
from PIL import Image
from test_cli import graticule

from graticule.errors import BadTableError, Note, TooManyRefusedError
from graticule.geo.sphere import bearing, great_circle_km
from graticule.photos.tracks import Track, headings, spaced
from graticule.sources.folder import import_folder
from graticule.sources.video import import_videos

av = pytest.importorskip("av")
pytest.importorskip("telemetry_parser")
START = datetime(2024, 5, 1, 10, tzinfo=UTC)
EAST = 0.0002  # degrees of longitude in a second, 15 m at 47.5° N


def video(file, seconds=6, created=START, gpmf=None, rate=5):
    """An MP4 whose brightness grows with its frames, and maybe a stream of GoPro's."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(file), "w") as out:
        if created:
            out.metadata["creation_time"] = created.strftime("%Y-%m-%dT%H:%M:%S.000000Z")
        stream = out.add_stream("mpeg4", rate=rate, width=96, height=64, pix_fmt="yuv420p", options={"g": "5"})
        data = out.add_data_stream("bin_data") if gpmf else None
        if data:
            data.time_base = Fraction(1, 1000)
            data.metadata["handler_name"] = "GoPro MET"
        look = picture(96, 64) // 4
        for number in range(seconds * rate):
            frame = av.VideoFrame.from_ndarray(look + np.uint8(number * 150 // (seconds * rate)), "rgb24")
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        for second, payload in enumerate(gpmf or ()):
            packet = av.Packet(payload)
            packet.stream, packet.pts, packet.dts, packet.duration = data, second * 1000, second * 1000, 1000
            packet.time_base = Fraction(1, 1000)
            out.mux(packet)
    return file


def gpx(file, seconds=6, begin=START):
    track = gpxpy.gpx.GPXTrackSegment(
        [
            gpxpy.gpx.GPXTrackPoint(47.5, 8 + EAST * second, time=begin + timedelta(seconds=second))
            for second in range(seconds + 1)
        ]
    )
    whole = gpxpy.gpx.GPX()
    whole.tracks.append(gpxpy.gpx.GPXTrack())
    whole.tracks[0].segments.append(track)
    file.write_text(whole.to_xml())
    return file


def klv(key, kind, size, *rows):
    data = b"".join(rows)
    return key + struct.pack(">cBH", kind, size, len(rows)) + data + b"\0" * (-len(data) % 4)


def hero(second, *, fix=3, rows=18, new=False):
    """A second of GoPro's stream: GPS5 of a Hero 5 to 11, or GPS9 of a Hero 11 and later."""
    spots = [(int(47.5e7), round((8 + EAST * (second + row / rows)) * 1e7)) for row in range(rows)]
    if new:
        days = (START - datetime(2000, 1, 1, tzinfo=UTC)).days
        table = [struct.pack(">7l2H", *spot, 400000, 15000, 1500, days, 36_000_000 + second * 1000 + row * 55, 150, fix)
                 for row, spot in enumerate(spots)]  # fmt: skip
        scale, gps = (10**7, 10**7, 1000, 1000, 100, 1, 1000, 100, 1), klv(b"GPS9", b"?", 32, *table)
        head = klv(b"TYPE", b"c", 9, b"lllllllSS")
    else:
        moment = f"24050110{second // 60:02}{second % 60:02}.000".encode()
        head = klv(b"GPSF", b"L", 4, struct.pack(">L", fix)) + klv(b"GPSU", b"U", 16, moment)
        scale = (10**7, 10**7, 1000, 1000, 100)
        gps = klv(b"GPS5", b"l", 20, *(struct.pack(">5l", *spot, 400000, 15000, 1500) for spot in spots))
    scale = klv(b"SCAL", b"l", 4, *(struct.pack(">l", value) for value in scale))
    inner = klv(b"STRM", b"\0", 1, *(bytes([byte]) for byte in head + scale + gps))
    return klv(b"DEVC", b"\0", 1, *(bytes([byte]) for byte in klv(b"DVID", b"L", 4, b"\0\0\0\1") + inner))


def check(dataset, every_km=0.02, first_second=0.0):
    """Frames so far apart, at the place where the track was at their time, in the picture of that time."""
    rows = pl.read_parquet(dataset / "photos.parquet").sort("path")
    seconds = [(datetime.fromisoformat(at) - START).total_seconds() for at in rows["captured_at"]]
    np.testing.assert_allclose(rows["lon"], 8 + EAST * np.array(seconds), atol=EAST * 0.15)  # 10 steps a second
    apart = great_circle_km(rows["lat"][:-1], rows["lon"][:-1], rows["lat"][1:], rows["lon"][1:])
    assert apart.min() >= every_km
    assert apart.max() < every_km + 0.004  # a frame of 5 in a second
    np.testing.assert_allclose(rows["heading"], 90, atol=0.1)
    assert seconds[0] == pytest.approx(first_second, abs=0.2)
    return rows


def test_frames_of_a_dashcam_lie_where_the_track_beside_it_was(tmp_path):
    video(tmp_path / "in/drive.mp4")
    gpx(tmp_path / "in/drive.gpx")
    done = graticule("data", "video", tmp_path / "in", tmp_path / "out", "--every-m", "20")
    assert done.returncode == 0, done.stderr
    rows = check(tmp_path / "out")
    assert set(rows["sequence"]) == {"drive.mp4"}
    assert rows["position_error_km"].max() < 0.008
    light = [np.asarray(Image.open(tmp_path / "out" / path)).mean() for path in rows["path"]]
    assert (np.diff(light) > 10).all()


@pytest.mark.parametrize("new", [False, True])
def test_positions_that_a_gopro_writes_into_its_video_are_read_where_it_had_a_fix(tmp_path, new):
    payloads = [hero(second, fix=0 if second < 2 else 3, new=new) for second in range(6)]
    video(tmp_path / "GX01.MP4", gpmf=payloads, created=START + timedelta(hours=2))  # local time, called UTC
    import_videos(tmp_path / "GX01.MP4", tmp_path / "out", every_km=0.02)
    check(tmp_path / "out", first_second=2.0)


def test_a_clock_in_another_zone_is_said_and_one_of_another_day_needs_an_offset(tmp_path):
    video(tmp_path / "in/a.mp4", created=START + timedelta(hours=2))
    track = gpx(tmp_path / "track.gpx")
    with pytest.raises(TooManyRefusedError, match="2024-05-01 12:00:00 by its own clock.*10:00:06 UTC; set --clock"):
        import_videos(tmp_path / "in", tmp_path / "none", tracks=[track])
    import_videos(tmp_path / "in", tmp_path / "out", every_km=0.02, tracks=[track], clock_offset=timedelta(hours=-2))
    check(tmp_path / "out")
    track.rename(tmp_path / "in/a.gpx")
    with pytest.warns(Note, match="taken to begin with its first frame"):
        import_videos(tmp_path / "in", tmp_path / "guessed", every_km=0.02)
    check(tmp_path / "guessed")


def test_a_video_without_positions_or_that_is_damaged_is_refused_with_its_reason(tmp_path):
    whole = video(tmp_path / "in/none.mp4").read_bytes()
    (tmp_path / "in/cut.mp4").write_bytes(whole[: len(whole) // 2])
    video(tmp_path / "in/good.mp4")
    gpx(tmp_path / "in/good.gpx")
    import_videos(tmp_path / "in", tmp_path / "out", max_refused=0.9)
    refused = dict(pl.read_parquet(tmp_path / "out/refused.parquet").select("path", "reason").iter_rows())
    assert refused == {"cut.mp4": "unreadable", "none.mp4": "no position"}


def test_videos_among_photos_are_named_and_the_moving_half_of_a_live_photo_is_none(tmp_path):
    video(tmp_path / "in/IMG_1.mov")
    (tmp_path / "in/IMG_1.jpg").write_bytes(encoded(picture(), exif=exif_of(47.5, 8.0)))
    import_folder(tmp_path / "in", tmp_path / "one")
    with pytest.raises(BadTableError, match="holds no video"):
        import_videos(tmp_path / "in", tmp_path / "two")
    video(tmp_path / "in/drive.mp4")
    with pytest.warns(Note, match="1 videos such as drive.mp4 are left out; `graticule data video "):
        import_folder(tmp_path / "in", tmp_path / "three")
    (tmp_path / "in/IMG_1.jpg").unlink()
    with pytest.raises(BadTableError, match="holds no photos, and 2 videos"):
        import_folder(tmp_path / "in", tmp_path / "four")


def test_who_stands_still_gives_one_frame_and_no_heading():
    jitter = np.random.default_rng(0).normal(0, 5e-6, (2, 500))  # half a metre
    assert spaced(47.5 + jitter[0], 8 + jitter[1], 0.01).tolist() == [0]
    track = Track(np.arange(500.0), 47.5 + jitter[0] * 0.1, 8 + jitter[1] * 0.1)
    assert np.isnan(headings(track, [100.0])).all()


def test_a_bearing_is_that_of_s2_s_points():
    rng = np.random.default_rng(1)
    lat, lon, course = rng.uniform(-80, 80, 50), rng.uniform(-180, 180, 50), rng.uniform(0, 360, 50)
    far = np.radians(0.001)  # a small step along the course on a plane
    lat_b = lat + np.degrees(far) * np.cos(np.radians(course))
    lon_b = lon + np.degrees(far) * np.sin(np.radians(course)) / np.cos(np.radians(lat))
    assert np.abs((bearing(lat, lon, lat_b, lon_b) - course + 180) % 360 - 180).max() < 0.01
    assert bearing(0, 179.9, 0, -179.9) == pytest.approx(90)
