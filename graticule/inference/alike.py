"""The known photos that speak for an answer: those that look most like a photo."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from graticule.belief.confidence import Known
from graticule.geo.sphere import Floats, great_circle_km


@dataclass(frozen=True, slots=True)
class Neighbour:
    """One known photo that looks like a photo that was asked about.

    Attributes:
        index: its row among the known photos of the bundle.
        lat, lon: where it was taken, degrees.
        share: its part in what all known photos together say of the photo, in [0, 1].
        distance_km: from the answer's point.
    """

    index: int
    lat: float
    lon: float
    share: float
    distance_km: float

    def to_json(self) -> dict[str, Any]:
        """Plain values; ``similarity`` is the share."""
        return {
            "index": self.index,
            "lat": round(self.lat, 7),
            "lon": round(self.lon, 7),
            "similarity": float(f"{self.share:.4g}"),
            "distance_km": round(self.distance_km, 4),
        }


def neighbours(known: Known, weight: Floats, lat: float, lon: float, count: int) -> tuple[Neighbour, ...]:
    """The ``count`` known photos that weigh most in one photo's belief, ``(P,)``, first; ``lat, lon`` is its answer."""
    rows = np.argsort(-weight, kind="stable")[:count]
    off = great_circle_km(lat, lon, known.lat[rows], known.lon[rows])
    return tuple(
        Neighbour(int(row), float(known.lat[row]), float(known.lon[row]), float(weight[row]), float(km))
        for row, km in zip(rows, off, strict=True)
    )
