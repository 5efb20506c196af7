"""Classes drawn by their photos: the convex hull, on the sphere, of where they were taken."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from graticule.geo.sphere import EARTH_RADIUS_KM, Floats, Ints, from_vectors, unit_vectors
from graticule.partition.base import MeasuredPartition, measure, measured

REACH_RAD = np.radians(75)  # photos farther from the middle of their class are strays and do not shape its hull
_STEP_DEG = 2  # between two points of an outline, also in longitude: a flat map bends longer parts of a great circle


@dataclass(frozen=True, eq=False)
class HullPartition(MeasuredPartition):
    """Classes whose outline is the hull of their training photos.

    Attributes:
        hull_lat, hull_lon: the corners of each hull, C arrays each, degrees, counter-clockwise, not closed.
    """

    hull_lat: list[Floats]
    hull_lon: list[Floats]

    def __post_init__(self) -> None:
        MeasuredPartition.__post_init__(self)
        if not len(self.hull_lat) == len(self.hull_lon) == len(self):
            raise ValueError(f"{len(self)} classes need as many hulls, got {len(self.hull_lat)}")

    def outlines(self) -> tuple[list[Floats], list[Floats]]:
        """The hull of each class's training photos; its edges are parts of great circles."""
        rings = [from_vectors(_along(unit_vectors(*ring))) for ring in zip(self.hull_lat, self.hull_lon, strict=True)]
        return [lat for lat, _ in rings], [lon for _, lon in rings]

    def _to_columns(self) -> dict[str, Any]:
        hulls = {name: [ring.tolist() for ring in getattr(self, name)] for name in ("hull_lat", "hull_lon")}
        return MeasuredPartition._to_columns(self) | hulls


def hulled(columns: dict[str, Any]) -> dict[str, Any]:
    """The attributes of a :class:`HullPartition`, from the columns of its file."""
    hulls = {name: [np.asarray(ring, np.float64) for ring in columns[name]] for name in ("hull_lat", "hull_lon")}
    return measured(columns) | hulls


def measure_with_hulls(lat: Floats, lon: Floats, rows: Ints, count: int) -> dict[str, Any]:
    """The attributes of a :class:`HullPartition`, from N photos and their rows."""
    facts = measure(lat, lon, rows, count)
    order = np.argsort(rows, kind="stable")
    ends = np.searchsorted(rows[order], np.arange(count + 1))
    hulls = []
    for row in range(count):
        own = order[ends[row] : ends[row + 1]]
        middle = facts["lat"][row], facts["lon"][row]
        hulls.append(hull(lat[own], lon[own], *middle, rim_km=facts["spread"][row] / 10))
    return facts | {"hull_lat": [ring[0] for ring in hulls], "hull_lon": [ring[1] for ring in hulls]}


def hull(lat: Floats, lon: Floats, mean_lat: float, mean_lon: float, *, rim_km: float) -> tuple[Floats, Floats]:
    """The corners of the convex hull of points on the sphere, degrees, counter-clockwise seen from outside.

    Seen from the Earth's centre on a plane that touches it at the mean (the gnomonic projection), great circles
    are straight lines, so the hull on that plane is the hull on the sphere.

    Args:
        rim_km: the hull reaches so far beyond the points, so that the photos of one street have an outline.
    """
    from scipy.spatial import ConvexHull

    up = unit_vectors(mean_lat, mean_lon)
    east = np.array([-np.sin(np.radians(mean_lon)), np.cos(np.radians(mean_lon)), 0])
    north = np.cross(up, east)
    points = unit_vectors(lat, lon)
    height = points @ up
    near = height > np.cos(REACH_RAD)
    plane = np.stack([points @ east, points @ north], axis=1)[near] / height[near, None]
    if not len(plane):  # all around the Earth: their mean says nothing
        plane = np.zeros((1, 2))
    turns = np.arange(8) * np.pi / 4
    rim = rim_km / EARTH_RADIUS_KM * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    plane = (np.unique(plane, axis=0)[:, None] + rim).reshape(-1, 2)
    corners = plane[ConvexHull(plane).vertices]
    return from_vectors(up + corners[:, :1] * east + corners[:, 1:] * north)


def _along(corners: Floats) -> Floats:
    """A ring of unit vectors with more points along its longer edges, shape ``(P, 3)``; not of unit length."""
    following = np.roll(corners, -1, axis=0)
    chord = np.linalg.norm(following - corners, axis=1)
    longitude = from_vectors(corners)[1]
    turn = np.abs((np.roll(longitude, -1) - longitude + 180) % 360 - 180)
    longest = np.maximum(np.degrees(2 * np.arcsin(np.minimum(chord / 2, 1))), turn)
    steps = np.maximum(np.ceil(longest / _STEP_DEG), 1).astype(np.int64)
    edge = np.repeat(np.arange(len(corners)), steps)
    share = (np.arange(len(edge)) - np.repeat(np.cumsum(steps) - steps, steps)) / steps[edge]
    ring: Floats = corners[edge] + (following - corners)[edge] * share[:, None]
    return ring
