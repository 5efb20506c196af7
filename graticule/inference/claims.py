"""A place that somebody claims for a photo, against what is believed of it."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from graticule.belief.confidence import Calibration
from graticule.belief.ground import Cover
from graticule.errors import BadPhotoError
from graticule.geo.sphere import Floats, format_km, great_circle_km, within_rounding
from graticule.model.loading import Photo, read_bytes
from graticule.photos.images import inspect

LIKELY = 0.8  # coverage of the largest region whose places are called likely
Place = tuple[float, float]  # latitude and longitude, degrees


@dataclass(frozen=True, slots=True)
class Claim:
    """How a claimed place fits one photo.

    Attributes:
        lat, lon: the claimed place, degrees.
        distance_km: from the answer's point to it.
        within_km: radius of the circle around the claimed place that was asked about; None of an answer that is not
            calibrated, and so for what follows.
        probability: that the photo was taken inside this circle, by the belief. The answer itself has about 0.5
            within its median error.
        region: coverage of the smallest region that holds the claimed place, one of 0.5, 0.8, 0.9, 0.95; None where
            it lies outside all of them: of a hundred true places about five do.
    """

    lat: float
    lon: float
    distance_km: float
    within_km: float | None = None
    probability: float | None = None
    region: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values with the units in their names."""
        return {
            "lat": round(self.lat, 7),
            "lon": round(self.lon, 7),
            "distance_km": round(self.distance_km, 4),
            "within_km": None if self.within_km is None else round(self.within_km, 4),
            "probability": None if self.probability is None else round(self.probability, 6),
            "region": self.region,
        }

    def in_words(self) -> str:
        """For people, such as ``1.2 km from the answer; 3.1% of the belief lies within 100 m of the claim; it lies
        outside the 95% region (unlikely)``.
        """
        if self.within_km is None or self.probability is None:
            return f"{format_km(self.distance_km)} from the answer, which is not calibrated"
        where = "outside the 95% region" if self.region is None else f"in the {self.region:.0%} region"
        share = "less than 0.1%" if self.probability < 5e-4 else f"{self.probability:.1%}"
        return (
            f"{format_km(self.distance_km)} from the answer; {share} of the belief lies within "
            f"{format_km(self.within_km)} of the claim; it lies {where} ({self.verdict})"
        )

    @property
    def verdict(self) -> str:
        """What its region comes to: ``likely``, ``possible`` or ``unlikely``."""
        if self.region is None:
            return "unlikely"
        return "likely" if self.region <= LIKELY else "possible"


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


def measure(at: Place, place: Place) -> Claim:
    """How far a claimed place lies from an answer; no more is known of one that is not calibrated."""
    return Claim(*place, float(great_circle_km(*at, *place)))


def weigh(claim: Claim, ground: Cover, masses: Floats, calibration: Calibration, within_km: float) -> Claim:
    """The same claim with what one photo's masses ``(G,)`` of the ground's cells say of it."""
    levels = sorted((float(coverage), mass) for coverage, mass in calibration.region_mass.items())
    needed = ground.needed_mass(masses[None], ground.row_of(np.array([claim.lat]), np.array([claim.lon])))[0]
    return replace(
        claim,
        within_km=within_km,
        probability=ground.mass_within(masses, claim.lat, claim.lon, within_km),
        region=next((coverage for coverage, mass in levels if needed <= mass), None),
    )
