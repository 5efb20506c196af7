"""The table of a benchmark that papers share: published lines, lines made anew from published predictions, and ours.

A line of other photos cannot be compared, so one is shown only where it is of the very photos that ours is of.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import polars as pl

from graticule.errors import BadTableError
from graticule.evaluation.metrics import WITHIN_KM, position_metrics
from graticule.evaluation.score import role_of
from graticule.geo.sphere import WORLD_MAP_DIAGONAL_KM, great_circle_km
from graticule.photos.table import numbers
from graticule.photos.tabular import read_table

PHOTO = ("img_id", "path", "photo", "id")  # headers of the column that names a photo
SUFFIXES = (".csv", ".tsv", ".parquet")


@dataclass(frozen=True, slots=True)
class Line:
    """What a method reaches on a benchmark.

    Attributes:
        within: shares of the photos within ``WITHIN_KM``, in [0, 1]; None where none is known.
        source: the paper, the file of predictions, or that it was measured here.
        photos: how many it is of.
        bits, coverage_90: of a calibrated bundle: what the answers tell beyond the map of known photos, and the share
            of truths that the 90 % regions hold.
    """

    name: str
    within: tuple[float | None, ...]
    source: str
    photos: int
    median_km: float | None = None
    bits: float | None = None
    coverage_90: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values; shares by their radius."""
        within = {f"within_{km}_km": share for km, share in zip(WITHIN_KM, self.within, strict=True)}
        return {name: value for name, value in asdict(self).items() if name != "within"} | within


def _quoted(photos: int, *lines: tuple[str, str, tuple[float | None, ...]]) -> tuple[Line, ...]:
    return tuple(
        Line(name, tuple(None if percent is None else percent / 100 for percent in within), source, photos)
        for name, source, within in lines
    )


# The papers' tables were not at hand: lines were checked against other public tables that copy them. Those of YFCC4k,
# and within 1 km of ISNs and TransLocator, stand in one survey alone.
_CARD = "as quoted in arXiv 2302.00275"
_ISNS, _TRANSLOCATOR = "Müller-Budack et al., ECCV 2018", "Pramanick et al., ECCV 2022, arXiv 2204.13861"
_AGAIN, _CPLANET = "measured again in {}", "Seo et al., CPlaNet, arXiv 1808.02130"
_STREETCLIP = "Haas et al., arXiv 2302.00275"
_PIGEON = "Haas et al., CVPR 2024, arXiv 2307.05845"
QUOTED = {
    "im2gps": _quoted(
        237,
        ("PlaNet", _CARD, (None, 24.5, 37.6, 53.6, 71.3)),
        ("ISNs", _CARD, (None, 43.0, 51.9, 66.7, 80.2)),
        ("TransLocator", _CARD, (None, 48.1, 64.6, 75.6, 86.7)),
        ("StreetCLIP", _STREETCLIP, (None, 28.3, 45.1, 74.7, 88.2)),
    ),
    "im2gps3k": _quoted(
        2997,
        ("PlaNet", _AGAIN.format(_CPLANET), (8.5, 24.8, 34.3, 48.4, 64.6)),
        ("ISNs", _ISNS, (10.5, 28.0, 36.6, 49.7, 66.0)),
        ("TransLocator", _TRANSLOCATOR, (11.8, 31.1, 46.7, 58.9, 80.1)),
        ("StreetCLIP", _STREETCLIP, (None, 22.4, 37.4, 61.3, 80.4)),
        ("GeoCLIP", "Vivanco et al., NeurIPS 2023, arXiv 2309.16020", (14.11, 34.47, 50.65, 69.67, 83.82)),
        ("PIGEOTTO", _PIGEON, (11.3, 36.7, 53.8, 72.4, 85.3)),
    ),
    "yfcc4k": _quoted(
        4536,
        ("PlaNet", _AGAIN.format(_CPLANET), (5.6, 14.3, 22.2, 36.4, 55.8)),
        ("ISNs", _AGAIN.format("arXiv 2204.13861"), (6.5, 16.2, 23.8, 37.4, 55.0)),
        ("TransLocator", _TRANSLOCATOR, (8.4, 18.6, 27.0, 41.1, 60.4)),
        ("GeoCLIP", _AGAIN.format("arXiv 2405.14702"), (9.59, 19.31, 32.63, 55.0, 74.7)),
        ("PIGEOTTO", _PIGEON, (10.4, 23.7, 40.6, 62.2, 77.7)),
    ),
}


def own_line(name: str, metrics: dict[str, Any]) -> Line:
    """The line of a bundle, from what :func:`graticule.evaluation.evaluate.evaluate` measured."""
    within = tuple(metrics[f"within_{km}_km"] for km in WITHIN_KM)
    sure = (metrics.get("bits"), metrics.get("coverage_90"))
    return Line(name, within, "measured here", metrics["photos"], metrics["median_km"], *sure)


def recomputed(path: Path, photos: pl.DataFrame) -> list[Line]:
    """The lines of published tables of predictions on these photos, each named by its file.

    Args:
        path: a CSV, TSV or Parquet file with a column that names the photo, such as ``img_id``, and the predicted
            position, in any of the headers that ``graticule score`` knows; or a folder, of which tables of other things
            or without one of these photos are left out.
        photos: ``path, lat, lon``, the true positions of all lines. Photos are the same where the names of their files
            are, without the suffix.

    Raises:
        BadTableError: there is no such file; it is no such table, or lacks a prediction of one of the photos; or so is
            every table of the folder.
    """
    ours = photos.select("lat", "lon", photo=_stems(photos["path"]))
    if path.is_file():
        return [_line(path, _predictions(path), ours)]
    if not path.is_dir():
        raise BadTableError(f"there is no {path}; name a table of predictions, or a folder of such tables")
    found = []
    for file in sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES):
        with suppress(BadTableError):  # of another benchmark, or no predictions at all
            found.append(_line(file, _predictions(file), ours))
    if not found:
        raise BadTableError(f"no table in {path} has a prediction of each of these {len(ours):,} photos")
    return found


def comparable(lines: Sequence[Line], photos: int) -> list[Line]:
    """The lines that are of all photos of the benchmark, where ours is too."""
    return [line for line in lines if line.photos == photos]


def _predictions(path: Path) -> pl.DataFrame:
    """``photo, predicted_lat, predicted_lon``: of rows that are predictions, the first of each photo."""
    table = read_table(path)
    column = {role_of(name): name for name in reversed(table.columns)}
    photo = next((name for wanted in PHOTO for name in table.columns if name.lower() == wanted), None)
    if photo is None or not {"predicted_lat", "predicted_lon"} <= column.keys():
        raise BadTableError(
            f"{path} is no table of predictions: it needs a column that names the photo ({', '.join(PHOTO)}) and a "
            f"predicted latitude and longitude; its columns are {', '.join(table.columns)}"
        )
    degrees = {name: numbers(table[column[name]]) for name in ("predicted_lat", "predicted_lon")}
    theirs = pl.DataFrame({"photo": _stems(table[photo])} | degrees)
    on_the_globe = pl.col("predicted_lat").is_between(-90, 90) & pl.col("predicted_lon").is_between(-180, 180)
    return theirs.filter(on_the_globe).unique("photo", keep="first")


def _line(path: Path, theirs: pl.DataFrame, ours: pl.DataFrame) -> Line:
    both = ours.join(theirs, on="photo")
    if len(both) < len(ours):
        raise BadTableError(
            f"{path} has no prediction of {len(ours) - len(both):,} of these {len(ours):,} photos: not compared"
        )
    error_km = great_circle_km(*both.select("lat", "lon", "predicted_lat", "predicted_lon").to_numpy().T)
    found = position_metrics(error_km, WORLD_MAP_DIAGONAL_KM)
    within = tuple(found[f"within_{km}_km"] for km in WITHIN_KM)
    return Line(path.stem, within, "its published predictions", len(both), found["median_km"])


def _stems(names: pl.Series) -> pl.Series:
    return pl.Series("photo", [PurePosixPath(name or "").stem for name in names.cast(pl.String)], pl.String)
