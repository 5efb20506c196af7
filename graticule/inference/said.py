"""What became of photos that were asked about, batch by batch."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graticule.belief.confidence import Calibration
from graticule.belief.density import Belief
from graticule.belief.mixture import Mixture
from graticule.errors import BadPhotoError
from graticule.geo.sphere import Floats
from graticule.inference.decode import Fix, Points


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one photo: a fix, or the reason why there is none.

    Attributes:
        masses: probability of each cell of the bundle's ground, ``(G,)``, where that was asked for and there is one.
        calibration: which of such masses are regions.
    """

    photo: str | Path
    fix: Fix | None
    error: BadPhotoError | None
    masses: Floats | None = field(default=None, repr=False, compare=False)
    calibration: Calibration | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Predictions:
    """What the network says of a batch of photos, and the answers made of it.

    Attributes:
        index: which photos, shape ``(B,)``.
        points: the answers.
        log_probability: of cells, shape ``(B, C)``; rows' exponentials sum to one. None from a head without cells.
        position: regressed unit vectors, shape ``(B, 3)``. None from a head without a position.
        belief: what is believed of each, of a calibrated bundle; None from any other.
        unlike_training: as of a :class:`Fix`, shape ``(B,)``; None without a gallery.
        calibration: what held-out photos showed of such beliefs; None where there is none.
        errors: the photos of this batch that could not be read; they are not in ``index``.
    """

    index: NDArray[np.int64]
    points: Points
    log_probability: NDArray[np.float64] | None
    position: NDArray[np.float64] | None
    errors: dict[int, BadPhotoError]
    belief: Belief | Mixture | None = None
    unlike_training: NDArray[np.float64] | None = None
    calibration: Calibration | None = None

    def row(self, i: int) -> "Predictions":
        """The same of the i-th photo of the batch alone."""
        one = slice(i, i + 1)
        points, belief = self.points, self.belief
        return Predictions(
            self.index[one],
            Points(points.lat[one], points.lon[one], points.expected_error_km[one]),
            None if self.log_probability is None else self.log_probability[one],
            None if self.position is None else self.position[one],
            {},
            belief and belief.take(one),
            None if self.unlike_training is None else self.unlike_training[one],
            self.calibration,
        )

    @property
    def known_weight(self) -> Floats | None:
        """The say of each photo that the bundle itself knows in each belief, ``(B, P)``; None where there is none."""
        own = self.belief.parts[0] if isinstance(self.belief, Mixture) else self.belief  # a city's are not the world's
        return None if own is None else own.known_weight


def whole(parts: Sequence[Predictions]) -> Predictions:
    """What was said batch by batch, in the order of the photos."""
    errors = {i: error for part in parts for i, error in part.errors.items()}
    parts = [part for part in parts if len(part.index)]
    if not parts:
        none = np.empty(0)
        return Predictions(np.empty(0, np.int64), Points(none, none, none), None, None, errors)
    order = np.argsort(np.concatenate([part.index for part in parts]))

    def joined(arrays: Sequence[NDArray[Any] | None]) -> Any:
        held = [array for array in arrays if array is not None]
        return np.concatenate(held)[order] if len(held) == len(parts) else None

    beliefs = [part.belief for part in parts if isinstance(part.belief, Belief)]
    belief = None
    if beliefs:
        weights = joined([b.cell_weight for b in beliefs]), joined([b.known_weight for b in beliefs])
        belief = replace(beliefs[0], cell_weight=weights[0], known_weight=weights[1])
    points = Points(*(joined([getattr(part.points, name) for part in parts]) for name in Points.__slots__))
    return Predictions(
        joined([part.index for part in parts]),
        points,
        joined([part.log_probability for part in parts]),
        joined([part.position for part in parts]),
        errors,
        belief,
        joined([part.unlike_training for part in parts]),
        parts[0].calibration,
    )
