"""Distributions of anyone, as samples or weighted points, against the densities that they were drawn from."""

import json

import numpy as np
import polars as pl
import pytest
from test_cli import graticule

from graticule.belief import kernels
from graticule.errors import BadTableError
from graticule.evaluation.samples import weigh_samples
from graticule.evaluation.score import score_table
from graticule.geo.sphere import unit_vectors

WIDTH_KM, POINTS, PHOTOS = 3.0, 30, 80


@pytest.fixture(scope="module")
def drawn():
    """Photos of a land 2,000 km wide, each believed to lie around a point; the truth is one more draw of the belief."""
    rng = np.random.default_rng(0)
    middle = unit_vectors(rng.uniform(-5, 5, PHOTOS), (180 + rng.uniform(-10, 10, PHOTOS)) % 360 - 180)
    lat, lon = kernels.draw(np.repeat(middle, POINTS + 1, axis=0), np.full(PHOTOS * (POINTS + 1), WIDTH_KM), rng)
    return lat.reshape(PHOTOS, -1), lon.reshape(PHOTOS, -1)


def weigh(lat, lon, order=None):
    order = np.arange(PHOTOS) if order is None else order
    photo = np.repeat(np.arange(PHOTOS), POINTS)
    points = (side[order, 1:].ravel() for side in (lat, lon))
    return weigh_samples(photo, *points, np.ones(len(photo)), lat[:, 0], lon[:, 0], np.arange(PHOTOS))


def test_samples_of_a_true_belief_give_nearly_its_own_log_density_and_coverage(drawn):
    found = weigh(*drawn)
    entropy = np.log(2 * np.pi * WIDTH_KM**2) + 2  # of the kernel, in nats: a Gamma distance has mean 2 widths
    assert -found.log_density.mean() == pytest.approx(entropy, abs=0.4)
    assert found.bits.mean() > 5
    covered = {name: value.mean() for name, value in found.covered().items()}
    assert covered["coverage_50"] == pytest.approx(0.5, abs=0.13)
    assert covered["coverage_90"] == pytest.approx(0.9, abs=0.08)


def test_samples_of_other_photos_know_no_more_than_the_map(drawn):
    found = weigh(*drawn, order=np.random.default_rng(1).permutation(PHOTOS))
    assert -2 < found.bits.mean() < 0.2


def test_a_point_that_weighs_more_is_as_many_that_lie_there(drawn):
    lat, lon = (side[:20] for side in drawn)
    weight = np.random.default_rng(2).integers(1, 4, (20, 5))
    photo, points = np.repeat(np.arange(20), 5), [side[:, 1:6].ravel() for side in (lat, lon)]
    truth = lat[:, 0], lon[:, 0], np.arange(20)
    times = weight.ravel()
    once = weigh_samples(photo, *points, times.astype(float), *truth)
    often = weigh_samples(*(np.repeat(side, times) for side in (photo, *points)), np.ones(times.sum()), *truth)
    assert once.log_density == pytest.approx(often.log_density)
    assert once.needed == pytest.approx(often.needed, abs=0.2)  # by draws
    assert once.lat == pytest.approx(often.lat, abs=1e-4)


def long_table(folder, drawn, photos=30):
    lat, lon = (side[:photos] for side in drawn)
    rows = {
        "photo": np.repeat([f"{i}.jpg" for i in range(photos)], POINTS),
        "lat": np.repeat(lat[:, 0], POINTS), "lon": np.repeat(lon[:, 0], POINTS),
        "predicted_lat": lat[:, 1:].ravel(), "predicted_lon": lon[:, 1:].ravel(),
        "weight": np.full(photos * POINTS, 0.5),
    }  # fmt: skip
    path = folder / "samples.parquet"
    pl.DataFrame(rows).sample(fraction=1, shuffle=True, seed=0).write_parquet(path)
    return path


def test_a_long_table_is_scored_by_photo(tmp_path, drawn):
    path = long_table(tmp_path, drawn)
    done = graticule("score", path, "--photo", "photo", "--weight", "weight", "--json")
    found = json.loads(done.stdout)
    assert found["photos"] == 30
    assert found["bits"] == pytest.approx((found["log_density"] - found["prior_log_density"]) / np.log(2))
    assert found["intervals"]["bits"][0] < found["bits"] < found["intervals"]["bits"][1]
    assert found["median_km"] < 2 * WIDTH_KM
    assert "in the 90 % region" in graticule("score", path, "--photo", "photo").stdout


def test_a_photo_of_two_places_and_a_missing_column_are_one_sentence(tmp_path, drawn):
    path = long_table(tmp_path, drawn)
    frame = pl.read_parquet(path)
    frame.with_columns(pl.Series("lat", frame["lat"].to_numpy() + np.arange(len(frame)) * 1e-4)).write_parquet(path)
    with pytest.raises(BadTableError, match="has another true position than row"):
        score_table(path, photo="photo")
    with pytest.raises(BadTableError, match="no column 'share' of weights"):
        score_table(path, photo="photo", weight="share")
    assert "name the column that says which, with --photo" in graticule("score", path, "--weight", "weight").stderr
