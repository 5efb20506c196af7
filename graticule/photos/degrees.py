"""Degrees as people write them, to numbers: ``37.77``, ``37,77``, ``37.77N``, ``37°46'12"N``."""

import re
import unicodedata
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from graticule.errors import BadTableError

Floats = NDArray[np.float64]
Axis = Literal["lat", "lon"]

LETTERS = {"lat": "NS", "lon": "EW"}
POINT, COMMA, LETTER, SEXAGESIMAL = (
    "decimal degrees",
    "decimal commas",
    "decimal degrees with a letter",
    "degrees, minutes and seconds",
)
SIGNS = str.maketrans(
    {
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212\ufe63\uff0d", "-"),
        **dict.fromkeys("º˚⁰*", "°"),
        **dict.fromkeys("′’‘´`ʹʼ‵＇", "'"),
        **dict.fromkeys("″”“„ʺ˝¨〃＂", '"'),
    }
)
WORDS = (  # by the letter or sign that they stand for; whole words, but for digits beside them
    ("N", r"north|nord|norte|noord"),
    ("S", r"south|s[uü]d|sur|zuid"),
    ("E", r"east|est|este|oost"),
    ("W", r"west|ouest|oeste"),
    ("O", r"ost"),
    ("°", r"deg(?:ree)?s?[.]?|d"),
    ("'", r"min(?:ute)?s?[.]?|m"),
    ('"', r"sec(?:ond)?s?[.]?|(?<=\d)s(?=$|\s*[NSEWO]$)"),
)
_WORDS = [(sign, re.compile(rf"(?<![^\W\d_])(?:{words})(?![^\W\d_NSEWO])", re.IGNORECASE)) for sign, words in WORDS]
_WHOLE = re.compile(r"[+-]?\d+")
_COMMA = re.compile(r"[+-]?\d+,\d+")
_LETTER = re.compile(
    r"(?:(?P<before>[A-Z])\s*[:=]?\s*)?(?P<degrees>[+-]?\s*\d+(?:[.,]\d+)?)\s*°?\s*(?P<after>[A-Z])?", re.IGNORECASE
)
_SEXAGESIMAL = re.compile(
    r"(?:(?P<before>[A-Z])\s*[:=]?\s*)?(?P<degrees>[+-]?\s*\d+)\s*(?P<by>[°:,-]|\s)\s*"
    r"(?P<minutes>\d+(?:[.,]\d+)?)\s*(?:[':,-]|\s|$)?\s*"
    r"(?:(?P<seconds>\d+(?:[.,]\d+)?)\s*(?:\"+|''|:)?)?\s*(?P<after>[A-Z])?",
    re.IGNORECASE,
)


def read_degrees(values: pl.Series, axis: Axis, source: object = "the table") -> tuple[Floats, str]:
    """A column of latitudes or longitudes as float64 degrees, shape ``(N,)``, and how it is written.

    What is no number in any of the ways becomes NaN. Whole numbers go with decimal points and with decimal commas.
    The letter O is east in German and west in French and Spanish: it is read where the column has W or E as well.

    Raises:
        BadTableError: the column mixes ways, so that some of its values would be read wrongly, or nothing says which
            side of Greenwich its O is.
    """
    if values.dtype != pl.String:
        return values.cast(pl.Float64, strict=False).fill_null(float("nan")).to_numpy(), POINT
    text = values.str.strip_chars()
    text = text.set(text == "", None)
    plain = text.cast(pl.Float64, strict=False)
    if plain.null_count() == text.null_count():
        return plain.fill_null(float("nan")).to_numpy(), POINT
    texts = [None if value is None else _plain(value) for value in text]
    if axis == "lon" and any(value and "O" in (value[0], value[-1]) for value in texts):
        texts = _without_o(texts, values, source)
    found = np.full(len(text), np.nan)
    first: dict[str, int] = {}  # row of each way
    for row, value in enumerate(texts):
        way, degrees = _read(value, axis) if value is not None else ("", None)
        if degrees is not None:
            found[row] = degrees
            if way:
                first.setdefault(way, row)
    if len(first) > 1:
        some = " and ".join(f"{way} (row {row + 1}: {values[row]})" for way, row in list(first.items())[:2])
        raise BadTableError(f"{source}: the column {values.name} mixes {some}; write all of them in one way")
    return found, next(iter(first), POINT)


def one_degree(text: str, axis: Axis) -> float | None:
    """One value in any of the ways, as degrees; None where it is in none."""
    return _read(_plain(text), axis)[1]


def _plain(text: str) -> str:
    """One sign for each of degrees, minutes, seconds and minus, capital letters for words of the compass."""
    text = unicodedata.normalize("NFKC", text.translate(SIGNS)).strip()
    if text[:1] == "'":  # with which spreadsheets keep numbers as text
        text = text[1:]
    if not text.isascii() or re.search(r"[a-z]{2}|\d\s*[dms]", text, re.IGNORECASE):
        for sign, words in _WORDS:
            text = words.sub(sign, text)
    return text.upper().strip()


def _without_o(texts: list[str | None], values: pl.Series, source: object) -> list[str | None]:
    ends = {end for value in texts if value for end in (value[0], value[-1])}
    if not ends & {"E", "W"}:
        raise BadTableError(
            f"{source}: in the column {values.name} the letter O may be Ost (east) or Ouest and Oeste (west); "
            f"write E or W"
        )
    return [value and value.replace("O", "W" if "E" in ends else "E") for value in texts]


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
    if not letters and parts.get("by") in ("-", ","):  # 37-46 may be a range, and 37,46.2 a thousand
        return None
    degrees, *small = (
        float(re.sub(r"\s", "", parts.get(name) or "0").replace(",", ".")) for name in ("degrees", "minutes", "seconds")
    )
    if any(part >= 60 for part in small) or (letters and degrees < 0):
        return None  # a sign beside a letter may mean the one or the other
    size = abs(degrees) + small[0] / 60 + small[1] / 3600
    negative = (parts["degrees"] or "").startswith("-") or letters in (["S"], ["W"])
    return -size if negative else size
