"""A folder of photos that know where they were taken: EXIF GPS."""

import os
from pathlib import Path

import polars as pl

from graticule.errors import BadTableError
from graticule.images import FORMATS, SUFFIXES
from graticule.sources.intake import MAX_REFUSED, Progress, admit


def import_folder(
    folder: Path, out: Path, *, max_refused: float = MAX_REFUSED, progress: Progress | None = None
) -> Path:
    """Make a dataset of all photos under a folder, in the order of their paths.

    Hidden files and folders are passed over, and so is ``out`` where it lies inside; linked folders are not
    followed, so a loop of links does no harm.

    Raises:
        BadTableError: no such folder, or no photos in it.
        TooManyRefusedError, WriteError: see :func:`graticule.sources.intake.admit`.
    """
    if not folder.is_dir():
        raise BadTableError(f"there is no folder {folder}; give a folder of photos")
    paths = photo_paths(folder, skip=out)
    if not paths:
        raise BadTableError(
            f"the folder {folder} holds no photos: no file under it ends in {', '.join(sorted(SUFFIXES))}. "
            f"Formats that can be read are {FORMATS}"
        )
    candidates = pl.DataFrame({"path": [path.relative_to(folder).as_posix() for path in paths]})
    return admit(candidates, folder, out, source="folder", max_refused=max_refused, progress=progress)


def photo_paths(folder: Path, skip: Path | None = None) -> list[Path]:
    """All photos under a folder by their suffix, sorted; nothing hidden, nothing under ``skip``."""
    skipped = skip.resolve() if skip else None
    found = []
    for parent, folders, files in os.walk(folder):
        here = Path(parent)
        folders[:] = [name for name in folders if name[0] != "." and (here / name).resolve() != skipped]
        found += [here / name for name in files if name[0] != "." and Path(name).suffix.lower() in SUFFIXES]
    return sorted(found)
