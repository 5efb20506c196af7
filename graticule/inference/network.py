"""What bundles believe of photos: of each by itself, of an album together, of a world with its cities."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from graticule.belief.calibration import believe
from graticule.belief.confidence import Calibration, Confidence, cell_kernels
from graticule.belief.density import Belief, Kernels, Shape
from graticule.belief.ground import Cover, Ground, Joined
from graticule.belief.mixture import Extent, Mixture
from graticule.choices import Precision, Runtime
from graticule.errors import BadPhotoError, BadRecipeError
from graticule.geo.sphere import Floats
from graticule.inference import decode
from graticule.inference.albums import Albums, Fuser, Motion, untold
from graticule.inference.cities import CITIES, LEAST_ODDS, Cities, Opinion, mixed
from graticule.inference.decode import Points
from graticule.inference.said import Predictions, whole
from graticule.model.bundle import Bundle
from graticule.model.exporting import open_runtime
from graticule.model.features import FeatureStore, encode, feature_key
from graticule.model.loading import Photo, Progress, silent

CHUNK = 1024  # photos answered at a time: bounds memory when a folder holds a million
TOGETHER = 64  # features that the head is asked about at once: a large gallery is then read once for all of them


class Network:
    """A bundle ready to say what it believes of photos.

    Args:
        store: a store of features of a frozen encoder, for photos that are predicted often; none by default, so nothing
            is kept.
        device: where the network runs; the GPU if there is one.
        precision: arithmetic of the encoder: ``float32`` gives the same answer on every processor, but for rounding;
            ``bfloat16`` is faster where the processor or the card multiplies it, and moves probabilities a little.
        runtime: computes the features by what :func:`graticule.model.exporting.export` wrote, on the processor.
        alone: go down to no cities, even where they lie beside the bundle (:mod:`graticule.inference.cities`).

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
        self._below: list[Network] = []
        if self._cities and bundle.path:
            self._below = [
                Network(city, store=store, device=self.device, precision=precision, runtime=runtime, alone=True)
                for city in self._cities.open(bundle.path)
            ]
        self._ground: Cover | None = None
        self._under: dict[Shape, Ground] = {}

    @property
    def cities(self) -> list[Bundle]:
        """The bundles that this one goes down to."""
        return [network.bundle for network in self._below]

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
        points = self._points(np.exp(logs), belief, calibration)
        if belief and confidence and not told:
            belief = calibration = unlike = None
        return Predictions(alone.index, points, logs, None, {}, belief, unlike, calibration)

    def _points(
        self,
        probability: Floats | None,
        belief: Belief | Mixture | None,
        calibration: Calibration | None,
        position: Floats | None = None,
    ) -> Points:
        """The answers by what is believed, where the recipe asks for such; else by cells or a position alone."""
        answer, partition = self.bundle.recipe.answer, self.bundle.partition
        if belief and calibration and answer in ("median", "score", "densest"):
            scale_rad = decode.score_scale_rad(partition)
            found = decode.belief_points(belief, calibration.focus, answer, scale_rad)
            return replace(found, expected_error_km=calibration.mean_factor * found.expected_error_km)
        if answer == "regressed" and position is None:
            answer = "median"  # photos together have no position of their own
        regression_error_km = self.bundle.facts.get("regression_error_km")
        return decode.points(probability, partition, answer, position=position, regression_error_km=regression_error_km)

    @cached_property
    def _motions(self) -> list[Motion]:
        return Motion.candidates(self.bundle.partition.lat, self.bundle.partition.lon)

    @cached_property
    def _fuser(self) -> Fuser:
        return Fuser(*self.centers)

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
            said = self.said(index, features)
            if self._cities and isinstance(said.belief, Belief):
                said = self._gone_down(said, features, photos, self._cities)
            yield replace(said, errors=errors)

    def said(self, index: NDArray[np.int64], features: torch.Tensor) -> Predictions:
        """What this network says of photos with these features."""
        if not len(index):
            none = np.empty(0)
            return Predictions(index, Points(none, none, none), None, None, {})
        bundle, confidence = self.bundle, self.bundle.confidence
        output = bundle.model.head(features)
        logs = probability = position = belief = unlike = None
        if output.logits is not None:
            # In float32, as the logits are: of a large gallery twice the digits take twice the time and tell no more.
            warm = bundle.recipe.temperature
            likely = torch.log_softmax(output.logits if warm == 1 else output.logits / warm, dim=1)
            logs, probability = likely.cpu().numpy(), likely.exp().cpu().numpy()
        if output.position is not None:
            position = output.position.cpu().numpy()
        if confidence and output.logits is not None:
            cosines, nearest = confidence.known.compare(features.cpu().numpy()) or (None, None)
            shape = confidence.calibration.shape
            coarse = bundle.partition.coarse_logits(output.logits.double().cpu().numpy())
            belief = believe(shape, *self.centers, coarse, cosines)
            unlike = None if nearest is None else confidence.calibration.unlike_training(nearest)
        calibration = confidence.calibration if confidence else None
        points = self._points(probability, belief, calibration, position)
        return Predictions(index, points, logs, position, {}, belief, unlike, calibration)

    def _gone_down(
        self, said: Predictions, features: torch.Tensor, photos: Sequence[Photo], cities: Cities
    ) -> Predictions:
        """The world's predictions with those of the cities where their areas are likely enough."""
        world, logs, answers = said.belief, said.log_probability, []
        if not isinstance(world, Belief) or logs is None:
            return said
        for city, locator, area in zip(cities.cities, self._below, self._areas, strict=True):
            probability = area.probability(world)
            asked = np.flatnonzero(city.gate.log_odds(probability, None) > LEAST_ODDS)
            if locator.encoder_key == self.encoder_key:
                found = locator.said(asked, features[torch.from_numpy(asked).to(features.device)])
            else:
                found = whole(list(locator.predict_batches([photos[said.index[i]] for i in asked])))
                found = replace(found, index=asked[found.index])
            answers.append((probability, locator.spread(found, len(said.index))))
        gates = [city.gate for city in cities.cities]
        belief, unlike = mixed(gates, cities.before, world, said.unlike_training, answers)
        if unlike is not None:
            unlike = cities.calibration.unlike_training(unlike)
        points = self._points(np.exp(logs), belief, cities.calibration)
        return replace(said, points=points, belief=belief, unlike_training=unlike, calibration=cities.calibration)

    @cached_property
    def encoder_key(self) -> str:
        """What the features of this bundle's encoder are kept by: equal where they are the same."""
        return feature_key(self.bundle.model, self.bundle.preprocess)

    def spread(self, found: Predictions, count: int) -> Opinion:
        """What is believed of ``count`` photos of which some were asked; of the others nothing."""
        cells, known = self.centers
        weights = [np.full((count, len(where)), 1 / len(where)) for where in (cells, known)]
        asked, unlike = np.zeros(count, bool), np.ones(count)
        asked[found.index] = True
        if isinstance(found.belief, Belief):
            weights[0][found.index], weights[1][found.index] = found.belief.cell_weight, found.belief.known_weight
        if found.unlike_training is not None:
            unlike[found.index] = found.unlike_training
        gallery = self.confidence.known.features is not None
        belief = Belief(self.confidence.calibration.shape, cells, known, *weights)
        return Opinion(belief, unlike if gallery else None, asked)

    @cached_property
    def _areas(self) -> list[Extent]:
        """What the world's beliefs say of each city's area."""
        return [Extent.of(self.even, city.cells) for city in self._cities.cities] if self._cities else []

    @cached_property
    def confidence(self) -> Confidence:
        if self.bundle.confidence is None:
            raise ValueError("a bundle that is not calibrated has no belief")
        return self.bundle.confidence

    @cached_property
    def centers(self) -> tuple[Kernels, Kernels]:
        of_cells, of_known = self.confidence.calibration.shape.usual_km or (None, None)
        return cell_kernels(self.bundle.partition, of_cells), self.confidence.known.kernels(of_known)

    @cached_property
    def even(self) -> Belief:
        """Of a photo that looks like nothing; it has the shape and the centers of all others."""
        cells, known = self.centers
        return believe(self.confidence.calibration.shape, cells, known, np.zeros((1, len(cells))), None)

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
