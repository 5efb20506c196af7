"""A dataset packed into Parquet shards: few large files instead of many small ones, which the hub's viewer opens too.

The shards are laid out as the Hugging Face hub documents it (``data/{split}-00000-of-00004.parquet``, a column
``image`` of ``{bytes, path}`` that the schema's metadata calls an Image), and are a dataset of this package as well:
beside them lie ``photos.parquet``, ``refused.parquet`` and ``dataset.json``.
"""

import io
import itertools
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from graticule.choices import Engine
from graticule.errors import BadPhotoError, BadRecipeError, BadTableError, TooManyRefusedError
from graticule.files import atomic_file, parquet_bytes, write_parquet
from graticule.parts import each
from graticule.photos import images
from graticule.photos.shards import IMAGE, MARK, open_url, url_of
from graticule.photos.table import Photos, write_dataset
from graticule.sources.ingest import HASH_SIDE, MAX_REFUSED, Progress

VERSION = 1  # of the shards' form: raise it when the same settings give other bytes
GROUP_PHOTOS, GROUP_BYTES = 64, 16 * 2**20  # a row group is read whole, and a worker holds several
SAMPLE = 256  # photos whose stored size foretells that of all
AT_ONCE = 64  # photos handed to the threads before results are taken back
QUALITY = 90  # of JPEGs that are written anew
REFUSED = "refused"  # folder of what each shard left out
MEASURED = {"width": pl.Int32, "height": pl.Int32, "sha256": pl.String, "dhash": pl.UInt64}
PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])  # as datasets.Image stores it


@dataclass(frozen=True, slots=True)
class Stored:
    """A photo as it goes into a shard."""

    data: bytes
    width: int
    height: int
    sha256: str
    dhash: int


@dataclass(frozen=True, slots=True)
class Shard:
    """One file to write: its name, and the rows of the photo table that go into it in this order."""

    name: str
    rows: NDArray[np.int64]

    def file(self, out: Path) -> Path:
        return out / self.name

    def refused(self, out: Path) -> Path:
        """The list of its photos that were refused, which lies there before the shard does, and until the end."""
        return out / REFUSED / Path(self.name).name


def pack(
    photos: Photos,
    out: Path,
    *,
    side: int | None = None,
    quality: int = QUALITY,
    shard_mb: float = 256,
    seed: int = 0,
    max_refused: float = MAX_REFUSED,
    facts: Mapping[str, Any] | None = None,
    engine: Engine = "here",
    cores: int = 1,
    progress: Progress | None = None,
) -> Path:
    """Write a dataset's photos into shards, mixed once, so that reading in order is mixed already.

    A column ``split`` gives each part its own shards. Interrupted, it goes on when called again with the same photos
    and settings: finished shards are not written twice, and the result has the same bytes. ``width``, ``height``,
    ``sha256`` and ``dhash`` are those of the stored photo; all other columns are kept.

    Args:
        side: make the shorter side this many pixels, as JPEG without EXIF; a smaller photo is not enlarged, but
            written anew all the same. None keeps the bytes, and their EXIF, exactly.
        quality: of the JPEGs written with ``side``, in [1, 100].
        shard_mb: about how large a shard becomes, in MiB.
        seed: of the order.
        max_refused: the largest share of photos that may be unreadable, in [0, 1].
        facts: more for ``dataset.json``, such as what :func:`facts_of` finds.
        engine, cores: who writes the shards; see :func:`graticule.parts.each`.
        progress: called with (photos done, photos in all).

    Returns:
        ``out``.

    Raises:
        BadRecipeError: a setting is impossible, or ``out`` holds something else.
        BadTableError: there are no photos.
        TooManyRefusedError: too many photos cannot be read.
        WriteError: ``out`` cannot be written.
    """
    _check(photos, out, side, quality, shard_mb, seed)
    settings = {"side": side, "quality": quality if side else None, "shard_mb": shard_mb, "seed": seed}
    mark = images.content_hash(parquet_bytes(photos.frame) + json.dumps({**settings, "version": VERSION}).encode())
    if _is_there(out, mark):
        shutil.rmtree(out / REFUSED, ignore_errors=True)
        return out
    photos = replace(photos, frame=photos.frame.with_columns(pl.col(pl.Categorical, pl.Enum).cast(pl.String)))
    shards = plan(photos, _mean_bytes(photos, side, quality, seed), shard_mb, seed)
    there = [number for number, shard in enumerate(shards) if shard.file(out).exists() and shard.refused(out).exists()]
    done, refused = 0, dict[int, Refused]()

    def report_progress(count: int) -> None:
        if progress:
            progress(done + count, len(photos))

    def cut(number: int) -> tuple[int, Shard, Photos]:
        return number, shards[number], photos.take(shards[number].rows)

    writing = _Writing(out, side, quality, mark, report_progress if engine == "here" else None)
    todo = sorted(set(range(len(shards))) - set(there))
    for number in itertools.chain(there, each(writing, todo, cut, engine, cores=cores)):
        refused[number] = _refused_of(shards[number].refused(out))
        done += len(shards[number].rows)
        report_progress(0)
        if sum(map(len, refused.values())) > max_refused * len(photos):
            refusals = _refusals(refused)
            write_parquet(out / "refused.parquet", refusals)
            raise TooManyRefusedError(_too_many(refusals, done, len(photos), max_refused, out))
    index = pl.concat([_index(out, shard.name) for shard in shards])
    refusals = _refusals(refused)
    about = {key: value for key, value in (facts or {}).items() if key not in ("photos", "refused", "created_with")}
    made = {**settings, "from": photos.name, "source": about.get("source"), "shards": len(shards), "mark": mark}
    about |= {"source": "pack", "packed": made, "synthetic": photos.synthetic}
    about |= {"reasons": dict(Counter(refusals["reason"]).most_common())}
    about |= {"name": photos.name, "data_files": data_files(shards)}  # for the datasheet
    write_dataset(out, index, refusals, about)
    shutil.rmtree(out / REFUSED)
    return out


def facts_of(dataset: Path) -> dict[str, Any]:
    """What ``dataset.json`` says of a dataset, here or in an object store; nothing of a plain table."""
    if url := url_of(dataset):
        with open_url(f"{url}/dataset.json") as file:
            found: dict[str, Any] = json.loads(file.read())
            return found
    path = dataset / "dataset.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def plan(photos: Photos, mean_bytes: float, shard_mb: float, seed: int) -> list[Shard]:
    """Which photos go into which shard: mixed within each part, and dealt evenly."""
    part = np.full(len(photos), "train", object)
    if photos.has("split"):  # the hub allows letters, digits and _ in the name of a split
        part = np.array([re.sub(r"\W", "_", str(name or "")) or "none" for name in photos.column("split")], object)
    rng = np.random.default_rng(seed)
    shards = []
    for name in sorted(set(part)):
        rows = rng.permutation(np.flatnonzero(part == name))
        count = max(1, round(len(rows) * mean_bytes / (shard_mb * 2**20)))
        names = [f"data/{name}-{i:05}-of-{count:05}.parquet" for i in range(count)]
        shards += list(map(Shard, names, np.array_split(rows, count)))
    return shards


def stored(data: bytes, side: int | None = None, quality: int = QUALITY) -> Stored:
    """A photo as a shard keeps it, decoded to its last byte on the way.

    Raises:
        BadPhotoError: it cannot be read.
    """
    if side:
        picture = Image.fromarray(images.decode(data, shortest_side=side))
        scale = min(1.0, side / min(picture.size))
        size = round(picture.width * scale), round(picture.height * scale)
        if size != picture.size:
            picture = picture.resize(size, Image.Resampling.BICUBIC)
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality)
        data = file.getvalue()
    facts = images.inspect(data)
    pixels = images.decode(data, shortest_side=HASH_SIDE)
    return Stored(data, facts.width, facts.height, images.content_hash(data), images.difference_hash(pixels))


def data_files(shards: "Sequence[Shard]") -> list[dict[str, str]]:
    """Which files belong to which split, as the hub's card wants it."""
    splits = dict.fromkeys(shard.name.removeprefix("data/").rsplit("-", 3)[0] for shard in shards)
    return [{"split": split, "path": f"data/{split}-*"} for split in splits]


class _Look:
    """Reads photos and makes them ready to be stored, in threads: decoding lets go of the interpreter lock."""

    def __init__(self, photos: Photos, side: int | None, quality: int, pool: ThreadPoolExecutor) -> None:
        self.paths, self.side, self.quality, self.pool = photos.paths(), side, quality, pool

    def __call__(self, row: int) -> Stored | BadPhotoError:
        try:
            return stored(images.read_file(self.paths[row]), self.side, self.quality)
        except BadPhotoError as error:
            return error

    def each(self) -> Iterator[tuple[int, Stored | BadPhotoError]]:
        for start in range(0, len(self.paths), AT_ONCE):
            some = range(start, min(start + AT_ONCE, len(self.paths)))
            yield from zip(some, self.pool.map(self, some), strict=True)


def _threads(cores: int | None = None) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cores or min(16, os.cpu_count() or 1))


def _mean_bytes(photos: Photos, side: int | None, quality: int, seed: int) -> float:
    """Stored size of a photo, averaged over a few."""
    some = photos.take(np.random.default_rng(seed).permutation(len(photos))[:SAMPLE])
    with _threads() as pool:
        sizes = [len(one.data) for _, one in _Look(some, side, quality, pool).each() if isinstance(one, Stored)]
    return float(np.mean(sizes)) if sizes else 0.0


Refused = dict[str, tuple[str, str]]  # path to reason and detail


@dataclass(frozen=True, slots=True)
class _Writing:
    """Writes shards; tells the number of one that is there, and ``tell`` how many of its photos are done."""

    out: Path
    side: int | None
    quality: int
    mark: str
    tell: Callable[[int], None] | None

    def __call__(self, cores: int | None) -> Callable[[tuple[int, Shard, Photos]], int]:
        pool = _threads(cores)

        def write(part: tuple[int, Shard, Photos]) -> int:
            number, shard, photos = part
            self.write(shard, photos, pool)
            return number

        return write

    def write(self, shard: Shard, photos: Photos, pool: ThreadPoolExecutor) -> None:
        """Write a shard of these photos and, before it takes its name, the list of those that were refused."""
        refused: Refused = {}
        table, look = photos.frame, _Look(photos, self.side, self.quality, pool)
        with atomic_file(shard.file(self.out)) as aside:
            schema = _group(table[:0], [], []).schema.with_metadata(_metadata(self.mark))
            # Python's own file: a full disk is then an OSError.
            with aside.open("wb") as file, _writer(file, schema) as writer:
                for group in _groups(look, table, refused, self.tell or (lambda _: None)):
                    writer.write_table(group.replace_schema_metadata(schema.metadata), row_group_size=len(group))
            write_parquet(shard.refused(self.out), _refusals({0: refused}))


def _groups(
    look: _Look, table: pl.DataFrame, refused: Refused, report_progress: Callable[[int], None]
) -> Iterator[pa.Table]:
    """Row groups one after another; who cannot be read is written down in ``refused``."""
    # Where a photo lies on this machine is private: only relative paths are written.
    names = [name if not Path(name).is_absolute() else Path(name).name for name in table["path"]]
    kept: list[int] = []
    pictures: list[Stored] = []
    size = 0
    for row, found in look.each():
        report_progress(row + 1)
        if isinstance(found, BadPhotoError):
            refused[table["path"][row]] = found.reason, str(found)
            continue
        if pictures and (len(pictures) == GROUP_PHOTOS or size + len(found.data) > GROUP_BYTES):
            yield _group(table[kept], [names[i] for i in kept], pictures)
            kept, pictures, size = [], [], 0
        kept.append(row)
        pictures.append(found)
        size += len(found.data)
    if pictures:
        yield _group(table[kept], [names[i] for i in kept], pictures)


def _group(rows: pl.DataFrame, names: Sequence[str], pictures: Sequence[Stored]) -> pa.Table:
    """The rows of one row group: the picture, then the table's columns but ``path``, measured anew."""
    measures = [pl.Series(name, [getattr(one, name) for one in pictures], kind) for name, kind in MEASURED.items()]
    columns = rows.drop("path").with_columns(measures).to_arrow(compat_level=pl.CompatLevel.oldest())
    image = pa.array([{"bytes": one.data, "path": name} for one, name in zip(pictures, names, strict=True)], PICTURE)
    table = columns.add_column(0, pa.field(IMAGE, PICTURE), image)
    small = [field.with_type(pa.string()) if pa.types.is_large_string(field.type) else field for field in table.schema]
    return table.cast(pa.schema(small))


def _writer(file: Any, schema: pa.Schema) -> pq.ParquetWriter:
    others = [name for name in schema.names if name != IMAGE]
    return pq.ParquetWriter(
        file,
        schema,
        compression=dict.fromkeys(others, "zstd") | {f"{IMAGE}.bytes": "none", f"{IMAGE}.path": "zstd"},
        use_dictionary=others,
        write_statistics=others,
        write_page_checksum=True,  # a store or a disk that gives other bytes is found out
    )


def _metadata(mark: str) -> dict[bytes, bytes]:
    # The hub takes the types of the other columns from Arrow's own (datasets.Features.from_arrow_schema).
    return {
        b"huggingface": json.dumps({"info": {"features": {IMAGE: {"_type": "Image"}}}}).encode(),
        MARK: mark.encode(),
    }


def _index(out: Path, name: str) -> pl.DataFrame:
    """The rows of a finished shard as the photo table holds them."""
    file = pq.ParquetFile(out / name)
    columns = [column for column in file.schema_arrow.names if column != IMAGE]
    frame = pl.DataFrame(pl.from_arrow(file.read(columns=columns)))
    paths = pl.Series("path", [f"{name}#{row}" for row in range(len(frame))], pl.String)
    first = ["lat", "lon", *MEASURED]
    return frame.select(paths, *first, pl.exclude(first))


def _check(photos: Photos, out: Path, side: int | None, quality: int, shard_mb: float, seed: int) -> None:
    if not len(photos):
        raise BadTableError("there are no photos to pack")
    if photos.has(IMAGE):
        raise BadTableError(f"the table has a column {IMAGE!r}, which is where a shard keeps the pictures; rename it")
    if url_of(out):
        raise BadRecipeError(f"shards are written to a folder, not to {out}; choose one and copy it there afterwards")
    if side is not None and side < images.MIN_SIDE:
        raise BadRecipeError(f"photos of {side} pixels cannot be stored; the side is at least {images.MIN_SIDE}")
    if not 1 <= quality <= 100:
        raise BadRecipeError(f"the quality of a JPEG is 1 to 100; found {quality}")
    if not shard_mb > 0:
        raise BadRecipeError(f"shards of {shard_mb} MiB hold nothing; give a size above 0, such as 256")
    if seed < 0:
        raise BadRecipeError(f"the seed is {seed}; give a whole number from 0 up")


def _is_there(out: Path, mark: str) -> bool:
    """Whether ``out`` holds this very packing, whole; refuses what must not be overwritten."""
    if not out.exists() or not any(out.iterdir()):
        return False
    about = facts_of(out)
    if about.get("packed", {}).get("mark") == mark:
        return True
    marks = {_mark_of(path) for path in (out / "data").glob("*.parquet")}
    begun = all(path.name in ("data", REFUSED, "refused.parquet") or path.suffix == ".part" for path in out.iterdir())
    if about or marks - {mark} or not (marks or begun):
        raise BadRecipeError(
            f"{out} holds something else already, or photos packed with other settings; choose another folder, or "
            f"delete that one"
        )
    return False


def _mark_of(path: Path) -> str:
    try:
        mark: bytes = (pq.read_schema(path).metadata or {}).get(MARK, b"")
        return mark.decode()
    except (OSError, ValueError):  # no Parquet file: not ours
        return ""


def _refused_of(file: Path) -> Refused:
    return {name: (reason, detail) for name, reason, detail in pl.read_parquet(file).rows()}


def _refusals(refused: Mapping[int, Refused]) -> pl.DataFrame:
    """What was refused, by number of the shard, as a table in their order."""
    found: Refused = {}
    for _, some in sorted(refused.items()):
        found |= some
    rows = [(path, *why) for path, why in found.items()]
    return pl.DataFrame(rows, schema=dict.fromkeys(("path", "reason", "detail"), pl.String), orient="row")


def _too_many(refusals: pl.DataFrame, done: int, total: int, max_refused: float, out: Path) -> str:
    path, _, detail = refusals.row(0)
    return (
        f"{len(refusals)} of the first {done} of {total} photos cannot be packed, more than {max_refused:.0%} of all. "
        f"The first is {path}: {detail}. All are listed in {out / 'refused.parquet'}. Mend them, or allow more with "
        f"--max-refused"
    )
