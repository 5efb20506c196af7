"""Options that several commands share."""

from enum import StrEnum
from typing import Annotated

import typer

from graticule.errors import BadRecipeError

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
MaxRefused = Annotated[float, typer.Option(min=0, max=1, help="Stop if more than this share of photos is refused.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="Change one setting: train.epochs=2. May be repeated.")]
Column = typer.Option(help="The table's own name of this column.")


class SplitBy(StrEnum):
    random = "random"
    place = "place"
    sequence = "sequence"
    column = "column"
    block = "block"


def position(text: str, option: str) -> tuple[float, float]:
    """``LAT,LON`` in degrees, as a user types it.

    Raises:
        BadRecipeError: not two numbers, or none on the globe.
    """
    try:
        lat, lon = (float(part) for part in text.split(","))
    except ValueError as error:
        raise BadRecipeError(f"{option} takes LAT,LON in degrees, such as 38.9,-77.03; found {text!r}") from error
    if not (abs(lat) <= 90 and abs(lon) <= 180):
        raise BadRecipeError(f"{option} {text} is off the globe; latitudes lie in [-90, 90], longitudes in [-180, 180]")
    return lat, lon
