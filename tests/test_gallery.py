"""Photos asked by likeness, held against brute force and scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import KernelDensity

from graticule.geo.sphere import great_circle_km
from graticule.inference import gallery, neighbours
from graticule.inference.gallery import Gallery, Kernel

RNG = np.random.default_rng(0)


def town(count=200, noise=0.1):
    """A town whose features tell the position, but for some noise."""
    rng = np.random.default_rng(1)
    lat, lon = 38.9 + rng.uniform(-0.01, 0.01, count), -77.03 + rng.uniform(-0.01, 0.01, count)
    east_north = np.stack([lon + 77.03, lat - 38.9], axis=1) / 0.01
    features = np.sin(east_north @ rng.normal(0, 2, (2, 32)) + rng.uniform(0, 6, 32))
    return (features + rng.normal(0, noise, features.shape)).astype(np.float32), lat, lon


def test_the_nearest_is_the_one_with_the_largest_cosine_around_the_mean():
    features, lat, lon = town()
    known, asked = features[:150], features[150:]
    found = Gallery(known, lat[:150], lon[:150], np.arange(150)).nearest(asked)
    center = known.mean(axis=0)
    np.testing.assert_array_equal(found, cosine_similarity(asked - center, known - center).argmax(axis=1))


def test_asking_some_at_a_time_changes_nothing(monkeypatch):
    features, lat, lon = town()
    known = Gallery(features[:150], lat[:150], lon[:150], np.arange(150))
    whole = known.density_mode(features[150:], Kernel(10, 0.1, 0.2))
    monkeypatch.setattr(gallery, "AT_ONCE", 1)
    np.testing.assert_allclose(known.density_mode(features[150:], Kernel(10, 0.1, 0.2)), whole)


def test_the_mode_is_where_scikit_learns_density_is_highest():
    lat, lon = 10 + RNG.normal(0, 0.01, 60), 20 + RNG.normal(0, 0.01, 60)
    alike = np.ones((60, 4), np.float32) + RNG.normal(0, 1e-3, (60, 4)).astype(np.float32)
    width_km = 0.8
    softness = 1e9  # every neighbour weighs the same, as in a plain density
    found = Gallery(alike, lat, lon, np.arange(60)).density_mode(alike[:1], Kernel(60, softness, width_km))
    km = np.stack([(lat - 10) * 111.195, (lon - 20) * 111.195 * np.cos(np.radians(10))], axis=1)
    density = KernelDensity(bandwidth=width_km).fit(km)
    side = np.linspace(-2, 2, 161)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    north, east = grid[density.score_samples(grid).argmax()]
    truth = 10 + north / 111.195, 20 + east / 111.195 / np.cos(np.radians(10))
    assert great_circle_km(*truth, found[0][0], found[1][0]) < 0.05


def test_the_density_beats_the_nearest_where_features_are_noisy():
    features, lat, lon = town(count=600, noise=0.6)
    known = Gallery(features[:500], lat[:500], lon[:500], np.arange(500))
    nearest = known.nearest(features[500:])
    first_km = great_circle_km(lat[500:], lon[500:], lat[nearest], lon[nearest])
    mode_km = great_circle_km(lat[500:], lon[500:], *known.density_mode(features[500:], known.best_kernel()))
    assert np.median(mode_km) < 0.8 * np.median(first_km)


def test_the_kernel_is_chosen_without_a_photos_own_place():
    """Every place has two equal photos; were the twin allowed to answer, one neighbour would be perfect."""
    features, lat, lon = town(count=100, noise=0.0)
    rng = np.random.default_rng(3)
    lost = rng.normal(0, 1, features.shape).astype(np.float32)  # tells nothing of the position
    doubled = Gallery(np.repeat(lost, 2, axis=0), np.repeat(lat, 2), np.repeat(lon, 2), np.repeat(np.arange(100), 2))
    assert doubled.best_kernel().neighbours > min(gallery.TRIED_NEIGHBOURS)


def test_the_mode_lies_between_neighbours_on_both_sides_of_the_antimeridian():
    features = np.ones((4, 3), np.float32) + np.eye(4, 3, dtype=np.float32) * 1e-3
    known = Gallery(features, np.zeros(4), np.array([179.99, -179.99, 179.995, -179.995]), np.arange(4))
    _, lon = known.density_mode(features[:1], Kernel(4, 1e9, 5.0))
    assert abs(abs(lon[0]) - 180) < 1e-6


def test_rows_must_match():
    with pytest.raises(ValueError, match="one row a photo"):
        Gallery(np.ones((3, 2), np.float32), np.zeros(2), np.zeros(3), np.arange(3))


def test_of_many_photos_codes_name_candidates_and_the_cosines_stay_exact(monkeypatch):
    pytest.importorskip("faiss")
    features, lat, lon = town(count=900, noise=0.6)
    known, asked, places = features[:800], features[800:], np.arange(800) // 4
    monkeypatch.setattr(gallery, "MOST_QUESTIONS", 30)
    exact = Gallery(known, lat[:800], lon[:800], places)
    wanted, kernel = exact.nearest(asked), exact.best_kernel()
    monkeypatch.setattr(neighbours, "EXACT", 500)
    monkeypatch.setattr(neighbours, "PROBED", 40)
    coded = Gallery(known, lat[:800], lon[:800], places)
    assert (coded.nearest(asked) == wanted).mean() > 0.95
    [(index, cosines), *_] = coded._neighbours(asked[:5], 10)
    center = known.mean(axis=0)
    theirs = np.take_along_axis(cosine_similarity(asked[:5] - center, known - center), index[:5], axis=1)
    np.testing.assert_allclose(cosines[:5], theirs[: len(cosines)], atol=1e-5)
    assert coded.best_kernel() == kernel
