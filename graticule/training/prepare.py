"""A run before its first epoch: which photos train, what they give away about the test, and both written down."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from graticule.config import LabelCells, Recipe
from graticule.errors import BadRecipeError
from graticule.files import write_json, write_parquet
from graticule.model.bundle import INDEX, TRAINING
from graticule.partition import Partition, grow
from graticule.photos.leakage import audit
from graticule.photos.shards import url_of
from graticule.photos.splits import is_empty, make_split
from graticule.photos.table import MARKED, Photos

PHOTOS, RUN, HISTORY, CHECKPOINTS = "photos.parquet", "run.json", "history.csv", "checkpoints"
AUDIT, LAST = "audit.json", "last.ckpt"


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


def prepare(recipe: Recipe, photos: Photos, out: Path, *, resume: bool = False) -> Run:
    """Divide the photos, audit the division, and write both to ``out/training``.

    Raises:
        BadRecipeError: the recipe does not fit the photos, or ``out`` holds another run.
        BadTableError: the photos are a benchmark, for evaluation only.
    """
    photos.check_trainable()
    split = split_photos(recipe, photos)
    run = Run(recipe, photos, split, out / TRAINING)
    fingerprint = run_fingerprint(recipe, photos, split)
    check_output_folder(out, run.folder, fingerprint, resume)
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


def run_fingerprint(recipe: Recipe, photos: Photos, split: NDArray[Any]) -> str:
    """Hash of what a run depends on: its recipe, its photos, the part of each and the labels that are its classes.

    Args:
        split: of :func:`split_photos`. Whatever columns it was made from (split, marked, sequence, place, times), a
            change of who trains is a change of this array.
    """
    columns = [photos.frame["path"].to_list(), split.tolist(), list(_labels(recipe, photos))]
    table = hashlib.sha256(recipe.model_dump_json().encode())
    table.update(json.dumps(columns, default=str).encode())
    table.update(photos.lat.tobytes() + photos.lon.tobytes())
    return table.hexdigest()


def check_output_folder(out: Path, folder: Path, fingerprint: str, resume: bool) -> None:
    """Make sure that a run may write to ``out``: nothing of another run is overwritten unasked."""
    run = folder / RUN
    if not run.exists():
        if out.exists() and any(out.iterdir()):
            raise BadRecipeError(f"{out} is not empty and holds no run; choose a new folder")
        return
    if not (folder / CHECKPOINTS / LAST).exists() and not (out / INDEX).exists():
        return  # it never finished an epoch: nothing is lost by starting again
    if not resume:
        raise BadRecipeError(
            f"{out} holds a run already; add --resume to go on with it, or choose another folder or remove this one"
        )
    check_same_run(out, fingerprint)


def check_same_run(out: Path, fingerprint: str) -> None:
    """Make sure that the run in ``out`` is the one with this :func:`run_fingerprint`.

    Raises:
        BadRecipeError: it was started with something else.
    """
    run = out / TRAINING / RUN
    if not run.is_file() or json.loads(run.read_text(encoding="utf-8")).get("fingerprint") != fingerprint:
        raise BadRecipeError(
            f"the run in {out} was started with another recipe, other photos or another split of them; "
            f"resume it with those, or choose another folder"
        )
