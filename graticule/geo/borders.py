"""Coasts, country borders and US state lines, from one small file in the package: no network.

The lines are Natural Earth's at 1:50m and the US Census Bureau's; ``assets/README.md`` says how they came
here. They are good to about a kilometre: enough to find one's way on a map of a country, not inside a city.
"""

from collections.abc import Iterable
from functools import cache
from importlib import resources
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from graticule.geo.towns import names_of_countries

Floats = NDArray[np.float64]
Kind = Literal["coast", "country", "state"]
KINDS: tuple[Kind, ...] = ("coast", "country", "state")


@cache
def lines(kind: Kind) -> tuple[Floats, Floats]:
    """All lines of one kind as ``(lat, lon)``, degrees, read-only, with a NaN after each line.

    The NaN is what matplotlib takes for a lifted pen, so that a whole layer is one cheap artist.

    Raises:
        ValueError: no such kind.
    """
    if kind not in KINDS:
        raise ValueError(f"there are no lines of kind {kind!r}; choose one of {', '.join(KINDS)}")
    with (
        resources.files("graticule").joinpath("assets/borders.npz").open("rb") as file,
        np.load(file) as packed,
    ):
        step = float(packed["step_deg"])
        ends = np.cumsum(packed[f"{kind}_lengths"])
        lat, lon = (
            np.insert(np.cumsum(packed[f"{kind}_{axis}"], dtype=np.int64) * step, ends, np.nan)
            for axis in ("lat", "lon")
        )
    for array in (lat, lon):
        array.setflags(write=False)
    return lat, lon


def countries_of(names: Iterable[str]) -> list[list[tuple[Floats, Floats]]] | None:
    """The outlines of countries, for each name a list of ``(lat, lon)`` rings in degrees; some cross the antimeridian.

    Names are two letters (ISO 3166) or English, such as ``FR`` or ``France``; a name that is none has no ring. None
    where most of them are none, so that they are not names of countries. Land that lies inside another country is not
    cut out of that one.
    """
    rings = _areas()
    found = [rings.get(name.strip().casefold(), []) for name in names]
    return found if sum(map(bool, found)) > len(found) / 2 else None


@cache
def _areas() -> dict[str, list[tuple[Floats, Floats]]]:
    """Rings by code and by name, both in lower case."""
    with (
        resources.files("graticule").joinpath("assets/countries.npz").open("rb") as file,
        np.load(file) as packed,
    ):
        step = float(packed["step_deg"])
        points = np.cumsum(np.stack([packed["arc_lat"], packed["arc_lon"]], axis=1), axis=0, dtype=np.int64) * step
        arcs = np.split(points, np.cumsum(packed["arc_lengths"])[:-1])
        rings = np.split(packed["ring_arcs"], np.cumsum(packed["ring_lengths"])[:-1])
        named = zip(packed["code"], packed["name"], strict=True)
        longer = names_of_countries()  # where the map has "Bosnia and Herz."
        keys = [{str(word).casefold() for word in (*pair, longer.get(str(pair[0]))) if word} for pair in named]
        areas: dict[str, list[tuple[Floats, Floats]]] = {key: [] for pair in keys for key in pair}
        for ring, owner in zip(rings, packed["ring_country"], strict=True):
            outline = np.concatenate([arcs[arc] if arc >= 0 else arcs[~arc][::-1] for arc in ring])
            for key in keys[owner]:
                areas[key].append((outline[:, 0], outline[:, 1]))
    return areas
