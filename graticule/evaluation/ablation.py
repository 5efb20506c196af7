"""What each setting of a recipe is worth: alone and together, over seeds, paired photo by photo."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from graticule.config import Recipe
from graticule.errors import BadRecipeError, GraticuleError, WriteError
from graticule.evaluation.evaluate import METRICS, PREDICTIONS
from graticule.evaluation.folds import crossval, write_folds
from graticule.evaluation.metrics import bootstrap_intervals, median_difference
from graticule.evaluation.sweep import safe_name
from graticule.files import write_json
from graticule.model.bundle import portable
from graticule.model.features import FeatureStore
from graticule.model.loading import Progress, silent
from graticule.photos.table import Photos

PLAN = "ablation.json"
PLAIN, ALL = "plain", "all"


@dataclass(frozen=True, eq=False)
class Collection:
    """Photos to measure on, by a name, and what stays whole in their folds (see :func:`crossval`)."""

    name: str
    photos: Photos
    group: str


@dataclass(frozen=True, slots=True)
class Trial:
    """One cross-validation: done now, there already, or failed with this sentence."""

    collection: str
    variant: str
    seed: int
    fresh: bool
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Effect:
    """One variant on one collection, over all seeds; a difference is the variant's less plain's on the same photos.

    Attributes:
        median_km, mean_km, bits, coverage_90, area_90_km2: mean over the seeds; none without a calibrated belief.
        median_difference_km, bits_difference: 95 % intervals, resampled by place; none of plain, and of bits where
            either has none.
        seconds: of training, heads of the calibration included, all folds of one seed; features that were kept
            already cost nothing.
        verdict: whether it helps, in words; empty of plain.
    """

    collection: str
    variant: str
    seeds: int
    photos: int
    median_km: float
    mean_km: float
    bits: float | None
    coverage_90: float | None
    area_90_km2: float | None
    seconds: float
    verdict: str = ""
    median_difference_km: tuple[float, float] | None = None
    bits_difference: tuple[float, float] | None = None


def variants_of(recipes: Mapping[str, Recipe], plain: Recipe, together: Recipe | None) -> dict[str, Recipe]:
    """``plain``, each switch by its name, and ``all`` of them where there is more than one.

    Raises:
        BadRecipeError: a switch that changes nothing, or one called ``plain`` or ``all``.
    """
    for name, recipe in recipes.items():
        if name in (PLAIN, ALL):
            raise BadRecipeError(f"a switch cannot be called {name}, which is a row of its own")
        if recipe == plain:
            raise BadRecipeError(f"the switch {name} changes nothing: the recipe says so already")
    return {PLAIN: plain, **recipes} | ({ALL: together} if together else {})


def ablate(
    variants: Mapping[str, Recipe],
    collections: Sequence[Collection],
    out: Path,
    *,
    seeds: Sequence[int],
    folds: int = 5,
    store: FeatureStore | None = None,
    progress: Progress = silent,
) -> Iterator[Trial]:
    """Cross-validate every variant on every collection with every seed, into ``out/COLLECTION/VARIANT/seed-N``.

    What is there already is left alone; one that fails does not keep the others from running.

    Args:
        variants: of :func:`variants_of`; each runs with every seed in place of its own.

    Raises:
        BadRecipeError: ``out`` holds an ablation of something else.
    """
    plan = {
        "variants": {name: portable(recipe) for name, recipe in variants.items()},
        "collections": {each.name: {"photos": len(each.photos), "group": each.group} for each in collections},
        "folds": folds,
    }
    _check_plan(out, plan)
    write_json(out / PLAN, plan)
    trials = [(seed, each, name) for seed in seeds for each in collections for name in variants]
    for number, (seed, each, name) in enumerate(trials, 1):
        folder = folder_of(out, each.name, name, seed)
        if (folder / METRICS).is_file():
            yield Trial(each.name, name, seed, False)
            continue

        def report(done: int, total: int, note: str, number: int = number, name: str = f"{each.name} {name}") -> None:
            progress(done, total, f"{number}/{len(trials)} {name}  {note}")

        recipe = variants[name].model_copy(update={"seed": seed})
        try:
            found = crossval(recipe, each.photos, folds=folds, group=each.group, store=store, progress=report)
        except WriteError:  # a full disk fails the others too
            raise
        except GraticuleError as error:
            yield Trial(each.name, name, seed, True, str(error))
            continue
        write_folds(found, recipe, folder)
        yield Trial(each.name, name, seed, True)


def folder_of(out: Path, collection: str, variant: str, seed: int) -> Path:
    """Where one cross-validation lies."""
    return out / safe_name(collection) / safe_name(variant) / f"seed-{seed}"


def effects(
    out: Path, variants: Sequence[str], collections: Sequence[Collection], seeds: Sequence[int]
) -> list[Effect]:
    """What was found, one row a collection and variant; a variant that failed with some seed is left out.

    Seeds deal the folds and the first weights anew, so a photo is asked once a seed; its place draws all of its answers
    at once in the intervals.
    """
    found = []
    for each in collections:
        places = pl.DataFrame({"path": each.photos.frame["path"], "group": each.photos.places()})
        plain: pl.DataFrame | None = None
        for name in variants:
            folders = [folder_of(out, each.name, name, seed) for seed in seeds]
            if not all((folder / METRICS).is_file() for folder in folders):
                continue
            metrics = [json.loads((folder / METRICS).read_text(encoding="utf-8")) for folder in folders]
            rows = pl.concat([_rows(folder, seed) for folder, seed in zip(folders, seeds, strict=True)])
            row = {key: _mean(metrics, key) for key in ("median_km", "mean_km", "bits", "coverage_90")}
            differences = _differences(rows, plain, places)
            effect = Effect(
                each.name,
                name,
                len(seeds),
                len(each.photos),
                **row,  # type: ignore[arg-type]  # the errors are there wherever a photo was read
                area_90_km2=_mean(metrics, "median_area_90_km2"),
                seconds=_mean(metrics, "training_seconds") or 0.0,
                verdict=_verdict(**differences),
                **differences,
            )
            plain = rows if name == PLAIN else plain
            found.append(effect)
    return found


def _verdict(
    median_difference_km: tuple[float, float] | None = None, bits_difference: tuple[float, float] | None = None
) -> str:
    """By the error, and by bits of location where the error cannot tell."""
    if median_difference_km is None:
        return ""
    low, high = median_difference_km
    if high < 0 or low > 0:
        return "nearer" if high < 0 else "farther"
    if bits_difference is not None:
        low, high = bits_difference
        if low > 0 or high < 0:
            return "knows more, no nearer" if low > 0 else "knows less, no farther"
    return "not told apart"


def _rows(folder: Path, seed: int) -> pl.DataFrame:
    read = pl.read_parquet(folder / PREDICTIONS).filter(pl.col("error").is_null())
    bits = (pl.col("log_density") - pl.col("prior_log_density")) / np.log(2)
    return read.select("path", pl.lit(seed).alias("seed"), "error_km", bits.cast(pl.Float64).alias("bits"))


def _differences(rows: pl.DataFrame, plain: pl.DataFrame | None, places: pl.DataFrame) -> dict[str, Any]:
    if plain is None:
        return {}
    both = rows.join(plain, on=["path", "seed"], suffix="_plain", maintain_order="left").join(places, on="path")
    group = both["group"].to_numpy()
    error_km = both["error_km"].to_numpy()
    found: dict[str, Any] = {
        "median_difference_km": median_difference(error_km, both["error_km_plain"].to_numpy(), group)
    }
    more = both["bits"] - both["bits_plain"]
    if not more.null_count():
        spans = bootstrap_intervals(error_km, 1.0, group, shares={"bits": more.to_numpy()})
        found["bits_difference"] = spans.get("bits")
    return found


def _mean(metrics: Sequence[Mapping[str, Any]], key: str) -> float | None:
    values = [found.get(key) for found in metrics]
    return None if None in values else float(np.mean(values))  # type: ignore[arg-type]


def _check_plan(out: Path, plan: Mapping[str, Any]) -> None:
    if not (out / PLAN).is_file():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise BadRecipeError(f"{out} is not empty and holds no ablation; choose a new folder")
        return
    held = json.loads((out / PLAN).read_text(encoding="utf-8"))
    for part in ("variants", "collections"):
        for name in plan[part].keys() & held[part].keys():
            if plan[part][name] != held[part][name]:
                raise BadRecipeError(f"{out} was begun with another {name}; choose a new folder")
    if plan["folds"] != held["folds"]:
        raise BadRecipeError(f"{out} was begun with {held['folds']} folds; choose a new folder")
