"""The baseline of OpenStreetView-5M: cells of a quadtree, and an offset within each."""

from typing import TYPE_CHECKING, Any, cast

from graticule.errors import BadWeightsError
from graticule.zoo import Files, PublicModel
from graticule.zoo.files import WEIGHTS

if TYPE_CHECKING:
    import polars as pl

    from graticule.model.bundle import Bundle

REPO = "osv5m/baseline"
QUADTREE = "quadtree_10_1000.csv"
WIDTHS = (1024, 512)
VISION = "vision_model."
# Its head takes the class token before CLIP's last norm: transformers' ``last_hidden_state``.
TOWER: dict[str, Any] = {"name": "vit_large_patch14_clip_224", "options": {"final_norm": False}}

MODEL = PublicModel(
    name="osv5m",
    what="CLIP ViT-L/14 trained along, 11,399 cells of a quadtree and an offset within each",
    licence="MIT",
    gigabytes=2.5,
    trained_on="OpenStreetView-5M: 4.9 million street views of Mapillary",
    figures="OSV-5M: GeoScore 3361, 1,814 km on average, 68 % in the right country (arXiv 2404.18873)",
    source="https://github.com/gastruc/osv5m",
    needs=(f"one folder for --from with utils/{QUADTREE} of gastruc/osv5m and what hf download {REPO} fetches"),
    gigaflops=162,
)


def make(files: Files) -> "Bundle":
    """The baseline as a bundle: its boxes are classes at their means, and it answers the offset as its own code does.

    Raises:
        BadWeightsError, SourceError: as :func:`graticule.zoo.get`.
    """
    boxes_file = files.find(QUADTREE, f"osv5m_{QUADTREE}", repo=REPO, instead="it is in utils/ of gastruc/osv5m")
    path = files.find(*WEIGHTS, repo=REPO)
    import numpy as np
    import polars as pl
    import torch

    from graticule.geo.sphere import great_circle_km
    from graticule.model.imported import OffsetHead
    from graticule.partition import PointPartition
    from graticule.partition.base import SPREAD_OF_SIDE
    from graticule.zoo.clip import image_settings, image_tower
    from graticule.zoo.tensors import blank_bundle, fill, read_tensors, renamed

    boxes = _boxes(pl.read_csv(boxes_file), str(boxes_file))
    south, west, north, east, lat, lon = boxes.cast(pl.Float64).to_numpy().T
    height, width = great_circle_km(south, lon, north, lon), great_circle_km(lat, west, lat, east)
    partition = PointPartition(
        np.ones(len(boxes), np.int64),
        lat,
        lon,
        np.maximum(SPREAD_OF_SIDE * np.sqrt(height * width), 0.001),
        [f"q{row:05}" for row in range(len(boxes))],
    )

    # Its class holds each part twice, as its own and as one of ``model``.
    state = {key.removeprefix("model."): value for key, value in read_tensors(path).items()}
    # transformers 5 names the parts of a tower alone without the prefix that transformers 4 had.
    plain = {
        key.removeprefix("backbone.clip.").removeprefix(VISION): value
        for key, value in state.items()
        if key.startswith("backbone.")
    }
    tower, _ = image_tower({VISION + key: value for key, value in plain.items()}, path)
    for name in ("norm.weight", "norm.bias"):
        tower.pop(name, None)
    layers = renamed(
        {key: value for key, value in state.items() if not key.startswith("backbone.")},
        ((r"mid\.classif\.(.*)", r"cells.\1"), (r"mid\.reg\.(.*)", r"offsets.\1")),
        path,
    )
    tree = {
        "name": "osv5m",
        "cells": {"kind": "points"},
        "image": image_settings(224),
        "encoder": TOWER | {"weights": path.name, "frozen": True},
        "head": {"kind": "offsets", "widths": WIDTHS},
        "answer": "regressed",
    }
    bundle = blank_bundle(tree, partition)
    fill(bundle.model.encoder.body, tower, path)
    head = cast(OffsetHead, bundle.model.head)
    middle, edges = np.stack([lat, lon], axis=1), (np.stack([north, east], axis=1), np.stack([south, west], axis=1))
    where = {"middle": middle, "up": edges[0] - middle, "down": middle - edges[1]}
    fill(head, layers | {name: torch.from_numpy(value) for name, value in where.items()}, path)
    return bundle


def _boxes(table: "pl.DataFrame", name: str) -> "pl.DataFrame":
    """South, west, north, east, and the mean of each box's photos, in the order of its classes."""
    means = ("mean_lat", "mean_lon") if "mean_lat" in table.columns else ("lat", "lon")
    wanted = ["min_lat", "min_lon", "max_lat", "max_lon", *means]
    missing = [column for column in ("cluster_id", *wanted) if column not in table.columns]
    if missing:
        raise BadWeightsError(f"{name} has no column {missing[0]!r}; it should be the model's own quadtree")
    if table["cluster_id"].to_list() != list(range(table.height)):
        raise BadWeightsError(f"{name} should number its boxes from 0 on, row by row; its order is another")
    return table.select(wanted)
