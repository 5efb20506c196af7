"""The outline of many S2 cells together, and of circles, as GeoJSON that any map reads."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graticule.geo import s2
from graticule.geo.sphere import EARTH_RADIUS_KM, from_vectors, unit_vectors

FINENESS = 0.01  # of the smallest cell's edge: how far an outline may stray from the true one
FINEST_DEG = 1e-7  # 1 cm
MOST_POINTS = 512  # along one edge
STEP_RAD = np.radians(2)  # of longitude, at most
CIRCLE_POINTS = 96  # the area of a polygon of so many corners is 0.1 % too small
AT_POLE = 90 - 1e-9  # degrees; here a longitude says nothing


def geojson_outline(cells: NDArray[np.uint64]) -> dict[str, Any]:
    """A MultiPolygon (RFC 7946) of the ground that S2 cells cover together; cut at the antimeridian, right at poles.

    Edges of S2 cells are great circles, those of GeoJSON straight in degrees: long ones are given more points.

    Args:
        cells: ids of any levels, shape ``(C,)``, C above 0.
    """
    import shapely

    polar = s2.level_of(cells) == 0  # two of the six faces hold a pole inside; their quarters have it as a corner
    cells = np.concatenate([cells[~polar], s2.children(cells[polar]).ravel()])
    grid_deg = _grid_deg(cells)
    shapes = polygons_of(cells, grid_deg)
    return _multipolygon(shapely.union_all(_on_the_globe(shapes), grid_size=grid_deg))


def geojson_circle(lat: float, lon: float, radius_km: float) -> dict[str, Any]:
    """A MultiPolygon (RFC 7946) of all that lies within a distance of a point in degrees; cut at the antimeridian.

    Its corners lie on the circle; around a pole its outline follows the edge of the map.

    Args:
        radius_km: above 0; half the Earth's girth and more is the whole Earth.
    """
    import shapely

    reach_deg = np.degrees(radius_km / EARTH_RADIUS_KM)
    poles = [side for side in (90, -90) if abs(side - lat) < reach_deg]
    world = shapely.box(-180, -90, 180, 90)
    if len(poles) == 2:  # all but what lies around the opposite point
        rest_km = np.pi * EARTH_RADIUS_KM - radius_km
        rest = shapely.geometry.shape(geojson_circle(-lat, (lon + 360) % 360 - 180, rest_km)) if rest_km > 0 else None
        return _multipolygon(world if rest is None else world.difference(rest))
    bearing = np.linspace(0, 2 * np.pi, CIRCLE_POINTS + 1)
    gap = max(min(abs(90 - abs(lat) - reach_deg) / min(reach_deg, 90), 1), 1e-6)  # to the nearer pole, in radii
    if gap < 0.1:  # longitudes turn there within an angle of about this gap
        near = np.geomspace(gap / 8, 2 * np.pi / CIRCLE_POINTS, 32)[:-1]
        bearing = np.sort(np.concatenate([bearing, near, np.pi - near, np.pi + near, 2 * np.pi - near]))
    bearing = -bearing  # against the clock
    center, reach = unit_vectors(lat, lon), np.radians(reach_deg)
    east = np.array([-np.sin(np.radians(lon)), np.cos(np.radians(lon)), 0.0])
    away = np.cos(bearing)[:, None] * np.cross(center, east) + np.sin(bearing)[:, None] * east
    ring_lat, ring_lon = from_vectors(np.cos(reach) * center + np.sin(reach) * away)
    ring_lon = np.degrees(np.unwrap(np.radians(ring_lon)))
    ring = np.stack([ring_lon - 360 * np.round(ring_lon.mean() / 360), ring_lat], axis=1)
    # The last point is the first, but for rounding, which would make a ring cross itself.
    ring = np.vstack([ring, [[ring[-1, 0], poles[0]], [ring[0, 0], poles[0]]]]) if poles else ring[:-1]
    return _multipolygon(shapely.union_all(_on_the_globe([shapely.Polygon(ring)]), grid_size=FINEST_DEG))


def _on_the_globe(shapes: Sequence[Any]) -> NDArray[Any]:
    """Shapes whose longitudes reach over the antimeridian, in parts that do not."""
    import shapely

    world = shapely.box(-180, -90, 180, 90)
    parts = [
        shapely.intersection(shapely.transform(shapes, lambda xy, turn=turn: xy + np.array([turn, 0])), world)
        for turn in (-360, 0, 360)
    ]
    return np.concatenate(parts)


def _multipolygon(whole: Any) -> dict[str, Any]:
    import shapely

    polygons = [part for part in shapely.get_parts(whole) if part.geom_type == "Polygon"]
    found: dict[str, Any] = shapely.geometry.mapping(shapely.orient_polygons(shapely.MultiPolygon(polygons)))
    return found


def polygons_of(cells: NDArray[np.uint64], grid_deg: float | None = None) -> list[Any]:
    """The shape of each cell, below level 0, in degrees ``(lon, lat)``; around the antimeridian longitudes pass 180.

    Args:
        grid_deg: how far an edge may stray from the great circle; by default a hundredth of the smallest cell's.
    """
    import shapely

    grid_deg = grid_deg or _grid_deg(cells)
    edge_rad = _edge_rad(cells)
    # A great circle bends away from a straight line in degrees by up to step^2 tan(lat) / 8; near a pole no step may
    # reach over many longitudes.
    bending = edge_rad * np.sqrt(10 / 8 / np.radians(grid_deg))
    longitudes = edge_rad / np.maximum(np.cos(np.radians(s2.centers(cells)[0])), edge_rad / 2)
    points = np.clip(np.ceil(np.maximum(bending, longitudes / STEP_RAD)), 1, MOST_POINTS).astype(np.int64)
    shapes: list[Any] = [None] * len(cells)
    for count in np.unique(points):
        some = np.flatnonzero(points == count)
        lat, lon = s2.outlines(cells[some], int(count))
        middle = s2.centers(cells[some])[1]
        for i, *ring in zip(some, lat, lon, middle, strict=True):
            shapes[i] = shapely.Polygon(_ring(*ring))
    return shapes


def _edge_rad(cells: NDArray[np.uint64]) -> NDArray[np.float64]:
    edge: NDArray[np.float64] = np.sqrt(s2.areas_km2(cells)) / EARTH_RADIUS_KM
    return edge


def _grid_deg(cells: NDArray[np.uint64]) -> float:
    finest = np.log10(np.degrees(_edge_rad(cells).min()) * FINENESS)
    return float(max(10.0 ** np.floor(finest), FINEST_DEG))


def _ring(lat: NDArray[np.float64], lon: NDArray[np.float64], middle: float) -> NDArray[np.float64]:
    """A cell's border as ``(lon, lat)`` without a jump; a corner at a pole becomes two, below its neighbours."""
    lon = middle + (lon - middle + 180) % 360 - 180
    out = []
    for i in range(len(lat)):
        if abs(lat[i]) < AT_POLE:
            out.append((lon[i], lat[i]))
        else:
            out += [(lon[i - 1], lat[i]), (lon[(i + 1) % len(lat)], lat[i])]
    return np.array(out)
