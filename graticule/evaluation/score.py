"""Scores of anyone's predictions: a table of true and predicted positions, whatever made it."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from graticule.choices import MapScale
from graticule.errors import BadTableError
from graticule.evaluation.metrics import bootstrap_intervals, position_metrics
from graticule.files import write_parquet
from graticule.geo import sphere
from graticule.photos.table import numbers
from graticule.photos.tabular import read_table

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

POSITIONS = ("lat", "lon", "predicted_lat", "predicted_lon")
LISTED = 20  # refused rows named one by one in the JSON; the rest are counted

# The same word in other people's headers, after splitting a name at anything that is not a letter.
SYNONYMS = {
    **dict.fromkeys(["latitude", "y"], "lat"),
    **dict.fromkeys(["long", "lng", "longitude", "x"], "lon"),
    **dict.fromkeys(["pred", "prediction", "predictions", "guess", "guessed", "estimated"], "predicted"),
    **dict.fromkeys(["gt", "true", "truth", "ground", "actual", "target", "label", "gps"], ""),
}


@dataclass(frozen=True, slots=True)
class ScoreReport:
    """What a table of predictions is worth.

    Attributes:
        metrics: as of :func:`graticule.evaluation.metrics.position_metrics`.
        intervals: 95 % bootstrap interval of each metric, resampled by place; empty where there is but one.
        places: what a place is here: a column's name, or ``position to 0.001 degrees``.
        map_diagonal_km: scale of ``score``, and ``map_diagonal_from`` tells where it comes from.
        row: number of each scored row, counted from 1 without the header, shape ``(N,)``.
        error_km: distance from the true to the predicted position of those rows, shape ``(N,)``.
        refused: the reason for each row that is no prediction, by row number.
    """

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    places: str
    map_diagonal_km: float
    map_diagonal_from: MapScale
    row: Ints
    error_km: Floats
    refused: dict[int, str]

    def to_json(self) -> dict[str, Any]:
        """All but the rows, with the first refused ones as examples."""
        reasons = Counter(self.refused.values())
        return {
            "photos": len(self.row),
            "refused": len(self.refused),
            "refused_reasons": dict(reasons.most_common()),
            "refused_rows": [{"row": row, "reason": reason} for row, reason in list(self.refused.items())[:LISTED]],
            **self.metrics,
            "map_diagonal_km": self.map_diagonal_km,
            "map_diagonal_from": self.map_diagonal_from,
            "intervals": {name: list(ends) for name, ends in self.intervals.items()},
            "places": self.places,
        }

    def write_rows(self, path: Path) -> None:
        """Write ``row, error_km`` of every scored row as Parquet."""
        write_parquet(path, pl.DataFrame({"row": self.row, "error_km": self.error_km}))


def score_table(
    path: Path,
    *,
    columns: Mapping[str, str] | None = None,
    map_diagonal_km: float | None = None,
    group: str | None = None,
) -> ScoreReport:
    """Score a CSV, TSV or Parquet file of predictions.

    Args:
        path: a table with the four positions in degrees, one prediction a row.
        columns: the table's own names where they differ, such as ``{"lat": "gt_lat"}``.
        map_diagonal_km: scale of ``score``; by default the world's if the true positions spread over more
            than 2,000 km, else the diagonal of the map that holds them.
        group: column of the place that the intervals resample; by default ``place``, or where there is
            none the true position rounded to 0.001 degrees.

    Raises:
        BadTableError: the file is no such table, lacks a column, or more than half of its rows are refused.
        BadRecipeError: ``map_diagonal_km`` is no positive distance.
    """
    table = read_table(path)
    names = {role: (columns or {}).get(role, role) for role in POSITIONS}
    _check_columns(path, table.columns, names, group)
    degrees, reasons = _positions(table, names)

    kept = np.array([reason is None for reason in reasons], bool)
    refused = {i + 1: reason for i, reason in enumerate(reasons) if reason is not None}
    if len(refused) > len(kept) / 2 or not kept.any():
        counts = ", ".join(f"{n} {reason}" for reason, n in Counter(refused.values()).most_common())
        raise BadTableError(
            f"{path}: {len(refused)} of {len(kept)} rows are no predictions "
            f"({counts or 'the table is empty'}). Expected degrees in the columns {', '.join(names.values())}"
        )

    lat, lon, predicted_lat, predicted_lon = degrees[:, kept]
    errors = sphere.great_circle_km(lat, lon, predicted_lat, predicted_lon)
    diagonal, diagonal_from = sphere.map_scale(lat, lon, map_diagonal_km)
    group = group or ("place" if "place" in table.columns else None)
    places: NDArray[Any] = sphere.position_keys(lat, lon)
    if group is not None:
        named = table[group].cast(str).to_numpy()
        places = np.array([f"row {i}" if place is None else place for i, place in enumerate(named)])[kept]
    return ScoreReport(
        metrics=position_metrics(errors, diagonal),
        intervals=bootstrap_intervals(errors, diagonal, places),
        places=group or "position to 0.001 degrees",
        map_diagonal_km=diagonal,
        map_diagonal_from=diagonal_from,
        row=np.flatnonzero(kept) + 1,
        error_km=errors,
        refused=refused,
    )


def _positions(table: pl.DataFrame, names: Mapping[str, str]) -> tuple[Floats, list[str | None]]:
    """Degrees, shape ``(4, rows)``, and for each row why it is refused, or None."""
    texts = [table[name].cast(pl.String).str.strip_chars() for name in names.values()]
    degrees = np.stack([numbers(text) for text in texts])
    reasons: list[str | None] = [None] * table.height
    limits = np.array([90, 180, 90, 180])[:, None]
    for i in np.flatnonzero(~(np.abs(degrees) <= limits).all(axis=0)):
        cells = [text[int(i)] for text in texts]
        if not any(cells):
            reasons[i] = "empty"
        elif cells == list(names.values()):
            reasons[i] = "the header again"
        elif np.isnan(degrees[:, i]).all() and len({*cells, None, ""}) == 6:
            # Four different words are the header of another table, such as the summary at the end of
            # TIB's published results; its numbers would pass for degrees.
            reasons[i:] = ["below the header of a second table"] * (len(reasons) - i)
            reasons[i] = "the header of a second table"
            break
        elif np.isfinite(degrees[:, i]).all():
            reasons[i] = "off the globe"
        else:
            reasons[i] = "not a number"
    return degrees, reasons


def _check_columns(path: Path, found: list[str], names: Mapping[str, str], group: str | None) -> None:
    missing = [role for role, name in names.items() if name not in found]
    if group is not None and group not in found:
        raise BadTableError(f"{path} has no column {group!r} to group by; its columns are {', '.join(found)}")
    if not missing:
        return
    likely = {role_of(name): name for name in reversed(found)}
    options = [f"--{role.replace('_', '-')} {likely[role]}" for role in missing if role in likely]
    advice = (
        f"Did you mean {' '.join(options)}?"
        if options
        else "Name yours with --lat, --lon, --predicted-lat, --predicted-lon"
    )
    raise BadTableError(
        f"{path} has no column {', '.join(names[role] for role in missing)}; its columns are "
        f"{', '.join(found)}. {advice}"
    )


def role_of(name: str) -> str:
    """What a column of a table is likely to hold: ``gt_long`` is ``lon``, ``pred-latitude`` is ``predicted_lat``."""
    words = [SYNONYMS.get(word, word) for word in re.findall("[a-z]+", name.lower())]
    return "_".join(sorted(filter(None, words), reverse=True))
