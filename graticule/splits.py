"""Train, val and test; folds; and the audit that tells how far apart they really are.

Frames of one drive lie metres apart and look alike. Split by frame, a network is examined on what it has
learned by heart, so the splits here keep whole places, drives or blocks of the map on one side.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from graticule import geo, s2
from graticule.errors import BadRecipeError
from graticule.images import hamming
from graticule.photos import PLACE_DECIMALS, Photos

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Strings = NDArray[np.str_]
Bools = NDArray[np.bool_]

PARTS = ("train", "val", "test")
BUFFER = "buffer"  # too near to a held-out photo to train on: in no part
SHARES = (0.8, 0.1, 0.1)
METHODS = ("random", "place", "sequence", "column", "block")
OTHER_NAMES = {"training": "train", "valid": "val", "validation": "val", "dev": "val", "testing": "test"}


def make_split(
    photos: Photos,
    by: str,
    *,
    shares: Sequence[float] = SHARES,
    seed: int = 0,
    block_km: float = 0.2,
    buffer_km: float = 0.1,
    strata: ArrayLike | None = None,
) -> Strings:
    """Say for each photo whether it is for ``train``, ``val`` or ``test``, or lies in the ``buffer``.

    Args:
        by: ``random``, by frame, as report A does it and nobody should; ``place`` or ``sequence``, whole
            ones; ``column``, as the table's own column ``split`` says; ``block``, see :func:`split_blocks`.
        shares: of train, val and test; 0 leaves a part out. Not used by ``column``.
        block_km, buffer_km: of ``block`` alone.
        strata: labels, shape ``(N,)``, such as the cell of each photo; ``random`` gives each the same shares.

    Raises:
        BadRecipeError: an unknown method or impossible shares, a column that is not there, or too few groups.
    """
    if by == "random":
        return split_random(len(photos), shares, seed, strata)
    if by == "block":
        return split_blocks(photos.lat, photos.lon, shares, seed, block_km=block_km, buffer_km=buffer_km)
    if by == "column":
        _need_column(photos, "split")
        return _own_split(photos.column("split"))
    if by not in METHODS:
        raise BadRecipeError(f"cannot split by {by!r}; choose one of {', '.join(METHODS)}")
    return split_groups(_groups(photos, by), shares, seed, name=by)


def make_folds(photos: Photos, k: int, by: str = "place", seed: int = 0, *, block_km: float = 0.2) -> Ints:
    """Number each photo's fold, 0 to k - 1, shape ``(N,)``: whole groups, folds of nearly equal size.

    Args:
        by: ``random``, ``place``, ``sequence``, ``block``, or any column of the table. A fold of blocks has
            no buffer yet: leave out what :func:`within_buffer` finds when you train on the other folds.

    Raises:
        BadRecipeError: fewer than two folds, a column that is not there, or fewer groups than folds.
    """
    if by == "random":
        return fold_groups(np.arange(len(photos)), k, seed, name="photo")
    if by == "block":
        return fold_groups(_blocks(photos.lat, photos.lon, block_km), k, seed, name="block")
    return fold_groups(_groups(photos, by), k, seed, name=by)


def split_random(
    count: int, shares: Sequence[float] = SHARES, seed: int = 0, strata: ArrayLike | None = None
) -> Strings:
    """Split by photo. Every stratum gets its shares to within one photo, the whole exactly."""
    ends = np.rint(np.cumsum(_checked_shares(shares)) * count).astype(np.int64)
    if len(np.unique([0, *ends])) <= np.count_nonzero(shares):
        raise BadRecipeError(f"{count} photos are too few for {_wanted(shares)}")
    labels = np.zeros(count) if strata is None else np.asarray(strata)
    _, codes, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    rng = np.random.default_rng(seed)
    # Deal each stratum evenly along [0, 1) in random order, from a random start, then cut at the shares.
    shuffled = rng.permutation(count)
    by_stratum = shuffled[np.argsort(codes[shuffled], kind="stable")]
    rank = np.empty(count)
    rank[by_stratum] = np.arange(count) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    order = np.argsort((rank + rng.random(len(sizes))[codes]) / sizes[codes], kind="stable")
    parts = np.empty(count, dtype="<U6")
    for part, photos in zip(PARTS, np.split(order, ends[:-1]), strict=True):
        parts[photos] = part
    return parts


def split_groups(groups: ArrayLike, shares: Sequence[float] = SHARES, seed: int = 0, *, name: str = "group") -> Strings:
    """Split by group, each whole on one side, with sizes near the shares even where groups are few.

    Larger groups are dealt first, at random among the parts with room for them and in proportion to that
    room: each part gets large and small groups alike, and the small ones of the end fill it up.

    Raises:
        BadRecipeError: fewer groups than parts.
    """
    labels, codes, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    wanted = np.flatnonzero(_checked_shares(shares))
    if len(labels) < len(wanted):
        raise BadRecipeError(
            f"there are only {len(labels)} {name}s, too few for {_wanted(shares)}: each part needs one of "
            f"its own. Split by something finer, leave a part out, or bring more {name}s"
        )
    rng = np.random.default_rng(seed)
    queue = _larger_first(sizes, rng)
    room = np.where(np.asarray(shares) > 0, np.asarray(shares) * sizes.sum(), -np.inf)
    part_of = np.full(len(sizes), -1)

    # Every part first draws one group, the smallest part before others: one that fits, or else one of the
    # smaller half, since with few drives the held-out shares may be smaller than any.
    for part in sorted(wanted, key=lambda part: room[part]):
        free = queue[part_of[queue] < 0]
        fits = free[sizes[free] <= room[part]]
        drawn = rng.choice(fits if len(fits) else free[-((len(free) + 1) // 2) :])
        part_of[drawn] = part
        room[part] -= sizes[drawn]

    for group, luck in zip(queue, rng.random(len(queue)), strict=True):
        if part_of[group] >= 0:
            continue
        open_room = np.where(room >= sizes[group], room, 0)
        reach = np.cumsum(open_room)
        part = np.searchsorted(reach, luck * reach[-1], side="right") if reach[-1] > 0 else room.argmax()
        part_of[group] = part
        room[part] -= sizes[group]
    parts: Strings = np.array([*PARTS, BUFFER])[part_of[codes]]
    return parts


def split_blocks(
    lat: ArrayLike,
    lon: ArrayLike,
    shares: Sequence[float] = SHARES,
    seed: int = 0,
    *,
    block_km: float,
    buffer_km: float,
) -> Strings:
    """Split by S2 cells about ``block_km`` wide, with a strip of ``buffer_km`` around what is held out.

    A train or val photo within ``buffer_km`` of a test photo, and a train photo within it of a val photo,
    goes to ``buffer``: two photos across a street must not be a question and its answer.

    Raises:
        BadRecipeError: too few blocks, or the buffer leaves a part without photos.
    """
    lats, lons = geo.check_latlon(lat, lon)
    parts = split_groups(_blocks(lats, lons, block_km), shares, seed, name="block")
    for held_out, others in (("test", ["train", "val"]), ("val", ["train"])):
        held, rest = parts == held_out, np.flatnonzero(np.isin(parts, others))
        near = within_buffer(lats[rest], lons[rest], lats[held], lons[held], buffer_km)
        parts[rest[near]] = BUFFER
    for part, share in zip(PARTS, shares, strict=True):
        if share > 0 and part not in parts:
            raise BadRecipeError(
                f"blocks of {geo.format_km(block_km)} with a buffer of {geo.format_km(buffer_km)} leave no "
                f"photo for {part}; take larger blocks or a narrower buffer"
            )
    return parts


def fold_groups(groups: ArrayLike, k: int, seed: int = 0, *, name: str = "group") -> Ints:
    """Deal groups, larger ones first, each to the fold that has the fewest photos so far."""
    _, codes, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    if k < 2:
        raise BadRecipeError(f"folds={k}: there must be 2 or more, one to test on and the rest to train on")
    if k > len(sizes):
        raise BadRecipeError(f"there are only {len(sizes)} {name}s, too few for {k} folds; take {len(sizes)} or fewer")
    filled = np.zeros(k, np.int64)
    fold_of = np.empty(len(sizes), np.int64)
    for group in _larger_first(sizes, np.random.default_rng(seed)):
        fold_of[group] = filled.argmin()
        filled[fold_of[group]] += sizes[group]
    return fold_of[codes]


def within_buffer(lat: ArrayLike, lon: ArrayLike, to_lat: ArrayLike, to_lon: ArrayLike, buffer_km: float) -> Bools:
    """Which of N points lie nearer than ``buffer_km`` to any of M others, shape ``(N,)``."""
    if not np.size(lat) or not np.size(to_lat) or buffer_km <= 0:
        return np.zeros(np.shape(lat), bool)
    return geo.nearest_km(lat, lon, to_lat, to_lon)[0] < buffer_km


NEAREST_KM = (0.005, 0.025, 0.1, 1, 5, 25)
# 5 m: the share that Lilja et al., Localization Is All You Evaluate (CVPR 2024), give for official splits
DUPLICATE_BITS = 4  # of the 64 of a difference hash
DUPLICATE_KM = 0.1


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
        near_duplicates: test photos that have a training photo within 100 m whose difference hash differs
            in at most 4 of 64 bits. Look-alikes farther off, such as two black frames, give no answer away.
        verdict: all of it in a sentence.
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
    near_duplicates: int | None
    verdict: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "LeakAudit":
        return cls(**value)


def audit(train: Photos, test: Photos) -> LeakAudit:
    """Measure what training photos give away about test photos.

    Raises:
        ValueError: one of the two holds no photo.
    """
    if not len(train) or not len(test):
        raise ValueError(f"nothing to compare: {len(train)} training and {len(test)} test photos")
    nearest_km, _ = geo.nearest_km(test.lat, test.lon, train.lat, train.lon)
    names = [f"{km:g}_km" if km >= 1 else f"{km * 1000:g}_m" for km in NEAREST_KM]
    bins = np.bincount(np.searchsorted(NEAREST_KM, nearest_km), minlength=len(names) + 1)
    within = {f"within_{name}": float((nearest_km <= km).mean()) for name, km in zip(names, NEAREST_KM, strict=True)}

    def in_both(name: str) -> bool:
        return not (_is_empty(train, name) or _is_empty(test, name))

    sequences = _shared(_texts(train, "sequence"), _texts(test, "sequence")) if in_both("sequence") else None
    if in_both("place"):
        place_from = "place"
        places = _shared(_texts(train, "place"), _texts(test, "place"))
    else:
        place_from = "position to 0.001 degrees"
        keys = [geo.position_keys(photos.lat, photos.lon, PLACE_DECIMALS) for photos in (train, test)]
        places = _shared(keys[0].tolist(), keys[1].tolist())
    duplicates = None
    if in_both("dhash"):
        duplicates = _near_duplicates(_with_hash(train), _with_hash(test))
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
        near_duplicates=duplicates,
        verdict=_verdict(
            sequences, places if place_from == "place" else None, duplicates, len(test), within, nearest_km
        ),
    )


def _verdict(
    sequences: tuple[int, float] | None,
    places: tuple[int, float] | None,
    duplicates: int | None,
    photos: int,
    within: dict[str, float],
    nearest_km: Floats,
) -> str:
    facts, unknown = [], []
    for name, found in (("sequence", sequences), ("place", places)):
        if found is None:
            unknown.append(f"{name}s (no column {name!r})")
        elif found[0]:
            names = name if found[0] == 1 else f"{name}s"
            facts.append(f"training shares {found[0]} {names} with {found[1]:.0%} of the test photos")
        else:
            facts.append(f"no {name} is shared")
    if duplicates is None:
        unknown.append("near-duplicates (no column 'dhash')")
    elif duplicates:
        facts.append(f"{duplicates} test photos ({duplicates / photos:.0%}) have a near-duplicate in training")
    facts.append(
        f"the nearest training photo is {geo.format_km(float(np.median(nearest_km)))} away in the median, "
        f"and within 5 m for {within['within_5_m']:.0%} of the test photos"
    )
    far = within["within_100_m"] == 0  # as a block split with a buffer makes it
    if sequences is not None and sequences[0]:
        start = "Held out by distance, not by sequence" if far else "NOT held out"
    elif sequences is not None:
        start = "Held out by sequence" + (", on places that training knows" if places and places[0] else "")
    elif places is not None:
        start = "NOT held out" if places[0] else "Held out by place"
    else:
        start = "Held out by distance" if far else "Cannot tell whether held out"
    end = f". Unknown: {', '.join(unknown)}" if unknown else ""
    return f"{start}: {'; '.join(facts)}{end}."


def _texts(photos: Photos, name: str) -> list[str | None]:
    """One column as text: what is a number in one table may be text in another."""
    return photos.frame[name].cast(str).to_list()


def _shared(train: Sequence[Any], test: Sequence[Any]) -> tuple[int, float]:
    """How many values stand on both sides, and the share of test rows that have one; None is no value."""
    both = set(train) & set(test) - {None}
    return len(both), float(np.mean([value in both for value in test]))


def _with_hash(photos: Photos) -> Photos:
    return photos.take(photos.frame["dhash"].is_not_null().to_numpy())


def _near_duplicates(train: Photos, test: Photos) -> int:
    """Test photos with a look-alike near by in training; compares all pairs in reach, some at a time."""
    from scipy import spatial

    kd_tree: Any = spatial.KDTree  # SciPy brings no types
    train_hash, test_hash = (photos.frame["dhash"].cast(pl.UInt64).to_numpy() for photos in (train, test))
    reach = DUPLICATE_KM / geo.EARTH_RADIUS_KM  # a chord this short is as long as its arc
    tree = kd_tree(geo.unit_vectors(train.lat, train.lon))
    points = geo.unit_vectors(test.lat, test.lon)
    pairs = np.cumsum(tree.query_ball_point(points, reach, return_length=True))
    found = 0
    for rows in np.split(np.arange(len(points)), np.flatnonzero(np.diff(pairs // 2_000_000)) + 1):
        near = kd_tree(points[rows]).sparse_distance_matrix(tree, reach, output_type="ndarray")
        bits = hamming(test_hash[rows][near["i"]], train_hash[near["j"]])
        found += len(np.unique(near["i"][bits <= DUPLICATE_BITS]))
    return found


def _blocks(lat: ArrayLike, lon: ArrayLike, block_km: float) -> NDArray[np.uint64]:
    """The S2 cell of each point, of the level whose cells are nearest to ``block_km`` wide on average."""
    face_km = geo.EARTH_RADIUS_KM * np.sqrt(4 * np.pi / 6)  # a square of a sixth of the Earth
    level = int(np.clip(np.rint(np.log2(face_km / block_km)), 0, s2.MAX_LEVEL))
    return s2.parents(s2.leaf_cells(lat, lon), level)


def _larger_first(sizes: Ints, rng: np.random.Generator) -> Ints:
    """Groups in random order, but by powers of two of their size, so that another seed is another split."""
    shuffled = rng.permutation(len(sizes))
    order: Ints = shuffled[np.argsort(-np.floor(np.log2(sizes[shuffled])), kind="stable")]
    return order


def _groups(photos: Photos, by: str) -> Ints:
    if by == "place":
        return photos.places()
    _need_column(photos, by)
    return photos.groups(by)


def _need_column(photos: Photos, name: str) -> None:
    if _is_empty(photos, name):
        raise BadRecipeError(
            f"the photos have no column {name!r} to split by, or it is empty; they have: "
            f"{', '.join(photos.frame.columns)}"
        )


def _is_empty(photos: Photos, name: str) -> bool:
    return not photos.has(name) or photos.frame[name].null_count() == len(photos)


def _own_split(values: NDArray[Any]) -> Strings:
    named = [str(value).strip().lower() for value in values]
    parts = np.array([OTHER_NAMES.get(value, value) for value in named])
    unknown = sorted(set(parts.tolist()) - {*PARTS, BUFFER})
    if unknown:
        raise BadRecipeError(
            f"the column 'split' holds {', '.join(map(repr, unknown[:5]))}; valid are {', '.join(PARTS)} and {BUFFER}"
        )
    if "train" not in parts:
        raise BadRecipeError("the column 'split' gives no photo to train")
    return parts


def _checked_shares(shares: Sequence[float]) -> Floats:
    values = np.asarray(shares, np.float64)
    if values.shape != (3,) or (values < 0).any() or abs(values.sum() - 1) > 1e-6 or values[0] == 0:
        raise BadRecipeError(
            f"shares={tuple(shares)}: train, val and test are three shares that sum to 1, train above 0"
        )
    return values


def _wanted(shares: Sequence[float]) -> str:
    return ", ".join(f"{share:.0%} {part}" for part, share in zip(PARTS, shares, strict=True) if share > 0)
