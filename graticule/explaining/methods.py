"""Why the model answers so: which parts of a photo its answer depends on, and how far such a map can be trusted.

Every map is made by asking the bundle's own network about changed photos or for its gradients; encoders may be frozen.
What is hidden from the network becomes the mean colour that its input is scaled with, in whole levels, which the
network sees as zero but for rounding: the baseline of occlusion, of integrated gradients and of deletion alike. A map
is of the photo as the network sees it, shape ``(H, W)``; since preprocessing resizes whole frames, stretching it over
the photo puts it in its place.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from captum.attr import IntegratedGradients, Saliency
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms.v2.functional import gaussian_blur

from graticule.errors import BadRecipeError
from graticule.inference.locate import Locator
from graticule.model.features import CPU_BATCH
from graticule.model.loading import Photo, Progress, read_bytes, silent
from graticule.photos.images import inspect

Floats = NDArray[np.float64]
Heat = NDArray[np.float32]
Ints = NDArray[np.int64]
IG_STEPS = 64  # gradients along the straight way from grey to photo
CURVE_STEPS = 20  # shares of the photo at which deletion and insertion ask
TILES = 14  # tiles along the shorter side, the unit of deletion and insertion
RANDOM_ORDERS = 3  # whose mean is the baseline of a score


@dataclass(frozen=True, slots=True)
class Explanation:
    """What one method says of one photo and one cell.

    Attributes:
        heat: shape ``(H, W)``, of the photo as the network sees it; more means that more depends on this pixel. Below
            zero, where ``signed``: this pixel speaks against the cell.
        target: row of the cell; ``probability`` is what the model gives it, in [0, 1], uncalibrated.
        unit: what a value of ``heat`` is.
        settings: what the method was told, for the record.
        stopped: Ctrl-C ended it early, and ``heat`` is of the squares asked about until then.
    """

    method: str
    heat: Heat
    signed: bool
    target: int
    probability: float
    unit: str
    seconds: float
    settings: dict[str, Any] = field(default_factory=dict)
    stopped: bool = False


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
    sketch: Callable[[Heat], None] | None = None,
) -> Explanation:
    """How much the probability of a cell falls when a grey square hides a part of the photo.

    Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014, section 4.2. A pixel's value
    is the mean drop over the squares that cover it: the map of ``captum.attr.Occlusion``, with the squares in batches.

    Args:
        target: row of the cell; the likeliest if left out.
        patch, stride: side and step of the square, in pixels of the photo as the network sees it. By default a seventh
            of the shorter side and half of that. Report B has 32 and 8 for a network that sees 224 pixels: half the
            step is four times the squares.
        sketch: is told the map of every second square of every second row, which are asked about first.

    Returns:
        The map; a partial one, which says so, where Ctrl-C comes after the first squares.

    Raises:
        BadPhotoError: the photo cannot be read.
        BadRecipeError: a square that does not fit into the photo, or a step that leaves gaps between squares.
    """
    begun = time.perf_counter()
    pixels, target, probability = _ask(locator, photo, target)
    height, width = pixels.shape[2:]
    patch, stride, tops, lefts = _squares(height, width, patch, stride)
    corners = [(top, left) for top in tops for left in lefts]
    corners.sort(key=lambda corner: (corner[0] // stride % 2, corner[1] // stride % 2) != (0, 0))
    coarse = -(-len(tops) // 2) * -(-len(lefts) // 2)
    grey, total = grey_of(locator), 1 + len(corners)

    def hidden(some: Iterable[tuple[int, int]]) -> Iterator[Tensor]:
        for top, left in some:
            changed = pixels[0].clone()
            changed[:, top : top + patch, left : left + patch] = grey
            yield changed

    def mean_drop(found: Floats) -> Heat:
        heat, covered = np.zeros((height, width)), np.zeros((height, width))
        for (top, left), drop in zip(corners, found[0] - found[1:], strict=False):
            window = np.s_[top : top + patch, left : left + patch]
            heat[window] += drop
            covered[window] += 1
        return (heat / np.maximum(covered, 1)).astype(np.float32)

    def told_after(before: int) -> Progress:
        return lambda done, _, what: progress(before + done, total, what)

    found, stopped = np.empty(0), False
    first = itertools.chain([pixels[0]], hidden(corners[:coarse]))
    try:
        for some, count in ((first, 1 + coarse), (hidden(corners[coarse:]), len(corners) - coarse)):
            for answers in _answers(locator, some, target, count, told_after(len(found))):
                found = np.append(found, answers)
            if sketch and len(found) == 1 + coarse:
                sketch(mean_drop(found))
    except KeyboardInterrupt:
        if len(found) < 2:
            raise
        stopped = True
    settings = {"patch": patch, "stride": stride, "squares": len(found) - 1, "hidden": "the mean colour"}
    return Explanation(
        "occlusion",
        mean_drop(found),
        True,
        target,
        probability,
        "drop in probability",
        time.perf_counter() - begun,
        settings | ({"squares_in_all": len(corners)} if stopped else {}),
        stopped,
    )


def _squares(height: int, width: int, patch: int | None, stride: int | None) -> tuple[int, int, Ints, Ints]:
    """Side and step of occlusion's square, and its upper and left edges on ``height`` by ``width`` pixels."""
    patch = patch or round(min(height, width) / 7)
    stride = stride or max(1, patch // 2)
    if not 1 <= stride <= patch <= min(height, width):
        raise BadRecipeError(
            f"a square of {patch} pixels moved by {stride} cannot search {width} x {height} pixels: "
            f"the step is at most the square, and the square at most the shorter side"
        )
    tops, lefts = (stride * np.arange(math.ceil((side - patch) / stride) + 1) for side in (height, width))
    return patch, stride, tops, lefts


def cost(
    locator: Locator,
    photo: Photo,
    methods: Sequence[str],
    *,
    patch: int | None = None,
    stride: int | None = None,
    score: bool = True,
) -> tuple[int, int | None]:
    """How often the network will be asked to explain one photo, and the step of occlusion's square where it is asked.

    Raises:
        BadPhotoError, BadRecipeError: as :func:`occlusion`.
    """
    facts = inspect(read_bytes(photo))
    height, width = locator.bundle.preprocess.shape_for(facts.height, facts.width)
    asked = [method for method in METHODS if method in methods]
    step: int | None = None
    passes = 1 + len(asked)
    if "occlusion" in asked:
        _, step, tops, lefts = _squares(height, width, patch, stride)
        passes += len(tops) * len(lefts)
    passes += IG_STEPS if "integrated-gradients" in asked else 0
    if score and asked:
        passes += 2 * (CURVE_STEPS + 1) * (len(asked) + RANDOM_ORDERS)
    return passes, step


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
    grey = grey_of(locator).expand_as(pixels)
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


def grey_of(locator: Locator) -> Tensor:
    """What hides a part of a photo, shape ``(3, 1, 1)`` in [0, 1]: in whole levels, as photos are."""
    return (locator.bundle.model.mean * 255).round() / 255


def _ask(locator: Locator, photo: Photo, target: int | None) -> tuple[Tensor, int, float]:
    """The photo as floats in [0, 1] of shape ``(1, 3, H, W)``, the cell to explain and its probability."""
    pixels = locator.bundle.preprocess(read_bytes(photo))[None].to(locator.device) / 255
    with torch.inference_mode():
        probability = _log_probability(locator, pixels)[0].exp()
    row = int(probability.argmax()) if target is None else target
    return pixels, row, float(probability[row])


def _logits(locator: Locator, pixels: Tensor) -> Tensor:
    """Logits over cells, shape ``(B, C)``, of photos in [0, 1] or as uint8."""
    logits: Tensor | None = locator.bundle.model(pixels).logits
    if logits is None:
        raise BadRecipeError("this bundle regresses positions and has no cells; explanations are about a cell")
    return logits


def _log_probability(locator: Locator, pixels: Tensor) -> Tensor:
    """The log-probabilities of :meth:`Locator.predict_batches`, but as a function of the pixels that has a gradient."""
    return torch.log_softmax(_logits(locator, pixels).double() / locator.bundle.recipe.temperature, dim=1)


def _batch_size(locator: Locator) -> int:
    return locator.at_once or (128 if locator.device.startswith("cuda") else CPU_BATCH)


def _probabilities(locator: Locator, photos: Iterable[Tensor], target: int, total: int) -> Floats:
    """Probability of one cell for each of many changed photos ``(3, H, W)``."""
    return np.concatenate([np.empty(0), *_answers(locator, photos, target, total)])


@torch.inference_mode()
def _answers(
    locator: Locator, photos: Iterable[Tensor], target: int, total: int, progress: Progress = silent
) -> Iterator[Floats]:
    """The same batch by batch."""
    batch: list[Tensor] = []
    for count, photo in enumerate(photos, 1):
        batch.append(photo)
        if len(batch) == _batch_size(locator) or count == total:
            some = torch.stack(batch)
            if locator.bundle.model.runtime:  # which takes photos in whole levels
                some = (some * 255).round().to(torch.uint8)
            answers = _log_probability(locator, some)
            yield answers[:, target].exp().cpu().numpy()
            batch.clear()
            progress(count, total, "squares")


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
    photo, grey = pixels[0], grey_of(locator)
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
