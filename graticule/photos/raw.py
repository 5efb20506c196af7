"""The JPEG inside a camera's raw file: DNG and other kinds that are built as TIFF (NEF, ARW, CR2, PEF, SRW).

A raw file holds the sensor's values, which have to be developed, and beside them one or more JPEGs of the same picture
as the camera saw it. Adobe, "Digital Negative Specification" 1.7 (2023), chapter 2; TIFF 6.0, section 2.
"""

import struct
from io import BytesIO
from typing import Any

from PIL.TiffImagePlugin import ImageFileDirectory_v2

SUFFIXES = frozenset({".dng", ".nef", ".nrw", ".arw", ".cr2", ".pef", ".srw"})
OTHERS = frozenset(
    {".cr3", ".raf", ".rw2", ".orf", ".x3f", ".3fr", ".iiq"}
)  # not built as TIFF, or not as it should be
MAX_DIRECTORIES = 32
COMPRESSION, PHOTOMETRIC, STRIPS, STRIP_BYTES, SUB_IFDS = 259, 262, 273, 279, 330
JPEG_AT, JPEG_BYTES, DNG_VERSION = 513, 514, 50706
SENSOR = (32803, 34892)  # photometric interpretations: colour filter array, linear raw
_ERRORS = (OSError, SyntaxError, LookupError, ValueError, TypeError, AttributeError, struct.error)


def is_other_raw(data: bytes) -> bool:
    """Whether the bytes begin as a raw file whose preview is not read: CR3, RAF, RW2, ORF, X3F."""
    return (
        data.startswith((b"FUJIFILMCCD-RAW", b"FOVb", b"IIU\0", b"IIRO", b"IIRS", b"MMOR")) or data[4:12] == b"ftypcrx "
    )


def preview(data: bytes) -> bytes | None:
    """The largest JPEG of a raw file that is built as TIFF; empty where it has none, None where it is no raw file."""
    if data[:4] not in (b"II*\0", b"MM\0*"):
        return None
    directories = _directories(data)
    raw = data[8:10] == b"CR" or any(
        DNG_VERSION in each or each.get(PHOTOMETRIC) in SENSOR or each.get(COMPRESSION) in (32767, 34713)
        for each in directories
    )
    return max((_jpeg(each, data) for each in directories), key=len, default=b"") if raw else None


def _directories(data: bytes) -> list[dict[int, Any]]:
    """The directories of a TIFF: those that follow one another, and those that they name as their parts."""
    found: list[dict[int, Any]] = []
    (first,) = struct.unpack("<I" if data[:1] == b"I" else ">I", data[4:8])
    waiting, seen = [first], set[int]()
    while waiting and len(seen) < MAX_DIRECTORIES:
        at = waiting.pop(0)
        if not 8 <= at < len(data) or at in seen:
            continue
        seen.add(at)
        file = BytesIO(data)
        file.seek(at)
        directory = ImageFileDirectory_v2(data[:8])
        try:
            directory.load(file)
            tags = dict(directory)
        except _ERRORS:
            continue
        found.append(tags)
        parts = tags.get(SUB_IFDS, ())
        waiting += [*(parts if isinstance(parts, tuple) else (parts,)), directory.next]
    return found


def _jpeg(directory: dict[int, Any], data: bytes) -> bytes:
    """The JPEG that a directory points to; nothing where there is none or it holds the sensor's own values."""
    at, size = directory.get(JPEG_AT), directory.get(JPEG_BYTES)
    if at is None and directory.get(COMPRESSION) in (6, 7) and directory.get(PHOTOMETRIC) not in SENSOR:
        at, size = (_only(directory.get(tag)) for tag in (STRIPS, STRIP_BYTES))
    if not isinstance(at, int) or not isinstance(size, int):
        return b""
    found = data[at : at + size]
    return found if found.startswith(b"\xff\xd8\xff") and not _is_lossless(found) else b""


def _only(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) and len(value) == 1 else value


def _is_lossless(jpeg: bytes) -> bool:
    """Whether the first frame is of the lossless kind that sensors' values are kept in (ITU T.81, table B.1: SOF3)."""
    at = 2
    while at + 4 <= len(jpeg) and jpeg[at] == 0xFF:
        marker = jpeg[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return marker == 0xC3
        at += 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
    return True
