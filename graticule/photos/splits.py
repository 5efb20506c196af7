"""Train, val and test, and folds.

Frames of one drive lie metres apart and look alike. Split by frame, a network is examined on what it has
learned by heart, so the splits here keep whole places, drives, days or blocks of the map on one side.
:mod:`graticule.photos.leakage` tells how far apart the sides really are.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from graticule.errors import BadRecipeError
from graticule.geo import s2, sphere
from graticule.photos.columns import days, is_empty, joined, moments, uploader_column, uploaders
from graticule.photos.drives import drive_source, drives, rebuild_sequences, too_few
from graticule.photos.table import Photos
from graticule.photos.times import read_times

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Strings = NDArray[np.str_]
Bools = NDArray[np.bool_]

PARTS = ("train", "val", "test")
BUFFER = "buffer"  # in no part: too near to a held-out photo, across a moment that divides, or of unknown time
SHARES = (0.8, 0.1, 0.1)
METHODS = (
    "auto",
    "random",
    "place",
    "drive",
    "sequence",
    "rebuilt",
    "day",
    "uploader",
    "block",
    "world",
    "time",
    "column",
)
BLOCKS_KM = {"block": (0.2, 0.1), "world": (100.0, 10.0)}  # size and buffer where nothing is said
WORLD_SPLIT_KM = 500.0  # photos spread wider are split by blocks of the world
TRACKS = {"revisit": "drive", "unseen": "block"}  # the two honest tracks of a city, by how they are split
DEALT = 10_000  # groups dealt one by one; the smaller ones beyond are shuffled and cut, as nobody could tell
OTHER_NAMES = {"training": "train", "valid": "val", "validation": "val", "dev": "val", "testing": "test"}


def make_split(
    photos: Photos,
    by: str,
    *,
    shares: Sequence[float] = SHARES,
    seed: int = 0,
    block_km: float | None = None,
    buffer_km: float | None = None,
    strata: ArrayLike | None = None,
) -> Strings:
    """Say for each photo whether it is for ``train``, ``val`` or ``test``, or in no part: in the ``buffer``.

    Args:
        by: what stays whole on one side. ``auto``, see :func:`honest_split`; ``random``, nothing, as report A does
            (it leaks); ``time``, see :func:`split_time`; ``block`` (200 m wide, 100 m apart) or ``world`` (100
            km wide, 10 km apart), see :func:`split_blocks`; ``column``, as the table's own column ``split`` says; or a
            group of :func:`groups_of`, such as ``drive``, ``uploader+day`` or ``city``.
        shares: of train, val and test; 0 leaves a part out. Not used by ``column``.
        block_km, buffer_km: of ``block`` and ``world``, in place of the widths above.
        strata: labels, shape ``(N,)``, such as the cell of each photo; ``random`` gives each the same shares.

    Raises:
        BadRecipeError: impossible shares, a column that is not there, or too few groups.
    """
    if by == "auto":
        by, _ = honest_split(photos)
    if by == "random":
        return split_random(len(photos), shares, seed, strata)
    if by in BLOCKS_KM:
        block_km, buffer_km = block_sizes(by, block_km, buffer_km)
        return split_blocks(photos.lat, photos.lon, shares, seed, block_km=block_km, buffer_km=buffer_km)
    if by == "time":
        return split_time(moments(photos), groups_of(photos, "drive"), shares)
    if by == "column":
        _need_column(photos, "split")
        return _own_split(photos.column("split"))
    return split_groups(groups_of(photos, by), shares, seed, name=by)


def honest_split(photos: Photos) -> tuple[str, str]:
    """The most honest way to split that the columns of these photos allow, and why in a few words.

    By drive, where sequences or times tell enough of them, see :func:`graticule.photos.drives.too_few`.
    """
    timed, named = not is_empty(photos, "captured_at"), not is_empty(photos, "sequence")
    why = "there are neither sequences nor times"
    if timed or named:
        few = too_few(drives(photos))
        if not few and named:
            if timed:
                return "drive", "there are sequences and times: pieces of one drive under several ids stay together"
            return "sequence", "there are sequences, but no times to join pieces of one drive by"
        if not few:
            found = "photos of one uploader and day" if drive_source(photos) != "rebuilt" else "photos near in time"
            return "drive", f"there are times: {found} are taken for one drive"
        told = "sequences" if named else "positions and times"
        why = f"{told} tell only {few}: too few to hold some out"
    if not is_empty(photos, "place"):
        return "place", f"{why}; there are places"
    by = "world" if sphere.map_diagonal_km(photos.lat, photos.lon) > WORLD_SPLIT_KM else "block"
    return by, f"{why}; blocks of the map with a strip between them it is"


def make_folds(photos: Photos, k: int, by: str = "place", seed: int = 0, *, block_km: float | None = None) -> Ints:
    """Number each photo's fold, 0 to k - 1, shape ``(N,)``: whole groups, folds of nearly equal size.

    Args:
        by: ``random``, ``block``, ``world`` or a group of :func:`groups_of`. A fold of blocks has no buffer yet, see
            :func:`fold_masks`.

    Raises:
        BadRecipeError: fewer than two folds, a column that is not there, or fewer groups than folds.
    """
    name = "photo" if by == "random" else "block" if by in BLOCKS_KM else by
    return fold_groups(whole_groups(photos, by, block_km), k, seed, name=name)


def whole_groups(photos: Photos, by: str, block_km: float | None = None) -> Ints:
    """Codes of what stays whole in folds, shape ``(N,)``; arguments as of :func:`make_folds`."""
    if by == "random":
        return np.arange(len(photos))
    if by in BLOCKS_KM:
        return np.unique(_blocks(photos.lat, photos.lon, block_sizes(by, block_km)[0]), return_inverse=True)[1]
    return groups_of(photos, by)


def fold_masks(
    photos: Photos, k: int, by: str = "place", seed: int = 0, *, block_km: float | None, buffer_km: float | None
) -> list[tuple[Bools, Bools]]:
    """For each fold of :func:`make_folds` which photos may train and which are tested, shapes ``(N,)``.

    Blocks touch, so a photo nearer than the buffer to a tested one of another block is neither.
    """
    block_km, buffer_km = block_sizes(by, block_km, buffer_km)
    fold = make_folds(photos, k, by, seed, block_km=block_km)
    masks = []
    for number in range(k):
        test = fold == number
        train = ~test
        if by in BLOCKS_KM:
            train &= ~within_buffer(photos.lat, photos.lon, photos.lat[test], photos.lon[test], buffer_km)
        masks.append((train, test))
    return masks


def groups_of(photos: Photos, by: str) -> Ints:
    """Group codes, shape ``(N,)``.

    Args:
        by: ``place``, see :meth:`Photos.places`; ``drive`` and ``rebuilt``, see
            :func:`graticule.photos.drives.drives` and :func:`graticule.photos.drives.rebuild_sequences`; ``day``, the
            calendar day of ``captured_at`` where the photo was taken; ``uploader``, the column ``creator`` or
            ``uploader`` (photos of unknown day are one group, and so are those of unknown uploader); else a column,
            such as ``sequence`` or ``city``, in which each missing value is a group of its own. Several joined by
            ``+`` make a group of each combination.

    Raises:
        BadRecipeError: a column that is not there, or is empty.
    """
    return joined(*(_group(photos, name) for name in by.split("+")))


def split_time(second: ArrayLike, drives: ArrayLike, shares: Sequence[float] = SHARES) -> Strings:
    """Train before val before test, divided at two moments; a drive that is across one goes to ``buffer``.

    The moments are chosen so that the parts come near their shares and few photos fall across: between drives,
    where there is a pause. Photos of unknown time go to ``buffer`` too.

    Args:
        second: when each photo was taken, shape ``(N,)``, any origin; NaN where it is unknown.
        drives: group codes, shape ``(N,)``.

    Raises:
        BadRecipeError: too few drives apart in time.
    """
    seconds = np.asarray(second, np.float64)
    known = ~np.isnan(seconds)
    _, drive, sizes = np.unique(np.asarray(drives)[known], return_inverse=True, return_counts=True)
    start, end = np.full(len(sizes), np.inf), np.full(len(sizes), -np.inf)
    np.minimum.at(start, drive, seconds[known])
    np.maximum.at(end, drive, seconds[known])

    candidates = np.unique(start)  # a cut at one of these has whole drives after it
    ends, starts = np.argsort(end), np.argsort(start)
    before = np.r_[0, np.cumsum(sizes[ends])][np.searchsorted(end[ends], candidates)]
    begun = np.r_[0, np.cumsum(sizes[starts])][np.searchsorted(start[starts], candidates)]
    target = np.cumsum(_checked_shares(shares)) * sizes.sum()

    cost = np.abs((before + begun) / 2 - target[:2, None]) + (begun - before)

    def cut(which: int, first: int, last: int) -> int:
        return first + int(np.argmin(cost[which, first:last])) if first < last else len(candidates)

    count = len(candidates)
    _, val, test = (share > 0 for share in shares)
    to_val = cut(0, 1, count - (val and test)) if val or test else count
    to_test = (cut(1, to_val + 1, count) if val else to_val) if test else count
    moment = np.r_[candidates, np.inf][[to_val, to_test]]
    part = np.full(len(sizes), BUFFER, dtype="<U6")
    part[end < moment[0]] = "train"
    part[(start >= moment[0]) & (end < moment[1])] = "val"
    part[start >= moment[1]] = "test"
    missing = [name for name, share in zip(PARTS, shares, strict=True) if share > 0 and name not in part]
    if missing:
        raise BadRecipeError(
            f"{len(sizes)} drives cannot be divided in time into {_wanted(shares)}: nothing is left for "
            f"{' and '.join(missing)}. Bring more days, or split by sequence"
        )
    parts = np.full(len(seconds), BUFFER, dtype="<U6")
    parts[known] = part[drive]
    return parts


def part_days(photos: Photos, parts: Strings) -> dict[str, tuple[str, str]]:
    """First and last day (ISO) of each of the parts; empty where no time is known."""
    if is_empty(photos, "captured_at"):
        return {}
    table = pl.DataFrame({"part": parts, "day": read_times(photos.frame["captured_at"])["day"]}).drop_nulls()
    spans = table.group_by("part").agg(first=pl.col("day").min(), last=pl.col("day").max())
    found = {row["part"]: (row["first"].isoformat(), row["last"].isoformat()) for row in spans.to_dicts()}
    return {part: found[part] for part in (*PARTS, BUFFER) if part in found}


def block_sizes(by: str, block_km: float | None = None, buffer_km: float | None = None) -> tuple[float, float]:
    """Width of a block and of the strip around it: what is given, else what is usual for ``by``; kilometres."""
    usual = BLOCKS_KM.get(by, BLOCKS_KM["block"])
    return usual[0] if block_km is None else block_km, usual[1] if buffer_km is None else buffer_km


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
            f"{_only(len(labels), name)}, too few for {_wanted(shares)}: each part needs one of its own. Split by "
            f"something finer, leave a part out, or bring photos of more {name}s"
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

    chances = rng.random(len(queue))
    for group, luck in zip(queue[:DEALT], chances[:DEALT], strict=True):
        if part_of[group] >= 0:
            continue
        open_room = np.where(room >= sizes[group], room, 0)
        reach = np.cumsum(open_room)
        part = np.searchsorted(reach, luck * reach[-1], side="right") if reach[-1] > 0 else room.argmax()
        part_of[group] = part
        room[part] -= sizes[group]
    rest = queue[DEALT:][part_of[queue[DEALT:]] < 0]
    part_of[rest] = _fill(sizes[rest], room, rng)
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
    lats, lons = sphere.check_latlon(lat, lon)
    parts = split_groups(_blocks(lats, lons, block_km), shares, seed, name="block")
    for held_out, others in (("test", ["train", "val"]), ("val", ["train"])):
        held, rest = parts == held_out, np.flatnonzero(np.isin(parts, others))
        near = within_buffer(lats[rest], lons[rest], lats[held], lons[held], buffer_km)
        parts[rest[near]] = BUFFER
    for part, share in zip(PARTS, shares, strict=True):
        if share > 0 and part not in parts:
            raise BadRecipeError(
                f"blocks of {sphere.format_km(block_km)} with a buffer of {sphere.format_km(buffer_km)} leave no "
                f"photo for {part}; take larger blocks or a narrower buffer"
            )
    return parts


def _only(count: int, name: str) -> str:
    """How few groups there are, such as ``there are only 2 blocks (squares of the map)``."""
    what = {"block": " (squares of the map)"}.get(name, "")
    return f"there {'is' if count == 1 else 'are'} only {count} {name}{'' if count == 1 else 's'}{what}"


def fold_groups(groups: ArrayLike, k: int, seed: int = 0, *, name: str = "group") -> Ints:
    """Deal groups, larger ones first, each to the fold that has the fewest photos so far."""
    _, codes, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    if k < 2:
        raise BadRecipeError(f"folds={k}: there must be 2 or more, one to test on and the rest to train on")
    if k > len(sizes):
        raise BadRecipeError(f"{_only(len(sizes), name)}, too few for {k} folds; take {len(sizes)} or fewer")
    filled = np.zeros(k, np.int64)
    fold_of = np.empty(len(sizes), np.int64)
    rng = np.random.default_rng(seed)
    queue = _larger_first(sizes, rng)
    for group in queue[:DEALT]:
        fold_of[group] = filled.argmin()
        filled[fold_of[group]] += sizes[group]
    fold_of[queue[DEALT:]] = _fill(sizes[queue[DEALT:]], sizes.sum() / k - filled, rng)
    return fold_of[codes]


def within_buffer(lat: ArrayLike, lon: ArrayLike, to_lat: ArrayLike, to_lon: ArrayLike, buffer_km: float) -> Bools:
    """Which of N points lie nearer than ``buffer_km`` to any of M others, shape ``(N,)``."""
    if not np.size(lat) or not np.size(to_lat) or buffer_km <= 0:
        return np.zeros(np.shape(lat), bool)
    return sphere.nearest_km(lat, lon, to_lat, to_lon)[0] < buffer_km


def _blocks(lat: ArrayLike, lon: ArrayLike, block_km: float) -> NDArray[np.uint64]:
    """The S2 cell of each point, of the level whose cells are nearest to ``block_km`` wide on average."""
    face_km = sphere.EARTH_RADIUS_KM * np.sqrt(4 * np.pi / 6)  # a square of a sixth of the Earth
    level = int(np.clip(np.rint(np.log2(face_km / block_km)), 0, s2.MAX_LEVEL))
    return s2.parents(s2.leaf_cells(lat, lon), level)


def _larger_first(sizes: Ints, rng: np.random.Generator) -> Ints:
    """Groups in random order, but by powers of two of their size, so that another seed is another split."""
    shuffled = rng.permutation(len(sizes))
    order: Ints = shuffled[np.argsort(-np.floor(np.log2(sizes[shuffled])), kind="stable")]
    return order


def _fill(sizes: Ints, room: Floats, rng: np.random.Generator) -> Ints:
    """Many small groups, shuffled and laid end to end: where the middle of each falls says which room it fills."""
    shuffled = rng.permutation(len(sizes))
    middle = np.cumsum(sizes[shuffled]) - sizes[shuffled] / 2
    reach = np.cumsum(np.maximum(room, 0))
    filled = np.empty(len(sizes), np.int64)
    filled[shuffled] = np.searchsorted(reach * (sizes.sum() / max(reach[-1], 1)), middle, side="left")
    return filled


def _group(photos: Photos, name: str) -> Ints:
    if name == "place":
        return photos.places()
    if name == "drive":
        return drives(photos)
    if name == "rebuilt":
        return rebuild_sequences(photos)
    if name == "day":
        _need_column(photos, "captured_at")
        return days(photos)
    if name == "uploader" and uploader_column(photos):
        return uploaders(photos)
    _need_column(photos, name)
    return photos.groups(name)


def _need_column(photos: Photos, name: str) -> None:
    if is_empty(photos, name):
        raise BadRecipeError(
            f"the photos have no column {name!r} to split by, or it is empty. Split by {', '.join(METHODS)}, "
            f"or by any column; they have: {', '.join(photos.frame.columns)}"
        )


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
