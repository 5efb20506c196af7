"""The one artefact of training: a folder that holds all that an answer needs, and proves that it is whole."""

import hashlib
import json
import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from graticule.config import Recipe, parse_recipe
from graticule.errors import BundleError, GraticuleError
from graticule.files import sha256_of, write_bytes, write_json, write_text
from graticule.model.geolocator import Geolocator, build_geolocator
from graticule.model.preprocess import Preprocess
from graticule.partition import Partition, read_partition

FORMAT = 2
OLDEST = 2  # the first format that stays readable; tests/bundles keeps a bundle of each
# How the index and the recipe's tree of a format become those of the next. FORMAT grows with each entry.
Step = Callable[[dict[str, Any], dict[str, Any]], tuple[dict[str, Any], dict[str, Any]]]
STEPS: dict[int, Step] = {}
WEIGHTS, CELLS, RECIPE, INDEX = "weights.safetensors", "cells.parquet", "recipe.yaml", "bundle.json"
FILES = (WEIGHTS, CELLS, RECIPE)
TRAINING = "training"  # checkpoints, history and the table of photos lie there, beside the bundle's own files


@dataclass(frozen=True)
class Bundle:
    """A trained geolocator.

    Attributes:
        facts: what was measured while it was made: photos, places, losses, whether the photos were synthetic.
        path: the folder it was read from or written to, if any.
    """

    model: Geolocator
    partition: Partition
    preprocess: Preprocess
    recipe: Recipe
    facts: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None

    def write(self, path: Path) -> Path:
        """Write the folder's files, the index with their hashes last.

        Raises:
            WriteError: the disk is full or the folder cannot be written.
        """
        path.mkdir(parents=True, exist_ok=True)
        (path / INDEX).unlink(missing_ok=True)  # without its index a half-renewed bundle is no bundle
        weights = {k: v.detach().cpu().contiguous() for k, v in self.model.state_dict().items()}
        write_bytes(path / WEIGHTS, save(weights))
        self.partition.write(path / CELLS)
        write_text(path / RECIPE, yaml.safe_dump(_portable(self.recipe), sort_keys=False))
        index: dict[str, Any] = {
            "format": FORMAT,
            "preprocess": self.preprocess.to_json(),
            "facts": self.facts,
            "versions": {"python": platform.python_version()}
            | {name: metadata.version(name) for name in ("graticule", "torch", "torchvision", "timm", "lightning")},
            "sha256": {name: sha256_of(path / name) for name in FILES},
        }
        index["sha256"][INDEX] = _own_hash(index)
        write_json(path / INDEX, index)
        return path

    @classmethod
    def read(cls, path: Path) -> "Bundle":
        """Open a bundle, after checking every byte of it.

        Raises:
            BundleError: no bundle, one of a format never kept or a newer one, a file missing, a byte changed.
        """
        index = _read_index(path)
        for name in FILES:
            if not (path / name).is_file():
                raise BundleError(f"the bundle {path} lacks {name}; copy the whole folder again")
            if sha256_of(path / name) != index["sha256"][name]:
                raise BundleError(
                    f"{path / name} is not the file that training wrote (its SHA-256 differs); "
                    f"copy the bundle again from where it was made"
                )
        try:
            partition = read_partition(path / CELLS)
            index, tree = migrate(index, yaml.safe_load((path / RECIPE).read_text(encoding="utf-8")))
            recipe = parse_recipe(tree, where=str(path / RECIPE))
            preprocess = Preprocess.from_json(dict(index["preprocess"]))
            recipe.encoder.options.pop("checkpoint_path", None)  # timm would read that file; the weights are here
            model = build_geolocator(recipe, len(partition), fetch=False)
            model.load_state_dict(load_file(path / WEIGHTS))
            facts = dict(index["facts"])
        except (
            GraticuleError,
            SafetensorError,
            yaml.YAMLError,
            RuntimeError,
            LookupError,
            TypeError,
            ValueError,
        ) as error:
            raise BundleError(
                f"the bundle {path} does not open with this version of graticule: {error}; it was made with "
                f"{index.get('versions')}"
            ) from error
        model.eval()
        return cls(model, partition, preprocess, recipe, facts, path)


def migrate(index: dict[str, Any], recipe: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The index and the recipe's tree of a bundle of any format from ``OLDEST`` on, as of format ``FORMAT``."""
    for number in range(index["format"], FORMAT):
        index, recipe = STEPS[number](index, recipe)
        index = index | {"format": number + 1}
    return index, recipe


def _read_index(path: Path) -> dict[str, Any]:
    try:
        index = json.loads((path / INDEX).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        found = "that folder is not there" if not path.is_dir() else f"it has no {INDEX}"
        raise BundleError(f"{path} is no bundle: {found}. `graticule train` writes one") from error
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
    if isinstance(hashes, dict) and not hashes.keys() <= {*FILES, INDEX}:
        strange = sorted(hashes.keys() - {*FILES, INDEX})
        raise BundleError(
            f"{path / INDEX} names files that are no part of a bundle: {', '.join(strange)}; do not use it"
        )
    if not isinstance(hashes, dict) or hashes.get(INDEX) != _own_hash(index) or len(hashes) <= len(FILES):
        raise BundleError(
            f"{path / INDEX} is not what training wrote (its SHA-256 differs); "
            f"copy the bundle again from where it was made"
        )
    return index


def _own_hash(index: dict[str, Any]) -> str:
    """Hash of the index without its own hash."""
    others = {name: value for name, value in index["sha256"].items() if name != INDEX}
    text = json.dumps(index | {"sha256": others}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _portable(recipe: Recipe) -> dict[str, Any]:
    """The recipe without the path of a weights file: a bundle brings its own weights and tells no one's folders."""
    tree = recipe.model_dump(mode="json")
    for part in (tree["encoder"], tree["encoder"]["then"]):
        if part and part["weights"]:
            part["weights"] = Path(part["weights"]).name
    return tree
