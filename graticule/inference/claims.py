"""A place that somebody claims for a photo, against what is believed of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graticule.belief.confidence import Calibration
from graticule.belief.ground import Ground
from graticule.errors import BadPhotoError
from graticule.geo.sphere import Floats, format_km, great_circle_km, within_rounding
from graticule.model.loading import Photo, read_bytes
from graticule.photos.images import inspect

Place = tuple[float, float]  # latitude and longitude, degrees


@dataclass(frozen=True, slots=True)
class Claim:
    """How a claimed place fits one photo.

    Attributes:
        lat, lon: the claimed place, degrees.
        distance_km: from the answer's point to it.
        within_km: radius of the circle around the claimed place that was asked about.
        probability: that the photo was taken inside this circle, by the belief. At half of such photos, a circle
            around the answer itself with the answer's median error as its radius would have 0.5.
        region: coverage of the smallest region that holds the claimed place, one of 0.5, 0.8, 0.9, 0.95; None where
            it lies outside all of them: of a hundred true places at most about five do.
    """

    lat: float
    lon: float
    distance_km: float
    within_km: float
    probability: float
    region: float | None

    def to_json(self) -> dict[str, Any]:
        """Plain values with the units in their names."""
        return {
            "lat": round(self.lat, 7),
            "lon": round(self.lon, 7),
            "distance_km": round(self.distance_km, 4),
            "within_km": round(self.within_km, 4),
            "probability": round(self.probability, 6),
            "region": self.region,
        }

    def in_words(self) -> str:
        """One clause for people, such as ``1.2 km from the answer; 3.1% within 100 m; outside the 95% region``."""
        where = "outside the 95% region" if self.region is None else f"in the {self.region:.0%} region"
        probability = f"{self.probability:.1%} within {format_km(self.within_km)}"
        return f"{format_km(self.distance_km)} from the answer; {probability}; {where}"


def own_position(photo: Photo) -> Place | None:
    """Where a photo's own EXIF or XMP says that it was taken; None where it says nothing or cannot be read."""
    try:
        facts = inspect(read_bytes(photo))
    except BadPhotoError:
        return None
    if facts.lat is None or facts.lon is None:
        return None
    lat, lon = (float(value) for value in within_rounding(facts.lat, facts.lon))
    return (lat, lon) if abs(lat) <= 90 and abs(lon) <= 180 else None


def weigh(
    ground: Ground,
    masses: Floats,
    calibration: Calibration,
    at: tuple[Floats, Floats],
    claims: Sequence[Place | None],
    within_km: Floats,
) -> list[Claim | None]:
    """What N photos' beliefs say of the place that is claimed for each; None where nothing is.

    Args:
        masses: of the ground's cells, shape ``(N, G)``.
        at: latitudes and longitudes of the answers, each ``(N,)``.
        within_km: radius around each claim, shape ``(N,)``.
    """
    found: list[Claim | None] = [None] * len(claims)
    levels = sorted((float(coverage), mass) for coverage, mass in calibration.region_mass.items())
    for n, place in enumerate(claims):
        if place is None:
            continue
        lat, lon = place
        needed = ground.needed_mass(masses[n : n + 1], ground.row_of(np.array([lat]), np.array([lon])))[0]
        found[n] = Claim(
            lat,
            lon,
            float(great_circle_km(at[0][n], at[1][n], lat, lon)),
            float(within_km[n]),
            float(ground.mass_within(masses[n], lat, lon, float(within_km[n]))),
            next((coverage for coverage, mass in levels if needed <= mass), None),
        )
    return found
