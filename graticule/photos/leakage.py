"""What training photos give away about test photos: how near they are, what they share, and the worst pairs."""

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from graticule.geo import sphere
from graticule.photos.columns import is_empty, seconds, uploader_column
from graticule.photos.drives import drive_points, drives
from graticule.photos.images import hamming
from graticule.photos.table import PLACE_DECIMALS, Photos
from graticule.photos.times import read_times

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

NEAREST_KM = (0.005, 0.025, 0.1, 1, 5, 25)
# 5 m: the share that Lilja et al., Localization Is All You Evaluate (CVPR 2024), give for official splits
DUPLICATE_BITS = 4  # of the 64 of a difference hash
DUPLICATE_KM = 0.1
DUPLICATES_LEAK = 0.05  # share of test photos with a near-duplicate in training from which a test is not held out
SAME_SPOT_KM = 1e-6
WORST = 6  # pairs kept of each kind
UNTIDY = r"//|/$|^$|(^|/)\.\.?(/|$)"  # paths that os.path.abspath writes otherwise
SHOWN = ("path", "lat", "lon", "captured_at", "sequence", "place", "attribution", "licence")


@dataclass(frozen=True, slots=True)
class Pair:
    """A test photo and the training photo that gives most away about it.

    Attributes:
        why: ``same drive`` (100 m and 10 s apart at most), ``alike`` (a near-duplicate) or ``nearest``.
        bits: in which the difference hashes differ, of 64; none where one is missing.
        seconds: from the one to the other; none where a time is missing.
        test, train: what is known of each: ``path``, ``lat``, ``lon`` and any of ``captured_at``, ``sequence``,
            ``place``, ``attribution``, ``licence``. Not the uploader: a page that is passed on names no person.
    """

    why: str
    distance_km: float
    bits: int | None
    seconds: float | None
    test: dict[str, Any]
    train: dict[str, Any]


@dataclass(frozen=True, slots=True)
class LeakAudit:
    """How much of the test photos training has already seen. None: the column that would tell is not there.

    Attributes:
        median_nearest_km: median distance from a test photo to the nearest training photo.
        nearest_within: share of test photos whose nearest training photo is no farther than that, by
            ``within_5_m`` ... ``within_25_km``.
        nearest_photos: the histogram: number of test photos ``up_to_5_m``, from there ``up_to_25_m``, ...,
            ``up_to_25_km``, and ``beyond``.
        shared_sequences: sequences with photos on both sides.
        shared_sequences_test_share: share of test photos that belong to one.
        shared_places, shared_places_test_share: the same of places; by ``place_from``, the column ``place``
            or the position rounded to 0.001 degrees.
        shared_uploaders, shared_uploaders_test_share, shared_days, shared_days_test_share: the same of the
            column ``creator`` or ``uploader``, and of the calendar days of ``captured_at``.
        same_drive: test photos that have a training photo so near in space and time that one drive took both,
            whatever the sequences are called; see :func:`graticule.photos.drives.drive_points`.
        shared_drives, shared_drives_test_share: where no column ``sequence`` tells and every photo has a time: drives
            rebuilt of both sides together that have photos on both; see :func:`graticule.photos.drives.drives`.
        near_duplicates: test photos that have a training photo within 100 m whose difference hash differs
            in at most 4 of 64 bits. Look-alikes farther off, such as two black frames, give no answer away.
        identical: test photos that are also training photos: the same file, or the same bytes by ``sha256``.
        held_out: whether a number measured on these test photos may be called held out; none: cannot tell. The worst
            finding decides.
        verdict: all of it in a sentence.
        worst: pairs across the two sides, of each kind the worst at most 6 places.
    """

    train_photos: int
    test_photos: int
    median_nearest_km: float
    nearest_within: dict[str, float]
    nearest_photos: dict[str, int]
    shared_sequences: int | None
    shared_sequences_test_share: float | None
    shared_places: int
    shared_places_test_share: float
    place_from: str
    shared_uploaders: int | None
    shared_uploaders_test_share: float | None
    shared_days: int | None
    shared_days_test_share: float | None
    same_drive: int | None
    near_duplicates: int | None
    held_out: bool | None
    verdict: str
    worst: list[Pair]
    identical: int = 0
    shared_drives: int | None = None
    shared_drives_test_share: float | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "LeakAudit":
        return cls(**value | {"worst": [Pair(**pair) for pair in value["worst"]]})


def audit(train: Photos, test: Photos) -> LeakAudit:
    """Measure what training photos give away about test photos.

    Raises:
        ValueError: one of the two holds no photo.
    """
    if not len(train) or not len(test):
        raise ValueError(f"nothing to compare: {len(train)} training and {len(test)} test photos")
    nearest_km, nearest = sphere.nearest_km(test.lat, test.lon, train.lat, train.lon)
    names = [f"{km:g}_km" if km >= 1 else f"{km * 1000:g}_m" for km in NEAREST_KM]
    bins = np.bincount(np.searchsorted(NEAREST_KM, nearest_km), minlength=len(names) + 1)
    within = {f"within_{name}": float((nearest_km <= km).mean()) for name, km in zip(names, NEAREST_KM, strict=True)}

    def in_both(name: str) -> bool:
        return not (is_empty(train, name) or is_empty(test, name))

    sequences = _shared(_text(train, "sequence"), _text(test, "sequence")) if in_both("sequence") else None
    if in_both("place"):
        place_from = "place"
        places = _shared(_text(train, "place"), _text(test, "place"))
    else:
        place_from = "position to 0.001 degrees"
        keys = [sphere.position_keys(photos.lat, photos.lon, PLACE_DECIMALS) for photos in (train, test)]
        places = _shared(*(pl.Series(key) for key in keys))
    columns = uploader_column(train), uploader_column(test)
    uploaders = _shared(_text(train, columns[0]), _text(test, columns[1])) if columns[0] and columns[1] else None
    times = [read_times(photos.frame["captured_at"]) for photos in (train, test)] if in_both("captured_at") else None
    days = None
    together = alike = np.empty((0, 2), np.int64)
    if times and all(table["day"].null_count() < len(table) for table in times):
        days = _shared(times[0]["day"].cast(pl.String), times[1]["day"].cast(pl.String))
    timed = bool(times) and all(table["second"].null_count() < len(table) for table in times or ())
    if times and timed:
        together = _same_drive(train, test, *(table["second"] for table in times))
    rebuilt = _shared_drives(train, test) if timed and sequences is None else None
    hashes = [_hashes(photos) for photos in (train, test)]
    hashed = all(column.null_count() < len(column) for column in hashes)
    if hashed:
        alike = _near_duplicates(train, test, *hashes)
    same_drive = len(together) if timed else None
    duplicates = len(alike) if hashed else None
    identical = int((_in_training(train, test, _locations) | _in_training(train, test, _digests)).sum())
    held_out, verdict = _verdict(
        sequences,
        places,
        place_from,
        rebuilt,
        same_drive,
        duplicates,
        identical,
        float((nearest_km <= SAME_SPOT_KM).mean()),
        len(test),
        within,
        float(np.median(nearest_km)),
    )
    by_distance = np.stack([np.argsort(nearest_km, kind="stable")] * 2, axis=1)
    by_distance[:, 1] = nearest[by_distance[:, 0]]
    worst = _worst("same drive", together, train, test) + _worst("alike", alike, train, test)
    worst += _worst("nearest", by_distance, train, test)
    return LeakAudit(
        train_photos=len(train),
        test_photos=len(test),
        median_nearest_km=float(np.median(nearest_km)),
        nearest_within=within,
        nearest_photos=dict(zip([*(f"up_to_{name}" for name in names), "beyond"], bins.tolist(), strict=True)),
        shared_sequences=sequences[0] if sequences else None,
        shared_sequences_test_share=sequences[1] if sequences else None,
        shared_places=places[0],
        shared_places_test_share=places[1],
        place_from=place_from,
        shared_uploaders=uploaders[0] if uploaders else None,
        shared_uploaders_test_share=uploaders[1] if uploaders else None,
        shared_days=days[0] if days else None,
        shared_days_test_share=days[1] if days else None,
        same_drive=same_drive,
        near_duplicates=duplicates,
        held_out=held_out,
        verdict=verdict,
        worst=worst,
        identical=identical,
        shared_drives=rebuilt[0] if rebuilt else None,
        shared_drives_test_share=rebuilt[1] if rebuilt else None,
    )


def _verdict(
    sequences: tuple[int, float] | None,
    places: tuple[int, float],
    place_from: str,
    drives: tuple[int, float] | None,
    same_drive: int | None,
    duplicates: int | None,
    identical: int,
    same_spot: float,
    photos: int,
    within: dict[str, float],
    median_km: float,
) -> tuple[bool | None, str]:
    facts, unknown = [], []
    named_places = places if place_from == "place" else None
    far = within["within_100_m"] == 0  # as a block split with a buffer makes it
    leaks = False

    def part(count: int) -> str:
        return f"{count} test photos ({_share(count / photos)})"

    if identical:
        leaks = True
        facts.append(f"{part(identical)} are training photos themselves")
    for name, found in (("sequence", sequences), ("place", named_places)):
        if found is None and name == "place":
            continue  # known by position, see below
        if found is None and drives is not None:
            count = "no drive is" if not drives[0] else "1 drive is" if drives[0] == 1 else f"{drives[0]} drives are"
            among = f" with {_share(drives[1])} of the test photos" if drives[0] else ""
            facts.append(f"{count} shared{among}, as positions and times tell them (no column 'sequence')")
        elif found is None:
            unknown.append(f"{name}s (no column {name!r})")
        elif found[0]:
            names = name if found[0] == 1 else f"{name}s"
            facts.append(f"training shares {found[0]} {names} with {_share(found[1])} of the test photos")
        else:
            facts.append(f"no {name} is shared")
    if same_drive is None:
        unknown.append("drives under other names (no column 'captured_at')")
    elif same_drive:
        leaks = leaks or sequences is not None or named_places is not None or bool(places[0])
        facts.append(f"{part(same_drive)} were taken within 100 m and 10 s of a training photo, so on the same drive")
    if duplicates is None:
        unknown.append("near-duplicates (no column 'dhash')")
    elif duplicates:
        allowed = f", more than the {DUPLICATES_LEAK:.0%} allowed" if duplicates > DUPLICATES_LEAK * photos else ""
        leaks = leaks or bool(allowed)
        facts.append(f"{part(duplicates)} have a near-duplicate in training{allowed}")
    if same_spot > 0.5 and sequences is named_places is None:  # where cameras are fixed, those columns decide
        leaks = True
        facts.append(f"{_share(same_spot)} of the test photos stand exactly where a training photo stands")
    if named_places is None:
        shared = f"training shares {places[0]} with {_share(places[1])} of the test photos"
        facts.append(f"of places (by {place_from}) {shared if places[0] else 'none is shared'}")
    facts.append(
        f"the nearest training photo is {sphere.format_km(median_km)} away in the median, "
        f"and within 5 m for {_share(within['within_5_m'])} of the test photos"
    )
    shared_sequences = sequences is not None and bool(sequences[0])
    held_out: bool | None
    if leaks or (shared_sequences and not far):
        held_out, start = False, "NOT held out"
    elif shared_sequences:
        held_out, start = True, "Held out by distance, not by sequence"
    elif sequences is not None:
        known = ", on places that training knows" if named_places and named_places[0] else ""
        held_out, start = True, f"Held out by sequence{known}"
    elif drives is not None and not drives[0]:
        # Rebuilt drives are rather too long than cut, so none in common says much; one in common says less.
        held_out, start = True, "Held out by drive, rebuilt from positions and times"
    elif named_places is not None:
        held_out = not named_places[0]
        start = "Held out by place" if held_out else "NOT held out"
    elif far:
        held_out, start = True, "Held out by distance"
    else:
        held_out, start = None, "Cannot tell whether held out"
    end = f". Unknown: {', '.join(unknown)}" if unknown else ""
    return held_out, f"{start}: {'; '.join(facts)}{end}."


def _in_training(train: Photos, test: Photos, key: Callable[[Photos], pl.Series]) -> NDArray[np.bool_]:
    """Which test photos have a key that a training photo has too, shape ``(N,)``; null is no key."""
    return key(test).is_in(key(train).drop_nulls().unique().implode()).fill_null(value=False).to_numpy()


def _locations(photos: Photos) -> pl.Series:
    """Where each photo's file lies, from the root of the file system; a link stays one."""
    root, paths = os.path.abspath(photos.root), photos.frame["path"]  # noqa: PTH100
    odd = paths.str.contains(UNTIDY) if os.sep == "/" else pl.Series([True]).new_from_index(0, len(paths))
    # Ten million objects of pathlib would take gigabytes: they are for the few paths that need them.
    tidied = pl.Series([os.path.abspath(photos.root / path) for path in paths.filter(odd)], dtype=pl.String)  # noqa: PTH100
    here = pl.when(paths.str.starts_with("/")).then(paths).otherwise(pl.lit(root.rstrip("/") + "/") + paths)
    return pl.select(here).to_series().scatter(odd.arg_true(), tidied)


def _digests(photos: Photos) -> pl.Series:
    """SHA-256 of each photo's bytes where the table has it."""
    return _text(photos, "sha256") if photos.has("sha256") else pl.Series([None] * len(photos), dtype=pl.String)


def _share(share: float) -> str:
    return "less than 1%" if 0 < share < 0.005 else f"{share:.0%}"


def _text(photos: Photos, name: str) -> pl.Series:
    """One column as text: what is a number in one table may be text in another."""
    return photos.frame[name].cast(pl.String)


def _shared(train: pl.Series, test: pl.Series) -> tuple[int, float]:
    """How many values stand on both sides, and the share of test rows that have one; null is no value."""
    both = test.is_in(train.drop_nulls().unique().implode()).fill_null(value=False)
    return test.filter(both).n_unique(), float(both.to_numpy().mean())


def _shared_drives(train: Photos, test: Photos) -> tuple[int, float] | None:
    """How many drives of both tables together have photos on both sides, and the share of test photos on one.

    Nothing where a photo has no time: nobody knows who drove by when it was taken.
    """
    if np.isnan(np.concatenate([seconds(photos) for photos in (train, test)])).any():
        return None
    named = [uploader_column(photos) for photos in (train, test)]
    frames = [
        photos.frame.select("path", "lat", "lon").with_columns(
            _written_time(photos.frame["captured_at"]),
            pl.lit(None, pl.String).alias("creator") if name is None else _text(photos, name).alias("creator"),
        )
        for photos, name in zip((train, test), named if all(named) else (None, None), strict=True)
    ]
    codes = pl.Series(drives(Photos(pl.concat(frames), train.root)))
    return _shared(codes.head(len(train)), codes.tail(len(test)))


def _written_time(column: pl.Series) -> pl.Series:
    """A column of times as text, in UTC where they know their zone."""
    if isinstance(column.dtype, pl.Datetime) and column.dtype.time_zone:
        column = column.dt.convert_time_zone("UTC")
    return column.cast(pl.String)


def _same_drive(train: Photos, test: Photos, train_s: pl.Series, test_s: pl.Series) -> Ints:
    """Pairs (test row, train row), one for each test photo that has a training photo near in space and time."""
    from scipy.spatial import KDTree

    rows = [second.is_not_null().arg_true().to_numpy() for second in (train_s, test_s)]
    points = [
        drive_points(photos.lat[some], photos.lon[some], second.to_numpy()[some])
        for photos, second, some in ((train, train_s, rows[0]), (test, test_s, rows[1]))
    ]
    apart, index = KDTree(points[0]).query(points[1], distance_upper_bound=np.nextafter(1, 2))
    found = np.argsort(apart, kind="stable")[: np.isfinite(apart).sum()]
    return np.stack([rows[1][found], rows[0][index[found]]], axis=1).astype(np.int64)


def _hashes(photos: Photos) -> pl.Series:
    """Difference hashes; null where there is none, or one of another kind."""
    if not photos.has("dhash"):
        return pl.Series([None] * len(photos), dtype=pl.UInt64)
    return photos.frame["dhash"].cast(pl.UInt64, strict=False)


def _near_duplicates(train: Photos, test: Photos, train_hash: pl.Series, test_hash: pl.Series) -> Ints:
    """Pairs (test row, train row) of each test photo with a look-alike near by; the most alike first.

    Compares all pairs in reach, some at a time.
    """
    rows = [column.is_not_null().arg_true().to_numpy() for column in (train_hash, test_hash)]
    hashes = [column.drop_nulls().to_numpy() for column in (train_hash, test_hash)]  # with gaps they would be floats
    points = [
        sphere.unit_vectors(photos.lat, photos.lon)[some] for photos, some in zip((train, test), rows, strict=True)
    ]
    found, found_bits = [np.empty((0, 2), np.int64)], [np.empty(0, np.int64)]
    for i, j, apart in sphere.near_pairs(points[1], points[0], DUPLICATE_KM / sphere.EARTH_RADIUS_KM):
        bits = hamming(hashes[1][i], hashes[0][j])
        some = np.flatnonzero(bits <= DUPLICATE_BITS)
        order = some[np.lexsort((apart[some], bits[some], i[some]))]
        first = order[np.unique(i[order], return_index=True)[1]]
        found.append(np.stack([rows[1][i[first]], rows[0][j[first]]], axis=1).astype(np.int64))
        found_bits.append(bits[first].astype(np.int64))
    best: Ints = np.concatenate(found)[np.argsort(np.concatenate(found_bits), kind="stable")]
    return best


def _worst(why: str, rows: Ints, train: Photos, test: Photos) -> list[Pair]:
    """The first of the pairs (test row, train row), one of a place, so that they are not all of one corner."""
    places = sphere.position_keys(test.lat[rows[:, 0]], test.lon[rows[:, 0]], PLACE_DECIMALS)
    chosen = rows[np.sort(np.unique(places, return_index=True)[1])[:WORST]]
    return [_pair(why, train.take([b]), test.take([a])) for a, b in chosen.tolist()]


def _pair(why: str, train: Photos, test: Photos) -> Pair:
    seconds = bits = None
    if train.has("captured_at") and test.has("captured_at"):
        moments = [read_times(photos.frame["captured_at"])["second"][0] for photos in (train, test)]
        seconds = None if None in moments else abs(moments[1] - moments[0])
    hashes = [_hashes(photos)[0] for photos in (train, test)]
    if None not in hashes:
        bits = int(hamming(*(np.array([value], np.uint64) for value in hashes))[0])
    return Pair(
        why=why,
        distance_km=float(sphere.great_circle_km(test.lat, test.lon, train.lat, train.lon)[0]),
        bits=bits,
        seconds=seconds,
        test=_known(test),
        train=_known(train),
    )


def _known(photo: Photos) -> dict[str, Any]:
    row = photo.frame.row(0, named=True)
    facts = {name: row[name] for name in SHOWN if row.get(name) is not None}
    return {name: value if isinstance(value, float) else str(value) for name, value in facts.items()}
