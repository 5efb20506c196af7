"""Degrees as people write them, to numbers: ``37.77``, ``37,77``, ``37.77N``, ``37°46'12"N``."""

import re
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from graticule.errors import BadTableError

Floats = NDArray[np.float64]
Axis = Literal["lat", "lon"]

MINUS = "\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d"  # hyphens, dashes and minus signs that are not ASCII's
LETTERS = {"lat": "NS", "lon": "EW"}  # no O: it is east in German and west in French
POINT, COMMA, LETTER, SEXAGESIMAL = (
    "decimal degrees",
    "decimal commas",
    "decimal degrees with a letter",
    "degrees, minutes and seconds",
)
_WHOLE = re.compile(r"[+-]?\d+")
_COMMA = re.compile(r"[+-]?\d+,\d+")
_LETTER = re.compile(
    r"(?:(?P<before>[A-Z])\s*)?(?P<degrees>[+-]?\d+(?:[.,]\d+)?)\s*°?\s*(?P<after>[A-Z])?", re.IGNORECASE
)
_SEXAGESIMAL = re.compile(
    r"(?:(?P<before>[A-Z])\s*)?(?P<degrees>[+-]?\d+)\s*(?:°|º|:|deg(?:rees)?|\s)\s*(?P<minutes>\d+(?:[.,]\d+)?)\s*(?:'|′|’|:|\s|$)?\s*"
    r"(?:(?P<seconds>\d+(?:[.,]\d+)?)\s*(?:\"|″|”|''|′′|’’)?)?\s*(?P<after>[A-Z])?",
    re.IGNORECASE,
)


def read_degrees(values: pl.Series, axis: Axis, source: object = "the table") -> tuple[Floats, str]:
    """A column of latitudes or longitudes as float64 degrees, shape ``(N,)``, and how it is written.

    What is no number in any of the ways becomes NaN. Whole numbers go with decimal points and with decimal commas.

    Raises:
        BadTableError: the column mixes ways, so that some of its values would be read wrongly.
    """
    if values.dtype != pl.String:
        return values.cast(pl.Float64, strict=False).fill_null(float("nan")).to_numpy(), POINT
    text = values.str.strip_chars().str.replace_all(f"[{MINUS}]", "-")
    text = text.set(text == "", None)
    plain = text.cast(pl.Float64, strict=False)
    if plain.null_count() == text.null_count():
        return plain.fill_null(float("nan")).to_numpy(), POINT
    found = np.full(len(text), np.nan)
    first: dict[str, int] = {}  # row of each way
    for row, value in enumerate(text):
        way, degrees = _read(value, axis) if value is not None else ("", None)
        if degrees is not None:
            found[row] = degrees
            if way:
                first.setdefault(way, row)
    if len(first) > 1:
        some = " and ".join(f"{way} (row {row + 1}: {values[row]})" for way, row in list(first.items())[:2])
        raise BadTableError(f"{source}: the column {values.name} mixes {some}; write all of them in one way")
    return found, next(iter(first), POINT)


def _read(text: str, axis: Axis) -> tuple[str, float | None]:
    """The way a value is written (empty: it goes with any decimal one) and its degrees, or None."""
    if _WHOLE.fullmatch(text):
        return "", float(text)
    if _COMMA.fullmatch(text):
        return COMMA, float(text.replace(",", "."))
    try:
        return POINT, float(text)
    except ValueError:
        pass
    for way, pattern in ((LETTER, _LETTER), (SEXAGESIMAL, _SEXAGESIMAL)):
        if match := pattern.fullmatch(text):
            return way, _signed(match.groupdict(), axis)
    return "", None


def _signed(parts: dict[str, str | None], axis: Axis) -> float | None:
    letters = [letter.upper() for letter in (parts["before"], parts["after"]) if letter]
    if len(letters) > 1 or any(letter not in LETTERS[axis] for letter in letters):
        return None
    degrees, *small = (float((parts.get(name) or "0").replace(",", ".")) for name in ("degrees", "minutes", "seconds"))
    if any(part >= 60 for part in small) or (letters and degrees < 0):
        return None  # a sign beside a letter may mean the one or the other
    size = abs(degrees) + small[0] / 60 + small[1] / 3600
    negative = (parts["degrees"] or "").startswith("-") or letters in (["S"], ["W"])
    return -size if negative else size
