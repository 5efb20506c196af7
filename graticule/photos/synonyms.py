"""Which column of somebody's table is which of ours: usual names in several languages."""

import difflib
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from graticule.errors import BadTableError, note

NAMES = {
    "path": (
        "path", "file", "filename", "filepath", "image", "img", "imagename", "imgname", "imagepath", "imgpath",
        "imagefile", "imgfile", "imagefilename", "photo", "photoname", "photopath", "photofile", "picture", "pic",
        "sourcefile", "fullpath", "relativepath", "relpath", "datei", "dateiname", "dateipfad", "bild", "fichier",
        "nomfichier", "archivo", "fichero", "arquivo", "bestand", "bestandsnaam", "foto", "nomefile",
    ),
    "lat": ("lat", "latitude", "latitud", "latitudine", "breite", "breitengrad", "breedtegraad", "breddgrad",
            "breddegrad", "szerokosc", "sirka", "szelesseg", "enlem", "широта", "纬度", "緯度", "위도"),
    "lon": ("lon", "lng", "long", "longitude", "longtitude", "longitud", "longitudine", "lange", "laenge", "langengrad",
            "laengengrad", "lengtegraad", "langdgrad", "lengdegrad", "długosc", "delka", "hosszusag", "boylam",
            "долгота", "经度", "經度", "経度", "경도"),
}  # fmt: skip
LESSER = {  # taken where none of the above is there
    "lat": ("y", "ycoord", "coordy", "pointy"),
    "lon": ("x", "xcoord", "coordx", "pointx"),
}
IDS = ("name", "key", "id", "imageid", "imgid", "photoid", "uid")  # of photos, where no column names files
_BEFORE = re.compile(
    r"(?:exif|gps|geo|wgs84|locations?|loc|positions?|pos|coordinates?|coords?|points?|start|map|cam(?:era)?|"
    r"photo|im(?:a?ge?)?|decimal)+(?=l)"
)
_BEHIND = re.compile(r"(?:deg(?:rees?)?|dd|decimal|wgs84|gps)+$")
_WORD = re.compile(r"[A-Z]*[a-z]+|[A-Z]+|[^\W_A-Za-z]+")
_AXES = {"lat": ("lat", "latitude", "latitud"), "lon": ("lon", "lng", "longitude", "longitud")}
_NOT_DEGREES = re.compile(r"rad(?:ians?)?|std|sigma|err(?:or)?|acc(?:uracy)?|min|max|ref|e7|offset|delta|diff|count")


def plain(name: str) -> str:
    """A name without case, accents, units in brackets, spaces and signs: ``GPS_Latitude (deg)`` is ``gpslatitude``."""
    bare = unicodedata.normalize("NFKD", re.sub(r"[(\[].*?[)\]]", "", name).casefold())
    return unicodedata.normalize("NFC", re.sub(r"[\W_]|[\u0300-\u036f]", "", bare))


def usual(ours: str, found: Sequence[str]) -> list[str]:
    """The columns that may be one of ours by their names; of a latitude also those that have it among their words."""
    for names in (NAMES, LESSER):
        if fits := [name for name in found if core(ours, plain(name)) in names.get(ours, (plain(ours),))]:
            return fits
    return [name for name in found if ours in LESSER and _speaks_of(ours, name)]


def column_of(file: Path, ours: str, name: str, found: Sequence[str], *, asked: bool) -> str | None:
    """The table's own name of one of our columns, or None.

    Args:
        asked: somebody named this column, so that no other is taken in its place.

    Raises:
        BadTableError: several columns may be it, or the one asked for is not there.
    """
    if name in found:
        return name
    if asked:
        raise BadTableError(missing(file, ours, name, found))
    others = usual(ours, found)
    if len(others) > 1:
        option = ours.replace("_", "-")
        raise BadTableError(
            f"{file}: both {' and '.join(others)} may be the {ours}; say which with --{option} {others[0]}"
        )
    if others:
        note(f"{file}: the column {others[0].strip()} is read as {ours}")
    return others[0] if others else None


def missing(file: Path | str, ours: str, name: str, found: Sequence[str]) -> str:
    """The sentence about a column that is not there, with the option that names the likely one."""
    if sum(bool(re.fullmatch(r"\s*-?\d+[.]\d+\s*", column)) for column in found) > 1:
        return (
            f"{file} begins with values ({', '.join(found[:4])}) and not with the names of its columns; "
            f"put a line such as path,lat,lon above them"
        )
    shown = ", ".join(column if len(column) <= 40 else column[:37] + "..." for column in found[:20])
    sentence = f"{file} has no column {name!r}; it has: {shown}{', ...' if len(found) > 20 else ''}."
    option = ours.replace("_", "-")
    lowered = {other.strip().lower(): other for other in reversed(found)}
    likely = usual(ours, found) + [lowered[other] for other in difflib.get_close_matches(ours, lowered, n=1)]
    if likely:
        return f"{sentence} Name it with --{option} {likely[0]}"
    return f"{sentence} Name the right one with --{option} NAME"


def core(ours: str, name: str) -> str:
    """``gpslatitude`` and ``latitudedeg`` as ``latitude``, of other columns the name itself."""
    return name if ours not in ("lat", "lon") else _BEHIND.sub("", _BEFORE.sub("", name)) or name


def _speaks_of(ours: str, name: str) -> bool:
    """Whether a word of a name is a usual one, as of ``est_lat`` and ``latitude.1``, and none says what else it is."""
    words = [core(ours, plain(word)) for word in _WORD.findall(name)]
    return any(word in _AXES[ours] for word in words) and not any(map(_NOT_DEGREES.fullmatch, words))
