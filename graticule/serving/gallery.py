"""The photos that a bundle knows, where their files are at hand: small pictures of those that look alike."""

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from graticule.belief.confidence import Known
from graticule.errors import BadPhotoError
from graticule.geo.sphere import Floats
from graticule.model.loading import read_bytes
from graticule.photos.images import thumbnail
from graticule.photos.table import Photos, read_photos

SHOWN_PX = 160  # longer side
DECIMALS = 7  # of a degree: a known photo is found again by its position


@dataclass(frozen=True)
class Gallery:
    """Files of known photos, by position."""

    paths: Mapping[tuple[float, float], Path]

    @classmethod
    def of(cls, photos: Photos) -> "Gallery":
        lats, lons = (np.round(values, DECIMALS).tolist() for values in (photos.lat, photos.lon))
        return cls(dict(zip(zip(lats, lons, strict=True), photos.paths(), strict=True)))

    def picture(self, lat: float, lon: float) -> str | None:
        """A small picture as a ``data:`` address, without what the camera wrote; None where no file is at hand."""
        path = self.paths.get((round(lat, DECIMALS), round(lon, DECIMALS)))
        return None if path is None else _picture(path)


@lru_cache(maxsize=1024)
def _picture(path: Path) -> str | None:
    try:
        data = thumbnail(read_bytes(path), SHOWN_PX)
    except BadPhotoError:
        return None
    return f"data:image/jpeg;base64,{b64encode(data).decode('ascii')}"


def open_gallery(dataset: Path) -> Gallery:
    """The photos of a dataset.

    Raises:
        BadTableError: there is none.
    """
    return Gallery.of(read_photos(dataset))


def neighbours_json(known: Known, alike: Floats, count: int, gallery: Gallery | None) -> list[dict[str, Any]]:
    """The known photos that look most like one, with the share of each in what all of them say."""
    rows = np.argsort(-alike, kind="stable")[:count]
    found = []
    for row in rows:
        lat, lon = float(known.lat[row]), float(known.lon[row])
        facts = {"lat": round(lat, 7), "lon": round(lon, 7), "similarity": float(f"{alike[row]:.4g}")}
        picture = gallery.picture(lat, lon) if gallery else None
        found.append(facts if picture is None else facts | {"thumbnail": picture})
    return found
