"""A folder of photos that know where they were taken by their EXIF; or tar files and WebDataset shards of photos."""

import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from shlex import quote

import polars as pl

from graticule.errors import BadTableError, note
from graticule.photos import raw
from graticule.photos.images import FORMATS, SUFFIXES
from graticule.sources.archives import is_tar, unpack_tars
from graticule.sources.beside import gpx_track, mapillary_description, takeout, xmp_files
from graticule.sources.ingest import MAX_REFUSED, Progress, Refusal, ingest

VIDEOS = frozenset({".mp4", ".mov", ".m4v", ".mkv", ".avi", ".ts", ".mts"})


def import_folder(
    folder: Path,
    out: Path,
    *,
    max_refused: float = MAX_REFUSED,
    progress: Progress | None = None,
    tracks: Sequence[Path] = (),
    clock_offset: timedelta = timedelta(),
    hemisphere: str = "",
) -> Path:
    """Make a dataset of all photos under a folder, in the order of their paths, or of those in tar files.

    Hidden files and folders are passed over, and so is ``out`` where it lies inside; linked folders are not
    followed, so a loop of links does no harm. Tars, WebDataset shards among them, are unpacked into ``out/images``;
    see :func:`graticule.sources.archives.unpack_tars` for what their JSON says.

    Args:
        folder: of photos or of tars, or one tar.
        tracks: GPX files of the drives, for photos without a position of their own.
        clock_offset: what to add to the camera's clock to get the track's.
        hemisphere: letters such as ``NE`` for positions whose EXIF lacks them.

    Raises:
        BadTableError: no such folder, no photos in it, photos beside tars, or a damaged tar.
        TooManyRefusedError, WriteError: see :func:`graticule.sources.ingest.ingest`.
    """
    if is_tar(folder) and folder.is_file():
        return _import_tars([folder], folder, out, max_refused, progress)
    if not folder.is_dir():
        if folder.exists():
            raise BadTableError(f"{folder} is neither a folder nor a tar file; give the folder that holds the photos")
        raise BadTableError(f"there is no folder or tar file {folder}; give a folder of photos")
    files = files_under(folder, skip=out)
    tars = [path for path in files if is_tar(path)]
    paths = _without_raws_of([path for path in files if path.suffix.lower() in SUFFIXES])
    if tars and paths:
        raise BadTableError(
            f"the folder {folder} holds photos ({paths[0].name}) beside tar files ({tars[0].name}); "
            f"make a dataset of each: move the one or the other into a folder of its own"
        )
    if tars:
        return _import_tars(tars, folder, out, max_refused, progress)
    videos = videos_among(files)
    if not paths and videos:
        raise BadTableError(
            f"the folder {folder} holds no photos, and {len(videos)} videos such as {videos[0].name}: "
            f"`graticule data video {quote(str(folder))} OUT` takes their frames"
        )
    if not paths:
        raise BadTableError(
            f"the folder {folder} holds no photos: no file under it ends in {', '.join(sorted(SUFFIXES))}, and none "
            f"is a tar. Formats that can be read are {FORMATS}"
        )
    if videos:
        note(
            f"{len(videos)} videos such as {videos[0].relative_to(folder).as_posix()} are left out; "
            f"`graticule data video {quote(str(folder))} OUT` takes their frames"
        )
    named: list[str] = []
    refused: list[Refusal] = []
    for path in paths:
        name = path.relative_to(folder).as_posix()
        shown = os.fsencode(name).decode("utf-8", "replace")
        if shown == name:
            named.append(name)
        else:
            refused.append(Refusal(shown, "unreadable", "its name is not UTF-8, so no table can hold it; rename it"))
    return ingest(
        pl.DataFrame({"path": named}, schema={"path": pl.String}),
        folder,
        out,
        source="folder",
        max_refused=max_refused,
        progress=progress,
        refused_before=refused,
        looks=[xmp_files(), mapillary_description(), takeout(), *([gpx_track(tracks, clock_offset)] if tracks else [])],
        hemisphere=hemisphere,
    )


def _without_raws_of(paths: list[Path]) -> list[Path]:
    """Photos without the raw files that lie beside a photo of the same name: cameras write both of one picture."""
    kinds = raw.SUFFIXES | raw.OTHERS
    developed = {path.with_suffix("") for path in paths if path.suffix.lower() not in kinds}
    return [path for path in paths if path.suffix.lower() not in kinds or path.with_suffix("") not in developed]


def photo_paths(folder: Path, skip: Path | None = None) -> list[Path]:
    """All photos under a folder by their suffix, sorted; nothing hidden, nothing under ``skip``."""
    return _without_raws_of([path for path in files_under(folder, skip) if path.suffix.lower() in SUFFIXES])


def find_videos(source: Path, skip: Path | None = None) -> list[Path]:
    """A video, or those under a folder that lie beside no photo of their name.

    Raises:
        BadTableError: there is none.
    """
    if source.is_file() and source.suffix.lower() in VIDEOS:
        return [source]
    if not source.is_dir():
        what = f"{source} is no video" if source.exists() else f"there is no file or folder {source}"
        raise BadTableError(f"{what}; give a folder of videos, or one that ends in {', '.join(sorted(VIDEOS))}")
    found = videos_among(files_under(source, skip))
    if not found:
        raise BadTableError(f"the folder {source} holds no video that ends in {', '.join(sorted(VIDEOS))}")
    return found


def videos_among(files: Sequence[Path]) -> list[Path]:
    """The videos of these files, without the moving halves of live photos."""
    photos = {path.with_suffix("") for path in files if path.suffix.lower() in SUFFIXES}
    return [path for path in files if path.suffix.lower() in VIDEOS and path.with_suffix("") not in photos]


def _import_tars(tars: list[Path], root: Path, out: Path, max_refused: float, progress: Progress | None) -> Path:
    candidates, refused = unpack_tars(tars, root, out)
    if candidates.is_empty() and not refused:
        raise BadTableError(f"{root} holds no photos: no member ends in {', '.join(sorted(SUFFIXES))}")
    return ingest(
        candidates,
        out,
        out,
        source="folder",
        max_refused=max_refused,
        progress=progress,
        facts={"archives": [tar.name for tar in tars]},
        refused_before=refused,
    )


def files_under(folder: Path, skip: Path | None) -> list[Path]:
    """All files under a folder, sorted; nothing hidden, nothing under ``skip``, no linked folders."""
    skipped = skip.resolve() if skip else None
    found = []
    for parent, folders, files in os.walk(folder):
        here = Path(parent)
        folders[:] = [name for name in folders if name[0] != "." and (here / name).resolve() != skipped]
        found += [here / name for name in files if name[0] != "."]
    return sorted(found)
