"""Replies as text that other programs read: JSON, CSV, GeoJSON, KML."""

import csv
import io
import json
from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import escape

from graticule.geo import format_km
from graticule.locate import Reply

FIELDS = ("photo", "lat", "lon", "expected_error_km", "calibrated", "cell", "probability", "error")


def to_json(replies: Sequence[Reply]) -> str:
    """A list in the order of the photos; ``error`` stands where there is no fix."""
    return json.dumps([_plain(reply) for reply in replies], indent=2, ensure_ascii=False)


def to_csv(replies: Sequence[Reply]) -> str:
    """One row a photo with its likeliest cell; empty fields and ``error`` where there is no fix."""
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for reply in replies:
        row = _plain(reply)
        if reply.fix and reply.fix.cells:
            row |= {"cell": reply.fix.cells[0].token, "probability": round(reply.fix.cells[0].probability, 6)}
        writer.writerow(row)
    return text.getvalue()


def to_geojson(replies: Sequence[Reply]) -> str:
    """A FeatureCollection (RFC 7946); a photo without a fix is a feature without geometry."""
    features: list[dict[str, Any]] = []
    for reply in replies:
        if reply.fix:
            features.append(reply.fix.to_geojson({"photo": str(reply.photo)}))
        else:
            features.append({"type": "Feature", "geometry": None, "properties": _plain(reply)})
    return json.dumps({"type": "FeatureCollection", "features": features}, indent=2, ensure_ascii=False)


def to_kml(replies: Sequence[Reply]) -> str:
    """OGC KML 2.2 placemarks; photos without a fix are placemarks without a point."""
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        '<kml xmlns="http://www.opengis.net/kml/2.2"><Document>',
    ]
    for reply in replies:
        if reply.fix:
            expected = reply.fix.expected_error_km
            off = "error unknown" if expected is None else f"about {format_km(expected)} off"
            says = f"{off}, not calibrated"
            lon, lat = f"{reply.fix.lon:.7f}", f"{reply.fix.lat:.7f}"
            point = f"<Point><coordinates>{lon},{lat}</coordinates></Point>"
        else:
            says, point = str(reply.error), ""
        name, says = escape(str(reply.photo)), escape(says)
        lines.append(f"<Placemark><name>{name}</name><description>{says}</description>{point}</Placemark>")
    return "\n".join([*lines, "</Document></kml>"])


def _plain(reply: Reply) -> dict[str, Any]:
    if reply.fix:
        return {"photo": str(reply.photo), **reply.fix.to_json()}
    return {"photo": str(reply.photo), "error": str(reply.error)}


WRITERS = {"json": to_json, "csv": to_csv, "geojson": to_geojson, "kml": to_kml}
