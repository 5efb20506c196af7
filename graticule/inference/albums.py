"""Several photos answered together: of one place, or along one drive. Pure arrays."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graticule.belief.calibration import HeldOut, believe
from graticule.belief.confidence import Calibration, Fusion
from graticule.belief.density import Belief, Kernels, Shape
from graticule.choices import Together
from graticule.geo.sphere import EARTH_RADIUS_KM, Floats, chord_to_km, from_vectors, unit_vectors
from graticule.partition.base import nearest_other_km
from graticule.photos.columns import is_empty, moments
from graticule.photos.table import Photos

STEP_SPACINGS = (0.5, 1.0, 2.0, 4.0)  # steps that are tried, in median distances between neighbouring positions
FARTHEST_STEPS = 8.0  # beyond it a step is as unlikely as any jump
LEAST = 1e-300  # of a probability, so that its logarithm is finite
JUMP = 1e-3  # share of steps that may end anywhere: a ferry, a gap in the recording, a wrong order
POWERS: dict[Together, tuple[float, ...]] = {"place": (0.0, 0.25, 0.5), "sequence": (1.0, 0.5)}  # tried, plainest first


def pooled(log_probability: NDArray[np.floating[Any]], power: float = 0.0) -> Floats:
    """What several photos of one place say of its cell together, log-probabilities of shape ``(C,)``.

    The logarithmic opinion pool with equal weights (Genest and Zidek, "Combining probability distributions",
    Statistical Science 1986, section 3): the geometric mean, normalised, of N photos to the ``N**power``. At 0 it takes
    them for views of the same scene, so that ten stills of one webcam are no surer than two; at 1 for independent
    witnesses.

    Args:
        log_probability: one row a photo, shape ``(N, C)``.
    """
    seen = np.asarray(log_probability, np.float64)
    return _normalised(seen.mean(axis=0) * len(seen) ** power)


class Motion:
    """How a camera moves between S positions (of cells, of known photos) from one photo of a drive to the next.

    Nearer ones are likelier, by the exponential of the distance. Neither speed nor streets are known.

    Args:
        lat, lon: degrees, shape ``(S,)``.
        step_km: mean length of a step.
    """

    def __init__(self, lat: Floats, lon: Floats, step_km: float) -> None:
        from scipy.sparse import coo_array
        from scipy.spatial import KDTree

        self.step_km = step_km
        tree = KDTree(unit_vectors(lat, lon))
        reach = 2 * np.sin(min(FARTHEST_STEPS * self.step_km / EARTH_RADIUS_KM, np.pi) / 2)
        near = tree.sparse_distance_matrix(tree, reach, output_type="ndarray")
        weight = np.exp(-chord_to_km(near["v"]) / self.step_km)
        count = len(lat)
        steps = coo_array((weight, (near["i"], near["j"])), shape=(count, count)).tocsr()
        self._steps = steps.multiply(1 / steps.sum(axis=1)[:, None]).tocsr()
        self._back = self._steps.T.tocsr()

    @classmethod
    def candidates(cls, lat: Floats, lon: Floats) -> "list[Motion]":
        """One motion for each of ``STEP_SPACINGS``; none where all positions are one."""
        spacing = nearest_other_km(lat, lon)
        return [] if spacing is None else [cls(lat, lon, share * float(np.median(spacing))) for share in STEP_SPACINGS]

    def forward(self, probability: Floats) -> Floats:
        """Where a camera is one photo later, shape ``(C,)``."""
        moved: Floats = (1 - JUMP) * (self._back @ probability) + JUMP * probability.mean()
        return moved

    def backward(self, likelihood: Floats) -> Floats:
        """How well each cell explains what was seen one photo later, shape ``(C,)``."""
        explained: Floats = (1 - JUMP) * (self._steps @ likelihood) + JUMP * likelihood.mean()
        return explained


def along(log_probability: NDArray[np.floating[Any]], motions: Sequence[Motion]) -> Floats:
    """What each photo of a drive says given all others of the drive, log-probabilities ``(N, S)``.

    The forward-backward algorithm of a hidden Markov model (Rabiner, Proc. IEEE 77(2), 1989, section III): the position
    is the state, :class:`Motion` the transition, and the photo's own probabilities stand for the likelihood of what it
    shows, since no position is likelier beforehand. Of several motions that one under which the drive is likeliest:
    how far a camera goes between two photos is told by its own photos.

    Args:
        log_probability: one row a photo in the order of the drive, shape ``(N, S)``.
    """
    seen = np.asarray(log_probability, np.float64)
    seen = np.exp(seen - seen.max(axis=1, keepdims=True))
    if not motions or len(seen) == 1:
        return _normalised(np.log(np.maximum(seen, LEAST)))
    motion, ahead = max(
        ((motion, _ahead(seen, motion)) for motion in motions), key=lambda found: np.log(found[1].sum(axis=1)).sum()
    )
    behind = np.ones_like(seen)
    for i in range(len(seen) - 2, -1, -1):
        behind[i] = motion.backward(seen[i + 1] * behind[i + 1])
        behind[i] /= behind[i].max()
    with np.errstate(divide="ignore"):
        return _normalised(np.log(ahead) + np.log(behind))


def _ahead(seen: Floats, motion: Motion) -> Floats:
    """Forward pass: row i, times what is before it, is how likely positions and photos are up to photo i."""
    ahead = np.empty_like(seen)
    ahead[0] = seen[0]
    for i in range(1, len(seen)):
        ahead[i] = motion.forward(ahead[i - 1] / ahead[i - 1].sum()) * seen[i]
    return ahead


@dataclass(frozen=True, eq=False)
class Albums:
    """Photos that are answered together.

    Attributes:
        together: ``place``, views of one scene; or ``sequence``, photos along a drive, in their order.
        rows: row numbers of each album; every photo lies in one.
    """

    together: Together
    rows: list[NDArray[np.int64]]

    @classmethod
    def of(cls, together: Together, codes: NDArray[np.int64], when: Floats | None = None) -> "Albums":
        """Albums by group code, each in the order of ``when`` (any clock; NaN comes last), else as they stand.

        Args:
            codes, when: one a photo, shape ``(N,)``.
        """
        if not len(codes):
            return cls(together, [])
        order = np.lexsort((codes,) if when is None else (when, codes))
        return cls(together, np.split(order, np.flatnonzero(np.diff(codes[order])) + 1))

    def chunks(self, photos: int) -> Iterator[list[NDArray[np.int64]]]:
        """Whole albums, some at a time: enough for so many photos, or one album that is larger."""
        some: list[NDArray[np.int64]] = []
        for album in self.rows:
            some.append(album)
            if sum(map(len, some)) >= photos:
                yield some
                some = []
        if some:
            yield some

    def some(self, photos: int, longest: int, seed: int) -> "tuple[Albums, NDArray[np.int64]]":
        """Albums of two photos or more, drawn by the seed until there are so many photos, and these photos' rows.

        The albums count within those rows; each is cut to its first ``longest`` photos.
        """
        several = [album[:longest] for album in self.rows if len(album) > 1]
        drawn, left = [], photos
        for i in np.random.default_rng(seed).permutation(len(several)):
            drawn.append(several[i][:left])
            left -= len(drawn[-1])
            if not left:
                break
        rows = np.concatenate([np.empty(0, np.int64), *drawn])
        ends = np.cumsum([len(album) for album in drawn])
        return Albums(self.together, np.split(np.arange(len(rows)), ends[:-1]) if drawn else []), rows

    def answer(
        self, log_probability: NDArray[np.floating[Any]], motions: Sequence[Motion], power: float | None = None
    ) -> Floats:
        """What the photos of one album say together, each its own row, log-probabilities ``(N, S)``.

        Args:
            power: of a place, as of :func:`pooled`; along a drive what each photo says is raised to it, so that the
                drive's other photos count for more, the lower it is. By default neither changes anything.
        """
        if self.together == "sequence":
            return along(log_probability if power is None else power * log_probability, motions)
        return np.tile(pooled(log_probability, power or 0.0), (len(log_probability), 1))


def albums_of(photos: Photos, together: Together) -> Albums:
    """Albums by the column ``place`` (else by position to 0.001 degrees) or by ``sequence``, in order of capture.

    Raises:
        BadTableError: there is no column ``sequence``.
    """
    if together == "place":
        return Albums.of(together, photos.places())
    when = None if is_empty(photos, "captured_at") else moments(photos)
    return Albums.of(together, photos.groups("sequence"), when)


@dataclass(frozen=True, eq=False)
class Fuser:
    """What turns the beliefs of photos into those of photos that are answered together.

    The positions that an album is heard on are all centers, of cells and of known photos. What comes of it is a belief
    whose first kernels stand around all these, with the album's weights; beside them the photo's own likeness to known
    photos keeps a share, and so do the map and anywhere.

    Attributes:
        cells, known: kernels of the beliefs that are fused.
    """

    cells: Kernels
    known: Kernels

    @cached_property
    def centers(self) -> Kernels:
        """Around cells and known photos, in the order of a belief's components."""
        center, width_km = (
            np.vstack([getattr(where, name) for where in (self.cells, self.known)]) for name in ("center", "width_km")
        )
        return Kernels(center, width_km, self.cells.usual_km)

    @cached_property
    def motions(self) -> list[Motion]:
        return Motion.candidates(*from_vectors(self.centers.center))

    def heard(self, belief: Belief, albums: Albums, power: float) -> tuple[Floats, Floats]:
        """Logarithms of what is said of all centers ``(N, C + P)``, together, and of known photos ``(N, P)``.

        Args:
            belief: of N photos, each by itself.
            albums: rows of these.
        """
        said = np.log(np.maximum(belief.components()[1], LEAST))
        alike = np.log(np.maximum(belief.known_weight, LEAST))
        for album in albums.rows:
            said[album] = albums.answer(said[album], self.motions, power)
            if albums.together == "place":
                alike[album] = albums.answer(alike[album], self.motions, power)
        return said, alike

    def held_out(self, part: HeldOut, belief: Belief, albums: Albums, power: float) -> HeldOut:
        """The same photos that did not train, answered together."""
        said, alike = self.heard(belief, albums, power)
        return HeldOut(
            self.centers, self.known, said, None if part.cosines is None else alike, None, part.lat, part.lon
        )

    def fuse(self, belief: Belief, albums: Albums, fusion: Fusion) -> Belief:
        """What is believed of each of N photos given all others of its album."""
        said, alike = self.heard(belief, albums, fusion.power)
        return believe(fusion.calibration.shape, self.centers, self.known, said, alike)


def untold(together: Together, calibration: Calibration) -> Fusion:
    """How photos are answered together where no held-out albums told: their points, of which no error is known."""
    alone = calibration.shape
    cells = tuple(np.add(alone.cells, alone.gallery).tolist())
    gallery = (0.0,) * len(cells)
    shape = Shape(1.0, 1.0, cells, gallery, alone.map, alone.anywhere, alone.without_photo)
    return Fusion(0.0 if together == "place" else 1.0, replace(calibration, shape=shape))


def _normalised(log_weight: Floats) -> Floats:
    top = log_weight.max(axis=-1, keepdims=True)
    found: Floats = log_weight - top - np.log(np.exp(log_weight - top).sum(axis=-1, keepdims=True))
    return found
