"""What an XMP packet says of a photo: position, heading of a panorama. Text in, numbers out.

Adobe, "XMP Specification Part 2" (2016), section 3.2 (exif) for positions; "Photo Sphere XMP Metadata" for panoramas.
"""

import math
import re
from collections.abc import Mapping
from typing import NamedTuple
from xml.etree import ElementTree

from graticule.photos.degrees import Axis, one_degree
from graticule.photos.panoramas import Area

EXIF, PANO = "http://ns.adobe.com/exif/1.0/", "http://ns.google.com/photos/1.0/panorama/"
DJI = "http://www.dji.com/drone-dji/1.0/"  # decimal degrees with a sign; older ones write Longtitude
MAX_BYTES = 2**20
_PART = r"(\d+(?:\.\d+)?(?:/\d+)?)"
_COORDINATE = re.compile(rf"{_PART}(?:,\s*{_PART})?(?:,\s*{_PART})?\s*([NSEW])?", re.IGNORECASE)


class Xmp(NamedTuple):
    """What was found; degrees.

    Attributes:
        lat, lon: both or neither.
        heading: of the middle of the picture, clockwise from north, in [0, 360).
        area: what a panorama shows of the sphere.
    """

    lat: float | None = None
    lon: float | None = None
    heading: float | None = None
    area: Area | None = None


def read_xmp(packet: bytes | str) -> Xmp:
    """Read a packet; what is damaged, too large or defines entities says nothing."""
    if isinstance(packet, bytes):
        marked = packet.startswith((b"\xff\xfe", b"\xfe\xff"))
        packet = packet.decode("utf-16" if marked else "utf-8", "replace")
    text = packet
    text = text.strip("\0\ufeff \n\r\t")
    if len(text) > MAX_BYTES or "<!" in text.replace("<!--", ""):
        return Xmp()
    try:
        tree = ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return Xmp()
    found: dict[str, str] = {}
    for element in tree.iter():
        found |= element.attrib
        if element.text and element.text.strip():
            found.setdefault(element.tag, element.text.strip())
    signed = any(text[:1] in ("+", "-") for text in _positions(found))
    if any(re.fullmatch(r"[+-]?\d+,\d{3,}", text) for text in _positions(found)):  # decimal commas, not minutes
        found |= {name: value.replace(",", ".") for name, value in found.items() if value in _positions(found)}
    lat, lon = (
        _coordinate(found, axis, letters, signed=signed) for axis, letters in (("Latitude", "NS"), ("Longitude", "EW"))
    )
    if lat is None or lon is None:
        lat, lon = _number(found, "GpsLatitude", DJI), _number(found, "GpsLongitude", DJI)
        lon = _number(found, "GpsLongtitude", DJI) if lon is None else lon
    both = lat is not None and lon is not None
    area = _area(found)
    return Xmp(lat if both else None, lon if both else None, _heading(found, area), area)


def _coordinate(found: Mapping[str, str], axis: str, letters: str, *, signed: bool) -> float | None:
    """``48,12.5N``, ``48,12,30N``, or any degrees as people write them, with a sign or a reference of their own.

    Args:
        signed: one of the two coordinates has a sign, so that the other needs none.
    """
    text = found.get(f"{{{EXIF}}}GPS{axis}", "").strip()
    reference = found.get(f"{{{EXIF}}}GPS{axis}Ref", "").strip()[:1].upper()
    match = _COORDINATE.fullmatch(text.lstrip("+-"))
    if not match:
        kind: Axis = "lat" if axis == "Latitude" else "lon"
        given = text if text[-1:].upper() in letters or text[:1].upper() in letters else text + reference
        return one_degree(given, kind) if given != text or re.search(r"[NSEW]", text, re.IGNORECASE) else None
    degrees, minutes, seconds = (_fraction(part) for part in match.groups()[:3])
    letter = (match[4] or reference).upper()
    size = degrees + minutes / 60 + seconds / 3600
    if letter and letter not in letters:
        return None
    if text.startswith("-") or letter == letters[1]:
        return -size
    return size if letter or signed else None  # a hemisphere that is not written is not guessed


def _positions(found: Mapping[str, str]) -> list[str]:
    return [found.get(f"{{{EXIF}}}GPS{axis}", "").strip() for axis in ("Latitude", "Longitude")]


def _fraction(text: str | None) -> float:
    top, _, bottom = (text or "0").partition("/")
    return float(top) / (float(bottom or 1) or math.nan)


def _heading(found: Mapping[str, str], area: Area | None) -> float | None:
    """Where the middle of a picture looks; of a cropped panorama the middle of what is left."""
    pose = _number(found, "PoseHeadingDegrees")
    if pose is None:  # of an ordinary photo, as a fraction
        top, _, bottom = found.get(f"{{{EXIF}}}GPSImgDirection", "").partition("/")
        try:
            return float(top) / float(bottom or 1) % 360
        except (ValueError, ZeroDivisionError):
            return None
    if area:
        pose += ((area.left + area.width / 2) / area.full_width - 0.5) * 360
    return pose % 360


def _area(found: Mapping[str, str]) -> Area | None:
    names = ("FullPanoWidthPixels", "FullPanoHeightPixels", "CroppedAreaLeftPixels", "CroppedAreaTopPixels",
             "CroppedAreaImageWidthPixels", "CroppedAreaImageHeightPixels")  # fmt: skip
    width, height, left, top, part_width, part_height = (_number(found, name) for name in names)
    if not width or left is None or not part_width or part_width <= 0 or width < part_width:
        return None
    height = height or width / 2
    return Area(width, height, left, top or 0.0, part_width, part_height or height)


def _number(found: Mapping[str, str], name: str, space: str = PANO) -> float | None:
    try:
        value = float(found.get(f"{{{space}}}{name}", ""))
    except ValueError:
        return None
    return value if math.isfinite(value) else None
