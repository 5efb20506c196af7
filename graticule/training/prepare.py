"""A run before its first epoch: which photos train, what they give away about the test, and both written down."""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from graticule.config import Recipe
from graticule.errors import BadRecipeError
from graticule.files import write_json, write_parquet
from graticule.model.index import INDEX, RUN, TRAINING
from graticule.partition import Partition, grow
from graticule.photos.columns import is_empty
from graticule.photos.leakage import audit
from graticule.photos.shards import url_of
from graticule.photos.splits import make_split
from graticule.photos.table import MARKED, Photos
from graticule.sections import LabelCells
from graticule.training.devices import Machines

PHOTOS, HISTORY, CHECKPOINTS = "photos.parquet", "history.csv", "checkpoints"
AUDIT, LAST = "audit.json", "last.ckpt"
# What may be another when a run goes on: no weight depends on it (the order of photos is that of the first run's
# workers, which checkpoints keep), and a bundle has what was asked for last.
HARMLESS = frozenset({"name", "answer", "temperature", "train.checkpoint_minutes", "train.workers"})


@dataclass(frozen=True, slots=True)
class Run:
    """A run that is written down and may begin.

    Attributes:
        split: the part of each photo, as :func:`split_photos` gives it, shape ``(N,)``.
        folder: ``training`` beside the bundle.
    """

    recipe: Recipe
    photos: Photos
    split: NDArray[Any]
    folder: Path

    def part(self, name: str) -> Photos:
        """The photos of one part, such as ``train``."""
        return self.photos.take(self.split == name)


def prepare(
    recipe: Recipe, photos: Photos, out: Path, *, resume: bool = False, machines: Machines | None = None
) -> Run:
    """Divide the photos, audit the division, and write both to ``out/training``; of several processes the first does.

    Raises:
        BadRecipeError: the recipe does not fit the photos, or ``out`` holds another run.
        BadTableError: the photos are a benchmark, for evaluation only.
    """
    photos.check_trainable()
    split = split_photos(recipe, photos)
    run = Run(recipe, photos, split, out / TRAINING)
    if machines and not machines.is_first:
        return run
    fingerprint = run_fingerprint(recipe, photos, split)
    if check_output_folder(out, resume):
        check_same_run(out, fingerprint, HARMLESS)
    run.folder.mkdir(parents=True, exist_ok=True)
    # Where the photos lie, so that they can be asked again as neighbours. The folder is not part of the bundle.
    root = photos.root if url_of(photos.root) else photos.root.resolve()
    write_json(run.folder / RUN, {"fingerprint": fingerprint, "root": str(root)})
    write_parquet(run.folder / PHOTOS, photos.frame.with_columns(pl.Series("split", split)))
    test = run.part("test")
    if len(test):
        write_json(run.folder / AUDIT, audit(run.part("train"), test).to_json())
    return run


def split_photos(recipe: Recipe, photos: Photos) -> NDArray[Any]:
    """Which part each photo belongs to: ``train``, ``val``, ``test`` or ``buffer``, shape ``(N,)``.

    A photo that may not train (:meth:`Photos.may_train`) is ``marked`` where it would be ``train``.
    """
    wanted = recipe.split
    # A split that was written into the dataset holds where the recipe asks for none of its own.
    written = "split" not in recipe.model_fields_set and not is_empty(photos, "split")
    by = "column" if written else wanted.by
    strata = None
    if by == "random":  # report A stratified its frames by cell
        strata = grow_cells(recipe, photos).rows_of(photos)
    split = make_split(
        photos,
        by,
        shares=(1 - wanted.val - wanted.test, wanted.val, wanted.test),
        seed=recipe.seed,
        block_km=wanted.block_km,
        buffer_km=wanted.buffer_km,
        strata=strata,
    )
    return np.where((split == "train") & ~photos.may_train(), MARKED, split)


def grow_cells(recipe: Recipe, photos: Photos) -> Partition:
    """The recipe's cells over these photos."""
    cells = recipe.cells
    return grow(photos.lat, photos.lon, labels=_labels(recipe, photos), seed=recipe.seed, **cells.model_dump())


def _labels(recipe: Recipe, photos: Photos) -> Sequence[Any]:
    """The values that are the classes, one a photo; none where the classes are not those of a column."""
    cells = recipe.cells
    return photos.column(cells.label).tolist() if isinstance(cells, LabelCells) else ()


def run_fingerprint(recipe: Recipe, photos: Photos, split: NDArray[Any]) -> dict[str, Any]:
    """What a run depends on: its recipe, and hashes of its photos, of their labels and of the part of each.

    Args:
        split: of :func:`split_photos`. Whatever columns it was made from (split, marked, sequence, place, times), a
            change of who trains is a change of this array.
    """
    where = [photos.lat.tolist(), photos.lon.tolist()]
    return {
        # Whether memory is checked changes no weight, and the advice of the check is to resume without it.
        "recipe": recipe.model_dump(mode="json", exclude={"train": {"check_memory"}}),
        "photos": _digest([photos.frame["path"].to_list(), *where]),
        "labels": _digest(list(_labels(recipe, photos))),
        "split": _digest(split.tolist()),
    }


def _digest(values: list[Any]) -> str:
    return hashlib.sha256(json.dumps(values, default=str).encode()).hexdigest()


def check_output_folder(out: Path, resume: bool) -> bool:
    """Make sure that a run may write to ``out``: nothing of another run is overwritten unasked.

    Returns:
        Whether there is a run to go on with.

    Raises:
        BadRecipeError: there is one and ``resume`` is not given, or there is something else.
    """
    folder = out / TRAINING
    if not (folder / RUN).exists():
        if out.exists() and (not out.is_dir() or any(path.is_file() for path in out.rglob("*"))):
            raise BadRecipeError(f"{out} is not empty and holds no run; choose a new folder")
        return False
    if not (folder / CHECKPOINTS / LAST).exists() and not (out / INDEX).exists():
        return False  # it never finished an epoch: nothing is lost by starting again
    if not resume:
        raise BadRecipeError(
            f"{out} holds a run already; add --resume to go on with it, or choose another folder or remove this one"
        )
    return True


def check_same_run(out: Path, fingerprint: Mapping[str, Any], harmless: Collection[str] = ()) -> None:
    """Make sure that the run in ``out`` is the one with this :func:`run_fingerprint`.

    Args:
        harmless: settings that may be others, by their dotted names.

    Raises:
        BadRecipeError: it was started with something else, or what it was started with cannot be read.
    """
    run = out / TRAINING / RUN
    try:
        held = json.loads(run.read_text(encoding="utf-8"))["fingerprint"] if run.is_file() else None
    except (ValueError, LookupError, TypeError) as error:
        raise BadRecipeError(
            f"{run} does not say what its run was started with ({type(error).__name__}); choose another folder"
        ) from error
    if held == fingerprint:
        return
    if isinstance(held, dict):
        differs = _differences(held, fingerprint, harmless)
    else:
        differs = "it was started by another graticule"
    if not differs:
        return
    raise BadRecipeError(
        f"the run in {out} is another one: {differs}. Go on with what it was started with, or choose another folder"
    )


def _differences(held: Mapping[str, Any], asked: Mapping[str, Any], harmless: Collection[str]) -> str:
    """What of a run differs from what is asked for, in words; nothing where only what is harmless does."""
    before, now = (_flat(tree["recipe"]) for tree in (held, asked))
    found = [
        f"{name} is {now.get(name)!r} and was {before.get(name)!r}"
        for name in sorted((before.keys() | now.keys()) - set(harmless))
        if before.get(name) != now.get(name)
    ]
    names = {"photos": "the photos are others", "labels": "the labels are others", "split": "the split is another"}
    found += [words for part, words in names.items() if held.get(part) != asked[part]]
    return "; ".join(found[:5]) + (f"; and {len(found) - 5} more" if len(found) > 5 else "")


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A tree of sections as values by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
