"""A CNN whose feature map becomes the tokens of a transformer, as report B built GeoViT."""

from collections.abc import Mapping
from typing import Any

import timm
import torch
from timm.layers import resample_abs_pos_embed
from timm.models import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from graticule.choices import TokenPosition
from graticule.errors import BadRecipeError
from graticule.model.encoders import Encoder, build_encoder


class Hybrid(nn.Module):
    """Feature map, pooled to ``grid`` x ``grid``, projected to the transformer's width, its blocks, mean of tokens.

    Args:
        cnn: a timm network whose last feature map has ``cnn.num_features`` channels.
        vit: a timm ``VisionTransformer``; what it does before its blocks is taken off.
        position: ``none`` as in report B's public code: the tokens bring no position and the final norm is left out;
            ``learned``: the transformer's own position embedding, resized to the grid, and its final norm.
    """

    def __init__(self, cnn: nn.Module, vit: VisionTransformer, grid: int, position: TokenPosition) -> None:
        super().__init__()
        self.grid = grid
        self.cnn = cnn
        self.proj = nn.Linear(int(cnn.num_features), vit.embed_dim)  # type: ignore[arg-type]
        self.pos_embed: nn.Parameter | None = None
        if position == "learned":
            own = resample_abs_pos_embed(
                vit.pos_embed.detach(), new_size=[grid, grid], num_prefix_tokens=vit.num_prefix_tokens
            )
            self.pos_embed = nn.Parameter(own[:, vit.num_prefix_tokens :].clone())
        kept = {"norm_pre": vit.norm_pre, "blocks": vit.blocks, "norm": vit.norm}
        if position == "none":
            kept = {"blocks": vit.blocks}
        self.vit = nn.Sequential()
        for name, module in kept.items():
            self.vit.add_module(name, module)

    def no_weight_decay(self) -> set[str]:
        """The parameters that do not decay, as timm's networks name theirs."""
        return {"pos_embed"}

    def forward(self, images: Tensor) -> Tensor:
        """Features ``(B, width of the transformer)`` of images ``(B, 3, H, W)``."""
        local = self.cnn.forward_features(images)  # type: ignore[operator]
        tokens = self.proj(functional.adaptive_avg_pool2d(local, self.grid).flatten(2).transpose(1, 2))
        if self.pos_embed is not None:
            tokens = tokens + self.pos_embed
        features: Tensor = self.vit(tokens).mean(dim=1)
        return features


def build_hybrid(
    cnn_name: str,
    vit_name: str,
    cnn_weights: str,
    vit_weights: str,
    *,
    grid: int,
    position: TokenPosition,
    options: Mapping[str, Any] | None = None,
) -> Encoder:
    """Join a timm CNN and a timm transformer; images are scaled as the CNN's weights want them.

    Args:
        cnn_weights, vit_weights: ``pretrained``, ``none``, or the path of a state dict.

    Raises:
        BadRecipeError: as :func:`graticule.model.encoders.build_encoder`, or a part is not what it should be.
    """
    cnn = build_encoder(cnn_name, cnn_weights, options=options)
    with torch.no_grad():
        forward = getattr(cnn.body.eval(), "forward_features", None)  # asked in training it would renew its means
        local = forward(torch.zeros(2, 3, 64, 64)) if forward and not isinstance(cnn.body, VisionTransformer) else None
    if local is None or local.ndim != 4 or local.shape[1] != cnn.num_features:
        raise BadRecipeError(
            f"{cnn_name} gives no feature map of a timm CNN that encoder.then could take; choose one such as resnet50"
        )
    vit = build_encoder(vit_name, vit_weights).body
    if not isinstance(vit, VisionTransformer) or vit.pos_embed is None:
        plain = ", ".join(timm.list_models("vit_small_patch16*")[:2])
        raise BadRecipeError(f"{vit_name} is no plain vision transformer of timm; choose one such as {plain}")
    joined = Encoder(Hybrid(cnn.body.train(), vit, grid, position), "own", (), cnn.mean, cnn.std, (3, 64, 64))
    joined.input_size, joined.interpolation = cnn.input_size, cnn.interpolation
    return joined
