"""Photos of an evaluation or an audit as values that a script in its page puts on a map (``web/src/report.tsx``)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from markupsafe import Markup

from graticule.geo.sphere import geojson_position
from graticule.partition import Partition
from graticule.photos.leakage import Pair
from graticule.photos.table import Photos
from graticule.reporting.pages import thumbnail

MOST = 240  # photos in the page, each with a thumbnail of some kilobytes
PHOTO_PX = 160
MOST_DOTS = 3000  # of each side of an audit
BUILT = "serving/page/report"  # where `make page` puts the script and its style


@dataclass(frozen=True, slots=True)
class Browse:
    """What the template puts into the page, each safe where it stands there."""

    data: Markup
    script: Markup
    style: Markup


def browse_of(
    rows: pl.DataFrame | None, names: Mapping[str, str], partition: Partition | None, photos: Path | None
) -> Browse | None:
    """The photos to browse; None where there are none, or where the script was not built (it needs Node.js).

    Args:
        rows: photos with ``path, lat, lon, predicted_lat, predicted_lon, error_km``, and what else an evaluation keeps.
        names: what to call each path.
        photos: the folder that paths start from; without it there are no thumbnails.
    """
    if rows is None or not len(rows) or not is_built():
        return None
    chosen = _evenly(rows.sort("error_km", "path"), MOST).to_dicts()
    row_of = {name: row for row, name in enumerate(partition.names)} if partition is not None else {}
    shown = [_shown(each, names[each["path"]], row_of, photos) for each in chosen]
    used = sorted({row for each in shown for row, _ in each["likely"]})
    data = {"photos": shown, "total": len(rows), "cells": _rings(partition, used) if partition is not None else {}}
    return _inside(data)


def sides_of(train: Photos, test: Photos, pairs: Sequence[tuple[str, Pair]]) -> Browse | None:
    """Both sides of an audit, and pairs with what lies between their photos; None where the script was not built."""
    if not is_built():
        return None
    shown = [
        {
            "why": pair.why,
            "between": between,
            **{
                side: {"lat": facts["lat"], "lon": facts["lon"], "name": str(facts["path"])}
                for side, facts in (("test", pair.test), ("train", pair.train))
            },
        }
        for between, pair in pairs
    ]
    places = {name: _evenly(photos.frame, MOST_DOTS) for name, photos in (("train", train), ("test", test))}
    dots = {name: frame.select(pl.col("lat", "lon").round(6)).rows() for name, frame in places.items()}
    return _inside({**dots, "pairs": shown})


def answers_of(answers: Mapping[str, Any]) -> Browse | None:
    """Answers of photos, as ``web/src/views/answers.tsx`` shows them; None where the script was not built."""
    return _inside(answers) if is_built() else None


def is_built() -> bool:
    """Whether the script is there."""
    return (resources.files("graticule") / BUILT / "report.js").is_file()


def _inside(data: Mapping[str, Any]) -> Browse:
    script, style = _built("report.js"), _built("report.css")
    return Browse(
        Markup(json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")),  # no tag is left in it
        Markup(script.replace("</script", "<\\/script").replace("<!--", "\\x3c!--")),
        Markup(style),
    )


def _built(name: str) -> str:
    return (resources.files("graticule") / BUILT / name).read_text(encoding="utf-8")


def _evenly(rows: pl.DataFrame, most: int) -> pl.DataFrame:
    """At most so many rows, evenly spaced, the first and the last among them."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int))]


def _shown(row: Mapping[str, Any], name: str, row_of: Mapping[str, int], photos: Path | None) -> dict[str, Any]:
    small = thumbnail(photos / row["path"], name, PHOTO_PX) if photos is not None else None
    likely = zip(row.get("top_cells") or (), row.get("top_probabilities") or (), strict=True)

    def short(key: str) -> float | None:
        return None if row.get(key) is None else float(f"{row[key]:.4g}")

    return {
        "name": name,
        "lat": row["lat"],
        "lon": row["lon"],
        "answer": {"lat": row["predicted_lat"], "lon": row["predicted_lon"]},
        "error_km": short("error_km"),
        "expected_km": short("expected_error_km"),
        "p90_km": short("p90_error_km"),
        "likely": [[row_of[cell], float(f"{p:.3g}")] for cell, p in likely if cell in row_of],
        "photo": small and small.uri,
    }


def _rings(partition: Partition, rows: Sequence[int]) -> dict[int, list[list[float]]]:
    """Outlines of cells as closed rings of ``[lon, lat]``, each in one piece."""
    lat, lon = partition.outlines()
    rings = {}
    for row in rows:
        around = partition.center_lon[row]
        turned = around + (np.asarray(lon[row]) - around + 180) % 360 - 180
        ring = [geojson_position(float(y), float(x)) for y, x in zip(lat[row], turned, strict=True)]
        rings[row] = [[round(value, 6) for value in at] for at in [*ring, ring[0]]]
    return rings
