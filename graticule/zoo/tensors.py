"""Tensors of published files: read without running code, renamed, and put where they belong or refused by name."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graticule.config import parse_recipe
from graticule.errors import BadWeightsError
from graticule.model.bundle import Bundle
from graticule.model.geolocator import build_geolocator, preprocess_of
from graticule.partition import Partition

State = dict[str, Tensor]
Renames = Sequence[tuple[str, str]]  # of patterns and what stands for them; the first that fits a whole name counts


def read_tensors(path: Path) -> State:
    """The tensors of a safetensors file or of a pickle, of which nothing is run; of half precision in single.

    Raises:
        BadWeightsError: it is neither, is cut off, or holds more than tensors.
    """
    from pickle import UnpicklingError

    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise BadWeightsError(
            f"{path} holds more than tensors and would run code if it were read; it was not. Take a safetensors file "
            f"of the same weights, or another source"
        ) from error
    except (SafetensorError, EOFError, OSError, RuntimeError, ValueError) as error:
        why = str(error).split(". ")[0]  # torch goes on for lines
        raise BadWeightsError(f"{path} is no file of tensors, or is cut off ({why}); fetch it again") from error
    if isinstance(state, Tensor):
        return {"": _single(state)}
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise BadWeightsError(f"{path} should hold tensors by name; it holds other things too, so it is another file")
    return {str(key): _single(value) for key, value in state.items()}


def _single(value: Tensor) -> Tensor:
    """Numbers of half precision, as files are often published, in single: what is computed with them is."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def renamed(state: Mapping[str, Tensor], renames: Renames, path: Path, *, left_out: Iterable[str] = ()) -> State:
    """The tensors under our names.

    Args:
        left_out: patterns of names that are not needed.

    Raises:
        BadWeightsError: a name that nobody knows.
    """
    out: State = {}
    for key, value in state.items():
        if any(re.fullmatch(pattern, key) for pattern in left_out):
            continue
        for pattern, ours in renames:
            if re.fullmatch(pattern, key):
                out[re.sub(pattern, ours, key)] = value
                break
        else:
            raise BadWeightsError(
                f"{path} has a tensor {key!r}, which this importer does not know, so nothing was read"
            )
    return out


def fill(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load all tensors of a module, in its own precision.

    Raises:
        BadWeightsError: one is missing, is too many, or has another shape.
    """
    own = module.state_dict()
    missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or unknown:
        counts = [f"lacks {len(missing)} of its tensors, such as {missing[0]!r}"] if missing else []
        counts += [f"has {len(unknown)} too many, such as {unknown[0]!r}"] if unknown else []
        raise BadWeightsError(f"{path} is not laid out as this importer knows it: it {' and '.join(counts)}")
    for key, value in own.items():
        if state[key].shape != value.shape:
            raise BadWeightsError(
                f"{path} is not laid out as this importer knows it: {key!r} has shape {tuple(state[key].shape)}, not "
                f"{tuple(value.shape)}"
            )
    module.load_state_dict(dict(state))


def blank_bundle(tree: Mapping[str, Any], partition: Partition) -> Bundle:
    """A bundle of a recipe's tree with random weights, to be filled."""
    recipe = parse_recipe(tree)
    model = build_geolocator(recipe, len(partition), fetch=False).eval()
    return Bundle(model, partition, preprocess_of(model, recipe), recipe)
