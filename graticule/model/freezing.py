"""Which parts of a network may move."""

import difflib
import re
from collections.abc import Collection, Iterable

from torch import nn

from graticule.errors import BadRecipeError
from graticule.model.geolocator import Geolocator
from graticule.model.hybrid import Hybrid

BUT_LAST = re.compile(r"^(?P<part>[\w.]+)\[:-(?P<last>\d+)\]$")
# Not timm's group_matcher: torchvision's networks have none, and it makes a last norm a block of its own.
# What timm and torchvision call the rows of a network: blocks.3, stages.1, layer4, features.7, encoder_layer_11, ...
NUMBERED = re.compile(
    r"^(?:(?:\w+\.)*?(?:blocks\.|stages\.|layers\.|features\.|layer|encoder_layer_|stage|denseblock|s))?(\d+)\."
)


def frozen_parameters(model: Geolocator, patterns: Iterable[str]) -> set[str]:
    """Names of the network's parameters that the patterns hold still.

    A pattern is ``encoder``, ``head`` or a module of the encoder (``cnn``, ``vit``, ``layer1``, ``blocks.0``), and
    may end in ``[:-N]``: all of that part but its last N blocks and what follows them. Blocks are a transformer's
    blocks, a CNN's stages, or whatever the network numbers; those of a hybrid are its transformer's.

    Raises:
        BadRecipeError: no such part, or one without so many blocks.
    """
    return {name for pattern in patterns for name in _matching(model, pattern)}


def freeze(model: nn.Module, frozen: Collection[str], movable: Collection[str]) -> None:
    """Let the ``movable`` parameters move but those ``frozen``; a part of which none may move also evaluates.

    In training mode a frozen batch normalisation would still renew its running mean, and dropout would still drop.
    """
    model.train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in movable and name not in frozen)
    for module in model.modules():
        own = list(module.parameters())
        if own and not any(p.requires_grad for p in own):
            module.eval()


def _matching(model: Geolocator, pattern: str) -> list[str]:
    body = "encoder.body."
    but_last = BUT_LAST.match(pattern)
    part = but_last["part"] if but_last else pattern
    prefix = part if part in ("encoder", "head") else body + part
    found = [name for name, _ in model.named_parameters() if name == prefix or name.startswith(prefix + ".")]
    if not found:
        modules = [name for name, module in model.encoder.body.named_modules() if name and list(module.parameters())]
        known = ["encoder", "head", *modules]
        near = difflib.get_close_matches(part, known, n=3) or [n for n in known if "." not in n]
        raise BadRecipeError(f"nothing to freeze is called {pattern!r}; there are {', '.join(near[:8])}")
    if not but_last:
        return found
    last = int(but_last["last"])
    root = body if part == "encoder" else prefix + "."
    module = model.encoder.body if part == "encoder" else model.get_submodule(prefix)
    groups = _blocks(module)
    if not 0 < last < len(groups):
        most = len(groups) - 1
        raise BadRecipeError(f"{pattern!r}: {part} has {most} blocks after its first, so N is at most {most}")
    return [root + name for group in groups[: len(groups) - last] for name in group]


def _blocks(module: nn.Module) -> list[list[str]]:
    """The parameters of a network block by block: the stem first, a last norm with the last block."""
    rows: list[list[str]] = [[]]
    current = None
    for name, _ in module.named_parameters():
        number = None if isinstance(module, Hybrid) and name.startswith("cnn.") else NUMBERED.match(name)
        if number and number[1] != current:
            current = number[1]
            rows.append([])
        rows[-1].append(name)
    return [names for names in rows if names]
