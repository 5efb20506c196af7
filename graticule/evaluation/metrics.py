"""Numbers about predictions: arrays in, numbers out. NumPy only."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

WITHIN_M = (25, 50, 100, 200, 500)
# 25 m is the tolerance of place recognition: Torii et al., CVPR 2013; Arandjelovic et al., NetVLAD, CVPR 2016
WITHIN_KM = (1, 25, 200, 750, 2500)
# street, city, region, country, continent: Vo et al., Revisiting IM2GPS in the Deep Learning Era, ICCV 2017
WITHIN = {f"within_{m}_m": m / 1000 for m in WITHIN_M} | {f"within_{km}_km": float(km) for km in WITHIN_KM}

TOP = (1, 3, 5)
QUANTILES = {"median_km": 0.5, "p90_km": 0.9}


def map_score(error_km: ArrayLike, map_diagonal_km: float) -> Floats:
    """Points of each guess from 0 to 5000, on the scale of the map: ``5000 exp(-10 d / D)``.

    The formula of the game GeoGuessr, as in Haas et al., PIGEON (CVPR 2024), section 4, and
    Astruc et al., OpenStreetView-5M (CVPR 2024). The world's ``D`` calls every guess in town perfect.

    Raises:
        ValueError: ``map_diagonal_km`` is not a positive number.
    """
    if not 0 < map_diagonal_km < np.inf:
        raise ValueError(f"map_diagonal_km={map_diagonal_km}: the diagonal of the map is a positive distance")
    score: Floats = 5000 * np.exp(-10 * _checked_errors(error_km) / map_diagonal_km)
    return score


def position_metrics(error_km: ArrayLike, map_diagonal_km: float) -> dict[str, float]:
    """Summary of N position errors.

    Args:
        error_km: distance from each guess to where the photo was taken, shape ``(N,)``.
        map_diagonal_km: scale of ``score``; ``WORLD_MAP_DIAGONAL_KM`` for the world.

    Returns:
        ``mean_km``, ``median_km``, ``p90_km``; ``within_25_m`` ... ``within_2500_km``: share of guesses no
        farther than that, in [0, 1]; ``score``: mean of :func:`map_score`.

    Raises:
        ValueError: no errors, or one that is negative or not finite.
    """
    errors = _checked_errors(error_km)
    return _summary(errors) | {"score": float(map_score(errors, map_diagonal_km).mean())}


def by_group(error_km: ArrayLike, labels: ArrayLike) -> list[dict[str, Any]]:
    """One row a label (a country, a city), most photos first.

    Returns:
        Rows of ``label``, ``photos`` and all of :func:`position_metrics` but the score. A label that is
        missing (None) counts as ``unknown``.
    """
    errors = _checked_errors(error_km)
    named = np.array(["unknown" if label is None else str(label) for label in np.asarray(labels, object)])
    names, codes = np.unique(named, return_inverse=True)
    runs = np.split(errors[np.argsort(codes, kind="stable")], np.cumsum(np.bincount(codes))[:-1])
    rows = [{"label": str(name), "photos": len(run), **_summary(run)} for name, run in zip(names, runs, strict=True)]
    return sorted(rows, key=lambda row: (-row["photos"], row["label"]))


def top_hits(log_probabilities: NDArray[np.floating[Any]], true_row: ArrayLike) -> dict[str, Bools]:
    """For k of 1, 3, 5: whether the true cell of each photo is among its k likeliest.

    Args:
        log_probabilities: shape ``(N, C)``, natural logarithm.
        true_row: the row of the true cell, shape ``(N,)``; -1 outside every cell, which is never a hit.

    Returns:
        ``{"top1": (N,), "top3": (N,), "top5": (N,)}``, bool. Equal probabilities rank by row, as argmax does.
    """
    rows = _checked_rows(log_probabilities, true_row)
    rank = np.full(len(rows), max(TOP))  # the rank of a photo outside every cell is too low for any k
    step = max(1, 8_000_000 // log_probabilities.shape[1])  # tens of MB at a time, however many photos
    for start in range(0, len(rows), step):
        inside = start + np.flatnonzero(rows[start : start + step] >= 0)
        scores, true = log_probabilities[inside], rows[inside, None]
        own = np.take_along_axis(scores, true, axis=1)
        tied_before = (scores == own) & (np.arange(scores.shape[1]) < true)
        rank[inside] = (scores > own).sum(axis=1) + tied_before.sum(axis=1)
    return {f"top{k}": rank < k for k in TOP}


def cross_entropies(log_probabilities: NDArray[np.floating[Any]], true_row: ArrayLike) -> Floats:
    """What each photo adds to the cross-entropy, in nats, shape ``(N,)``; NaN outside every cell.

    A photo outside every cell would make any mean infinite: leave its NaN out of the mean and count it instead.

    Args:
        log_probabilities, true_row: as :func:`top_hits`.

    Raises:
        ValueError: shapes do not fit, a row is no row, or there are values that are not log-probabilities.
    """
    rows = _checked_rows(log_probabilities, true_row)
    inside = np.flatnonzero(rows >= 0)
    out = np.full(len(rows), np.nan)
    out[inside] = -log_probabilities[inside, rows[inside]]
    return out


def calibration_error(confidence: ArrayLike, right: ArrayLike, bins: int = 15) -> float:
    """Expected calibration error: how far confidence lies from the share that is right, in [0, 1].

    The mean over equally wide bins of confidence, weighted by their photos (Naeini, Cooper, Hauskrecht, "Obtaining well
    calibrated probabilities using Bayesian binning", AAAI 2015; Guo et al., arXiv 1706.04599, equation 3).

    Args:
        confidence: probability of the likeliest cell of each photo, shape ``(N,)``.
        right: whether the photo lies in it, shape ``(N,)``.
    """
    sure, hit = np.asarray(confidence, np.float64), np.asarray(right, np.float64)
    bin_of = np.minimum((sure * bins).astype(int), bins - 1)
    off = np.bincount(bin_of, sure - hit, bins)
    return float(np.abs(off).sum() / len(sure))


def bootstrap_intervals(
    error_km: ArrayLike,
    map_diagonal_km: float,
    groups: ArrayLike,
    *,
    shares: Mapping[str, ArrayLike] | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap intervals of every position metric, resampled by group.

    Photos of one place are right or wrong together; drawing whole places with replacement keeps an interval
    from looking narrower than the evidence (Davison & Hinkley, Bootstrap Methods, 1997, section 3.8).

    Args:
        error_km: shape ``(N,)``.
        map_diagonal_km: scale of ``score``.
        groups: the place of each photo, shape ``(N,)``, of any type that sorts.
        shares: further values of each photo whose mean is wanted under that name, such as :func:`top_hits`.
        resamples: how many times the places are drawn.
        level: share of the resampled values inside the interval.

    Returns:
        ``{name: (low, high)}`` for each key of :func:`position_metrics` and of ``shares``; empty where there
        are fewer than two groups, since one place says nothing about the next.
    """
    errors = _checked_errors(error_km)
    _, codes = np.unique(np.asarray(groups), return_inverse=True)
    if codes.shape != errors.shape:
        raise ValueError(f"one group a photo: got {codes.size} groups for {errors.size} photos")
    count = int(codes.max()) + 1
    if count < 2:
        return {}

    averaged: dict[str, NDArray[Any]] = {"mean_km": errors, "score": map_score(errors, map_diagonal_km)}
    averaged |= {name: errors <= km for name, km in WITHIN.items()}
    averaged |= {name: np.asarray(values, np.float64) for name, values in (shares or {}).items()}
    sums = np.stack([np.bincount(codes, values, count) for values in averaged.values()])
    sizes = np.bincount(codes, minlength=count)
    order = np.argsort(errors)
    ranked, ranked_codes = errors[order], codes[order]

    rng = np.random.default_rng(seed)
    means = np.empty((resamples, len(averaged)))
    quantiles = np.empty((resamples, len(QUANTILES)))
    for i in range(resamples):
        times = np.bincount(rng.integers(count, size=count), minlength=count).astype(np.float64)
        means[i] = np.einsum("kg,g->k", sums, times) / np.einsum("g,g->", sizes, times)  # no BLAS: faster here
        quantiles[i] = _quantiles(ranked, times[ranked_codes], list(QUANTILES.values()))

    ends = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(np.hstack([means, quantiles]), ends, axis=0)
    names = [*averaged, *QUANTILES]
    return {name: (float(low[i]), float(high[i])) for i, name in enumerate(names)}


def median_difference(
    error_km: ArrayLike, other_km: ArrayLike, groups: ArrayLike, *, resamples: int = 1000, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of the median error less another's on the same photos, resampled by group.

    Both answered the same photos, so the draws are paired: what is hard for both cancels out. An interval that holds
    zero has not told the two apart.

    Args:
        error_km, other_km: shape ``(N,)``, of the same photos in the same order.
        groups, resamples, level: as for :func:`bootstrap_intervals`.

    Returns:
        Low and high end in km; below zero the first is nearer. NaN where there are fewer than two groups.
    """
    sides = [_checked_errors(error_km), _checked_errors(other_km)]
    _, codes = np.unique(np.asarray(groups), return_inverse=True)
    if len({side.shape for side in sides} | {codes.shape}) > 1:
        raise ValueError(f"one error of each and one group a photo: got {[len(side) for side in (*sides, codes)]}")
    count = int(codes.max()) + 1
    if count < 2:
        return np.nan, np.nan
    orders = [np.argsort(side) for side in sides]
    rng = np.random.default_rng(0)
    differences = np.empty(resamples)
    for i in range(resamples):
        times = np.bincount(rng.integers(count, size=count), minlength=count).astype(np.float64)[codes]
        own, other = (
            _quantiles(side[order], times[order], [0.5])[0] for side, order in zip(sides, orders, strict=True)
        )
        differences[i] = own - other
    low, high = np.quantile(differences, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _quantiles(ranked: Floats, times: Floats, shares: list[float]) -> list[float]:
    """NumPy's (linear) quantiles of sorted values, of which each stands there ``times`` times."""
    ends = np.cumsum(times)
    out = []
    for share in shares:
        position = share * (ends[-1] - 1)
        below = int(position)
        first, second = ranked[np.searchsorted(ends, [below, min(below + 1, ends[-1] - 1)], side="right")]
        out.append(first + (position - below) * (second - first))
    return out


def _summary(errors: Floats) -> dict[str, float]:
    return {
        "mean_km": float(errors.mean()),
        **{name: float(np.quantile(errors, share)) for name, share in QUANTILES.items()},
        **{name: float((errors <= km).mean()) for name, km in WITHIN.items()},
    }


def _checked_errors(error_km: ArrayLike) -> Floats:
    errors = np.asarray(error_km, np.float64)
    if errors.size == 0:
        raise ValueError("no guesses to score")
    if errors.ndim != 1 or not ((errors >= 0) & np.isfinite(errors)).all():
        raise ValueError("error_km must be a row of finite distances, none below zero")
    return errors


def _checked_rows(log_probabilities: NDArray[np.floating[Any]], true_row: ArrayLike) -> Ints:
    rows = np.asarray(true_row)
    shape = log_probabilities.shape
    if len(shape) != 2 or rows.shape != shape[:1] or not rows.size:
        raise ValueError(f"expected (N, C) log-probabilities and (N,) rows, got {shape} and {rows.shape}")
    if rows.min() < -1 or rows.max() >= shape[1]:
        raise ValueError(f"rows of cells lie in [-1, {shape[1]}), got {rows.min()} to {rows.max()}")
    top = log_probabilities.max()  # NaN if any value is
    if not top <= 1e-3:
        raise ValueError(f"the largest log-probability is {top}, above 0: pass log-probabilities, not logits")
    return rows.astype(np.int64)
