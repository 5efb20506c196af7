"""Where a belief lies, in names: the probabilities of countries, states and towns."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from graticule.geo.sphere import Floats, Ints
from graticule.geo.towns import nearest_towns

SURE = 0.9  # a name that holds more than this says too little: its parts are named instead
LEAST = 0.01  # probability of a name that is worth saying


@dataclass(frozen=True, slots=True)
class PlaceGuess:
    """A named place and the probability that the photo was taken there, by the belief, in [0, 1]."""

    name: str
    probability: float


@dataclass(frozen=True, eq=False)
class Names:
    """The names of a ground's cells, by the town nearest to the middle of each.

    Attributes:
        levels: for countries, states and towns: the names, sorted, and the name's row of each ground cell ``(G,)``.
    """

    levels: tuple[tuple[list[str], Ints], ...]

    @classmethod
    def of(cls, lat: Floats, lon: Floats) -> Self:
        """Name the middles of all cells of a ground, degrees; takes a second the first time."""
        towns = nearest_towns(lat, lon)
        levels = []
        for level in range(3):
            names, row = np.unique([town.parts[level] for town in towns], return_inverse=True)
            levels.append((names.tolist(), row))
        return cls(tuple(levels))

    def likely(self, masses: Floats, top: int = 3) -> tuple[PlaceGuess, ...]:
        """The likeliest places by one photo's masses ``(G,)``: countries, or states or towns where that is sure."""
        found: tuple[PlaceGuess, ...] = ()
        for names, row in self.levels:
            probability = np.bincount(row, weights=masses, minlength=len(names))
            order = np.argsort(-probability, kind="stable")[:top]
            found = tuple(PlaceGuess(names[i], float(probability[i])) for i in order if probability[i] >= LEAST)
            if probability[order[0]] < SURE:
                break
        return found
