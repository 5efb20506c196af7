"""One recipe, many variants: trained and measured one after another, and resumed where they stopped."""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graticule.config import Recipe, read_recipe
from graticule.errors import BadRecipeError, GraticuleError, WriteError
from graticule.evaluation.evaluate import METRICS, evaluate_folder
from graticule.files import write_json
from graticule.model.features import FeatureStore
from graticule.model.index import INDEX
from graticule.model.loading import Progress, silent
from graticule.photos.table import read_photos
from graticule.training.prepare import check_same_run, run_fingerprint, split_photos
from graticule.training.train import train

PLAN = "sweep.json"
PARTS = ("val", "test")


@dataclass(frozen=True, slots=True)
class Arm:
    """One variant: the name of its folder, and what it changes in the recipe, by dotted name."""

    name: str
    changes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one arm: trained and measured now, there already, or failed with this sentence."""

    arm: Arm
    bundle: Path
    fresh: bool
    error: str | None = None


def arms_of(vary: Mapping[str, Sequence[Any]]) -> list[Arm]:
    """Every combination of the values, the last name varying fastest.

    Raises:
        BadRecipeError: a name without values, or two combinations that would share a folder.
    """
    for name, values in vary.items():
        if not values:
            raise BadRecipeError(f"{name} has no values to try; give some: --vary {name}=first,second")
    arms = [
        Arm("-".join(safe_name(value) for value in values) or "plain", dict(zip(vary, values, strict=True)))
        for values in itertools.product(*vary.values())
    ]
    names = [arm.name for arm in arms]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BadRecipeError(f"two variants would share the folder {twice[0]}; name each value once")
    return arms


def sweep(
    recipe: Path,
    photos: Path,
    out: Path,
    vary: Mapping[str, Sequence[Any]],
    *,
    overrides: Mapping[str, Any] | None = None,
    store: FeatureStore | None = None,
    progress: Progress = silent,
) -> Iterator[Outcome]:
    """Train every arm into a folder of ``out`` and measure its validation and test parts.

    An arm that is finished is left alone, one that was cut short goes on from its checkpoint, and one that fails (no
    memory, no weights; a folder that holds a run of another recipe, other photos or another split) does not keep the
    others from running. The leak of a split by frame is measured, not refused:
    that is what a sweep is for, and the audits lie beside the numbers.

    Args:
        vary: values by dotted name, such as ``{"encoder.name": ["resnet50", "vit_b_16"]}``.
        overrides: settings that all arms share.

    Yields:
        The outcome of each arm, as soon as it is known.

    Raises:
        BadRecipeError: the recipe or a variant of it is impossible; nothing has been trained then.
    """
    arms = arms_of(vary)
    recipes: list[Recipe] = [read_recipe(recipe, {**(overrides or {}), **arm.changes}) for arm in arms]
    table = read_photos(photos)
    out.mkdir(parents=True, exist_ok=True)
    write_json(
        out / PLAN, {"recipe": recipe.stem, "arms": [{"name": a.name, "changes": dict(a.changes)} for a in arms]}
    )
    for number, (arm, own) in enumerate(zip(arms, recipes, strict=True), 1):
        folder = out / arm.name

        def report_progress(done: int, total: int, note: str, number: int = number, name: str = arm.name) -> None:
            progress(done, total, f"{number}/{len(arms)} {name}  {note}")

        fresh = True
        try:
            split = split_photos(own, table)
            parts = [part for part in PARTS if (split == part).any()]
            fresh = not all((folder / "evaluation" / part / METRICS).is_file() for part in parts)
            if (folder / INDEX).is_file():
                check_same_run(folder, run_fingerprint(own, table, split))
            else:
                train(own, table, folder, resume=folder.exists(), store=store, progress=report_progress)
            for part in parts:
                result = folder / "evaluation" / part
                if not (result / METRICS).is_file():
                    evaluate_folder(
                        folder, photos, result, split=part, allow_leak=True, store=store, progress=report_progress
                    )
        except WriteError:  # a full disk fails the others too
            raise
        except GraticuleError as error:
            yield Outcome(arm, folder, fresh, str(error))
            continue
        yield Outcome(arm, folder, fresh)


def safe_name(value: Any) -> str:
    """A value as a piece of a folder's name."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", str(value)).strip("_.") or "none"
