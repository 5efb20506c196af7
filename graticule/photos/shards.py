"""Photos inside Parquet shards, on this machine or in an object store: where each lies, and its bytes.

A packed photo has the path of its shard and its row: ``data/train-00000-of-00004.parquet#17``. ``sources.pack`` writes
such shards; any Parquet file with a column ``image`` of ``{bytes, path}``, as the Hugging Face hub holds them, is read
the same way. Remote files go through fsspec, whose packages (s3fs, gcsfs, ...) know the stores.
"""

import os
import re
import threading
import time
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from graticule.errors import BadPhotoError, SourceError

IMAGE = "image"  # the column of pictures, a struct of ``bytes`` and ``path``
MARK = b"graticule"  # the key in the metadata of shards whose other columns were measured on the very bytes
OPEN_SHARDS = 64  # files held open by a process
PAUSES = (0.5, 2.0, 8.0)  # seconds before a store is asked again that throttles, breaks off or sends too little
HELD_GROUPS = 16  # row groups held by a process; ``graticule.sources.pack`` keeps each below 16 MiB

_PACKED = re.compile(r"(.+\.parquet)#(\d+)", re.DOTALL)
_URL = re.compile(r"([a-z][a-z0-9+.-]+):/+(.+)", re.DOTALL)  # two letters or more: C:/ is a disk


def url_of(path: Path) -> str | None:
    """The URL that a path stands for, such as ``s3://bucket/photos``; none for a path on this machine.

    ``Path`` folds the two slashes of a URL into one; here they come back.
    """
    found = _URL.fullmatch(path.as_posix())
    return f"{found[1]}://{found[2]}" if found else None


def open_url(url: str) -> BinaryIO:
    """Open a remote file for reading; each read is one request, without reading ahead.

    Raises:
        FileNotFoundError: there is no such file.
        SourceError: the store cannot be reached, refuses, or needs a package that is not installed.
    """
    import fsspec  # type: ignore[import-untyped]

    try:
        store, path = fsspec.url_to_fs(url)
        file: BinaryIO = store.open(path, "rb", cache_type="none")
        return file
    except FileNotFoundError:
        raise
    except Exception as error:  # every store raises its own kinds; a text of theirs could name a credential
        more = f": {error}" if isinstance(error, ImportError | ValueError) else ""
        raise SourceError(
            f"{url} cannot be opened ({type(error).__name__}{more}); see that the address is right, the store can be "
            f"reached and the environment holds what it asks for"
        ) from error


def shard_row(path: Path) -> tuple[str, int] | None:
    """The shard and the row of a packed photo; none for a photo that is a file."""
    found = _PACKED.fullmatch(str(path))
    return (found[1], int(found[2])) if found else None


def read_packed(shard: str, row: int) -> bytes:
    """The bytes of the photo in this row of a shard.

    Whole row groups are read and the latest are held, so neighbours cost nothing more.

    Raises:
        BadPhotoError: there is no such shard or row, or it cannot be read.
    """
    data: bytes = _reader().photo(shard, row)
    return data


def row_groups(photos: Sequence[Any]) -> NDArray[np.int64] | None:
    """Codes of the row groups that hold these photos, shape ``(N,)``; none unless every photo is packed.

    None too where a shard cannot be read: reading the photos says why.
    """
    parts = _parts(photos)
    if parts is None:
        return None
    codes = np.empty(len(photos), np.int64)
    before = 0
    for shard, (places, rows) in parts.items():
        try:
            ends = _reader().ends(shard)
        except BadPhotoError:
            return None
        codes[places] = before + np.searchsorted(ends, rows, side="right")
        before += len(ends)
    return codes


def measured(photos: Sequence[Any], column: str) -> NDArray[Any] | None:
    """A column that was written beside the photos, shape ``(N,)``: ``width``, ``height``, ``sha256`` or another.

    None unless every photo lies in a shard of :mod:`graticule.sources.pack`, which measured it on the packed bytes,
    and every shard can be read.
    """
    parts = _parts(photos)
    if parts is None:
        return None
    out: NDArray[Any] | None = None
    for shard, (places, rows) in parts.items():
        try:
            values = _reader().column(shard, column)
        except BadPhotoError:
            return None
        if values is None or rows.max() >= len(values):
            return None
        out = np.empty(len(photos), values.dtype) if out is None else out
        out[places] = values[rows]
    return out


def _parts(photos: Sequence[Any]) -> dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]] | None:
    """By shard, which of the photos lie in it and in which rows; none unless every photo is packed."""
    found: dict[str, tuple[list[int], list[int]]] = {}
    for i, photo in enumerate(photos):
        part = shard_row(photo) if isinstance(photo, Path) else None
        if part is None:
            return None
        places, rows = found.setdefault(part[0], ([], []))
        places.append(i)
        rows.append(part[1])
    return {name: (np.array(places), np.array(rows)) for name, (places, rows) in found.items()} or None


@dataclass(frozen=True, slots=True)
class _Shard:
    """An open file, and behind which row each of its row groups ends."""

    file: Any
    ends: list[int]


class _Reader:
    """Open shards and the row groups read last. Its answers are safe among threads."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.shards: OrderedDict[str, _Shard] = OrderedDict()
        self.groups: OrderedDict[tuple[str, int], Any] = OrderedDict()

    def photo(self, name: str, row: int) -> bytes:
        with self.lock, _refusing(name):
            ends = self._ends(name)
            group = bisect_right(ends, row)
            if group == len(ends):
                raise _no_row(name, row, ends[-1] if ends else 0)
            pictures = self._pictures(name, group)
            data: bytes | None = pictures[len(pictures) + row - ends[group]].as_py()
        if data is None:
            raise BadPhotoError("missing", f"row {row} of the shard {name} holds no picture; pack the photos again")
        return data

    def ends(self, name: str) -> list[int]:
        with self.lock, _refusing(name):
            return self._ends(name)

    def column(self, name: str, column: str) -> NDArray[Any] | None:
        with self.lock, _refusing(name):
            schema = self._ask(name, lambda shard: shard.file.schema_arrow)
            if MARK not in (schema.metadata or {}) or column not in schema.names:
                return None
            table = self._ask(name, lambda shard: shard.file.read(columns=[column], use_threads=False))
            values: NDArray[Any] = table.column(0).to_numpy()
            return values

    def _ends(self, name: str) -> list[int]:
        ends: list[int] = self._ask(name, lambda shard: shard.ends)
        return ends

    def _ask(self, name: str, ask: Callable[[_Shard], Any]) -> Any:
        """What a shard says; one in a store is opened anew and asked again where that fails."""
        for pause in (*PAUSES, None) if url_of(Path(name)) else (None,):
            try:
                return ask(self._shard(name))
            except Exception as error:  # every store raises its own kinds
                lasting = FileNotFoundError, ImportError
                if pause is None or isinstance(error, lasting) or isinstance(error.__cause__, lasting):
                    raise
                self.shards.pop(name, None)
                time.sleep(pause)
        return None

    def _shard(self, name: str) -> _Shard:
        if name not in self.shards:
            import pyarrow.parquet as pq

            url = url_of(Path(name))
            # A remote row group comes in one request; threads of Arrow's would gain nothing beside many workers.
            source = open_url(url) if url else name
            file = pq.ParquetFile(source, pre_buffer=url is not None, page_checksum_verification=True)
            groups = (file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups))
            self.shards[name] = _Shard(file, list(accumulate(groups)))
            if len(self.shards) > OPEN_SHARDS:
                self.shards.popitem(last=False)[1].file.close(force=True)
        self.shards.move_to_end(name)
        return self.shards[name]

    def _pictures(self, name: str, group: int) -> Any:
        key = name, group
        if key not in self.groups:
            columns = [f"{IMAGE}.bytes"]
            table = self._ask(name, lambda shard: shard.file.read_row_group(group, columns, use_threads=False))
            column = table.column(IMAGE)  # of one chunk, unless the group is huge; combining would copy it
            pictures = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
            self.groups[key] = pictures.field("bytes")
            if len(self.groups) > HELD_GROUPS:
                self.groups.popitem(last=False)
        self.groups.move_to_end(key)
        return self.groups[key]


def _reader() -> _Reader:
    """The reader of this process: after a fork, two processes would move one file's position."""
    return _reader_of(os.getpid())


@lru_cache(maxsize=1)
def _reader_of(_: int) -> _Reader:
    return _Reader()


@contextmanager
def _refusing(name: str) -> Iterator[None]:
    """Whatever goes wrong with a shard becomes a refusal of the photo in it."""
    try:
        yield
    except BadPhotoError:
        raise
    except FileNotFoundError as error:
        raise BadPhotoError(
            "missing", f"there is no shard {name}; correct the path or the folder it starts from"
        ) from error
    except SourceError as error:
        raise BadPhotoError("unreadable", str(error)) from error
    except Exception as error:  # Arrow's own are an OSError, a ValueError or a LookupError; every store has others
        if url_of(Path(name)):
            raise BadPhotoError(
                "unreadable",
                f"the shard {name} cannot be read ({type(error).__name__}, asked {len(PAUSES) + 1} times); see that "
                f"its store can be reached and holds all of it, then run the same command again",
            ) from error
        if not isinstance(error, OSError | ValueError | LookupError):
            raise
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise BadPhotoError(
            "unreadable",
            f"the shard {name} cannot be read ({first}); it is damaged or no Parquet file with a column {IMAGE!r}. "
            f"Copy it again, or delete it and pack the photos again",
        ) from error


def _no_row(shard: str, row: int, rows: int) -> BadPhotoError:
    return BadPhotoError(
        "missing", f"the shard {shard} has {rows:,} rows and no row {row}; table and shards are not of one packing"
    )
