"""Results as text that other programs read: JSON, CSV, GeoJSON, KML; written while the photos are answered.

Each writer gives the text in pieces, one or more a photo, so that a million photos need no more memory than one.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from textwrap import indent
from typing import Any
from xml.sax.saxutils import escape

from graticule.geo import s2
from graticule.geo.outlines import geojson_outline
from graticule.geo.sphere import format_km, map_link
from graticule.inference.decode import Fix
from graticule.inference.locate import REGION
from graticule.inference.said import Result

REGION_COVERAGE = float(REGION)

FIELDS = (
    "photo", "lat", "lon", "expected_error_km", "calibrated", "median_error_km", "p90_error_km", "area_km2",
    "unlike_training", "cannot_tell", "cell", "probability", "error",
)  # fmt: skip


def to_json(results: Iterable[Result]) -> Iterator[str]:
    """A list in the order of the photos; ``error`` stands where there is no fix."""
    yield from _array((_plain(result) for result in results), "")
    yield "\n"


CLAIM_FIELDS = ("claim_distance_km", "claim_within_km", "claim_probability", "claim_region")


def to_csv(results: Iterable[Result], top: int = 1, claims: bool = False, inside: Sequence[str] = ()) -> Iterator[str]:
    """One row a photo with its ``top`` likeliest cells; empty fields and ``error`` where there is no fix.

    The likeliest is ``cell`` and ``probability``, the next ``cell_2`` and ``probability_2``, ...; with ``claims``,
    ``CLAIM_FIELDS`` follow, and ``inside NAME`` for each area of these names.
    """
    names = [("cell", "probability"), *((f"cell_{n}", f"probability_{n}") for n in range(2, top + 1))]
    text = io.StringIO()
    fields = [*FIELDS, *(name for pair in names[1:] for name in pair), *(CLAIM_FIELDS if claims else ())]
    fields += [f"inside {name}" for name in inside]
    writer = csv.DictWriter(text, fields, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for row in to_rows(results, top):
        writer.writerow(row)
        yield text.getvalue()
        text.seek(0)
        text.truncate()
    yield text.getvalue()


def to_rows(results: Iterable[Result], top: int = 1) -> Iterator[dict[str, Any]]:
    """The rows of :func:`to_csv` with their values, and whatever else :meth:`Fix.to_json` tells."""
    names = [("cell", "probability"), *((f"cell_{n}", f"probability_{n}") for n in range(2, top + 1))]
    for result in results:
        row = _plain(result)
        for (cell, probability), guess in zip(names, result.fix.cells if result.fix else (), strict=False):
            row |= {cell: guess.token, probability: round(guess.probability, 6)}
        row |= {f"inside {area['name']}": area["probability"] for area in row.get("inside") or ()}
        yield row | {f"claim_{name}": value for name, value in (row.get("claim") or {}).items()}


def to_geojson(results: Iterable[Result], regions: bool = False) -> Iterator[str]:
    """A FeatureCollection (RFC 7946); a photo without a fix is a feature without geometry.

    Args:
        regions: let a second feature follow each calibrated answer: the region that holds the photo with probability
            ``coverage``.
    """
    features = (feature for result in results for feature in _features(result, regions))
    yield '{\n  "type": "FeatureCollection",\n  "features": '
    yield from _array(features, "  ")
    yield "\n}\n"


def to_kml(results: Iterable[Result]) -> Iterator[str]:
    """OGC KML 2.2 placemarks; photos without a fix are placemarks without a point."""
    yield '<?xml version="1.0" encoding="UTF-8"?>\n<kml xmlns="http://www.opengis.net/kml/2.2"><Document>\n'
    for result in results:
        point = ""
        if result.fix is None:
            text = str(result.error)
        elif result.fix.cannot_tell:
            text = f"cannot tell: {result.fix.cannot_tell}"
        else:
            text = _error_in_words(result.fix)
            text += f"; the claimed place: {result.fix.claim.in_words()}" if result.fix.claim else ""
            lon, lat = f"{result.fix.lon:.7f}", f"{result.fix.lat:.7f}"
            point = f"<Point><coordinates>{lon},{lat}</coordinates></Point>"
        name, text = escape(str(result.photo)), escape(text)
        yield f"<Placemark><name>{name}</name><description>{text}</description>{point}</Placemark>\n"
    yield "</Document></kml>\n"


def to_words(results: Iterable[Result], knows: str = "its training photos", own: bool = False) -> Iterator[str]:
    """A few lines a photo for people: near which town, how sure, what it says of itself, a link to a map.

    Args:
        knows: the area that the model knows, said where a photo is unlike its training photos.
        own: claims are what the photos say of themselves, which comes first.
    """
    for result in results:
        fix = result.fix
        if fix is None:
            yield f"{result.photo}\n  {result.error}\n\n"
            continue
        lines = []
        if fix.is_unlike_training:
            lines.append(f"unlike the training photos: this model knows {knows}; how far off it is here is not known")
        if fix.cannot_tell:
            lines.append(f"cannot tell: {fix.cannot_tell}")
        else:
            position = f"{fix.lat:.5f}, {fix.lon:.5f}"
            lines.append(f"near {fix.near} ({position})" if fix.near else position)
            if not fix.is_unlike_training:
                lines.append(_error_in_words(fix))
            if fix.places:
                lines.append("likely: " + "; ".join(f"{place.name} {place.probability:.0%}" for place in fix.places))
            lines.append(_map_link(fix))
        lines += [f"inside {area.name}: {area.probability:.1%}" for area in fix.inside]
        if fix.claim:
            said = f"{fix.claim.lat:.5f}, {fix.claim.lon:.5f}; {fix.claim.in_words()}"
            lines.insert(0 if own else len(lines), f"the photo itself says {said}" if own else f"claimed: {said}")
        yield "\n  ".join([str(result.photo), *lines]) + "\n\n"


def _map_link(fix: Fix) -> str:
    """OpenStreetMap with a pin, so that nine of ten such photos lie in what a window shows."""
    return map_link(fix.lat, fix.lon, fix.p90_error_km or fix.expected_error_km or 1.0)


def _error_in_words(fix: Fix) -> str:
    if fix.median_error_km is not None and fix.p90_error_km is not None:
        half, most = format_km(fix.median_error_km), format_km(fix.p90_error_km)
        return f"half of such photos lie within {half}, nine of ten within {most}"
    off = "error unknown" if fix.expected_error_km is None else f"about {format_km(fix.expected_error_km)} off"
    return f"{off}, not calibrated"


def _array(values: Iterable[dict[str, Any]], margin: str) -> Iterator[str]:
    """A JSON array as ``json.dumps`` with an indent of 2 writes it, ``margin`` being that of its closing bracket."""
    before = "[\n"
    for value in values:
        yield before + indent(json.dumps(value, indent=2, ensure_ascii=False), margin + "  ")
        before = ",\n"
    yield "[]" if before == "[\n" else f"\n{margin}]"


def _features(result: Result, regions: bool) -> Iterator[dict[str, Any]]:
    if result.fix is None:
        yield {"type": "Feature", "geometry": None, "properties": _plain(result)}
        return
    photo = {"photo": str(result.photo)}
    yield result.fix.to_geojson(photo)
    if regions and result.fix.region:
        properties = photo | {"coverage": REGION_COVERAGE, "area_km2": result.fix.to_json()["area_km2"]}
        outline = geojson_outline(s2.from_tokens(result.fix.region))
        yield {"type": "Feature", "geometry": outline, "properties": properties}


def _plain(result: Result) -> dict[str, Any]:
    if result.fix:
        return {"photo": str(result.photo), **result.fix.to_json()}
    return {"photo": str(result.photo), "error": str(result.error)}


Writer = Callable[[Iterable[Result]], Iterator[str]]
WRITERS: dict[str, Writer] = {
    "words": to_words, "json": to_json, "csv": to_csv, "geojson": to_geojson, "kml": to_kml
}  # fmt: skip
