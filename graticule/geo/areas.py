"""Areas that a user draws: polygons of GeoJSON and S2 cells, and the share of S2 cells that lies in them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graticule.errors import BadRecipeError
from graticule.geo import s2
from graticule.geo.outlines import polygons_of
from graticule.geo.sphere import Floats

LONG_STEP_DEG = 1.0  # edges are straight in degrees; on a map that keeps areas they bend, so long ones are cut
NAMES = ("name", "NAME", "id")  # properties of a GeoJSON feature that say what it is


@dataclass(frozen=True, eq=False)
class Area:
    """A named part of the Earth: polygons in degrees, ``(lon, lat)``, whose longitudes may pass 180; or S2 cells."""

    name: str
    shape: Any = None
    cells: NDArray[np.uint64] | None = None

    def shares(self, ground: NDArray[np.uint64]) -> Floats:
        """Share of each S2 cell of a sorted cover of the sphere that lies in this area, in [0, 1], shape ``(G,)``."""
        if self.cells is None:
            return shares_in(ground, self.shape)
        out = np.zeros(len(ground))
        for first, last, share in zip(*s2.shares_of(self.cells, ground), strict=True):
            out[first:last] += share
        return out


def read_areas(text: str) -> list[Area]:
    """Areas as a user names them: a GeoJSON file of polygons, or tokens of S2 cells with commas between them.

    A ring of a polygon goes the shorter way round between two points, unless they are 360 degrees apart or at a pole;
    one that goes round a pole holds the pole that is nearer.

    Raises:
        BadRecipeError: it is neither, or holds no polygon.
    """
    path = Path(text)
    if not path.is_file():
        if found := _cells_of(text):
            return found
        raise BadRecipeError(f"{text} is neither a GeoJSON file nor tokens of S2 cells, such as 89c25,89c27")
    try:
        said = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise BadRecipeError(f"{path} is not GeoJSON: {error}") from error
    return _polygons_of(said, path.stem, str(path))


def parse_areas(text: str, name: str = "area") -> list[Area]:
    """Areas as a program sends them: as :func:`read_areas`, but the text is GeoJSON itself, and no file is read.

    Raises:
        BadRecipeError: it is neither GeoJSON nor tokens, holds no polygon, or one that crosses itself: a stranger's of
            two thousand corners takes minutes to mend.
    """
    return _cells_of(text) or _polygons_of(text, name, f"{name}, which is no tokens of S2 cells,", mend=False)


def _cells_of(text: str) -> list[Area]:
    """S2 cells by their tokens; none where they are no tokens."""
    tokens = [token.strip().lower() for token in text.split(",")]
    if all(token and len(token) <= 16 and set(token) <= set("0123456789abcdef") for token in tokens):
        cells = s2.from_tokens(tokens)
        if s2.are_valid(cells).all():
            return [Area(token, cells=cells[[i]]) for i, token in enumerate(tokens)]
    return []


def _polygons_of(text: str, name: str, where: str, mend: bool = True) -> list[Area]:
    try:
        found = _areas_of(json.loads(text), name, mend)
    except (RecursionError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise BadRecipeError(f"{where} is not GeoJSON: {error}") from error
    if not found:
        raise BadRecipeError(f"{where} holds no Polygon or MultiPolygon of GeoJSON; draw one, such as on geojson.io")
    return found


def shares_in(cells: NDArray[np.uint64], shape: Any) -> Floats:
    """Share of the area of each S2 cell that lies in a polygon, in [0, 1], shape ``(C,)``.

    Lambert's cylinder, whose map keeps areas, makes it a question of the plane.

    Args:
        shape: Shapely's, in degrees ``(lon, lat)``.
    """
    import shapely

    faces = s2.level_of(cells) == 0  # a pole lies inside two of them, and is a corner of their quarters
    owner = np.concatenate([np.flatnonzero(~faces), np.repeat(np.flatnonzero(faces), 4)])
    parts = np.concatenate([cells[~faces], s2.children(cells[faces]).ravel()])
    squares = shapely.transform(np.array(polygons_of(parts)), _cylinder)
    inside = np.zeros(len(parts))
    tree = shapely.STRtree(squares)
    for turn in (-360.0, 0.0, 360.0):
        turned = shapely.transform(shape, lambda xy, turn=turn: xy + np.array([turn, 0.0]))
        area = shapely.transform(shapely.segmentize(turned, LONG_STEP_DEG), _cylinder)
        shapely.prepare(area)
        near = tree.query(area, predicate="intersects")
        whole = shapely.contains(area, squares[near])
        inside[near[whole]] += shapely.area(squares[near[whole]])
        cut = near[~whole]
        inside[cut] += shapely.area(shapely.intersection(area, squares[cut]))
    share = np.bincount(owner, inside, len(cells)) / np.bincount(owner, shapely.area(squares), len(cells))
    return np.clip(share, 0, 1)


def _cylinder(lon_lat: Floats) -> Floats:
    return np.stack([np.radians(lon_lat[:, 0]), np.sin(np.radians(lon_lat[:, 1]))], axis=1)


def _areas_of(tree: Any, name: str, mend: bool) -> list[Area]:
    """The areas of a GeoJSON object (RFC 7946); what is no polygon is passed over."""
    import shapely

    kind = tree.get("type") if isinstance(tree, dict) else None
    if kind == "FeatureCollection":
        parts = enumerate(tree.get("features") or [], 1)
        return [area for i, one in parts for area in _areas_of(one, f"{name} {i}", mend)]
    if kind == "Feature":
        facts = tree.get("properties") or {}
        named = [str(value) for value in (*(facts.get(key) for key in NAMES), tree.get("id")) if value is not None]
        return _areas_of(tree.get("geometry"), named[0] if named else name, mend)
    if kind not in ("Polygon", "MultiPolygon"):
        return []
    try:
        polygons = [tree["coordinates"]] if kind == "Polygon" else tree["coordinates"]
        shapes = [_polygon([np.asarray(ring, np.float64)[:, :2] for ring in rings], mend) for rings in polygons]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise BadRecipeError(
            f"the polygon {name} cannot be read: {error}; its rings are lists of [lon, lat]"
        ) from error
    return [Area(name, shapely.union_all(shapes))]


def _polygon(rings: Sequence[Floats], mend: bool) -> Any:
    """Shapely's polygon of rings in degrees: the first is its border, the others are holes.

    Args:
        mend: make a polygon that crosses itself whole; else it is refused.
    """
    import shapely

    if any(not np.isfinite(ring).all() for ring in rings):
        raise ValueError("a number is not finite")
    if any(not (np.abs(ring[:, 1]) <= 90).all() for ring in rings):
        raise ValueError("a latitude lies beyond 90 degrees; GeoJSON has the longitude first")
    outer, *holes = (_unwrapped(ring) for ring in rings)
    middle = outer[:, 0].mean()
    outer = outer - [360 * np.round(middle / 360), 0]
    middle = outer[:, 0].mean()
    holes = [hole - [360 * np.round((hole[:, 0].mean() - middle) / 360), 0] for hole in holes]
    drawn = shapely.Polygon(outer, holes)
    if not mend and not drawn.is_valid:
        raise ValueError("its border crosses or touches itself")
    return shapely.make_valid(drawn)


def _unwrapped(ring: Floats) -> Floats:
    """A closed ring whose longitudes do not jump; round a pole it goes on along the pole."""
    ring = ring if (ring[0] == ring[-1]).all() else np.vstack([ring, ring[:1]])
    step = np.diff(ring[:, 0])
    at_pole = (np.abs(ring[1:, 1]) == 90) & (np.abs(ring[:-1, 1]) == 90)
    step = np.where(at_pole | (np.abs(step) == 360), step, (step + 180) % 360 - 180)
    lon = ring[0, 0] + np.concatenate([[0.0], np.cumsum(step)])
    found = np.stack([lon, ring[:, 1]], axis=1)
    if abs(lon[-1] - lon[0]) > 180:
        pole = np.copysign(90.0, ring[:, 1].mean())
        found = np.vstack([found, [lon[-1], pole], [lon[0], pole], found[:1]])
    return found
