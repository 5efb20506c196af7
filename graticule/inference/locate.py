"""Photos in, fixes out: the only way from a bundle to an answer."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray

from graticule.belief.calibration import believe
from graticule.belief.confidence import cell_kernels
from graticule.belief.density import Belief, Kernels
from graticule.belief.ground import Ground
from graticule.choices import Answer, Precision, Runtime
from graticule.config import parse_recipe
from graticule.errors import BadPhotoError, BadRecipeError
from graticule.geo import s2
from graticule.geo.areas import Area
from graticule.geo.sphere import Floats, from_vectors
from graticule.geo.towns import area_in_words, nearest_towns
from graticule.inference import decode
from graticule.inference.albums import LEAST, Albums, Motion
from graticule.inference.bundles import find_bundle
from graticule.inference.claims import Place, measure, weigh
from graticule.inference.decode import Fix, Points, Sureness
from graticule.inference.names import Names, PlaceGuess
from graticule.model.bundle import Bundle
from graticule.model.exporting import open_runtime
from graticule.model.features import FeatureStore, encode
from graticule.model.loading import Photo, Progress, read_bytes, silent

REGION = "0.9"  # coverage of the region that a fix carries
TOGETHER = 32  # features that the head is asked about at once: a large gallery is then read once for all of them
CHUNK = 1024  # photos answered at a time: bounds memory when a folder holds a million


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one photo: a fix, or the reason why there is none."""

    photo: str | Path
    fix: Fix | None
    error: BadPhotoError | None


@dataclass(frozen=True, slots=True)
class Predictions:
    """What the network says of a batch of photos, and the answers made of it.

    Attributes:
        index: which photos, shape ``(B,)``.
        points: the answers.
        log_probability: of cells, shape ``(B, C)``; rows' exponentials sum to one. None from a head without cells.
        position: regressed unit vectors, shape ``(B, 3)``. None from a head without a position.
        belief: what is believed of each, of a calibrated bundle; None from any other, and of albums.
        unlike_training: as of a :class:`Fix`, shape ``(B,)``; None without a gallery.
        errors: the photos of this batch that could not be read; they are not in ``index``.
    """

    index: NDArray[np.int64]
    points: Points
    log_probability: NDArray[np.float64] | None
    position: NDArray[np.float64] | None
    errors: dict[int, BadPhotoError]
    belief: Belief | None = None
    unlike_training: NDArray[np.float64] | None = None

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
            belief and replace(belief, cell_weight=belief.cell_weight[one], known_weight=belief.known_weight[one]),
            None if self.unlike_training is None else self.unlike_training[one],
        )


class Locator:
    """A bundle ready to answer.

    Args:
        store: a store of features of a frozen encoder, for photos that are predicted often; none by default, so nothing
            is kept.
        device: where the network runs; the GPU if there is one.
        precision: arithmetic of the encoder: ``float32`` gives the same answer on every processor, but for rounding;
            ``bfloat16`` is faster where the processor or the card multiplies it, and moves probabilities a little.
        runtime: computes the features by what :func:`graticule.model.exporting.export` wrote, on the processor.

    Attributes:
        at_once: photos that the network sees at once; None leaves that to :func:`graticule.model.features.encode`.
    """

    at_once: int | None = None

    def __init__(
        self,
        bundle: Bundle,
        *,
        store: FeatureStore | None = None,
        device: str | None = None,
        precision: Precision = "float32",
        runtime: Runtime | None = None,
    ) -> None:
        self.bundle = bundle
        # Features of an encoder that was trained along would fill the store and never be asked for again.
        self.store = store if bundle.recipe.encoder.frozen else None
        self.device = device or ("cuda" if torch.cuda.is_available() and not runtime else "cpu")
        self.bundle.model.to(self.device).eval()
        self.bundle.model.precision = precision
        self.bundle.model.runtime = runtime and (runtime, open_runtime(bundle, runtime, precision))
        self._ground: Ground | None = None
        self._names: Names | None = None
        self._shares: tuple[Sequence[Area], Floats] | None = None  # of the ground's cells in the areas asked last

    @overload
    def locate(self, photos: str | Path | bytes, *, top: int = 5) -> Fix: ...  # type: ignore[overload-overlap]
    @overload
    def locate(self, photos: Sequence[str | Path | bytes], *, together: Literal[True], top: int = 5) -> Fix: ...
    @overload
    def locate(
        self, photos: Sequence[str | Path | bytes], *, together: Literal[False] = False, top: int = 5
    ) -> list[Fix]: ...
    def locate(
        self, photos: str | Path | bytes | Sequence[str | Path | bytes], *, together: bool = False, top: int = 5
    ) -> Fix | list[Fix]:
        """Tell where one photo, each of several, or several of one place together were taken.

        Args:
            photos: a path or the bytes of a photo, or several of them.
            together: the photos show one place from one spot; there is one answer for all of them.
            top: how many likely cells each fix names.

        Raises:
            BadPhotoError: a photo cannot be read. To go on past such photos use :meth:`results`.
            BadRecipeError: ``together`` of a bundle without cells.
        """
        one = isinstance(photos, str | Path | bytes)
        asked: Sequence[str | Path | bytes] = [photos] if one else photos  # type: ignore[list-item,assignment]
        albums = Albums("place", [np.arange(len(asked))]) if together else None
        found = []
        for result in self.results(asked, albums=albums, top=top):
            if result.fix is None:
                raise result.error or BadPhotoError("unreadable", f"{result.photo} cannot be read")
            found.append(result.fix)
        return found[0] if one or together else found

    def results(
        self,
        photos: Sequence[str | Path | bytes],
        *,
        albums: Albums | None = None,
        top: int = 5,
        max_error_km: float | None = None,
        min_probability: float = 0.5,
        claims: Sequence[Place | None] | None = None,
        within_km: float | None = None,
        inside: Sequence[Area] = (),
        names: bool = False,
        progress: Progress = silent,
    ) -> Iterator[Result]:
        """Answer photos in their order; one that cannot be read becomes a reply with its error.

        Args:
            albums: which photos to answer together; each by itself where there are none.
            max_error_km: fixes whose median error is larger say that they cannot tell (:attr:`Fix.cannot_tell`).
            min_probability: that the photo lies within ``max_error_km``; 0.5 asks for the median error.
            claims: for each photo the place that is claimed for it, ``(lat, lon)`` in degrees; each fix then says how
                the claim fits (:attr:`Fix.claim`).
            within_km: radius of the circle around a claim; by default the answer's own median error.
            inside: areas (:func:`graticule.geo.areas.read_areas`); each fix says how probably the photo was taken in
                them (:attr:`Fix.inside`).
            names: name the places (:attr:`Fix.near`, :attr:`Fix.places`); takes a second the first time.

        Raises:
            BadRecipeError: albums for a bundle without cells; areas or a largest error of one that is not calibrated.
        """
        waiting: dict[int, Result] = {}
        shown = [f"photo {i}" if isinstance(p, bytes) else p for i, p in enumerate(photos)]
        inputs: list[Photo] = [p if isinstance(p, bytes) else Path(p) for p in photos]
        done = 0
        for predictions in self._in_chunks(inputs, albums):
            claimed = None if claims is None else [claims[i] for i in predictions.index]
            found, _ = self.fixes(
                predictions,
                top=top,
                max_error_km=max_error_km,
                min_probability=min_probability,
                seen=None if albums or max_error_km is None else [look_at(inputs[i]) for i in predictions.index],
                claims=claimed,
                within_km=within_km,
                inside=inside,
                names=names,
            )
            waiting |= {int(i): Result(shown[i], fix, None) for i, fix in zip(predictions.index, found, strict=True)}
            waiting |= {i: Result(shown[i], None, error) for i, error in predictions.errors.items()}
            progress(done + len(waiting), len(photos), "photos")
            while done in waiting:
                yield waiting.pop(done)
                done += 1

    def fixes(
        self,
        predictions: Predictions,
        *,
        top: int = 5,
        max_error_km: float | None = None,
        min_probability: float = 0.5,
        seen: Sequence[Sequence[str]] | None = None,
        claims: Sequence[Place | None] | None = None,
        within_km: float | None = None,
        inside: Sequence[Area] = (),
        names: bool = False,
    ) -> tuple[list[Fix], Sureness | None]:
        """The answers of one batch in its own order, and what they rest on; arguments as of :meth:`results`.

        Args:
            seen: what is wrong with each photo (:func:`look_at`), told where there is no answer; nothing of an album,
                whose other photos may tell.
            claims: one for each photo of the batch.
        """
        sureness = self.sureness(predictions)
        found = decode.fixes(predictions.points, predictions.log_probability, self.bundle.partition, top, sureness)
        if claims is not None:
            found = self._with_claims(found, sureness, claims, within_km)
        if inside:
            found = self._inside(found, sureness, inside)
        if names and found:
            found = self._named(found, sureness)
        if max_error_km is not None:
            errors = [fix.median_error_km for fix in found] if min_probability == 0.5 else None
            errors = errors or self._errors_km(predictions, sureness, min_probability)
            found = [
                fix.if_within(max_error_km, min_probability, error_km=error, seen=reasons)
                for fix, error, reasons in zip(found, errors, seen or [()] * len(found), strict=True)
            ]
        return found, sureness

    def _errors_km(self, predictions: Predictions, sureness: Sureness | None, share: float) -> list[float | None]:
        """Distances from the points that a share of such photos lie within; None of a bundle that is not calibrated."""
        confidence, at = self.bundle.confidence, predictions.points
        if sureness is None or confidence is None or self._ground is None:
            return [None] * len(at.lat)
        held = self._ground.distance_quantiles(sureness.masses, at.lat, at.lon, (share,))[:, 0]
        errors: list[float | None] = (held * confidence.calibration.error_factor(share)).tolist()
        return errors

    def _with_claims(
        self, fixes: list[Fix], sureness: Sureness | None, claims: Sequence[Place | None], within_km: float | None
    ) -> list[Fix]:
        found = []
        for i, (fix, place) in enumerate(zip(fixes, claims, strict=True)):
            claim = None if place is None else measure((fix.lat, fix.lon), place)
            confidence = self.bundle.confidence
            if claim and sureness and confidence and self._ground and fix.median_error_km is not None:
                radius_km = within_km or max(fix.median_error_km, 1e-3)
                claim = weigh(claim, self._ground, sureness.masses[i], confidence.calibration, radius_km)
            found.append(replace(fix, claim=claim))
        return found

    def _inside(self, fixes: list[Fix], sureness: Sureness | None, areas: Sequence[Area]) -> list[Fix]:
        ground = self._ground
        if fixes and (sureness is None or ground is None):
            raise BadRecipeError(
                "this answer is not calibrated, so nothing is known of how probable an area is: leave --inside out, or "
                "train with enough photos and a validation part"
            )
        if sureness is None or ground is None:
            return fixes
        if self._shares is None or self._shares[0] is not areas:
            self._shares = areas, np.array([area.shares(ground.cells) for area in areas])
        probability = sureness.masses @ self._shares[1].T
        guesses = [
            tuple(PlaceGuess(area.name, min(float(p), 1.0)) for area, p in zip(areas, row, strict=True))
            for row in probability
        ]
        return [replace(fix, inside=guess) for fix, guess in zip(fixes, guesses, strict=True)]

    def _named(self, fixes: list[Fix], sureness: Sureness | None) -> list[Fix]:
        towns = nearest_towns([fix.lat for fix in fixes], [fix.lon for fix in fixes])
        named = [replace(fix, near=str(town)) for fix, town in zip(fixes, towns, strict=True)]
        if sureness is None or self._ground is None:
            return named
        if self._names is None:
            self._names = Names.of(self._ground.lat, self._ground.lon)
        return [replace(fix, places=self._names.likely(mass)) for fix, mass in zip(named, sureness.masses, strict=True)]

    @cached_property
    def area(self) -> str:
        """What this bundle knows, in words: a town, a state, a country, or how many countries."""
        return area_in_words(nearest_towns(self.bundle.partition.lat, self.bundle.partition.lon))

    def _in_chunks(self, photos: Sequence[Photo], albums: Albums | None) -> Iterator[Predictions]:
        if albums is not None:
            yield from self.predict_together(photos, albums)
            return
        for start in range(0, len(photos), CHUNK):
            for predictions in self.predict_batches(photos[start : start + CHUNK]):
                errors = {start + i: error for i, error in predictions.errors.items()}
                yield replace(predictions, index=start + predictions.index, errors=errors)

    def predict_together(
        self, photos: Sequence[Photo], albums: Albums, *, progress: Progress = silent
    ) -> Iterator[Predictions]:
        """As :meth:`predict_batches`, but albums are answered together (:mod:`graticule.inference.albums`).

        A photo that cannot be read has no say. A calibrated bundle weighs its cells and known photos together; of any
        other, positions are those of cells, whatever the recipe's answer.

        Raises:
            BadRecipeError: the bundle has no cells.
        """
        bundle = self.bundle
        partition, answer, confidence = bundle.partition, bundle.recipe.answer, bundle.confidence
        if not bundle.model.head.has_cells:
            raise BadRecipeError("photos are answered together by what they say of cells; this bundle has none")
        done = 0
        for some in albums.chunks(CHUNK):
            rows = np.concatenate(some)
            logs = np.full((len(rows), len(partition)), np.nan)
            weights: Floats | None = None  # of cells and known photos
            errors: dict[int, BadPhotoError] = {}
            for predictions in self.predict_batches([photos[i] for i in rows]):
                index = predictions.index
                if predictions.log_probability is not None:
                    logs[index] = predictions.log_probability
                if predictions.belief is not None and answer == "median":
                    centers, own, reach_km = predictions.belief.components()
                    weights = np.empty((len(rows), own.shape[1])) if weights is None else weights
                    weights[index] = own
                errors |= {int(rows[i]): error for i, error in predictions.errors.items()}
            read = ~np.isnan(logs[:, 0])
            for album in np.split(np.arange(len(rows)), np.cumsum([len(album) for album in some])[:-1]):
                heard = album[read[album]]
                if len(heard):
                    logs[heard] = albums.answer(logs[heard], self._motions)
                    if weights is not None:
                        together = albums.answer(np.log(np.maximum(weights[heard], LEAST)), self._center_motions)
                        weights[heard] = np.exp(together)
            done += len(rows)
            progress(done, len(photos), f"photos of one {albums.together} together")
            if weights is None or confidence is None:
                own_answer: Answer = "median" if answer == "regressed" else answer
                points = decode.points(np.exp(logs[read]), partition, own_answer)
            else:
                found = decode.component_points(
                    centers, weights[read], reach_km, weights[read] ** confidence.calibration.focus
                )
                points = replace(found, expected_error_km=confidence.calibration.mean_factor * found.expected_error_km)
            yield Predictions(rows[read], points, logs[read], None, errors)

    @cached_property
    def _motions(self) -> list[Motion]:
        return Motion.candidates(self.bundle.partition.lat, self.bundle.partition.lon)

    @cached_property
    def _center_motions(self) -> list[Motion]:
        """Between cells and known photos, in the order of a belief's components."""
        return Motion.candidates(*from_vectors(np.vstack([where.center for where in self._centers])))

    @torch.inference_mode()
    def predict_batches(self, photos: Sequence[Photo], *, progress: Progress = silent) -> Iterator[Predictions]:
        """What the network says, batch by batch, in no particular order."""
        bundle = self.bundle
        if bundle.recipe.head.kind == "none":
            raise BadRecipeError(
                f"{bundle.recipe.name} is an encoder and answers nothing by itself; name it in a recipe, "
                f"encoder: {{bundle: {bundle.path or 'FOLDER'}}}, and train on photos of your place"
            )
        encoded = encode(
            bundle.model, bundle.preprocess, photos, batch_size=self.at_once, store=self.store, progress=progress
        )
        for index, features, errors in _together(encoded):
            if not len(index):
                none = np.empty(0)
                yield Predictions(index, Points(none, none, none), None, None, errors)
                continue
            output = bundle.model.head(features)
            logs = probability = position = None
            if output.logits is not None:
                logits = output.logits.double() / bundle.recipe.temperature
                said = torch.log_softmax(logits, dim=1)
                logs, probability = said.cpu().numpy(), said.exp().cpu().numpy()
            if output.position is not None:
                position = output.position.cpu().numpy()
            belief = unlike = None
            confidence, answer = bundle.confidence, bundle.recipe.answer
            if confidence and output.logits is not None:
                cosines, nearest = confidence.known.compare(
                    bundle.model.encoder.descriptor(features).cpu().numpy()
                ) or (None, None)
                shape = confidence.calibration.shape
                coarse = bundle.partition.coarse_logits(output.logits.double().cpu().numpy())
                belief = believe(shape, *self._centers, coarse, cosines)
                unlike = None if nearest is None else confidence.calibration.unlike_training(nearest)
            if confidence and belief and answer in ("median", "score", "densest"):
                scale_rad = decode.score_scale_rad(bundle.partition)
                found = decode.belief_points(belief, confidence.calibration.focus, answer, scale_rad)
                expected_km = confidence.calibration.mean_factor * found.expected_error_km
                points = replace(found, expected_error_km=expected_km)
            else:
                points = decode.points(
                    probability,
                    bundle.partition,
                    answer,
                    position=position,
                    regression_error_km=bundle.facts.get("regression_error_km"),
                )
            yield Predictions(index, points, logs, position, errors, belief, unlike)

    @cached_property
    def _centers(self) -> tuple[Kernels, Kernels]:
        confidence = self.bundle.confidence
        if confidence is None:
            raise ValueError("a bundle that is not calibrated has no belief")
        return cell_kernels(self.bundle.partition), confidence.known.kernels()

    def ground(self, belief: Belief) -> Ground:
        """The cells of the Earth that this bundle's regions are made of; grown at the first call."""
        if self._ground is None:
            self._ground = Ground.of(belief, self.bundle.recipe.seed)
        return self._ground

    @property
    def grown(self) -> Ground | None:
        """The ground, once an answer needed it."""
        return self._ground

    def sureness(self, predictions: Predictions) -> Sureness | None:
        """Regions and errors to expect of a batch; None where there is no belief."""
        belief, confidence = predictions.belief, self.bundle.confidence
        if belief is None or confidence is None:
            return None
        calibration, ground = confidence.calibration, self.ground(belief)
        masses = ground.masses(belief)
        regions = [ground.region(mass, calibration.region_mass[REGION]) for mass in masses]
        at = predictions.points
        half, most = ground.distance_quantiles(masses, at.lat, at.lon, (0.5, 0.9)).T
        return Sureness(
            [tuple(s2.to_tokens(ground.merged(rows))) for rows in regions],
            np.array([ground.area_km2[rows].sum() for rows in regions]),
            half * calibration.median_factor,
            most * calibration.p90_factor,
            predictions.unlike_training,
            masses,
        )

    def features(self, photos: Sequence[Photo], *, progress: Progress = silent) -> NDArray[np.float32]:
        """What the encoder makes of each photo, shape ``(N, F)``.

        Raises:
            BadPhotoError: a photo cannot be read.
        """
        bundle = self.bundle
        out = np.empty((len(photos), bundle.model.encoder.num_features), np.float32)
        for index, features, errors in encode(
            bundle.model, bundle.preprocess, photos, batch_size=self.at_once, store=self.store, progress=progress
        ):
            for error in errors.values():
                raise error
            out[index] = features.cpu().numpy()
        return out


def look_at(photo: Photo) -> tuple[str, ...]:
    """What is wrong with a photo, as of :func:`graticule.photos.quality.seen_in`."""
    from graticule.photos.quality import seen_in

    try:
        return seen_in(read_bytes(photo))
    except BadPhotoError:
        return ()


Encoded = tuple[NDArray[np.int64], torch.Tensor, dict[int, BadPhotoError]]


def _together(batches: Iterator[Encoded]) -> Iterator[Encoded]:
    """The same in batches of ``TOGETHER`` photos, or a little more; those that could not be read first."""
    waiting: list[Encoded] = []
    for index, features, errors in batches:
        if errors:
            yield np.empty(0, np.int64), features[:0], errors
        if len(index):
            waiting.append((index, features, {}))
        if sum(len(some) for some, _, _ in waiting) >= TOGETHER:
            yield _joined(waiting)
            waiting = []
    if waiting:
        yield _joined(waiting)


def _joined(batches: Sequence[Encoded]) -> Encoded:
    index, features, _ = zip(*batches, strict=True)
    return np.concatenate(index), torch.cat(features), {}


def load(
    path: str | Path,
    *,
    device: str | None = None,
    precision: Precision = "float32",
    runtime: Runtime | None = None,
    answer: Answer | None = None,
) -> Locator:
    """Open a bundle for answering; ``device``, ``precision`` and ``runtime`` as for :class:`Locator`.

    Args:
        path: a folder; the name of a public model that ``graticule get`` fetched; or ``user/name`` or
            ``user/name@revision`` of the Hugging Face hub.
        answer: which point to answer with; by default the recipe's.

    Raises:
        BundleError: there is no whole bundle at ``path``, or no exported model for the runtime.
        BadRecipeError: the runtime is not installed, or the network has no such point.
        SourceError: the hub has none, or cannot be reached.
    """
    bundle = answering(Bundle.read(find_bundle(path)), answer)
    return Locator(bundle, device=device, precision=precision, runtime=runtime)


def answering(bundle: Bundle, answer: Answer | None) -> Bundle:
    """The same bundle, which answers with another point than its recipe says.

    Raises:
        BadRecipeError: its network has no such point.
    """
    if answer is None:
        return bundle
    return replace(bundle, recipe=parse_recipe(bundle.recipe.model_dump() | {"answer": answer}, where="--answer"))
