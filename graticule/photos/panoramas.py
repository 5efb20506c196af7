"""Views out of a panorama: what a camera would have seen that looked one way. Arrays in, arrays out.

A panorama is equirectangular: a column is a heading, a row an angle above the horizon.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]
RATIO = (1.96, 2.04)  # of width to height, of a picture that shows all around


class Area(NamedTuple):
    """The part of the sphere that a picture shows, in pixels of the whole panorama (Photo Sphere XMP Metadata)."""

    full_width: float
    full_height: float
    left: float
    top: float
    width: float
    height: float


def whole(width: int, height: int) -> Area | None:
    """All of the sphere, where a picture has the shape for it."""
    return Area(width, height, 0, 0, width, height) if RATIO[0] <= width / height <= RATIO[1] else None


def perspective(rgb: Pixels, area: Area, turn_deg: float, field_deg: float, width: int, height: int) -> Pixels | None:
    """A level view of a pinhole camera, shape ``(height, width, 3)``; None where the picture does not show all of it.

    Args:
        rgb: the picture, shape ``(H, W, 3)``, of any size.
        turn_deg: where the view looks, degrees clockwise from the middle of the picture.
        field_deg: of view, from its left to its right side, in (0, 180).
    """
    if not 0 < field_deg < 180:
        raise ValueError(f"a flat picture sees more than 0 and less than 180 degrees, not {field_deg:g}")
    scale = rgb.shape[1] / area.width
    # Where a view needs fewer pixels than there are, they are averaged first, else every few would be picked.
    density = 2 * np.tan(np.radians(field_deg / 2)) / width * area.full_width * scale / (2 * np.pi)
    if density > 1.25:
        size = max(1, round(rgb.shape[1] / density)), max(1, round(rgb.shape[0] / density))
        rgb = np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BOX))
    reach = np.tan(np.radians(field_deg / 2))
    x = reach * (2 * (np.arange(width) + 0.5) / width - 1)
    y = reach * height / width * (1 - 2 * (np.arange(height)[:, None] + 0.5) / height)
    lon = np.degrees(np.arctan(x))[None, :] + turn_deg
    lat = np.degrees(np.arctan2(y, np.hypot(x, 1.0)[None, :]))
    # From degrees to pixels of the whole panorama, and on to pixels of the picture at hand.
    middle = area.left + area.width / 2
    across = (middle + lon / 360 * area.full_width - area.left) % area.full_width
    down = (0.5 - lat / 180) * area.full_height - area.top
    around = area.width >= area.full_width - 1
    if not around and (across > area.width).any():
        return None
    if (down < 0).any() or (down > area.height).any():
        return None
    column = np.broadcast_to(across, lat.shape) * (rgb.shape[1] / area.width) - 0.5
    row = down * (rgb.shape[0] / area.height) - 0.5
    return _sampled(rgb, row, column, around)


def _sampled(rgb: Pixels, row: Floats, column: Floats, around: bool) -> Pixels:
    """Bilinear; columns go around, or end at the sides as rows do."""
    top, left = np.floor(row).astype(np.int64), np.floor(column).astype(np.int64)
    down, right = (row - top)[..., None], (column - left)[..., None]

    def columns(at: NDArray[np.int64]) -> NDArray[np.int64]:
        return at % rgb.shape[1] if around else np.clip(at, 0, rgb.shape[1] - 1)

    rows = [np.clip(top + step, 0, rgb.shape[0] - 1) for step in (0, 1)]
    sides = [columns(left + step) for step in (0, 1)]
    upper, lower = (rgb[at, sides[0]] * (1 - right) + rgb[at, sides[1]] * right for at in rows)
    return np.round(upper * (1 - down) + lower * down).astype(np.uint8)
