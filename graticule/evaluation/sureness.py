"""Whether a belief is true: what it says of the truth, how often its regions hold it, and what refusing would gain."""

from typing import Any

import numpy as np
import polars as pl

from graticule.belief.confidence import COVERAGES
from graticule.evaluation.metrics import WITHIN
from graticule.geo.sphere import EARTH_RADIUS_KM, Floats

BINS = 10
COVERED = [f"coverage_{round(100 * level)}" for level in COVERAGES]  # columns: whether the region holds the truth
COVERED_90 = "coverage_90"
SEARCHED_KM2 = (0.01, 0.1, 1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6, 1e7)  # recall is told within so much ground


def belief_metrics(read: pl.DataFrame) -> dict[str, Any]:
    """Metrics of the rows of :func:`graticule.evaluation.predictions.predict_rows` that have a belief, for JSON.

    ``bits`` is the mean of log2 of the density at the truth over the density that the map of training photos alone
    gives it: a proper score (Good, "Rational decisions", JRSS B 14, 1952) that no division of the map can move. Below
    zero the model knows less than that map. Null where no row has a belief.
    """
    values = belief_values(read)
    if not values:
        names = ["log_density", "prior_log_density", "bits", *COVERED]
        names += ["median_area_90_km2", "median_circle_90_km2", "one_circle_90_km2"]
        names += ["median_searched_km2", "median_expected_error_km"]
        return dict.fromkeys(names)
    expected, error_km = (read[name].to_numpy() for name in ("median_error_km", "error_km"))
    searched, held = read["searched_km2"].to_numpy(), float(values[COVERED_90].mean())
    return {
        "log_density": read["log_density"].mean(),
        "prior_log_density": read["prior_log_density"].mean(),
        **{name: float(value.mean()) for name, value in values.items()},
        "median_area_90_km2": read["area_90_km2"].median(),
        "median_circle_90_km2": circle_km2(read["p90_error_km"].to_numpy(), error_km, held),
        "one_circle_90_km2": circle_km2(np.ones(len(error_km)), error_km, held),
        "median_searched_km2": float(np.median(searched)),
        "recall_against_area": [
            {"area_km2": area, "recall": float((searched <= area).mean())} for area in SEARCHED_KM2
        ],
        "median_expected_error_km": float(np.median(expected)),
        "expected_against_actual": _by_tenths(expected, error_km),
        **selective(expected, error_km),
        "area_under_accuracy_coverage": accuracy_coverage(expected, error_km),
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
    ``risk_coverage_at_best`` is the same of the nearest photos, which no sureness can beat (Geifman, Uziel, El-Yaniv,
    "Bias-reduced uncertainty estimation for deep neural classifiers", ICLR 2019).
    """
    counts = np.ceil(len(error_km) * np.arange(1, BINS + 1) / BINS).astype(int)
    ranked, best = error_km[np.argsort(expected_km, kind="stable")], np.sort(error_km)
    risks, least = ([float(np.median(some[:count])) for count in counts] for some in (ranked, best))
    return {
        "risk_coverage": risks,
        "risk_coverage_at_best": least,
        "area_under_risk_coverage_km": float(np.mean(risks)),
    }


def accuracy_coverage(expected_km: Floats, error_km: Floats) -> dict[str, float]:
    """Area under the curve of accuracy against coverage, for each radius of :data:`WITHIN` that tells photos apart.

    The accuracy of the surest k photos is the share of them within the radius; the area is its mean over all k, in
    [0, 1], where chance has the share of all.
    """
    ranked = error_km[np.argsort(expected_km, kind="stable")]
    counts = np.arange(1, len(ranked) + 1)
    right = {name: ranked <= km for name, km in WITHIN.items()}
    return {name: float((np.cumsum(hit) / counts).mean()) for name, hit in right.items() if 0 < hit.mean() < 1}


def circle_km2(radius_km: Floats, error_km: Floats, share: float) -> float:
    """Median area of circles around the points that hold a share of the truths, each as wide as the belief has it.

    What regions are worth: circles that hold as many truths and know as well which photos are hard, or not at all where
    all radii are one.

    Args:
        radius_km: that a belief gives each photo, shape ``(N,)``; all are then stretched alike.
        error_km: distance of each point from the truth, shape ``(N,)``.
    """
    stretch = np.quantile(error_km / np.maximum(radius_km, 1e-9), share)
    reach_rad = np.minimum(stretch * radius_km / EARTH_RADIUS_KM, np.pi)
    return float(np.median(2 * np.pi * EARTH_RADIUS_KM**2 * (1 - np.cos(reach_rad))))


def _by_tenths(expected_km: Floats, error_km: Floats) -> list[dict[str, float]]:
    """Median of what was expected and of what came, for tenths of the photos by what was expected."""
    parts = np.array_split(np.argsort(expected_km, kind="stable"), min(BINS, len(error_km)))
    return [
        {"expected_km": float(np.median(expected_km[part])), "actual_km": float(np.median(error_km[part]))}
        for part in parts
    ]
