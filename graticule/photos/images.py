"""Bytes to an upright RGB array, and what the camera wrote beside it. No torch, no files.

Training and serving share this one way of decoding. A broken photo is refused with a reason; it never
comes back half grey. Colour profiles are ignored, as the usual ImageNet weights ignored them.
"""

import hashlib
import math
import re
import struct
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
from simplejpeg import decode_jpeg

from graticule.errors import BadPhotoError
from graticule.photos import raw, shards
from graticule.photos.panoramas import Area
from graticule.photos.xmp import read_xmp

Pixels = NDArray[np.uint8]

SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp",
                      ".heic", ".heif", ".hif", ".avif"}) | raw.SUFFIXES | raw.OTHERS  # fmt: skip
FORMATS = "JPEG, PNG, WebP, GIF, TIFF, BMP, HEIC, AVIF and the previews of raw files such as DNG"
REASONS = (
    "no position",  # neither the table nor the EXIF says where
    "no hemisphere",  # the EXIF has a position but not which side of the equator or of Greenwich
    "off the globe",  # a latitude beyond 90 or a longitude beyond 180 degrees
    "zero island",  # exactly 0/0, what cameras write when they do not know
    "missing",  # no file at this path
    "unreadable",  # not a photo, or damaged
    "truncated",  # the file ends before its picture does
    "too large",  # more than MAX_BYTES or MAX_PIXELS
    "too small",  # a side below MIN_SIDE
    "duplicate",  # the same bytes as a photo before it
)
RAW_ADVICE = "export it as JPEG, or convert it to DNG with its preview"
NO_PHOTOS = {
    b"<!DOCTYPE": "a web page; download the photo itself",
    b"<html": "a web page; download the photo itself",
    b"version https://git-lfs": "a pointer of Git LFS; run git lfs pull",
    b"%PDF": "a PDF; save its picture as JPEG or PNG",
    b"PK\x03\x04": "a zip file; unpack it",
    b"\xff\x0a": "a JPEG XL, which is not read; save it as JPEG",
    b"\0\0\0\x0cJXL ": "a JPEG XL, which is not read; save it as JPEG",
    b"\0\0\0\x0cjP  ": "a JPEG 2000, which is not read; save it as JPEG",
}
VIDEO_BRANDS = (b"isom", b"iso2", b"mp41", b"mp42", b"avc1", b"qt  ", b"M4V ", b"3gp4", b"3gp5")
MAX_BYTES = 64 * 2**20
MAX_PIXELS = 200_000_000  # the largest phone sensors sold; as RGB bytes 600 MB
MIN_SIDE = 16


@dataclass(frozen=True, slots=True)
class PhotoFacts:
    """What the header and the EXIF say; no pixel is looked at.

    Attributes:
        width, height: pixels of the upright photo.
        format: ``JPEG``, ``PNG``, ``WEBP``, ``GIF``, ``TIFF``, ``BMP``, ``HEIF`` or ``AVIF``; a raw file's is that of
            its preview.
        lat, lon: degrees as written, both or neither; finite, but perhaps off the globe.
        captured_at: when the shutter opened; naive local time where the camera gave no offset.
        heading: where the camera looked, degrees clockwise from north, in [0, 360).
        camera: maker and model.
        pano: the part of the sphere that it shows, where its GPano says so.
        no_hemisphere: the EXIF has a position without its letters, as ``52.18 4.83``; then lat and lon are None.
    """

    width: int
    height: int
    format: str
    lat: float | None = None
    lon: float | None = None
    captured_at: datetime | None = None
    heading: float | None = None
    camera: str | None = None
    no_hemisphere: str | None = None
    pano: Area | None = None


def inspect(data: bytes, hemisphere: str = "") -> PhotoFacts:
    """Read header, EXIF and, for what it lacks, XMP. Unreadable EXIF is no EXIF.

    Args:
        hemisphere: letters such as ``NE`` for positions that were written without; they are not guessed.

    Raises:
        BadPhotoError: not a photo, or more bytes or pixels than allowed.
    """
    image, _, exif = _open(data)
    lying = _orientation(exif) >= 5 and image.format != "TIFF"  # Pillow turns TIFF by itself
    width, height = image.size[::-1] if lying else image.size
    gps, shot = _sub_ifd(exif, 0x8825), _sub_ifd(exif, 0x8769)
    given = hemisphere.upper()
    lat = _degrees(gps.get(2), _text(gps.get(1)) or given[:1], "NS")
    lon = _degrees(gps.get(4), _text(gps.get(3)) or given[1:], "EW")
    heading = _number(gps.get(17))
    axes = ((2, "NS"), (4, "EW"))
    sizes = [size for tag, letters in axes if (size := _degrees(gps.get(tag), letters, letters)) is not None]
    unsigned = " ".join(f"{size:.5f}" for size in sizes) if (lat is None or lon is None) and len(sizes) == 2 else None
    packet = image.info.get("xmp")
    xmp = read_xmp(packet) if packet else None
    if xmp:
        if lat is None or lon is None or (lat == lon == 0 and xmp.lat is not None):
            lat, lon = xmp.lat, xmp.lon
        heading = xmp.heading if heading is None else heading
    return PhotoFacts(
        width,
        height,
        str(image.format),
        lat=None if lon is None else lat,
        lon=None if lat is None else lon,
        captured_at=_moment(_text(shot.get(0x9003)), _text(shot.get(0x9011))) or _gps_moment(gps),
        heading=None if heading is None else heading % 360,
        camera=" ".join(filter(None, (_text(exif.get(tag)) for tag in (0x010F, 0x0110)))) or None,
        no_hemisphere=unsigned if lat is None or lon is None else None,
        pano=xmp.area if xmp else None,
    )


def decode(data: bytes, shortest_side: int | None = None) -> Pixels:
    """Decode to upright RGB of shape ``(H, W, 3)``: the first frame, transparent parts on white.

    Args:
        data: a whole file in one of :data:`FORMATS`.
        shortest_side: the size that the caller will resize to. A JPEG is then decoded at 1/2, 1/4 or
            1/8 of its size by libjpeg's own scaling as long as its shorter side stays at least twice
            this. Against a full decode, an antialiased resize then differs by 0.5 grey levels on
            average and 1.25 in the worst of the photos tried; factors such as 5/8 save no time.

    Raises:
        BadPhotoError: not a photo, damaged, truncated, too large or too small.
    """
    image, data, exif = _open(data)
    if min(image.size) < MIN_SIDE:
        raise BadPhotoError(
            "too small",
            f"the photo is {image.width} x {image.height} pixels; each side needs at least {MIN_SIDE}. "
            f"Use the original photo instead of its thumbnail",
        )
    with _refusing(data, str(image.format)):
        pixels = _jpeg_pixels(data, image, shortest_side) if image.format == "JPEG" else None
        if pixels is None:
            pixels = _pillow_pixels(image)
    return _upright(pixels, _orientation(exif))


def content_hash(data: bytes) -> str:
    """SHA-256 of the bytes, hexadecimal: equal for exact copies."""
    return hashlib.sha256(data).hexdigest()


def difference_hash(rgb: Pixels) -> int:
    """64 bits that near-duplicates share but for a few: is each pixel darker than its right neighbour?

    Krawetz (2013), "Kind of Like That": grey, shrunk to 9 x 8, compared along rows.
    """
    grey = Image.fromarray(rgb).convert("L").resize((9, 8), Image.Resampling.BOX)
    small = np.asarray(grey)
    return int.from_bytes(np.packbits(small[:, :-1] < small[:, 1:]).tobytes(), "big")


def hamming(a: ArrayLike, b: ArrayLike) -> NDArray[np.uint8]:
    """Number of bits, 0 to 64, in which uint64 hashes differ; broadcasts."""
    bits: NDArray[np.uint8] = np.bitwise_count(np.asarray(a, np.uint64) ^ np.asarray(b, np.uint64))
    return bits


def _kind_of(data: bytes) -> str:
    """What bytes are that no plugin knows, in words."""
    try:
        text = data[:1000].decode("utf-8", "strict" if len(data) <= 1000 else "ignore")
    except UnicodeDecodeError:
        text = "\0"
    size = f"{len(data):,} bytes"
    return (
        f"a text of {size}"
        if text.replace("\n", "").replace("\r", "").replace("\t", "").isprintable()
        else f"{size} of an unknown kind"
    )


def _open(data: bytes) -> tuple[ImageFile.ImageFile, bytes, Image.Exif]:
    """Parse the header only; of a raw file that of its preview. And the bytes of the picture, and the file's EXIF.

    The plugin is chosen here and not by ``Image.open``, whose bomb guard is a process-wide setting.
    """
    if len(data) > MAX_BYTES:
        raise too_many_bytes(len(data))
    if raw.is_other_raw(data):
        raise BadPhotoError("unreadable", f"it is a camera's raw file of a kind that is not read; {RAW_ADVICE}")
    jpeg = raw.preview(data)
    if jpeg == b"":
        raise BadPhotoError("unreadable", f"it is a camera's raw file without a JPEG inside; {RAW_ADVICE}")
    exif = _raw_exif(data) if jpeg else None
    data = jpeg or data
    with _refusing(data, "image"):
        image = _plugin(data)
    if image is None:
        for begin, kind in NO_PHOTOS.items():
            if data[: len(begin)].lower() == begin.lower():  # HTML is written in either case
                raise BadPhotoError("unreadable", f"it is {kind}, whatever its name says")
        if not data:
            raise BadPhotoError("unreadable", "the file is empty; copy or download it again")
        raise BadPhotoError(
            "unreadable",
            f"it is {_kind_of(data)}, not a photo that can be read. {FORMATS} can; convert it to one of them",
        )
    if image.width * image.height > MAX_PIXELS:
        raise BadPhotoError(
            "too large",
            f"the photo is {image.width} x {image.height} pixels, more than the {MAX_PIXELS:,} allowed; "
            f"scale it down first",
        )
    return image, data, _exif(image) if exif is None else exif


def read_file(file: Path) -> bytes:
    """The bytes of a photo, unless there are too many; a device or pipe is never opened.

    Args:
        file: a file of its own, or a row of a shard such as ``data/train-00000-of-00004.parquet#17``, which may lie
            in an object store.

    Raises:
        BadPhotoError: there is no such file or row, it is too large, or it may not be opened.
    """
    if packed := shards.shard_row(file):
        data = shards.read_packed(*packed)
        if len(data) > MAX_BYTES:
            raise too_many_bytes(len(data))
        return data
    try:
        if not file.is_file():
            if file.exists():
                raise BadPhotoError("unreadable", f"{file} is a folder or a device, not a file; correct the path")
            raise BadPhotoError("missing", f"there is no file {file}; correct the path or the folder it starts from")
        size = file.stat().st_size
        if size > MAX_BYTES:
            raise too_many_bytes(size)
        return file.read_bytes()
    except OSError as error:
        raise BadPhotoError("unreadable", f"{file} cannot be opened: {error.strerror}") from error


def thumbnail(data: bytes, longest: int, quality: int = 82) -> bytes:
    """A small JPEG of a photo, without the EXIF of its original; the longer side has at most so many pixels.

    Raises:
        BadPhotoError: as :func:`decode`.
    """
    image = Image.fromarray(decode(data, shortest_side=longest // 2))
    image.thumbnail((longest, longest))
    jpeg = BytesIO()
    image.save(jpeg, "JPEG", quality=quality)
    return jpeg.getvalue()


def data_uri(jpeg: bytes) -> str:
    """A JPEG as an address that holds it, for pages that need nothing beside them."""
    return f"data:image/jpeg;base64,{b64encode(jpeg).decode('ascii')}"


def too_many_bytes(size: int) -> BadPhotoError:
    """The refusal of a file by its size alone, so that it need not be read."""
    return BadPhotoError(
        "too large",
        f"the file has {size / 2**20:.0f} MiB, more than the {MAX_BYTES // 2**20} MiB allowed; "
        f"scale the photo down or save it as JPEG",
    )


def _plugin(data: bytes) -> ImageFile.ImageFile | None:
    file = BytesIO(data)
    if data.startswith(b"\xff\xd8\xff"):
        return JpegImagePlugin.JpegImageFile(file)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return PngImagePlugin.PngImageFile(file)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return WebPImagePlugin.WebPImageFile(file)
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return GifImagePlugin.GifImageFile(file)
    if data[:4] in (b"II*\0", b"MM\0*"):
        return TiffImagePlugin.TiffImageFile(file)
    if data[:2] == b"BM":
        return BmpImagePlugin.BmpImageFile(file)
    if data[4:8] == b"ftyp":
        if data[8:12] in VIDEO_BRANDS:
            raise BadPhotoError("unreadable", "it is a video; `graticule data video` takes frames of it")
        brands = data[8 : min(int.from_bytes(data[:4], "big"), 256)]
        if b"avif" in brands or b"avis" in brands:
            return AvifImagePlugin.AvifImageFile(file)
        import pillow_heif  # 30 MB of libraries that most runs never need

        heif: ImageFile.ImageFile = pillow_heif.HeifImageFile(file)
        return heif
    return None


@contextmanager
def _refusing(data: bytes, format_: str) -> Iterator[None]:
    """Whatever a decoder raises on hostile bytes becomes a refusal."""
    try:
        yield
    except BadPhotoError:
        raise
    except (MemoryError, Image.DecompressionBombError) as error:
        raise BadPhotoError(
            "too large", f"the {format_} file unpacks to more than memory holds; scale it down first"
        ) from error
    except Exception as error:
        found = str(error) or type(error).__name__
        if _ends_early(data) or re.search(r"truncated|premature end|end of file", found, re.IGNORECASE):
            raise BadPhotoError(
                "truncated",
                f"the {format_} file ends before its picture does ({found}); copy or download it again",
            ) from error
        raise BadPhotoError(
            "unreadable",
            f"the {format_} file cannot be decoded ({found}); it is damaged or of a rare kind. "
            f"Copy it again, or save it anew as JPEG or PNG",
        ) from error


def _ends_early(data: bytes) -> bool:
    """Whether a container promises more bytes than there are.

    WebP is one RIFF chunk; HEIC and AVIF are a run of boxes, each led by its size (ISO/IEC 14496-12, 4.2).
    """
    if data[:4] == b"RIFF":
        return 8 + int.from_bytes(data[4:8], "little") > len(data)
    end = 0
    if data[4:8] == b"ftyp":
        while end + 8 <= len(data):
            size = int.from_bytes(data[end : end + 4], "big")
            if size == 1:  # the size did not fit into 32 bits and follows in 64
                size = int.from_bytes(data[end + 8 : end + 16], "big")
            if size < 8:  # 0 is "to the end of the file"; less than its own head is nonsense
                return False
            end += size
    return end > len(data)


def _jpeg_pixels(data: bytes, image: ImageFile.ImageFile, shortest_side: int | None) -> Pixels | None:
    """Through libjpeg-turbo; None where Pillow must do it (CMYK, odd subsampling, harmless warnings)."""
    if image.mode not in ("RGB", "L"):
        return None
    scale = 1
    while shortest_side and scale < 8 and min(image.size) >= 4 * scale * shortest_side:
        scale *= 2
    try:
        pixels: Pixels = decode_jpeg(data, min_width=-(-image.width // scale), min_height=-(-image.height // scale))
    except ValueError as error:
        # libjpeg only warns of damage and fills with grey. Bytes between picture and end marker do no harm.
        if re.search(r"corrupt jpeg data|premature end", str(error), re.IGNORECASE):
            if "before marker 0xd9" in str(error):
                return None
            raise
        return None
    return pixels


def _pillow_pixels(image: ImageFile.ImageFile) -> Pixels:
    if image.mode.startswith("I;16"):  # Pillow would clip at 255; 65535 / 257 = 255
        grey = ((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode}: 32-bit pixels do not say which value is white")
    if image.has_transparency_data:
        seen = image.convert("RGBA")
        white = Image.new("RGBA", seen.size, "white")
        return np.asarray(Image.alpha_composite(white, seen).convert("RGB"))
    return np.asarray(image.convert("RGB"))


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Undo the EXIF orientation (Exif 2.32, section 4.6.4, tag 0x0112), shape ``(H, W, 3)``."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


_EXIF_ERRORS = (OSError, SyntaxError, LookupError, ArithmeticError, AttributeError, EOFError, RuntimeError,
                TypeError, ValueError, struct.error)  # fmt: skip


def _exif(image: ImageFile.ImageFile) -> Image.Exif:
    try:
        return image.getexif()
    except _EXIF_ERRORS:
        return Image.Exif()


def _raw_exif(data: bytes) -> Image.Exif:
    """The EXIF of a raw file built as TIFF: its own first directory, and what that points to."""
    exif = Image.Exif()
    try:
        exif.load(data)
    except _EXIF_ERRORS:
        return Image.Exif()
    return exif


def _orientation(exif: Image.Exif) -> int:
    value = exif.get(0x0112)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _sub_ifd(exif: Image.Exif, tag: int) -> dict[int, Any]:
    try:
        return dict(exif.get_ifd(tag))
    except _EXIF_ERRORS:
        return {}


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    return value.replace("\0", " ").strip() if isinstance(value, str) else ""


def _number(value: Any) -> float | None:
    """A finite number, or None: rationals over zero come out of Pillow as NaN, some cameras write text."""
    try:
        number = float(_text(value) or value)
    except (TypeError, ValueError, ArithmeticError):
        return None
    return number if math.isfinite(number) else None


def _degrees(value: Any, ref: Any, letters: str) -> float | None:
    """Degrees from ``(degrees, minutes, seconds)`` or a plain decimal, signed by a reference of such letters."""
    parts = [_number(part) for part in value] if isinstance(value, tuple | list) else [_number(value)]
    if not parts or parts[0] is None:
        return None
    size: float = abs(parts[0]) + sum((part or 0.0) / 60**n for n, part in enumerate(parts[1:3], 1))
    letter = _text(ref)[:1].upper()
    if letter == letters[1] or math.copysign(1, parts[0]) < 0:
        return -size
    return size if letter == letters[0] else None


def _moment(date: str, offset: str) -> datetime | None:
    found = re.match(r"(\d{4})\D(\d\d)\D(\d\d)\D(\d\d)\D(\d\d)\D(\d\d)", date)
    if not found:
        return None
    zone = re.match(r"[+-]\d\d:?\d\d", offset)
    try:
        return datetime.fromisoformat("{}-{}-{}T{}:{}:{}".format(*found.groups()) + (zone[0] if zone else ""))
    except ValueError:  # 0000:00:00: the clock was never set
        return None


def _gps_moment(gps: dict[int, Any]) -> datetime | None:
    """GPSDateStamp and GPSTimeStamp, which are UTC (Exif 2.32, section 4.6.6)."""
    try:
        hour, minute, second = (int(float(part)) for part in gps[7])
    except (KeyError, TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    return _moment(f"{_text(gps.get(29))} {hour:02}:{minute:02}:{second:02}", "+00:00")
