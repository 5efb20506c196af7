"""From photos to a bundle that knows how sure it is, and the metrics that tell whether it is right."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import timm
import torch
from safetensors.torch import save_file
from towns import make_town, tiny_recipe

from graticule.belief.density import LOCAL
from graticule.evaluation.folds import crossval
from graticule.evaluation.sureness import accuracy_coverage, belief_metrics, circle_km2, selective
from graticule.inference.locate import Locator
from graticule.model.features import FeatureStore
from graticule.training import calibrate
from graticule.training.calibrate import fit_calibrated


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    return make_town(tmp_path_factory.mktemp("town"), count=120)


@pytest.fixture(scope="module")
def frozen(tmp_path_factory):
    """A recipe with a frozen encoder, whose weights are random but stay."""
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file(timm.create_model("test_efficientnet").state_dict(), path)
    return tiny_recipe(encoder={"weights": str(path), "frozen": True}, split={"by": "place"}, train={"epochs": 1})


def test_folds_of_a_frozen_encoder_tell_bits_and_coverage_near_what_they_say(town, frozen):
    found = crossval(frozen, town, folds=2, group="place", store=FeatureStore()).metrics
    assert found["bits"] == pytest.approx((found["log_density"] - found["prior_log_density"]) / np.log(2))
    assert found["bits"] > -0.1  # whatever the network knows, the belief is no worse than the map
    assert found["coverage_90"] == pytest.approx(0.9, abs=0.12)
    assert found["coverage_50"] < found["coverage_80"] < found["coverage_95"]
    low, high = found["intervals"]["bits"]
    assert low <= found["bits"] <= high
    assert found["median_area_90_km2"] > 0
    assert len(found["risk_coverage"]) == 10
    recall = [row["recall"] for row in found["recall_against_area"]]
    assert recall == sorted(recall)
    assert found["median_searched_km2"] < found["median_area_90_km2"]
    assert 0 < found["ece"] < 1


def test_a_recipe_that_remembers_no_photo_keeps_none(town, frozen):
    bundle = fit_calibrated(frozen.model_copy(update={"remember": False}), town, by="place")
    known = bundle.confidence.known
    assert known.features is None
    assert known.lat.tolist() == bundle.partition.lat.tolist()
    fix = Locator(bundle).locate(town.paths()[0])
    assert fix.calibrated
    assert fix.unlike_training is None


def test_a_network_that_trains_along_is_calibrated_on_its_validation_photos(town):
    recipe = tiny_recipe(train={"epochs": 1})
    part = np.arange(len(town)) % 2 == 0
    bundle = fit_calibrated(recipe, town.take(part), town.take(~part))
    assert bundle.confidence.calibration.how == "the validation part"
    assert bundle.confidence.calibration.photos == (~part).sum()
    assert bundle.confidence.known.features is None


@pytest.mark.parametrize(("val", "reason"), [(0, "there is no validation part"), (6, "places, fewer than 20")])
def test_a_bundle_says_why_it_is_not_calibrated(town, val, reason):
    recipe = tiny_recipe(train={"epochs": 1})
    bundle = fit_calibrated(recipe, town.take(np.arange(60)), town.take(np.arange(60, 60 + val)) if val else None)
    assert bundle.confidence is None
    assert reason in bundle.facts["calibration"]
    fix = Locator(bundle).locate(town.paths()[0])
    assert not fix.calibrated
    assert (fix.area_km2, fix.median_error_km, fix.region) == (None, None, ())


def test_a_calibrated_answer_is_alike_alone_and_among_others(town, frozen):
    locator = Locator(fit_calibrated(frozen, town, by="place"))
    paths = town.paths()[:6]
    alone, among = locator.locate(paths[4]), locator.locate(paths)[4]
    assert alone.region == among.region
    assert alone.median_error_km == pytest.approx(among.median_error_km, rel=1e-4)
    assert alone.median_error_km < alone.p90_error_km


def test_the_surest_photos_are_those_with_the_least_expected_error():
    error = np.array([10.0, 1.0, 30.0, 2.0])
    found = selective(np.array([3.0, 1.0, 4.0, 2.0]), error)
    assert found["risk_coverage"][-1] == np.median(error)
    assert found["risk_coverage"][4] == 1.5  # of the surest half: 1 and 2
    assert found["risk_coverage_at_best"] == found["risk_coverage"]  # it knew which photos are the nearest
    assert selective(-error, error)["risk_coverage_at_best"] == found["risk_coverage"]
    assert found["area_under_risk_coverage_km"] == pytest.approx(np.mean(found["risk_coverage"]))


def test_accuracy_against_coverage_is_one_where_all_that_is_right_is_surest():
    error = np.array([0.01, 0.02, 5.0, 0.03])
    found = accuracy_coverage(np.array([1.0, 2.0, 4.0, 3.0]), error)
    assert found["within_1_km"] == pytest.approx((1 + 1 + 1 + 3 / 4) / 4)
    assert "within_25_km" not in found  # all are: it tells no two models apart
    assert accuracy_coverage(np.array([4.0, 2.0, 1.0, 3.0]), error)["within_1_km"] < found["within_1_km"]


def test_regions_take_a_drive_that_was_held_out_whole_for_right_or_wrong_together(frozen, town, monkeypatch):
    asked = []
    monkeypatch.setattr(calibrate, "conformal_level", lambda scores, groups, share: asked.append(groups) or share)
    fit_calibrated(frozen, town, by="sequence", albums=False)
    _, photos_of_each = np.unique(asked[0], return_counts=True)
    assert photos_of_each.tolist() == [20] * 6


def test_kernels_are_as_wide_in_the_bundle_as_in_the_folds_that_fitted_them(frozen, town, monkeypatch):
    fitted = []
    fit_shape = calibrate.fit_shape
    monkeypatch.setattr(calibrate, "fit_shape", lambda parts, *more: fitted.append(parts) or fit_shape(parts, *more))
    locator = Locator(fit_calibrated(frozen, town, by="place", albums=False))
    everywhere = slice(len(LOCAL), None)  # scales that are one around every center
    for asked, own in zip(locator.centers, ("cells", "known"), strict=True):
        widths = [getattr(part, own).width_km[0, everywhere] for part in fitted[0]]
        assert all(np.array_equal(width, asked.width_km[0, everywhere]) for width in widths)
    confidence = locator.confidence
    calibration = confidence.calibration
    measured = replace(calibration, shape=replace(calibration.shape, usual_km=(0.5, 0.25)))
    kept = Locator(replace(locator.bundle, confidence=replace(confidence, calibration=measured)))
    assert tuple(where.usual_km for where in kept.centers) == (0.5, 0.25)  # whatever is known by now


def test_circles_as_sure_are_as_wide_as_they_must_be_to_hold_as_many():
    radius = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    error = radius / 2
    error[-1] = 100.0
    assert circle_km2(radius, error, 0.75) == pytest.approx(np.pi * 2.0**2, rel=1e-4)  # half as wide: radius 2 of 4
    assert circle_km2(np.ones(5), error, 0.75) == pytest.approx(np.pi * 4.0**2, rel=1e-4)  # one for all: the error's
    assert circle_km2(np.full(3, 1e5), np.full(3, 1e5), 0.9) == pytest.approx(4 * np.pi * 6371.0088**2)


def test_without_a_belief_its_metrics_are_null():
    found = belief_metrics(pl.DataFrame({"log_density": [None, None]}, schema={"log_density": pl.Float64}))
    assert set(found.values()) == {None}
    assert {"bits", "coverage_90", "median_area_90_km2", "median_expected_error_km"} <= found.keys()
