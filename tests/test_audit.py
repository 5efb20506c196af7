import itertools
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from test_splits import drive_at, table_of
from test_splits import photos as numbered

from graticule.geo import sphere
from graticule.partition import CellPartition
from graticule.photos.leakage import LeakAudit, audit
from graticule.photos.splits import groups_of, make_split, part_days
from graticule.photos.table import Photos

METRE = 0.001 / (sphere.EARTH_RADIUS_KM * np.pi / 180)  # in degrees of latitude


NUMBER = itertools.count()


def photos(*args, **columns):
    """Photos under names that no other table has: equal paths are equal photos."""
    table, folder = numbered(*args, **columns), next(NUMBER)
    return Photos(table.frame.with_columns(pl.format("{}/{}", pl.lit(folder), "path").alias("path")), table.root)


def renamed(table):
    return Photos(table.frame.with_columns(pl.format("other/{}", "path").alias("path")), table.root)


def train_and_test(table, by, **options):
    parts = make_split(table, by, **options)
    return table.take(parts == "train"), table.take(parts == "test")


def test_the_audit_counts_what_is_shared_and_how_near_it_is():
    metre = 0.001 / (sphere.EARTH_RADIUS_KM * np.pi / 180)  # in degrees of latitude
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
    assert found.verdict.startswith("Cannot tell whether held out: of places (by position to 0.001 degrees) training")
    assert "shares 2 with 100% of the test photos; the nearest training photo is 1 m away" in found.verdict
    assert found.verdict.count("places") == 1  # known, so not unknown
    assert "Unknown: sequences (no column 'sequence'), drives" in found.verdict
    with pytest.raises(ValueError, match="0 training and 1 test"):
        audit(photos([1], 2).take([]), photos([1], 2))


def test_a_new_drive_along_known_streets_is_told_from_an_unseen_block():
    train = photos([0, 1], 0, sequence=["a", "b"], place=["p", "q"])
    known = audit(train, photos([0], 0, sequence=["c"], place=["p"]))
    assert known.verdict.startswith("Held out by sequence, on places that training knows:")
    far = audit(train, photos([0.5], 0, sequence=["a"], place=["r"]))
    assert far.verdict.startswith("Held out by distance, not by sequence:")


def test_a_split_by_frame_of_real_drives_leaks_and_the_audit_says_how_much(neuchatel):
    by_frame = audit(*train_and_test(neuchatel, "random"))
    assert by_frame.shared_sequences == 13
    assert by_frame.shared_sequences_test_share == 1
    assert by_frame.nearest_within["within_25_m"] > 0.99
    assert by_frame.verdict.startswith("NOT held out")

    by_drive = audit(*train_and_test(neuchatel, "sequence"))
    assert by_drive.shared_sequences == 0
    assert by_drive.nearest_within["within_25_m"] < 0.6
    assert by_drive.verdict.startswith("Held out by sequence: no sequence is shared")

    by_block = audit(*train_and_test(neuchatel, "block", block_km=0.5, buffer_km=0.1))
    assert by_block.nearest_within["within_25_m"] == 0
    assert by_block.verdict.startswith("Held out by distance, not by sequence")


def test_a_photo_of_the_same_minute_and_corner_is_of_the_same_drive_whatever_its_sequence_is_called():
    test = table_of(drive_at(0, 40), sequence="a")
    again = audit(renamed(table_of(drive_at(0.4, 40), sequence="A")), test)
    assert (again.shared_sequences, again.same_drive, again.held_out) == (0, 40, False)
    assert again.verdict.startswith("NOT held out: no sequence is shared; 40 test photos (100%) were taken within")
    assert (again.shared_days, again.shared_days_test_share) == (1, 1.0)
    next_day = audit(renamed(table_of(drive_at(86_400, 40), sequence="A")), test)
    assert (next_day.same_drive, next_day.shared_days, next_day.held_out) == (0, 0, True)


def test_near_in_space_and_time_means_within_the_ellipsoid_of_100_m_and_10_s():
    rng = np.random.default_rng(0)
    sides = [
        photos(
            rng.uniform(-1, 1, n) * 300 * METRE, rng.uniform(-1, 1, n) * 300 * METRE,
            captured_at=(1.6e9 + rng.uniform(0, 60, n).round(3)).astype(str),
        )
        for n in (150, 100)
    ]  # fmt: skip
    km = sphere.great_circle_km(*(sides[1].lat[:, None], sides[1].lon[:, None]), sides[0].lat, sides[0].lon)
    s = np.subtract.outer(*(side.column("captured_at").astype(float) for side in sides[::-1]))
    assert audit(*sides).same_drive == ((km / 0.1) ** 2 + (s / 10) ** 2 <= 1).any(axis=1).sum()


def test_uploaders_are_compared_where_both_tables_name_them():
    ann, both = photos([0, 1], 0, creator="ann"), photos([0, 1, 2, 3], 0, uploader=["ann", "bob", "bob", None])
    found = audit(ann, both)
    assert (found.shared_uploaders, found.shared_uploaders_test_share) == (1, 0.25)
    assert audit(ann, photos([0], 0)).shared_uploaders is None


def test_the_worst_pairs_are_the_nearest_of_each_place_and_the_look_alikes():
    rng = np.random.default_rng(0)
    n = 400
    train, test = (
        photos(
            rng.uniform(0, 0.05, n), rng.uniform(0, 0.05, n),
            dhash=pl.Series([None, *rng.integers(0, 2**63, n - 1).tolist()], dtype=pl.UInt64), licence="CC-BY-SA-4.0",
        )
        for _ in range(2)
    )  # fmt: skip
    frame = test.frame.with_row_index().with_columns(
        dhash=pl.when(pl.col("index") == 7).then(train.frame["dhash"][9] ^ np.uint64(3)).otherwise("dhash"),
        lat=pl.when(pl.col("index") == 7).then(train.lat[9] + 30 * METRE).otherwise("lat"),
        lon=pl.when(pl.col("index") == 7).then(train.lon[9]).otherwise("lon"),
    )
    test = Photos(frame.drop("index"), Path())
    pairs = audit(train, test).worst
    [alike] = [pair for pair in pairs if pair.why == "alike"]
    assert (Path(alike.test["path"]).name, Path(alike.train["path"]).name, alike.bits) == ("7.jpg", "9.jpg", 2)
    assert alike.distance_km == pytest.approx(0.03, rel=1e-6)
    assert alike.test["licence"] == "CC-BY-SA-4.0"
    near = [pair for pair in pairs if pair.why == "nearest"]
    km = sphere.great_circle_km(test.lat[:, None], test.lon[:, None], train.lat, train.lon).min(axis=1)
    assert near[0].distance_km == pytest.approx(km.min())
    assert len({(round(p.test["lat"], 3), round(p.test["lon"], 3)) for p in near}) == len(near) == 6
    assert [p.distance_km for p in near] == sorted(p.distance_km for p in near)


def test_a_sequence_split_of_real_streets_leaks_where_a_drive_was_uploaded_twice(streetscapes):
    # 427 photos of one drive through Stuttgart are on KartaView under one sequence and on Mapillary under two.
    assert (len(streetscapes), len(set(streetscapes.groups("sequence")))) == (2319, 29)
    cells = CellPartition.fit(streetscapes.lat, streetscapes.lon, split_above=100, drop_below=10)
    assert (len(cells), int((cells.assign(streetscapes.lat, streetscapes.lon) < 0).sum())) == (50, 40)
    shares = (0.7, 0.1, 0.2)
    random = audit(*train_and_test(streetscapes, "random", shares=shares))
    assert (random.shared_sequences, random.shared_sequences_test_share, random.same_drive) == (26, 1, 464)
    assert random.nearest_within["within_5_m"] == pytest.approx(0.866, abs=0.001)
    by_sequence = audit(*train_and_test(streetscapes, "sequence", shares=shares))
    assert (by_sequence.shared_sequences, by_sequence.same_drive, by_sequence.test_photos) == (0, 191, 461)
    assert by_sequence.held_out is False
    by_drive = audit(*train_and_test(streetscapes, "drive", shares=shares))
    assert (by_drive.shared_sequences, by_drive.same_drive, by_drive.held_out) == (0, 0, True)
    assert by_drive.nearest_within["within_5_m"] == pytest.approx(0.238, abs=0.001)
    assert len(set(groups_of(streetscapes, "drive"))) == 20
    unseen = audit(*train_and_test(streetscapes, "block", shares=shares))
    assert unseen.nearest_within["within_100_m"] == 0
    assert unseen.held_out is True
    cities = audit(*train_and_test(streetscapes, "city", shares=(0.7, 0, 0.3)))
    assert cities.median_nearest_km > 10_000


def test_the_published_split_of_global_streetscapes_shares_three_sequences(imageo):
    assert (len(imageo), imageo.frame["city"].n_unique(), imageo.frame["country"].n_unique()) == (6152, 358, 111)
    found = audit(*train_and_test(imageo, "column"))
    test = imageo.frame["split"] == "test"
    assert (found.train_photos, found.test_photos, found.shared_sequences) == (5039, 1113, 3)
    assert (found.same_drive, found.shared_days, found.held_out) == (0, 178, False)
    assert set(imageo.frame["city_id"].filter(test)).isdisjoint(imageo.frame["city_id"].filter(~test))
    # A spreadsheet has been at this table: ids that begin with - became #NAME?, one "sequence" of five continents.
    assert (imageo.frame["sequence"] == "#NAME?").sum() == 45
    by_city = audit(*train_and_test(imageo, "city", shares=(0.7, 0.1, 0.2)))
    assert by_city.shared_sequences == 1
    assert by_city.verdict.startswith("Held out by distance, not by sequence")


def test_real_photos_before_a_day_train_and_photos_after_it_test(imageo):
    parts = make_split(imageo, "time", shares=(0.7, 0.1, 0.2))
    assert part_days(imageo, parts) == {
        "train": ("2000-01-01", "2020-07-16"),  # eight photos of cameras whose clock had been reset
        "val": ("2020-07-17", "2020-12-18"),
        "test": ("2020-12-18", "2023-04-21"),
    }
    assert audit(imageo.take(parts == "train"), imageo.take(parts == "test")).shared_days == 0


def test_the_worst_finding_decides_also_where_places_are_kept_apart():
    drive = {"place": ["p"] * 40, "captured_at": [f"2024-05-01 12:00:{i:02}" for i in range(40)]}
    at = np.arange(40) * 2 * METRE
    test = photos(at, 0, **drive | {"place": ["q"] * 40})
    found = audit(photos(at + METRE, 0, **drive), test)
    assert (found.shared_places, found.same_drive, found.held_out) == (0, 40, False)
    look = np.arange(40).astype(np.uint64) << np.uint64(8)
    alike = audit(photos(at + METRE, 0, place=["p"] * 40, dhash=look), photos(at, 0, place=["q"] * 40, dhash=look))
    assert (alike.shared_places, alike.near_duplicates, alike.held_out) == (0, 40, False)
    assert "more than the 5% allowed" in alike.verdict


def test_a_few_look_alikes_are_named_and_do_not_spoil_a_test():
    look = np.full(40, 0xFFFF0000, np.uint64)
    look[0] = 0
    at = np.arange(40) * 50 * METRE
    train = photos(at + METRE, 0, place=["p"] * 40, dhash=np.where(np.arange(40) == 0, 0, 0x0F0F).astype(np.uint64))
    found = audit(train, photos(at, 0, place=["q"] * 40, dhash=look))
    assert (found.near_duplicates, found.held_out) == (1, True)


def test_the_same_file_on_both_sides_is_never_held_out(tmp_path):
    frame = pl.DataFrame({"path": ["a.jpg", "b.jpg"], "lat": [1.0, 2.0], "lon": [3.0, 4.0]})
    train = Photos(frame, tmp_path)
    moved = frame.with_columns(
        pl.format("../{}/{}", pl.lit(tmp_path.name), "path").alias("path"), lat=pl.col("lat") + 9
    )
    found = audit(train, Photos(moved, tmp_path))
    assert (found.identical, found.held_out) == (2, False)
    assert found.verdict.startswith("NOT held out: 2 test photos (100%) are training photos themselves")
    digest = pl.Series("sha256", ["x", "y"])
    copy = frame.with_columns(path=pl.lit("elsewhere") + pl.col("path"), lat=pl.col("lat") + 9).with_columns(digest)
    assert audit(Photos(frame.with_columns(digest), tmp_path), Photos(copy, tmp_path)).identical == 2


def test_photos_that_mostly_stand_where_training_photos_stand_are_not_held_out():
    found = audit(photos([0, 1, 2], 0), photos([0, 1, 5], 0))
    assert found.held_out is False
    assert "67% of the test photos stand exactly where a training photo stands" in found.verdict


def test_a_split_by_rebuilt_drives_is_known_to_the_verdict():
    table = table_of(*(drive_at(4000.0 * n, 20, lat=0.01 * (n % 2) + n / 1e5) for n in range(10)))
    train, test = train_and_test(table, "auto")
    found = audit(train, test)
    assert (found.shared_drives, found.held_out) == (0, True)
    assert found.verdict.startswith(
        "Held out by drive, rebuilt from positions and times: no drive is shared, as positions and times tell them"
    )
    by_frame = audit(*train_and_test(table, "random"))
    assert by_frame.shared_drives > 5
    assert by_frame.held_out is False  # within 10 s of a training photo
    some = np.arange(0, 200, 20)
    guessed = audit(photos(table.lat[some], 0.0005, captured_at=table.frame["captured_at"][some]),
                    photos(table.lat[some], 0, captured_at=table.frame["captured_at"][some] + 60))  # fmt: skip
    assert guessed.shared_drives == 10
    assert guessed.held_out is None  # a rebuilt drive may be two: it is no proof


def test_where_a_time_is_missing_no_drive_is_rebuilt_to_acquit():
    train = photos([0.0, 1.0], 0, captured_at=["2024-05-01 12:00:00", None])
    found = audit(train, photos([2.0], 0, captured_at=["2024-05-02 12:00:00"]))
    assert found.shared_drives is None
