"""Tables written as JSON: lists of objects in whatever wrapping, JSON lines, GeoJSON whole or a feature a line."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from graticule.errors import BadTableError, note

LISTS = ("images", "photos", "rows", "records", "items", "data", "results")  # what wrappings call the list


def read_json(file: Path) -> pl.DataFrame:
    """A JSON file, or JSON lines by its suffix, as a frame; what an object holds in an object is ``outer.inner``.

    Raises:
        BadTableError: not JSON, or JSON that is no table.
    """
    try:
        if file.suffix.lower() in (".jsonl", ".ndjson", ".geojsonl", ".geojsons"):
            lines = file.read_text(encoding="utf-8-sig").replace("\x1e", "").splitlines()  # of RFC 8142
            tree = [json.loads(line) for line in lines if line.strip()]
        else:
            tree = json.loads(file.read_bytes())
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
    if isinstance(tree, dict) and tree.get("type") == "FeatureCollection":
        tree = tree.get("features") or []
        return _points(file, tree)
    if isinstance(tree, list):
        if tree and all(isinstance(row, dict) and row.get("type") == "Feature" for row in tree):
            return _points(file, tree)
        return tree if all(isinstance(row, dict) for row in tree) else []
    if not isinstance(tree, dict) or not tree:
        return []
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


def _points(file: Path, features: Sequence[Any]) -> list[dict[str, Any]]:
    rows = []
    for feature in features:
        geometry = feature.get("geometry") or {}
        if geometry.get("type") == "Point" and len(geometry.get("coordinates") or ()) >= 2:
            lon, lat = geometry["coordinates"][:2]
            rows.append((feature.get("properties") or {}) | {"lat": lat, "lon": lon})
    if not rows:
        raise BadTableError(f"{file} holds no points; each photo's feature needs a geometry of type Point")
    if len(rows) < len(features):
        note(f"{file}: {len(features) - len(rows)} features that are no points are left out")
    return rows


def _flat(row: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{before}{name}.")
        elif isinstance(value, list):  # polars would make a column of lists of it, and fail where they differ
            pair = len(value) == 2 and all(isinstance(number, int | float) for number in value)
            found[before + name] = f"{value[0]}, {value[1]}" if pair else json.dumps(value)
        else:
            found[before + name] = value
    return found
