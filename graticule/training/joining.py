"""A world's bundle that goes down to bundles of cities, and how sure the two are together."""

import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from graticule.belief.confidence import Known
from graticule.belief.density import Belief
from graticule.belief.ground import Joined
from graticule.belief.mixture import Extent, fit_gates
from graticule.errors import BadRecipeError, BadTableError, LeakError
from graticule.geo import s2
from graticule.geo.sphere import Floats
from graticule.inference.cities import Cities, City, hash_of, mixed
from graticule.inference.locate import Locator
from graticule.inference.said import Predictions, whole
from graticule.model.bundle import Bundle
from graticule.model.features import FeatureStore
from graticule.model.loading import Progress, silent
from graticule.photos.leakage import audit
from graticule.photos.table import Photos
from graticule.training.calibrate import FEWEST, calibration_of, held_out

AREA_MASS, AREA_CELLS = 0.99, 16  # of what a city's map holds, in how many S2 cells at most


def join(
    world: Bundle,
    cities: Sequence[Bundle],
    photos: Photos,
    *,
    trained: Sequence[Photos] = (),
    allow_leak: bool = False,
    store: FeatureStore | None = None,
    progress: Progress = silent,
) -> Cities:
    """How a world's bundle goes down to cities, fitted to photos of known places that trained none of them.

    Three numbers for each city tell how the world's own probability of its area, and the likeness of a photo to what
    the city knows, open its gate; then the regions and errors of what comes of it are calibrated as any bundle's.
    How many of the photos are of the cities is taken for how many will be.

    Args:
        trained: the photos that did train the bundles, where they are known.
        allow_leak: join all the same where they give these away.

    Raises:
        BadRecipeError: a bundle is not calibrated, or lies nowhere.
        BadTableError: too few of the photos are in a city, or outside of all.
        LeakError: training has seen their drives or places.
        BadPhotoError: one cannot be read.
    """
    if world.path is None:
        raise BadRecipeError("the world's bundle lies in no folder; write it first")
    for bundle in (world, *cities):
        if bundle.confidence is None:
            raise BadRecipeError(
                f"{bundle.path} is not calibrated, so nobody knows how far to trust it: graticule calibrate does that"
            )
    for known in trained:
        if not allow_leak and (leak := audit(known, photos)).held_out is False:
            raise LeakError(f"{leak.verdict} Join with photos of other drives, or all the same with --allow-leak")
    locators = [Locator(bundle, store=store, alone=True) for bundle in (world, *cities)]
    own, *below = locators
    areas = [area_of(locator) for locator in below]
    _check(photos, areas)
    said, *answers = (_asked(locator, photos, progress) for locator in locators)
    belief = said.belief
    if not isinstance(belief, Belief):
        raise BadRecipeError(f"{world.path} has no belief of a photo; only bundles with cells have")
    opinions = [
        (Extent.of(belief, area).probability(belief), locator.spread(answer, len(photos)))
        for area, locator, answer in zip(areas, below, answers, strict=True)
    ]
    truth = np.stack([one.log_density(photos.lat, photos.lon) for one in (belief, *(o.belief for _, o in opinions))], 1)
    gates = fit_gates(np.stack([p for p, _ in opinions], axis=1), [o.unlike for _, o in opinions], truth)
    even = [1 / len(locators)] * len(locators)
    share = mixed(gates, even, belief, said.unlike_training, opinions)[0].share
    before = tuple(share.mean(axis=0).tolist())
    mixture, strange = mixed(gates, before, belief, said.unlike_training, opinions)
    ground = Joined.of(tuple(locator.own_ground for locator in locators))
    part = replace(held_out(world, _known(world), photos, own.features(photos.paths())), nearest=strange)
    calibration, _ = calibration_of(
        [part], [mixture], [ground], belief.shape, photos.places(), f"{len(photos):,} photos of its user"
    )
    joined = tuple(
        City(os.path.relpath(city.path or ".", world.path), hash_of(city.path), tuple(s2.to_tokens(area)), gate)
        for city, area, gate in zip(cities, areas, gates, strict=True)
        if city.path is not None
    )
    return Cities(hash_of(world.path), joined, before, calibration)


def area_of(city: Locator) -> NDArray[np.uint64]:
    """The few S2 cells that hold what a city's bundle knows before it sees a photo."""
    return city.ground().summary(city.masses(city.even)[0], AREA_MASS, AREA_CELLS)[0]


def inside(lat: Floats, lon: Floats, cells: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which points lie in one of these S2 cells, shape ``(N,)``."""
    leaves, cells = s2.leaf_cells(lat, lon), np.sort(cells)
    row = np.minimum(np.searchsorted(s2.range_max(cells), leaves, "left"), len(cells) - 1)
    found: NDArray[np.bool_] = (s2.range_min(cells)[row] <= leaves) & (leaves <= s2.range_max(cells)[row])
    return found


def _asked(locator: Locator, photos: Photos, progress: Progress) -> Predictions:
    said = whole(list(locator.predict_batches(photos.paths(), progress=progress)))
    for error in said.errors.values():
        raise error
    return said


def _known(bundle: Bundle) -> Known:
    if bundle.confidence is None:
        raise BadRecipeError(f"{bundle.path} is not calibrated")
    return bundle.confidence.known


def _check(photos: Photos, areas: Sequence[NDArray[np.uint64]]) -> None:
    places = photos.places()
    within = [inside(photos.lat, photos.lon, area) for area in areas]
    counts = [len(np.unique(places[own])) for own in (*within, ~np.any(within, axis=0))]
    if min(counts) < FEWEST:
        raise BadTableError(
            f"these photos are of {', '.join(map(str, counts[:-1]))} places in the cities and of {counts[-1]} outside, "
            f"and {FEWEST} of each are the fewest that tell; name tables of both with --photos"
        )
