"""Questions of several clients to one bundle, answered in one pass of its network. Bytes in, fixes out."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graticule.belief.confidence import Calibration
from graticule.choices import Answer as Point
from graticule.errors import BadPhotoError
from graticule.geo.areas import Area
from graticule.geo.sphere import Floats
from graticule.inference.albums import Albums
from graticule.inference.claims import Place
from graticule.inference.decode import Fix
from graticule.inference.locate import Locator, look_at
from graticule.inference.said import Predictions


@dataclass(frozen=True)
class Ask:
    """What one client asks.

    Attributes:
        photos: their bytes.
        claims: the place claimed for each, or None; the numbers as of :meth:`Locator.results`.
        together: the photos show one place from one spot: there is one answer for all.
        answer: which point is told; None tells that of the recipe.
    """

    photos: tuple[bytes, ...] = field(repr=False)
    claims: tuple[Place | None, ...]
    top: int = 5
    within_km: float | None = None
    max_error_km: float | None = None
    min_probability: float = 0.5
    together: bool = False
    neighbours: int = 0
    inside: tuple[Area, ...] = field(default=(), repr=False)
    answer: Point | None = None


@dataclass(frozen=True)
class Answer:
    """What became of one photo: a fix, and what it rests on; or the reason why there is none.

    Attributes:
        masses: probability of each cell of the bundle's ground, shape ``(G,)``; None where nothing is calibrated.
        calibration: which masses are regions, by what held-out photos showed; None where nothing is calibrated.
        probability: of each cell of the partition, the network's own, shape ``(C,)``; None of a network without cells.
        seen: what is wrong with the photo, where a largest error was asked for.
    """

    fix: Fix | None
    error: BadPhotoError | None = None
    masses: Floats | None = field(default=None, repr=False)
    calibration: Calibration | None = field(default=None, repr=False)
    probability: Floats | None = field(default=None, repr=False)
    seen: tuple[str, ...] = ()


def answer(
    locator: Locator, asks: Sequence[Ask], lock: AbstractContextManager[Any] | None = None
) -> list[list[Answer]]:
    """The answers to each question, one a photo in its order; of photos together the one answer, then what is broken.

    Args:
        lock: held while the locator uses what it keeps from photo to photo; several threads may ask its network.

    Raises:
        BadRecipeError: the bundle cannot answer so: photos together without cells, a largest error without calibration.
    """
    alone = [photo for ask in asks if not ask.together for photo in ask.photos]
    found: dict[int, Predictions] = {}
    errors: dict[int, BadPhotoError] = {}
    for predictions in locator.predict_batches(alone) if alone else ():
        errors |= predictions.errors
        found |= {int(index): predictions.row(i) for i, index in enumerate(predictions.index)}
    answers, start = [], 0
    with lock or nullcontext():
        for ask in asks:
            if ask.together:
                answers.append(_together(locator, ask))
                continue
            some = range(start, start := start + len(ask.photos))
            answers.append(
                [
                    Answer(None, errors[i]) if i in errors else _answer(locator, found[i], ask, claim, photo)
                    for i, claim, photo in zip(some, ask.claims, ask.photos, strict=True)
                ]
            )
    return answers


def _together(locator: Locator, ask: Ask) -> list[Answer]:
    answers: list[Answer] = []
    albums = Albums("place", [np.arange(len(ask.photos))])
    for predictions in locator.predict_together(ask.photos, albums):
        if len(predictions.index):
            answers.append(_answer(locator, predictions.row(0), ask, ask.claims[int(predictions.index[0])]))
        answers += [Answer(None, error) for _, error in sorted(predictions.errors.items())]
    return answers


def _answer(
    locator: Locator, prediction: Predictions, ask: Ask, claim: Place | None, photo: bytes | None = None
) -> Answer:
    seen = look_at(photo) if photo is not None and ask.max_error_km is not None else ()
    [fix], sureness = locator.fixes(
        prediction,
        top=ask.top,
        claims=[claim],
        within_km=ask.within_km,
        max_error_km=ask.max_error_km,
        min_probability=ask.min_probability,
        seen=[seen],
        inside=ask.inside,
        names=True,
        neighbours=ask.neighbours,
    )
    logs = prediction.log_probability
    masses, calibration = (sureness.masses[0], sureness.calibration) if sureness else (None, None)
    return Answer(fix, None, masses, calibration, None if logs is None else np.exp(logs[0]), seen)
