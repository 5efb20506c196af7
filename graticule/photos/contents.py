"""Columns by what stands in them: names of photos, positions in one column, letters of hemispheres."""

import re
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from graticule.errors import BadTableError, note
from graticule.photos.degrees import LETTERS, POINT, Axis, read_degrees
from graticule.photos.images import SUFFIXES
from graticule.photos.synonyms import IDS, core, missing, plain, usual

COLUMNS = ("latlon", "latlng", "latlong", "coordinates", "coordinate", "coords", "coord", "location", "position", "gps",
           "gpsposition", "gpscoordinates", "gpslocation", "geo", "geolocation", "geometry", "geom", "wkt", "wktgeom",
           "wkb", "thegeom", "point", "geopoint", "koordinaten", "coordonnees", "coordenadas")  # fmt: skip
REFERENCES = ("ref", "reference", "hemisphere", "hemi", "direction", "dir")  # of columns: latref, GPSLatitudeRef
_NUMBER = r"[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?"
_FIRST, _SECOND = rf"(?P<first>{_NUMBER})", rf"(?P<second>{_NUMBER})"
_POINT = re.compile(rf"(?:SRID=4326;)?\s*POINT\s*(?:Z|M|ZM)?\s*\(\s*{_SECOND}\s+{_FIRST}(?:\s[^)]*)?\)", re.IGNORECASE)
_GEOJSON = re.compile(rf".*['\"]coordinates['\"]\s*:\s*\[\s*{_SECOND}\s*,\s*{_FIRST}\b.*", re.DOTALL)
_OBJECT = re.compile(
    rf"\{{.*?\blat(?:itude)?['\"]?\s*[:=]\s*['\"]?{_FIRST}['\"]?\s*,.*?\bl(?:ng|on|ong|ongitude)['\"]?\s*[:=]\s*['\"]?"
    rf"{_SECOND}['\"]?.*\}}",
    re.IGNORECASE | re.DOTALL,
)
_LINK = re.compile(rf"(?:geo:|https?://\S*?[@=/:]){_FIRST}(?:,|%2C){_SECOND}(?![\d.]).*", re.IGNORECASE)
_LETTERED = re.compile(r"(?P<first>.+?[NS])\s*[,;]?\s*(?P<second>\S.*[EWO])", re.IGNORECASE)
_COMMAS = re.compile(r"(?P<first>[+-]?\d+,\d+)(?:\s*[;/]\s*|,?\s+)(?P<second>[+-]?\d+,\d+)")
_PAIR = re.compile(r"[(\[]?\s*(?P<first>[^,;\s()\[\]]+)(?:\s*[,;]\s*|\s+)(?P<second>[^,;\s()\[\]]+)\s*[)\]]?")
PATTERNS = (_POINT, _GEOJSON, _OBJECT, _LINK, _LETTERED, _COMMAS, _PAIR)


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
    """A table whose positions stand in one column with two more, ``lat`` and ``lon``.

    Of a pair the latitude comes first, as on maps for people, unless some first number is no latitude and no second
    one is; a POINT of well-known text or binary and GeoJSON begin with x. Any other table comes back as it is.
    """
    for name in frame.columns:
        if plain(name) not in COLUMNS:
            continue
        texts = _texts(frame[name])
        shown = [text for text in texts if text]
        pattern = next((each for each in PATTERNS if all(map(each.fullmatch, shown))), None)
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
        first = "longitude, latitude" if turned or pattern in (_POINT, _GEOJSON) else "latitude, longitude"
        note(f"{file}: the column {name} is read as {first}")
        return frame.with_columns(lat, lon)
    return frame


def names_positions(names: Sequence[str]) -> bool:
    """Whether these are names of columns that hold positions."""
    return bool(usual("lat", names) and usual("lon", names)) or any(plain(name) in COLUMNS for name in names)


def point_of_wkb(shape: bytes | None) -> tuple[float, float] | None:
    """Longitude and latitude of a point in well-known binary (OGC 06-103r4, section 8.2), with or without height.

    Also with PostGIS's flags and number of a reference system, and of a collection that holds one point alone.
    """
    if shape is None or len(shape) < 21 or shape[0] > 1:
        return None
    order = "<" if shape[0] else ">"
    (code,) = struct.unpack_from(order + "I", shape, 1)
    at = 5 + 4 * bool(code & 0x20000000)  # behind the number of a reference system
    kind = (code & 0xFFFF) % 1000
    if kind == 4 and struct.unpack_from(order + "I", shape, at) == (1,):
        return point_of_wkb(shape[at + 4 :])
    if kind != 1 or len(shape) < at + 16:
        return None
    lon, lat = struct.unpack_from(order + "dd", shape, at)
    return lon, lat


def reference_columns(named: Mapping[str, str | None], found: list[str]) -> dict[str, str]:
    """By axis the column that says which hemisphere: ``GPSLatitudeRef`` beside ``GPSLatitude``."""
    columns: dict[str, str] = {}
    for axis in ("lat", "lon"):
        name = named.get(axis)
        stems = () if name is None else (plain(name), core(axis, plain(name)), axis)
        wanted = {stem + ending for stem in stems for ending in REFERENCES}
        fits = [other for other in found if plain(other) in wanted or plain(other).removeprefix("gps") in wanted]
        if len(fits) == 1:
            columns[axis] = fits[0]
    return columns


def with_hemispheres(frame: pl.DataFrame, named: Mapping[str, str], file: Path) -> pl.DataFrame:
    """Positions without a sign signed by the column beside them that names the hemisphere, where there is one."""
    for axis, column in reference_columns(named, frame.columns).items():
        if frame[column].dtype != pl.String:
            continue
        letters = frame[column].str.strip_chars().str.to_uppercase().str.slice(0, 1).fill_null("")
        known: Axis = "lat" if axis == "lat" else "lon"
        if not letters.is_in([*LETTERS[known], ""]).all() or (letters == "").all():
            continue
        name = named[axis]
        size, way = read_degrees(frame[name], known, file)
        note(f"{file}: the column {column} is read as the hemisphere of {name}{'' if way == POINT else ', ' + way}")
        negative = (letters == LETTERS[known][1]).to_numpy()
        signed = np.where(negative, -np.abs(size), size)
        signed[(letters == LETTERS[known][0]).to_numpy() & (size < 0)] = np.nan  # a sign against its letter
        frame = frame.with_columns(pl.Series(name, signed))
    return frame


def flat(frame: pl.DataFrame) -> pl.DataFrame:
    """A frame without structures in its columns: ``location`` of a latitude and a longitude is ``location.lat``, ..."""
    while nested := [name for name, kind in frame.schema.items() if isinstance(kind, pl.Struct)]:
        frame = frame.with_columns(pl.col(name).name.prefix_fields(f"{name}.") for name in nested).unnest(nested)
    return frame


def _texts(column: pl.Series) -> list[str]:
    """Values as text, with what is binary or a list written out."""
    kind = column.dtype
    if kind == pl.String:
        texts = [(text or "").strip() for text in column]
        if all(re.fullmatch(r"(?:00|01)[0-9A-Fa-f]{40,}", text) for text in texts if text):
            return [_written(point_of_wkb(bytes.fromhex(text))) for text in texts]
        return texts
    if kind == pl.Binary:
        return [_written(point_of_wkb(value)) for value in column]
    if isinstance(kind, pl.List | pl.Array) and kind.inner.is_numeric():
        return ["" if value is None else ", ".join(map(str, list(value)[:2])) for value in column]
    return []


def _written(point: tuple[float, float] | None) -> str:
    return f"POINT ({point[0]!r} {point[1]!r})" if point else ""


def _beyond(values: pl.Series) -> bool:
    """Whether some are no latitudes."""
    return bool((values.cast(pl.Float64, strict=False).abs() > 90).any())


def pair_text(value: Any) -> str | None:
    """A point of GeoJSON, or two numbers, as text that :func:`split_pairs` reads; None for anything else."""
    if isinstance(value, Mapping) and value.get("type") in ("Point", "MultiPoint"):
        at: Any = value.get("coordinates") or ()
        at = at[0] if len(at) == 1 else at
        return f"POINT ({at[0]} {at[1]})" if len(at) >= 2 and not isinstance(at[0], list) else None
    if isinstance(value, list) and len(value) == 2 and all(isinstance(number, int | float) for number in value):
        return f"{value[0]}, {value[1]}"
    return None
