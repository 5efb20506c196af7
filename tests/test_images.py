"""Bytes to upright RGB: every odd file is read right or refused with a sentence."""

import contextlib
import io
import struct
import zlib
from datetime import datetime, timedelta, timezone

import numpy as np
import polars as pl
import pytest
from conftest import encoded, exif_of, picture
from PIL import Image, ImageOps

from graticule.errors import BadPhotoError
from graticule.photos import images

FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "HEIF", "AVIF"]


def mean_difference(a, b):
    assert a.shape == b.shape
    return np.abs(a.astype(float) - b.astype(float)).mean()


def refusal(data, look=images.decode):
    with pytest.raises(BadPhotoError) as caught:
        look(data)
    assert caught.value.reason in images.REASONS
    return caught.value.reason, str(caught.value)


def png_header(width, height):
    """A PNG that claims to be huge and holds next to nothing."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )


@pytest.mark.parametrize("format_", FORMATS)
def test_every_format_decodes_to_the_same_picture(format_):
    pixels = picture()
    decoded = images.decode(encoded(pixels, format_))
    assert decoded.dtype == np.uint8
    assert decoded.flags.c_contiguous
    assert mean_difference(decoded, pixels) < (13 if format_ == "GIF" else 4)
    assert images.inspect(encoded(pixels, format_)).format == format_


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_rotated_phone_photo_stands_upright_as_in_pillow(orientation, format_):
    data = encoded(picture(), format_, exif=exif_of(orientation=orientation))
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    decoded, facts = images.decode(data), images.inspect(data)
    assert mean_difference(decoded, expected) < 3
    assert (facts.height, facts.width) == decoded.shape[:2]


def test_a_heic_photo_turns_upright_and_keeps_its_position():
    data = encoded(picture(), "HEIF", exif=exif_of(-33.8568, 151.2153, orientation=6))
    assert mean_difference(images.decode(data), np.rot90(picture(), -1)) < 4
    facts = images.inspect(data)
    assert (facts.width, facts.height) == (120, 160)
    assert (facts.lat, facts.lon) == pytest.approx((-33.8568, 151.2153), abs=1e-6)


@pytest.mark.parametrize("shortest_side", [16, 40, 112, 224])
def test_scaled_jpeg_decoding_stays_within_a_grey_level_of_a_full_decode(shortest_side, real_data):
    paths = sorted((real_data / "san_francisco" / "images").glob("*.jpg"))[:12]
    worst = []
    for data in (path.read_bytes() for path in paths):
        full, scaled = images.decode(data), images.decode(data, shortest_side)
        assert min(scaled.shape[:2]) >= min(2 * shortest_side, 480)
        size = (shortest_side * 4 // 3, shortest_side)
        a, b = (np.asarray(Image.fromarray(p).resize(size, Image.Resampling.BILINEAR)) for p in (full, scaled))
        worst.append(mean_difference(a, b))
    assert np.mean(worst) < 1


def test_a_jpeg_is_decoded_smaller_only_while_twice_the_asked_side_remains():
    data = encoded(picture(800, 640))
    assert [images.decode(data, side).shape[:2] for side in (None, 161, 160, 80, 40, 1)] == [
        (640, 800), (640, 800), (320, 400), (160, 200), (80, 100), (80, 100)]  # fmt: skip


def test_a_cmyk_jpeg_comes_out_in_its_own_colours():
    red = Image.new("RGB", (64, 48), (220, 30, 20))
    decoded = images.decode(encoded(red.convert("CMYK"), quality=95))
    assert decoded[20, 20] == pytest.approx([220, 30, 20], abs=6)  # Adobe stores it inverted


def test_a_16_bit_png_is_scaled_and_not_clipped():
    deep = np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16)
    decoded = images.decode(encoded(deep, "PNG"))
    assert np.array_equal(decoded[..., 0], np.rint(deep / 257).astype(np.uint8))
    assert np.ptp(decoded) == 255


def test_an_animated_gif_gives_its_first_frame():
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue", "lime")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (images.decode(data) == [255, 0, 0]).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_are_white(mode):
    image = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    image.paste((0, 0, 255, 255) if mode != "LA" else (90, 90, 90, 255), (0, 0, 16, 32))
    decoded = images.decode(encoded(image.convert(mode), "PNG"))
    assert (decoded[:, 16:] == 255).all()
    assert not (decoded[:, :16] == 255).all(axis=-1).any()


@pytest.mark.parametrize("mode", ["L", "1", "RGBA", "YCbCr", "I;16"])
def test_odd_tiff_modes_become_rgb(mode):
    image = Image.fromarray(picture()).convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    assert images.decode(encoded(image, "TIFF")).shape == (120, 160, 3)


def test_a_float_tiff_is_refused_as_it_has_no_white():
    reason, sentence = refusal(encoded(Image.fromarray(np.ones((32, 32), np.float32)), "TIFF"))
    assert reason == "unreadable"
    assert "which value is white" in sentence


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_truncated_photo_is_refused(format_, share):
    data = encoded(picture(), format_)
    reason, sentence = refusal(data[: int(len(data) * share)])
    assert reason == "truncated" or (format_, reason) == ("TIFF", "unreadable")
    assert "copy or download it again" in sentence or format_ == "TIFF"


@pytest.mark.parametrize("shortest_side", [None, 16])
def test_a_jpeg_cut_short_and_closed_again_is_not_taken_for_whole(shortest_side):
    data = encoded(picture())
    reason, _ = refusal(data[: len(data) // 2] + b"\xff\xd9", lambda d: images.decode(d, shortest_side))
    assert reason == "truncated"


def test_padding_before_the_end_of_a_jpeg_harms_nobody():
    data = encoded(picture())
    assert np.array_equal(images.decode(data[:-2] + bytes(20) + data[-2:]), images.decode(data))
    assert np.array_equal(images.decode(data + b"motion photo"), images.decode(data))


def test_a_photo_of_one_pixel_is_refused_but_its_facts_are_read():
    data = encoded(picture(1, 1), "PNG")
    assert refusal(data) == (
        "too small",
        "the photo is 1 x 1 pixels; each side needs at least 16. Use the original photo instead of its thumbnail",
    )
    assert images.inspect(data).width == 1


@pytest.mark.parametrize("look", [images.inspect, images.decode])
def test_a_decompression_bomb_is_refused_by_its_header(look, recwarn):
    assert refusal(png_header(60_000, 60_000), look) == (
        "too large",
        "the photo is 60000 x 60000 pixels, more than the 200,000,000 allowed; scale it down first",
    )
    assert not recwarn.list
    assert Image.MAX_IMAGE_PIXELS is not None


def test_too_many_bytes_are_refused_before_anything_else():
    reason, sentence = refusal(b"\xff\xd8\xff" + bytes(images.MAX_BYTES))
    assert reason == "too large"
    assert "more than the 64 MiB allowed" in sentence


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"\xff\xd8\xff", b"<svg/>", b"%PDF-1.7", b"BM" + bytes(60)])
def test_what_is_no_photo_is_unreadable_and_says_what_can_be_read(data):
    reason, sentence = refusal(data)
    assert reason in ("unreadable", "truncated")
    assert "JPEG" in sentence or "download it again" in sentence


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "the file is empty"),
        (b"<!DOCTYPE html><html>404</html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        (b"\0\0\0\x18ftypmp42" + bytes(40), "a video"),
        (b"\xff\x0a" + bytes(40), "a JPEG XL"),
        (b"FOVb" + bytes(40), "a camera's raw file"),
    ],
)
def test_what_bears_the_name_of_a_photo_alone_is_called_what_it_is(data, kind):
    with pytest.raises(BadPhotoError, match=kind):
        images.decode(data)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow has much to say about damaged tags
@pytest.mark.parametrize("format_", [*FORMATS, "16-bit", "CMYK", "animated"])
def test_damaged_bytes_give_a_refusal_or_a_picture_and_nothing_else(format_):
    if format_ == "16-bit":
        whole = encoded(picture()[..., 0].astype(np.uint16) * 257, "PNG")
    elif format_ == "CMYK":
        whole = encoded(Image.fromarray(picture()).convert("CMYK"))
    elif format_ == "animated":
        whole = encoded(picture(), "WEBP", save_all=True, append_images=[Image.fromarray(picture(seed=1))])
    else:
        whole = encoded(picture(), format_, **({} if format_ in ("GIF", "BMP") else {"exif": exif_of(1, 2)}))
    expected = images.decode(whole)
    rng = np.random.default_rng(0)
    for round_ in range(150):
        data = bytearray(whole)
        if round_ % 3 == 0:
            del data[rng.integers(len(data)) :]
        else:  # the head decides more than the rest
            for at in rng.integers(min(len(data), 300) if round_ % 3 == 1 else len(data), size=rng.integers(1, 20)):
                data[at] = rng.integers(256)
        for look in (images.inspect, images.decode, lambda data: images.decode(data, 16)):
            with contextlib.suppress(BadPhotoError):  # anything else fails the test
                seen = look(bytes(data))
                if look is images.decode:
                    assert (seen.dtype, seen.shape[2:]) == (np.uint8, (3,))
                    assert round_ % 3 or np.array_equal(seen, expected), "a cut photo was taken for whole"


def test_the_facts_of_28_awkward_real_photos_agree_with_their_manifest(real_data):
    folder = real_data / "exif_photos"
    rows = pl.read_csv(folder / "manifest.csv").to_dicts()
    assert len(rows) == 28
    for row in rows:
        facts = images.inspect((folder / row["path"]).read_bytes())
        assert (facts.lat, facts.lon) == pytest.approx((row["lat"], row["lon"]), abs=1e-6), row["path"]
        assert {facts.width, facts.height} == {row["width"], row["height"]}


def test_the_positions_of_the_san_francisco_photos_agree_with_their_manifest(real_data):
    folder = real_data / "san_francisco"
    for row in pl.read_csv(folder / "manifest.csv").to_dicts():
        facts = images.inspect((folder / row["path"]).read_bytes())
        assert (facts.lat, facts.lon) == pytest.approx((row["lat"], row["lon"]), abs=1e-6), row["path"]


NAN = float("nan")


@pytest.mark.parametrize(
    ("gps", "expected"),
    [
        ({1: "N", 2: (10.0, 30.0, 36.0), 3: "W", 4: (20.0, 15.0, 0.0)}, (10.51, -20.25)),
        ({1: "s", 2: (10.0, 30.0, 0.0), 3: "e\0", 4: (20.0, 15.0, 0.0)}, (-10.5, 20.25)),
        ({1: b"S", 2: (10.0, 30.0, 0.0), 3: b"W\0", 4: (20.0, 15.0, 0.0)}, (-10.5, -20.25)),
        ({1: "South", 2: 10.5, 3: "West", 4: 20.25}, (-10.5, -20.25)),
        ({1: "N", 2: "10.5", 3: "W", 4: b"20.25\0"}, (10.5, -20.25)),
        ({1: "N", 2: (10.5,), 3: "E", 4: (20.0, 15.0)}, (10.5, 20.25)),
        ({1: "N", 2: (10.0, 30.0, NAN), 3: "E", 4: (20.0, 15.0, NAN)}, (10.5, 20.25)),
        ({2: -10.5, 4: -20.25}, (-10.5, -20.25)),
        ({2: (10.0, 30.0, 0.0), 4: (20.0, 15.0, 0.0)}, (None, None)),
        ({1: "E", 2: (10.0, 30.0, 0.0), 3: "N", 4: (20.0, 15.0, 0.0)}, (None, None)),  # letters of the other axis
        ({1: "N", 2: (10.0, 30.0, 0.0), 3: "E"}, (None, None)),
        ({1: "N", 2: (NAN, 30.0, 0.0), 3: "E", 4: (20.0, 15.0, 0.0)}, (None, None)),
        ({1: "N", 2: (), 3: "E", 4: "here"}, (None, None)),
        ({1: "N", 2: (0.0, 0.0, 0.0), 3: "E", 4: (0.0, 0.0, 0.0)}, (0, 0)),
        ({1: "N", 2: (95.0, 0.0, 0.0), 3: "E", 4: (20.0, 0.0, 0.0)}, (95, 20)),
    ],
)
def test_awkward_positions_are_read_right_or_not_at_all(gps, expected):
    lat = images._degrees(gps.get(2), gps.get(1), "NS")
    lon = images._degrees(gps.get(4), gps.get(3), "EW")
    assert expected == (None, None) if None in (lat, lon) else (lat, lon) == pytest.approx(expected)


def test_rationals_over_zero_are_no_position():
    data = encoded(picture(), exif=exif_of(37.5, -122.25))
    whole = struct.pack(">II", 37, 1) if struct.pack(">II", 37, 1) in data else struct.pack("<II", 37, 1)
    assert whole in data
    facts = images.inspect(data.replace(whole, whole[:4] + bytes(4)))
    assert (facts.lat, facts.lon) == (None, None)


@pytest.mark.parametrize(
    ("written", "offset", "expected"),
    [
        ("2016:05:14 11:50:34", None, datetime(2016, 5, 14, 11, 50, 34)),
        (
            "2016:05:14 11:50:34",
            "+02:00",
            datetime(2016, 5, 14, 11, 50, 34, tzinfo=timezone(timedelta(hours=2))),
        ),
        ("2016-05-14T11:50:34.847", "   :  ", datetime(2016, 5, 14, 11, 50, 34)),
        ("0000:00:00 00:00:00", None, None),
        ("    :  :     :  :  ", None, None),
    ],
)
def test_the_clock_is_read_with_its_zone_where_it_has_one(written, offset, expected):
    data = encoded(picture(), exif=exif_of(captured_at=written, offset=offset))
    assert images.inspect(data).captured_at == expected


def test_the_camera_is_maker_and_model():
    assert images.inspect(encoded(picture(), exif=exif_of())).camera == "Acme Phone 3"
    assert images.inspect(encoded(picture())).camera is None


def test_the_heading_lies_in_0_to_360():
    assert images.inspect(encoded(picture(), exif=exif_of(1, 2, heading=360.0))).heading == 0
    assert images.inspect(encoded(picture(), exif=exif_of(1, 2, heading=291.25))).heading == 291.25
    assert images.inspect(encoded(picture())).heading is None


def test_a_difference_hash_stands_a_new_size_and_quality_but_not_another_picture():
    pixels = picture(320, 240)
    small = np.asarray(Image.fromarray(pixels).resize((200, 150)))
    first = images.difference_hash(pixels)
    assert images.hamming(first, images.difference_hash(images.decode(encoded(small, quality=60)))) <= 4
    assert images.hamming(first, images.difference_hash(pixels[:, ::-1])) > 16
    assert images.difference_hash(np.tile(np.arange(0, 90, 10, np.uint8)[None, :, None], (8, 1, 3))) == 2**64 - 1


def test_hamming_counts_bits_of_arrays_without_losing_any():
    hashes = np.array([0, 1, 2**63, 2**64 - 1], np.uint64)
    assert images.hamming(hashes[:, None], hashes).tolist() == [
        [bin(int(a) ^ int(b)).count("1") for b in hashes] for a in hashes
    ]


def test_a_content_hash_is_sha256():
    assert images.content_hash(b"").startswith("e3b0c44298fc1c149afbf4c8996fb924")
