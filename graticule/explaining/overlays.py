"""Maps of what an answer depends on, to lay over the photo in a page."""

import base64
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from graticule.explaining.methods import METHODS, Explanation
from graticule.inference.locate import Locator
from graticule.model.loading import Progress, silent
from graticule.photos.images import inspect

MOST_SIDE = 160  # pixels of a map's longer side: single pixels do not show over a photo
FOR, AGAINST = (213, 94, 0), (0, 114, 178)  # Okabe and Ito's vermilion and blue: all readers can tell them apart


def quick(
    locator: Locator,
    data: bytes,
    method: str,
    progress: Progress = silent,
    sketch: Callable[[NDArray[np.float32]], None] | None = None,
) -> Explanation:
    """A method of :data:`METHODS`, as coarse as a page needs: of occlusion a quarter of the squares of a printed map.

    Args:
        sketch: of occlusion: told a coarse map on the way.

    Raises:
        BadPhotoError: the photo cannot be read.
        BadRecipeError: as the methods.
    """
    options: dict[str, Any] = {}
    if method == "occlusion":
        facts, preprocess = inspect(data), locator.bundle.preprocess
        patch = round(min(preprocess.shape_for(facts.height, facts.width)) / 7)
        options = {"progress": progress, "patch": patch, "stride": max(1, patch // 2), "sketch": sketch}
    return METHODS[method](locator, data, **options)


def overlay(heat: NDArray[np.float32], signed: bool) -> str:
    """A map to lay over the photo, base64 of a PNG: what matters is opaque, what speaks against is blue."""
    size = -(-max(heat.shape) // MOST_SIDE)
    height, width = heat.shape[0] // size, heat.shape[1] // size
    heat = heat[: height * size, : width * size].reshape(height, size, width, size).mean(axis=(1, 3))
    top = max(float(np.quantile(np.abs(heat), 0.995)), 1e-12)
    pixels = np.empty((*heat.shape, 4), np.uint8)
    pixels[..., :3] = np.where((heat >= 0)[..., None], FOR, AGAINST)
    pixels[..., 3] = np.round(255 * np.minimum(np.abs(heat) / top, 1) ** (1 if signed else 0.5) * 0.85)
    file = BytesIO()
    Image.fromarray(pixels, "RGBA").save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")
