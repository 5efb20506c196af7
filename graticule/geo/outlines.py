"""The outline of many S2 cells together, as GeoJSON that any map reads."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from graticule.geo import s2
from graticule.geo.sphere import EARTH_RADIUS_KM

FINENESS = 0.01  # of the smallest cell's edge: how far an outline may stray from the true one
FINEST_DEG = 1e-7  # 1 cm
MOST_POINTS = 512  # along one edge
STEP_RAD = np.radians(2)  # of longitude, at most
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
    world = shapely.box(-180, -90, 180, 90)
    parts = [
        shapely.intersection(shapely.transform(shapes, lambda xy, turn=turn: xy + np.array([turn, 0])), world)
        for turn in (-360, 0, 360)
    ]
    whole = shapely.union_all(np.concatenate(parts), grid_size=grid_deg)
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
