"""The one way into a dataset: every photo is opened and checked, then taken or refused with a reason."""

import math
import os
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import polars as pl

from graticule.errors import BadPhotoError, BadTableError, TooManyRefusedError
from graticule.files import write_parquet
from graticule.geo.sphere import within_rounding
from graticule.geo.towns import nearest_towns
from graticule.photos import images
from graticule.photos.table import degrees, warn_if_swapped, write_dataset
from graticule.sources.beside import Beside, Look

Progress = Callable[[int, int], None]

MAX_REFUSED = 0.05
FIRST_COLUMNS = (
    "path", "lat", "lon", "width", "height", "sha256", "dhash",
    "place", "sequence", "captured_at", "heading", "split", "country",
)  # fmt: skip
HASH_SIDE = 32  # enough for a 9 x 8 difference hash; JPEGs decode three times as fast
AT_ONCE = 1024  # photos handed to the threads before results are taken back


class Refusal(NamedTuple):
    """A photo that is not in the dataset: its path, a word for counting, and a sentence."""

    path: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Taken:
    """What one look at a file gave; ``lat, lon`` in degrees."""

    lat: float
    lon: float
    facts: images.PhotoFacts
    sha256: str
    dhash: int
    beside: Beside


def ingest(
    candidates: pl.DataFrame,
    root: Path,
    out: Path,
    *,
    source: str,
    max_refused: float = MAX_REFUSED,
    progress: Progress | None = None,
    facts: Mapping[str, Any] | None = None,
    refused_before: Sequence[Refusal] = (),
    looks: Sequence[Look] = (),
    hemisphere: str = "",
) -> Path:
    """Turn candidates into a dataset folder.

    A column that the candidates have is their owner's word and is kept; ``lat, lon``, ``captured_at`` and
    ``heading`` come from EXIF where there is no such column, ``country`` (ISO 3166 code of the nearest town)
    from the position. Width, height and hashes are always measured.

    Args:
        candidates: ``path`` and any other columns, one row a photo.
        root: the folder that relative paths start from.
        out: the dataset folder; paths inside it are stored relative to it, others absolute.
        source: what made the dataset, for ``dataset.json``; ``facts`` go there too.
        max_refused: the largest share of refused photos, in [0, 1], that still makes a dataset.
        progress: called with (photos done, photos in all).
        refused_before: what the source itself could not make a file of; counted and listed with the rest.
        looks: where else to look for what the EXIF lacks, in this order; see :mod:`graticule.sources.beside`.
        hemisphere: as for :func:`graticule.photos.images.inspect`.

    Returns:
        ``out``.

    Raises:
        BadTableError: no candidates, or ``lat`` without ``lon``.
        TooManyRefusedError: too many refused, or none taken; ``refused.parquet`` is written all the same.
        WriteError: ``out`` cannot be written.
    """
    if candidates.is_empty() and not refused_before:
        raise BadTableError("there are no photos to take in")
    placed = "lat" in candidates.columns
    if placed != ("lon" in candidates.columns):
        raise BadTableError("the table needs both lat and lon, or neither to take both from EXIF")
    files = [find_file(root.resolve(), path) if path else None for path in candidates["path"].cast(pl.String)]
    names = [_stored(file, out.resolve()) if file else "" for file in files]
    places: list[tuple[float, float] | None] = [None] * len(files)
    if placed:
        lat, lon = degrees(candidates, root)
        warn_if_swapped(lat, lon, root)
        places = list(zip(lat.tolist(), lon.tolist(), strict=True))

    taken: dict[int, Taken] = {}  # by row
    refused: list[Refusal] = list(refused_before)
    first_of: dict[str, int] = {}  # the first row with these bytes
    for row, found in enumerate(
        _examine_all(files, places, partial(_examine, looks=looks, hemisphere=hemisphere), progress)
    ):
        if isinstance(found, Taken) and (first := first_of.setdefault(found.sha256, row)) != row:
            found = BadPhotoError("duplicate", f"the same bytes as {names[first]}; one copy is enough")
        if isinstance(found, Taken):
            taken[row] = found
        else:
            refused.append(Refusal(names[row], found.reason, str(found)))

    refusals = pl.DataFrame(refused, schema=dict.fromkeys(Refusal._fields, pl.String), orient="row")
    total = len(taken) + len(refused)
    if not taken or len(refused) > max_refused * total:
        write_parquet(out / "refused.parquet", refusals)
        raise TooManyRefusedError(_too_many(refusals, total, max_refused, out))
    photos = _table(candidates[list(taken)], [names[row] for row in taken], list(taken.values()))
    reasons = dict(Counter(refusals["reason"]).most_common())
    write_dataset(out, photos, refusals, {"source": source, "synthetic": False, **(facts or {}), "reasons": reasons})
    return out


def find_file(root: Path, name: str) -> Path:
    """The file that a table means: ``name`` below ``root``, also as other systems write it.

    Where there is no such file, these are tried: backslashes, ``file://`` addresses, accents composed in another way
    (Unicode NFC and NFD) and, of a path from the root of another disk such as ``C:\\photos\\a.jpg``, its longest end
    that lies below ``root``; then the same in capitals or small letters, and a photo's name without its suffix. Where
    none fits, or several do, it is the name as it stands.
    """
    file = root / name
    if os.path.lexists(file) or "#" in name:  # a row of a shard is no file
        return file
    plain = unquote(urlsplit(name).path) if name.startswith("file:") else name.strip()
    parts = [part for part in PureWindowsPath(plain.lstrip("/\\")).parts if part[1:] != ":\\"]
    ends = [plain, plain.replace("\\", "/")]
    if re.match(r"[/\\]|[A-Za-z]:[\\/]", plain):
        ends += ["/".join(parts[start:]) for start in range(len(parts))]
    elif parts[:1] == [root.name]:  # it starts from the folder above
        ends.append("/".join(parts[1:]))
    for end in ends:
        forms = [root / form for form in {unicodedata.normalize("NFC", end), unicodedata.normalize("NFD", end), end}]
        there = {os.path.realpath(form): form for form in sorted(forms) if os.path.isfile(form)}  # noqa: PTH113
        if len(there) == 1:
            return next(iter(there.values()))
    return next((found for end in ends if (found := _alike(root, end))), file)


def _alike(root: Path, name: str) -> Path | None:
    """The one file whose path differs in nothing but capitals, composed accents or the suffix of a photo."""
    *folders, last = PurePosixPath(name).parts or ("",)
    for folder in folders:
        root = root / (folder if folder in ("/", "..") else next(iter(_names(root).get(_folded(folder), ())), folder))
    names = _names(root)
    fits = names.get(_folded(last), ())
    if not fits:
        fits = [found for suffix in images.SUFFIXES for found in names.get(_folded(last) + suffix, ())]
    return root / fits[0] if len(fits) == 1 else None


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _names(folder: Path) -> dict[str, list[str]]:
    """The names in a folder by their folded form."""
    return _names_of(folder, folder.stat().st_mtime_ns) if folder.is_dir() else {}


@lru_cache(maxsize=64)
def _names_of(folder: Path, _: int) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in sorted(path.name for path in folder.iterdir()):
        found.setdefault(_folded(name), []).append(name)
    return found


def _examine_all(
    files: Sequence[Path | None],
    places: Sequence[tuple[float, float] | None],
    examine: Callable[[Path | None, tuple[float, float] | None], Taken | BadPhotoError],
    progress: Progress | None,
) -> Iterator[Taken | BadPhotoError]:
    """Look at every file, in order. Threads do: decoding and hashing let go of the interpreter lock."""
    with warnings.catch_warnings(), ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        warnings.filterwarnings("ignore", module=r"PIL\.")  # of odd EXIF, without saying in which photo
        for start in range(0, len(files), AT_ONCE):
            some = slice(start, start + AT_ONCE)
            for done, found in enumerate(pool.map(examine, files[some], places[some]), start + 1):
                yield found
                if progress:
                    progress(done, len(files))


def _examine(
    file: Path | None, place: tuple[float, float] | None, *, looks: Sequence[Look], hemisphere: str
) -> Taken | BadPhotoError:
    try:
        if file is None:
            raise BadPhotoError("missing", "its row gives no path; fill it in or delete the row")
        if place:
            _check_place(*place)
        data = images.read_file(file)
        facts = images.inspect(data, hemisphere)
        beside = _beside(file, facts, looks)
        own = place is not None
        if place is None:
            own = facts.lat is not None and not (facts.lat == facts.lon == 0 and beside.lat is not None)
            place = _place(facts, beside, own=own, looked=bool(looks))
            _check_place(*place)
        if own:  # how far off something else would be says nothing of it
            beside = replace(beside, position_error_km=None)
        pixels = images.decode(data, shortest_side=HASH_SIDE)  # to the last byte: finds what is cut off
        return Taken(*place, facts, images.content_hash(data), images.difference_hash(pixels), beside)
    except BadPhotoError as refusal:
        return BadPhotoError(refusal.reason, str(refusal))  # a fresh one: a traceback would hold on to the bytes


def _beside(file: Path, facts: images.PhotoFacts, looks: Sequence[Look]) -> Beside:
    """What the things beside a photo say together; of each fact the first that says it."""
    found: dict[str, Any] = {}
    for look in looks:
        if said := look(file, facts.captured_at):
            new = {field.name: getattr(said, field.name) for field in fields(said)}
            if said.lat is None or said.lon is None or "lat" in found:  # a position is taken whole
                new = {name: value for name, value in new.items() if name not in ("lat", "lon", "position_error_km")}
            found = {name: value for name, value in new.items() if value is not None} | found
    return Beside(**found)


def _place(facts: images.PhotoFacts, beside: Beside, *, own: bool, looked: bool) -> tuple[float, float]:
    """Where a photo was taken, by its own EXIF, else by what lies beside it."""
    lat, lon = (facts.lat, facts.lon) if own else (beside.lat, beside.lon)
    if lat is None or lon is None:
        if facts.no_hemisphere:
            raise BadPhotoError(
                "no hemisphere",
                f"its EXIF says {facts.no_hemisphere} without the hemisphere, N or S and E or W; give --hemisphere",
            )
        if beside.lacking:
            raise BadPhotoError("no position", f"its EXIF holds no GPS position, and it {beside.lacking}")
        where = "its EXIF holds no GPS position" + (", and nothing beside it does" if looked else "")
        raise BadPhotoError("no position", f"{where}; list it in a table with lat, lon")
    (lat,), (lon,) = within_rounding([lat], [lon])
    return float(lat), float(lon)


def _check_place(lat: float, lon: float) -> None:
    if math.isnan(lat) or math.isnan(lon):
        raise BadPhotoError("no position", "its lat or lon is missing or no number; fill in both, in degrees")
    if abs(lat) > 90 or abs(lon) > 180:
        raise BadPhotoError(
            "off the globe",
            f"lat={lat}, lon={lon}; latitudes lie in [-90, 90] and longitudes in [-180, 180] degrees",
        )
    if lat == lon == 0:
        raise BadPhotoError("zero island", "its position is 0/0, which devices write when they know none")


def _stored(file: Path, out: Path) -> str:
    return (file.relative_to(out) if file.is_relative_to(out) else file).as_posix()


def _table(candidates: pl.DataFrame, names: Sequence[str], taken: Sequence[Taken]) -> pl.DataFrame:
    table = candidates.with_columns(
        pl.Series("path", names, pl.String),
        pl.Series("lat", [one.lat for one in taken], pl.Float64),
        pl.Series("lon", [one.lon for one in taken], pl.Float64),
        pl.Series("width", [one.facts.width for one in taken], pl.Int32),
        pl.Series("height", [one.facts.height for one in taken], pl.Int32),
        pl.Series("sha256", [one.sha256 for one in taken], pl.String),
        pl.Series("dhash", [one.dhash for one in taken], pl.UInt64),
    )
    moments = [one.facts.captured_at or one.beside.captured_at for one in taken]
    from_exif = [
        # as text: cameras with and without a time zone stand side by side
        pl.Series("captured_at", [moment and moment.isoformat() for moment in moments], pl.String),
        pl.Series("heading", [_first(one.facts.heading, one.beside.heading) for one in taken], pl.Float64),
        pl.Series("sequence", [one.beside.sequence for one in taken], pl.String),
        pl.Series("position_error_km", [one.beside.position_error_km for one in taken], pl.Float64),
    ]
    table = table.with_columns(
        column for column in from_exif if column.name not in table.columns and column.null_count() < len(column)
    )
    if "country" not in table.columns:
        towns = nearest_towns(table["lat"].to_numpy(), table["lon"].to_numpy())
        table = table.with_columns(pl.Series("country", [town.country_code for town in towns], pl.String))
    first = [name for name in FIRST_COLUMNS if name in table.columns]
    return table.select(*first, *(name for name in table.columns if name not in FIRST_COLUMNS))


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)


def _too_many(refused: pl.DataFrame, total: int, max_refused: float, out: Path) -> str:
    reasons = ", ".join(f"{n} {reason}" for reason, n in Counter(refused["reason"]).most_common())
    path, _, detail = refused.row(0)
    share = refused.height / total
    found = f"{refused.height} of {total} photos ({share:.1%}) were refused: {reasons}. "
    first = f"The first is {path}: {detail}. "
    listed = f"All are listed in {out / 'refused.parquet'}. "
    if refused.height == total:
        return f"{found}{first}{listed}No photo is left to make a dataset of"
    return (
        f"{found}{first}{listed}Mend them, or allow more than {max_refused:.0%} "
        f"with --max-refused {math.ceil(share * 100) / 100}"
    )
