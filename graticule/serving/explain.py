"""Why an answer is what it is: a map over the photo with progress, and answers of photos in part hidden."""

import asyncio
import json
import logging
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import numpy as np
from fastapi.responses import StreamingResponse
from numpy.typing import NDArray
from PIL import Image

from graticule.errors import BadRecipeError, GraticuleError
from graticule.explaining.overlays import overlay, quick
from graticule.inference.locate import Locator
from graticule.model.loading import Progress
from graticule.photos.images import decode
from graticule.serving.service import Model, Service

log = logging.getLogger("graticule.serving")
Box = tuple[float, float, float, float]


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


@dataclass(frozen=True)
class Work:
    """An explanation to be made in a thread, which stops where nobody waits for it.

    Attributes:
        method: none leaves the fix alone.
        fix: the answer of the photo, as it is told.
    """

    model: Model
    data: bytes = field(repr=False)
    method: str | None
    fix: dict[str, Any]

    def __call__(
        self, progress: Progress, sketch: Callable[[NDArray[np.float32]], None] | None = None
    ) -> dict[str, Any]:
        if self.method is None:
            return {"method": None, "heatmap_png": None, "scores": None, "fix": self.fix}
        locator = self.model.locator
        found = quick(locator, self.data, self.method, progress, sketch)
        coarse = self.model.coarse is not None
        scores = {
            "cell": None if coarse else locator.bundle.partition.names[found.target],
            "probability": round(found.probability, 1 if coarse else 6),
            "unit": found.unit,
            "signed": found.signed,
            "most": _short(found.heat.max()),
            "least": _short(found.heat.min()),
        }
        return {"method": self.method, "heatmap_png": overlay(found.heat, found.signed), "scores": scores} | {
            "fix": self.fix
        }

    async def in_turn(self, service: Service) -> dict[str, Any]:
        """The explanation, one at a time; a cancelled call ends it at its next step."""
        gone = threading.Event()
        try:
            async with service.one_explanation:
                return await asyncio.to_thread(self, _until(gone))
        finally:
            gone.set()


def _until(gone: threading.Event, tell: Callable[[int, int], None] | None = None) -> Progress:
    def progress(done: int, total: int, _: str = "") -> None:
        if gone.is_set():
            raise GoneError
        if tell:
            tell(done, total)

    return progress


def streamed(service: Service, work: Work) -> StreamingResponse:
    """Server-sent events: ``progress`` with done and total, then ``answer``, or ``problem`` with its detail.

    Occlusion sends a coarse map as ``sketch`` on its way, after a quarter of the time.
    """
    loop = asyncio.get_running_loop()
    events: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
    gone = threading.Event()

    def tell(done: int, total: int) -> None:
        loop.call_soon_threadsafe(events.put_nowait, ("progress", {"done": done, "total": total}))

    def sketch(heat: NDArray[np.float32]) -> None:
        loop.call_soon_threadsafe(events.put_nowait, ("sketch", {"heatmap_png": overlay(heat, signed=True)}))

    async def run() -> None:
        try:
            async with service.one_explanation:
                events.put_nowait(("answer", await asyncio.to_thread(work, _until(gone, tell), sketch)))
        except GoneError:
            pass
        except GraticuleError as error:
            events.put_nowait(("problem", {"status": 422, "detail": str(error)}))
        except Exception:  # the stream must end, whatever happened
            log.exception("an explanation failed")
            events.put_nowait(("problem", {"status": 500, "detail": "this should not have happened"}))

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


def _short(value: float) -> float:
    return float(f"{value:.4g}")
