"""Territories that a user names, to be filled with points: a box, a GeoJSON file, a country, a state or a town."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from graticule.errors import BadRecipeError
from graticule.geo.areas import read_areas
from graticule.geo.sphere import EARTH_RADIUS_KM, Floats, great_circle_km
from graticule.geo.towns import largest_towns, nearest_towns

TOWN_KM = 15.0  # around the middle of a town, whose borders are not known
MARGIN_DEG = 0.3  # beyond the outermost towns of a country or a state
ROUGH = 4000  # points by which an area's share of its box is told
DEGREE_KM = np.radians(1) * EARTH_RADIUS_KM
Bools = NDArray[np.bool_]
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Territory:
    """A part of the Earth.

    Attributes:
        name: as it was asked for.
        box: south, west, north, east around it, degrees; a box with west > east reaches over the 180th meridian.
        contains: whether points lie inside: degrees ``(N,)`` and ``(N,)`` to bool ``(N,)``.
    """

    name: str
    box: Box
    contains: Callable[[Floats, Floats], Bools]

    def grid(self, count: int) -> tuple[Floats, Floats]:
        """About so many points inside, evenly spaced; ``(lat, lon)``, degrees."""
        south, west, north, east = self.box
        width = _width(west, east)
        area_km2 = EARTH_RADIUS_KM**2 * np.radians(width) * np.diff(np.sin(np.radians([south, north])))[0]
        share = max(self.contains(*self._lattice(np.sqrt(area_km2 / ROUGH))).mean(), 1 / ROUGH)
        lat, lon = self._lattice(np.sqrt(area_km2 * share / count))
        inside = self.contains(lat, lon)
        return lat[inside], lon[inside]

    def _lattice(self, step_km: float) -> tuple[Floats, Floats]:
        """Points of the box, so far from each other along parallels and between them."""
        south, west, north, east = self.box
        rows, width = max(1, round((north - south) * DEGREE_KM / step_km)), _width(west, east)
        lats = south + (np.arange(rows) + 0.5) * (north - south) / rows
        counts = np.maximum(1, np.round(width * DEGREE_KM * np.cos(np.radians(lats)) / step_km)).astype(int)
        lons = [west + (np.arange(n) + 0.5) * width / n for n in counts]
        return np.repeat(lats, counts), (np.concatenate(lons) + 180) % 360 - 180


def read_territory(text: str) -> Territory:
    """The territory that a user names; no network is asked.

    Args:
        text: ``S,W,N,E`` in degrees; a GeoJSON file with polygons; or the English name of a country, a state or a town,
            such as ``Bavaria`` or ``Springfield, Illinois, United States``. Of a country or a state it is where the
            nearest town is of it; of a town, ``TOWN_KM`` around the most populous one of that name.

    Raises:
        BadRecipeError: it is none of these, or the box or the file cannot be read.
    """
    if Path(text).suffix.lower() in (".geojson", ".json"):
        return _of_geojson(Path(text))
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        return _named(text)
    if len(numbers) != 4:
        raise BadRecipeError(f"a box is S,W,N,E in degrees, such as 37.6,-122.6,37.9,-122.3; found {text!r}")
    return _of_box(text, (numbers[0], numbers[1], numbers[2], numbers[3]))


def town_position(text: str) -> tuple[float, float]:
    """Latitude and longitude of the middle of a town by its English name, of several the most populous; no network.

    Raises:
        BadRecipeError: no town has that name.
    """
    asked, (_, towns) = text.strip().casefold(), _names()
    if asked not in towns:
        raise BadRecipeError(f"no town is called {text!r}{_hint(asked, towns)}")
    lat, lon, _ = towns[asked]
    return lat, lon


def _hint(asked: str, names: Iterable[str]) -> str:
    likely = get_close_matches(asked, [name for name in names if name[:2] == asked[:2]], n=3)
    return f"; did you mean {' or '.join(likely)}?" if likely else "."


def _of_box(name: str, box: Box) -> Territory:
    south, west, north, east = box
    if not (-90 <= south < north <= 90 and abs(west) <= 180 and abs(east) <= 180 and west != east):
        raise BadRecipeError(
            f"{name} is no box: it is south,west,north,east with -90 <= south < north <= 90 and longitudes in "
            f"[-180, 180] degrees"
        )

    def contains(lat: Floats, lon: Floats) -> Bools:
        inside: Bools = (lat >= south) & (lat <= north) & ((lon - west) % 360 <= _width(west, east))
        return inside

    return Territory(name, box, contains)


def _width(west: float, east: float) -> float:
    """From west to east, degrees in (0, 360]."""
    return (east - west) % 360 or 360.0


def _of_geojson(file: Path) -> Territory:
    import shapely

    shape = shapely.union_all([area.shape for area in read_areas(str(file))])
    west, south, east, north = shape.bounds
    around = (-180.0, 180.0) if east - west >= 360 else tuple((side + 180) % 360 - 180 for side in (west, east))

    def contains(lat: Floats, lon: Floats) -> Bools:
        turns = [shapely.contains_xy(shape, lon + turn, lat) for turn in (-360, 0, 360)]
        inside: Bools = np.logical_or.reduce(turns)
        return inside

    return Territory(str(file), (south, around[0], north, around[1]), contains)


def _named(text: str) -> Territory:
    asked, (regions, towns) = text.strip().casefold(), _names()
    if found := regions.get(asked):
        where = np.array([place for town in found for place in found[town]])
        (south, west), (north, east) = where.min(axis=0) - MARGIN_DEG, where.max(axis=0) + MARGIN_DEG
        box = (max(float(south), -90.0), max(float(west), -180.0), min(float(north), 90.0), min(float(east), 180.0))

        def contains(lat: Floats, lon: Floats) -> Bools:
            return np.array([not found.keys().isdisjoint(town.parts[:2]) for town in nearest_towns(lat, lon)], bool)

        return Territory(text, box, contains)
    if asked not in towns:
        raise BadRecipeError(
            f"no country, state or town is called {text!r}{_hint(asked, [*regions, *towns])} It may also be S,W,N,E in "
            f"degrees or a GeoJSON file"
        )
    lat, lon, _ = towns[asked]
    high = TOWN_KM / DEGREE_KM
    wide = high / max(np.cos(np.radians(abs(lat) + high)), 0.01)
    south, north = max(lat - high, -90.0), min(lat + high, 90.0)
    west, east = ((side + 180) % 360 - 180 for side in (lon - wide, lon + wide))

    def near(lats: Floats, lons: Floats) -> Bools:
        inside: Bools = great_circle_km(lat, lon, lats, lons) <= TOWN_KM
        return inside

    return Territory(text, (south, west, north, east), near)


@cache
def _names() -> tuple[dict[str, dict[str, list[tuple[float, float]]]], dict[str, tuple[float, float, int]]]:
    """By what may be asked, in lower case: countries and states, with the places of their towns by full name; and the
    most populous town, with its people.
    """
    countries: dict[str, dict[str, list[tuple[float, float]]]] = {}
    states: dict[str, dict[str, list[tuple[float, float]]]] = {}
    towns: dict[str, tuple[float, float, int]] = {}
    for town, lat, lon, people in largest_towns(10**6):
        country, state, whole = town.parts
        countries.setdefault(country.casefold(), {}).setdefault(country, []).append((lat, lon))
        if town.state:
            for name in (town.state, state):
                states.setdefault(name.casefold(), {}).setdefault(state, []).append((lat, lon))
        for name in (town.name, f"{town.name}, {country}", whole):
            if people >= towns.get(name.casefold(), (0, 0, -1))[2]:
                towns[name.casefold()] = (lat, lon, people)
    return states | countries, towns
