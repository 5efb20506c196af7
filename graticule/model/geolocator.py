"""The network as a whole: photos to features to logits over cells."""

import torch
from torch import Tensor, nn

from graticule.config import Recipe
from graticule.model.encoders import Encoder, build_encoder
from graticule.model.heads import Head


class Geolocator(nn.Module):
    """An encoder and a head. Images come in as uint8 or as floats in [0, 1]; scaling is part of the network."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        encoder: Encoder,
        head: Head,
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
        if images.dtype == torch.uint8:
            images = images / 255
        # Convolutions are about a third faster with the colours of a pixel side by side; transformers do not mind.
        scaled = ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        features: Tensor = self.encoder(scaled)
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Logits over cells, shape ``(B, C)``."""
        logits: Tensor = self.head(self.features(images))
        return logits


def build_geolocator(recipe: Recipe, num_cells: int, *, fetch: bool = True) -> Geolocator:
    """Make the network that a recipe describes, with its encoder's weights where the recipe names some.

    Args:
        fetch: False leaves the weights random, for a bundle whose own are loaded next.

    Raises:
        BadRecipeError: as :func:`graticule.model.encoders.build_encoder`.
    """
    torch.manual_seed(recipe.seed)
    wanted = recipe.encoder
    encoder = build_encoder(
        wanted.name,
        wanted.weights if fetch else "none",
        pooling=wanted.pooling,
        inner=wanted.inner,
        options=wanted.options,
    )
    head = Head(encoder.num_features, num_cells, recipe.head.hidden, recipe.head.dropout)
    model = Geolocator(encoder, head, recipe.image.mean or encoder.mean, recipe.image.std or encoder.std)
    model.encoder.requires_grad_(not wanted.frozen)
    return model
