"""Where was this photo taken, and how sure can one be?

``graticule.load("runs/city")`` opens a trained bundle; its ``locate("photo.jpg")`` answers with a point, the likely
cells and the error to expect. ``graticule.Partition`` is a division of the map; ``graticule.partition.grow`` makes one.
"""

from typing import Any

__version__ = "0.1.0"
__all__ = ["Fix", "Locator", "Partition", "load"]

_HOMES = {
    "Fix": "inference.decode",
    "Locator": "inference.locate",
    "Partition": "partition",
    "load": "inference.locate",
}


def __getattr__(name: str) -> Any:
    """Import a room when one of its names is first asked for: torch takes seconds."""
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"graticule.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'graticule' has no attribute {name!r}")
