"""Features of photos on disk, mapped into memory: rows are read when they are asked for, and by several processes."""

import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from graticule.errors import BadRecipeError, WriteError, note
from graticule.files import cache_folder, write_bytes
from graticule.photos.images import content_hash

SUFFIXES = (".safetensors", ".npz")  # .npz is what earlier versions wrote: no longer read, and deleted first


@dataclass(frozen=True)
class _File:
    """One file of features: names of photos, shape ``(N,)``, and their features, shape ``(N, F)``, both mapped."""

    photos: NDArray[np.bytes_]
    features: NDArray[np.float32]

    @classmethod
    def map(cls, path: Path) -> "_File":
        """A safetensors file: eight bytes of length, a JSON header with offsets, the arrays."""
        whole = np.memmap(path, np.uint8, "r")
        end = 8 + int(whole[:8].view("<u8")[0])
        header = json.loads(bytes(whole[8:end]))

        def array(name: str, dtype: str) -> NDArray[Any]:
            begin, stop = header[name]["data_offsets"]
            found: NDArray[Any] = whole[end + begin : end + stop].view(dtype).reshape(header[name]["shape"])
            return found

        photos = array("photos", "u1")
        return cls(photos.view(f"S{photos.shape[1]}")[:, 0], array("features", "<f4"))


class Held:
    """What is known of one encoder: which photos, and their features by row.

    Memory is 24 bytes a photo; of names and features the system keeps the pages that were asked for, while it has room.
    """

    def __init__(self, files: Sequence[_File] = ()) -> None:
        self.files = list(files)
        self._keys = np.empty(0, np.uint64)
        self._at = np.empty((0, 2), np.int64)
        if self.files:
            self._index(0)

    def add(self, file: _File) -> None:
        """One more file."""
        self.files.append(file)
        self._index(len(self.files) - 1)

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, photos: Sequence[str]) -> NDArray[np.int64]:
        """The row of each photo, for :meth:`take`; -1 where nothing is known of it. Shape ``(N,)``."""
        names = np.array([photo.encode() for photo in photos], np.bytes_)
        found = np.full(len(names), -1, np.int64)
        if not len(self) or not len(names):
            return found
        keys = _keys(names)
        at, end = (np.searchsorted(self._keys, keys, side) for side in ("left", "right"))
        for i in np.flatnonzero(at < end):  # as good as always one candidate
            for row in range(at[i], end[i]):
                number, place = self._at[row]
                if self.files[number].photos[place] == names[i]:
                    found[i] = row
        return found

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Features of rows of :meth:`find`, shape ``(N, F)``."""
        return np.stack([self.files[number].features[place] for number, place in self._at[rows]])

    def _index(self, first: int) -> None:
        """Sort in the files from number ``first`` on."""
        fresh = self.files[first:]
        keys = np.concatenate([self._keys, *(_keys(file.photos) for file in fresh)])
        places = [
            np.stack([np.full(len(f.photos), first + i), np.arange(len(f.photos))], 1) for i, f in enumerate(fresh)
        ]
        order = np.argsort(keys, kind="stable")
        self._keys, self._at = keys[order], np.concatenate([self._at, *places])[order]


def _keys(names: NDArray[np.bytes_]) -> NDArray[np.uint64]:
    """The first sixteen letters of each name as one number: of a SHA-256, its first 64 bits."""
    width = max(names.dtype.itemsize, 16)
    letters = np.ascontiguousarray(names.astype(f"S{width}")).view(np.uint8).reshape(len(names), width)[:, :16]
    digits = np.where(letters >= ord("a"), letters - ord("a") + 10, letters - ord("0")).astype(np.uint64) & np.uint64(
        15
    )
    found: NDArray[np.uint64] = (digits << np.arange(60, -1, -4, dtype=np.uint64)).sum(axis=1, dtype=np.uint64)
    return found


class FeatureStore:
    """Features of photos on disk, by the photo's own bytes, for one encoder and one preprocessing.

    A file is written whole and never changed, so that any number of processes may read, add and make room.

    Args:
        folder: where the features of all encoders lie; none keeps them in memory alone.
        limit_bytes: what the folder may hold; the files that were read longest ago go first.
    """

    def __init__(self, folder: Path | None = None, limit_bytes: float = math.inf) -> None:
        self.folder, self.limit_bytes = folder, limit_bytes
        self._held: dict[str, Held] = {}

    def read(self, key: str) -> Held:
        """What is known for one encoder; empty where nothing is."""
        if key not in self._held:
            files = []
            for path in sorted((self.folder / key).glob("*.safetensors")) if self.folder else ():
                with suppress(FileNotFoundError):  # another process may have made room
                    files.append(_File.map(path))
                    os.utime(path)  # and not touch, which would make a file that has just gone
            self._held[key] = Held(files)
        return self._held[key]

    def add(self, key: str, features: Mapping[str, NDArray[np.float32]]) -> None:
        """Keep more features, on disk too: in a file of their own, so that no earlier one is written again."""
        if not features:
            return
        held = self.read(key)
        names = np.array([photo.encode() for photo in features], np.bytes_)
        rows = np.stack(list(features.values())).astype("<f4", copy=False)
        try:
            path = self.folder and self._write(self.folder / key, names, rows)
        except WriteError as error:  # what is only kept for later stops no work
            note(f"{error} with GRATICULE_CACHE; features are kept in memory until this command ends")
            self.folder = path = None
        if path is None:
            held.add(_File(names, rows))
            return
        with suppress(FileNotFoundError):
            held.add(_File.map(path))
        self._make_room()

    def _write(self, folder: Path, names: NDArray[np.bytes_], rows: NDArray[np.float32]) -> Path:
        path = folder / f"{content_hash(b''.join(names.tolist()))[:32]}.safetensors"
        letters = names.view(np.uint8).reshape(len(names), names.dtype.itemsize)
        write_bytes(path, save({"photos": letters, "features": rows}))
        return path

    def facts(self) -> dict[str, Any]:
        """How much is kept: ``folder``, ``encoders``, ``features``, ``bytes`` and ``limit_bytes``."""
        paths = self._files()
        count = 0
        for _, _, path in paths:
            with suppress(FileNotFoundError):
                count += len(_File.map(path).photos) if path.suffix == SUFFIXES[0] else 0
        return {
            "folder": str(self.folder),
            "encoders": len({path.parent for _, _, path in paths}),
            "features": count,
            "bytes": sum(size for _, size, _ in paths),
            "limit_bytes": self.limit_bytes,
        }

    def clear(self) -> dict[str, Any]:
        """Delete all that is kept on disk.

        Returns:
            :meth:`facts` of before.
        """
        before = self.facts()
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._held.clear()
        return before

    def _files(self) -> list[tuple[int, int, Path]]:
        """When each file was last read, its size and its path; the oldest first."""
        facts = []
        for path in self.folder.glob("*/*") if self.folder else ():
            with suppress(FileNotFoundError):
                about = path.stat()
                age = 0 if path.suffix == SUFFIXES[1] else about.st_mtime_ns
                if path.suffix in SUFFIXES:
                    facts.append((age, about.st_size, path))
        return sorted(facts)

    def _make_room(self) -> None:
        """Delete the files that were read longest ago, but for the newest, until the folder keeps its limit."""
        facts = self._files()
        total = sum(size for _, size, _ in facts)
        for _, size, path in facts[:-1]:
            if total <= self.limit_bytes:
                return
            path.unlink(missing_ok=True)
            total -= size


def default_store() -> FeatureStore:
    """The store in the user's cache folder; ``GRATICULE_CACHE`` names another, ``GRATICULE_CACHE_GB`` its limit.

    Raises:
        BadRecipeError: the limit is no number of gigabytes.
    """
    limit = os.environ.get("GRATICULE_CACHE_GB", "10")
    try:
        limit_bytes = float(limit) * 1e9
    except ValueError as error:
        raise BadRecipeError(f"GRATICULE_CACHE_GB takes gigabytes, such as 10; found {limit!r}") from error
    return FeatureStore(cache_folder() / "features", limit_bytes)
