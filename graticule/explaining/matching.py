"""Local features of a photo, matched with those of known photos: the geometry that both share is evidence.

Needs OpenCV (``pip install 'graticule[match]'``), and no weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graticule.errors import BadPhotoError, BadRecipeError
from graticule.geo.sphere import format_km, great_circle_km
from graticule.inference.locate import Locator
from graticule.inference.pictures import Pictures
from graticule.model.loading import Progress, silent
from graticule.photos.images import Pixels, decode

LONGEST_PX, LEAST_PX = 800, 320  # longer side that features are looked for at; smaller pictures hold too few
CANDIDATES, OTHERS = 12, 40  # known photos that are compared: the likeliest, and some from elsewhere
MOST_FEATURES = 1500
RATIO = 0.8  # to the second nearest descriptor: Lowe, "Distinctive image features", IJCV 2004, section 7.1
REACH_PX = 1.5  # from an epipolar line
STRONG = 15  # agreeing points, and twice as many as any photo from elsewhere
FEWEST = 10  # photos from elsewhere that tell so


@dataclass(frozen=True, eq=False)
class Features:
    """Where the features of a photo are, ``(K, 2)`` pixels, and what they look like, ``(K, 128)``."""

    at: NDArray[np.float32]
    look: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Agreement:
    """A known photo, and the points of the two photos that one geometry explains, both ``(M, 2)``, pixels.

    Attributes:
        index: row of the known photo; ``lat, lon`` degrees, ``distance_km`` from the answer.
        matched: pairs of features that look alike, before geometry was asked.
    """

    index: int
    lat: float
    lon: float
    distance_km: float
    matched: int
    here: NDArray[np.float32]
    there: NDArray[np.float32]

    def to_json(self) -> dict[str, Any]:
        """Plain values; ``inliers`` are the points that agree."""
        at = {"index": self.index, "lat": round(self.lat, 7), "lon": round(self.lon, 7)}
        return at | {"distance_km": round(self.distance_km, 4), "matched": self.matched, "inliers": len(self.here)}


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the likeliest known photos show, most agreeing first, and the agreeing points with photos from elsewhere."""

    found: Sequence[Agreement]
    others: NDArray[np.int64]

    @property
    def strength(self) -> str:
        """``strong``, ``some`` or ``none``."""
        most, best = int(self.others.max(initial=0)), len(self.found[0].here)
        if best >= STRONG and best >= 2 * most and len(self.others) >= FEWEST:
            return "strong"
        return "some" if best > most and best >= STRONG else "none"

    def to_json(self) -> dict[str, Any]:
        """Plain values; ``inliers_elsewhere`` are those of known photos that cannot show the same."""
        return {
            "strength": self.strength,
            "words": self.in_words(),
            "known_photos": [one.to_json() for one in self.found],
            "inliers_elsewhere": sorted(self.others.tolist(), reverse=True),
        }

    def in_words(self) -> str:
        """One sentence for people."""
        best = self.found[0]
        where = f"the known photo at {best.lat:.5f}, {best.lon:.5f} ({format_km(best.distance_km)} from the answer)"
        said = {
            "strong": "strong evidence that both show the same things",
            "some": "some evidence that both show the same things; look at the lines",
            "none": "no evidence",
        }[self.strength]
        return (
            f"{len(best.here)} points agree on one geometry with {where}; with {len(self.others)} known photos from "
            f"elsewhere at most {self.others.max(initial=0)} do: {said}"
        )


def features(pixels: Pixels) -> Features:
    """SIFT (Lowe 2004), compared by the root of what it counts (Arandjelovic and Zisserman, CVPR 2012).

    Args:
        pixels: RGB, ``(H, W, 3)``.

    Raises:
        BadRecipeError: OpenCV is not installed.
    """
    cv2 = _opencv()
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    points, look = cv2.SIFT_create(MOST_FEATURES).detectAndCompute(grey, None)
    if look is None:
        return Features(np.empty((0, 2), np.float32), np.empty((0, 128), np.float32))
    at = np.array([point.pt for point in points], np.float32)
    return Features(at, np.sqrt(look / np.maximum(look.sum(axis=1, keepdims=True), 1e-9)))


def agreeing(here: Features, there: Features) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Rows of the features of two photos that look alike and lie where one geometry of two cameras puts them.

    MAGSAC++ (Barath et al., CVPR 2020) finds the fundamental matrix.

    Returns:
        The rows of each, both ``(M,)``, and how many pairs looked alike; of fewer than ``STRONG`` no geometry is asked.
    """
    none = np.empty(0, np.int64)
    if min(len(here.at), len(there.at)) < 8:
        return none, none, 0
    likeness = here.look @ there.look.T
    best = likeness.argmax(axis=1)
    top = np.partition(likeness, -2, axis=1)[:, -2:]
    distance = np.sqrt(np.maximum(2 - 2 * top, 0))
    mutual = likeness.argmax(axis=0)[best] == np.arange(len(best))
    rows = np.flatnonzero(mutual & (distance[:, 1] < RATIO * distance[:, 0]))
    if len(rows) < STRONG:  # they would be no evidence; most pairs end here, long before the search for a geometry
        return none, none, len(rows)
    cv2 = _opencv()
    _, mask = cv2.findFundamentalMat(
        here.at[rows], there.at[best[rows]], cv2.USAC_MAGSAC, REACH_PX, 0.999, maxIters=2000
    )
    kept = rows[mask.ravel() > 0] if mask is not None else none
    return kept, best[kept], len(rows)


def evidence(
    locator: Locator, photo: bytes, pictures: Pictures | None, *, progress: Progress = silent
) -> tuple[Evidence, Pixels, Pixels]:
    """Compare a photo with the known photos that it looks most like, and with some from elsewhere for comparison.

    Returns:
        The evidence, and the pixels of the photo and of the known photo that agrees most.

    Raises:
        BadRecipeError: OpenCV is not installed, or there are no pictures of known photos that are large enough.
        BadPhotoError: the photo cannot be read.
    """
    confidence, missing = locator.bundle.confidence, (
        f"match compares with the known photos themselves, and there are no pictures of them of {LEAST_PX} pixels or "
        f"more: name the dataset that the bundle was trained on with --gallery, or keep some in the bundle, "
        f"graticule gallery thumbnails BUNDLE DATASET --px {LONGEST_PX}"
    )  # fmt: skip
    if pictures is None or confidence is None or confidence.known.features is None:
        raise BadRecipeError(missing)
    _opencv()
    [result] = locator.results([photo], neighbours=CANDIDATES)
    if result.fix is None:
        raise result.error or BadPhotoError("unreadable", "the photo cannot be read")
    known, fix = confidence.known, result.fix
    far_km = great_circle_km(fix.lat, fix.lon, known.lat, known.lon)
    half = np.flatnonzero(far_km >= np.median(far_km))
    half = np.setdiff1d(half, [near.index for near in fix.neighbours])
    rng = np.random.default_rng(locator.bundle.recipe.seed)
    others = rng.choice(half, min(OTHERS, len(half)), replace=False)
    asked = _pixels(photo)
    here, found, counts, shown = features(asked), [], [], {}
    total = len(fix.neighbours) + len(others)
    for number, row in enumerate([*(near.index for near in fix.neighbours), *others.tolist()]):
        jpeg = pictures.jpeg(row)
        pixels = None if jpeg is None else _pixels(jpeg)
        progress(number + 1, total, "known photos")
        if pixels is None or max(pixels.shape) < LEAST_PX:
            continue
        there = features(pixels)
        own, theirs, matched = agreeing(here, there)
        if number >= len(fix.neighbours):
            counts.append(len(own))
            continue
        shown[row] = pixels
        at = float(known.lat[row]), float(known.lon[row]), float(far_km[row])
        found.append(Agreement(row, *at, matched, here.at[own], there.at[theirs]))
    if not found:
        raise BadRecipeError(missing)
    found.sort(key=lambda one: -len(one.here))
    return Evidence(found, np.array(counts, np.int64)), asked, shown[found[0].index]


def _pixels(data: bytes) -> Pixels:
    from PIL import Image

    photo = Image.fromarray(decode(data, shortest_side=LONGEST_PX // 2))
    photo.thumbnail((LONGEST_PX, LONGEST_PX))
    return np.asarray(photo)


def _opencv() -> Any:
    try:
        import cv2
    except ModuleNotFoundError as error:
        raise BadRecipeError("--method match needs another package: pip install 'graticule[match]'") from error
    return cv2
