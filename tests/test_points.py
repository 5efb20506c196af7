"""The one point that a belief is answered with, against grids that know nothing of how it is found."""

import time

import numpy as np
import pytest
from test_belief import belief

from graticule.belief.density import Belief, softmax
from graticule.belief.points import best_point
from graticule.evaluation.metrics import map_score
from graticule.geo.sphere import EARTH_RADIUS_KM, from_vectors, great_circle_km, unit_vectors
from graticule.inference.decode import belief_points

PLACES = {"north pole": (90, 0), "south pole": (-90, 0), "antimeridian": (20, 180), "town": (48.8, 9.2)}


def around(place, spread, count, seed=0):
    """Unit vectors scattered around a place."""
    xyz = unit_vectors(*PLACES[place]) + np.random.default_rng(seed).normal(0, spread, (count, 3))
    return xyz / np.linalg.norm(xyz, axis=1, keepdims=True)


def grid_around(x, reach, side=25):
    """Unit vectors on a grid in the plane that touches the sphere at ``x``, wide ``2 reach``."""
    across = np.cross(x, [0.6, 0.64, 0.48])
    across /= np.linalg.norm(across)
    east, north = np.meshgrid(*[np.linspace(-reach, reach, side)] * 2)
    grid = x + east[..., None] * across + north[..., None] * np.cross(x, across)
    return (grid / np.linalg.norm(grid, axis=-1, keepdims=True)).reshape(-1, 3)


def losses(points, weights, centers, spread, scale_rad):
    """Expected distance, or minus the expected score, of each point."""
    arc = np.arccos(np.clip(points @ centers.T, -1, 1))
    h = np.hypot(arc, spread)
    return (h if scale_rad is None else -np.exp(-h / scale_rad)) @ weights


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("scale_rad", [None, 0.01], ids=["distance", "score"])
@pytest.mark.parametrize("sharpness", [0.1, 3.0])
def test_no_point_of_a_fine_grid_is_better(place, scale_rad, sharpness):
    centers = around(place, 0.01, 300)
    weights = softmax(np.random.default_rng(1).normal(0, sharpness, (1, 300)))[0]
    spread = np.full(300, 3e-4)
    found = best_point(weights, centers, spread, scale_rad)
    own = losses(found[None], weights, centers, spread, scale_rad)[0]
    for reach in (0.03, 1e-3):  # every 10 km around all of it, and every 300 m around the answer
        around_it = unit_vectors(*PLACES[place]) if reach > 0.01 else found
        assert own <= losses(grid_around(around_it, reach), weights, centers, spread, scale_rad).min() + 1e-9


def test_a_score_goes_to_the_larger_of_two_towns_and_a_median_between_them():
    centers = unit_vectors([0.0, 0.0, 0.0], [0.0, 40.0, 40.001])
    weights, spread = np.array([0.45, 0.3, 0.25]), np.full(3, 1e-4)
    score, median = (from_vectors(best_point(weights, centers, spread, scale)) for scale in (0.02, None))
    assert score[1] == pytest.approx(40.0, abs=0.01)
    assert median[1] == pytest.approx(40.0, abs=0.01)
    assert from_vectors(best_point(np.array([0.5, 0.25, 0.25]), centers, spread, 0.02))[1] != pytest.approx(20, abs=15)


@pytest.mark.parametrize("turned", [False, True], ids=["a town", "across pole and antimeridian"])
def test_the_points_of_a_belief_are_the_best_of_grids_for_its_own_draws_and_density(turned):
    rng = np.random.default_rng(0)
    xyz = around("antimeridian" if turned else "town", 3e-4, 40)
    town = belief(*from_vectors(xyz), np.full(40, 0.5), softmax(rng.normal(0, 2, (1, 40))), anywhere=0.0, of_map=0.1)
    lat, lon = (side[0] for side in town.samples(3000, seed=1))
    scale_km = 4.0
    at = {
        answer: belief_points(town, 1.0, answer, scale_km / EARTH_RADIUS_KM)
        for answer in ("median", "score", "densest")
    }
    grid = from_vectors(grid_around(unit_vectors(*PLACES["antimeridian" if turned else "town"]), 1e-3, 25))
    away = great_circle_km(*(side[:, None] for side in grid), lat, lon)

    def from_answer(answer):
        return great_circle_km(at[answer].lat[0], at[answer].lon[0], lat, lon)

    assert from_answer("median").mean() <= away.mean(axis=1).min() * 1.01
    points = map_score(from_answer("score"), 10 * scale_km).mean()
    assert points >= map_score(away.ravel(), 10 * scale_km).reshape(away.shape).mean(axis=1).max() * 0.99
    fine = from_vectors(grid_around(unit_vectors(at["densest"].lat[0], at["densest"].lon[0]), 1e-6, 9))  # 1.5 m
    for points in (grid, fine):
        copies = [np.tile(weight, (len(points[0]), 1)) for weight in (town.cell_weight, town.known_weight)]
        density = Belief(town.shape, town.cells, town.known, *copies).log_density(*points)
        assert town.log_density(at["densest"].lat, at["densest"].lon)[0] >= density.max() - 1e-3


@pytest.mark.parametrize("kind", ["alike", "peaked"])
def test_ten_thousand_components_take_some_milliseconds(kind):
    centers = around("town", 0.01, 10_000)
    weights = np.full(10_000, 1e-4)
    if kind == "peaked":
        weights[::500] += 0.05
    weights /= weights.sum()
    seconds = []
    for _ in range(5):
        started = time.process_time()
        best_point(weights, centers, np.full(10_000, 3e-4))
        seconds.append(time.process_time() - started)
    assert min(seconds) < 0.008  # under 2 ms on an idle core
