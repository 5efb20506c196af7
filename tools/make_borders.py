"""Make borders.npz and countries.npz in graticule/assets from the TopoJSON files of world-atlas and us-atlas.

    npm pack world-atlas@2.0.2 us-atlas@3.0.1 i18n-iso-countries@7.14.0
    mkdir world us iso
    tar xzf i18n-iso-countries-7.14.0.tgz -C iso
    tar xzf world-atlas-2.0.2.tgz -C world
    tar xzf us-atlas-3.0.1.tgz -C us
    python tools/make_borders.py world/package/countries-50m.json us/package/states-10m.json iso/package/codes.json

Countries and coasts are Natural Earth 4.1.0 at 1:50m (public domain), through world-atlas 2.0.2. US state
lines are the Census Bureau's cartographic boundary files, 2017 edition (a work of the US government, public
domain), through us-atlas 3.0.1. See graticule/assets/README.md.

A TopoJSON file holds each stretch of line once, as an "arc", however many areas share it. So an arc that two
countries share is a border, and one that a single country has is a coast.
"""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

STEP_DEG = 1 / 400  # about 280 m; the files themselves are quantised to 0.0036 degrees
COARSE_DEG = 1 / 100  # of areas, which are only coloured; the lines are drawn over their edges
ASSETS = Path(__file__).parents[1] / "graticule" / "assets"
OUT, AREAS = ASSETS / "borders.npz", ASSETS / "countries.npz"


def arcs_of(topology: dict[str, Any]) -> list[NDArray[np.float64]]:
    """Each arc as ``(N, 2)`` longitudes and latitudes: positions are deltas on a grid (TopoJSON, 2.1.4)."""
    scale, shift = (np.array(topology["transform"][key]) for key in ("scale", "translate"))
    return [np.cumsum(np.array(arc), axis=0) * scale + shift for arc in topology["arcs"]]


def users_of(topology: dict[str, Any], layer: str) -> Counter[int]:
    """How many areas of a layer have each arc in their outline."""

    def indices(nested: Any) -> set[int]:
        if isinstance(nested, int):
            return {nested if nested >= 0 else ~nested}  # a negative index is the arc run backwards
        return set().union(*map(indices, nested))

    areas = topology["objects"][layer]["geometries"]
    return Counter(arc for area in areas for arc in indices(area.get("arcs", [])))


def without_cuts(line: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Drop the segments that only exist because a flat map ends: along the antimeridian and the pole."""
    lon, lat = line.T
    edge = (np.abs(lon) > 179.99) | (lat < -89.9)
    cut = edge[:-1] & edge[1:]
    pieces = np.split(line, np.flatnonzero(cut) + 1)
    return [piece for piece in pieces if len(piece) > 1]


def packed(lines: list[NDArray[np.float64]]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Points as steps from the point before, which compress well, and the number of points of each line."""
    grid = [np.rint(line[:, ::-1] / STEP_DEG).astype(np.int32) for line in lines]
    grid = [line[np.r_[True, np.any(np.diff(line, axis=0) != 0, axis=1)]] for line in grid]
    grid = [line for line in grid if len(line) > 1]
    return np.diff(np.concatenate(grid), axis=0, prepend=0), np.array([len(line) for line in grid], np.int32)


def areas_of(topology: dict[str, Any], codes: list[list[str]]) -> dict[str, NDArray[Any]]:
    """Countries as rings of arcs: each arc once, a ring as the numbers of its arcs, ``~n`` being one run backwards."""
    letters = {row[2]: row[0] for row in codes}
    arcs = [np.rint(arc[:, ::-1] / COARSE_DEG).astype(np.int32) for arc in arcs_of(topology)]
    arcs = [arc[np.r_[True, np.any(np.diff(arc, axis=0) != 0, axis=1)]] for arc in arcs]
    steps = np.diff(np.concatenate(arcs), axis=0, prepend=0)
    rings: list[list[int]] = []
    owner: list[int] = []
    countries = topology["objects"]["countries"]["geometries"]
    for number, country in enumerate(countries):
        parts = country["arcs"] if country["type"] == "MultiPolygon" else [country["arcs"]]
        rings += [part[0] for part in parts]  # without the holes: what lies in them is drawn over them
        owner += [number] * len(parts)
    return {
        "step_deg": np.array(COARSE_DEG),
        "arc_lat": steps[:, 0], "arc_lon": steps[:, 1], "arc_lengths": np.array([len(arc) for arc in arcs], np.int32),
        "ring_arcs": np.array([arc for ring in rings for arc in ring], np.int32),
        "ring_lengths": np.array([len(ring) for ring in rings], np.int32), "ring_country": np.array(owner, np.int32),
        "code": np.array([letters.get(country.get("id", ""), "") for country in countries]),
        "name": np.array([country["properties"]["name"] for country in countries]),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Pack coasts, country borders and US state lines.")
    parser.add_argument("countries", type=Path, help="countries-50m.json of world-atlas")
    parser.add_argument("states", type=Path, help="states-10m.json of us-atlas")
    parser.add_argument("codes", type=Path, help="codes.json of i18n-iso-countries: ISO 3166 numbers to letters")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--areas", type=Path, default=AREAS)
    options = parser.parse_args()

    world, usa = (json.loads(path.read_text(encoding="utf-8")) for path in (options.countries, options.states))
    by_country, by_state = users_of(world, "countries"), users_of(usa, "states")
    world_arcs, usa_arcs = arcs_of(world), arcs_of(usa)
    chosen = {
        "coast": [world_arcs[arc] for arc, users in sorted(by_country.items()) if users == 1],
        "country": [world_arcs[arc] for arc, users in sorted(by_country.items()) if users > 1],
        "state": [usa_arcs[arc] for arc, users in sorted(by_state.items()) if users > 1],
    }
    columns = {"step_deg": np.array(STEP_DEG)}
    for kind, lines in chosen.items():
        steps, lengths = packed([piece for line in lines for piece in without_cuts(line)])
        columns |= {f"{kind}_lat": steps[:, 0], f"{kind}_lon": steps[:, 1], f"{kind}_lengths": lengths}
        print(f"{kind}: {len(lengths)} lines, {lengths.sum()} points")
    np.savez_compressed(options.out, **columns)
    np.savez_compressed(options.areas, **areas_of(world, json.loads(options.codes.read_text(encoding="utf-8"))))
    for file in (options.out, options.areas):
        print(f"{file.name}: {file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
