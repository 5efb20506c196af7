"""Which column of somebody's table is which of ours: usual names in several languages, and positions in one column."""

import difflib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from graticule.errors import BadTableError, note
from graticule.photos.images import SUFFIXES

NAMES = {
    "path": (
        "path", "file", "filename", "filepath", "image", "img", "imagename", "imgname", "imagepath", "imgpath",
        "imagefile", "imgfile", "imagefilename", "photo", "photoname", "photopath", "photofile", "picture", "pic",
        "sourcefile", "fullpath", "relativepath", "relpath", "datei", "dateiname", "dateipfad", "bild", "fichier",
        "nomfichier", "archivo", "fichero", "arquivo", "bestand", "bestandsnaam", "foto", "nomefile",
    ),
    "lat": ("lat", "latitude", "latitud", "latitudine", "breite", "breitengrad", "breedtegraad"),
    "lon": ("lon", "lng", "long", "longitude", "longitud", "longitudine", "lange", "laenge", "langengrad",
            "laengengrad", "lengtegraad"),
}  # fmt: skip
LESSER = {  # taken where none of the above is there
    "lat": ("y", "ycoord", "coordy"),
    "lon": ("x", "xcoord", "coordx"),
}
IDS = ("name", "key", "id", "imageid", "imgid", "photoid", "uid")  # of photos, where no column names files
BOTH = ("latlon", "latlng", "latlong", "coordinates", "coordinate", "coords", "coord", "location", "position", "gps",
        "gpsposition", "gpscoordinates", "gpslocation", "geo", "geolocation", "geometry", "geom", "wkt", "wktgeom",
        "thegeom", "point", "geopoint", "koordinaten", "coordonnees", "coordenadas")  # fmt: skip
_BEFORE = re.compile(
    r"(?:exif|gps|geo|wgs84|locations?|loc|positions?|pos|coordinates?|coords?|points?|start|map|cam(?:era)?|"
    r"photo|im(?:a?ge?)?|decimal)+(?=l)"
)
_BEHIND = re.compile(r"(?:deg(?:rees?)?|dd|decimal|wgs84|gps)+$")
_PAIR = re.compile(r"[(\[]?\s*(?P<first>[^,;\s()\[\]]+)(?:\s*[,;]\s*|\s+)(?P<second>[^,;\s()\[\]]+)\s*[)\]]?")
_LETTERED = re.compile(r"(?P<first>.+?[NS])\s*[,;]?\s*(?P<second>\S.*[EW])", re.IGNORECASE)
_POINT = re.compile(
    r"(?:SRID=4326;)?\s*POINT\s*(?:Z|M|ZM)?\s*\(\s*(?P<second>\S+)\s+(?P<first>[^\s)]+)[^)]*\)", re.IGNORECASE
)


def plain(name: str) -> str:
    """A name without case, accents, units in brackets, spaces and signs: ``GPS_Latitude (deg)`` is ``gpslatitude``."""
    bare = unicodedata.normalize("NFKD", re.sub(r"[(\[].*?[)\]]", "", name).casefold())
    return re.sub(r"[^a-z0-9]", "", bare)


def usual(ours: str, found: Sequence[str]) -> list[str]:
    """The columns that may be one of ours by their names."""
    for names in (NAMES, LESSER):
        if fits := [name for name in found if _core(ours, plain(name)) in names.get(ours, (plain(ours),))]:
            return fits
    return []


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


def from_values(
    frame: pl.DataFrame, named: Mapping[str, str | None], file: Path
) -> tuple[pl.DataFrame, dict[str, str | None]]:
    """The columns that no usual name gives, by what stands in them: names of photos, pairs of degrees.

    Raises:
        BadTableError: one is still missing.
    """
    columns = dict(named)
    if columns.get("lat", "") is None and columns.get("lon", "") is None:
        frame = split_pairs(frame, file)
        columns |= {axis: axis for axis in ("lat", "lon") if axis in frame.columns}
    lacking = [ours for ours, name in columns.items() if name is None and ours != "path"]
    if not lacking and columns.get("path", "") is None:
        ids = [name for name in frame.columns if plain(name) in IDS]
        columns["path"] = photo_column(frame) or (ids[0] if len(ids) == 1 else None)
        if columns["path"]:
            note(f"{file}: the column {columns['path'].strip()} is read as path")
    for ours, name in columns.items():
        if name is None:
            raise BadTableError(missing(file, ours, ours, frame.columns))
    return frame, columns


def photo_column(frame: pl.DataFrame) -> str | None:
    """The one column whose every value ends as the names of photos do."""
    endings = "|".join(suffix[1:] for suffix in sorted(SUFFIXES))
    fits = [
        column.name
        for column in frame.select(pl.col(pl.String))
        if column.null_count() < len(column) and column.drop_nulls().str.contains(rf"(?i)[.](?:{endings})\s*$").all()
    ]
    return fits[0] if len(fits) == 1 else None


def split_pairs(frame: pl.DataFrame, file: Path) -> pl.DataFrame:
    """A table whose positions stand in one column, as ``37.77, -122.41`` or ``POINT (-122.41 37.77)``, with two.

    Of a pair the latitude comes first, as on maps for people, unless some first number is no latitude and no second
    one is; a POINT of well-known text begins with x. Any other table comes back as it is.
    """
    for name in frame.columns:
        if plain(name) not in BOTH or frame.schema[name] != pl.String:
            continue
        texts = frame[name].str.strip_chars().to_list()
        shown = [text for text in texts if text]
        pattern = next((each for each in (_POINT, _LETTERED, _PAIR) if all(map(each.fullmatch, shown))), None)
        if not shown or pattern is None:
            continue
        matches = [pattern.fullmatch(text) if text else None for text in texts]
        lat, lon = (
            pl.Series(axis, [match and match[part] for match in matches], pl.String)
            for axis, part in (("lat", "first"), ("lon", "second"))
        )
        turned = pattern is _PAIR and _beyond(lat) and not _beyond(lon)
        if turned:
            lat, lon = lon.alias("lat"), lat.alias("lon")
        order = "longitude, latitude" if turned or pattern is _POINT else "latitude, longitude"
        note(f"{file}: the column {name} is read as {order}")
        return frame.with_columns(lat, lon)
    return frame


def _core(ours: str, name: str) -> str:
    """``gpslatitude`` and ``latitudedeg`` as ``latitude``."""
    return name if ours not in ("lat", "lon") else _BEHIND.sub("", _BEFORE.sub("", name)) or name


def _beyond(values: pl.Series) -> bool:
    """Whether some are no latitudes."""
    return bool((values.cast(pl.Float64, strict=False).abs() > 90).any())
