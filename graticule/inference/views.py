"""What lies around an answer, and all of it as the JSON that pages and other programs read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from graticule.belief.confidence import Calibration
from graticule.geo import s2
from graticule.geo.outlines import geojson_outline
from graticule.geo.sphere import Floats, great_circle_km
from graticule.inference.claims import Claim, Place
from graticule.inference.decode import Fix
from graticule.inference.formats import to_words
from graticule.inference.locate import Locator
from graticule.inference.pictures import Pictures
from graticule.inference.said import Result
from graticule.photos.images import data_uri

Cells = NDArray[np.uint64]
SHOWN_REGIONS = (0.5, 0.9)
MOST_CELLS = 1500  # that a map is given
SHOWN_MASS = 0.99  # of the belief that they hold


class View(Protocol):
    """What is told of one photo: the answer, and what lies around it."""

    @property
    def fix(self) -> Fix: ...
    def region(self, coverage: float) -> Cells | None: ...
    def density(self) -> tuple[Cells, Floats] | None: ...
    def at(self, place: Place) -> tuple[float, float] | None: ...


@dataclass(frozen=True)
class Exact:
    """All that is known."""

    locator: Locator
    fix: Fix
    masses: Floats | None
    calibration: Calibration | None

    def region(self, coverage: float) -> Cells | None:
        """S2 cells of the smallest region that holds the photo so often; None where nothing is calibrated."""
        ground, masses, calibration = self.locator.grown, self.masses, self.calibration
        if ground is None or masses is None or calibration is None:
            return None
        return ground.merged(ground.region(masses, calibration.region_mass[str(coverage)]))

    def density(self) -> tuple[Cells, Floats] | None:
        """S2 cells and the mass of each."""
        ground, masses = self.locator.grown, self.masses
        return None if ground is None or masses is None else ground.summary(masses, SHOWN_MASS, MOST_CELLS)

    def at(self, place: Place) -> tuple[float, float] | None:
        """Density at a place, per km2, and the mass of what is denser, in [0, 1]."""
        ground, masses = self.locator.grown, self.masses
        if ground is None or masses is None:
            return None
        row = ground.row_of(np.array(place[:1]), np.array(place[1:]))
        denser = float(ground.needed_mass(masses[None], row)[0])
        return float(masses[row[0]] / ground.area_km2[row[0]]), denser


def fix_json(
    path: str,
    view: View,
    knows: str,
    own: Place | None,
    *,
    regions: bool = False,
    density: bool = False,
    pictures: Pictures | None = None,
) -> dict[str, Any]:
    """One photo's answer: :meth:`Fix.to_json` and what a map needs beside it.

    Args:
        knows: the area that the model knows, in words.
        own: what the photo says of itself.
        pictures: of the known photos that look alike.
    """
    fix = view.fix
    words = "".join(to_words([Result("", fix, None)], knows=knows))
    lines = [line.strip() for line in words.split("\n  ")[1:]]
    tree: dict[str, Any] = {"path": path, **fix.to_json(), "words": "\n".join(lines).strip()}
    tree["exif"] = own and exif_json(own, (fix.lat, fix.lon))
    if regions:
        tree["regions"] = regions_json(view)
    if density:
        found = view.density()
        tree["density"] = found and cells_json(*found)
    for near in tree.get("neighbours", ()):
        if pictures and (jpeg := pictures.jpeg(near["index"])):
            near["thumbnail"] = data_uri(jpeg)
    return tree


def exif_json(own: Place, at: Place) -> dict[str, float]:
    """What a photo says of itself, and how far that lies from the answer."""
    distance_km = float(great_circle_km(*own, *at))
    return {"lat": round(own[0], 7), "lon": round(own[1], 7), "distance_km": round(distance_km, 4)}


def claim_json(view: View) -> dict[str, Any]:
    """A claimed place against the belief: :meth:`Claim.to_json`, the density there, and how surprising it is.

    ``surprise`` is the belief's mass of all places that are denser than this one, in [0, 1]: 0 at the likeliest.
    """
    claim: Claim | None = view.fix.claim
    if claim is None:
        raise ValueError("no place was claimed for this photo")
    found = view.at((claim.lat, claim.lon))
    density, surprise = (None, None) if found is None else (_short(found[0]), round(found[1], 6))
    return {**claim.to_json(), "density_per_km2": density, "surprise": surprise, "words": claim.in_words()}


def regions_json(
    view: View, coverages: Sequence[float] = SHOWN_REGIONS, decimals: int | None = None
) -> dict[str, Any] | None:
    """The smallest regions that hold the photo with these probabilities, as a FeatureCollection (RFC 7946).

    Args:
        decimals: of a degree, where a page of many is to stay small.
    """
    features = []
    for coverage in coverages:
        cells = view.region(coverage)
        if cells is None:
            return None
        if len(cells):
            facts = {"coverage": coverage, "area_km2": round(float(s2.areas_km2(cells).sum()), 4)}
            shape = geojson_outline(cells)
            if decimals is not None:
                shape["coordinates"] = _rounded(shape["coordinates"], decimals)
            features.append(_feature(shape, facts))
    return _collection(features)


def cells_json(cells: Cells, mass: Floats) -> dict[str, Any]:
    """S2 cells with their probabilities as GeoJSON polygons, densest first."""
    per_km2 = mass / s2.areas_km2(cells)
    lat, lon = s2.outlines(cells, 1)
    middle = s2.centers(cells)[1]
    lon = middle[:, None] + (lon - middle[:, None] + 180) % 360 - 180  # no jump inside a cell
    features = []
    for i in np.argsort(-per_km2, kind="stable"):
        ring = [[round(float(x), 7), round(float(y), 7)] for x, y in zip(lon[i], lat[i], strict=True)]
        shape = {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}
        features.append(_feature(shape, {"mass": _short(mass[i]), "per_km2": _short(per_km2[i])}))
    return _collection(features)


def _feature(geometry: dict[str, Any], properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def _collection(features: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "FeatureCollection", "features": list(features)}


def _rounded(value: Any, decimals: int) -> Any:
    return round(value, decimals) if isinstance(value, float) else [_rounded(each, decimals) for each in value]


def _short(value: float) -> float:
    return float(f"{value:.4g}")
