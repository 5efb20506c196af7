import numpy as np
import pytest

from graticule.photos.tracks import off_track, standing_still

SECONDS = np.arange(6) * 10.0
STREET = 48 + np.arange(6) * 0.001  # 40 km/h


def off(lat, time_s=SECONDS, sequence=None):
    found = off_track(np.zeros(6, int) if sequence is None else sequence, time_s, lat, np.full(6, 2.0), speed_km_h=300)
    return np.flatnonzero(found).tolist()


def moved(*rows, by=0.05):
    lat = STREET.copy()
    lat[list(rows)] += by
    return lat


@pytest.mark.parametrize(
    ("lat", "wrong"),
    [
        pytest.param(STREET, [], id="none"),
        pytest.param(moved(2), [2], id="one in the midst"),
        pytest.param(moved(0), [0], id="the first"),
        pytest.param(moved(5), [5], id="the last"),
        pytest.param(moved(1), [1], id="the second, not the first"),
        pytest.param(moved(4), [4], id="the last but one, not the last"),
        pytest.param(moved(3, 4, 5), [], id="either half may be wrong"),
        pytest.param(moved(2, by=0.006), [], id="below 300 km/h"),
        pytest.param(moved(2, by=0.009), [2], id="above 300 km/h"),
    ],
)
def test_a_frame_with_a_leap_on_either_side_is_off_its_track(lat, wrong):
    assert off(lat) == wrong
    shuffled = np.random.default_rng(0).permutation(6)
    assert sorted(shuffled[off(lat[shuffled], SECONDS[shuffled])].tolist()) == wrong


def test_a_clock_that_stands_still_is_not_blamed_on_positions():
    assert off(STREET * 1.0, np.zeros(6)) == []


def test_two_frames_apart_do_not_say_which_is_wrong():
    assert off(moved(3), sequence=np.array([0, 0, 1, 1, 2, 2])) == []


def test_neighbours_in_another_sequence_are_no_leap():
    assert off(moved(3, 4, 5), sequence=np.array([0, 0, 0, 1, 1, 1])) == []


def test_frames_without_a_time_are_left_alone():
    assert off(moved(2), np.where(np.arange(6) == 2, np.nan, SECONDS)) == []
    assert off(moved(2), np.full(6, np.nan)) == []


def test_more_than_so_many_photos_on_one_spot_repeat_the_first():
    lat = np.r_[np.full(5, 48.0), 48.01, np.full(3, 48.02)]
    time_s = np.arange(9) * 5.0
    run = {"within_km": 0.005, "within_s": 60}
    still = standing_still(np.zeros(9), time_s, lat, np.full(9, 2.0), more_than=4, **run)
    assert np.flatnonzero(still).tolist() == [1, 2, 3, 4]
    assert not standing_still(np.zeros(9), time_s, lat, np.full(9, 2.0), more_than=5, **run).any()
    assert not standing_still(np.zeros(9), time_s * 100, lat, np.full(9, 2.0), more_than=4, **run).any()
    two = np.array([0, 1, 0, 1, 0, 0, 0, 0, 0])
    assert not standing_still(two, time_s, lat, np.full(9, 2.0), more_than=4, **run).any()
