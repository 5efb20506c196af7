"""Results as text that other programs read: JSON, CSV, GeoJSON, KML; written while the photos are answered.

Each writer gives the text in pieces, one or more a photo, so that a million photos need no more memory than one.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from textwrap import indent
from typing import Any
from xml.sax.saxutils import escape

from graticule.geo import s2
from graticule.geo.outlines import geojson_circle, geojson_outline
from graticule.geo.sphere import format_km
from graticule.geo.sphere import map_link as pinned
from graticule.inference.decode import Fix
from graticule.inference.locate import REGION
from graticule.inference.said import Result

REGION_COVERAGE = float(REGION)
POSITION = re.compile(r"\[\s+(-?[\d.e-]+),\s+(-?[\d.e-]+)\s+\]")
FEW_PHOTOS = 300  # some hundred do not teach a city: see "What it reaches" in the README

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
        regions: let two more features follow each calibrated answer: the region that holds the photo with probability
            ``coverage``, and the circle of ``radius_km`` around the point that holds so many of such photos.
    """
    features = (feature for result in results for feature in _features(result, regions))
    yield '{\n  "type": "FeatureCollection",\n  "features": '
    yield from _array(features, "  ")
    yield "\n}\n"


def to_kml(results: Iterable[Result], regions: bool = False) -> Iterator[str]:
    """OGC KML 2.2 placemarks; photos without a fix are placemarks without a point.

    Args:
        regions: make each calibrated answer a folder: the point, the region and the circle as of :func:`to_geojson`.
    """
    yield '<?xml version="1.0" encoding="UTF-8"?>\n<kml xmlns="http://www.opengis.net/kml/2.2"><Document>\n'
    yield "".join(KML_STYLES) if regions else ""
    for result in results:
        fix, point = result.fix, ""
        if fix is None:
            text = str(result.error)
        elif fix.cannot_tell:
            text = f"cannot tell: {fix.cannot_tell}"
        else:
            text = _error_in_words(fix)
            text += f"; the claimed place: {fix.claim.in_words()}" if fix.claim else ""
            point = f"<Point><coordinates>{fix.lon:.7f},{fix.lat:.7f}</coordinates></Point>"
        name = str(result.photo)
        mark = _placemark(name, text, point)
        around = list(_around(fix)) if fix and regions and not fix.cannot_tell else []
        if not around:
            yield mark
            continue
        yield f"<Folder><name>{escape(name)}</name>\n{mark}"
        for outline, facts in around:
            circle = "radius_km" in facts
            what = f"circle of {format_km(facts['radius_km'])}" if circle else f"region of {facts['area_km2']:,g} km2"
            said = f"{REGION_COVERAGE:.0%} of such photos lie in this {'circle' if circle else 'region'}"
            style = f"<styleUrl>#{'circle' if circle else 'region'}</styleUrl>"
            yield _placemark(what, said, style + _kml_polygons(outline["coordinates"]))
        yield "</Folder>\n"
    yield "</Document></kml>\n"


# Colours are of Okabe and Ito, aabbggrr: blue for the region, vermilion for the circle, which is no more than a line.
KML_STYLES = (
    '<Style id="region"><LineStyle><color>ffb27200</color><width>2</width></LineStyle>'
    "<PolyStyle><color>40b27200</color></PolyStyle></Style>\n",
    '<Style id="circle"><LineStyle><color>ff005ed5</color><width>2</width></LineStyle>'
    "<PolyStyle><fill>0</fill></PolyStyle></Style>\n",
)


def _placemark(name: str, text: str, shape: str) -> str:
    return f"<Placemark><name>{escape(name)}</name><description>{escape(text)}</description>{shape}</Placemark>\n"


def _kml_polygons(polygons: Any) -> str:
    """The coordinates of a MultiPolygon as KML."""
    shapes = []
    for polygon in polygons:
        rings = []
        for number, ring in enumerate(polygon):
            side = "innerBoundaryIs" if number else "outerBoundaryIs"
            at = " ".join(f"{lon:.7f},{lat:.7f}" for lon, lat in ring)
            rings.append(f"<{side}><LinearRing><coordinates>{at}</coordinates></LinearRing></{side}>")
        shapes.append(f"<Polygon><tessellate>1</tessellate>{''.join(rings)}</Polygon>")
    return f"<MultiGeometry>{''.join(shapes)}</MultiGeometry>"


def to_words(
    results: Iterable[Result],
    knows: str = "its training photos",
    learned_from: int | None = None,
    own: bool = False,
) -> Iterator[str]:
    """A few lines a photo for people: near which town, how sure, what it says of itself, a link to a map.

    Args:
        knows: the area that the model knows, said where a photo is unlike its training photos.
        learned_from: how many photos it was trained on, said first where they are few.
        own: claims are what the photos say of themselves, which comes first.
    """
    if learned_from is not None and learned_from < FEW_PHOTOS:
        yield f"this model learned from {learned_from:,} photos only: its answers and its word on claims are weak\n\n"
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
            if len(fix.places) > 1 or (fix.places and fix.places[0].name != fix.near):  # all of it is near that town
                lines.append("likely: " + "; ".join(f"{place.name} {place.probability:.0%}" for place in fix.places))
            lines.append(map_link(fix))
        lines += [f"inside {area.name}: {area.probability:.1%}" for area in fix.inside]
        if fix.claim:
            said = f"{fix.claim.lat:.5f}, {fix.claim.lon:.5f}; {fix.claim.in_words()}"
            lines.insert(0 if own else len(lines), f"the photo itself says {said}" if own else f"claimed: {said}")
        yield "\n  ".join([str(result.photo), *lines]) + "\n\n"


def map_link(fix: Fix) -> str:
    """OpenStreetMap with a pin, so that nine of ten such photos lie in what a window shows."""
    return pinned(fix.lat, fix.lon, fix.p90_error_km or fix.expected_error_km or 1.0)


def _error_in_words(fix: Fix) -> str:
    if fix.median_error_km is not None and fix.p90_error_km is not None:
        half, most = format_km(fix.median_error_km), format_km(fix.p90_error_km)
        return f"half of such photos lie within {half}, nine of ten within {most}"
    off = "error unknown" if fix.expected_error_km is None else f"about {format_km(fix.expected_error_km)} off"
    return f"{off}, not calibrated"


def _array(values: Iterable[dict[str, Any]], margin: str) -> Iterator[str]:
    """A JSON array as ``json.dumps`` with an indent of 2 writes it, ``margin`` being that of its closing bracket; but
    a pair of numbers, GeoJSON's position, stands on one line: a region has hundreds.
    """
    before = "[\n"
    for value in values:
        text = POSITION.sub(r"[\1, \2]", json.dumps(value, indent=2, ensure_ascii=False))
        yield before + indent(text, margin + "  ")
        before = ",\n"
    yield "[]" if before == "[\n" else f"\n{margin}]"


def _features(result: Result, regions: bool) -> Iterator[dict[str, Any]]:
    if result.fix is None:
        yield {"type": "Feature", "geometry": None, "properties": _plain(result)}
        return
    photo = {"photo": str(result.photo)}
    feature = result.fix.to_geojson(photo)
    for name in ("near", "places"):  # asked for by `locate` alone; a null would say that there is none
        if not feature["properties"][name]:
            del feature["properties"][name]
    yield feature
    for outline, facts in _around(result.fix) if regions else ():
        properties = photo | {"coverage": REGION_COVERAGE} | facts
        yield {"type": "Feature", "geometry": outline, "properties": properties}


def _around(fix: Fix) -> Iterator[tuple[dict[str, Any], dict[str, float]]]:
    """What lies around the point of a calibrated answer, as MultiPolygons with their size: the region, the circle."""
    facts = fix.to_json()
    if fix.region:
        yield geojson_outline(s2.from_tokens(fix.region)), {"area_km2": facts["area_km2"]}
    if fix.p90_error_km:
        yield geojson_circle(fix.lat, fix.lon, fix.p90_error_km), {"radius_km": facts["p90_error_km"]}


def _plain(result: Result) -> dict[str, Any]:
    if result.fix:
        return {"photo": str(result.photo), **result.fix.to_json()}
    return {"photo": str(result.photo), "error": str(result.error)}


Writer = Callable[[Iterable[Result]], Iterator[str]]
WRITERS: dict[str, Writer] = {
    "words": to_words, "json": to_json, "csv": to_csv, "geojson": to_geojson, "kml": to_kml
}  # fmt: skip
