"""The network as a whole: photos to features to cells and positions."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from graticule.choices import Precision
from graticule.config import Recipe
from graticule.errors import BadRecipeError, BundleError
from graticule.files import sha256_of
from graticule.geo.s2 import Cells
from graticule.model.encoders import Encoder, build_encoder
from graticule.model.heads import Head, Output
from graticule.model.hybrid import build_hybrid
from graticule.model.imported import AnyHead, imported_head
from graticule.model.index import INDEX, WEIGHTS, read_index
from graticule.model.preprocess import Preprocess
from graticule.partition.tree import Tree


class Geolocator(nn.Module):
    """An encoder and a head. Images come in as uint8 or as floats in [0, 1]; scaling is part of the network.

    Attributes:
        precision: arithmetic of the encoder. ``bfloat16`` is autocast; the head always stays in float32.
        runtime: the name of what computes features in place of the encoder, and its function; none for the encoder.
    """

    mean: Tensor
    std: Tensor
    precision: Precision = "float32"
    runtime: tuple[str, Callable[[Tensor], Tensor]] | None = None

    def __init__(
        self,
        encoder: Encoder,
        head: AnyHead,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))

    def features(self, images: Tensor) -> Tensor:
        """Features of a batch ``(B, 3, H, W)``, shape ``(B, F)``."""
        if self.runtime and images.dtype == torch.uint8:
            return self.runtime[1](images)
        if images.dtype == torch.uint8:
            images = images / 255
        # Convolutions are about a third faster with the colours of a pixel side by side; transformers do not mind.
        scaled = ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        if (
            self.precision == "float32"
        ):  # which is also how an autocast around this call, as in training, stays in force
            features: Tensor = self.encoder(scaled)
            return features
        with torch.autocast(scaled.device.type, torch.bfloat16):
            features = self.encoder(scaled)
        return features.float()

    def forward(self, images: Tensor) -> Output:
        """What the head says of a batch ``(B, 3, H, W)``."""
        output: Output = self.head(self.features(images))
        return output


def build_geolocator(recipe: Recipe, num_cells: int, *, around: Cells | None = None, fetch: bool = True) -> Geolocator:
    """Make the network that a recipe describes, with its encoder's weights where the recipe names some.

    Random weights come from the recipe's seed; torch's own generators stay as they were.

    Args:
        around: the S2 cell around each cell, where the head is a hierarchy.
        fetch: False leaves the weights as memory happens to be, for a bundle whose own are loaded next.

    Raises:
        BadRecipeError: as :func:`graticule.model.encoders.build_encoder`.
    """
    with torch.random.fork_rng(devices=[]), nullcontext() if fetch else _NothingDrawn():
        torch.default_generator.manual_seed(recipe.seed)  # torch.manual_seed would reseed the caller's GPUs too
        return _build(recipe, num_cells, around, fetch)


class _NothingDrawn(TorchFunctionMode):
    """Networks are made without their first weights, which are overwritten next: 300 million take seconds to draw."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name, first = getattr(func, "__name__", ""), next(iter((*args, *(kwargs or {}).values())), None)
        fills = name.endswith("_") and not name.endswith("__") and name != "requires_grad_"
        if fills and isinstance(first, nn.Parameter):
            return first
        return func(*args, **(kwargs or {}))


def preprocess_of(model: Geolocator, recipe: Recipe) -> Preprocess:
    """What the recipe says of photos, and for the rest what the encoder's weights were trained with."""
    return Preprocess(
        recipe.image.resize,
        *recipe.image.shape(model.encoder.input_size),
        longest=recipe.image.longest or max(model.encoder.input_size),
        mean=tuple(model.mean.flatten().tolist()),
        std=tuple(model.std.flatten().tolist()),
        interpolation=recipe.image.interpolation or model.encoder.interpolation,
    )


def _build(recipe: Recipe, num_cells: int, around: Cells | None, fetch: bool) -> Geolocator:
    wanted = recipe.encoder
    donor = Path(wanted.weights) if fetch and (Path(wanted.weights) / INDEX).is_file() else None
    fetch = fetch and donor is None
    if fetch and wanted.pooling == "salad":
        raise BadRecipeError(
            "pooling: salad comes with its weights: encoder: {bundle: FOLDER} of graticule get megaloc"
        )
    weights = wanted.weights if fetch else "none"
    if wanted.then:
        own = wanted.then.weights or wanted.weights
        encoder = build_hybrid(
            wanted.name,
            wanted.then.vit,
            weights,
            own if fetch else "none",
            grid=wanted.then.grid,
            position=wanted.then.position,
            options=wanted.options,
        )
    else:
        encoder = build_encoder(
            wanted.name,
            weights,
            pooling=wanted.pooling,
            inner=wanted.inner,
            options=wanted.options,
            second_order=wanted.second_order,
            second_order_root=wanted.second_order_root,
            second_order_halves=wanted.second_order_halves,
        )
    if donor:
        _take_encoder(encoder, donor)
    head: AnyHead | None = imported_head(recipe.head, encoder.num_features, num_cells)
    if head is None:
        head = _trained_head(recipe, encoder.num_pooled, num_cells, around)
    model = Geolocator(encoder, head, recipe.image.mean or encoder.mean, recipe.image.std or encoder.std)
    if wanted.frozen:
        model.encoder.requires_grad_(False)
    return model


def _take_encoder(encoder: Encoder, bundle: Path) -> None:
    """Load the weights of a bundle's encoder, after checking every byte of them.

    Raises:
        BundleError: the bundle is not whole.
        BadRecipeError: its encoder is another one.
    """
    if sha256_of(bundle / WEIGHTS) != read_index(bundle)["sha256"][WEIGHTS]:
        raise BundleError(f"{bundle / WEIGHTS} is not the file that was written with its bundle; copy the bundle again")
    own = "encoder."
    state = {key.removeprefix(own): value for key, value in load_file(bundle / WEIGHTS).items() if key.startswith(own)}
    try:
        encoder.load_state_dict(state)
    except RuntimeError as error:
        raise BadRecipeError(f"the encoder of the bundle {bundle} is not the one of this recipe: {error}") from error


def _trained_head(recipe: Recipe, num_features: int, num_cells: int, around: Cells | None) -> Head:
    kind, hidden, coordinates = recipe.head.kind, recipe.head.hidden, recipe.head.coordinates
    if hidden is None:  # report A regressed with two fully connected layers (section 3.3), and classified with one
        hidden = num_features if kind == "position" else 0
    if coordinates == "auto":
        if kind != "cells":
            raise BadRecipeError("head.coordinates: auto is decided by the training photos; say plane or sphere here")
        coordinates = "sphere"  # a head without a position has none
    tree = None
    if recipe.head.hierarchy:
        if around is None:
            raise BadRecipeError("head.hierarchy runs down S2 cells, and these cells lie in none; take cells.kind: s2")
        tree = Tree.of(around)
    return Head(num_features, num_cells, hidden, recipe.head.dropout, kind, coordinates, tree)
