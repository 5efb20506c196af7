"""A world and its cities as one belief, held against draws and sums written out."""

import numpy as np
import pytest
from scipy.special import logsumexp

from graticule.belief.density import SCALES, SPHERE_KM2, Belief, Kernels, Shape, softmax
from graticule.belief.ground import Ground, Joined
from graticule.belief.mixture import Extent, Gate, Mixture, fit_gates, shares_of
from graticule.geo import s2

RNG = np.random.default_rng(0)


def belief_of(lat, lon, km, photos=1, anywhere=0.1):
    """A belief around eight positions, half of it around known photos."""
    one = np.eye(SCALES)[4]
    shares = [tuple(share * one) for share in (0.4, 0.3, 0.3 - anywhere)]
    shape = Shape(1.0, 1.0, *shares, anywhere, tuple(np.append(one * 0.9, 0.1)))
    spots = lat + RNG.normal(0, km / 111, 8), lon + RNG.normal(0, km / 111, 8)
    centers = Kernels.of(*spots, np.full(8, km / 4))
    return Belief(shape, centers, centers, *(softmax(RNG.normal(0, 2, (photos, 8))) for _ in range(2)))


def test_the_probability_of_an_area_is_the_share_of_draws_in_it():
    belief = belief_of(37.77, -122.42, 20)
    cells = np.unique(s2.parents(s2.leaf_cells(np.array([37.77, 37.4]), np.array([-122.42, -122.1])), 8))
    fine = cells
    for _ in range(3):
        fine = s2.children(fine).ravel()  # told by their middles: many small ones are exact
    lat, lon = (values[0] for values in belief.samples(30_000))
    drawn = np.isin(s2.parents(s2.leaf_cells(lat, lon), 8), cells).mean()
    assert Extent.of(belief, np.sort(fine)).probability(belief)[0] == pytest.approx(drawn, abs=0.01)


def test_a_mixture_is_the_sum_of_its_parts():
    parts = belief_of(37.77, -122.42, 5, 3), belief_of(0.0, 0.0, 3000, 3)
    share = RNG.dirichlet([1, 1], 3)
    mixture = Mixture(parts, share, np.array([0.5, 0.5]))
    lat, lon = np.array([37.77, 10.0, -80.0]), np.array([-122.4, 20.0, 0.0])
    expected = logsumexp([part.log_density(lat, lon) for part in parts], b=share.T, axis=0)
    np.testing.assert_allclose(mixture.log_density(lat, lon), expected)
    weights = [part.components()[1].sum(axis=1) for part in parts]
    np.testing.assert_allclose(mixture.components()[1].sum(axis=1), (share * np.stack(weights, 1)).sum(axis=1))
    assert len(mixture.take(np.array([2]))) == 1


def test_a_joined_cover_is_the_sphere_once_and_its_masses_are_those_of_the_parts(monkeypatch):
    monkeypatch.setattr("graticule.belief.ground.DRAWS", 2**12)
    city, world = belief_of(37.77, -122.42, 5), belief_of(0.0, 0.0, 3000)
    grounds = Ground.of(world), Ground.of(city)
    joined = Joined.of(grounds)
    assert joined.area_km2.sum() == pytest.approx(SPHERE_KM2)
    assert (s2.range_max(joined.cells)[:-1] < s2.range_min(joined.cells)[1:]).all()
    masses = joined.masses(Mixture((world, city), np.array([[0.3, 0.7]]), np.array([0.5, 0.5])))[0]
    for part, own in zip(grounds, (0, 1), strict=True):
        only = joined.masses(Mixture((world, city), np.eye(2)[[own]], np.array([0.5, 0.5])))[0]
        row = np.searchsorted(s2.range_max(part.cells), joined.cells)
        found = np.bincount(row, only, len(part.cells))
        np.testing.assert_allclose(found, part.masses((world, city)[own])[0], atol=1e-12)
        masses = masses - (0.3, 0.7)[own] * only
    np.testing.assert_allclose(masses, 0, atol=1e-12)


def test_gates_open_for_photos_of_the_city_and_take_its_likeness_into_account():
    count = 400
    at_home = RNG.random(count) < 0.4
    probability = np.where(at_home, 1e-3, 1e-5) * np.exp(RNG.normal(0, 1, count))
    unlike = np.where(at_home, RNG.random(count), 1 - 0.1 * RNG.random(count))
    truth = np.stack([np.full(count, -15.0), np.where(at_home, -1.0, -30.0)], axis=1)
    [gate] = fit_gates(probability[:, None], [unlike], truth)
    share = shares_of(gate.log_odds(probability, unlike)[:, None])[:, 1]
    assert share[at_home].mean() > 0.9
    assert share[~at_home].mean() < 0.1
    assert gate.by_likeness > 0
    assert gate.log_odds(np.array([1e-3]), np.array([0.99]))[0] < gate.log_odds(np.array([1e-3]), np.array([0.1]))[0]


def test_a_city_that_knows_less_than_the_world_stays_shut():
    count = 100
    truth = np.stack([np.full(count, -10.0), np.full(count, -16.0)], axis=1)
    [gate] = fit_gates(np.full((count, 1), 0.01), [None], truth)
    assert shares_of(gate.log_odds(np.full(count, 0.01), None)[:, None])[:, 1].max() < 0.05
    assert isinstance(gate, Gate)
