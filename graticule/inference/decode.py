"""From the probabilities of cells to one point and the error to expect. Pure arrays."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from graticule.belief.confidence import Calibration
from graticule.belief.density import Belief
from graticule.belief.mixture import Mixture
from graticule.belief.points import best_point, densest_point
from graticule.choices import Answer
from graticule.errors import BadRecipeError
from graticule.geo.sphere import (
    EARTH_RADIUS_KM,
    Floats,
    format_km,
    from_vectors,
    geojson_position,
    map_scale,
    unit_vectors,
)
from graticule.inference.alike import Neighbour
from graticule.inference.claims import Claim
from graticule.inference.names import PlaceGuess
from graticule.partition import Partition

STRANGE = 0.95  # share of held-out photos that are more like a training photo: from here on it is said
UNRECOGNISABLE = ("black", "flat", "overexposed", "placeholder")  # reasons of graticule.photos.quality
AT_ONCE = 2**17  # distances held at a time
HARDER = {"night": "it was taken in the dark", "blurred": "it is blurred"}


@dataclass(frozen=True, slots=True)
class CellGuess:
    """One likely cell.

    Attributes:
        token: its name in the partition: S2's token, the value of a column, or a row's own such as ``c07``.
        lat, lon: mean position of the cell's training photos, degrees.
        probability: in [0, 1].
    """

    token: str
    lat: float
    lon: float
    probability: float


@dataclass(frozen=True, slots=True)
class Fix:
    """The answer for one photo.

    Attributes:
        lat, lon: the point, degrees.
        expected_error_km: mean distance of the truth from the point, if the probabilities were right. A network
            without cells has no opinion of a single photo: its mean error on the validation photos stands here, or
            None where it was never measured.
        cells: the likeliest cells, likeliest first; none from a network without cells.
        calibrated: whether photos that did not train showed how sure the bundle may be. What follows is None where not.
        area_km2: of the smallest region that holds the truth with probability 0.9.
        region: the tokens of its S2 cells, of several levels.
        median_error_km, p90_error_km: the error that half of such photos exceed, and a tenth of them. Unlike
            ``expected_error_km``, which averages, they are not moved by a small chance of being far off.
        unlike_training: share of held-out photos that were more like a training photo than this one; above 0.95 it is
            unlike all that the bundle knows. Of bundles with a gallery.
        cannot_tell: why this is no answer, where one was asked to be surer than this; else None.
        claim: how a place that was claimed for this photo fits; None where none was.
        near: the town nearest to the point, where names were asked for; else None.
        places: the likeliest countries, or states or towns where the country or the state is sure; none where names
            were not asked for, or of an answer that is not calibrated.
        neighbours: the known photos that look most like this one, where they were asked for and the bundle has some.
        inside: areas that were asked about, each with the probability that the photo was taken in it.
    """

    lat: float
    lon: float
    expected_error_km: float | None
    cells: tuple[CellGuess, ...]
    calibrated: bool = False
    area_km2: float | None = None
    median_error_km: float | None = None
    p90_error_km: float | None = None
    unlike_training: float | None = None
    region: tuple[str, ...] = ()
    cannot_tell: str | None = None
    claim: Claim | None = None
    near: str | None = None
    places: tuple[PlaceGuess, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    inside: tuple[PlaceGuess, ...] = ()

    @property
    def is_unlike_training(self) -> bool:
        """Whether the photo is stranger than nearly all that were held out."""
        return self.unlike_training is not None and self.unlike_training >= STRANGE

    def if_within(
        self,
        max_error_km: float,
        min_probability: float = 0.5,
        *,
        error_km: float | None = None,
        seen: Sequence[str] = (),
    ) -> "Fix":
        """This fix, or the same that cannot tell: too many such photos lie farther off, or it is a strange one.

        Args:
            min_probability: that the photo lies within ``max_error_km`` of the point.
            error_km: that so many of such photos lie within; by default their median error.
            seen: what is wrong with the photo (:func:`graticule.photos.quality.seen_in`). Where nothing can be
                recognised, it cannot tell; night and blur are only told as the reason why it is not sure enough.

        Raises:
            BadRecipeError: the bundle is not calibrated, so nobody knows how far off its answers are.
        """
        error_km = self.median_error_km if error_km is None else error_km
        if error_km is None:
            raise BadRecipeError(
                "this answer is not calibrated, so nothing is known of its error: leave the limit out, or train with "
                "enough photos and a validation part (and ask photos one by one)"
            )
        reasons = [f"nothing can be recognised in it ({name})" for name in seen if name in UNRECOGNISABLE]
        if error_km > max_error_km:
            farther = "half" if min_probability == 0.5 else f"{100 * (1 - min_probability):.3g}%"
            why = "".join(f", and {text}" for name, text in HARDER.items() if name in seen)
            reasons.append(f"{farther} of such photos lie more than {format_km(error_km)} off{why}")
        if self.is_unlike_training:
            reasons.append("it is unlike the training photos, so its error is not known")
        return replace(self, cannot_tell="; ".join(reasons) or None)

    def to_json(self) -> dict[str, Any]:
        """Plain values with the units in their names; ``neighbours`` where there are some."""
        near = [each.to_json() for each in self.neighbours]
        return {
            "lat": round(self.lat, 7),
            "lon": round(self.lon, 7),
            "expected_error_km": None if self.expected_error_km is None else round(self.expected_error_km, 4),
            "calibrated": self.calibrated,
            **{
                name: None if getattr(self, name) is None else round(getattr(self, name), 4)
                for name in ("median_error_km", "p90_error_km", "area_km2", "unlike_training")
            },
            "region": list(self.region),
            "cannot_tell": self.cannot_tell,
            "claim": self.claim and self.claim.to_json(),
            "near": self.near,
            "places": [{"name": place.name, "probability": round(place.probability, 4)} for place in self.places],
            "inside": [{"name": area.name, "probability": round(area.probability, 6)} for area in self.inside],
            "cells": [
                {
                    "token": cell.token,
                    "lat": round(cell.lat, 7),
                    "lon": round(cell.lon, 7),
                    "probability": round(cell.probability, 6),
                }
                for cell in self.cells
            ],
            **({"neighbours": near} if near else {}),
        }

    def to_geojson(self, properties: dict[str, Any]) -> dict[str, Any]:
        """A GeoJSON feature (RFC 7946): the point, with the rest as properties."""
        facts = {k: v for k, v in self.to_json().items() if k not in ("lat", "lon", "region")}
        return {
            "type": "Feature",
            "geometry": {"type": "Point", "coordinates": geojson_position(self.lat, self.lon)},
            "properties": properties | facts,
        }


@dataclass(frozen=True, slots=True)
class Points:
    """Answers for N photos: ``lat``, ``lon`` in degrees and ``expected_error_km`` (NaN: unknown), each ``(N,)``."""

    lat: Floats
    lon: Floats
    expected_error_km: Floats


@dataclass(frozen=True, slots=True)
class Sureness:
    """How sure a calibrated bundle is of N photos.

    Attributes:
        regions: cells of the 90 % region of each.
        area_km2, median_error_km, p90_error_km: shape ``(N,)``, as in a :class:`Fix`.
        unlike_training: shape ``(N,)``, or None without a gallery.
        masses: probability of each cell of the bundle's ground, shape ``(N, G)``.
        calibration: that these figures are made with.
    """

    regions: list[tuple[str, ...]]
    area_km2: Floats
    median_error_km: Floats
    p90_error_km: Floats
    unlike_training: Floats | None
    masses: Floats
    calibration: Calibration

    def of(self, i: int) -> dict[str, Any]:
        """What a :class:`Fix` holds of photo ``i``."""
        return {
            "calibrated": True,
            "area_km2": float(self.area_km2[i]),
            "median_error_km": float(self.median_error_km[i]),
            "p90_error_km": float(self.p90_error_km[i]),
            "unlike_training": None if self.unlike_training is None else float(self.unlike_training[i]),
            "region": self.regions[i],
        }


def points(
    probability: NDArray[np.floating[Any]] | None,
    partition: Partition,
    answer: Answer,
    *,
    position: Floats | None = None,
    regression_error_km: float | None = None,
) -> Points:
    """Answer N photos.

    Args:
        probability: shape ``(N, C)``, rows summing to one; none from a network without cells.
        answer: ``center`` is the centre of the likeliest cell, ``mode`` the mean position of its training
            photos, ``median`` the point with the least expected distance to the truth, ``score`` the one with the
            highest expected score on the map of the cells, ``regressed`` the position that the network gave. Without a
            belief ``densest`` is ``mode``.
        position: unit vectors ``(N, 3)`` of a network that regresses.
        regression_error_km: mean error of such positions where it was measured; expected where there are no cells.

    Raises:
        ValueError: the answer needs what was not given, or the shapes do not fit.
    """
    if answer == "regressed" and position is None:
        raise ValueError("answer 'regressed' needs the positions of a network that regresses")
    if probability is None:
        if position is None or answer != "regressed":
            raise ValueError(f"answer {answer!r} needs the probabilities of cells")
        lat, lon = from_vectors(position)
        return Points(lat, lon, np.full(len(lat), np.nan if regression_error_km is None else regression_error_km))
    p = np.asarray(probability)
    if p.ndim != 2 or p.shape[1] != len(partition):
        raise ValueError(f"probability should have shape (N, {len(partition)}), found {p.shape}")
    cells, spread_rad = _on_the_sphere(partition)
    best = p.argmax(axis=1)
    if position is not None and answer == "regressed":
        found = np.asarray(position, np.float64)
    elif answer == "center":
        found = unit_vectors(partition.center_lat, partition.center_lon)[best]
    elif answer in ("mode", "densest"):
        found = cells[best]
    else:
        scale_rad = score_scale_rad(partition) if answer == "score" else None
        found = np.array([best_point(row, cells, spread_rad, scale_rad) for row in p]).reshape(-1, 3)
    lat, lon = from_vectors(found)
    return Points(lat, lon, _expected_km(p, found, cells, spread_rad))


def belief_points(
    belief: Belief | Mixture, focus: float = 1.0, answer: Answer = "median", scale_rad: float | None = None
) -> Points:
    """The points with the least expected distance to the truth, as beliefs have it, or the best in another sense.

    Args:
        answer: ``median``; ``score``, of the highest expected score; or ``densest``, where the density is highest.
        scale_rad: of the score, :func:`score_scale_rad`.
        focus: power of the weights of cells and of known photos. Above 1 the point cares less for what is unlikely: it
            is further off on average, and nearer in the median.

    What an ``anywhere`` share would add to the expected distance is left out: it is a caution, and a thousandth of it
    would drown the error of a city.
    """
    centers, weights, reach_km = belief.components()
    if answer == "densest":
        found = np.array([densest_point(belief, n) for n in range(len(belief))]).reshape(-1, 3)
        return _expecting(found, centers, weights, reach_km)
    if answer == "score":
        return component_points(centers, weights, reach_km, weights, scale_rad)
    _, focused, _ = belief.focused(focus).components()
    return component_points(centers, weights, reach_km, focused)


def component_points(
    centers: Floats, weights: Floats, reach_km: Floats, focused: Floats, scale_rad: float | None = None
) -> Points:
    """As :func:`belief_points`, of components whose weights are known, such as by the photos of a drive together.

    Args:
        centers, weights, reach_km: as of :meth:`graticule.belief.density.Belief.components`.
        focused: weights that the points are chosen by, shape ``(N, C + P)``; ``weights`` tell the expected error.
        scale_rad: choose them by the expected score instead of the distance.
    """
    spread_rad = reach_km / EARTH_RADIUS_KM
    found = np.array([best_point(row / row.sum(), centers, spread_rad, scale_rad) for row in focused]).reshape(-1, 3)
    return _expecting(found, centers, weights, reach_km)


def _expecting(found: Floats, centers: Floats, weights: Floats, reach_km: Floats) -> Points:
    """Points as they are told, with the errors that the weights of components expect of them."""
    weights = weights / weights.sum(axis=1, keepdims=True)
    lat, lon = from_vectors(found)
    return Points(lat, lon, _expected_km(weights, found, centers, reach_km / EARTH_RADIUS_KM))


def fixes(
    found: Points,
    log_probability: NDArray[np.floating[Any]] | None,
    partition: Partition,
    top: int,
    sureness: Sureness | None = None,
) -> list[Fix]:
    """The answers of :func:`points` as values, each with its ``top`` likeliest cells where there are cells."""
    names = partition.names
    cells: list[tuple[CellGuess, ...]] = [()] * len(found.lat)
    if log_probability is not None:
        order = likeliest(log_probability, top)
        probability = np.exp(np.take_along_axis(log_probability, order, axis=1))
        cells = [
            tuple(
                CellGuess(names[j], float(partition.lat[j]), float(partition.lon[j]), float(p))
                for j, p in zip(order[i], probability[i], strict=True)
            )
            for i in range(len(order))
        ]
    return [
        Fix(
            float(lat),
            float(lon),
            None if np.isnan(expected) else float(expected),
            cells[i],
            **(sureness.of(i) if sureness else {}),
        )
        for i, (lat, lon, expected) in enumerate(zip(found.lat, found.lon, found.expected_error_km, strict=True))
    ]


def likeliest(probability: NDArray[np.floating[Any]], top: int) -> NDArray[np.int64]:
    """The ``top`` likeliest cells of each row, likeliest first, the first of equal ones first; not all are sorted."""
    order = []
    for p in probability:
        least = np.partition(p, -top)[-top] if top < len(p) else -np.inf
        near = np.flatnonzero(~(p < least))
        order.append(near[np.argsort(-p[near], kind="stable")][:top])
    return np.array(order, np.int64).reshape(len(probability), -1)


@lru_cache(maxsize=4)
def score_scale_rad(partition: Partition) -> float:
    """A tenth of the diagonal of the map that a partition's cells make, in radians."""
    return map_scale(partition.lat, partition.lon, None)[0] / 10 / EARTH_RADIUS_KM


@lru_cache(maxsize=4)  # measuring thousands of cells takes longer than answering a photo
def _on_the_sphere(partition: Partition) -> tuple[Floats, Floats]:
    """Mean positions as unit vectors ``(C, 3)`` and spreads ``(C,)`` in radians."""
    return unit_vectors(partition.lat, partition.lon), partition.spread_km() / EARTH_RADIUS_KM


def _expected_km(p: NDArray[np.floating[Any]], x: Floats, cells: Floats, spread_rad: Floats) -> Floats:
    """Distance to expect from each point to its photo, ``(N,)``; so few points at a time that caches hold a gallery."""
    step = max(1, AT_ONCE // len(cells))
    rows = [slice(start, start + step) for start in range(0, len(x), step)]
    some = [(p[row] * _distance_rad(x[row], cells, spread_rad)).sum(axis=1, dtype=np.float64) for row in rows]
    return np.concatenate([np.empty(0), *some]) * EARTH_RADIUS_KM


def _distance_rad(x: Floats, cells: Floats, spread_rad: Floats) -> Floats:
    """Distance to expect from each point to a photo of each cell, shape ``(N, C)``.

    A photo lies off the mean of its cell, in a direction that is at right angles to ours on average.
    """
    # From here on in float32 and in place: a large gallery takes half as long, and a mean needs no more digits.
    half = torch.from_numpy((-0.5 * x) @ cells.T).add_(0.5).float().clamp_(0, 1).sqrt_().asin_()
    distance: Floats = half.square_().mul_(4).add_(torch.from_numpy(spread_rad) ** 2).sqrt_().numpy()
    return distance
