import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from graticule.errors import BadRecipeError
from graticule.geo import sphere
from graticule.photos.drives import drive_source, drives, rebuild_sequences
from graticule.photos.leakage import audit
from graticule.photos.splits import (
    DEALT,
    fold_groups,
    groups_of,
    honest_split,
    make_folds,
    make_split,
    part_days,
    split_blocks,
    split_groups,
    split_random,
    split_time,
)
from graticule.photos.table import Photos


def photos(lat, lon, **columns):
    lat, lon = np.broadcast_arrays(np.asarray(lat, float), np.asarray(lon, float))
    paths = [f"{i}.jpg" for i in range(len(lat))]
    return Photos(pl.DataFrame({"path": paths, "lat": lat, "lon": lon, **columns}), Path())


def shares_of(parts):
    return [float((parts == part).mean()) for part in ("train", "val", "test")]


def straddling(groups, parts):
    return [group for group in np.unique(groups) if len(set(parts[groups == group])) > 1]


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
        (
            "camera",
            (0.8, 0.1, 0.1),
            "no column 'camera' to split by, or it is empty. Split by auto, random, place",
        ),
        ("time", (0.8, 0.1, 0.1), "no column 'captured_at'"),
        ("uploader", (0.8, 0.1, 0.1), "no column 'uploader'"),
        ("column", (0.8, 0.1, 0.1), "no column 'split'"),
        ("random", (0.8, 0.1, 0.2), "sum to 1"),
        ("random", (0.0, 0.5, 0.5), "train above 0"),
    ],
)
def test_a_split_that_cannot_be_is_refused_with_the_reason(by, shares, sentence):
    with pytest.raises(BadRecipeError, match=sentence):
        make_split(photos([1, 2, 3, 4], 5, sequence=["a", "a", "b", "b"]), by, shares=shares)


def test_an_error_about_blocks_says_what_they_are():
    with pytest.raises(BadRecipeError, match=r"there is only 1 block \(squares of the map\), too few for 70% train"):
        split_groups([1], (0.7, 0.1, 0.2), name="block")


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
    north = sphere.unit_vectors(*where)
    lat, lon = sphere.from_vectors(north + rng.uniform(-1, 1, (2000, 3)) * 3 / sphere.EARTH_RADIUS_KM)
    parts = split_blocks(lat, lon, (0.6, 0.2, 0.2), seed=2, block_km=1.0, buffer_km=0.1)
    for held, others in (("test", ["train", "val"]), ("val", ["train"])):
        a, b = parts == held, np.isin(parts, others)
        km = sphere.great_circle_km(lat[a, None], lon[a, None], lat[b], lon[b])
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


@pytest.mark.parametrize("seed", range(5))
def test_thirteen_real_drives_come_near_the_shares_and_stay_whole(neuchatel, seed):
    parts = make_split(neuchatel, "sequence", seed=seed)
    assert straddling(neuchatel.groups("sequence"), parts) == []
    assert shares_of(parts) == pytest.approx([0.8, 0.1, 0.1], abs=0.06)


@pytest.mark.parametrize("count", [DEALT // 2, 3 * DEALT])
def test_many_groups_are_dealt_as_fast_as_few_and_as_near_to_the_shares(count):
    sizes = np.random.default_rng(count).geometric(0.3, count)
    groups = np.repeat(np.arange(count), sizes)
    parts = split_groups(groups, (0.7, 0.1, 0.2), seed=1)
    first = np.cumsum(sizes) - sizes
    assert (parts == np.repeat(parts[first], sizes)).all()
    assert shares_of(parts) == pytest.approx([0.7, 0.1, 0.2], abs=0.001)
    for size in (1, 2, 5):  # large and small alike
        assert shares_of(parts[first][sizes == size]) == pytest.approx([0.7, 0.1, 0.2], abs=0.05)
    folds = fold_groups(groups, 4, seed=1)
    assert (folds == np.repeat(folds[first], sizes)).all()
    assert np.ptp(np.bincount(folds)) <= sizes.max()


def test_a_million_groups_take_seconds():
    start = time.process_time()
    split_groups(np.arange(1_000_000))
    assert time.process_time() - start < 12  # one by one it took more than sixteen


def test_blocks_of_the_world_are_larger_and_farther_apart():
    rng = np.random.default_rng(0)
    table = photos(rng.uniform(45, 50, 3000), rng.uniform(5, 12, 3000))
    parts = make_split(table, "world", shares=(0.6, 0.2, 0.2))
    a, b = parts == "test", (parts == "train") | (parts == "val")
    km = sphere.great_circle_km(table.lat[a, None], table.lon[a, None], table.lat[b], table.lon[b])
    assert 10 <= km.min() < 15
    narrow = make_split(table, "world", shares=(0.6, 0.2, 0.2), buffer_km=1)
    assert (narrow == "buffer").sum() < (parts == "buffer").sum()


def drive_at(start, count, lat=0.0, *, step_s=2, step_deg=0.0001):
    """Seconds, latitudes and longitudes of a drive eastward, a photo each 11 m."""
    return start + step_s * np.arange(count), np.full(count, lat), step_deg * np.arange(count)


def table_of(*drives, **columns):
    second, lat, lon = (np.concatenate(parts) for parts in zip(*drives, strict=True))
    return photos(lat, lon, captured_at=(second + 1.6e9).astype(np.int64), **columns)


def test_train_comes_before_val_before_test_and_drives_stay_whole():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 20)
    second = np.repeat(rng.permutation(60) * 1000.0, 20) + np.tile(np.arange(20), 60)
    parts = split_time(second, groups, (0.7, 0.1, 0.2))
    assert second[parts == "train"].max() < second[parts == "val"].min()
    assert second[parts == "val"].max() < second[parts == "test"].min()
    assert straddling(groups, parts) == []
    assert shares_of(parts) == pytest.approx([0.7, 0.1, 0.2], abs=0.01)
    assert set(split_time(second, groups, (0.8, 0, 0.2))) == {"train", "test"}
    assert set(split_time(second, groups, (0.8, 0.2, 0))) == {"train", "val"}


def test_a_drive_astride_of_the_moment_and_a_photo_without_time_are_in_no_part():
    second = np.r_[np.arange(100.0), np.arange(100.0) + 200, [50.0, 250.0], np.nan]
    groups = np.r_[np.zeros(100), np.ones(100), [2, 2], 3]
    parts = split_time(second, groups, (0.5, 0, 0.5))
    assert set(parts[:100]) == {"train"}
    assert set(parts[100:200]) == {"test"}
    assert parts[200:].tolist() == ["buffer"] * 3


def test_a_split_in_time_says_its_days_and_what_cannot_be_divided():
    table = table_of(*(drive_at(86_400.0 * day, 10) for day in range(10)), sequence=np.repeat(list("abcdefghij"), 10))
    parts = make_split(table, "time", shares=(0.7, 0.1, 0.2))
    days = part_days(table, parts)
    assert list(days.values()) == [("2020-09-13", "2020-09-19"), ("2020-09-20",) * 2, ("2020-09-21", "2020-09-22")]
    with pytest.raises(BadRecipeError, match="1 drives cannot be divided in time into 80% train, 20% test"):
        make_split(table.take(np.arange(10)), "time", shares=(0.8, 0, 0.2))
    with pytest.raises(BadRecipeError, match="no value in the column 'captured_at' is a time, such as 'noon'"):
        make_split(photos([1, 2, 3], 5, captured_at="noon"), "time")


def test_days_and_uploaders_are_groups_and_may_be_joined():
    written = ["2024-07-09 23:30:00+02:00", "2024:07:09 08:00:00", "2024-07-10T00:10:00+02:00", "2024-07-10"]
    table = photos([1, 2, 3, 4], 5, captured_at=written, creator=["ann", "bob", "ann", None])
    day = groups_of(table, "day")
    assert day[0] == day[1] != day[2] == day[3]  # the day where it was taken, not that of Greenwich
    who = groups_of(table, "uploader")
    assert who[0] == who[2]
    assert len(set(groups_of(table, "uploader+day"))) == 4


def test_a_drive_that_was_cut_or_uploaded_twice_is_one_drive():
    first, rest = drive_at(0, 50), drive_at(100, 50)
    rest = (rest[0], rest[1], rest[2] + 0.005)  # goes on where the first ended, 2 s later
    again, other = drive_at(0.4, 100), drive_at(3600, 100)
    table = table_of(first, rest, again, other, sequence=np.repeat(["a", "b", "A", "c"], [50, 50, 100, 100]))
    drive = groups_of(table, "drive")
    assert drive_source(table) == "sequence"
    assert len(set(drive)) == 2
    assert len(set(drive[:200])) == 1


def test_without_sequences_drives_start_from_uploader_and_day_or_are_rebuilt():
    table = table_of(drive_at(0, 30), drive_at(600, 30), creator="ann")
    assert drive_source(table) == "uploader+day"
    assert len(set(groups_of(table, "drive"))) == 1
    later = table_of(drive_at(0, 30), drive_at(1200, 30))
    nobody = photos(later.lat, later.lon, captured_at=later.frame["captured_at"])
    assert drive_source(nobody) == "rebuilt"
    assert len(set(groups_of(nobody, "drive"))) == 2
    timeless = photos([1, 2, 3], 5, sequence=["a", "a", "b"], captured_at="noon")
    assert groups_of(timeless, "drive").tolist() == [0, 0, 1]


def test_a_sequence_ends_at_a_pause_a_jump_or_another_uploader():
    drives = [drive_at(0, 20), drive_at(121 + 38, 20), drive_at(0, 20, lat=1.0)]
    table = table_of(*drives, creator=np.repeat(["ann", "ann", "bob"], 20))
    shuffled = np.random.default_rng(0).permutation(60)
    codes = np.empty(60, int)
    codes[shuffled] = rebuild_sequences(table.take(shuffled))
    assert codes.tolist() == np.repeat([0, 1, 2], 20).tolist()
    assert len(set(rebuild_sequences(table, max_gap_minutes=3))) == 2
    assert len(set(rebuild_sequences(table, max_step_km=0.005))) == 60
    bare = photos(np.repeat([0.0, 0.5], 5), 7)  # no time at all: the order of the rows
    assert rebuild_sequences(bare).tolist() == [0] * 5 + [1] * 5


def pairs_found(true, rebuilt):
    """Recall and precision over pairs of photos: of those in one true sequence, and of those put into one."""
    from sklearn.metrics.cluster import pair_confusion_matrix

    ((_, wrong), (missed, found)) = pair_confusion_matrix(true, rebuilt)
    return found / (found + missed), found / (found + wrong)


def test_rebuilt_sequences_of_real_tables_find_most_pairs_that_truly_belong_together(streetscapes, imageo, neuchatel):
    recall, precision = pairs_found(streetscapes.groups("sequence"), rebuild_sequences(streetscapes))
    assert (recall, precision) == pytest.approx((1.0, 0.821), abs=0.001)
    recall, precision = pairs_found(imageo.groups("sequence"), rebuild_sequences(imageo))
    assert (recall, precision) == pytest.approx((0.811, 0.724), abs=0.001)
    by_rows = rebuild_sequences(neuchatel)
    assert pairs_found(neuchatel.groups("sequence"), by_rows) == pytest.approx((0.425, 0.633), abs=0.001)
    clock = pl.col("gps_sec_s_").cast(pl.Int64) + 1_600_000_000  # seconds of the GPS week, alike for all drives
    timed = Photos(neuchatel.frame.with_columns(captured_at=clock), Path())
    assert pairs_found(neuchatel.groups("sequence"), rebuild_sequences(timed)) == pytest.approx((0.70, 0.89), abs=0.01)


SIX = list("abcdef")
HOURS = [f"2024-05-01 1{hour}:00:00" for hour in range(6)]


@pytest.mark.parametrize(
    ("columns", "by", "why"),
    [
        ({"sequence": SIX, "captured_at": HOURS, "place": SIX}, "drive", "there are sequences and times"),
        ({"sequence": SIX, "place": SIX}, "sequence", "no times to join"),
        ({"captured_at": HOURS, "place": SIX}, "drive", "there are times"),
        ({"captured_at": HOURS[:1] * 6, "place": SIX}, "place", "positions and times tell only 1 drive, the largest"),
        ({"captured_at": HOURS[:1] * 6}, "block", "with 100% of the photos: too few to hold some out"),
        ({"sequence": list("aaaaab"), "place": SIX}, "place", "sequences tell only 2 drives"),
        ({"place": SIX, "sequence": [None] * 6}, "place", "neither sequences nor times"),
        ({}, "block", "neither sequences nor times"),
    ],
)
def test_the_default_is_the_most_honest_split_that_the_columns_allow(columns, by, why):
    found, reason = honest_split(photos(np.arange(6) / 1000, 0, **columns))
    assert found == by
    assert why in reason


def test_a_drive_without_a_sequence_ends_at_a_gap_in_time_and_space():
    first = drive_at(0, 20)
    jumped = (first[0] + 60, first[1] + 0.02, first[2])  # 2 km off at once: another camera of the same walk
    waited = (first[0] + 400, first[1], first[2])  # on the same spot some minutes later
    gone = (first[0] + 1000, first[1] + 0.02, first[2])  # a quarter of an hour later, elsewhere
    abroad = (first[0], first[1] + 10, first[2])  # at the same time, in another town
    table = table_of(first, jumped, waited, gone, abroad)
    codes = drives(table)
    assert [len(set(codes[start : start + 20])) for start in range(0, 100, 20)] == [1] * 5
    assert codes[0] == codes[20] == codes[40]
    assert len(set(codes)) == 3


def test_a_part_of_the_photos_never_makes_one_drive_of_two():
    rng = np.random.default_rng(0)
    table = photos(rng.uniform(0, 0.3, 400), 5, captured_at=(1.6e9 + rng.uniform(0, 30_000, 400)).astype(int))
    whole = drives(table)
    for seed in range(5):
        some = np.flatnonzero(np.random.default_rng(seed).random(400) < 0.5)
        part = drives(table.take(some))
        for code in np.unique(part):
            assert len(set(whole[some[part == code]])) == 1


def test_photos_of_unknown_time_are_of_one_drive_as_they_follow_in_the_table():
    table = photos(np.r_[np.full(5, 0.0), np.full(5, 0.5)], 7, captured_at=[None] * 10)
    timed = photos(np.r_[table.lat, 0.9], 7, captured_at=[None] * 10 + ["2024-05-01 12:00:00"])
    assert drives(table).tolist() == [0] * 5 + [1] * 5
    codes = drives(timed)
    assert [len(set(codes[:5])), len(set(codes[5:10])), len(set(codes))] == [1, 1, 3]


def test_drives_of_real_tables_find_most_pairs_that_truly_belong_together(streetscapes, imageo, neuchatel):
    clock = pl.col("gps_sec_s_").cast(pl.Int64) + 1_600_000_000
    timed = Photos(neuchatel.frame.with_columns(captured_at=clock), Path())
    for table, expected in [(streetscapes, (1.0, 0.567)), (imageo, (0.828, 0.697)), (timed, (0.997, 0.854))]:
        unnamed = Photos(table.frame.drop("sequence", "creator", strict=False), table.root)
        assert pairs_found(table.groups("sequence"), drives(unnamed)) == pytest.approx(expected, abs=0.001)


def test_a_walk_with_several_cameras_is_not_cut_at_every_step(real_data):
    from graticule.photos.images import inspect

    manifest = pl.read_csv(real_data / "san_francisco/manifest.csv")
    when = [inspect((real_data / "san_francisco" / path).read_bytes()).captured_at for path in manifest["path"]]
    table = photos(manifest["lat"], manifest["lon"], captured_at=[moment.isoformat() for moment in when])
    assert sorted(np.bincount(drives(table))) == [7, 49, 539]
    assert len(set(rebuild_sequences(table))) > 100
    by, why = honest_split(table)
    assert by == "block"
    assert "only 3 drives, the largest with 91% of the photos" in why
    parts = make_split(table, "auto")
    verdict = audit(table.take(parts == "train"), table.take(parts == "test"))
    assert verdict.held_out is True
    assert verdict.shared_drives > 0


def test_photos_of_the_world_without_any_column_are_split_by_blocks_of_the_world():
    table = photos(np.linspace(-60, 60, 200), np.linspace(-170, 170, 200))
    assert honest_split(table)[0] == "world"
    assert set(make_split(table, "auto")) >= {"train", "test"}
