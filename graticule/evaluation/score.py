"""Scores of anyone's predictions: a table of true and predicted positions, whatever made it."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from graticule.choices import MapScale
from graticule.errors import BadTableError
from graticule.evaluation.metrics import bootstrap_intervals, position_metrics
from graticule.evaluation.samples import weigh_samples
from graticule.files import write_parquet
from graticule.geo import sphere
from graticule.photos.table import numbers
from graticule.photos.tabular import read_table

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

POSITIONS = ("lat", "lon", "predicted_lat", "predicted_lon")
USES = {"group": "to group by", "photo": "that names the photos", "weight": "of weights"}
SAME_DEG = 1e-6  # positions of one photo that rounding alone has moved: 11 cm
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
        more: what distributions were worth, where rows are points of one: ``log_density``, ``bits`` and the like.
    """

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    places: str
    map_diagonal_km: float
    map_diagonal_from: MapScale
    row: Ints
    error_km: Floats
    refused: dict[int, str]
    more: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """All but the rows, with the first refused ones as examples."""
        reasons = Counter(self.refused.values())
        return {
            "photos": len(self.row),
            "refused": len(self.refused),
            "refused_reasons": dict(reasons.most_common()),
            "refused_rows": [{"row": row, "reason": reason} for row, reason in list(self.refused.items())[:LISTED]],
            **self.metrics,
            **self.more,
            "map_diagonal_km": self.map_diagonal_km,
            "map_diagonal_from": self.map_diagonal_from,
            "intervals": {name: list(ends) for name, ends in self.intervals.items()},
            "places": self.places,
        }

    def write_rows(self, path: Path) -> None:
        """Write ``row, error_km`` of every scored row, or of the first row of every photo, as Parquet."""
        write_parquet(path, pl.DataFrame({"row": self.row, "error_km": self.error_km}))


def score_table(
    path: Path,
    *,
    columns: Mapping[str, str] | None = None,
    map_diagonal_km: float | None = None,
    group: str | None = None,
    photo: str | None = None,
    weight: str | None = None,
) -> ScoreReport:
    """Score a CSV, TSV or Parquet file of predictions.

    Args:
        path: a table with the four positions in degrees, one prediction a row.
        columns: the table's own names where they differ, such as ``{"lat": "gt_lat"}``.
        map_diagonal_km: scale of ``score``; by default the world's if the true positions spread over more
            than 2,000 km, else the diagonal of the map that holds them.
        group: column of the place that the intervals resample; by default ``place``, or where there is
            none the true position rounded to 0.001 degrees.
        photo: column that names the photo, where several rows are samples or weighted points of what is believed of
            one. The true position stands in each of its rows.
        weight: column of the points' weights; without it all of a photo's weigh the same.

    Raises:
        BadTableError: the file is no such table, lacks a column, or more than half of its rows are refused.
        BadRecipeError: ``map_diagonal_km`` is no positive distance.
    """
    table = read_table(path)
    names = {role: (columns or {}).get(role, role) for role in POSITIONS}
    _check_columns(path, table.columns, names, group=group, photo=photo, weight=weight)
    degrees, reasons = _positions(table, names)
    weights = np.ones(table.height) if weight is None else numbers(table[weight].cast(pl.String))
    for i in np.flatnonzero(~(weights > 0) | ~np.isfinite(weights)):
        reasons[i] = reasons[i] or "no weight above 0"

    kept = np.array([reason is None for reason in reasons], bool)
    refused = {i + 1: reason for i, reason in enumerate(reasons) if reason is not None}
    if len(refused) > len(kept) / 2 or not kept.any():
        counts = ", ".join(f"{n} {reason}" for reason, n in Counter(refused.values()).most_common())
        raise BadTableError(
            f"{path}: {len(refused)} of {len(kept)} rows are no predictions "
            f"({counts or 'the table is empty'}). Expected degrees in the columns {', '.join(names.values())}"
        )

    rows = np.flatnonzero(kept)
    lat, lon, predicted_lat, predicted_lon = degrees[:, rows]
    group = group or ("place" if "place" in table.columns else None)
    more: dict[str, Floats] = {}
    if photo is not None:
        code, first = _by_photo(path, table[photo][rows], lat, lon, rows)
        points = (predicted_lat, predicted_lon, weights[rows])
        rows, lat, lon = rows[first], lat[first], lon[first]
        codes = np.unique(_places(table, group, rows, lat, lon), return_inverse=True)[1]
        weighed = weigh_samples(code, *points, lat, lon, codes)
        predicted_lat, predicted_lon = weighed.lat, weighed.lon
        more = {"log_density": weighed.log_density, "prior_log_density": weighed.prior_log_density}
        more |= {"bits": weighed.bits, **weighed.covered()}
    errors = sphere.great_circle_km(lat, lon, predicted_lat, predicted_lon)
    diagonal, diagonal_from = sphere.map_scale(lat, lon, map_diagonal_km)
    return ScoreReport(
        metrics=position_metrics(errors, diagonal),
        intervals=bootstrap_intervals(errors, diagonal, _places(table, group, rows, lat, lon), shares=more),
        places=group or "position to 0.001 degrees",
        map_diagonal_km=diagonal,
        map_diagonal_from=diagonal_from,
        row=rows + 1,
        error_km=errors,
        refused=refused,
        more={name: float(value.mean()) for name, value in more.items()},
    )


def _places(table: pl.DataFrame, group: str | None, rows: Ints, lat: Floats, lon: Floats) -> NDArray[Any]:
    """The place of each of these rows: what a column says, or the true position."""
    if group is None:
        return sphere.position_keys(lat, lon)
    named = table[group].cast(str).to_numpy()
    return np.array([f"row {i}" if named[i] is None else named[i] for i in rows])


def _by_photo(path: Path, photo: pl.Series, lat: Floats, lon: Floats, rows: Ints) -> tuple[Ints, Ints]:
    """The photo of each point, and the first point of each photo, photos in the order of the table.

    Raises:
        BadTableError: the points of a photo have two true positions.
    """
    code = photo.cast(pl.String).fill_null("").rank("dense").to_numpy().astype(np.int64) - 1
    _, first, code = np.unique(code, return_index=True, return_inverse=True)
    order = np.argsort(first)
    code, first = np.argsort(order)[code], first[order]
    apart = np.maximum(np.abs(lat - lat[first][code]), np.abs(lon - lon[first][code])) > SAME_DEG
    if apart.any():
        at = int(np.flatnonzero(apart)[0])
        raise BadTableError(
            f"{path}: row {rows[at] + 1} has another true position than row {rows[first[code[at]]] + 1} of the same "
            f"photo; beside all points of a photo stands its one true position"
        )
    return code, first


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


def _check_columns(path: Path, found: list[str], names: Mapping[str, str], **others: str | None) -> None:
    missing = [role for role, name in names.items() if name not in found]
    for use, name in others.items():
        if name is not None and name not in found:
            raise BadTableError(f"{path} has no column {name!r} {USES[use]}; its columns are {', '.join(found)}")
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
