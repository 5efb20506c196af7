import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from scipy import integrate, stats
from scipy.spatial.distance import cdist
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.decomposition import PCA

from graticule.belief import kernels
from graticule.belief.calibration import (
    CROWDED,
    HeldOut,
    conformal_level,
    effective_count,
    fit_shape,
    photo_weights,
)
from graticule.belief.confidence import COVERAGES, Calibration, Known
from graticule.belief.density import LOCAL, SCALES, SPHERE_KM2, Belief, Kernels, Shape, softmax
from graticule.belief.ground import Ground
from graticule.geo import s2
from graticule.geo.sphere import EARTH_RADIUS_KM, from_vectors, great_circle_km, unit_vectors
from graticule.inference.decode import belief_points


def one_scale(share, scale=4):
    """Shares with all of them at one scale."""
    return tuple(share if k == scale else 0.0 for k in range(SCALES))


def shape(cells=0.6, gallery=0.3, of_map=0.09, anywhere=0.01):
    without = (*one_scale(0.99), 0.01)
    return Shape(1.0, 10.0, one_scale(cells), one_scale(gallery), one_scale(of_map), anywhere, without)


def belief(lat, lon, spread_km, weights, known=None, **shares):
    cells = Kernels.of(lat, lon, spread_km)
    known = known or cells
    even = np.full((len(weights), len(known)), 1 / len(known))
    return Belief(shape(**shares), cells, known, np.asarray(weights, float), even)


@pytest.fixture(scope="module")
def town():
    """What a model believes of three photos of a town of 30 cells."""
    rng = np.random.default_rng(0)
    lat, lon = 37.77 + rng.normal(0, 0.01, 30), -122.42 + rng.normal(0, 0.01, 30)
    return belief(lat, lon, np.full(30, 0.1), softmax(rng.normal(0, 2, (3, 30))))


def on_the_sphere(count, seed=0):
    return from_vectors(np.random.default_rng(seed).normal(size=(count, 3)))


@pytest.mark.parametrize("width_km", [0.5, 30.0, 3000.0, 60_000.0])
def test_a_kernel_is_one_over_the_whole_sphere_and_its_mass_within_a_radius_is_its_integral(width_km):
    def ring(t):
        density = np.exp(kernels.log_density(t * EARTH_RADIUS_KM, width_km))
        return density * 2 * np.pi * np.sin(t) * EARTH_RADIUS_KM**2

    near = min(40 * width_km / EARTH_RADIUS_KM, np.pi)
    assert integrate.quad(ring, 0, near, limit=500)[0] == pytest.approx(1, abs=1e-6)
    some = min(1.7 * width_km / EARTH_RADIUS_KM, 2.0)
    whole = integrate.quad(ring, 0, some, limit=500)[0]
    assert kernels.mass_within(some * EARTH_RADIUS_KM, width_km) == pytest.approx(whole, abs=1e-6)


@pytest.mark.parametrize("center", [(90.0, 0.0), (0.0, 180.0), (37.8, -122.4)])
def test_draws_of_a_kernel_lie_as_far_off_as_its_mass_says_and_in_every_direction(center):
    where = np.tile(unit_vectors(*map(np.atleast_1d, center)), (4000, 1))
    lat, lon = kernels.draw(where, np.full(4000, 800.0), np.random.default_rng(0))
    distance = great_circle_km(*center, lat, lon)
    assert stats.kstest(kernels.mass_within(distance, 800.0), "uniform").pvalue > 0.01
    off = unit_vectors(lat, lon).mean(axis=0) - where[0] * (unit_vectors(lat, lon) @ where[0]).mean()
    assert np.linalg.norm(off) < 0.01


@pytest.mark.parametrize("width_km", [0.001, 30.0, 6000.0, 100_000.0])
def test_draws_of_narrow_and_of_wide_kernels_lie_as_far_off_as_their_mass_says(width_km):
    where = np.tile(unit_vectors(37.8, -122.4), (20_000, 1))
    lat, lon = kernels.draw(where, np.full(20_000, width_km), np.random.default_rng(0))
    within = kernels.mass_within(great_circle_km(37.8, -122.4, lat, lon), width_km)
    assert within == pytest.approx(np.random.default_rng(0).random(20_000), abs=1e-5)


def test_a_belief_integrates_to_one_on_the_sphere():
    lat, lon = on_the_sphere(12)
    wide = belief(lat, lon, np.full(12, 900.0), softmax(np.random.default_rng(1).normal(0, 1, (1, 12))))
    points = on_the_sphere(60_000, 2)
    many = Belief(
        wide.shape, wide.cells, wide.known, *(np.tile(w, (60_000, 1)) for w in (wide.cell_weight, wide.known_weight))
    )
    assert np.exp(many.log_density(*points)).mean() * SPHERE_KM2 == pytest.approx(1, abs=0.02)
    assert np.exp(many.log_prior(*points)).mean() * SPHERE_KM2 == pytest.approx(1, abs=0.02)


def test_a_belief_does_not_know_where_pole_and_antimeridian_are():
    rng = np.random.default_rng(3)
    weights = softmax(rng.normal(0, 1, (1, 9)))
    xyz = unit_vectors(*(30 + rng.normal(0, 3, 9), rng.normal(0, 3, 9)))
    truth = unit_vectors(31.0, 1.0)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    here = belief(*from_vectors(xyz), np.full(9, 80.0), weights)
    there = belief(*from_vectors(xyz @ turn), np.full(9, 80.0), weights)
    at = [from_vectors(np.atleast_2d(v)) for v in (truth, truth @ turn)]
    assert here.log_density(*at[0]) == pytest.approx(there.log_density(*at[1]), abs=1e-6)


def test_the_ground_is_the_whole_sphere_once_and_fine_where_photos_may_be(town):
    ground = Ground.of(town)
    assert ground.area_km2.sum() == pytest.approx(SPHERE_KM2, rel=1e-6)
    assert (s2.range_max(ground.cells)[:-1] < s2.range_min(ground.cells)[1:]).all()
    here = ground.row_of(town.cells.center[:, 0] * 0 + 37.77, town.cells.center[:, 0] * 0 - 122.42)
    assert np.sqrt(ground.area_km2[here[0]]) < 0.1 < np.sqrt(ground.area_km2.max())


def test_masses_on_the_ground_are_the_shares_of_draws(town):
    ground = Ground.of(town)
    masses = ground.masses(town)
    assert masses.sum(axis=1) == pytest.approx(1)
    lat, lon = town.samples(20_000, seed=5)
    for n in range(len(town)):
        region = ground.region(masses[n], 0.8)
        drawn = np.isin(ground.row_of(lat[n], lon[n]), region).mean()
        assert drawn == pytest.approx(masses[n, region].sum(), abs=0.02)


def test_a_region_is_the_smallest_set_that_holds_its_mass(town):
    ground = Ground.of(town)
    masses = ground.masses(town)[0]
    region = ground.region(masses, 0.5)
    assert masses[region].sum() > 0.5
    # Greedy by density is the fractional knapsack's optimum: without its sparsest cell it holds too little.
    density = masses / ground.area_km2
    assert density[region].min() >= np.delete(density, region).max()
    assert masses[region].sum() - masses[region][density[region].argmin()] <= 0.5


def test_the_ground_to_search_is_what_is_denser_and_the_cell_itself(town):
    ground = Ground.of(town)
    masses = ground.masses(town)
    row = ground.row_of(*(side[:, 0] for side in town.samples(1, seed=10)))
    density = masses / ground.area_km2
    for n, found in enumerate(ground.searched_km2(masses, row)):
        denser = density[n] > density[n, row[n]]
        assert found == pytest.approx(ground.area_km2[denser].sum() + ground.area_km2[row[n]])


def test_a_region_of_few_cells_is_the_same_ground(town):
    ground = Ground.of(town)
    region = ground.region(ground.masses(town)[1], 0.9)
    merged = ground.merged(region)
    assert s2.areas_km2(merged).sum() == pytest.approx(ground.area_km2[region].sum(), rel=1e-9)
    assert len(merged) <= len(region)


def test_a_point_lies_in_the_region_of_any_mass_above_what_it_needs(town):
    ground = Ground.of(town)
    masses = ground.masses(town)
    lat, lon = town.samples(50, seed=6)
    for n in range(len(town)):
        rows = ground.row_of(lat[n], lon[n])
        needed = ground.needed_mass(np.tile(masses[n], (50, 1)), rows)
        for row, mass in zip(rows, needed, strict=True):
            assert row in ground.region(masses[n], mass + 1e-9)
            assert mass < 1e-6 or row not in ground.region(masses[n], mass - 1e-6)


def test_distances_that_hold_half_of_a_belief_are_those_of_draws(town):
    ground = Ground.of(town)
    at = belief_points(town)
    half = ground.distance_quantiles(ground.masses(town), at.lat, at.lon, (0.5,))[:, 0]
    lat, lon = town.samples(20_000, seed=7)
    for n in range(len(town)):
        drawn = np.median(great_circle_km(at.lat[n], at.lon[n], lat[n], lon[n]))
        assert half[n] == pytest.approx(drawn, rel=0.1)


def test_the_point_of_a_belief_has_the_least_expected_distance_of_a_fine_grid(town):
    at = belief_points(town)
    lat, lon = town.samples(8000, seed=8)
    for n in range(len(town)):
        away = [
            great_circle_km(at.lat[n] + dy, at.lon[n] + dx, lat[n], lon[n]).mean()
            for dy in np.linspace(-0.004, 0.004, 5)
            for dx in np.linspace(-0.004, 0.004, 5)
        ]
        assert min(away) > 0.98 * great_circle_km(at.lat[n], at.lon[n], lat[n], lon[n]).mean()


def test_a_conformal_level_is_the_textbooks_quantile_where_every_photo_is_its_own_place():
    scores = np.random.default_rng(0).random(99)
    assert conformal_level(scores, np.arange(99), 0.9) == np.sort(scores)[89]  # ceil(100 * 0.9) = 90th
    assert conformal_level(scores[:8], np.arange(8), 0.9) == np.inf


def test_sets_of_cells_at_a_conformal_level_are_those_of_mapie():
    classification = pytest.importorskip("mapie.classification")

    class Given(ClassifierMixin, BaseEstimator):
        """A classifier whose probabilities are its inputs."""

        classes_ = np.arange(5)

        def fit(self, x, y):
            return self

        def predict_proba(self, x):
            return x

        def predict(self, x):
            return x.argmax(axis=1)

    rng = np.random.default_rng(0)
    p, fresh = rng.dirichlet(np.full(5, 0.6), 150), rng.dirichlet(np.full(5, 0.6), 40)
    true = np.array([rng.choice(5, p=row) for row in p])
    theirs = classification.SplitConformalClassifier(Given(), confidence_level=0.8, conformity_score="lac", prefit=True)
    _, sets = theirs.conformalize(p, true).predict_set(fresh)
    level = conformal_level(1 - p[np.arange(150), true], np.arange(150), 0.8)
    assert (1 - fresh <= level + 1e-9).tolist() == sets[:, :, 0].tolist()


def test_regions_at_conformal_levels_cover_what_they_say_whatever_the_belief():
    rng = np.random.default_rng(1)
    covered = []
    for _ in range(400):  # scores of a belief that is far too sure
        scores = rng.beta(1, 0.3, 61)
        covered.append(scores[60] <= conformal_level(scores[:60], np.arange(60), 0.8))
    assert np.mean(covered) == pytest.approx(0.8, abs=0.05)


@pytest.mark.parametrize("alike", [0.0, 0.05, 0.3, 0.7])
@pytest.mark.parametrize(("places", "photos"), [(16, 120), (9, 120), (50, 4)])
def test_few_places_of_many_photos_cover_what_they_say_and_little_more(places, photos, alike):
    rng = np.random.default_rng(2)
    code = np.repeat(np.arange(places), photos)
    levels = []
    for _ in range(400):  # scores that are uniform over all places, more alike within one
        scores = stats.norm.cdf(
            alike**0.5 * rng.normal(size=places)[code] + (1 - alike) ** 0.5 * rng.normal(size=len(code))
        )
        levels.append(min(conformal_level(scores, code, 0.9), 1.0))  # of a uniform score: what it covers
    assert 0.89 < np.mean(levels) < 0.925


def test_photos_count_as_their_places_where_these_agree_and_each_by_itself_where_they_do_not():
    code = np.repeat(np.arange(20), 50)
    agreeing = code < 16
    assert effective_count(agreeing, code) == pytest.approx(20, rel=0.06)
    apart = np.random.default_rng(0).permuted(np.tile(np.arange(50) < 40, (20, 1)), axis=1).ravel()
    assert effective_count(apart, code) == pytest.approx(1000)  # every place holds the same share
    assert effective_count(agreeing[::50], code[::50]) == pytest.approx(20)
    assert effective_count(np.ones(1000, bool), code) == pytest.approx(20)
    assert effective_count(agreeing, np.zeros(1000, int)) == pytest.approx(1)
    assert effective_count(code > 16, code) == pytest.approx(20)  # as many as there are, and not fewer


def test_regions_hold_the_share_of_photos_where_crowded_places_are_easier():
    rng = np.random.default_rng(3)
    covered = []
    for _ in range(200):
        code = np.repeat(np.arange(240), np.maximum(1, rng.lognormal(1, 1, 240)).astype(int))
        crowd = np.log(np.bincount(code))[code]
        scores = rng.normal(size=240)[code] * 0.7 + rng.normal(size=len(code)) * 0.7 - 0.3 * crowd
        seen = code < 40
        covered.append(np.mean(scores[~seen] <= conformal_level(scores[seen], code[seen], 0.9)))
    assert 0.89 < np.mean(covered) < 0.92  # 94 % were all places to weigh the same


def test_one_place_of_a_thousand_photos_does_not_decide_alone():
    places = np.concatenate([np.zeros(1000, int), np.arange(1, 100)])
    scores = np.where(places == 0, 0.99, places / 200)
    assert conformal_level(scores, places, 0.9) < 0.5
    assert photo_weights(places)[:1000].sum() == pytest.approx(CROWDED / (CROWDED + 99))
    assert photo_weights(np.array([0, 1, 1, 2, 2, 2])).tolist() == pytest.approx([1 / 6] * 6)


def held_out(seed, knows, photos=90, cities=45, repeated=True):
    """Photos of cities whose positions are repeated exactly, by a model that knows ``knows`` of them."""
    rng = np.random.default_rng(seed)
    lat, lon = on_the_sphere(cities, seed=9)
    mine = rng.integers(0, cities, photos)
    known = rng.integers(0, cities, 2 * photos)
    cells = Kernels.of(lat, lon, np.full(cities, 400.0))
    gallery = Known.of(lat[known], lon[known], None, 0).kernels()
    logits = rng.normal(0, 3, (photos, cities))
    logits[np.arange(photos), mine] += knows
    cosines = rng.uniform(-1, 1, (photos, 2 * photos))
    cosines[mine[:, None] == known] += 0.1 * knows
    truth = lat[mine], lon[mine]
    if not repeated:
        truth = on_the_sphere(photos, seed)
    return HeldOut(cells, gallery, logits, np.clip(cosines, -1, 1), None, *truth)


def bits(part, found):
    b = part.belief(found)
    return ((b.log_density(part.lat, part.lon) - b.log_prior(part.lat, part.lon)) / np.log(2)).mean()


@pytest.mark.parametrize("repeated", [True, False])
def test_a_model_that_knows_nothing_ends_at_the_map_and_not_below_it(repeated):
    found = fit_shape([held_out(seed, 0.0, repeated=repeated) for seed in range(4)])
    fresh = [bits(held_out(seed, 0.0, repeated=repeated), found) for seed in range(10, 16)]
    assert np.mean(fresh) > -0.1


def test_cities_that_were_repeated_in_calibration_do_not_make_a_new_city_impossible():
    found = fit_shape([held_out(seed, 3.0) for seed in range(4)])
    assert bits(held_out(20, 3.0), found) > 0.5
    b = held_out(21, 3.0, repeated=False)
    loss = -b.belief(found).log_density(b.lat, b.lon)
    assert loss.max() < np.log(SPHERE_KM2) - np.log(1e-3) + 0.01  # a thousandth lies anywhere, always


def test_fitting_finds_the_scale_that_the_truths_were_drawn_at():
    rng = np.random.default_rng(4)
    lat, lon = on_the_sphere(20, seed=4)
    cells = Kernels.of(lat, lon, np.full(20, 100.0))
    mine = rng.integers(0, 20, 800)
    wide = LOCAL.index(4.0)
    truth = kernels.draw(cells.center[mine], cells.width_km[mine, wide], rng)
    logits = np.full((800, 20), -30.0)
    logits[np.arange(800), mine] = 0
    found = fit_shape([HeldOut(cells, cells, logits, None, None, *truth)])
    near = np.array(found.cells).reshape(2, -1)[:, wide - 1 : wide + 2].sum()
    assert near > 0.8
    assert sum(found.gallery) == 0


def test_a_photo_unlike_all_held_out_ones_is_told_so():
    calibration = Calibration(
        shape(), 1.0, dict.fromkeys(map(str, COVERAGES), 0.9), 1.0, 1.0, 1.0, (0.2, 0.4, 0.6, 0.8), 4, 4, ""
    )
    found = calibration.unlike_training(np.array([0.9, 0.1, 0.4]))
    assert found.tolist() == [1.0, 0.0, 0.5]
    assert replace(calibration, strangeness=()).unlike_training(np.ones(1)) is None


def test_known_photos_are_compared_as_the_textbook_does():
    rng = np.random.default_rng(0)
    features = rng.normal(2, 3, (40, 7)).astype(np.float32)
    known = Known.of(*on_the_sphere(40), features, seed=0)
    asked = rng.normal(2, 3, (5, 7)).astype(np.float32)
    cosines, nearest = known.compare(asked)
    mean, sd = features.mean(axis=0), features.std(axis=0)
    white = PCA(whiten=True).fit((features - mean) / sd)
    pairs = cdist(*(white.transform((side - mean) / sd) for side in (asked, features)), "cosine")
    assert cosines == pytest.approx(1 - pairs, abs=3e-3)  # float16 holds three digits
    assert nearest == pytest.approx(cdist((asked - mean) / sd, (features - mean) / sd).min(axis=1), abs=1e-2)


def test_half_of_the_widths_are_multiples_of_a_spread_that_stays_where_cells_get_finer():
    lat, lon = on_the_sphere(20)
    coarse = Kernels.of(lat, lon, np.where(np.arange(20) < 11, 2.0, 1.0))
    finer = np.where(np.arange(20) < 9, 2.0, 1.0)
    half = slice(SCALES // 2, None)
    assert (Kernels.of(lat, lon, finer).width_km[:, half] * 2 == coarse.width_km[:, half]).all()  # two cells decide
    kept = Kernels.of(lat, lon, finer, coarse.usual_km)
    assert np.array_equal(kept.width_km[:, half], coarse.width_km[:, half])
    assert np.array_equal(kept.width_km[:, : SCALES // 2], Kernels.of(lat, lon, finer).width_km[:, : SCALES // 2])


def test_a_calibration_survives_json():
    calibration = Calibration(
        shape(),
        2.0,
        dict(zip(map(str, COVERAGES), (0.4, 0.7, 0.9, 1.0), strict=True)),
        1.2,
        1.1,
        0.9,
        (0.1, 0.5),
        90,
        45,
        "4 folds by place",
    )
    assert Calibration.from_json(json.loads(json.dumps(asdict(calibration)))) == calibration
    measured = replace(calibration, shape=replace(calibration.shape, usual_km=(0.05, 0.02)))
    assert Calibration.from_json(json.loads(json.dumps(asdict(measured)))) == measured
    before = asdict(calibration)
    del before["shape"]["usual_km"]  # bundles of before
    assert Calibration.from_json(before) == calibration
    broken = asdict(calibration)
    broken["shape"]["cells"] = [0.5] * SCALES
    with pytest.raises(ValueError, match="sum to one"):
        Calibration.from_json(broken)


@pytest.mark.parametrize("radius_km", [0.05, 1.0, 300.0, 9000.0])
def test_shares_of_cells_within_a_circle_add_up_to_the_cap_that_archimedes_measured(radius_km):
    cells = s2.children(s2.children(s2.face_cells()).ravel()).ravel()
    for lat, lon in ((0.0, 180.0), (90.0, 0.0), (37.77, -122.42)):
        share = s2.shares_within(cells, lat, lon, radius_km)
        cap = SPHERE_KM2 * (1 - np.cos(radius_km / EARTH_RADIUS_KM)) / 2
        assert share @ s2.areas_km2(cells) == pytest.approx(cap, rel=5e-3)
        assert share.min() >= 0


def test_the_probability_of_a_circle_is_the_share_of_draws_in_it(town):
    ground = Ground.of(town)
    masses = ground.masses(town)
    lat, lon = town.samples(20_000, seed=9)
    at = belief_points(town)
    for n in range(len(town)):
        for radius_km, aside in ((0.2, 0.0), (1.0, 0.01), (40.0, 0.1)):
            center = at.lat[n] + aside, at.lon[n]
            drawn = (great_circle_km(*center, lat[n], lon[n]) <= radius_km).mean()
            assert ground.mass_within(masses[n], *center, radius_km) == pytest.approx(drawn, abs=0.015)


def test_a_merged_region_is_the_cell_union_of_s2(town):
    import s2geometry

    ground = Ground.of(town)
    for rows in (ground.region(ground.masses(town)[0], 0.8), np.arange(len(ground.cells)), np.arange(5)):
        union = s2geometry.S2CellUnion()
        union.Init([int(cell) for cell in ground.cells[rows]])
        assert ground.merged(rows).tolist() == sorted(cell.id() for cell in union.cell_ids())
