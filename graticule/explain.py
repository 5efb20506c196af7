"""Why the model answers so: which parts of a photo its answer hangs on, and how far such a map can be trusted.

Every map is made by asking the bundle's own network about changed photos or for its gradients; encoders may be frozen.
What is hidden from the network becomes the mean colour that its input is scaled with, which the network sees as zero:
the baseline of occlusion, of integrated gradients and of deletion alike. A map is of the photo as the network sees it,
shape ``(H, W)``; since preprocessing resizes whole frames, stretching it over the photo puts it in its place.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from captum.attr import IntegratedGradients, Saliency
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms.v2.functional import gaussian_blur

from graticule import decode, figures, images
from graticule.data import Photo, Progress, read_bytes, silent
from graticule.errors import BadPhotoError, BadRecipeError
from graticule.files import write_json
from graticule.geo import format_km, great_circle_km
from graticule.locate import Locator
from graticule.partition import NO_CELL

Floats = NDArray[np.float64]
Heat = NDArray[np.float32]
Point = tuple[float, float]
Target = Literal["true", "predicted"]
IG_STEPS = 64  # gradients along the straight way from grey to photo
CURVE_STEPS = 20  # shares of the photo at which deletion and insertion ask
TILES = 14  # tiles along the shorter side, the unit of deletion and insertion
RANDOM_ORDERS = 3  # whose mean is the baseline of a score
SHOWN_PX = 640  # longer side of the photo in a picture


@dataclass(frozen=True, slots=True)
class Explanation:
    """What one method says of one photo and one cell.

    Attributes:
        heat: shape ``(H, W)``, of the photo as the network sees it; more means that more hangs on this pixel. Below
            zero, where ``signed``: this pixel speaks against the cell.
        target: row of the cell; ``probability`` is what the model gives it, in [0, 1], uncalibrated.
        unit: what a value of ``heat`` is.
        settings: what the method was told, for the record.
    """

    method: str
    heat: Heat
    signed: bool
    target: int
    probability: float
    unit: str
    seconds: float
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Curves:
    """Probability of the cell while the photo vanishes or appears, what a map calls important first.

    Petsiuk, Das, Saenko, "RISE", BMVC 2018, section 4.3. Theirs go pixel by pixel; these go tile by tile, so that a
    map is not praised for the noise that single grey pixels make, and all methods are judged at one resolution.

    Attributes:
        share: of the photo deleted or inserted, from 0 to 1, shape ``(S,)``.
        deletion, insertion: probability of the cell, shape ``(S,)``.
    """

    share: Floats
    deletion: Floats
    insertion: Floats

    @property
    def deletion_area(self) -> float:
        """Area under deletion, in [0, 1]: the lower, the sooner the answer was gone."""
        return float(np.trapezoid(self.deletion, self.share))

    @property
    def insertion_area(self) -> float:
        """Area under insertion, in [0, 1]: the higher, the sooner the answer was there."""
        return float(np.trapezoid(self.insertion, self.share))


def occlusion(
    locator: Locator,
    photo: Photo,
    *,
    target: int | None = None,
    patch: int | None = None,
    stride: int | None = None,
    progress: Progress = silent,
) -> Explanation:
    """How much the probability of a cell falls when a grey square hides a part of the photo.

    Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014, section 4.2. A pixel's value
    is the mean drop over the squares that cover it: the map of ``captum.attr.Occlusion``, with the squares in batches.

    Args:
        target: row of the cell; the likeliest if left out.
        patch, stride: side and step of the square, in pixels of the photo as the network sees it. By default a seventh
            of the shorter side and a quarter of that: report B's 32 and 8 for a network that sees 224 pixels.

    Raises:
        BadPhotoError: the photo cannot be read.
        BadRecipeError: a square that does not fit into the photo, or a step that leaves gaps between squares.
    """
    begun = time.perf_counter()
    pixels, target, probability = _ask(locator, photo, target)
    height, width = pixels.shape[2:]
    patch = patch or round(min(height, width) / 7)
    stride = stride or max(1, patch // 4)
    if not 1 <= stride <= patch <= min(height, width):
        raise BadRecipeError(
            f"a square of {patch} pixels moved by {stride} cannot search {width} x {height} pixels: "
            f"the step is at most the square, and the square at most the shorter side"
        )
    tops, lefts = (stride * np.arange(math.ceil((side - patch) / stride) + 1) for side in (height, width))
    corners = [(top, left) for top in tops for left in lefts]
    grey = locator.bundle.model.mean

    def hidden() -> Iterator[Tensor]:
        yield pixels[0]
        for top, left in corners:
            changed = pixels[0].clone()
            changed[:, top : top + patch, left : left + patch] = grey
            yield changed

    found = _probabilities(locator, hidden(), target, 1 + len(corners), progress)
    heat, covered = np.zeros((height, width)), np.zeros((height, width))
    for (top, left), drop in zip(corners, found[0] - found[1:], strict=True):
        window = np.s_[top : top + patch, left : left + patch]
        heat[window] += drop
        covered[window] += 1
    settings = {"patch": patch, "stride": stride, "squares": len(corners), "hidden": "the mean colour"}
    return Explanation(
        "occlusion",
        (heat / covered).astype(np.float32),
        True,
        target,
        probability,
        "drop in probability",
        time.perf_counter() - begun,
        settings,
    )


def saliency(locator: Locator, photo: Photo, *, target: int | None = None) -> Explanation:
    """How much the loss would change with each pixel: the largest absolute gradient over its colours.

    Simonyan, Vedaldi, Zisserman, "Deep Inside Convolutional Networks", 2014, section 3.1, with the cross-entropy of the
    cell in place of its score, as figures 6 and 7 of report A.

    Raises:
        BadPhotoError: the photo cannot be read.
    """
    begun = time.perf_counter()
    pixels, target, probability = _ask(locator, photo, target)
    method = Saliency(lambda batch: _log_probability(locator, batch))
    gradient = method.attribute(pixels.requires_grad_(), target=target, abs=True)
    heat = gradient[0].amax(dim=0).float().cpu().numpy()
    return Explanation(
        "saliency", heat, False, target, probability, "gradient of the loss, nats", time.perf_counter() - begun
    )


def integrated_gradients(
    locator: Locator, photo: Photo, *, target: int | None = None, steps: int = IG_STEPS
) -> Explanation:
    """The part of each pixel in the probability of a cell, against a grey photo; the parts add up to the difference.

    Sundararajan, Taly, Yan, "Axiomatic Attribution for Deep Networks", ICML 2017, equation 3, summed over colours.

    Raises:
        BadPhotoError: the photo cannot be read.
    """
    begun = time.perf_counter()
    pixels, target, probability = _ask(locator, photo, target)
    method = IntegratedGradients(lambda batch: _log_probability(locator, batch).exp())
    grey = locator.bundle.model.mean.expand_as(pixels)
    parts = method.attribute(
        pixels, baselines=grey, target=target, n_steps=steps, internal_batch_size=_batch_size(locator)
    )
    heat = parts[0].sum(dim=0).float().detach().cpu().numpy()
    settings = {"steps": steps, "from": "the mean colour"}
    seconds = time.perf_counter() - begun
    return Explanation(
        "integrated-gradients", heat, True, target, probability, "part in the probability", seconds, settings
    )


def gradcam(locator: Locator, photo: Photo, *, target: int | None = None) -> Explanation:
    """Where the encoder's last feature map speaks for a cell.

    Selvaraju et al., "Grad-CAM", ICCV 2017, equations 1 and 2. For a transformer the map is its patch tokens, laid out
    as they lie in the photo, at the last normalisation whose patches still reach the answer: after the last block only
    the class token may. Coarse: one value a cell of the map, smoothly enlarged.

    Raises:
        BadPhotoError: the photo cannot be read.
        BadRecipeError: the encoder has no layer whose output lies over the photo.
    """
    begun = time.perf_counter()
    pixels, target, probability = _ask(locator, photo, target)
    with _recorded(locator.bundle.model.encoder) as seen:
        score = _logits(locator, pixels.requires_grad_())[0, target]
        shape = tuple(pixels.shape[2:])
        found = [(name, out) for name, module, out in seen if _is_map(module, out, shape)]
        gradients = torch.autograd.grad(score, [out for _, out in found], allow_unused=True) if found else ()
    for (name, output), gradient in zip(reversed(found), reversed(gradients), strict=True):
        slope = None if gradient is None else _over_photo(gradient, shape)
        local = _over_photo(output.detach(), shape)
        if slope is None or local is None or not slope.any():
            continue
        cam = (slope.mean(dim=(2, 3), keepdim=True) * local).sum(dim=1, keepdim=True).relu()
        heat = functional.interpolate(cam, size=shape, mode="bilinear", align_corners=False)[0, 0]
        settings = {"layer": name, "map": list(cam.shape[2:])}
        seconds = time.perf_counter() - begun
        return Explanation(
            "gradcam", heat.float().cpu().numpy(), False, target, probability, "weight in the score", seconds, settings
        )
    raise BadRecipeError("this encoder has no layer whose output lies over the photo; use occlusion or saliency")


METHODS: Mapping[str, Callable[..., Explanation]] = {
    "occlusion": occlusion,
    "saliency": saliency,
    "integrated-gradients": integrated_gradients,
    "gradcam": gradcam,
}


def curves(locator: Locator, photo: Photo, heat: Heat, *, target: int | None = None) -> Curves:
    """Delete and insert what a map calls important first, and watch the probability of the cell.

    Deletion greys tiles; insertion uncovers them from a blurred photo, as RISE does.

    Args:
        heat: shape ``(H, W)`` of the photo as the network sees it.

    Raises:
        BadPhotoError: the photo cannot be read.
        ValueError: a map of another shape than the photo's.
    """
    pixels, target, _ = _ask(locator, photo, target)
    if heat.shape != tuple(pixels.shape[2:]):
        raise ValueError(f"the map should have the photo's shape {tuple(pixels.shape[2:])}, found {heat.shape}")
    tiles = functional.adaptive_avg_pool2d(torch.from_numpy(heat)[None].double(), _tile_grid(pixels))[0]
    return _curves(locator, pixels, target, np.argsort(-tiles.numpy(), axis=None, kind="stable"))


def random_curves(locator: Locator, photo: Photo, *, target: int | None = None, seed: int = 0) -> Curves:
    """The curves of no explanation at all: tiles in random order, the mean of a few; raises as :func:`curves`."""
    pixels, target, _ = _ask(locator, photo, target)
    rng, (rows, columns) = np.random.default_rng(seed), _tile_grid(pixels)
    some = [_curves(locator, pixels, target, rng.permutation(rows * columns)) for _ in range(RANDOM_ORDERS)]
    deletion, insertion = (np.mean([getattr(c, name) for c in some], axis=0) for name in ("deletion", "insertion"))
    return Curves(some[0].share, deletion, insertion)


def token_grid(locator: Locator, photo: Photo) -> tuple[int, int]:
    """Rows and columns of the patches that a transformer cuts this photo into.

    Raises:
        BadPhotoError: the photo cannot be read.
        BadRecipeError: the encoder has no patches.
    """
    pixels, _, _ = _ask(locator, photo, None)
    shape = tuple(pixels.shape[2:])
    with _recorded(locator.bundle.model.encoder) as seen, torch.no_grad():
        _logits(locator, pixels)
    tokens = [_over_photo(out, shape) for _, module, out in seen if out.ndim == 3 and _is_map(module, out, shape)]
    if not tokens or tokens[0] is None:
        raise BadRecipeError(
            f"the encoder {locator.bundle.recipe.encoder.name} does not cut a photo into patches, transformers do; "
            f"of this one ask for {', '.join(METHODS)} or map"
        )
    rows, columns = tokens[0].shape[2:]
    return rows, columns


def explain_photo(
    locator: Locator,
    photo: Path,
    out: Path,
    methods: Sequence[str],
    *,
    name: str | None = None,
    truth: Point | None = None,
    target: Target = "predicted",
    patch: int | None = None,
    stride: int | None = None,
    score: bool = True,
    progress: Progress = silent,
) -> list[Path]:
    """Write a picture and its facts for each method: ``NAME-METHOD.png`` and ``NAME-METHOD.json``.

    Args:
        methods: of :data:`METHODS`, and ``map`` (the probability of every cell) and ``patches`` (as a transformer
            sees the photo).
        name: beginning of the files' names; the photo's own if left out.
        truth: where the photo was taken, ``(lat, lon)``; its EXIF is asked if left out.
        target: the cell asked about: the likeliest, or the one that holds the truth.
        score: judge the methods' maps by :func:`curves` against random ones, in ``NAME-scores.png`` too.

    Returns:
        The files written.

    Raises:
        BadPhotoError: the photo cannot be read, or its true cell is asked about and unknown.
        BadRecipeError: as the methods.
        WriteError: the folder cannot be written.
    """
    name = name or photo.stem
    data = read_bytes(photo)
    truth = truth or _exif_position(data)
    case = _case(locator, data, photo.name, truth, target)
    row = case["row"]
    synthetic = bool(locator.bundle.facts.get("synthetic", False))
    written: list[Path] = []

    def write(method: str, figure: Any, facts: dict[str, Any]) -> None:
        written.append(figures.save(figure, out / f"{name}-{method}.png"))
        known = {key: value for key, value in case.items() if key not in ("row", "all")}
        write_json(out / f"{name}-{method}.json", {"method": method} | known | facts)
        written.append(out / f"{name}-{method}.json")

    shown = _shown(data)
    if "map" in methods:
        guess = (case["guess"]["lat"], case["guess"]["lon"])
        chart = figures.probability_map(
            locator.bundle.partition, case["all"], truth=truth, guess=guess, title=_map_title(case), synthetic=synthetic
        )
        write("map", chart, {})
    if "patches" in methods:
        rows, columns = token_grid(locator, data)
        title = f"The {rows} x {columns} patches that the transformer sees"
        write("patches", figures.patches(shown, rows, columns, title=title), {"rows": rows, "columns": columns})
    judged: dict[str, Curves] = {}
    asked = [method for method in METHODS if method in methods]
    if score and asked:
        judged["random"] = random_curves(locator, data, target=row)
    for method in asked:
        options = {"patch": patch, "stride": stride, "progress": progress} if method == "occlusion" else {}
        found = METHODS[method](locator, data, target=row, **options)
        facts = _facts(found)
        if score:
            judged[method] = curves(locator, data, found.heat, target=row)
            facts["scores"] = {key: _areas(judged[key]) for key in (method, "random")}
        title = f"{photo.name}: what the {target} cell {case['cell']} hangs on (probability {found.probability:.1%})"
        chart = figures.explanation(
            shown, found.heat, signed=found.signed, label=found.unit, method=method, title=title, synthetic=synthetic
        )
        write(method, chart, facts)
    if judged:
        chart = figures.faithfulness({key: (c.share, c.deletion, c.insertion) for key, c in judged.items()})
        written.append(figures.save(chart, out / f"{name}-scores.png"))
    return written


def names_of(photos: Sequence[Path]) -> list[str]:
    """A name for each photo's files: its own without suffix, with a number where several share it."""
    seen: Counter[str] = Counter()
    names = []
    for photo in photos:
        seen[photo.stem] += 1
        names.append(photo.stem if seen[photo.stem] == 1 else f"{photo.stem}-{seen[photo.stem]}")
    return names


def _ask(locator: Locator, photo: Photo, target: int | None) -> tuple[Tensor, int, float]:
    """The photo as floats in [0, 1] of shape ``(1, 3, H, W)``, the cell asked about and its probability."""
    pixels = locator.bundle.preprocess(read_bytes(photo))[None].to(locator.device) / 255
    with torch.inference_mode():
        probability = _log_probability(locator, pixels)[0].exp()
    row = int(probability.argmax()) if target is None else target
    return pixels, row, float(probability[row])


def _logits(locator: Locator, pixels: Tensor) -> Tensor:
    """Logits over cells, shape ``(B, C)``, of photos in [0, 1]."""
    logits: Tensor = locator.bundle.model(pixels)
    return logits


def _log_probability(locator: Locator, pixels: Tensor) -> Tensor:
    """What :meth:`Locator.log_probabilities` gives, but as a function of the pixels that has a gradient."""
    return torch.log_softmax(_logits(locator, pixels).double() / locator.bundle.recipe.temperature, dim=1)


def _batch_size(locator: Locator) -> int:
    return 128 if locator.device.startswith("cuda") else 4  # as for features: more only costs a CPU page faults


@torch.inference_mode()
def _probabilities(
    locator: Locator, photos: Iterable[Tensor], target: int, total: int, progress: Progress = silent
) -> Floats:
    """Probability of one cell for each of many changed photos ``(3, H, W)``, in batches."""
    # bfloat16 only where the processor multiplies it: elsewhere it is emulated, twenty times slower.
    native = locator.device == "cpu" and torch.cpu._is_avx512_bf16_supported()
    found: list[Tensor] = []
    batch: list[Tensor] = []
    for count, photo in enumerate(photos, 1):
        batch.append(photo)
        if len(batch) == _batch_size(locator) or count == total:
            with torch.autocast("cpu", torch.bfloat16, enabled=native):
                answers = _log_probability(locator, torch.stack(batch))
            found.append(answers[:, target].exp().cpu())
            batch.clear()
            progress(count, total, "squares")
    return torch.cat(found).numpy()


def _tile_grid(pixels: Tensor) -> tuple[int, int]:
    height, width = pixels.shape[2:]
    side = max(1.0, min(height, width) / TILES)
    return round(height / side), round(width / side)


def _curves(locator: Locator, pixels: Tensor, target: int, order: NDArray[np.int64]) -> Curves:
    """The curves of tiles taken in this order."""
    grid = _tile_grid(pixels)
    rank = np.empty(len(order))
    rank[order] = (np.arange(len(order)) + 0.5) / len(order)
    when = functional.interpolate(torch.from_numpy(rank).view(1, 1, *grid), size=pixels.shape[2:], mode="nearest")
    taken_at = when[0].to(pixels.device)
    photo, grey = pixels[0], locator.bundle.model.mean
    # RISE blurs 224 pixels by a kernel of 11 and a sigma of 5.
    scale = min(photo.shape[1:]) / 224
    blurred = gaussian_blur(photo, [2 * max(1, round(5 * scale)) + 1] * 2, [max(0.5, 5 * scale)] * 2)
    share = np.linspace(0, 1, CURVE_STEPS + 1)
    changed = [torch.where(taken_at < s, grey, photo) for s in share]
    changed += [torch.where(taken_at < s, photo, blurred) for s in share]
    found = _probabilities(locator, changed, target, len(changed))
    return Curves(share, found[: len(share)], found[len(share) :])


@contextmanager
def _recorded(encoder: nn.Module) -> Iterator[list[tuple[str, nn.Module, Tensor]]]:
    """The tensors that the encoder's modules give while the block runs, in their order."""
    seen: list[tuple[str, nn.Module, Tensor]] = []

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, _: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                seen.append((name, module, output))

        return hook

    hooks = [module.register_forward_hook(keep(name)) for name, module in encoder.named_modules()]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _is_map(module: nn.Module, output: Tensor, shape: tuple[int, ...]) -> bool:
    """Whether this output lies over the photo: a feature map, or the tokens after a transformer's normalisation.

    Inside attention and its perceptron, tokens are on their way; between blocks a normalisation holds them all.
    """
    if isinstance(module, nn.Identity | nn.Dropout) or (output.ndim == 3 and "Norm" not in type(module).__name__):
        return False
    return _over_photo(output, shape) is not None


def _over_photo(output: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """A layer's output as ``(B, C, h, w)`` over a photo of this height and width, or None if it is no such thing.

    Feature maps come with their channels first (convolutions) or last (Swin), tokens in reading order after a few
    that stand for no patch (the class token, registers).
    """
    height, width = shape

    def fits(h: int, w: int) -> bool:
        return h > 1 and w > 1 and abs(h * width - w * height) <= max(height, width)

    if output.ndim == 4:
        if fits(*output.shape[2:]):
            return output
        return output.permute(0, 3, 1, 2) if fits(*output.shape[1:3]) else None
    if output.ndim != 3:
        return None
    for prefix in range(9):
        count = output.shape[1] - prefix
        rows = round(math.sqrt(max(count, 0) * height / width))
        if rows and count % rows == 0 and fits(rows, count // rows):
            return output[:, prefix:].transpose(1, 2).reshape(*output.shape[::2], rows, count // rows)
    return None


def _exif_position(data: bytes) -> Point | None:
    """Where the camera says that it was, unless that cannot be."""
    facts = images.inspect(data)
    if facts.lat is None or facts.lon is None or (facts.lat, facts.lon) == (0, 0):
        return None
    return (facts.lat, facts.lon) if abs(facts.lat) <= 90 and abs(facts.lon) <= 180 else None


def _case(locator: Locator, data: bytes, name: str, truth: Point | None, target: Target) -> dict[str, Any]:
    """What all explanations of a photo have in common: the answer, the truth where known, the cell asked about."""
    partition = locator.bundle.partition
    pixels, best, _ = _ask(locator, data, None)
    with torch.inference_mode():
        probability = _log_probability(locator, pixels)[0].exp().cpu().numpy()
    true_row = int(partition.assign([truth[0]], [truth[1]])[0]) if truth else NO_CELL
    if target == "true" and truth is None:
        raise BadPhotoError("no position", f"the true cell of {name} is not known; give --truth LAT,LON")
    if target == "true" and true_row == NO_CELL:
        raise BadPhotoError("no position", f"{name} was taken in no cell of this bundle; ask for --target predicted")
    row = true_row if target == "true" else best
    fix = decode.fixes(probability[None], partition, locator.bundle.recipe.answer, top=5)[0]
    error_km = float(great_circle_km(fix.lat, fix.lon, *truth)) if truth else None
    return {
        "photo": name,
        "target": target,
        "cell": partition.tokens[row],
        "cell_lat": float(partition.lat[row]),
        "cell_lon": float(partition.lon[row]),
        "probability": float(probability[row]),
        "truth": {"lat": truth[0], "lon": truth[1]} if truth else None,
        "true_cell": partition.tokens[true_row] if true_row != NO_CELL else None,
        "true_cell_probability": float(probability[true_row]) if true_row != NO_CELL else None,
        "guess": {"lat": fix.lat, "lon": fix.lon, "expected_error_km": fix.expected_error_km, "error_km": error_km},
        "likeliest_cells": [{"cell": cell.token, "probability": cell.probability} for cell in fix.cells],
        "row": row,
        "all": probability,
    }


def _map_title(case: Mapping[str, Any]) -> str:
    guess, likeliest = case["guess"], case["likeliest_cells"][0]["probability"]
    if guess["error_km"] is not None:
        so = f"{format_km(guess['error_km'])} off"
    else:
        so = f"expected to be {format_km(guess['expected_error_km'])} off"
    return f"{case['photo']}: best guess {so}; likeliest cell {likeliest:.0%}"


def _facts(found: Explanation) -> dict[str, Any]:
    """A map's numbers, with its strongest point in shares of the photo's width and height."""
    height, width = found.heat.shape
    y, x = divmod(int(found.heat.argmax()), width)
    return {
        "unit": found.unit,
        "most": float(found.heat.max()),
        "least": float(found.heat.min()),
        "most_at": {"x": round((x + 0.5) / width, 4), "y": round((y + 0.5) / height, 4)},
        "network_sees": {"height": height, "width": width},
        "settings": found.settings,
        "seconds": round(found.seconds, 2),
    }


def _areas(found: Curves) -> dict[str, float]:
    return {"deletion_area": found.deletion_area, "insertion_area": found.insertion_area}


def _shown(data: bytes) -> images.Pixels:
    """The photo at the size of a picture, in its own aspect."""
    photo = Image.fromarray(images.decode(data, shortest_side=SHOWN_PX // 2))
    photo.thumbnail((SHOWN_PX, SHOWN_PX))
    return np.asarray(photo)
