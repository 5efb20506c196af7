"""The one artefact of training: a folder that holds all that an answer needs, and proves that it is whole."""

import platform
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
from graticule.model.index import CELLS, FILES, FORMAT, INDEX, RECIPE, WEIGHTS, migrate, own_hash, read_index
from graticule.model.preprocess import Preprocess
from graticule.partition import Partition, read_partition


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


def _portable(recipe: Recipe) -> dict[str, Any]:
    """The recipe without the path of a weights file: a bundle brings its own weights and tells no one's folders."""
    tree = recipe.model_dump(mode="json")
    for part in (tree["encoder"], tree["encoder"]["then"]):
        if part and part["weights"]:
            part["weights"] = Path(part["weights"]).name
    return tree
