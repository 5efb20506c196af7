"""Whether a belief is true: what it says of the truth, how often its regions hold it, and what refusing would gain."""

from typing import Any

import numpy as np
import polars as pl

from graticule.belief.confidence import COVERAGES
from graticule.geo.sphere import Floats

BINS = 10
COVERED = [f"coverage_{round(100 * level)}" for level in COVERAGES]  # columns: whether the region holds the truth


def belief_metrics(read: pl.DataFrame) -> dict[str, Any]:
    """Metrics of the rows of :func:`graticule.evaluation.predictions.predict_rows` that have a belief, for JSON.

    ``bits`` is the mean of log2 of the density at the truth over the density that the map of training photos alone
    gives it: a proper score (Good, "Rational decisions", JRSS B 14, 1952) that no division of the map can move. Below
    zero the model knows less than that map. Null where no row has a belief.
    """
    values = belief_values(read)
    if not values:
        names = ["log_density", "prior_log_density", "bits", *COVERED]
        return dict.fromkeys([*names, "median_area_90_km2", "median_expected_error_km"])
    expected, error_km = (read[name].to_numpy() for name in ("median_error_km", "error_km"))
    return {
        "log_density": read["log_density"].mean(),
        "prior_log_density": read["prior_log_density"].mean(),
        **{name: float(value.mean()) for name, value in values.items()},
        "median_area_90_km2": read["area_90_km2"].median(),
        "median_expected_error_km": float(np.median(expected)),
        "expected_against_actual": _by_tenths(expected, error_km),
        **selective(expected, error_km),
    }


def belief_values(read: pl.DataFrame) -> dict[str, Floats]:
    """``bits`` of each photo and whether each of its regions holds the truth; nothing without a belief."""
    if read["log_density"].null_count():
        return {}
    bits = (read["log_density"] - read["prior_log_density"]).to_numpy() / np.log(2)
    return {"bits": bits} | {name: read[name].to_numpy().astype(np.float64) for name in COVERED}


def selective(expected_km: Floats, error_km: Floats) -> dict[str, Any]:
    """What an answer is worth where only the surest photos get one.

    ``risk_coverage`` is the median error of the surest tenth, two tenths, ... of the photos, and
    ``area_under_risk_coverage_km`` their mean (after Geifman and El-Yaniv, "Selective classification", NeurIPS 2017).
    """
    ranked = error_km[np.argsort(expected_km, kind="stable")]
    counts = np.ceil(len(ranked) * np.arange(1, BINS + 1) / BINS).astype(int)
    risks = [float(np.median(ranked[:count])) for count in counts]
    return {"risk_coverage": risks, "area_under_risk_coverage_km": float(np.mean(risks))}


def _by_tenths(expected_km: Floats, error_km: Floats) -> list[dict[str, float]]:
    """Median of what was expected and of what came, for tenths of the photos by what was expected."""
    parts = np.array_split(np.argsort(expected_km, kind="stable"), min(BINS, len(error_km)))
    return [
        {"expected_km": float(np.median(expected_km[part])), "actual_km": float(np.median(error_km[part]))}
        for part in parts
    ]
