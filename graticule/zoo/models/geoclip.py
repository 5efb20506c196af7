"""GeoCLIP: CLIP's image tower, a small network above it, and positions that photos are compared with."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from graticule.errors import BadWeightsError
from graticule.geo.territory import Territory
from graticule.zoo import Files, PublicModel
from graticule.zoo.files import WEIGHTS

if TYPE_CHECKING:
    from graticule.geo.sphere import Floats
    from graticule.model.bundle import Bundle

PACKAGE, VERSION = "geoclip", "1.3.0"
TOWER_REPO = "timm/vit_large_patch14_clip_224.openai"
# OpenAI trained with a faster GELU; timm's plain name would compute another one.
TOWER: dict[str, Any] = {"name": "vit_large_patch14_clip_quickgelu_224", "options": {}}

MODEL = PublicModel(
    name="geoclip",
    what="CLIP ViT-L/14 and a gallery of 100,000 positions",
    licence="MIT",
    gigabytes=1.3,
    trained_on="MP-16: 4.7 million geotagged photos of Flickr",
    figures="Im2GPS3k: 14 / 34 / 51 / 70 / 84 % within 1 / 25 / 200 / 750 / 2500 km (arXiv 2309.16020, table 1)",
    source="https://github.com/VicenteVivan/geo-clip",
    gallery=True,
    any_place=True,
    needs=f"pip install --no-deps {PACKAGE}=={VERSION}, which holds its small weights and its gallery",
    gigaflops=162,
)
DENSE = 10_000  # places that the location encoder adds to the gallery of an area
AROUND = 4  # a refinement looks as far as so many of a place's neighbours lie
LEAST_REACH_KM = 0.05  # where they are at one position


def make(files: Files, within: Territory | None = None, refine: int = 0) -> "Bundle":
    """GeoCLIP as a bundle: its gallery is the partition, logits are scale times cosine.

    Its location encoder can tell any place: within an area, the gallery's places there and ``DENSE`` more, and with
    ``refine`` those around the likeliest one, of which the answer is then the best.

    Raises:
        BadWeightsError, SourceError: as :func:`graticule.zoo.get`.
    """
    weights = _package(files) / "weights"
    tower_file = files.find(*WEIGHTS, repo=TOWER_REPO)
    import numpy as np
    import polars as pl
    import torch

    from graticule.model.imported import MatchingHead
    from graticule.model.positions import LocationEncoder
    from graticule.partition import PointPartition
    from graticule.zoo.clip import image_settings, image_tower
    from graticule.zoo.tensors import blank_bundle, fill, read_tensors

    gallery = pl.read_csv(weights.parent / "gps_gallery" / "coordinates_100K.csv")
    # In float32, as its own code reads them: the encoder's finest waves see the difference.
    lat, lon = (gallery[name].to_numpy() for name in ("LAT", "LON"))
    if within:
        own = within.contains(lat, lon)
        lat, lon = (np.concatenate(both) for both in zip((lat[own], lon[own]), within.grid(DENSE), strict=True))
    lat, lon = (side.astype(np.float32).astype(np.float64) for side in (lat, lon))
    partition = PointPartition.of(lat, lon)

    mlp_file, places_file, scale_file = (
        weights / f"{name}_weights.pth" for name in ("image_encoder_mlp", "location_encoder", "logit_scale")
    )
    for path in (mlp_file, places_file, scale_file):
        files.read[path] = f"{PACKAGE} {VERSION}, {path.name}"
    encoder = LocationEncoder()
    fill(encoder, read_tensors(places_file), places_file)
    tower, projection = image_tower(read_tensors(tower_file), tower_file)
    if projection is None:
        raise BadWeightsError(f"{tower_file} has no projection (visual_projection or head), which GeoCLIP stands on")

    tree = {
        "name": "geoclip",
        "cells": {"kind": "points"},
        "image": image_settings(224),
        "encoder": TOWER | {"weights": tower_file.name, "frozen": True},
        "head": {"kind": "matching", "widths": (768, 512), "refine": refine},
        "answer": "regressed" if refine else "mode",  # its own code answers the likeliest place of its gallery
    }
    bundle = blank_bundle(tree, partition)
    head = cast(MatchingHead, bundle.model.head)
    fill(bundle.model.encoder.body, tower, tower_file)
    mlp = read_tensors(mlp_file)
    # The projection has no bias and nothing bends between it and the first layer: the two are one.
    mlp["0.weight"] = mlp["0.weight"] @ projection
    fill(head.layers, mlp, mlp_file)
    with torch.inference_mode():
        head.scale.copy_(read_tensors(scale_file)[""].exp())
        head.places.copy_(encoder.eval().embed(lat, lon))
    if refine:
        head.locations = encoder
        head.degrees.copy_(torch.from_numpy(np.stack([lat, lon], axis=1)))
        head.reach_km.copy_(torch.from_numpy(reach_km(lat, lon)))
    return bundle


def reach_km(lat: "Floats", lon: "Floats") -> "Floats":
    """Distance from each place to the last of its ``AROUND`` nearest others, shape ``(C,)``."""
    import numpy as np
    from scipy.spatial import KDTree

    from graticule.geo.sphere import chord_to_km, unit_vectors

    places = unit_vectors(lat, lon)
    chord, _ = KDTree(places).query(places, min(AROUND + 1, len(places)))
    return np.maximum(chord_to_km(chord[:, -1]), LEAST_REACH_KM)


def _package(files: Files) -> Path:
    """The folder ``model`` of GeoCLIP's own package: of the files given, else as it is installed here."""
    name = "weights/location_encoder_weights.pth"
    how = f"it is in the package: pip download --no-deps {PACKAGE}=={VERSION}, and unzip the wheel into this folder"
    if files.folder:
        path = files.find(name, instead=how)
        del files.read[path]
        return path.parents[1]
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise BadWeightsError(
            f"GeoCLIP's small weights and its gallery come in its own package, which is not installed here: "
            f"pip install --no-deps {PACKAGE}=={VERSION}. Where there is no network, pip download it elsewhere, unzip "
            f"the wheel into a folder and give that with --from"
        )
    return Path(spec.submodule_search_locations[0]) / "model"
