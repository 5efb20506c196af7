"""Which of several recipes answered the same folds best, and whether training was worth it at all."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl

from graticule.evaluation.evaluate import PREDICTIONS
from graticule.evaluation.metrics import median_difference
from graticule.evaluation.predictions import BASELINES
from graticule.evaluation.verdicts import NEIGHBOURS, against_neighbours
from graticule.geo.sphere import format_km


def compare(folders: Mapping[str, Path]) -> tuple[str, list[str]]:
    """The candidate with the smallest median error, and what the difference to the others is worth.

    Args:
        folders: what :func:`graticule.evaluation.folds.write_folds` wrote of each candidate, all of the same photos and
            folds, by name.

    Returns:
        The name of the best, and sentences: one for each other candidate, and one for each neighbour without training
        that was measured beside the best.
    """
    rows = {name: _read(folder) for name, folder in folders.items()}
    medians = {name: _median(table, "error_km") for name, table in rows.items()}
    best = min(medians, key=lambda name: medians[name])
    own = rows[best]
    said = []
    for name, table in rows.items():
        if name == best:
            continue
        _, high = _difference(own, "error_km", table, "error_km")
        told = f"nearer ({format_km(medians[best])}) than {name} ({format_km(medians[name])})"
        said.append(f"{best} is {told}" if high < 0 else f"{best} may be no {told}: too few photos to tell them apart")
    for column, name in BASELINES.items():
        if column not in own.columns or name not in NEIGHBOURS:
            continue
        low, high = _difference(own, "error_km", own, column)
        said.append(against_neighbours(best, medians[best], NEIGHBOURS[name], _median(own, column), low, high))
    return best, said


def _read(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(folder / PREDICTIONS).filter(pl.col("error").is_null())


def _median(rows: pl.DataFrame, column: str) -> float:
    return float(np.median(rows[column].drop_nulls().to_numpy()))


def _difference(rows: pl.DataFrame, column: str, others: pl.DataFrame, other: str) -> tuple[float, float]:
    both = rows.select("path", "place_code", own=column).join(
        others.select("path", other=other), on="path", how="inner", maintain_order="left"
    )
    both = both.drop_nulls()
    return median_difference(both["own"].to_numpy(), both["other"].to_numpy(), both["place_code"].to_numpy())
