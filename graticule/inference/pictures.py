"""Pictures of the photos that a bundle knows, to be shown beside an answer: its own, or of files at hand."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np

from graticule.errors import BadPhotoError, BadRecipeError, BadTableError
from graticule.geo.sphere import Floats
from graticule.inference.locate import Locator
from graticule.model.bundle import Bundle
from graticule.model.loading import Progress, read_bytes, silent
from graticule.model.thumbnails import Thumbnails
from graticule.photos.images import thumbnail
from graticule.photos.table import Photos

SHOWN_PX = 160  # longer side beside an answer
DECIMALS = 7  # of a degree: a known photo is found again by its position
AT_ONCE = 512  # photos compared at a time


class Pictures(Protocol):
    """Pictures of known photos, by their row."""

    def jpeg(self, index: int) -> bytes | None:
        """A picture without EXIF; None where there is none."""


@dataclass(frozen=True)
class Files:
    """Pictures made of photos at hand.

    Attributes:
        paths: of each known photo; None where its file is not there.
        longest: of a picture's sides, pixels.
    """

    paths: Sequence[Path | None]
    longest: int = SHOWN_PX

    def jpeg(self, index: int) -> bytes | None:
        """As of :class:`Pictures`."""
        path = self.paths[index]
        return None if path is None else _small(path, self.longest)


@lru_cache(maxsize=1024)
def _small(path: Path, longest: int) -> bytes | None:
    try:
        return thumbnail(read_bytes(path), longest)
    except BadPhotoError:
        return None


def files_of(locator: Locator, photos: Photos, longest: int = SHOWN_PX, *, progress: Progress = silent) -> Files:
    """The files of a bundle's known photos among those of a dataset: by position, and by their looks where several
    share one.

    Raises:
        BadTableError: none of them is there.
        BadPhotoError: one of those that share a position cannot be read.
    """
    confidence = locator.bundle.confidence
    if confidence is None:
        return Files((), longest)
    known, paths = confidence.known, photos.paths()
    here: dict[tuple[float, float], list[int]] = defaultdict(list)
    for row, at in enumerate(_rounded(photos.lat, photos.lon)):
        here[at].append(row)
    candidates = [here.get(at, []) for at in _rounded(known.lat, known.lon)]
    if not any(candidates):
        raise BadTableError(
            f"none of these {len(photos):,} photos lies where one that the bundle knows was taken; name the dataset "
            f"that it was trained on"
        )
    found = [paths[some[0]] if len(some) == 1 else None for some in candidates]
    asked: dict[int, list[int]] = defaultdict(list)  # rows of photos: the known ones that they may be
    for index, some in enumerate(candidates):
        for row in some if len(some) > 1 else ():
            asked[row].append(index)
    likest = np.full(len(candidates), -np.inf)
    rows = list(asked)
    for start in range(0, len(rows), AT_ONCE):
        some = rows[start : start + AT_ONCE]
        features = locator.features([paths[row] for row in some], progress=progress)
        cosines, _ = known.compare(features) or (None, None)
        if cosines is None:
            break
        for row, own in zip(some, cosines, strict=True):
            for index in asked[row]:
                if own[index] > likest[index]:
                    likest[index], found[index] = own[index], paths[row]
    return Files(found, longest)


def _rounded(lat: Floats, lon: Floats) -> Iterator[tuple[float, float]]:
    return zip(lat.round(DECIMALS).tolist(), lon.round(DECIMALS).tolist(), strict=True)


def keep_thumbnails(
    locator: Locator, photos: Photos | None, longest: int = SHOWN_PX, *, progress: Progress = silent
) -> tuple[Bundle, int]:
    """The bundle with small pictures of its known photos in it, or without any; to be written by its caller.

    What is on them, faces and plates included, is then public where the bundle is.

    Args:
        photos: the dataset that it was trained on; None takes pictures out of the bundle.
        longest: of a picture's sides, pixels.

    Returns:
        The bundle, and how many known photos have a picture.

    Raises:
        BadRecipeError: the bundle knows no photos by their looks.
        BadTableError: as :func:`files_of`.
    """
    bundle = locator.bundle
    if photos is None:
        return replace(bundle, thumbnails=None), 0
    if bundle.confidence is None or bundle.confidence.known.features is None:
        raise BadRecipeError(
            f"{bundle.recipe.name} knows no photos by their looks, so there is nothing to show beside an answer; a "
            f"calibrated bundle of a frozen encoder does, unless it was trained with remember=false"
        )
    files = files_of(locator, photos, longest, progress=progress)
    pictures = []
    for index in range(len(files.paths)):
        pictures.append(files.jpeg(index))
        progress(index + 1, len(files.paths), "pictures")
    return replace(bundle, thumbnails=Thumbnails.of(pictures)), sum(map(bool, pictures))
