"""The one artefact of training: a folder that holds all that an answer needs, and proves that it is whole."""

import json
import platform
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save as save_arrays
from safetensors.torch import load_file, save

from graticule.belief.confidence import KNOWN_ARRAYS, Confidence, Known
from graticule.config import Recipe, parse_recipe
from graticule.errors import BundleError, GraticuleError
from graticule.files import sha256_of, write_bytes, write_json, write_text
from graticule.model.geolocator import Geolocator, build_geolocator
from graticule.model.index import (
    CALIBRATION,
    CELLS,
    CONFIDENCE,
    FILES,
    FORMAT,
    INDEX,
    KNOWN,
    RECIPE,
    THUMBNAILS,
    WEIGHTS,
    migrate,
    own_hash,
    read_index,
)
from graticule.model.preprocess import Preprocess
from graticule.model.thumbnails import Thumbnails
from graticule.partition import Partition, read_partition


@dataclass(frozen=True)
class Bundle:
    """A trained geolocator.

    Attributes:
        facts: what was measured while it was made: photos, places, losses, whether the photos were synthetic.
        path: the folder it was read from or written to, if any.
        confidence: how sure it may be, as photos showed that did not train; none where there were too few of them.
        thumbnails: pictures of the known photos; none unless its publisher put them in.
    """

    model: Geolocator
    partition: Partition
    preprocess: Preprocess
    recipe: Recipe
    facts: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None
    confidence: Confidence | None = None
    thumbnails: Thumbnails | None = None

    def write(self, path: Path, *, keep_weights: bool = False) -> Path:
        """Write the folder's files, the index with their hashes last.

        Args:
            keep_weights: the weights there are the same already; a public model's take long to write.

        Raises:
            WriteError: the disk is full or the folder cannot be written.
        """
        path.mkdir(parents=True, exist_ok=True)
        (path / INDEX).unlink(missing_ok=True)  # without its index a half-renewed bundle is no bundle
        if not keep_weights:
            weights = {k: v.detach().cpu().contiguous() for k, v in self.model.state_dict().items()}
            write_bytes(path / WEIGHTS, save(weights))
        self.partition.write(path / CELLS)
        write_text(path / RECIPE, yaml.safe_dump(portable(self.recipe), sort_keys=False))
        names: tuple[str, ...] = FILES
        pictures = self.thumbnails.to_bytes() if self.thumbnails else None  # they may be read from this very folder
        for name in (*CONFIDENCE, THUMBNAILS):
            (path / name).unlink(missing_ok=True)
        if self.confidence:
            names = (*FILES, *CONFIDENCE)
            write_json(path / CALIBRATION, self.confidence.to_json())
            known = self.confidence.known
            arrays = {name: getattr(known, name) for name in KNOWN_ARRAYS}
            held = {name: np.ascontiguousarray(array) for name, array in arrays.items() if array is not None}
            write_bytes(path / KNOWN, save_arrays(held))
            if pictures is not None:
                names = (*names, THUMBNAILS)
                write_bytes(path / THUMBNAILS, pictures)
        index: dict[str, Any] = {
            "format": FORMAT,
            "preprocess": self.preprocess.to_json(),
            "facts": self.facts,
            "versions": {"python": platform.python_version()}
            | {name: metadata.version(name) for name in ("graticule", "torch", "torchvision", "timm", "lightning")},
            "sha256": {name: sha256_of(path / name) for name in names},
        }
        index["sha256"][INDEX] = own_hash(index)
        write_json(path / INDEX, index)
        return path

    @classmethod
    def read(cls, path: Path) -> "Bundle":
        """Open a bundle, after checking every byte of it.

        Raises:
            BundleError: no bundle, one of a format never kept or a newer one, a file missing, a byte changed.
        """
        index = read_index(path)
        confident = any(name in index["sha256"] for name in CONFIDENCE)
        shown = (THUMBNAILS,) if THUMBNAILS in index["sha256"] else ()
        for name in (*FILES, *(CONFIDENCE if confident else ()), *shown):
            if not (path / name).is_file() or name not in index["sha256"]:
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
            model = build_geolocator(recipe, len(partition), around=partition.around(), fetch=False)
            model.load_state_dict(load_file(path / WEIGHTS))
            facts = dict(index["facts"])
            confidence = _confidence(path) if confident else None
            thumbnails = Thumbnails.open(path / THUMBNAILS) if shown else None
            if thumbnails and (not confidence or len(thumbnails) != len(confidence.known.lat)):
                raise ValueError(f"{THUMBNAILS} does not hold a picture for each known photo")
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
        return cls(model, partition, preprocess, recipe, facts, path, confidence, thumbnails)


def _confidence(path: Path) -> Confidence:
    arrays = load_arrays(path / KNOWN)
    known = Known(**{name: arrays.get(name) for name in KNOWN_ARRAYS})
    return Confidence.from_json(json.loads((path / CALIBRATION).read_text(encoding="utf-8")), known)


def portable(recipe: Recipe) -> dict[str, Any]:
    """The recipe without the path of a weights file: a bundle brings its own weights and tells no one's folders."""
    tree = recipe.model_dump(mode="json")
    for part in (tree["encoder"], tree["encoder"]["then"]):
        if part and part["weights"]:
            part["weights"] = Path(part["weights"]).name
    return tree
