"""How sure a bundle may be, measured on photos that did not train it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from graticule.belief.calibration import HeldOut, conformal_level, fit_shape
from graticule.belief.confidence import COVERAGES, Calibration, Confidence, Fusion, Known, cell_kernels
from graticule.belief.density import LEAST_WIDTH_KM, Belief, Shape
from graticule.belief.ground import Ground, Joined
from graticule.belief.mixture import Mixture
from graticule.choices import Answer, HeadKind, Together
from graticule.config import Recipe
from graticule.errors import BadRecipeError, BadTableError, LeakError
from graticule.geo.sphere import Floats, great_circle_km
from graticule.inference import decode
from graticule.inference.albums import POWERS, Fuser, albums_of
from graticule.inference.decode import Points, belief_points
from graticule.inference.locate import Locator
from graticule.model.bundle import Bundle
from graticule.model.features import FeatureStore
from graticule.model.loading import Progress, silent
from graticule.photos.leakage import audit
from graticule.photos.splits import fold_masks, honest_split, whole_groups
from graticule.photos.table import Photos
from graticule.training.devices import Machines
from graticule.training.fit import fit

FOLDS = 4
FOCUSES = (1.0, 1.5, 2.0, 3.0, 4.0)
FOCUSED = 600  # photos that tell which of them; points take the longest of all
FITTING = "fitting how sure it is"  # what takes seconds after the last photo
FEWEST = 20  # places that held-out photos must come from
MOST = 1000  # photos of a user that a calibration looks at
MOST_TOGETHER = 2000  # photos of albums that a calibration looks at, of all folds
LONGEST = 150  # photos of one album
FEWEST_ALBUMS: dict[Together, int] = {"place": FEWEST, "sequence": 9}  # of fewer that agree no 90 % region is known
TEMPERATURES_TOGETHER = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8)  # of what an album says
AT_ONCE = 256  # photos whose logits are held at a time: a gallery has 100,000 of them
SINCE = "; since then"
QUANTILES = 200  # of the distances to known photos


def fit_calibrated(
    recipe: Recipe,
    photos: Photos,
    val: Photos | None = None,
    *,
    by: str | None = None,
    albums: bool = True,
    folder: Path | None = None,
    resume: bool = False,
    store: FeatureStore | None = None,
    machines: Machines | None = None,
    progress: Progress = silent,
) -> Bundle:
    """As :func:`graticule.training.fit.fit`, and calibrated where that is possible.

    A frozen encoder's head trains in seconds, so ``FOLDS`` more of them, each without some of the photos, tell what
    held-out photos look like (cross-fitting), and no photo is lost to calibration. Any other network is asked about
    the validation photos, which never changed a weight.

    Args:
        by: groups of the folds, as of :func:`graticule.photos.splits.make_folds`; by default the honest split's.
        albums: learn how sure photos are that are answered together, too.

    Returns:
        The bundle; without a confidence, and with ``facts["calibration"]`` saying why, where photos are too few.
    """
    store = store or (FeatureStore() if recipe.encoder.frozen else None)
    bundle = fit(recipe, photos, val, folder=folder, resume=resume, store=store, machines=machines, progress=progress)
    if not bundle.model.head.has_cells:
        return _without(bundle, "the network has no cells")
    known = _known(bundle, photos, store)
    if recipe.encoder.frozen:
        by = by or honest_split(photos)[0]
        sizes = {"block_km": recipe.split.block_km, "buffer_km": recipe.split.buffer_km}
        try:
            folds = fold_masks(photos, FOLDS, by, recipe.seed + 1, **sizes)
        except BadRecipeError as error:
            return _without(bundle, str(error))
        whole = whole_groups(photos, by, sizes["block_km"])
        # One measure for all, or kernels would be narrower than those that were fitted wherever more photos are known.
        usual_km = cell_kernels(bundle.partition).usual_km, known.kernels().usual_km
        parts, asked, groups = [], [], []
        for k, (rest, tested) in enumerate(folds):
            train, test = photos.take(rest), photos.take(tested)
            note = f"calibration {k + 1}/{FOLDS}"
            try:
                inner = fit(recipe, train, store=store, progress=lambda i, n, _, note=note: progress(i, n, note))  # type: ignore[misc]
            except BadRecipeError as error:
                return _without(bundle, str(error))
            asking = Locator(inner, store=store).features(test.paths())
            parts.append(held_out(inner, _known(inner, train, store), test, asking, usual_km))
            asked.append(test)
            groups.append(whole[tested])
        how = f"{FOLDS} folds by {by}"
    else:
        if val is None or not len(val):
            return _without(bundle, "there is no validation part")
        features = Locator(bundle, store=store).features(val.paths())
        parts, asked, how = [held_out(bundle, known, val, features)], [val], "the validation part"
        groups = [val.places()]  # its drives are a tenth of few
    places = sum(len(np.unique(part.places())) for part in asked)
    if places < FEWEST:
        return _without(bundle, f"the held-out photos are of {places} places, fewer than {FEWEST}")
    progress(0, 1, FITTING)
    shape = fit_shape(parts)
    grounds = [Ground.of(part.belief(shape), bundle.recipe.seed) for part in parts]
    beliefs = _believed(parts, shape)
    calibration, _ = calibration_of(parts, beliefs, grounds, shape, np.concatenate(groups), how, places=places)
    fusions = _fusions(parts, asked, grounds, shape, bundle.recipe.seed, how) if albums else {}
    progress(1, 1, FITTING)
    bundle.facts["calibration"] = _told(calibration, fusions)
    return replace(bundle, confidence=Confidence(calibration, known, fusions))


def calibrate(
    bundle: Bundle,
    photos: Photos,
    *,
    trained: Photos | None = None,
    allow_leak: bool = False,
    store: FeatureStore | None = None,
    progress: Progress = silent,
) -> Bundle:
    """A bundle calibrated on photos that did not train it, whoever trained it.

    Known photos stay those of the bundle; one that has none, such as a public model's, takes its own cells as the map.
    A public model then answers by its belief, unless its own answer, such as its likeliest point, is nearer for these
    photos: a belief is laid around no more than some thousand places.

    Args:
        photos: of known places; of more than ``MOST`` so many are drawn.
        trained: the photos that did train the bundle, where they are known.
        allow_leak: calibrate all the same where they give these away.

    Raises:
        BadRecipeError: the bundle has no cells.
        BadTableError: the photos are of fewer than ``FEWEST`` places, or of a benchmark.
        LeakError: training has seen their drives or places.
        BadPhotoError: one cannot be read.
    """
    if not bundle.model.head.has_cells:
        raise BadRecipeError(
            f"{bundle.recipe.name} has no cells, and a belief is laid around cells; nothing to calibrate"
        )
    photos.check_trainable()
    photos = photos.take(photos.may_train())
    if len(photos) > MOST:
        rows = np.random.default_rng(bundle.recipe.seed).choice(len(photos), MOST, replace=False)
        photos = photos.take(np.sort(rows))
    places = photos.places()
    count = len(np.unique(places))
    if count < FEWEST:
        raise BadTableError(
            f"these {len(photos)} photos are of {count} places, and fewer than {FEWEST} tell too little; some hundred "
            f"places are enough"
        )
    if trained is not None and not allow_leak and (leak := audit(trained, photos)).held_out is False:
        raise LeakError(
            f"{leak.verdict} The bundle would think itself surer than it is; calibrate it with photos of other drives, "
            f"or all the same with --allow-leak"
        )
    known = bundle.confidence.known if bundle.confidence else None
    if known is None:
        known = Known.of(bundle.partition.lat, bundle.partition.lon, None, bundle.recipe.seed)
    how = "photos of its user"
    features = Locator(bundle, store=store).features(photos.paths(), progress=progress)
    progress(0, 1, FITTING)
    part, seed = held_out(bundle, known, photos, features), bundle.recipe.seed
    answers = _own_answers(bundle, features)
    answer = min(answers, key=lambda name: _mean_log_error([part], [answers[name]]), default=None)
    own = answers[answer] if answer else None
    shape = fit_shape([part])
    ground = Ground.of(part.belief(shape), seed)
    calibration, by_belief = calibration_of([part], [part.belief(shape)], [ground], shape, places, how, own)
    fusions = _fusions([part], [photos], [ground], shape, seed, how)
    progress(1, 1, FITTING)
    facts = bundle.facts | {"calibration": _told(calibration, fusions)}
    facts.pop("known_added", None)  # they were there by now
    recipe = bundle.recipe
    if answer:
        recipe = recipe.model_copy(update={"answer": "median" if by_belief else answer})
    return replace(bundle, recipe=recipe, facts=facts, confidence=Confidence(calibration, known, fusions))


def remember(bundle: Bundle, photos: Photos, *, store: FeatureStore | None = None) -> tuple[Bundle, int]:
    """A bundle that knows further photos, so that new ones are compared with these too, and how many were new to it.

    Nothing is trained, and the calibration stays as it is: ``facts["known_added"]`` and the calibration's own sentence
    say how many photos came after it.

    Raises:
        BadRecipeError: the bundle compares photos with none, or would know more than it may.
        BadTableError: the photos are of a benchmark.
        BadPhotoError: one cannot be read.
    """
    known = bundle.confidence.known if bundle.confidence else None
    if known is None or known.features is None or bundle.confidence is None:
        raise BadRecipeError(
            f"{bundle.recipe.name} compares photos with none that it knows: only a frozen encoder's bundle that is "
            f"calibrated does. Train with encoder.frozen=true, such as graticule train laptop"
        )
    photos.check_trainable()
    photos = photos.take(photos.may_train())
    features = Locator(bundle, store=store).features(photos.paths())
    try:
        more = known.with_more(photos.lat, photos.lon, features)
    except ValueError as error:
        raise BadRecipeError(f"{error}; add fewer, or train again with all of them") from error
    count = len(more.lat) - len(known.lat)
    added = int(bundle.facts.get("known_added", 0)) + count
    told = str(bundle.facts.get("calibration", "calibrated")).split(SINCE)[0]
    facts = bundle.facts | {"known_added": added, "calibration": f"{told}{SINCE} {added:,} known photos were added"}
    pictures = bundle.thumbnails and bundle.thumbnails.grown(
        count
    )  # new photos are not shown unless they are asked for
    confidence = replace(bundle.confidence, known=more)
    return replace(bundle, facts=facts, confidence=confidence, thumbnails=pictures), count


def calibration_of(
    parts: Sequence[HeldOut],
    beliefs: Sequence[Belief | Mixture],
    grounds: Sequence[Ground | Joined],
    shape: Shape,
    groups: NDArray[np.int64],
    how: str,
    own: Points | None = None,
    *,
    places: int | None = None,
) -> tuple[Calibration, bool]:
    """What the truths of some parts show of their beliefs, and whether the points of these are the nearer ones.

    Args:
        grounds: that the beliefs of each part are laid on.
        shape: of the beliefs, which the calibration keeps.
        groups: codes of what is right or wrong together, such as drives that were held out whole, part by part.
        own: other points of the only part, which count where they are no farther off.
        places: how many the photos are of; by default each group is one.
    """
    rows = [np.linspace(0, len(part) - 1, min(len(part), FOCUSED // len(parts))).astype(int) for part in parts]
    some = [part.take(row) for part, row in zip(parts, rows, strict=True)]
    of_some = [belief.take(row) for belief, row in zip(beliefs, rows, strict=True)]
    focus = min(FOCUSES, key=lambda power: _mean_log_error(some, [belief_points(belief, power) for belief in of_some]))
    points = [belief_points(belief, focus) for belief in beliefs]
    by_belief = own is None or _mean_log_error(parts, points) <= _mean_log_error(parts, [own])
    if own is not None and not by_belief:
        points = [own]
    needed, ratios, nearest, errors = [], [], [], []
    for part, belief, ground, at in zip(parts, beliefs, grounds, points, strict=True):
        masses = ground.masses(belief)  # type: ignore[arg-type]  # a mixture where it is joined
        needed.append(ground.needed_mass(masses, ground.row_of(part.lat, part.lon)))
        expected = ground.distance_quantiles(masses, at.lat, at.lon, (0.5, 0.9))
        error = great_circle_km(part.lat, part.lon, at.lat, at.lon)
        errors.append([error, at.expected_error_km])
        ratios.append(error[:, None] / np.maximum(expected, 1e-6))
        if part.nearest is not None:
            nearest.append(part.nearest)
    scores, ratio = np.concatenate(needed), np.concatenate(ratios)
    actual, expected_mean = np.concatenate(errors, axis=1)
    strange = np.quantile(np.concatenate(nearest), np.linspace(0, 1, QUANTILES)).tolist() if nearest else []
    found = Calibration(
        shape,
        focus,
        # Nothing that was seen reaches so far: all of the sphere.
        {str(level): min(conformal_level(scores, groups, level), 1.0) for level in COVERAGES},
        float(actual.mean() / expected_mean.mean()),
        float(np.median(ratio[:, 0])),
        float(np.quantile(ratio[:, 1], 0.9)),
        tuple(strange),
        len(scores),
        places or len(np.unique(groups)),
        how,
    )
    return found, by_belief


def _fusions(
    parts: Sequence[HeldOut], asked: Sequence[Photos], grounds: Sequence[Ground], shape: Shape, seed: int, how: str
) -> dict[Together, Fusion]:
    """How sure photos are that are answered together, each kind of which the held-out photos have enough albums."""
    fusions: dict[Together, Fusion] = {}
    fusers = [Fuser(part.cells, part.known) for part in parts]
    for together, powers in POWERS.items():
        if together == "sequence" and not all(photos.has("sequence") for photos in asked):
            continue
        albums, rows = zip(
            *(albums_of(photos, together).some(MOST_TOGETHER // len(parts), LONGEST, seed) for photos in asked),
            strict=True,
        )
        # Photos of an album are right or wrong together.
        sizes = [len(album) for some in albums for album in some.rows]
        if len(sizes) < FEWEST_ALBUMS[together] or not all(map(len, rows)):
            continue
        groups = np.repeat(np.arange(len(sizes)), sizes)
        some = [part.take(own) for part, own in zip(parts, rows, strict=True)]
        found = []
        for power in powers:
            fused = [
                fuser.held_out(part, part.belief(shape), album, power)
                for fuser, part, album in zip(fusers, some, albums, strict=True)
            ]
            of_power = fit_shape(fused, TEMPERATURES_TOGETHER, (1.0,))
            truth = [part.belief(of_power).log_density(part.lat, part.lon) for part in fused]
            by_album = np.bincount(groups, np.concatenate(truth)) / sizes
            found.append((by_album, power, of_power, fused))
        _, power, best, fused = _first_near_best(found)
        under = [ground.under(part.belief(best)) for ground, part in zip(grounds, fused, strict=True)]
        fusions[together] = Fusion(power, calibration_of(fused, _believed(fused, best), under, best, groups, how)[0])
    return fusions


def _first_near_best(
    tried: Sequence[tuple[Floats, float, Shape, list[HeldOut]]],
) -> tuple[Floats, float, Shape, list[HeldOut]]:
    """The first whose mean is less than one standard error below the best: albums are few, and the first ones plain.

    The rule of one standard error (Breiman, Friedman, Olshen and Stone, "Classification and Regression Trees", 1984,
    section 3.4.3), of differences album by album.
    """
    best = max(tried, key=lambda one: float(one[0].mean()))[0]
    behind = [(best - one[0], one) for one in tried]
    return next(one for d, one in behind if d.mean() <= d.std() / np.sqrt(len(d)))


def _believed(parts: Sequence[HeldOut], shape: Shape) -> list[Belief]:
    return [part.belief(shape) for part in parts]


def _mean_log_error(parts: Sequence[HeldOut], points: Sequence[Points]) -> float:
    """Mean logarithm of the errors: half as far counts as much in a street as on a continent."""
    logs = [
        np.log(great_circle_km(part.lat, part.lon, at.lat, at.lon) + LEAST_WIDTH_KM)
        for part, at in zip(parts, points, strict=True)
    ]
    return float(np.concatenate(logs).mean())


def _own_answers(bundle: Bundle, features: NDArray[np.float32]) -> dict[Answer, Points]:
    """The points of N photos that a public model itself can answer with; none of a model that was trained here."""
    head = bundle.recipe.head
    own: dict[HeadKind, tuple[Answer, ...]] = {"offsets": ("regressed",), "matching": ("mode",)}
    answers = own.get(head.kind, ()) + (("regressed",) if head.refine else ())
    found: dict[Answer, list[Points]] = {answer: [] for answer in answers}
    with torch.inference_mode():
        for some in torch.split(torch.from_numpy(features), AT_ONCE) if answers else ():
            output = bundle.model.head(some.to(next(bundle.model.parameters()).device))
            probability = torch.softmax(output.logits.double(), dim=1).cpu().numpy()
            position = None if output.position is None else output.position.cpu().numpy()
            for answer, parts in found.items():
                parts.append(decode.points(probability, bundle.partition, answer, position=position))
    return {answer: _joined(parts) for answer, parts in found.items()}


def _joined(parts: Sequence[Points]) -> Points:
    return Points(*(np.concatenate([getattr(at, name) for at in parts]) for name in Points.__slots__))


def _told(calibration: Calibration, fusions: Mapping[Together, Fusion]) -> str:
    """In words what a calibration rests on, and which photos may be answered together."""
    told = f"fitted to {calibration.photos:,} photos of {calibration.places:,} places, {calibration.how}"
    albums = " and ".join(f"{one.calibration.photos:,} of one {name}" for name, one in fusions.items())
    return told + (f"; together, to {albums}" if albums else "")


def _without(bundle: Bundle, reason: str) -> Bundle:
    bundle.facts["calibration"] = f"not calibrated: {reason}"
    return bundle


def _known(bundle: Bundle, photos: Photos, store: FeatureStore | None) -> Known:
    frozen = bundle.recipe.encoder.frozen
    if not bundle.recipe.remember:
        return Known.of(bundle.partition.lat, bundle.partition.lon, None, bundle.recipe.seed)
    features = Locator(bundle, store=store).features(photos.paths()) if frozen else None
    return Known.of(photos.lat, photos.lon, features, bundle.recipe.seed, bundle.model.encoder.views)


def held_out(
    bundle: Bundle,
    known: Known,
    photos: Photos,
    features: NDArray[np.float32],
    usual_km: tuple[float, float] | tuple[None, None] = (None, None),
) -> HeldOut:
    """What a bundle says of photos with these features that it did not train on.

    Args:
        usual_km: spread of cells and of known photos that widths are multiples of; by default the bundle's own.
    """
    device = next(bundle.model.parameters()).device
    logits = []
    with torch.inference_mode():
        for some in torch.split(torch.from_numpy(features), AT_ONCE):
            said = bundle.model.head(some.to(device)).logits
            logits.append(bundle.partition.coarse_logits(said.double().cpu().numpy()))
    where = cell_kernels(bundle.partition, usual_km[0]), known.kernels(usual_km[1])
    cosines, nearest = known.compare(features) or (None, None)
    return HeldOut(*where, np.concatenate(logits), cosines, nearest, photos.lat, photos.lon)
