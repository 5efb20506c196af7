"""Coasts, country borders and US state lines, from one small file in the package: no network.

The lines are Natural Earth's at 1:50m and the US Census Bureau's; ``assets/README.md`` says how they came
here. They are good to about a kilometre: enough to find one's way on a map of a country, not inside a city.
"""

from functools import cache
from importlib import resources
from typing import Literal

import numpy as np
from numpy.typing import NDArray

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
