"""The index of a bundle: its format, and the proof that it is whole. No torch, so that commands can ask early."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from shlex import quote
from typing import Any

from graticule.errors import BundleError
from graticule.files import fetched_folder
from graticule.trees import packaged_recipes

FORMAT = 6
OLDEST = 2  # the first format that stays readable; tests/bundles keeps a bundle of each
# How the index and the recipe's tree of a format become those of the next. FORMAT grows with each entry.
Step = Callable[[dict[str, Any], dict[str, Any]], tuple[dict[str, Any], dict[str, Any]]]


def _with(recipe: dict[str, Any], section: str, **settings: Any) -> dict[str, Any]:
    """A recipe's tree with what was built in before it became a setting."""
    return recipe | {section: recipe[section] | settings}


STEPS: dict[int, Step] = {
    2: lambda index, recipe: (index, recipe),  # 3 may hold a calibration
    3: lambda index, recipe: (index, recipe),  # 4 keeps known photos along their principal axes
    # 5 has the matrix's root, and may hold thumbnails
    4: lambda index, recipe: (index, _with(recipe, "encoder", second_order_root="elements")),
    5: lambda index, recipe: (index, recipe),  # 6 may compare halves of photos, each along axes of its own
}
WEIGHTS, CELLS, RECIPE, INDEX = "weights.safetensors", "cells.parquet", "recipe.yaml", "bundle.json"
FILES = (WEIGHTS, CELLS, RECIPE)
CALIBRATION, KNOWN = "calibration.json", "known.safetensors"
CONFIDENCE = (CALIBRATION, KNOWN)  # both, or neither in a bundle that is not calibrated
THUMBNAILS = "thumbnails.safetensors"  # of the known photos, where the publisher wants them shown
CARD = "README.md"
TRAINING = "training"  # checkpoints, history and the table of photos lie there, beside the bundle's own files
RUN = "run.json"


def migrate(index: dict[str, Any], recipe: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The index and the recipe's tree of a bundle of any format from ``OLDEST`` on, as of format ``FORMAT``."""
    for number in range(index["format"], FORMAT):
        index, recipe = STEPS[number](index, recipe)
        index = index | {"format": number + 1}
    return index, recipe


def read_index(path: Path) -> dict[str, Any]:
    """The index of a bundle, which proves that it is whole; of any format that can be read.

    Raises:
        BundleError: no bundle, one of a format never kept or a newer one, or a changed index.
    """
    try:
        index = json.loads((path / INDEX).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BundleError(_no_bundle(path)) from error
    except NotADirectoryError as error:
        raise BundleError(_no_bundle(path)) from error
    except (OSError, ValueError) as error:
        raise BundleError(f"{path / INDEX} cannot be read as JSON: {error}") from error
    version = index.get("format") if isinstance(index, dict) else index
    readable = f"format {FORMAT}" if OLDEST == FORMAT else f"formats {OLDEST} to {FORMAT}"
    sentence = f"the bundle {path} has format {version!r}; this version of graticule reads {readable}"
    if type(version) is not int or version < OLDEST or not isinstance(index, dict):
        raise BundleError(sentence)
    if version > FORMAT:
        raise BundleError(f"{sentence}. A newer one wrote it: upgrade graticule (pip install --upgrade graticule)")
    hashes = index.get("sha256")
    if isinstance(hashes, dict) and (strange := sorted(hashes.keys() - {*FILES, *CONFIDENCE, THUMBNAILS, INDEX})):
        raise BundleError(
            f"{path / INDEX} names files that are no part of a bundle: {', '.join(strange)}; do not use it"
        )
    if not isinstance(hashes, dict) or hashes.get(INDEX) != own_hash(index) or len(hashes) <= len(FILES):
        raise BundleError(
            f"{path / INDEX} is not what training wrote (its SHA-256 differs); "
            f"copy the bundle again from where it was made"
        )
    return index


def fetched() -> list[str]:
    """Names of the public models that lie here as bundles."""
    return sorted(path.parent.name for path in fetched_folder().glob(f"*/{INDEX}"))


def _no_bundle(path: Path) -> str:
    if (path / TRAINING / RUN).is_file():
        return (
            f"the training in {path} was interrupted, so it is no bundle yet; repeat its command with --resume, "
            f"which goes on where it stopped"
        )
    if path.suffix.lower() in (".yaml", ".yml"):
        made = f"graticule train {quote(str(path))} --photos PHOTOS --out BUNDLE"
        return f"{path} is a recipe, not a bundle; make one of it: {made}"
    if path.is_file():
        return f"{path} is a file, not a bundle; its folder comes first: graticule predict BUNDLE {quote(str(path))}"
    if (path / "dataset.json").is_file():
        return f"{path} is a dataset, not a bundle; give the folder that training wrote"
    if (path / "model" / INDEX).is_file():  # what `graticule start` made
        return f"{path} is no bundle itself; its bundle lies in {path / 'model'}: give that"
    if not path.exists() and str(path) in packaged_recipes():
        return f"{path} is a recipe, not a bundle; make one of it: graticule train {path} --photos PHOTOS --out BUNDLE"
    found = "that folder is not there" if not path.is_dir() else f"it has no {INDEX}"
    return f"{path} is no bundle: {found}. `graticule train` and `graticule get` write one"


def own_hash(index: dict[str, Any]) -> str:
    """Hash of the index without its own hash."""
    others = {name: value for name, value in index["sha256"].items() if name != INDEX}
    text = json.dumps(index | {"sha256": others}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
