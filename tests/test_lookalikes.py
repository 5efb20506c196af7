import numpy as np
import pytest

from graticule.photos.images import hamming
from graticule.photos.near_duplicates import near_duplicates, near_hashes, one_picture_for_many_places


def some_hashes(count, seed=0, flips=6):
    """Hashes in families of near relatives, and a good many equal ones."""
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 2**64, max(count // 8, 1), np.uint64)[rng.integers(0, max(count // 8, 1), count)]
    for _ in range(flips):
        bit = np.uint64(1) << rng.integers(0, 64, count, np.uint64)
        hashes = np.where(rng.random(count) < 0.5, hashes ^ bit, hashes)
    return hashes


def pairs_of(found):
    return [(min(i, j), max(i, j)) for a, b in found for i, j in zip(a.tolist(), b.tolist(), strict=True)]


@pytest.mark.parametrize("bits", [0, 1, 2, 4, 7, 12, 20])
def test_the_search_finds_what_comparing_all_pairs_finds_and_each_pair_once(bits):
    hashes = some_hashes(300, seed=bits)
    i, j = np.triu_indices(len(hashes), 1)
    near = hamming(hashes[i], hashes[j]) <= bits
    found = pairs_of(near_hashes(hashes, bits))
    assert len(found) == len(set(found))
    assert set(found) == set(zip(i[near].tolist(), j[near].tolist(), strict=True))


def test_no_hashes_have_no_pairs():
    assert list(near_hashes(np.zeros(0, np.uint64), 4)) == []


@pytest.mark.parametrize("bits", [-1, 64])
def test_a_distance_that_no_hashes_have_is_refused(bits):
    with pytest.raises(ValueError, match="0 to 63"):
        list(near_hashes(np.zeros(3, np.uint64), bits))


def repeats_by_hand(lat, lon, hashes, place, bits, within_km):
    """The definition, photo by photo."""
    like = []
    for j in range(len(hashes)):
        near = [
            i
            for i in range(j)
            if like[i] < 0
            and hamming(hashes[i], hashes[j]) <= bits
            and (place[i] == place[j] or 6371.0088 * np.radians(abs(lat[i] - lat[j])) <= within_km)
        ]
        like.append(near[0] if near else -1)
    return like


@pytest.mark.parametrize("flips", [0, 3])
def test_a_repeat_is_told_from_a_photo_that_is_kept(flips, monkeypatch):
    monkeypatch.setattr("graticule.photos.near_duplicates.MOST_PAIRS", 50)  # so that pairs come in several parts
    rng = np.random.default_rng(3)
    hashes, place = some_hashes(300, flips=flips), rng.integers(0, 40, 300)
    lat, lon = 48 + rng.integers(0, 5, 300) * 0.0006, np.full(300, 2.0)
    like = near_duplicates(lat, lon, hashes, bits=4, within_km=0.1, place=place)
    assert like.tolist() == repeats_by_hand(lat, lon, hashes, place, 4, 0.1)
    assert 20 < (like >= 0).sum() < 280


def test_look_alikes_far_apart_repeat_nothing():
    like = near_duplicates([48, 48.0005, 48.01], [2, 2, 2], [7, 7, 7], bits=4, within_km=0.1)
    assert like.tolist() == [-1, 0, -1]


def test_views_of_one_place_may_lie_far_apart():
    like = near_duplicates([48, 48.01, 48.02], [2, 2, 2], [7, 7, 7], bits=4, within_km=0.1, place=[5, 5, 6])
    assert like.tolist() == [-1, 0, -1]


def test_a_slow_change_is_not_thinned_to_its_first_view():
    hashes = [(1 << n) - 1 for n in range(0, 40, 3)]  # each three bits from the next
    like = near_duplicates(np.full(14, 48.0), np.full(14, 2.0), hashes, bits=4, within_km=0.1)
    assert like.tolist() == [-1, 0, -1, 2, -1, 4, -1, 6, -1, 8, -1, 10, -1, 12]


@pytest.mark.parametrize(
    ("lat", "tones", "copies"),
    [
        pytest.param([48, 48.5, 49], [90, 91, 89], [True] * 3, id="three places"),
        pytest.param([48, 48.5, 48.0001], [90, 90, 90], [False] * 3, id="two places, one of them twice"),
        pytest.param([48, 48.5, 49], [90, 90, 140], [False] * 3, id="one of them lit otherwise"),
    ],
)
def test_one_picture_at_three_places_is_a_placeholder(lat, tones, copies):
    hashes, tones = [8, 9, 10], np.array(tones)[:, None]
    found = one_picture_for_many_places(lat, [2, 2, 2], hashes, tones, bits=2, apart_km=1, places=3)
    assert found.tolist() == copies
