"""Photos in, fixes out: the only way from a bundle to an answer."""

import ctypes
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
from graticule.errors import BadPhotoError, BadRecipeError
from graticule.geo import s2
from graticule.geo.sphere import Floats, from_vectors
from graticule.geo.towns import area_in_words, nearest_towns
from graticule.inference import decode
from graticule.inference.albums import LEAST, Albums, Motion
from graticule.inference.claims import Place, measure, weigh
from graticule.inference.decode import Fix, Points, Sureness
from graticule.inference.names import Names
from graticule.model.bundle import Bundle
from graticule.model.exporting import open_runtime
from graticule.model.features import FeatureStore, encode
from graticule.model.index import find_bundle
from graticule.model.loading import Photo, Progress, silent

REGION = "0.9"  # coverage of the region that a fix carries
CORES = torch.get_num_threads()
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # glibc's malloc.h
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
        claims: Sequence[Place | None] | None = None,
        within_km: float | None = None,
        names: bool = False,
        progress: Progress = silent,
    ) -> Iterator[Result]:
        """Answer photos in their order; one that cannot be read becomes a reply with its error.

        Args:
            albums: which photos to answer together; each by itself where there are none.
            max_error_km: fixes whose median error is larger say that they cannot tell (:attr:`Fix.cannot_tell`).
            claims: for each photo the place that is claimed for it, ``(lat, lon)`` in degrees; each fix then says how
                the claim fits (:attr:`Fix.claim`).
            within_km: radius of the circle around a claim; by default the answer's own median error.
            names: name the places (:attr:`Fix.near`, :attr:`Fix.places`); takes a second the first time.

        Raises:
            BadRecipeError: albums for a bundle without cells, or a largest error of one that is not calibrated.
        """
        waiting: dict[int, Result] = {}
        shown = [f"photo {i}" if isinstance(p, bytes) else p for i, p in enumerate(photos)]
        inputs: list[Photo] = [p if isinstance(p, bytes) else Path(p) for p in photos]
        done = 0
        for predictions in self._in_chunks(inputs, albums):
            claimed = None if claims is None else [claims[i] for i in predictions.index]
            found, _ = self.fixes(
                predictions, top=top, max_error_km=max_error_km, claims=claimed, within_km=within_km, names=names
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
        claims: Sequence[Place | None] | None = None,
        within_km: float | None = None,
        names: bool = False,
    ) -> tuple[list[Fix], Sureness | None]:
        """The answers of one batch in its own order, and what they rest on; arguments as of :meth:`results`.

        Args:
            claims: one for each photo of the batch.
        """
        probability = None if predictions.log_probability is None else np.exp(predictions.log_probability)
        sureness = self.sureness(predictions)
        found = decode.fixes(predictions.points, probability, self.bundle.partition, top, sureness)
        if claims is not None:
            found = self._with_claims(found, sureness, claims, within_km)
        if names and found:
            found = self._named(found, sureness)
        if max_error_km is not None:
            found = [fix.if_within(max_error_km) for fix in found]
        return found, sureness

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
        for index, features, errors in encode(
            bundle.model, bundle.preprocess, photos, batch_size=self.at_once, store=self.store, progress=progress
        ):
            if not len(index):
                none = np.empty(0)
                yield Predictions(index, Points(none, none, none), None, None, errors)
                continue
            output = bundle.model.head(features)
            logs = position = None
            if output.logits is not None:
                logits = output.logits.double() / bundle.recipe.temperature
                logs = torch.log_softmax(logits, dim=1).cpu().numpy()
            if output.position is not None:
                position = output.position.cpu().numpy()
            belief = unlike = None
            confidence, answer = bundle.confidence, bundle.recipe.answer
            if confidence and output.logits is not None:
                cosines, nearest = confidence.known.compare(
                    bundle.model.encoder.descriptor(features).cpu().numpy()
                ) or (None, None)
                shape = confidence.calibration.shape
                said = bundle.partition.coarse_logits(output.logits.double().cpu().numpy())
                belief = believe(shape, *self._centers, said, cosines)
                unlike = None if nearest is None else confidence.calibration.unlike_training(nearest)
            if confidence and belief and answer == "median":
                found = decode.belief_points(belief, confidence.calibration.focus)
                expected_km = confidence.calibration.mean_factor * found.expected_error_km
                points = replace(found, expected_error_km=expected_km)
            else:
                points = decode.points(
                    None if logs is None else np.exp(logs),
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


def share_cores(parts: int) -> None:
    """Let networks that the calling thread asks use one part of the cores; of one part, all.

    Small networks on two cores do less than twice the work of one: threads with a core each answer more photos. The
    last digits of an answer depend on how many cores worked on it.
    """
    torch.set_num_threads(max(1, CORES // parts))


def keep_memory() -> bool:
    """Let the C library keep what a network gives back, and whether it does (glibc; no other is asked).

    It hands large arrays back to the kernel after each layer and gets them anew, a page fault every 4 KiB, the more the
    more photos there are in a batch. Kept, a batch of 16 photos costs a processor a quarter less a photo than one of 4;
    a process then holds what its largest batch needed. Call it before there are threads: those that come later share
    one heap, since the others' heaps are too small for a batch.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    most = 2**31 - 1
    return all([mallopt(M_MMAP_THRESHOLD, most // 2), mallopt(M_TRIM_THRESHOLD, most), mallopt(M_ARENA_MAX, 1)])


def load(
    path: str | Path, *, device: str | None = None, precision: Precision = "float32", runtime: Runtime | None = None
) -> Locator:
    """Open a bundle for answering; ``device``, ``precision`` and ``runtime`` as for :class:`Locator`.

    Args:
        path: a folder; the name of a public model that ``graticule get`` fetched; or ``user/name`` or
            ``user/name@revision`` of the Hugging Face hub.

    Raises:
        BundleError: there is no whole bundle at ``path``, or no exported model for the runtime.
        BadRecipeError: the runtime is not installed.
        SourceError: the hub has none, or cannot be reached.
    """
    return Locator(Bundle.read(find_bundle(path)), device=device, precision=precision, runtime=runtime)
