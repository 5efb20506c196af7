"""MegaLoc: DINOv2 with SALAD's pooling, the descriptor of places; an encoder, no geolocator."""

from typing import TYPE_CHECKING, Any

from graticule.zoo import Files, PublicModel

if TYPE_CHECKING:
    from torch import Tensor

    from graticule.model.bundle import Bundle

REPO = "gberton/MegaLoc"
PATCH = 14
SIDE = 23 * PATCH  # 322 pixels, with which its authors evaluate
TOWER: dict[str, Any] = {"name": "vit_base_patch14_dinov2", "options": {"img_size": SIDE}}

MODEL = PublicModel(
    name="megaloc",
    what="an encoder for recognising places (DINOv2-B, SALAD, 8,448 numbers); it answers nothing by itself",
    licence="MIT",
    gigabytes=0.9,
    trained_on="GSV-Cities, Mapillary SLS, MegaScenes, ScanNet and San Francisco XL",
    figures="see the tables of arXiv 2502.17237: recall of place recognition, not of geolocation",
    source="https://github.com/gmberton/MegaLoc",
    gigaflops=105,
)


def make(files: Files) -> "Bundle":
    """MegaLoc as a bundle without an answer, to be named in a recipe: ``encoder: {bundle: megaloc}``.

    Raises:
        BadWeightsError, SourceError: as :func:`graticule.zoo.get`.
    """
    path = files.find("model.safetensors", repo=REPO)
    from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    from graticule.partition import PointPartition
    from graticule.zoo.tensors import blank_bundle, fill, read_tensors, renamed

    state = renamed(
        read_tensors(path),
        (
            (r"backbone\.((cls_token|pos_embed)|(patch_embed\.proj|blocks\.\d+|norm)\..*)", r"body.\1"),
            # Dropout stands between the two layers in training, so the second is numbered 3 in both.
            (r"aggregator\.agg\.(cluster_features|score)\.0\.(.*)", r"salad.\1.0.\2"),
            (r"aggregator\.agg\.(cluster_features|score)\.3\.(.*)", r"salad.\1.2.\2"),
            (r"aggregator\.agg\.(token_features\..*|dust_bin)", r"salad.\1"),
            (r"aggregator\.(linear\..*)", r"salad.\1"),
        ),
        path,
    )
    for key, value in state.items():
        if key.startswith(("salad.cluster_features", "salad.score")) and value.ndim == 4:
            state[key] = value[..., 0]  # of 1 x 1 pixel
    tree = {
        "name": "megaloc",
        "cells": {"kind": "points"},
        "image": {
            "height": SIDE, "width": SIDE, "interpolation": "bilinear",
            "mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD,
        },
        "encoder": TOWER | {"weights": path.name, "frozen": True, "pooling": "salad"},
        "head": {"kind": "none"},
    }  # fmt: skip
    bundle = blank_bundle(tree, PointPartition.of([0.0], [0.0]))
    if "body.pos_embed" in state:
        state["body.pos_embed"] = _resized(state["body.pos_embed"], SIDE // PATCH)
    fill(bundle.model.encoder, state, path)
    return bundle


def _resized(embedding: "Tensor", side: int) -> "Tensor":
    """Position embeddings ``(1, 1 + M^2, C)`` for ``side`` x ``side`` patches, as its own code resizes them."""
    import torch
    from torch.nn import functional

    own, patches = embedding[:, :1], embedding[:, 1:]
    width = round(patches.shape[1] ** 0.5)
    grid = patches.reshape(1, width, width, -1).permute(0, 3, 1, 2)
    # A tenth of a patch more, and no antialiasing: DINOv2's way around a rounding error, on which it was trained.
    scale = (side + 0.1) / width
    found = functional.interpolate(grid, scale_factor=(scale, scale), mode="bicubic", antialias=False)
    return torch.cat([own, found.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
