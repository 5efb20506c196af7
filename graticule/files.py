"""Whole files or none: every write of the package goes aside first, then is renamed."""

import errno
import hashlib
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graticule.errors import WriteError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    import polars as pl

ASIDE = re.compile(r"\..+\.\d+\.part", re.DOTALL)  # what a file or folder is called until it is whole


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a path beside ``path`` to write to; it takes ``path``'s name when the block ends well.

    Raises:
        WriteError: the disk is full or the folder cannot be written. Whatever stood at ``path``
            before still stands there, and the half-written file is gone.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        os.replace(aside, path)
    except OSError as error:
        raise explained(error, path) from error
    finally:
        with suppress(NotADirectoryError):  # a file stands where the folder should be, as was said
            aside.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a new empty folder beside ``path``; it replaces ``path`` when the block ends well.

    Raises:
        WriteError: as for :func:`atomic_file`.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        yield aside
        shutil.rmtree(path, ignore_errors=True)
        os.replace(aside, path)
    except OSError as error:
        raise explained(error, path) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Delete a folder: at no moment does half of it stand under its name."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    with suppress(FileNotFoundError):
        os.replace(path, aside)
    shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Be the only process that writes into a folder, which is made where there is none; one that dies lets go.

    What those who died left half-written there is removed. Where a system has no such locks, nobody is kept out.

    Raises:
        WriteError: another process has it, or it cannot be made.
    """
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise explained(error, folder) from error
    try:
        if fcntl:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(held)
        if error.errno not in (errno.EAGAIN, errno.EACCES):  # a file system without locks
            yield
            return
        raise WriteError(
            f"another command is writing into {folder} at this moment; wait until it is done, or choose another folder"
        ) from error
    try:
        if fcntl:
            _sweep(folder)
        yield
    finally:
        if fcntl:
            _sweep(folder)  # of those who died meanwhile on other machines
        os.close(held)
        if made and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _sweep(folder: Path) -> None:
    for aside in folder.rglob(".*.part"):
        if not ASIDE.fullmatch(aside.name):
            continue
        if aside.is_dir():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.unlink(missing_ok=True)


def cache_folder() -> Path:
    """Where what can be made or fetched again is kept; ``GRATICULE_CACHE`` names another folder.

    Who has no home, as some users of containers, gets a folder among the temporary ones.
    """
    found = os.environ.get("GRATICULE_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "graticule"
    try:
        return Path(found).expanduser()
    except RuntimeError:
        return Path(tempfile.gettempdir()) / "graticule"


def fetched_folder() -> Path:
    """Where the bundles of public models lie, each in a folder of its name."""
    return cache_folder() / "models"


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file or nothing."""
    with atomic_file(path) as aside:
        aside.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a whole UTF-8 file or nothing."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write a whole JSON file or nothing; NaN is refused, since JSON has none."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def parquet_bytes(frame: "pl.DataFrame", metadata: dict[str, str] | None = None) -> bytes:
    """A Parquet file in memory: written by Polars itself, a full disk would not be an ``OSError``."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer, metadata=metadata)
    return buffer.getvalue()


def write_parquet(path: Path, frame: "pl.DataFrame", metadata: dict[str, str] | None = None) -> None:
    """Write a whole Parquet file or nothing; ``metadata`` are texts about the file as a whole."""
    write_bytes(path, parquet_bytes(frame, metadata))


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def explained(error: OSError, path: Path | str) -> OSError:
    """An error of the file system in a sentence; those that no user can mend stay as they are."""
    if isinstance(error, WriteError):
        return error
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return WriteError(
            f"no space left on the disk while writing {path}; nothing half-written was left. "
            f"Free some space or choose another folder, then run the same command again"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST):
        return WriteError(f"{path} cannot be written ({error.strerror}); choose a folder that you may write to")
    return error
