"""Photos in, fixes out: the only way from a bundle to an answer."""

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Literal, Self, overload

import numpy as np

from graticule.choices import Answer, Precision, Runtime
from graticule.config import parse_recipe
from graticule.errors import BadPhotoError, BadRecipeError
from graticule.geo import s2
from graticule.geo.areas import Area
from graticule.geo.sphere import Floats
from graticule.geo.towns import area_in_words, nearest_in_words, nearest_towns
from graticule.inference import decode
from graticule.inference.albums import Albums
from graticule.inference.alike import neighbours as nearest_known
from graticule.inference.bundles import find_bundle
from graticule.inference.claims import Place, measure, weigh
from graticule.inference.decode import Fix, Sureness
from graticule.inference.names import Names, PlaceGuess
from graticule.inference.network import CHUNK, Network
from graticule.inference.said import Predictions, Result
from graticule.model.bundle import Bundle
from graticule.model.loading import Photo, Progress, read_bytes, silent

REGION = "0.9"  # coverage of the region that a fix carries


class Locator(Network):
    """A bundle ready to answer; arguments as of :class:`graticule.inference.network.Network`."""

    _shares: tuple[Sequence[Area], Floats] | None = None  # of the ground's cells in the areas asked last

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
        neighbours: int = 0,
        masses: bool = False,
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
            neighbours: how many known photos that look alike each fix names; of photos together none.
            masses: keep what each answer rests on (:attr:`Result.masses`); some thousand numbers a photo.

        Raises:
            BadRecipeError: albums for a bundle without cells; areas or a largest error of one that is not calibrated.
        """
        waiting: dict[int, Result] = {}
        shown = [f"photo {i}" if isinstance(p, bytes) else p for i, p in enumerate(photos)]
        inputs: list[Photo] = [p if isinstance(p, bytes) else Path(p) for p in photos]
        done = 0
        for predictions in self._in_chunks(inputs, albums):
            claimed = None if claims is None else [claims[i] for i in predictions.index]
            found, sureness = self.fixes(
                predictions,
                top=top,
                max_error_km=max_error_km,
                min_probability=min_probability,
                seen=None if albums or max_error_km is None else [look_at(inputs[i]) for i in predictions.index],
                claims=claimed,
                within_km=within_km,
                inside=inside,
                names=names,
                neighbours=neighbours,
            )
            for row, (i, fix) in enumerate(zip(predictions.index, found, strict=True)):
                kept = (sureness.masses[row], sureness.calibration) if sureness and masses else (None, None)
                waiting[int(i)] = Result(shown[i], fix, None, *kept)
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
        neighbours: int = 0,
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
        known = self.bundle.confidence.known if self.bundle.confidence else None
        if neighbours and known and known.features is not None and predictions.known_weight is not None:
            found = [
                replace(fix, neighbours=nearest_known(known, weight, fix.lat, fix.lon, neighbours))
                for fix, weight in zip(found, predictions.known_weight, strict=True)
            ]
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
        at = predictions.points
        if sureness is None or self._ground is None:
            return [None] * len(at.lat)
        held = self._ground.distance_quantiles(sureness.masses, at.lat, at.lon, (share,))[:, 0]
        errors: list[float | None] = (held * sureness.calibration.error_factor(share)).tolist()
        return errors

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
        towns = nearest_in_words([fix.lat for fix in fixes], [fix.lon for fix in fixes])
        named = [replace(fix, near=town) for fix, town in zip(fixes, towns, strict=True)]
        if sureness is None or self._ground is None:
            return named
        return [replace(fix, places=self._names.likely(mass)) for fix, mass in zip(named, sureness.masses, strict=True)]

    def answering(self, answer: Answer | None) -> Self:
        """This locator, answering with another point; all that is large is shared.

        Raises:
            BadRecipeError: its network has no such point.
        """
        if answer is None:
            return self
        other = copy(self)
        other.bundle = answering(self.bundle, answer)
        return other

    @cached_property
    def _names(self) -> Names:
        return Names.of(self.ground().lat, self.ground().lon)

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


def look_at(photo: Photo) -> tuple[str, ...]:
    """What is wrong with a photo, as of :func:`graticule.photos.quality.seen_in`."""
    from graticule.photos.quality import seen_in

    try:
        return seen_in(read_bytes(photo))
    except BadPhotoError:
        return ()


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
