import time

import numpy as np
import pytest
import torch
from scipy import stats
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_calibration_error

from graticule.evaluation.metrics import (
    bootstrap_intervals,
    by_group,
    calibration_error,
    cross_entropies,
    map_score,
    median_difference,
    position_metrics,
    top_hits,
)
from graticule.geo.sphere import WORLD_MAP_DIAGONAL_KM


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def test_the_score_of_a_city_map_is_that_of_the_field_notes():
    diagonal_km = 2 * 2**0.5  # a map of 2 x 2 km
    assert map_score([0, 0.057, 0.2], diagonal_km) == pytest.approx([5000, 4088, 2466], abs=1)


def test_the_score_of_the_world_falls_by_e_in_1492_7_km():
    assert map_score([1492.7], WORLD_MAP_DIAGONAL_KM) == pytest.approx([5000 / np.e])


def test_the_calibration_error_is_that_of_torchmetrics():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(6, 0.3), 400)
    true = rng.integers(0, 6, 400)
    theirs = multiclass_calibration_error(torch.tensor(p), torch.tensor(true), num_classes=6, n_bins=15, norm="l1")
    assert calibration_error(p.max(axis=1), p.argmax(axis=1) == true) == pytest.approx(float(theirs), abs=1e-6)


def test_a_guess_on_the_edge_counts_as_within():
    found = position_metrics([0.025, 0.0251, 25, 3000], WORLD_MAP_DIAGONAL_KM)
    assert (found["within_25_m"], found["within_50_m"]) == (0.25, 0.5)
    assert (found["within_25_km"], found["within_2500_km"]) == (0.75, 0.75)


def test_mean_and_quantiles_are_those_of_numpy():
    errors = np.random.default_rng(1).exponential(100, 501)
    found = position_metrics(errors, WORLD_MAP_DIAGONAL_KM)
    expected = [errors.mean(), *np.percentile(errors, [50, 90])]
    assert [found["mean_km"], found["median_km"], found["p90_km"]] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("errors", "diagonal_km", "sentence"),
    [
        ([], 1, "no guesses"),
        ([1, np.nan], 1, "finite distances"),
        ([-1], 1, "finite distances"),
        ([1], 0, "positive distance"),
    ],
)
def test_numbers_that_are_no_errors_are_refused(errors, diagonal_km, sentence):
    with pytest.raises(ValueError, match=sentence):
        position_metrics(errors, diagonal_km)


def test_rows_of_countries_come_by_number_of_photos():
    rows = by_group([1, 3, 2000, 10, 7], ["FR", "FR", "CL", None, "FR"])
    assert [(row["label"], row["photos"]) for row in rows] == [("FR", 3), ("CL", 1), ("unknown", 1)]
    assert (rows[0]["median_km"], rows[1]["within_25_km"], rows[1]["within_2500_km"]) == (3, 0, 1)


def test_accuracy_and_cross_entropy_are_those_of_torch():
    rng = np.random.default_rng(2)
    logs, true = log_softmax(rng.normal(size=(1000, 30)).astype(np.float32)), rng.integers(0, 30, 1000)
    found = top_hits(logs, true)
    for k in (1, 3, 5):
        theirs = multiclass_accuracy(torch.tensor(logs), torch.tensor(true), 30, average="micro", top_k=k)
        assert found[f"top{k}"].mean() == pytest.approx(float(theirs))
    theirs = torch.nn.functional.cross_entropy(torch.tensor(logs), torch.tensor(true))
    assert cross_entropies(logs, true).mean() == pytest.approx(float(theirs), rel=1e-5)


def test_a_photo_outside_every_cell_counts_as_wrong_but_not_in_the_cross_entropy():
    logs = np.log([[0.5, 0.25, 0.25], [0.2, 0.2, 0.6]])
    assert [hit.mean() for hit in top_hits(logs, [0, -1]).values()] == [0.5, 0.5, 0.5]
    np.testing.assert_allclose(cross_entropies(logs, [0, -1]), [np.log(2), np.nan])


def test_a_model_that_calls_all_cells_alike_is_not_called_right():
    logs = np.full((10, 10), np.log(0.1))
    assert {name: hit.mean() for name, hit in top_hits(logs, np.arange(10)).items()} == {
        "top1": 0.1, "top3": 0.3, "top5": 0.5,
    }  # fmt: skip


def test_logits_are_not_taken_for_log_probabilities():
    with pytest.raises(ValueError, match="not logits"):
        cross_entropies(np.array([[3.0, -2.0]]), [0])
    with pytest.raises(ValueError, match=r"rows of cells lie in \[-1, 2\)"):
        top_hits(np.log([[0.5, 0.5]]), [2])


def test_intervals_of_single_photos_are_those_of_scipy():
    errors = np.random.default_rng(3).exponential(100, 400)
    ours = bootstrap_intervals(errors, WORLD_MAP_DIAGONAL_KM, np.arange(400), resamples=4000)
    for name, statistic in {
        "mean_km": np.mean,
        "median_km": np.median,
        "p90_km": lambda x, axis: np.percentile(x, 90, axis=axis),
    }.items():
        theirs = stats.bootstrap((errors,), statistic, n_resamples=4000, method="percentile", rng=4)
        low, high = theirs.confidence_interval
        assert ours[name] == pytest.approx((low, high), abs=0.1 * (high - low))


def test_two_places_have_the_intervals_that_one_can_write_down():
    # Drawn twice out of {0 km, 10 km}: both near, one of each, both far, with 1/4, 1/2 and 1/4.
    found = bootstrap_intervals([0, 0, 10, 10], 100, ["a", "a", "b", "b"], shares={"top1": [1, 1, 0, 0]})
    assert found["mean_km"] == found["median_km"] == (0, 10)
    assert found["top1"] == found["within_1_km"] == (0, 1)
    inner = bootstrap_intervals([0, 0, 10, 10], 100, ["a", "a", "b", "b"], level=0.4)
    assert inner["mean_km"] == inner["median_km"] == (5, 5)


def test_photos_of_one_place_are_not_counted_as_evidence_of_their_own():
    rng = np.random.default_rng(5)
    place = np.repeat(np.arange(50), 20)
    errors = rng.exponential(100, 50)[place] + rng.exponential(1, 1000)
    grouped = bootstrap_intervals(errors, WORLD_MAP_DIAGONAL_KM, place)
    single = bootstrap_intervals(errors, WORLD_MAP_DIAGONAL_KM, np.arange(1000))
    for name in ("mean_km", "median_km", "p90_km", "score"):
        assert np.diff(grouped[name]) > 2 * np.diff(single[name])


def test_one_place_alone_has_no_interval():
    assert bootstrap_intervals([1, 2, 3], 100, ["a", "a", "a"]) == {}


def test_intervals_follow_from_the_seed_and_take_seconds():
    errors = np.random.default_rng(6).exponential(100, 10_000)
    places = np.random.default_rng(7).integers(0, 3000, 10_000)
    start = time.perf_counter()
    found = bootstrap_intervals(errors, WORLD_MAP_DIAGONAL_KM, places, seed=1)
    assert time.perf_counter() - start < 4  # 0.2 s on an idle core
    assert found == bootstrap_intervals(errors, WORLD_MAP_DIAGONAL_KM, places, seed=1)
    assert found != bootstrap_intervals(errors, WORLD_MAP_DIAGONAL_KM, places, seed=2)


def test_a_paired_difference_of_medians_is_scipys_bootstrap_where_every_photo_is_a_place():
    from scipy.stats import bootstrap

    rng = np.random.default_rng(0)
    hard = rng.exponential(1, 150)
    own, other = hard * rng.uniform(0.8, 1.0, 150), hard
    low, high = median_difference(own, other, np.arange(150))
    theirs = bootstrap(
        (own, other), lambda a, b: np.median(a) - np.median(b), vectorized=False, paired=True, n_resamples=1000,
        method="percentile", random_state=1,
    ).confidence_interval  # fmt: skip
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.05)
    assert high < 0
    assert np.isnan(median_difference([1, 2], [1, 2], [0, 0])).all()
    with pytest.raises(ValueError, match="one error of each"):
        median_difference([1, 2], [1], [0, 1])
