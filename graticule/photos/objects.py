"""Tables written as JSON: lists of objects in whatever wrapping, JSON lines, GeoJSON whole or a feature a line."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from graticule.errors import BadTableError, note
from graticule.photos.contents import pair_text
from graticule.photos.texts import utf8_bytes

LISTS = ("images", "photos", "rows", "records", "items", "data", "results")  # what wrappings call the list


def read_json(file: Path) -> pl.DataFrame:
    """A JSON file, or JSON lines by its suffix, as a frame; what an object holds in an object is ``outer.inner``.

    Raises:
        BadTableError: not JSON, or JSON that is no table.
    """
    try:
        text = utf8_bytes(file).decode().replace("\x1e", "")  # between the lines of RFC 8142
        try:
            tree = json.loads(text)
        except json.JSONDecodeError as error:
            if not error.msg.startswith("Extra data"):  # a line is whole: one a row
                raise
            tree = [json.loads(line) for line in text.splitlines() if line.strip()]
    except (ValueError, RecursionError) as error:
        raise BadTableError(f"{file} cannot be read as JSON ({error}); repair it or save it as CSV") from error
    rows = _rows(file, tree)
    if not rows:
        raise BadTableError(
            f"{file} is JSON, but neither a GeoJSON FeatureCollection nor a list of objects with names, nor one object "
            f"a photo"
        )
    return pl.DataFrame([_flat(row) for row in rows], infer_schema_length=None)


def _rows(file: Path, tree: Any) -> Sequence[Mapping[str, Any]]:
    if isinstance(tree, dict) and tree.get("type") in ("FeatureCollection", "Feature"):
        _check_degrees(file, tree)
        return _points(file, tree.get("features") or [] if tree["type"] == "FeatureCollection" else [tree])
    if isinstance(tree, list):
        if tree and all(isinstance(row, dict) and row.get("type") == "Feature" for row in tree):
            return _points(file, tree)
        return tree if all(isinstance(row, dict) for row in tree) else []
    if not isinstance(tree, dict) or not tree:
        return []
    if {"columns", "data"} <= set(tree) and all(
        isinstance(row, list) for row in tree["data"] or [0]
    ):  # pandas' "split"
        return [dict(zip(tree["columns"], row, strict=False)) for row in tree["data"]]
    if all(isinstance(value, dict) and set(value) == set(map(str, range(len(value)))) for value in tree.values()):
        rows = range(len(next(iter(tree.values()))))  # pandas' own way, by column
        return [{name: value.get(str(row)) for name, value in tree.items()} for row in rows]
    lists = {name: value for name, value in tree.items() if value and isinstance(value, list)}
    objects = {name: value for name, value in lists.items() if all(isinstance(row, dict) for row in value)}
    named = [name for name in LISTS if name in objects]
    if len(objects) == 1 or named:
        return _rows(file, objects[named[0] if named else next(iter(objects))])
    if all(isinstance(value, dict) for value in tree.values()):
        return [{"path": name} | value for name, value in tree.items()]
    if len(lists) == len(tree) and len({len(value) for value in lists.values()}) == 1:
        width = len(next(iter(lists.values())))
        if width >= 2 and all(isinstance(number, int | float) for value in lists.values() for number in value[:2]):
            return [{"path": name, "coordinates": f"{value[0]}, {value[1]}"} for name, value in tree.items()]
        return [dict(zip(tree, values, strict=True)) for values in zip(*tree.values(), strict=True)]
    return []


def _check_degrees(file: Path, tree: Mapping[str, Any]) -> None:
    """GeoJSON of before 2016 may name another system than degrees."""
    said = tree.get("crs")
    name = str((said.get("properties") or {}).get("name", "")) if isinstance(said, dict) else ""
    if name and not name.endswith(("CRS84", ":4326", ":4979")):
        raise BadTableError(
            f"{file}: its positions are in {name[:60]}, not in degrees; convert it first: "
            f"ogr2ogr -t_srs EPSG:4326 degrees.geojson {file.name}"
        )


def _points(file: Path, features: Sequence[Any]) -> list[dict[str, Any]]:
    rows = []
    for feature in features:
        at = pair_text(feature.get("geometry"))
        if at is None:
            continue
        lon, lat = at.removeprefix("POINT (").removesuffix(")").split()
        said = feature.get("properties") or {}
        if not said and feature.get("id") is not None:
            said = {"id": feature["id"]}
        rows.append(said | {"lat": _number(lat), "lon": _number(lon)})
    if not rows:
        raise BadTableError(f"{file} holds no points; each photo's feature needs a geometry of type Point")
    if len(rows) < len(features):
        note(f"{file}: {len(features) - len(rows)} features that are no points are left out")
    return rows


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _flat(row: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in row.items():
        if (pair := pair_text(value)) is not None:
            found[before + name] = pair
        elif isinstance(value, Mapping):
            found |= _flat(value, f"{before}{name}.")
        elif isinstance(value, list):  # polars would make a column of lists of it, and fail where they differ
            found[before + name] = json.dumps(value)
        else:
            found[before + name] = value
    return found
