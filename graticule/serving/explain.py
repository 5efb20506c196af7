"""Why an answer is what it is: a map over the photo with progress, and answers of photos in part hidden."""

import asyncio
import base64
import json
import threading
from collections.abc import AsyncIterator, Callable
from io import BytesIO
from typing import Any

import numpy as np
from fastapi.responses import StreamingResponse
from numpy.typing import NDArray
from PIL import Image

from graticule.errors import BadRecipeError, GraticuleError
from graticule.explaining.methods import METHODS
from graticule.inference.locate import Locator
from graticule.model.loading import Progress
from graticule.photos.images import decode
from graticule.serving.service import Service

Box = tuple[float, float, float, float]
Work = Callable[[Progress], dict[str, Any]]
FOR, AGAINST = (213, 94, 0), (0, 114, 178)  # Okabe and Ito's vermilion and blue: all readers can tell them apart


class GoneError(Exception):
    """Nobody waits for this any more."""


def parse_box(text: str) -> Box:
    """``x0,y0,x1,y1`` as shares of width and height.

    Raises:
        BadRecipeError: no such box.
    """
    try:
        x0, y0, x1, y1 = (float(part) for part in text.split(","))
    except ValueError as error:
        raise BadRecipeError(f"hide takes x0,y0,x1,y1 in [0, 1], such as 0.1,0.5,0.4,1; found {text[:80]!r}") from error
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        raise BadRecipeError(f"hide {text[:80]} is no box; it takes 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1")
    return x0, y0, x1, y1


def hidden(locator: Locator, data: bytes, box: Box) -> bytes:
    """The photo with a box in the colour that the network sees as nothing, as PNG.

    Raises:
        BadPhotoError: the photo cannot be read.
    """
    preprocess = locator.bundle.preprocess
    shortest = min(preprocess.height, preprocess.width) if preprocess.resize == "squash" else preprocess.longest
    pixels = decode(data, shortest_side=shortest)
    height, width = pixels.shape[:2]
    x0, y0, x1, y1 = box
    pixels = pixels.copy()
    pixels[round(y0 * height) : round(y1 * height), round(x0 * width) : round(x1 * width)] = np.round(
        255 * np.array(preprocess.mean)
    )
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def explain_json(locator: Locator, data: bytes, method: str | None, fix: dict[str, Any]) -> Work:
    """The explanation as work to be done in a thread; without a method there is the fix alone."""

    def work(progress: Progress) -> dict[str, Any]:
        if method is None:
            return {"method": None, "heatmap_png": None, "scores": None, "fix": fix}
        options = {"progress": progress} if method == "occlusion" else {}
        found = METHODS[method](locator, data, **options)
        scores = {
            "cell": locator.bundle.partition.names[found.target],
            "probability": round(found.probability, 6),
            "unit": found.unit,
            "signed": found.signed,
            "most": float(found.heat.max()),
            "least": float(found.heat.min()),
        }
        return {"method": method, "heatmap_png": overlay(found.heat, found.signed), "scores": scores, "fix": fix}

    return work


def overlay(heat: NDArray[np.float32], signed: bool) -> str:
    """A map to lay over the photo, base64 of a PNG: what matters is opaque, what speaks against is blue."""
    top = max(float(np.quantile(np.abs(heat), 0.995)), 1e-12)
    pixels = np.empty((*heat.shape, 4), np.uint8)
    pixels[..., :3] = np.where((heat >= 0)[..., None], FOR, AGAINST)
    pixels[..., 3] = np.round(255 * np.minimum(np.abs(heat) / top, 1) ** (1 if signed else 0.5) * 0.85)
    file = BytesIO()
    Image.fromarray(pixels, "RGBA").save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")


def streamed(service: Service, work: Work) -> StreamingResponse:
    """Server-sent events: ``progress`` with done and total, then ``answer``, or ``problem`` with its detail."""
    loop = asyncio.get_running_loop()
    events: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
    gone = threading.Event()

    def tell(done: int, total: int, _: str = "") -> None:
        if gone.is_set():
            raise GoneError
        loop.call_soon_threadsafe(events.put_nowait, ("progress", {"done": done, "total": total}))

    async def run() -> None:
        try:
            async with service.one_explanation:
                events.put_nowait(("answer", await asyncio.to_thread(work, tell)))
        except GoneError:
            pass
        except GraticuleError as error:
            events.put_nowait(("problem", {"status": 422, "detail": str(error)}))

    async def lines() -> AsyncIterator[str]:
        task = asyncio.create_task(run())
        try:
            name = ""
            while name not in ("answer", "problem"):
                name, value = await events.get()
                yield f"event: {name}\ndata: {json.dumps(value)}\n\n"
        finally:
            gone.set()
            task.cancel()

    return StreamingResponse(lines(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})
