"""Answers as the JSON that the page and other programs read."""

from typing import Any

import numpy as np

from graticule.geo import s2
from graticule.geo.outlines import geojson_outline
from graticule.geo.sphere import Floats, great_circle_km
from graticule.inference.claims import Place
from graticule.inference.formats import to_words
from graticule.inference.locate import Locator, Result
from graticule.serving.asks import Answer

SHOWN_REGIONS = ("0.5", "0.9")
MOST_CELLS = 1500  # that a map is given
SHOWN_MASS = 0.99  # of the belief that they hold


def fix_json(locator: Locator, path: str, answer: Answer, own: Place | None, regions: bool, density: bool) -> Any:
    """One photo's answer."""
    if answer.fix is None:
        return {"path": path, "error": str(answer.error)}
    fix = answer.fix
    words = "".join(to_words([Result(path, fix, None)], knows=locator.area)).splitlines()[1:]
    tree = {"path": path, **fix.to_json(), "words": "\n".join(line.strip() for line in words).strip()}
    tree["exif"] = own and exif_json(own, (fix.lat, fix.lon))
    if regions:
        tree["regions"] = None if answer.masses is None else regions_json(locator, answer.masses)
    if density:
        tree["density"] = None if answer.masses is None else density_json(locator, answer.masses)
    return tree


def exif_json(own: Place, at: Place) -> dict[str, float]:
    """What a photo says of itself, and how far that lies from the answer."""
    distance_km = float(great_circle_km(*own, *at))
    return {"lat": round(own[0], 7), "lon": round(own[1], 7), "distance_km": round(distance_km, 4)}


def regions_json(locator: Locator, masses: Floats) -> dict[str, Any]:
    """The smallest regions that hold the photo with probability 0.5 and 0.9, as a FeatureCollection (RFC 7946)."""
    confidence, ground = locator.bundle.confidence, locator.grown
    features = []
    for coverage in SHOWN_REGIONS if confidence and ground else ():
        rows = ground.region(masses, confidence.calibration.region_mass[coverage])
        facts = {"coverage": float(coverage), "area_km2": round(float(ground.area_km2[rows].sum()), 4)}
        features.append(_feature(geojson_outline(ground.merged(rows)), facts))
    return {"type": "FeatureCollection", "features": features}


def density_json(locator: Locator, masses: Floats) -> dict[str, Any]:
    """The belief as S2 cells for a map, at most :data:`MOST_CELLS`, densest first."""
    ground = locator.grown
    if ground is None:
        return {"type": "FeatureCollection", "features": []}
    cells, mass = ground.summary(masses, SHOWN_MASS, MOST_CELLS)
    return cells_json(cells, mass)


def cells_json(cells: Any, mass: Floats) -> dict[str, Any]:
    """S2 cells with their probabilities as GeoJSON polygons, densest first."""
    per_km2 = mass / s2.areas_km2(cells)
    lat, lon = s2.outlines(cells, 1)
    middle = s2.centers(cells)[1]
    lon = middle[:, None] + (lon - middle[:, None] + 180) % 360 - 180  # no jump inside a cell
    features = []
    for i in np.argsort(-per_km2, kind="stable"):
        ring = [[round(float(x), 7), round(float(y), 7)] for x, y in zip(lon[i], lat[i], strict=True)]
        shape = {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}
        facts = {"mass": _short(mass[i]), "per_km2": _short(per_km2[i])}
        features.append(_feature(shape, facts))
    return {"type": "FeatureCollection", "features": features}


def _feature(geometry: dict[str, Any], properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def claim_json(locator: Locator, answer: Answer) -> dict[str, Any]:
    """A claimed place against the belief: :meth:`Claim.to_json`, the density there, and how surprising it is.

    ``surprise`` is the belief's mass of all places that are denser than this one, in [0, 1]: 0 at the likeliest.
    """
    claim, ground = answer.fix and answer.fix.claim, locator.grown
    if claim is None:
        raise ValueError("no place was claimed for this photo")
    tree: dict[str, Any] = {**claim.to_json(), "density_per_km2": None, "surprise": None}
    if ground and answer.masses is not None:
        row = ground.row_of(np.array([claim.lat]), np.array([claim.lon]))
        tree["density_per_km2"] = _short(answer.masses[row[0]] / ground.area_km2[row[0]])
        tree["surprise"] = round(float(ground.needed_mass(answer.masses[None], row)[0]), 6)
    return tree | {"words": claim.in_words()}
