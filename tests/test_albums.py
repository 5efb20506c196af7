"""Photos answered together, held against every path written out and a walk whose truth is known."""

import itertools

import numpy as np
import pytest
from scipy.stats import gmean

from graticule.inference.albums import Albums, Motion, along, pooled
from graticule.partition import CellPartition

RNG = np.random.default_rng(0)


def street(cells=5):
    """A row of cells along a street, each with as many photos."""
    lat = np.repeat(38.9 + 0.001 * np.arange(cells), 10) + np.tile(np.linspace(0, 1e-5, 10), cells)
    return CellPartition.fit(lat, np.full(len(lat), -77.03), split_above=12, drop_below=3)


def motion_of(partition, share=0.5):
    """Steps of half the distance between cells: what frames a few metres apart are like."""
    return Motion(partition.lat, partition.lon, share * float(np.median(partition.spacing_km())))


def normalised(weights):
    return weights / weights.sum(axis=-1, keepdims=True)


def test_pooled_views_are_the_geometric_mean():
    p = normalised(RNG.random((4, 6)))
    np.testing.assert_allclose(np.exp(pooled(np.log(p))), normalised(gmean(p, axis=0)))


def test_the_same_view_ten_times_says_no_more_than_once():
    p = normalised(RNG.random(6))
    np.testing.assert_allclose(np.exp(pooled(np.log(np.tile(p, (10, 1))))), p)


def test_a_drive_is_the_sum_over_every_path_written_out():
    partition = street()
    motion, count = motion_of(partition), len(street())
    seen = normalised(RNG.random((4, count)))
    step = np.stack([motion.backward(unit) for unit in np.eye(count)], axis=1)  # from row to column
    np.testing.assert_allclose(step.sum(axis=1), 1)
    expected = np.zeros_like(seen)
    for path in itertools.product(range(count), repeat=4):
        weight = np.prod(seen[np.arange(4), path]) * np.prod([step[a, b] for a, b in itertools.pairwise(path)])
        expected[np.arange(4), path] += weight
    np.testing.assert_allclose(np.exp(along(np.log(seen), [motion])), normalised(expected))


def test_forward_and_backward_are_each_others_mirror():
    motion, count = motion_of(street()), len(street())
    a, b = RNG.random(count), RNG.random(count)
    assert motion.forward(a) @ b == pytest.approx(a @ motion.backward(b))


def test_one_lost_photo_is_put_right_by_its_drive():
    partition = street(9)
    truth = np.argsort(partition.lat)  # rows of the cells along the street
    seen = np.full((len(truth), len(partition)), 0.05)
    seen[np.arange(len(truth)), truth] = 1
    seen[4] = 0.05
    seen[4, truth[0]] = 1  # looks like the start of the street
    found = np.argsort(truth)[along(np.log(normalised(seen)), [motion_of(partition)]).argmax(axis=1)]
    assert abs(found[4] - 4) <= 1  # between its neighbours, instead of four cells back
    np.testing.assert_array_equal(np.delete(found, 4), np.delete(np.arange(len(truth)), 4))


def test_a_jump_in_the_recording_is_followed():
    partition = street(9)
    truth = np.argsort(partition.lat)[[0, 0, 1, 1, -1, -1, -1]]
    seen = np.full((7, len(partition)), 1e-6)
    seen[np.arange(7), truth] = 1
    np.testing.assert_array_equal(along(np.log(normalised(seen)), [motion_of(partition)]).argmax(axis=1), truth)


def test_a_drive_of_one_photo_says_what_the_photo_says():
    p = normalised(RNG.random((1, len(street()))))
    np.testing.assert_allclose(np.exp(along(np.log(p), [motion_of(street())])), p)


def test_a_long_drive_of_sure_photos_stays_finite():
    partition = street()
    seen = np.full((3000, len(partition)), -700.0)
    seen[:, 2] = 0
    assert np.isfinite(along(seen, [motion_of(partition)])[:, 2]).all()


def test_albums_come_in_the_order_they_were_taken():
    codes = np.array([1, 0, 1, 0, 1])
    when = np.array([9.2, 8.0, 9.1, 7.0, np.nan])
    assert [album.tolist() for album in Albums.of("sequence", codes, when).rows] == [[3, 1], [2, 0, 4]]
    assert [album.tolist() for album in Albums.of("place", codes).rows] == [[1, 3], [0, 2, 4]]
    assert Albums.of("place", np.array([], np.int64)).rows == []


@pytest.mark.parametrize(("photos", "sizes"), [(1, [2, 3, 1]), (3, [5, 1]), (100, [6])])
def test_albums_are_never_cut(photos, sizes):
    codes = np.array([0, 0, 1, 1, 1, 2])
    chunks = list(Albums.of("place", codes).chunks(photos))
    assert [sum(map(len, some)) for some in chunks] == sizes
    assert sorted(np.concatenate([album for some in chunks for album in some])) == list(range(6))


@pytest.mark.parametrize("pace", ["slow", "fast"])
def test_how_far_a_camera_goes_between_photos_is_told_by_its_photos(pace):
    partition = street(40)
    cells = np.argsort(partition.lat)
    truth = np.repeat(cells, 3) if pace == "slow" else cells[::4]
    rng = np.random.default_rng(0)
    seen = 0.2 * rng.random((len(truth), len(partition)))  # many cells look somewhat alike
    seen[np.arange(len(truth)), truth] += 0.5
    near, far = motion_of(partition, 0.5), motion_of(partition, 4)
    log = np.log(normalised(seen))
    chosen = along(log, [near, far])
    assert np.array_equal(chosen, along(log, [near if pace == "slow" else far]))


def test_positions_that_are_all_one_have_no_motion():
    assert Motion.candidates(np.full(3, 38.9), np.full(3, -77.0)) == []
    p = normalised(RNG.random((2, 3)))
    np.testing.assert_allclose(np.exp(along(np.log(p), [])), p)
