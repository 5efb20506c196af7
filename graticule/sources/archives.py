"""Photos out of tar files and WebDataset shards: unpacked under names of our making, never outside their folder.

A WebDataset shard is a tar whose members share a key: ``000001.jpg`` and ``000001.json``. The key is the name up to
the first dot of its last part, as in webdataset's ``base_plus_ext``.
"""

import json
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import polars as pl

from graticule.errors import BadPhotoError, BadTableError
from graticule.files import write_bytes
from graticule.photos import images
from graticule.photos.synonyms import usual
from graticule.sources.ingest import Refusal

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MAX_JSON_BYTES = 2**16  # a shard holds ten thousand, and all of them wait for their photos
OURS = ("path", "width", "height", "sha256", "dhash")  # measured or made here, whatever a shard's JSON says


def is_tar(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES)


def unpack_tars(tars: list[Path], root: Path, out: Path) -> tuple[pl.DataFrame, list[Refusal]]:
    """Unpack the photos of tar files into ``out/images`` and read what their JSON says of them.

    Each tar gets a folder of its own, and a member ``a/b.jpg`` the name ``a__b.jpg`` in it. A file that is there at
    its full size is not written again. One photo is in memory at a time. Links, devices, photos of more than
    :data:`graticule.photos.images.MAX_BYTES` and JSON of more than :data:`MAX_JSON_BYTES` are refused unread.

    Args:
        tars: files under ``root``, or ``root`` itself.

    Returns:
        Candidates for :func:`graticule.sources.ingest.ingest`: ``path`` and the scalars of the JSON, ``latitude`` and
        its kin as ``lat, lon``; without any JSON position both columns are absent, so that EXIF is asked. And what
        was refused.

    Raises:
        BadTableError: a file is no tar, ends early or is damaged.
        WriteError: the disk is full.
    """
    rows: list[dict[str, Any]] = []
    refused: list[Refusal] = []
    for tar in tars:
        label = tar.name if tar == root else tar.relative_to(root).as_posix()
        folder = Path("images", _flat(label))
        photos: dict[str, str] = {}  # keys by path; a shard's JSON may stand before or after its photo
        told: dict[str, dict[str, Any]] = {}
        for member, data in _members(tar):
            if isinstance(data, BadPhotoError):
                refused.append(Refusal(_utf8(f"{label}/{member.name}"), data.reason, str(data)))
            elif _is_json(member.name):
                told[_key(member.name)] = _facts(data)
            else:
                path = (folder / _flat(member.name)).as_posix()
                if path in photos:  # a/b.jpg beside a__b.jpg, or one name twice
                    path = (folder / f"{len(photos)}__{_flat(member.name)}").as_posix()
                photos[path] = _key(member.name)
                file = out / path
                if not file.is_file() or file.stat().st_size != len(data):
                    write_bytes(file, data)
        rows += [{**told.get(key, {}), "path": path} for path, key in photos.items()]
    return _frame(rows), refused


def _members(tar: Path) -> Iterator[tuple[tarfile.TarInfo, bytes | BadPhotoError]]:
    """The photos and JSON files of a tar with their bytes, or with the :class:`BadPhotoError` that they are."""
    done = 0
    try:
        with tarfile.open(tar, "r|*") as file:  # as a stream: compressed tars are never wound back
            for member in file:
                done += 1
                file.members = []  # type: ignore[attr-defined]  # tarfile remembers every member; a shard has many
                name = PurePosixPath(member.name)
                known = _is_json(member.name) or name.suffix.lower() in images.SUFFIXES
                if name.name.startswith(".") or not known or member.isdir():
                    continue
                content = file.extractfile(member) if member.isreg() else None
                if content is None:
                    yield member, BadPhotoError("unreadable", "it is a link or a device, which is never followed")
                elif _is_json(member.name) and member.size > MAX_JSON_BYTES:
                    yield (
                        member,
                        BadPhotoError(
                            "too large", f"it has {member.size:,} bytes of JSON; {MAX_JSON_BYTES:,} are read"
                        ),
                    )
                elif member.size > images.MAX_BYTES:
                    yield member, images.too_many_bytes(member.size)
                else:
                    yield member, content.read()
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        raise BadTableError(
            f"{tar} is no tar file, or is damaged or cut off after {done:,} members ({error}); copy it again"
        ) from error


def _flat(name: str) -> str:
    """One part of a path from many: no folder can be left by it, hidden or not."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    return _utf8("__".join(parts).replace("\0", "")).lstrip(".").encode()[-200:].decode(errors="ignore")


def _utf8(name: str) -> str:
    """The name with a question mark for each byte that is not UTF-8."""
    return name.encode("utf-8", "replace").decode()


def _is_json(name: str) -> bool:
    return name.lower().endswith(".json")


def _key(name: str) -> str:
    folder, _, last = name.rpartition("/")
    return f"{folder}/{last.partition('.')[0]}"


def _facts(data: bytes) -> dict[str, Any]:
    """The scalars of a JSON object under our names; anything else says nothing."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    facts = {name: value for name, value in found.items() if isinstance(value, str | int | float)}
    for ours in ("lat", "lon"):
        likely = [ours] if ours in facts else usual(ours, list(facts))
        if likely and likely[0].lower() not in ("x", "y"):  # these are pixels
            facts[ours] = facts.pop(likely[0])
    return {name: value for name, value in facts.items() if name not in OURS}


def _frame(rows: list[dict[str, Any]]) -> pl.DataFrame:
    """Rows of unlike keys as one table; a column of numbers and texts is text."""
    names = dict.fromkeys(name for row in rows for name in row)
    columns = []
    for name in names:
        values = [row.get(name) for row in rows]
        kinds = {type(value) for value in values if value is not None}
        if kinds == {int} and all(abs(value or 0) < 2**63 for value in values):
            columns.append(pl.Series(name, values, pl.Int64))
        elif kinds in ({float}, {int, float}):
            columns.append(pl.Series(name, values, pl.Float64, strict=False))
        else:
            columns.append(pl.Series(name, [None if value is None else str(value) for value in values], pl.String))
    frame = pl.DataFrame(columns, schema=None if columns else {"path": pl.String})
    return frame if "lat" in names and "lon" in names else frame.drop("lat", "lon", strict=False)
