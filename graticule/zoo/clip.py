"""CLIP's image tower as timm has it, from files of timm or of transformers.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (arXiv 2103.00020).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graticule.zoo.tensors import Renames, State, renamed

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HEAD = "head.weight"

_TRANSFORMERS: Renames = (
    (r"vision_model\.embeddings\.class_embedding", "cls_token"),
    (r"vision_model\.embeddings\.position_embedding\.weight", "pos_embed"),
    (r"vision_model\.embeddings\.patch_embedding\.weight", "patch_embed.proj.weight"),
    (r"vision_model\.pre_layrnorm\.(weight|bias)", r"norm_pre.\1"),
    (r"vision_model\.post_layernorm\.(weight|bias)", r"norm.\1"),
    (r"vision_model\.encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(weight|bias)", r"blocks.\1.attn.\2.\3"),
    (r"vision_model\.encoder\.layers\.(\d+)\.self_attn\.out_proj\.(weight|bias)", r"blocks.\1.attn.proj.\2"),
    (r"vision_model\.encoder\.layers\.(\d+)\.layer_norm([12])\.(weight|bias)", r"blocks.\1.norm\2.\3"),
    (r"vision_model\.encoder\.layers\.(\d+)\.mlp\.fc([12])\.(weight|bias)", r"blocks.\1.mlp.fc\2.\3"),
    (r"visual_projection\.weight", HEAD),
)
_TEXT = (r"text_model\..*", r"text_projection\..*", r"logit_scale", r"vision_model\.embeddings\.position_ids")
_TIMM: Renames = ((r"((cls_token|pos_embed)|(patch_embed|norm_pre|norm|blocks\.\d+|head)\..*)", r"\1"),)


def image_settings(side: int) -> dict[str, Any]:
    """A recipe's ``image``, as CLIP was trained: the middle square, bicubic."""
    return {"resize": "crop", "height": side, "width": side, "interpolation": "bicubic", "mean": MEAN, "std": STD}


def image_tower(state: Mapping[str, Tensor], path: Path) -> tuple[State, Tensor | None]:
    """The tower under timm's names, and the projection of its output, ``(D, F)``; none where the file has none.

    Raises:
        BadWeightsError: a name that neither timm nor transformers has.
    """
    if not any(key.startswith("vision_model.") for key in state):
        tower = renamed(state, _TIMM, path)
    else:
        tower = renamed(state, _TRANSFORMERS, path, left_out=_TEXT)
        if "cls_token" in tower:
            tower["cls_token"] = tower["cls_token"].view(1, 1, -1)
        if "pos_embed" in tower:
            tower["pos_embed"] = tower["pos_embed"].unsqueeze(0)
        for key in [key for key in tower if key.endswith((".attn.q.weight", ".attn.q.bias"))]:
            parts = [key.replace(".q.", f".{part}.") for part in "qkv"]
            if all(part in tower for part in parts):
                tower[key.replace(".q.", ".qkv.")] = torch.cat([tower.pop(part) for part in parts])
    projection = tower.pop(HEAD, None)
    tower.pop("head.bias", None)  # zeros: CLIP's projection has none
    return tower, projection
