"""What a bundle knows of how sure it may be: the fitted shape, the known photos, and what held-out photos showed."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Self, get_args

import numpy as np
from numpy.typing import NDArray

from graticule.belief.density import LEAST_WIDTH_KM, Kernels, Shape
from graticule.choices import Together
from graticule.geo.sphere import Floats, Ints
from graticule.partition import Partition
from graticule.partition.base import nearest_other_km

MOST_KNOWN = 5000  # photos that a bundle remembers
MOST_HELD = 4 * MOST_KNOWN  # with those that were added afterwards: a first answer takes the longer, the more there are
MOST_TURNED = 2000  # of them that the axes are found with
MOST_AXES = 256
LEAST_VARIANCE = 1e-6  # of a standardised feature along an axis; below it is rounding
COVERAGES = (0.5, 0.8, 0.9, 0.95)
FLOAT16 = (-60_000.0, 60_000.0)  # what it holds
KNOWN_ARRAYS = ("lat", "lon", "features", "center", "scale", "axes", "spread", "views")
ONE_PLACE_KM = 0.1  # spread of a map of one position


@dataclass(frozen=True, eq=False)
class Known:
    """Training photos that a bundle remembers: where they are, and how they look.

    Attributes:
        lat, lon: degrees, shape ``(P,)``.
        features: how each looks, float16 of shape ``(P, D)``: the encoder's features, standardised and turned to their
            principal axes; none where the encoder trained along, since it has seen these photos too often to compare
            others with them.
        center, scale: of the encoder's features, shape ``(F,)``.
        axes, spread: principal axes of standardised features, and how far known photos spread along each, shape
            ``(D,)``; none in bundles of before, which keep standardised features whole. Each of B parts of features has
            D / B axes of its own, orthonormal; those of all parts stand below each other, shape ``(F, D / B)``.
        views: lengths of the last parts, each of which is compared by itself; what stands before them tells only how
            strange a photo is. None, in bundles of before, is one view of all.
    """

    lat: Floats
    lon: Floats
    features: NDArray[np.float16] | None
    center: NDArray[np.float32] | None
    scale: NDArray[np.float32] | None
    axes: NDArray[np.float16] | NDArray[np.float32] | None = None
    spread: NDArray[np.float32] | None = None
    views: Ints | None = None

    @classmethod
    def of(
        cls, lat: Floats, lon: Floats, features: NDArray[np.float32] | None, seed: int, views: Sequence[int] = ()
    ) -> Self:
        """Remember these photos, or as many of them as a bundle may hold, chosen by the seed.

        Args:
            features: of the encoder, shape ``(P, F)``.
            views: as of :class:`graticule.model.encoders.Encoder`; by default all at once.
        """
        kept = np.arange(len(lat))
        if len(lat) > MOST_KNOWN:
            kept = np.sort(np.random.default_rng(seed).choice(len(lat), MOST_KNOWN, replace=False))
        if features is None:
            return cls(lat[kept], lon[kept], None, None, None)
        center = features.mean(axis=0)
        scale = 1 / np.maximum(features.std(axis=0), 1e-6)
        standard = (features[kept] - center) * scale
        some = np.linspace(0, len(kept) - 1, min(len(kept), MOST_TURNED)).astype(int)  # of every drive, not the first
        views = views or [features.shape[1]]
        lengths = _parts(features.shape[1], views)
        # No more than half as many as photos: whitened along as many, every photo would be as far from every other.
        count = max(1, min(MOST_AXES, len(some) // 2, *lengths))
        found = [principal_axes(part, count) for part in _split(standard[some], lengths)]
        axes, spread = np.concatenate([one[0] for one in found]), np.concatenate([one[1] for one in found])
        known = cls(lat[kept], lon[kept], None, center, scale, axes.astype(np.float16), spread, np.array(views))
        return replace(known, features=known._held(standard))

    def with_more(self, lat: Floats, lon: Floats, features: NDArray[np.float32]) -> Self:
        """These and further photos, but for those that are among them already; along the axes that are there.

        Raises:
            ValueError: it is not known how these look, or there would be more than ``MOST_HELD``.
        """
        if self.features is None:
            raise ValueError("these known photos have no features to compare others with")
        held = self._held(self._standard(features))
        told = {(a, o, row.tobytes()) for a, o, row in zip(self.lat, self.lon, self.features, strict=True)}
        fresh = [i for i in range(len(lat)) if (lat[i], lon[i], held[i].tobytes()) not in told]
        if len(self.lat) + len(fresh) > MOST_HELD:
            raise ValueError(f"{len(self.lat):,} photos are known and {len(fresh):,} more are past {MOST_HELD:,}")
        return replace(
            self,
            lat=np.concatenate([self.lat, lat[fresh]]),
            lon=np.concatenate([self.lon, lon[fresh]]),
            features=np.concatenate([self.features, held[fresh]]),
        )

    def kernels(self, usual_km: float | None = None) -> Kernels:
        """Kernels around them, by :meth:`Kernels.of`; a photo's spread is its distance to the nearest other place."""
        spacing = nearest_other_km(self.lat, self.lon)
        spread = np.full(len(self.lat), ONE_PLACE_KM) if spacing is None else np.maximum(spacing, LEAST_WIDTH_KM)
        return Kernels.of(self.lat, self.lon, spread, usual_km)

    def compare(self, features: NDArray[np.float32]) -> tuple[Floats, Floats] | None:
        """Cosines of N photos with each known one, ``(N, P)``, and distances to the nearest, ``(N,)``; none without
        features. The cosine tells which of them a photo is like, the distance whether it is like any. Where photos have
        several views, the cosine is the mean of theirs.

        Cosines are of whitened features: what many photos share (sky, asphalt) would drown what tells places apart
        (Jegou and Chum, "Negative evidences and co-occurences in image retrieval", ECCV 2012). Distances are not, and
        count what of a photo lies along no axis: a strange photo is strange there. Where second moments are compared,
        distances are of the pooled features before them: from any photo, second moments of others are about as far.

        Args:
            features: of the encoder, shape ``(N, at least F)``; bundles of before look at the last F alone.
        """
        if self.features is None:
            return None
        standard = self._standard(features)
        turned, rows = self._turned(standard), self._rows
        seen, asked, known = standard, turned, rows
        if self._looks:
            length, count = self._axes[0].shape
            seen, asked, known = standard[:, :length], turned[:, :count], rows[:, :count]
        squared = np.square(seen).sum(axis=1, keepdims=True) + np.square(known).sum(axis=1) - 2 * asked @ known.T
        nearest = np.sqrt(np.maximum(squared.min(axis=1), 0)).astype(np.float64)
        return (self._direction(turned) @ self._directions.T).astype(np.float64), nearest

    @cached_property
    def _rows(self) -> NDArray[np.float32]:
        return np.empty((0, 0), np.float32) if self.features is None else self.features.astype(np.float32)

    @cached_property
    def _directions(self) -> NDArray[np.float32]:
        return self._direction(self._rows)

    @cached_property
    def _axes(self) -> list[NDArray[np.float32]]:
        """Of each part, shape ``(its length, D / B)``; an axis lies in one piece, which a single photo needs most."""
        if self.axes is None:
            return []
        lengths = _parts(len(self.axes), [len(self.axes)] if self.views is None else self.views.tolist())
        return [np.ascontiguousarray(part).T for part in _split(self.axes.astype(np.float32).T, lengths)]

    @property
    def _looks(self) -> int:
        """How many parts, none or one, tell only how strange a photo is."""
        return 0 if self.views is None else len(self._axes) - len(self.views)

    def _standard(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.center is None or self.scale is None:
            raise ValueError("these known photos have no features to compare others with")
        return (features[:, -len(self.center) :] - self.center) * self.scale

    def _turned(self, standard: NDArray[np.float32]) -> NDArray[np.float32]:
        """Standardised features along the axes, ``(N, D)``."""
        if not self._axes:
            return standard
        parts = _split(standard, [len(axes) for axes in self._axes])
        return np.hstack([part @ axes for part, axes in zip(parts, self._axes, strict=True)])

    def _held(self, standard: NDArray[np.float32]) -> NDArray[np.float16]:
        return np.clip(self._turned(standard), *FLOAT16).astype(np.float16)

    def _direction(self, turned: NDArray[np.float32]) -> NDArray[np.float32]:
        """Whitened, and each view of the same length: products of two such rows are means of the views' cosines."""
        whitened = turned if self.spread is None else turned / self.spread
        views = whitened.reshape(len(turned), max(len(self._axes), 1), -1)[:, self._looks :]
        length = np.linalg.norm(views, axis=2, keepdims=True) * np.float32(np.sqrt(views.shape[1]))
        unit: NDArray[np.float32] = (views / np.maximum(length, 1e-12)).reshape(len(turned), -1)
        return unit


def _parts(length: int, views: Sequence[int]) -> list[int]:
    """Lengths of the parts of features: what stands before the views, if anything does, and each of them."""
    before = length - sum(views)
    return [before, *views] if before else [*views]


def _split(features: NDArray[Any], lengths: Sequence[int]) -> list[NDArray[Any]]:
    return np.split(features, np.cumsum(lengths)[:-1], axis=1)


def principal_axes(standard: NDArray[np.float32], count: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Principal axes of N standardised features ``(N, F)``: orthonormal ``(F, D)``, and the spread along each ``(D,)``.

    Args:
        count: D, in [1, F].
    """
    from scipy.linalg import eigh

    rows = standard.astype(np.float64)
    rows -= rows.mean(axis=0)
    # Fewer photos than features: the small matrix tells as much, and no more of it is taken apart than is kept.
    kept = (max(len(rows) - count, 0), len(rows) - 1)
    values, vectors = eigh(rows @ rows.T, subset_by_index=kept, overwrite_a=True, check_finite=False)
    length = np.sqrt(np.maximum(values[::-1], LEAST_VARIANCE * len(rows)))
    axes = rows.T @ (vectors[:, ::-1] / length)
    return axes.astype(np.float32), (length / np.sqrt(len(rows))).astype(np.float32)


@dataclass(frozen=True)
class Calibration:
    """What photos that did not train showed.

    Attributes:
        shape: of the belief, by maximum likelihood.
        focus: of the point, as of :func:`graticule.inference.decode.belief_points`; chosen for the error.
        region_mass: for each coverage, as text, the mass by the belief of regions that really cover so much.
        mean_factor, median_factor, p90_factor: by how much the belief's own mean, median and 90 % distance are to be
            multiplied.
        strangeness: ascending distances of held-out photos to the known photo nearest to them, in standardised
            features; empty without a gallery.
        photos, places: how many were asked.
        how: in words, such as ``4 folds by place``.
    """

    shape: Shape
    focus: float
    region_mass: dict[str, float]
    mean_factor: float
    median_factor: float
    p90_factor: float
    strangeness: tuple[float, ...]
    photos: int
    places: int
    how: str

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> Self:
        """The way back from :func:`dataclasses.asdict` through JSON.

        Raises:
            LookupError, TypeError, ValueError: it is none.
        """
        return cls(
            shape=Shape.from_json(tree["shape"]),
            focus=float(tree["focus"]),
            region_mass={str(level): float(tree["region_mass"][str(level)]) for level in COVERAGES},
            mean_factor=float(tree["mean_factor"]),
            median_factor=float(tree["median_factor"]),
            p90_factor=float(tree["p90_factor"]),
            strangeness=tuple(map(float, tree["strangeness"])),
            photos=int(tree["photos"]),
            places=int(tree["places"]),
            how=str(tree["how"]),
        )

    def error_factor(self, share: float) -> float:
        """What the distance that holds a share of the belief is to be multiplied by, so that it holds as many truths.

        Measured at 0.5 and 0.9; its logarithm is straight between them and level beyond.
        """
        logs = np.log([max(self.median_factor, 1e-9), max(self.p90_factor, 1e-9)])
        return float(np.exp(np.interp(share, [0.5, 0.9], logs)))

    def unlike_training(self, nearest: Floats) -> Floats | None:
        """Share of held-out photos that were nearer to a known one than each of these, in [0, 1], shape ``(N,)``.

        Args:
            nearest: distances to the nearest known photo, of :meth:`Known.compare`.
        """
        if not self.strangeness:
            return None
        rank: Floats = np.searchsorted(np.array(self.strangeness), nearest, side="right") / len(self.strangeness)
        return rank


@dataclass(frozen=True)
class Fusion:
    """How photos that are answered together become one belief each, fitted to albums that did not train.

    Attributes:
        power: how far one photo's say counts beside the others', as of :meth:`graticule.inference.albums.Albums.fuse`.
        calibration: of the beliefs that come of it.
    """

    power: float
    calibration: Calibration


@dataclass(frozen=True, eq=False)
class Confidence:
    """A calibration and the photos that it leans on: all that turns a network's output into a belief.

    Attributes:
        together: the same for photos that are answered together, where held-out albums could tell.
    """

    calibration: Calibration
    known: Known
    together: Mapping[Together, Fusion] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """All but the known photos, in plain values."""
        fused = {name: {"power": one.power, **asdict(one.calibration)} for name, one in self.together.items()}
        return asdict(self.calibration) | {"together": fused}

    @classmethod
    def from_json(cls, tree: dict[str, Any], known: Known) -> Self:
        """The way back; bundles of before know nothing of photos together.

        Raises:
            LookupError, TypeError, ValueError: it is none.
        """
        fused = tree.get("together", {})
        read: dict[Together, Fusion] = {
            name: Fusion(float(fused[name]["power"]), Calibration.from_json(fused[name]))
            for name in get_args(Together)
            if name in fused
        }
        return cls(Calibration.from_json(tree), known, read)


def cell_kernels(partition: Partition, usual_km: float | None = None) -> Kernels:
    """Kernels, by :meth:`Kernels.of`, around the mean positions of a partition's cells, or of fewer that hold them."""
    partition = partition.coarse()
    return Kernels.of(partition.lat, partition.lon, partition.spread_km(), usual_km)
