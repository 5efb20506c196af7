"""Replies as text that other programs read: JSON, CSV, GeoJSON, KML."""

import csv
import io
import json
from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import escape

from graticule.geo.sphere import format_km
from graticule.inference.locate import Result

FIELDS = ("photo", "lat", "lon", "expected_error_km", "calibrated", "cell", "probability", "error")


def to_json(results: Sequence[Result]) -> str:
    """A list in the order of the photos; ``error`` stands where there is no fix."""
    return json.dumps([_plain(result) for result in results], indent=2, ensure_ascii=False)


def to_csv(results: Sequence[Result]) -> str:
    """One row a photo with its likeliest cell; empty fields and ``error`` where there is no fix."""
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for result in results:
        row = _plain(result)
        if result.fix and result.fix.cells:
            row |= {"cell": result.fix.cells[0].token, "probability": round(result.fix.cells[0].probability, 6)}
        writer.writerow(row)
    return text.getvalue()


def to_geojson(results: Sequence[Result]) -> str:
    """A FeatureCollection (RFC 7946); a photo without a fix is a feature without geometry."""
    features: list[dict[str, Any]] = []
    for result in results:
        if result.fix:
            features.append(result.fix.to_geojson({"photo": str(result.photo)}))
        else:
            features.append({"type": "Feature", "geometry": None, "properties": _plain(result)})
    return json.dumps({"type": "FeatureCollection", "features": features}, indent=2, ensure_ascii=False)


def to_kml(results: Sequence[Result]) -> str:
    """OGC KML 2.2 placemarks; photos without a fix are placemarks without a point."""
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        '<kml xmlns="http://www.opengis.net/kml/2.2"><Document>',
    ]
    for result in results:
        if result.fix:
            expected = result.fix.expected_error_km
            off = "error unknown" if expected is None else f"about {format_km(expected)} off"
            says = f"{off}, not calibrated"
            lon, lat = f"{result.fix.lon:.7f}", f"{result.fix.lat:.7f}"
            point = f"<Point><coordinates>{lon},{lat}</coordinates></Point>"
        else:
            says, point = str(result.error), ""
        name, says = escape(str(result.photo)), escape(says)
        lines.append(f"<Placemark><name>{name}</name><description>{says}</description>{point}</Placemark>")
    return "\n".join([*lines, "</Document></kml>"])


def _plain(result: Result) -> dict[str, Any]:
    if result.fix:
        return {"photo": str(result.photo), **result.fix.to_json()}
    return {"photo": str(result.photo), "error": str(result.error)}


WRITERS = {"json": to_json, "csv": to_csv, "geojson": to_geojson, "kml": to_kml}
