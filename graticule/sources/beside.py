"""What lies beside photos and says where they were taken: XMP files, Google Takeout, Mapillary's tools, GPX tracks.

EXIF comes first: only what it lacks is taken from here.
"""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from graticule.errors import BadTableError
from graticule.photos.tracks import Track
from graticule.photos.xmp import MAX_BYTES, read_xmp

MAPILLARY = "mapillary_image_description.json"
TAKEOUT_CUT = 46  # letters of a name that Takeout keeps before .json
TAKEOUT_LONG = ".supplemental-metadata"
CONVERTED = (".heic", ".heif", ".hif", ".dng")  # what people make JPEGs of before they use them
EDITED = ("-edited", "-effects", "-smile", "-mix", "-bearbeitet", "-modifié", "-editado", "-ha editado", "-editada",
          "-editat", "-modificato", "-bewerkt", "-edytowane", "-redigeret", "-redigerad", "-redigert", "-muokattu",
          "-upraveno", "-編集済み", "-已编辑", "-已編輯")  # fmt: skip
MAX_JSON_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Beside:
    """What something beside a photo says of it; degrees.

    Attributes:
        position_error_km: how far off ``lat, lon`` may be where they lie between two points of a track.
        lacking: why there is no position, where there might have been one.
    """

    lat: float | None = None
    lon: float | None = None
    captured_at: datetime | None = None
    heading: float | None = None
    sequence: str | None = None
    position_error_km: float | None = None
    lacking: str | None = None


Look = Callable[[Path, datetime | None], Beside | None]  # a photo's file and the time in its EXIF


def xmp_files() -> Look:
    """``a.xmp`` or ``a.jpg.xmp`` beside ``a.jpg``, as raw converters and photo managers write it."""
    names = lru_cache(maxsize=64)(_xmp_names)

    def look(photo: Path, _: datetime | None) -> Beside | None:
        said = [photo.with_name(name) for base in (photo.name, photo.stem)
                if (name := names(photo.parent).get(f"{base}.xmp".lower()))]  # fmt: skip
        found = [read_xmp(file.read_bytes()) for file in said if file.stat().st_size <= MAX_BYTES]
        spot = next((each for each in found if each.lat is not None), None)
        heading = next((each.heading for each in found if each.heading is not None), None)
        return Beside(spot and spot.lat, spot and spot.lon, heading=heading) if found else None

    return look


def takeout() -> Look:
    """The JSON that Google Takeout puts beside a photo, under whatever name it was given."""
    names = lru_cache(maxsize=64)(_json_names)

    def look(photo: Path, _: datetime | None) -> Beside | None:
        name = _takeout_name(photo, names(photo.parent))
        tree = _json(photo.with_name(name)) if name else None
        if not isinstance(tree, dict):
            return None
        spots = [_object(tree, part) for part in ("geoData", "geoDataExif")]  # 0/0 where it knows none
        places = [(_number(spot.get("latitude")), _number(spot.get("longitude"))) for spot in spots]
        lat, lon = next((place for place in places if None not in place and any(place)), (None, None))
        return Beside(lat, lon, _moment(_object(tree, "photoTakenTime").get("timestamp")))

    return look


def mapillary_description() -> Look:
    """What Mapillary's own tools wrote into ``mapillary_image_description.json`` in the photo's folder or above it."""
    entries = lru_cache(maxsize=64)(_mapillary_entries)

    def look(photo: Path, _: datetime | None) -> Beside | None:
        for folder in list(photo.parents)[:4]:
            known = entries(folder)
            if found := next((known[end] for end in _ends(photo.as_posix()) if end in known), None):
                return Beside(
                    _number(found.get("MAPLatitude")),
                    _number(found.get("MAPLongitude")),
                    _mapillary_time(found.get("MAPCaptureTime")),
                    _number(_object(found, "MAPCompassHeading").get("TrueHeading")),
                    str(found["MAPSequenceUUID"]) if found.get("MAPSequenceUUID") else None,
                )
        return None

    return look


def gpx_track(files: Sequence[Path], clock_offset: timedelta = timedelta()) -> Look:
    """Positions from tracks, by the time in a photo's EXIF.

    Args:
        clock_offset: what to add to the camera's clock; a clock without a time zone is taken for UTC.

    Raises:
        BadTableError: see :func:`read_gpx`.
    """
    track = read_gpx(files)
    first, last = (datetime.fromtimestamp(track.second[end], UTC) for end in (0, -1))
    span = f"{first:%Y-%m-%d %H:%M:%S} to {last:%Y-%m-%d %H:%M:%S} UTC"

    def look(_: Path, moment: datetime | None) -> Beside | None:
        if moment is None:
            return Beside(lacking="does not say when it was taken, so that no track places it")
        utc = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) + clock_offset
        lat, lon, error = (float(value) for value in track.at(utc.timestamp()))
        if not np.isnan(lat):
            return Beside(lat, lon, position_error_km=error)
        where = "in a gap of" if first <= utc <= last else "outside"
        return Beside(
            lacking=f"was taken {utc.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC, {where} the tracks of {span}; where the "
            f"camera's clock is at fault, set --clock-offset"
        )

    return look


def read_gpx(files: Sequence[Path]) -> Track:
    """The points of all tracks of GPX files that have a time, in seconds since 1970.

    Raises:
        BadTableError: a file is no GPX, or no point of it has a time.
    """
    import gpxpy

    rows: list[tuple[float, float, float]] = []
    for file in files:
        try:
            found = gpxpy.parse(_xml(file))
        except (OSError, UnicodeError, LookupError, gpxpy.gpx.GPXException) as error:
            raise BadTableError(f"{file} cannot be read as GPX: {error}") from error
        points = [point for track in found.tracks for segment in track.segments for point in segment.points]
        if not any(point.time for point in points):  # some loggers write what they passed as a route or as waypoints
            points = [point for route in found.routes for point in route.points] + found.waypoints
        rows += [(p.time.astimezone(UTC).timestamp(), p.latitude, p.longitude) for p in points if p.time]
    if not rows:
        raise BadTableError(
            f"{', '.join(map(str, files))}: no point of a track has a time, so no photo can be placed by it"
        )
    return Track(*np.array(sorted(rows)).T)


def _xml(file: Path) -> str:
    """The text of an XML file: by its mark, else as it says itself (XML 1.0, appendix F)."""
    data = file.read_bytes()
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16")
    said = re.match(rb"\s*<\?xml[^>]*encoding=[\"']([\w.-]+)", data.removeprefix(b"\xef\xbb\xbf"))
    return data.decode(said[1].decode() if said and said[1].lower() != b"utf-8" else "utf-8-sig")


def _takeout_name(photo: Path, names: Sequence[str]) -> str | None:
    """Which of these JSON files speaks of a photo.

    ``IMG_1(1).jpg`` has ``IMG_1.jpg(1).json`` or ``IMG_1(1).jpg.json``; ``IMG_1-edited.jpg`` has its original's; newer
    ones end in ``.supplemental-metadata.json``; all names are cut at 46 letters. Some leave the photo's suffix out, or
    name that of the picture as it was before somebody converted it.
    """
    own, suffix = _folded(photo.stem), _folded(photo.suffix)
    own = re.sub(rf"(?:{'|'.join(EDITED)})+(?=(?:\(\d+\))?$)", "", own)
    numbered = re.fullmatch(r"(.*)(\(\d+\))", own)
    fits = []
    for name in names:
        core, stem, number = _folded(name[: -len(".json")]), own, ""
        if behind := re.fullmatch(r"(.*)(\(\d+\))", core):
            if not numbered or numbered[2] != behind[2]:
                continue
            core, number, stem = behind[1], behind[2], numbered[1]
        base = stem + suffix
        cut = len(core) >= min(len(base), TAKEOUT_CUT - len(number)) and (base + TAKEOUT_LONG).startswith(core)
        rest = core.removeprefix(stem)
        if core == base:
            fits.append((0, 0, name))
        elif cut or rest == "":
            fits.append((1, -len(core), name))
        elif core.startswith(stem) and rest.removesuffix(TAKEOUT_LONG) in CONVERTED:
            fits.append((2, 0, name))
    return min(fits)[2] if fits else None


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _xmp_names(folder: Path) -> dict[str, str]:
    """The XMP files of a folder by their names in small letters."""
    return {file.name.lower(): file.name for file in sorted(folder.iterdir()) if file.suffix.lower() == ".xmp"}


def _json_names(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(file.name for file in folder.iterdir() if file.suffix.lower() == ".json"))


def _mapillary_entries(folder: Path) -> dict[str, dict[str, Any]]:
    tree = _json(folder / MAPILLARY) if (folder / MAPILLARY).is_file() else None
    rows = tree if isinstance(tree, list) else []
    rows = [row for row in rows if isinstance(row, dict) and "filename" in row and "error" not in row]
    found = {str(row["filename"]).replace("\\", "/"): row for row in rows}
    # Newer ones write absolute paths, and folders are moved: an end of a path that stands there once is enough.
    ends = Counter(end for name in found for end in _ends(name))
    return {end: row for name, row in found.items() for end in _ends(name) if ends[end] == 1} | found


def _ends(path: str) -> list[str]:
    """``a/b/c.jpg``, ``b/c.jpg`` and ``c.jpg`` of ``/a/b/c.jpg``."""
    parts = [part for part in path.split("/") if part]
    return ["/".join(parts[start:]) for start in range(len(parts))]


def _json(file: Path) -> Any:
    """The tree of a JSON file, or None where it is none."""
    try:
        return json.loads(file.read_bytes()) if file.stat().st_size <= MAX_JSON_BYTES else None
    except (OSError, ValueError, RecursionError):
        return None


def _object(tree: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """What a tree holds under a name, empty where that is no object."""
    found = tree.get(name)
    return found if isinstance(found, Mapping) else {}


def _number(value: Any) -> float | None:
    """A finite number, also as text."""
    try:
        found = float(value) if not isinstance(value, bool) else np.nan
    except (TypeError, ValueError):
        return None
    return found if np.isfinite(found) else None


def _moment(seconds: Any) -> datetime | None:
    """Of seconds since 1970, often as text."""
    value = _number(seconds)
    try:
        return None if value is None else datetime.fromtimestamp(value, UTC)
    except (OverflowError, ValueError, OSError):
        return None


def _mapillary_time(text: Any) -> datetime | None:
    try:
        return datetime.strptime(str(text), "%Y_%m_%d_%H_%M_%S_%f").replace(tzinfo=UTC)
    except ValueError:
        return None
