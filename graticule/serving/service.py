"""What is served: bundles, each with its facts, and the one line of questions to them."""

import asyncio
import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from graticule.choices import Answer as Point
from graticule.errors import BadRecipeError, BadTableError
from graticule.inference.cores import CORES, keep_memory, share_cores
from graticule.inference.locate import Locator, load
from graticule.inference.pictures import Pictures, files_of
from graticule.model.features import CPU_BATCH
from graticule.photos.table import Photos
from graticule.serving.asks import Answer, Ask, answer
from graticule.serving.blur import Cells, Coarse
from graticule.serving.limits import Limits
from graticule.serving.queue import Batches

BATCH_PIXELS = 16 * 224**2  # that a processor's network sees at once; a large encoder holds half a gigabyte of them


@dataclass(frozen=True, eq=False)
class Model:
    """One bundle that is served.

    Attributes:
        id: its name in questions, that of its folder.
        coarse: the scale that its answers are blurred to; None tells them as they are.
        pictures: of the photos that it knows.
    """

    id: str
    locator: Locator
    coarse: Coarse | None = None
    pictures: Pictures | None = None
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)  # what a locator keeps is one thread's

    @cached_property
    def coarse_ground(self) -> Cells:
        """The coarse cell of each cell of the ground."""
        ground = self.locator.grown
        if self.coarse is None or ground is None:
            raise ValueError("nothing is blurred, or nothing was asked yet")
        return self.coarse.assign(ground.lat, ground.lon)

    @cached_property
    def coarse_partition(self) -> Cells:
        """The coarse cell of each cell of the partition."""
        partition = self.locator.bundle.partition
        if self.coarse is None:
            raise ValueError("nothing is blurred")
        return self.coarse.assign(partition.lat, partition.lon)

    def prepare(self) -> None:
        """Work out what all later answers share; the ground has to be grown."""
        _ = self.facts
        if self.coarse and self.locator.grown:
            _ = self.coarse_ground

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What ``GET /v1/model`` tells of it."""
        bundle = self.locator.bundle
        partition, recipe = bundle.partition, bundle.recipe
        lat, lon = partition.lat, partition.lon
        card = bundle.path / "README.md" if bundle.path else None
        return {
            "id": self.id,
            "name": recipe.name,
            "partition": partition.kind,
            "cells": len(partition),
            "calibrated": bundle.confidence is not None,
            "encoder": recipe.encoder.name,
            "answer": recipe.answer,
            "card": card.read_text(encoding="utf-8") if card and card.is_file() else "",
            "bounds": [[float(lat.min()), float(lon.min())], [float(lat.max()), float(lon.max())]],
            "center": [float((lat.min() + lat.max()) / 2), float((lon.min() + lon.max()) / 2)],
            "photos_known": len(bundle.confidence.known.lat) if bundle.confidence else 0,
            "photos_trained": bundle.facts.get("photos"),
            "area": self.locator.area,
            "synthetic": bool(bundle.facts.get("synthetic", False)),
        }


@dataclass(eq=False)
class Service:
    """Bundles behind one line of questions.

    Args:
        models: at least one; the first answers where none is named.
    """

    models: Sequence[Model]
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        self.by_id = {model.id: model for model in self.models}
        if len(self.by_id) < len(self.models) or not self.models:
            raise BadRecipeError("each bundle that is served needs a folder name of its own")
        self.line: Batches[tuple[str, Point | None], Ask, list[Answer]] = Batches(
            self._answer,
            size=lambda ask: len(ask.photos),
            most=self.limits.batch,
            waiting=self.limits.waiting,
            threads=CORES if self.models[0].locator.device == "cpu" else 1,
        )
        self.one_explanation = asyncio.Semaphore(1)
        self.ready = False

    def _answer(self, key: tuple[str, Point | None], asks: Sequence[Ask], busy: int) -> list[list[Answer]]:
        name, point = key
        model = self.by_id[name]
        if model.locator.device == "cpu":
            share_cores(busy)
        return answer(model.locator.answering(point), asks, model.lock)

    def model(self, name: str | None) -> Model:
        """The model of that id, or the first.

        Raises:
            BadRecipeError: none is called so.
        """
        if not name:
            return self.models[0]
        if name not in self.by_id:
            raise BadRecipeError(f"no model is called {name!r}; there are {', '.join(self.by_id)}")
        return self.by_id[name]

    async def warm_up(self) -> None:
        """Let every model answer a grey photo: what is grown at the first answer takes seconds."""
        file = BytesIO()
        Image.new("RGB", (256, 256), "grey").save(file, "JPEG")
        for model in self.models:
            await self.ask(model, Ask((file.getvalue(),), (None,)))
            await asyncio.to_thread(model.prepare)
        self.ready = True

    async def ask(self, model: Model, question: Ask) -> list[Answer]:
        """The answers to one question, in its turn.

        Raises:
            FullError: too many photos wait already.
            BadRecipeError: the model has no such point.
        """
        return await self.line.ask((model.id, question.answer), question)


def open_models(
    bundles: Sequence[Path],
    coarsest_answer_km: float | None = None,
    gallery: Photos | None = None,
    batch: int = Limits().batch,
) -> list[Model]:
    """Bundles ready to answer, by the names of their folders.

    Args:
        gallery: the dataset that was trained on, for pictures of known photos; by default those in a bundle are shown.
        batch: photos at once, where memory is kept.

    Raises:
        BundleError: one is missing or damaged.
        BadTableError: the dataset is another one.
    """
    models, kept = [], keep_memory()
    for bundle in bundles:
        locator = load(bundle)
        if kept and locator.device == "cpu":
            locator.at_once = batch_of(locator, batch)
        coarse = Coarse(coarsest_answer_km, head_key(locator)) if coarsest_answer_km else None
        pictures: Pictures | None = locator.bundle.thumbnails
        if gallery is not None:
            try:
                pictures = files_of(locator, gallery)
            except BadTableError:
                if len(bundles) == 1:  # of two that are compared, one may know other photos
                    raise
        models.append(Model(bundle.resolve().name, locator, coarse, pictures))
    return models


def batch_of(locator: Locator, most: int) -> int:
    """Photos that a processor's network sees at once: fewer where they are large, since memory is kept for as many."""
    image = locator.bundle.preprocess
    pixels = image.longest**2 if image.resize == "fit" else image.height * image.width
    return max(1, min(most, max(CPU_BATCH, BATCH_PIXELS // pixels)))


def head_key(locator: Locator) -> bytes:
    """A secret that only those have who have the bundle: a hash of the weights of its head.

    Those of the encoder may be anyone's.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(locator.bundle.model.head.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.digest()
