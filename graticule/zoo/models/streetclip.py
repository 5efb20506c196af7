"""StreetCLIP: CLIP asked which country's name fits a photo, then which town's of that country."""

from typing import TYPE_CHECKING, Any, cast

from graticule.errors import BadWeightsError
from graticule.geo.territory import Territory
from graticule.zoo import Files, PublicModel
from graticule.zoo.files import WEIGHTS

if TYPE_CHECKING:
    from graticule.model.bundle import Bundle

REPO = "geolocal/StreetCLIP"
SIDE = 336
TOWNS = 30  # of each country, the most populous
TOWNS_WITHIN = 1000  # of each country, where those of an area alone are asked for
TOWER: dict[str, Any] = {"name": "vit_large_patch14_clip_quickgelu_336", "options": {}}

MODEL = PublicModel(
    name="streetclip",
    what="CLIP ViT-L/14 at 336 px, asked for the names of countries and of their largest towns",
    licence="CC-BY-NC-4.0",
    gigabytes=1.7,
    trained_on="1.1 million street-level photos of 101 countries, not published",
    figures=(
        "Im2GPS3k: 22 / 37 / 61 / 80 % within 25 / 200 / 750 / 2500 km (arXiv 2302.00275); others found "
        "22 / 35 / 56 / 75 % with its weights (discussion 4 of its page)"
    ),
    source="https://huggingface.co/geolocal/StreetCLIP",
    restricted=True,
    gallery=True,
    needs="pip install 'graticule[names]', which reads names as it was trained to",
    gigaflops=382,
)


def make(files: Files, within: Territory | None = None) -> "Bundle":
    """StreetCLIP as a bundle: towns are its classes, each as likely as its country times itself among that one's.

    Names are asked as they are, such as France and Paris, as the model's own example does.

    Raises:
        BadWeightsError, SourceError: as :func:`graticule.zoo.get`.
    """
    # Its repository holds a pickle alone.
    path, tokenizer = files.find(*WEIGHTS[::-1], repo=REPO), files.find("tokenizer.json", repo=REPO)
    import numpy as np
    import torch

    from graticule.geo.towns import largest_towns
    from graticule.model.imported import MatchingHead
    from graticule.partition import PointPartition
    from graticule.zoo.clip import image_settings, image_tower
    from graticule.zoo.tensors import blank_bundle, fill, read_tensors
    from graticule.zoo.texts import embed, text_tower

    state = read_tensors(path)
    tower, projection = image_tower(state, path)
    if projection is None or "logit_scale" not in state:
        raise BadWeightsError(f"{path} has no visual_projection or no logit_scale, which CLIP compares with")
    towns = list({str(row[0]): row[:3] for row in largest_towns(TOWNS_WITHIN if within else TOWNS)}.values())
    if within:
        lats, lons = (np.array([row[side] for row in towns]) for side in (1, 2))
        towns = [row for row, inside in zip(towns, within.contains(lats, lons), strict=True) if inside]
        if not towns:
            raise BadWeightsError(f"no town of the {TOWNS_WITHIN} largest of its country lies within {within.name}")
    countries = sorted({town.country for town, _, _ in towns})
    partition = PointPartition.of(
        [lat for _, lat, _ in towns], [lon for _, _, lon in towns], [str(town) for town, _, _ in towns]
    )
    tree = {
        "name": "streetclip",
        "cells": {"kind": "points"},
        "image": image_settings(SIDE),
        "encoder": TOWER | {"weights": path.name, "frozen": True},
        "head": {"kind": "matching", "widths": (len(projection),), "above": len(countries)},
        "answer": "mode",
    }
    bundle = blank_bundle(tree, partition)
    fill(bundle.model.encoder.body, tower, path)
    head = cast(MatchingHead, bundle.model.head)
    fill(head.layers, {"0.weight": projection, "0.bias": torch.zeros(len(projection))}, path)
    texts = text_tower(state, path)
    with torch.inference_mode():
        head.scale.copy_(state["logit_scale"].exp())
        head.above.copy_(embed(texts, tokenizer, countries))
        head.places.copy_(embed(texts, tokenizer, [town.name for town, _, _ in towns]))
        head.parent.copy_(torch.tensor([countries.index(town.country) for town, _, _ in towns]))
    return bundle
