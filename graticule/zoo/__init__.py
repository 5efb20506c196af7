"""Models that others have trained, by name: what can be had, and how each becomes a bundle.

A model is one module with a :class:`PublicModel` called ``MODEL`` and, where it can be had, a function
``make(files: Files) -> Bundle`` that reads its published files, tensor by tensor, and refuses what it does not know. It
lies in ``graticule.zoo.models``, or in any installed package that names it as an entry point of ``graticule.models``.
"""

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graticule.errors import BadWeightsError
from graticule.geo.territory import Territory
from graticule.zoo.files import Files

if TYPE_CHECKING:
    from graticule.model.bundle import Bundle

__all__ = ["Files", "PublicModel", "get", "public_models"]
ENTRY_POINTS = "graticule.models"


@dataclass(frozen=True, slots=True)
class PublicModel:
    """What is known of a model before it is fetched.

    Attributes:
        what: what it is, in a few words.
        licence: of the weights, as SPDX writes it.
        restricted: the licence forbids some uses, so whoever fetches it has to agree.
        gigabytes: what is fetched.
        trained_on: the photos, as its authors say.
        figures: as its authors published them, with the benchmark; nothing of it was measured here.
        source: where it is described.
        lacks: why it cannot be had; empty where it can.
        gallery: it compares a photo with places, and ``make(files, within=...)`` takes those of a territory alone.
        any_place: it can tell how well any place fits, and ``make(files, refine=...)`` asks those around the likeliest.
        needs: what has to be there before it can be had, beside the network.
        gigaflops: billions of sums and products a photo.
    """

    name: str
    what: str
    licence: str
    gigabytes: float
    trained_on: str
    figures: str
    source: str
    restricted: bool = False
    lacks: str = ""
    gallery: bool = False
    any_place: bool = False
    needs: str = ""
    gigaflops: float | None = None


def public_models() -> dict[str, PublicModel]:
    """All that are known here, by name, those that can be had first."""
    found = [module.MODEL for module in _modules()]
    return {model.name: model for model in sorted(found, key=lambda model: (bool(model.lacks), model.name))}


def check_wanted(name: str, *, agreed: str | None = None, within: bool = False, refine: int = 0) -> PublicModel:
    """The model of this name, where it can be had in this way; nothing is fetched.

    Raises:
        BadWeightsError: there is no such model, its licence was not agreed to, or it knows no such way.
    """
    known = public_models()
    if name not in known:
        raise BadWeightsError(f"no public model is called {name!r}; there are {', '.join(known)}")
    model = known[name]
    if model.lacks:
        raise BadWeightsError(f"{name} cannot be had: {model.lacks}")
    if model.restricted and (agreed or "").lower() != model.licence.lower():
        said = f"; found --licence {agreed}" if agreed else ""
        raise BadWeightsError(
            f"{name} is under {model.licence}, which forbids some uses: read it, and if you agree, say so with "
            f"--licence {model.licence}{said}"
        )
    if within and not model.gallery:
        raise BadWeightsError(f"{name} compares with no places that could be chosen; leave --within out")
    if refine and not model.any_place:
        raise BadWeightsError(f"{name} compares with no places between those it has; leave --refine out")
    return model


def get(
    name: str,
    folder: Path | None = None,
    *,
    agreed: str | None = None,
    within: Territory | None = None,
    refine: int = 0,
) -> "Bundle":
    """Make a bundle of a public model.

    Args:
        folder: where its files lie; none fetches them from the hub, once.
        agreed: the licence that the user agrees to, where it forbids some uses.
        within: the territory that its places shall be of, where it compares with places.
        refine: rounds of a denser gallery around the likeliest place, where it can tell any place.

    Raises:
        BadWeightsError: there is no such model, or its licence was not agreed to; a file is missing, holds other
            tensors than those that its importer knows, or would run code.
        SourceError: the hub cannot be reached.
    """
    from graticule.files import sha256_of

    model = check_wanted(name, agreed=agreed, within=within is not None, refine=refine)
    [module] = [module for module in _modules() if module.MODEL.name == name]
    files = Files(folder)
    make: Callable[..., Bundle] = module.make
    bundle = make(files, **({"within": within} if within else {}), **({"refine": refine} if refine else {}))
    facts: dict[str, Any] = {
        "imported": {
            "name": name,
            "what": f"{model.what}; its places are those within {within.name}" if within else model.what,
            "licence": model.licence,
            "trained_on": model.trained_on,
            "figures": model.figures,
            "source": model.source,
            "files": {path.name if where is None else where: sha256_of(path) for path, where in files.read.items()},
        },
        "cells": len(bundle.partition),
        "calibration": "not calibrated: graticule calibrate does it with photos whose place is known",
    }
    return replace(bundle, facts=bundle.facts | facts)


def seconds_a_photo(model: PublicModel) -> float | None:
    """What a photo costs on this machine at least, by how fast it multiplies matrices now; None where unknown."""
    import time

    import torch

    if not model.gigaflops:
        return None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    one = torch.ones(1024, 1024, device=device)
    tries = []
    for _ in range(5):
        begun = time.perf_counter()
        (one @ one)[0, 0].item()  # which waits for a graphics card
        tries.append(time.perf_counter() - begun)
    return model.gigaflops * 1e9 * min(tries) / (2 * 1024**3)


def _modules() -> list[Any]:
    own = import_module("graticule.zoo.models")
    modules = [import_module(f"{own.__name__}.{found.name}") for found in pkgutil.iter_modules(own.__path__)]
    return modules + [point.load() for point in metadata.entry_points(group=ENTRY_POINTS)]
