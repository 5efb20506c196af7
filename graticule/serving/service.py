"""What is served: bundles, each with its facts, and the one line of questions to them."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from graticule.errors import BadRecipeError
from graticule.inference.locate import Locator
from graticule.serving.asks import Answer, Ask, answer
from graticule.serving.limits import Limits
from graticule.serving.queue import Batches


@dataclass(frozen=True, eq=False)
class Model:
    """One bundle that is served.

    Attributes:
        id: its name in questions, that of its folder.
    """

    id: str
    locator: Locator

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
    coarsest_answer_km: float | None = None

    def __post_init__(self) -> None:
        self.by_id = {model.id: model for model in self.models}
        if len(self.by_id) < len(self.models) or not self.models:
            raise BadRecipeError("each bundle that is served needs a folder name of its own")
        self.line: Batches[Ask, list[Answer]] = Batches(
            lambda key, asks: answer(self.by_id[key].locator, asks),
            size=lambda ask: len(ask.photos),
            most=self.limits.batch,
            waiting=self.limits.waiting,
        )
        self.one_explanation = asyncio.Semaphore(1)

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

    async def ask(self, model: Model, question: Ask) -> list[Answer]:
        """The answers to one question, in its turn.

        Raises:
            FullError: too many photos wait already.
        """
        return await self.line.ask(model.id, question)


def open_models(bundles: Sequence[Path]) -> list[Model]:
    """Bundles ready to answer, by the names of their folders.

    Raises:
        BundleError: one is missing or damaged.
    """
    from graticule.inference.locate import load

    return [Model(bundle.resolve().name, load(bundle)) for bundle in bundles]
