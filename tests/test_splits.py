import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from graticule import geo
from graticule.errors import BadRecipeError
from graticule.photos import Photos
from graticule.splits import (
    LeakAudit,
    audit,
    fold_groups,
    make_folds,
    make_split,
    split_blocks,
    split_groups,
    split_random,
)

DATA = Path(__file__).parents[1] / ".." / "shared" / "data"
real = pytest.mark.skipif(not DATA.exists(), reason="needs ../shared/data")


def photos(lat, lon, **columns):
    lat, lon = np.broadcast_arrays(np.asarray(lat, float), np.asarray(lon, float))
    paths = [f"{i}.jpg" for i in range(len(lat))]
    return Photos(pl.DataFrame({"path": paths, "lat": lat, "lon": lon, **columns}), Path())


def shares_of(parts):
    return [float((parts == part).mean()) for part in ("train", "val", "test")]


def straddling(groups, parts):
    return [group for group in np.unique(groups) if len(set(parts[groups == group])) > 1]


def train_and_test(table, by, **options):
    parts = make_split(table, by, **options)
    return table.take(parts == "train"), table.take(parts == "test")


@pytest.fixture(scope="module")
def drives():
    """10,838 photos on 13 drives around Neuchâtel; the first two parts of a name are the drive's start."""
    frame = pl.read_csv(DATA / "coordinates" / "neuchatel_traject.csv").rename({"file_name": "path"})
    sequence = pl.col("path").str.split("_").list.head(2).list.join("_").alias("sequence")
    return Photos(frame.with_columns(sequence), Path())


def test_a_random_split_gives_every_stratum_its_shares_and_the_whole_exactly():
    cells = np.repeat(np.arange(50), np.arange(1, 51) * 2)
    parts = split_random(len(cells), seed=3, strata=cells)
    assert [int((parts == part).sum()) for part in ("train", "val", "test")] == [2040, 255, 255]
    for cell in range(50):
        assert np.abs(np.array(shares_of(parts[cells == cell])) - (0.8, 0.1, 0.1)).max() * (cell + 1) * 2 < 2


@pytest.mark.parametrize("count", [3, 5, 16, 400])
@pytest.mark.parametrize("seed", range(5))
def test_groups_stay_whole_and_no_part_stays_empty(count, seed):
    sizes = np.random.default_rng(seed).lognormal(3, 1, count).astype(int) + 1
    groups = np.repeat(np.arange(count), sizes)
    parts = split_groups(groups, seed=seed)
    assert straddling(groups, parts) == []
    assert set(parts) == {"train", "val", "test"}
    if count == 400:
        assert shares_of(parts) == pytest.approx([0.8, 0.1, 0.1], abs=0.005)


def test_large_groups_are_tested_too():
    groups = np.repeat(np.arange(100), np.r_[np.full(10, 50), np.full(90, 5)])
    tested = [group for seed in range(20) for group in np.unique(groups[split_groups(groups, seed=seed) == "test"])]
    assert 10 <= np.sum(np.array(tested) < 10) <= 40  # 20 splits of 10 large ones, a tenth of each: about 20


def test_the_seed_decides():
    groups = np.random.default_rng(0).integers(0, 200, 2000)
    assert (split_groups(groups, seed=1) == split_groups(groups, seed=1)).all()
    assert (split_groups(groups, seed=1) != split_groups(groups, seed=2)).any()
    assert (split_random(100, seed=1) != split_random(100, seed=2)).any()
    assert (fold_groups(groups, 5, seed=1) != fold_groups(groups, 5, seed=2)).any()


def test_a_part_of_share_zero_stays_empty():
    groups = np.repeat(np.arange(7), 9)
    assert set(split_groups(groups, (0.7, 0, 0.3))) == {"train", "test"}
    assert set(split_random(10, (0.7, 0, 0.3))) == {"train", "test"}
    assert set(split_groups(groups, (1, 0, 0))) == {"train"}


@pytest.mark.parametrize(
    ("by", "shares", "sentence"),
    [
        ("sequence", (0.8, 0.1, 0.1), "only 2 sequences, too few for 80% train, 10% val, 10% test"),
        ("drive", (0.8, 0.1, 0.1), "choose one of random, place, sequence, column, block"),
        ("column", (0.8, 0.1, 0.1), "no column 'split'"),
        ("random", (0.8, 0.1, 0.2), "sum to 1"),
        ("random", (0.0, 0.5, 0.5), "train above 0"),
    ],
)
def test_a_split_that_cannot_be_is_refused_with_the_reason(by, shares, sentence):
    with pytest.raises(BadRecipeError, match=sentence):
        make_split(photos([1, 2, 3, 4], 5, sequence=["a", "a", "b", "b"]), by, shares=shares)


def test_a_column_of_missing_sequences_does_not_pass_for_drives():
    with pytest.raises(BadRecipeError, match="no column 'sequence' to split by, or it is empty"):
        make_split(photos([1, 2, 3], 5, sequence=pl.Series([None] * 3, dtype=pl.String)), "sequence")


def test_the_tables_own_split_is_taken_under_its_usual_names():
    table = photos([1, 2, 3, 4], 5, split=["train", "Validation", "test ", "training"])
    assert make_split(table, "column").tolist() == ["train", "val", "test", "train"]
    with pytest.raises(BadRecipeError, match=r"holds 'holdout', 'none'; valid are train, val, test and buffer"):
        make_split(photos([1, 2, 3], 5, split=["train", "holdout", None]), "column")


@pytest.mark.parametrize("where", [(46.9, 6.9), (0.0, 180.0), (89.97, 0.0), (-90.0, 40.0)])
def test_no_photo_of_another_part_lies_within_the_buffer_of_a_block(where):
    # 2,000 photos within about 3 km, also across the antimeridian and around a pole.
    rng = np.random.default_rng(1)
    north = geo.unit_vectors(*where)
    lat, lon = geo.from_vectors(north + rng.uniform(-1, 1, (2000, 3)) * 3 / geo.EARTH_RADIUS_KM)
    parts = split_blocks(lat, lon, (0.6, 0.2, 0.2), seed=2, block_km=1.0, buffer_km=0.1)
    for held, others in (("test", ["train", "val"]), ("val", ["train"])):
        a, b = parts == held, np.isin(parts, others)
        km = geo.great_circle_km(lat[a, None], lon[a, None], lat[b], lon[b])
        assert km.min() >= 0.1
    assert 0 < (parts == "buffer").mean() < 0.3
    assert shares_of(parts)[2] == pytest.approx(0.2, abs=0.05)


def test_a_buffer_that_swallows_all_of_training_is_refused():
    lat = np.random.default_rng(0).uniform(0, 0.01, 300)
    with pytest.raises(BadRecipeError, match=r"blocks of 200 m with a buffer of 5.0 km leave no photo for"):
        split_blocks(lat, lat[::-1], block_km=0.2, buffer_km=5)


def test_folds_are_whole_and_nearly_equal():
    groups = np.repeat(np.arange(60), np.random.default_rng(0).integers(1, 30, 60))
    folds = fold_groups(groups, 5, seed=1)
    assert straddling(groups, folds) == []
    assert np.ptp(np.bincount(folds)) <= 2
    assert np.bincount(fold_groups(np.arange(103), 5)).tolist() == [21, 21, 21, 20, 20]
    with pytest.raises(BadRecipeError, match="only 3 groups, too few for 5 folds; take 3 or fewer"):
        fold_groups([1, 2, 2, 3], 5)
    with pytest.raises(BadRecipeError, match="2 or more"):
        fold_groups([1, 2, 2, 3], 1)


def test_folds_by_place_keep_rounded_positions_together_and_other_columns_serve_too():
    table = photos([10.0001, 10.0002, 20, 30], 5, city=["a", "b", "b", "c"])
    assert make_folds(table, 3, "place")[:2].tolist() in ([0, 0], [1, 1], [2, 2])
    folds = make_folds(table, 3, "city")
    assert folds[1] == folds[2]
    assert sorted(set(make_folds(table, 4, "random"))) == [0, 1, 2, 3]
    assert sorted(set(make_folds(table, 2, "block", block_km=100))) == [0, 1]
    with pytest.raises(BadRecipeError, match="no column 'camera'"):
        make_folds(table, 2, "camera")


def test_the_audit_counts_what_is_shared_and_how_near_it_is():
    metre = 0.001 / (geo.EARTH_RADIUS_KM * np.pi / 180)  # in degrees of latitude
    look = np.array([0b1111, 0xFF00], np.uint64)
    train = photos([0, 10], 0, sequence=["a", "b"], place=["p", "q"], dhash=look)
    at = np.array([0, 20, 90, 500, 3000, 20_000, 90_000]) * metre
    test = photos(
        at, 0,
        sequence=["a", "c", "c", "d", "d", None, None],
        place=["x", "y", "y", "q", "q", "z", "z"],
        dhash=np.array([0, 0xFFFF, 0b1, 0b1111, 0b1111, 0, 0], np.uint64),
    )  # fmt: skip
    found = audit(train, test)
    assert list(found.nearest_photos.values()) == [1] * 7
    assert found.nearest_within["within_5_m"] == pytest.approx(1 / 7)
    assert found.nearest_within["within_25_km"] == pytest.approx(6 / 7)
    assert found.median_nearest_km == pytest.approx(0.5)
    assert (found.shared_sequences, found.shared_sequences_test_share) == (1, pytest.approx(1 / 7))
    assert (found.shared_places, found.shared_places_test_share) == (1, pytest.approx(2 / 7))
    assert found.near_duplicates == 2  # the look-alikes 500 m off are none, nor is the one 12 bits away
    assert found.verdict.startswith("NOT held out: training shares 1 sequence with 14% of the test photos;")
    assert LeakAudit.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_the_audit_says_what_it_cannot_know():
    found = audit(photos([0, 1], 0), photos([0.00001, 1], 0))
    assert found.shared_sequences is found.shared_sequences_test_share is found.near_duplicates is None
    assert found.place_from == "position to 0.001 degrees"
    assert found.verdict.startswith("Cannot tell whether held out: the nearest training photo is 1 m away")
    assert "Unknown: sequences (no column 'sequence'), places (no column 'place'), near-dup" in found.verdict
    with pytest.raises(ValueError, match="0 training and 1 test"):
        audit(photos([1], 2).take([]), photos([1], 2))


def test_a_new_drive_along_known_streets_is_told_from_an_unseen_block():
    train = photos([0, 1], 0, sequence=["a", "b"], place=["p", "q"])
    known = audit(train, photos([0], 0, sequence=["c"], place=["p"]))
    assert known.verdict.startswith("Held out by sequence, on places that training knows:")
    far = audit(train, photos([0.5], 0, sequence=["a"], place=["r"]))
    assert far.verdict.startswith("Held out by distance, not by sequence:")


@real
def test_a_split_by_frame_of_real_drives_leaks_and_the_audit_says_how_much(drives):
    by_frame = audit(*train_and_test(drives, "random"))
    assert by_frame.shared_sequences == 13
    assert by_frame.shared_sequences_test_share == 1
    assert by_frame.nearest_within["within_25_m"] > 0.99
    assert by_frame.verdict.startswith("NOT held out")

    by_drive = audit(*train_and_test(drives, "sequence"))
    assert by_drive.shared_sequences == 0
    assert by_drive.nearest_within["within_25_m"] < 0.6
    assert by_drive.verdict.startswith("Held out by sequence: no sequence is shared")

    by_block = audit(*train_and_test(drives, "block", block_km=0.5, buffer_km=0.1))
    assert by_block.nearest_within["within_25_m"] == 0
    assert by_block.verdict.startswith("Held out by distance, not by sequence")


@real
@pytest.mark.parametrize("seed", range(5))
def test_thirteen_real_drives_come_near_the_shares_and_stay_whole(drives, seed):
    parts = make_split(drives, "sequence", seed=seed)
    assert straddling(drives.groups("sequence"), parts) == []
    assert shares_of(parts) == pytest.approx([0.8, 0.1, 0.1], abs=0.06)


@real
def test_the_published_split_of_global_streetscapes_shares_three_sequences():
    frame = pl.read_csv(DATA / "coordinates" / "imageo_dataset1.csv", infer_schema=False)
    numbers = [pl.col(name).cast(pl.Float64) for name in ("lat", "lon")]
    frame = frame.rename({"img_path": "path", "sequence_id": "sequence"}).with_columns(numbers)
    found = audit(*train_and_test(Photos(frame, Path()), "column"))
    assert (found.train_photos, found.test_photos, found.shared_sequences) == (5039, 1113, 3)
