"""Raw files are seen through the JPEG inside, and placed by their own EXIF."""

import io
import struct

import numpy as np
import polars as pl
import pytest
from conftest import encoded, exif_of, picture
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from graticule.errors import BadPhotoError
from graticule.photos import images, raw
from graticule.sources.folder import import_folder


def dng_of(*jpegs, exif=None, tags=None):
    """A DNG in its outer form: a directory with EXIF whose parts are JPEGs in one strip each."""
    file = io.BytesIO(b"II*\0\0\0\0\0")
    file.seek(8)
    parts = []
    for jpeg in jpegs:
        part = ImageFileDirectory_v2(b"II*\0\0\0\0\0")
        part[raw.COMPRESSION], part[raw.PHOTOMETRIC], part[raw.STRIPS], part[raw.STRIP_BYTES] = 7, 6, 0, len(jpeg)
        parts.append(file.tell())
        file.write(part.tobytes(file.tell()) + jpeg)  # Pillow counts strips from the end of their directory
    first = ImageFileDirectory_v2(b"II*\0\0\0\0\0")
    exif = exif or Image.Exif()
    for tag, value in exif.items():
        first[tag] = value
    for tag in (0x8769, 0x8825):
        if inner := exif.get_ifd(tag):
            directory = ImageFileDirectory_v2(b"II*\0\0\0\0\0")
            for key, value in inner.items():
                directory[key] = value
            first.tagtype[tag] = 4
            first[tag] = file.tell()
            file.write(directory.tobytes(file.tell()))
    first.tagtype[raw.DNG_VERSION], first[raw.DNG_VERSION] = 1, b"\1\4\0\0"
    if parts:
        first.tagtype[raw.SUB_IFDS], first[raw.SUB_IFDS] = 4, tuple(parts)
    for tag, value in (tags or {}).items():
        first[tag] = value
    at = file.tell()
    file.write(first.tobytes(at))
    return b"II*\0" + struct.pack("<I", at) + file.getvalue()[8:]


SMALL, LARGE = picture(40, 30, 1), picture(160, 120, 2)


def test_a_dng_is_seen_through_its_largest_preview_and_placed_by_its_own_exif():
    exif = exif_of(48.2, -16.37, orientation=6, captured_at="2024:05:01 12:00:00", heading=90.0)
    data = dng_of(encoded(SMALL), encoded(LARGE, quality=95), exif=exif)
    facts = images.inspect(data)
    assert (facts.width, facts.height) == (120, 160)  # turned, as the raw file says
    assert (facts.lat, facts.lon, facts.heading) == (pytest.approx(48.2), pytest.approx(-16.37), 90)
    assert facts.captured_at.isoformat() == "2024-05-01T12:00:00"
    assert facts.camera == "Acme Phone 3"
    upright = images.decode(encoded(LARGE, quality=95, exif=exif_of(orientation=6)))
    np.testing.assert_array_equal(images.decode(data), upright)


def test_the_sensors_own_lossless_jpeg_is_no_preview():
    lossless = b"\xff\xd8\xff\xc3" + encoded(LARGE)[2:]
    assert raw.preview(dng_of(lossless, encoded(SMALL))) == encoded(SMALL)


def test_a_raw_file_without_a_preview_and_one_of_another_kind_say_what_to_do():
    for data, words in [
        (dng_of(), "without a JPEG inside"),
        (b"FUJIFILMCCD-RAW " + bytes(100), "kind that is not read"),
    ]:
        with pytest.raises(BadPhotoError, match=words) as caught:
            images.decode(data)
        assert caught.value.reason == "unreadable"
        assert "export it as JPEG" in str(caught.value)


def test_a_plain_tiff_is_no_raw_file():
    assert raw.preview(encoded(LARGE, "TIFF")) is None


def test_damaged_directories_end_the_search():
    data = dng_of(encoded(SMALL))
    for cut in range(8, len(data), 37):
        raw.preview(data[:cut])
    looped = dng_of(tags={raw.SUB_IFDS: (8,)})
    assert raw.preview(looped) == b""


def test_a_raw_file_beside_its_photo_is_the_same_photo_and_other_phone_files_are_read(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    jpeg = encoded(picture(seed=3), exif=exif_of(48.0, 2.0))
    clip = b"\0\0\0\x18ftypmp42\0\0\0\0isommp42" + b"\0\0\0\x08mdat" * 500
    files = {
        "a.jpg": jpeg,
        "a.dng": dng_of(encoded(picture(seed=3)), exif=exif_of(48.0, 2.0)),
        "b.dng": dng_of(encoded(picture(seed=4)), exif=exif_of(48.1, 2.0)),
        "live.heic": encoded(picture(seed=5), "HEIF", exif=exif_of(48.2, 2.0)),
        "live.mov": clip,
        "motion.jpg": encoded(picture(seed=6), exif=exif_of(48.3, 2.0)) + clip,
        "two.mpo": encoded(
            picture(seed=7), "MPO", save_all=True, append_images=[Image.fromarray(SMALL)], exif=exif_of(48.4, 2.0)
        ),
        "print.jpg": encoded(Image.fromarray(picture(seed=8)).convert("CMYK"), exif=exif_of(48.5, 2.0)),
        "c.cr3": b"\0\0\0\x18ftypcrx " + bytes(100),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    out = import_folder(folder, tmp_path / "out", max_refused=0.5)
    found = pl.read_parquet(out / "photos.parquet")
    assert [path.rpartition("/")[2] for path in found["path"]] == [
        "a.jpg", "b.dng", "live.heic", "motion.jpg", "print.jpg", "two.mpo",
    ]  # fmt: skip
    assert found["lat"].to_list() == pytest.approx([48.0, 48.1, 48.2, 48.3, 48.5, 48.4])
    refused = pl.read_parquet(out / "refused.parquet")
    assert "raw file of a kind that is not read" in refused["detail"][0]
