"""What lies beside photos and says where they were taken: XMP files, Google Takeout, Mapillary's tools, GPX tracks.

EXIF comes first: only what it lacks is taken from here.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
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
EDITED = ("-edited", "-bearbeitet", "-modifié", "-editado", "-modificato", "-bewerkt")
MAX_JSON_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Beside:
    """What something beside a photo says of it; degrees.

    Attributes:
        position_error_km: how far off ``lat, lon`` may be where they lie between two points of a track.
    """

    lat: float | None = None
    lon: float | None = None
    captured_at: datetime | None = None
    heading: float | None = None
    sequence: str | None = None
    position_error_km: float | None = None


Look = Callable[[Path, datetime | None], Beside | None]  # a photo's file and the time in its EXIF


def xmp_file(photo: Path, _: datetime | None = None) -> Beside | None:
    """``a.xmp`` or ``a.jpg.xmp`` beside ``a.jpg``, as raw converters and photo managers write it."""
    for file in (
        bare.with_name(bare.name + suffix) for bare in (photo, photo.with_suffix("")) for suffix in (".xmp", ".XMP")
    ):
        if file.is_file() and file.stat().st_size <= MAX_BYTES:
            found = read_xmp(file.read_bytes())
            return Beside(found.lat, found.lon, heading=found.heading)
    return None


def takeout() -> Look:
    """The JSON that Google Takeout puts beside a photo, under whatever name it was given."""
    names = lru_cache(maxsize=64)(_json_names)

    def look(photo: Path, _: datetime | None) -> Beside | None:
        name = _takeout_name(photo, names(photo.parent))
        tree = _json(photo.with_name(name)) if name else None
        if not isinstance(tree, dict):
            return None
        spots = [tree.get(part) or {} for part in ("geoData", "geoDataExif")]  # 0/0 where it knows none
        spot = next((spot for spot in spots if spot.get("latitude") or spot.get("longitude")), {})
        taken = str((tree.get("photoTakenTime") or {}).get("timestamp"))
        moment = datetime.fromtimestamp(int(taken), UTC) if taken.lstrip("-").isdecimal() else None
        return Beside(_number(spot.get("latitude")), _number(spot.get("longitude")), moment)

    return look


def mapillary_description() -> Look:
    """What Mapillary's own tools wrote into ``mapillary_image_description.json`` in the photo's folder or above it."""
    entries = lru_cache(maxsize=64)(_mapillary_entries)

    def look(photo: Path, _: datetime | None) -> Beside | None:
        for folder in list(photo.parents)[:4]:
            known = entries(folder)
            if found := known.get(photo.relative_to(folder).as_posix()) or known.get(photo.name):
                return Beside(
                    _number(found.get("MAPLatitude")),
                    _number(found.get("MAPLongitude")),
                    _mapillary_time(found.get("MAPCaptureTime")),
                    _number((found.get("MAPCompassHeading") or {}).get("TrueHeading")),
                    found.get("MAPSequenceUUID"),
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

    def look(_: Path, moment: datetime | None) -> Beside | None:
        if moment is None:
            return None
        at = ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) + clock_offset).timestamp()
        lat, lon, error = (float(value) for value in track.at(at))
        return None if np.isnan(lat) else Beside(lat, lon, position_error_km=error)

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
            tracks = gpxpy.parse(file.read_text(encoding="utf-8-sig"))
        except (OSError, UnicodeDecodeError, gpxpy.gpx.GPXException) as error:
            raise BadTableError(f"{file} cannot be read as GPX: {error}") from error
        points = (point for track in tracks.tracks for segment in track.segments for point in segment.points)
        rows += [(p.time.astimezone(UTC).timestamp(), p.latitude, p.longitude) for p in points if p.time]
    if not rows:
        raise BadTableError(
            f"{', '.join(map(str, files))}: no point of a track has a time, so no photo can be placed by it"
        )
    return Track(*np.array(sorted(rows)).T)


def _takeout_name(photo: Path, names: Sequence[str]) -> str | None:
    """Which of these JSON files speaks of a photo.

    ``IMG_1(1).jpg`` has ``IMG_1.jpg(1).json`` or ``IMG_1(1).jpg.json``; ``IMG_1-edited.jpg`` has its original's; newer
    ones end in ``.supplemental-metadata.json``; all names are cut at 46 letters. Some leave the photo's suffix out.
    """
    stem = re.sub(rf"(?:{'|'.join(EDITED)})(?=(?:\(\d+\))?$)", "", photo.stem, flags=re.IGNORECASE)
    numbered = re.fullmatch(r"(.*)(\(\d+\))", stem)
    fits = []
    for name in names:
        core, base = name.removesuffix(".json"), stem + photo.suffix
        number = ""
        if behind := re.fullmatch(r"(.*)(\(\d+\))", core):
            if not numbered or numbered[2] != behind[2]:
                continue
            core, number, base = behind[1], behind[2], numbered[1] + photo.suffix
        whole = core == base
        cut = len(core) >= min(len(base), TAKEOUT_CUT - len(number)) and (base + TAKEOUT_LONG).startswith(core)
        if whole or cut or core + number == stem:
            fits.append((not whole, -len(core), name))
    return min(fits)[2] if fits else None


def _json_names(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(file.name for file in folder.iterdir() if file.suffix == ".json"))


def _mapillary_entries(folder: Path) -> dict[str, dict[str, Any]]:
    tree = _json(folder / MAPILLARY) if (folder / MAPILLARY).is_file() else None
    rows = tree if isinstance(tree, list) else []
    rows = [row for row in rows if isinstance(row, dict) and "filename" in row and "error" not in row]
    found = {str(row["filename"]).replace("\\", "/"): row for row in rows}
    # Newer ones write absolute paths, and folders are moved: a name that stands there once is enough.
    names = Counter(name.rpartition("/")[2] for name in found)
    return {last: row for name, row in found.items() if names[last := name.rpartition("/")[2]] == 1} | found


def _json(file: Path) -> Any:
    """The tree of a JSON file, or None where it is none."""
    try:
        return json.loads(file.read_bytes()) if file.stat().st_size <= MAX_JSON_BYTES else None
    except (OSError, ValueError, RecursionError):
        return None


def _number(value: Any) -> float | None:
    return (
        float(value) if isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value) else None
    )


def _mapillary_time(text: Any) -> datetime | None:
    try:
        return datetime.strptime(str(text), "%Y_%m_%d_%H_%M_%S_%f").replace(tzinfo=UTC)
    except ValueError:
        return None
