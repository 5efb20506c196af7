"""The city bundles that a world bundle goes down to, as written beside it."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graticule.belief.confidence import Calibration
from graticule.belief.density import Belief
from graticule.belief.mixture import Gate, Mixture, shares_of
from graticule.errors import BundleError
from graticule.files import write_json
from graticule.geo import s2
from graticule.geo.sphere import Floats
from graticule.model.bundle import Bundle
from graticule.model.index import INDEX, read_index

CITIES = "cities.json"
LEAST_ODDS = float(np.log(1e-4))  # below it a city is not asked


@dataclass(frozen=True)
class City:
    """One of them.

    Attributes:
        path: its folder, seen from the world's.
        sha256: hash of its index, and so of every file of it.
        area: tokens of the few S2 cells that hold what it knows.
    """

    path: str
    sha256: str
    area: tuple[str, ...]
    gate: Gate

    @property
    def cells(self) -> NDArray[np.uint64]:
        return s2.from_tokens(self.area)


@dataclass(frozen=True)
class Cities:
    """All of them, and what photos showed that trained none of the bundles.

    Attributes:
        world_sha256: hash of the world's index.
        before: shares of the world and of each city, before a photo is seen.
        calibration: of the mixtures; its shape is the world's, and its strangeness is of the least strange of the
            models' ``unlike_training``.
    """

    world_sha256: str
    cities: tuple[City, ...]
    before: tuple[float, ...]
    calibration: Calibration

    def write(self, world: Path) -> None:
        """Write ``cities.json`` into the world's folder."""
        write_json(world / CITIES, asdict(self))

    @classmethod
    def read(cls, world: Path) -> "Cities | None":
        """What lies beside a world's bundle; None where nothing does.

        Raises:
            BundleError: it is broken, or of another bundle than the one it lies beside.
        """
        file = world / CITIES
        if not file.is_file():
            return None
        try:
            tree: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            cities = tuple(
                City(str(one["path"]), str(one["sha256"]), tuple(map(str, one["area"])), Gate(**one["gate"]))
                for one in tree["cities"]
            )
            before = tuple(map(float, tree["before"]))
            found = cls(str(tree["world_sha256"]), cities, before, Calibration.from_json(tree["calibration"]))
        except (LookupError, TypeError, ValueError) as error:
            raise BundleError(f"{file} cannot be read: {error}; join the bundles again: graticule join") from error
        if found.world_sha256 != hash_of(world):
            raise BundleError(
                f"{file} was written for another bundle than lies in {world} now; join the cities again (graticule "
                f"join), or delete that file to ask the world alone"
            )
        return found

    def open(self, world: Path) -> list[Bundle]:
        """The cities' bundles.

        Raises:
            BundleError: one is not there, or is another than was joined.
        """
        bundles = []
        for city in self.cities:
            folder = world / city.path
            if hash_of(folder) != city.sha256:
                raise BundleError(f"the city {folder} is not the one that was joined; join them again (graticule join)")
            bundles.append(Bundle.read(folder))
        return bundles


@dataclass(frozen=True, eq=False)
class Opinion:
    """What a city's model says of N photos.

    Attributes:
        belief: of each; even where it was not asked.
        unlike: as of a :class:`graticule.inference.decode.Fix`, shape ``(N,)``; none without a gallery.
        asked: which photos it was asked about, shape ``(N,)``.
    """

    belief: Belief
    unlike: Floats | None
    asked: NDArray[np.bool_]


def mixed(
    gates: Sequence[Gate],
    before: Sequence[float],
    world: Belief,
    unlike: Floats | None,
    cities: Sequence[tuple[Floats, Opinion]],
) -> tuple[Mixture, Floats | None]:
    """One belief of the world's and the cities', and how unlike the least strange of their photos each photo is.

    Args:
        cities: the world's probability of each city's area, shape ``(N,)``, and what the city says.
    """
    odds = [
        np.where(city.asked, gate.log_odds(probability, city.unlike), -np.inf)
        for gate, (probability, city) in zip(gates, cities, strict=True)
    ]
    strange = [one for one in (unlike, *(city.unlike for _, city in cities)) if one is not None]
    parts = (world, *(city.belief for _, city in cities))
    share = shares_of(np.stack(odds, axis=1))
    return Mixture(parts, share, np.array(before)), np.min(strange, axis=0) if strange else None


def hash_of(bundle: Path) -> str:
    """The hash of a bundle's index.

    Raises:
        BundleError: there is no bundle.
    """
    found: str = read_index(bundle)["sha256"][INDEX]
    return found
