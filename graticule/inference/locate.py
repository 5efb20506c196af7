"""Photos in, fixes out: the only way from a bundle to an answer."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray

from graticule.belief.calibration import believe
from graticule.belief.confidence import Calibration, Confidence, cell_kernels
from graticule.belief.density import Belief, Kernels, Shape
from graticule.belief.ground import Cover, Ground, Joined
from graticule.belief.mixture import Area, Mixture
from graticule.choices import Precision, Runtime
from graticule.errors import BadPhotoError, BadRecipeError
from graticule.geo import s2
from graticule.geo.sphere import Floats
from graticule.geo.towns import area_in_words, nearest_towns
from graticule.inference import decode
from graticule.inference.albums import Albums, Fuser, Motion, untold
from graticule.inference.cities import CITIES, LEAST_ODDS, Cities, Opinion, mixed
from graticule.inference.claims import Place, measure, weigh
from graticule.inference.decode import Fix, Points, Sureness
from graticule.inference.names import Names
from graticule.inference.said import Predictions, Result, whole
from graticule.model.bundle import Bundle
from graticule.model.exporting import open_runtime
from graticule.model.features import FeatureStore, encode, feature_key
from graticule.model.index import find_bundle
from graticule.model.loading import Photo, Progress, silent

REGION = "0.9"  # coverage of the region that a fix carries
CORES = torch.get_num_threads()
CHUNK = 1024  # photos answered at a time: bounds memory when a folder holds a million


class Locator:
    """A bundle ready to answer.

    Args:
        store: a store of features of a frozen encoder, for photos that are predicted often; none by default, so nothing
            is kept.
        device: where the network runs; the GPU if there is one.
        precision: arithmetic of the encoder: ``float32`` gives the same answer on every processor, but for rounding;
            ``bfloat16`` is faster where the processor or the card multiplies it, and moves probabilities a little.
        runtime: computes the features by what :func:`graticule.model.exporting.export` wrote, on the processor.
        alone: go down to no cities, even where they lie beside the bundle (:mod:`graticule.inference.cities`).
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        store: FeatureStore | None = None,
        device: str | None = None,
        precision: Precision = "float32",
        runtime: Runtime | None = None,
        alone: bool = False,
    ) -> None:
        self.bundle = bundle
        # Features of an encoder that was trained along would fill the store and never be asked for again.
        self.store = store if bundle.recipe.encoder.frozen else None
        self.device = device or ("cuda" if torch.cuda.is_available() and not runtime else "cpu")
        self.bundle.model.to(self.device).eval()
        self.bundle.model.precision = precision
        self.bundle.model.runtime = runtime and (runtime, open_runtime(bundle, runtime, precision))
        self._cities = Cities.read(bundle.path) if bundle.path and not alone else None
        self._below: list[Locator] = []
        if self._cities and bundle.path:
            self._below = [
                Locator(city, store=store, device=self.device, precision=precision, runtime=runtime, alone=True)
                for city in self._cities.open(bundle.path)
            ]
        self._ground: Cover | None = None
        self._under: dict[Shape, Ground] = {}
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
            if claim and sureness and self._ground and fix.median_error_km is not None:
                radius_km = within_km or max(fix.median_error_km, 1e-3)
                claim = weigh(claim, self._ground, sureness.masses[i], sureness.calibration, radius_km)
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

        A photo that cannot be read has no say. The beliefs of a calibrated bundle are fused; of any other, positions
        are those of cells, whatever the recipe's answer.

        Raises:
            BadRecipeError: the bundle has no cells.
        """
        bundle = self.bundle
        if not bundle.model.head.has_cells:
            raise BadRecipeError("photos are answered together by what they say of cells; this bundle has none")
        if self._below:
            raise BadRecipeError(
                "photos are answered together by one bundle, and this one goes down to cities: ask a city's bundle, or "
                f"delete {CITIES} beside this one"
            )
        done = 0
        for some in albums.chunks(CHUNK):
            rows = np.concatenate(some)
            alone = whole(list(self.predict_batches([photos[i] for i in rows])))
            at = np.full(len(rows), -1)
            at[alone.index] = np.arange(len(alone.index))
            read = [at[album][at[album] >= 0] for album in np.split(np.arange(len(rows)), _ends(some))]
            errors = {int(rows[i]): error for i, error in alone.errors.items()}
            done += len(rows)
            progress(done, len(photos), f"photos of one {albums.together} together")
            heard = Albums(albums.together, [album for album in read if len(album)])
            yield replace(self._fused(alone, heard), index=rows[alone.index], errors=errors)

    def _fused(self, alone: Predictions, albums: Albums) -> Predictions:
        """The same photos, those of an album together."""
        confidence, logs, unlike = self.bundle.confidence, alone.log_probability, None
        if logs is None:
            return alone  # no photo could be read
        logs = logs.copy()
        if alone.unlike_training is not None:
            unlike = alone.unlike_training.copy()
        for album in albums.rows:
            logs[album] = albums.answer(logs[album], self._motions)
            if unlike is not None and albums.together == "place":
                unlike[album] = np.median(unlike[album])
        belief = calibration = None
        if isinstance(alone.belief, Belief) and confidence:
            told = confidence.together.get(albums.together)
            fusion = told or untold(albums.together, confidence.calibration)
            belief, calibration = self._fuser.fuse(alone.belief, albums, fusion), fusion.calibration
        points = self._points(logs, belief, calibration)
        if belief and confidence and not told:
            belief = calibration = unlike = None
        return Predictions(alone.index, points, logs, None, {}, belief, unlike, calibration)

    def _points(
        self,
        log_probability: Floats | None,
        belief: Belief | Mixture | None,
        calibration: Calibration | None,
        position: Floats | None = None,
    ) -> Points:
        """The answers by what is believed, where the recipe asks for the median; else by cells or a position alone."""
        answer = self.bundle.recipe.answer
        if belief and calibration and answer == "median":
            found = decode.belief_points(belief, calibration.focus)
            return replace(found, expected_error_km=calibration.mean_factor * found.expected_error_km)
        if answer == "regressed" and position is None:
            answer = "median"  # photos together have no position of their own
        return decode.points(
            None if log_probability is None else np.exp(log_probability),
            self.bundle.partition,
            answer,
            position=position,
            regression_error_km=self.bundle.facts.get("regression_error_km"),
        )

    @cached_property
    def _motions(self) -> list[Motion]:
        return Motion.candidates(self.bundle.partition.lat, self.bundle.partition.lon)

    @cached_property
    def _fuser(self) -> Fuser:
        return Fuser(*self._centers)

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
            bundle.model, bundle.preprocess, photos, store=self.store, progress=progress
        ):
            said = self._said(index, features)
            if self._cities and isinstance(said.belief, Belief):
                said = self._gone_down(said, features, photos, self._cities)
            yield replace(said, errors=errors)

    def _said(self, index: NDArray[np.int64], features: torch.Tensor) -> Predictions:
        """What this network says of photos with these features."""
        if not len(index):
            none = np.empty(0)
            return Predictions(index, Points(none, none, none), None, None, {})
        bundle, confidence = self.bundle, self.bundle.confidence
        output = bundle.model.head(features)
        logs = position = belief = unlike = None
        if output.logits is not None:
            logits = output.logits.double() / bundle.recipe.temperature
            logs = torch.log_softmax(logits, dim=1).cpu().numpy()
        if output.position is not None:
            position = output.position.cpu().numpy()
        if confidence and output.logits is not None:
            cosines, nearest = confidence.known.compare(bundle.model.encoder.descriptor(features).cpu().numpy()) or (
                None,
                None,
            )
            shape = confidence.calibration.shape
            said = bundle.partition.coarse_logits(output.logits.double().cpu().numpy())
            belief = believe(shape, *self._centers, said, cosines)
            unlike = None if nearest is None else confidence.calibration.unlike_training(nearest)
        calibration = confidence.calibration if confidence else None
        points = self._points(logs, belief, calibration, position)
        return Predictions(index, points, logs, position, {}, belief, unlike, calibration)

    def _gone_down(
        self, said: Predictions, features: torch.Tensor, photos: Sequence[Photo], cities: Cities
    ) -> Predictions:
        """The world's predictions with those of the cities where their areas are likely enough."""
        world, answers = said.belief, []
        if not isinstance(world, Belief):
            return said
        for city, locator, area in zip(cities.cities, self._below, self._areas, strict=True):
            probability = area.probability(world)
            asked = np.flatnonzero(city.gate.log_odds(probability, None) > LEAST_ODDS)
            if locator.encoder_key == self.encoder_key:
                found = locator._said(asked, features[torch.from_numpy(asked).to(features.device)])
            else:
                found = whole(list(locator.predict_batches([photos[said.index[i]] for i in asked])))
                found = replace(found, index=asked[found.index])
            answers.append((probability, locator.spread(found, len(said.index))))
        gates = [city.gate for city in cities.cities]
        belief, unlike = mixed(gates, cities.before, world, said.unlike_training, answers)
        if unlike is not None:
            unlike = cities.calibration.unlike_training(unlike)
        points = self._points(said.log_probability, belief, cities.calibration)
        return replace(said, points=points, belief=belief, unlike_training=unlike, calibration=cities.calibration)

    @cached_property
    def encoder_key(self) -> str:
        """What the features of this bundle's encoder are kept by: equal where they are the same."""
        return feature_key(self.bundle.model, self.bundle.preprocess)

    def spread(self, found: Predictions, count: int) -> Opinion:
        """What is believed of ``count`` photos of which some were asked; of the others nothing."""
        cells, known = self._centers
        weights = [np.full((count, len(where)), 1 / len(where)) for where in (cells, known)]
        asked, unlike = np.zeros(count, bool), np.ones(count)
        asked[found.index] = True
        if isinstance(found.belief, Belief):
            weights[0][found.index], weights[1][found.index] = found.belief.cell_weight, found.belief.known_weight
        if found.unlike_training is not None:
            unlike[found.index] = found.unlike_training
        gallery = self._confidence.known.features is not None
        belief = Belief(self._confidence.calibration.shape, cells, known, *weights)
        return Opinion(belief, unlike if gallery else None, asked)

    @cached_property
    def _areas(self) -> list[Area]:
        """What the world's beliefs say of each city's area."""
        return [Area.of(self.even, city.cells) for city in self._cities.cities] if self._cities else []

    @cached_property
    def _confidence(self) -> Confidence:
        if self.bundle.confidence is None:
            raise ValueError("a bundle that is not calibrated has no belief")
        return self.bundle.confidence

    @cached_property
    def _centers(self) -> tuple[Kernels, Kernels]:
        return cell_kernels(self.bundle.partition), self._confidence.known.kernels()

    @cached_property
    def even(self) -> Belief:
        """Of a photo that looks like nothing; it has the shape and the centers of all others."""
        cells, known = self._centers
        return believe(self._confidence.calibration.shape, cells, known, np.zeros((1, len(cells))), None)

    @cached_property
    def own_ground(self) -> Ground:
        return Ground.of(self.even, self.bundle.recipe.seed)

    @cached_property
    def _joined(self) -> Joined:
        return Joined.of((self.own_ground, *(locator.own_ground for locator in self._below)))

    def ground(self) -> Cover:
        """The cells of the Earth that this bundle's regions are made of; grown at the first call.

        Raises:
            ValueError: the bundle is not calibrated.
        """
        if self._ground is None:
            self._ground = self._joined if self._below else self.own_ground
        return self._ground

    @property
    def grown(self) -> Cover | None:
        """The ground, once an answer needed it."""
        return self._ground

    def masses(self, belief: Belief | Mixture) -> Floats:
        """Probability of each cell of the ground by each photo's belief, rows that sum to one, shape ``(N, G)``."""
        if isinstance(belief, Mixture):
            return self._joined.masses(belief)
        if belief.shape not in self._under:
            self._under[belief.shape] = self.own_ground.under(belief)
        return self._under[belief.shape].masses(belief)

    def sureness(self, predictions: Predictions) -> Sureness | None:
        """Regions and errors to expect of a batch; None where there is no belief."""
        belief, calibration = predictions.belief, predictions.calibration
        if belief is None or calibration is None:
            return None
        ground, masses = self.ground(), self.masses(belief)
        regions = [ground.region(mass, calibration.region_mass[REGION]) for mass in masses]
        at = predictions.points
        half, most = ground.distance_quantiles(masses, at.lat, at.lon, (0.5, 0.9)).T
        half, most = half * calibration.median_factor, most * calibration.p90_factor
        return Sureness(
            [tuple(s2.to_tokens(ground.merged(rows))) for rows in regions],
            np.array([ground.area_km2[rows].sum() for rows in regions]),
            half,
            np.maximum(half, most),  # the two factors are fitted apart
            predictions.unlike_training,
            masses,
            calibration,
        )

    def features(self, photos: Sequence[Photo], *, progress: Progress = silent) -> NDArray[np.float32]:
        """What the encoder makes of each photo, shape ``(N, F)``.

        Raises:
            BadPhotoError: a photo cannot be read.
        """
        bundle = self.bundle
        out = np.empty((len(photos), bundle.model.encoder.num_features), np.float32)
        for index, features, errors in encode(
            bundle.model, bundle.preprocess, photos, store=self.store, progress=progress
        ):
            for error in errors.values():
                raise error
            out[index] = features.cpu().numpy()
        return out


def _ends(parts: Sequence[NDArray[np.int64]]) -> list[int]:
    ends: list[int] = np.cumsum([len(part) for part in parts])[:-1].tolist()
    return ends


def share_cores(parts: int) -> None:
    """Let networks that the calling thread asks use one part of the cores; of one part, all.

    Small networks on two cores do less than twice the work of one: threads with a core each answer more photos. The
    last digits of an answer depend on how many cores worked on it.
    """
    torch.set_num_threads(max(1, CORES // parts))


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
