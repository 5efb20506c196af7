"""What a request brings, and whether its client still waits."""

import asyncio
import difflib
from collections.abc import Awaitable, Sequence
from typing import TypeVar

from fastapi import Request, UploadFile
from fastapi.routing import APIRoute

from graticule.errors import BadPhotoError
from graticule.photos.images import inspect
from graticule.serving.limits import Limits
from graticule.serving.problems import Refusal

T = TypeVar("T")


async def read_photos(request: Request, photos: Sequence[UploadFile], limits: Limits) -> list[bytes]:
    """The bytes of uploads.

    Raises:
        Refusal: there are too many, or one has too many pixels by its header.
    """
    request.scope["graticule.photos"] = len(photos)  # for the audit, which sees no more of them
    if len(photos) > limits.photos:
        raise Refusal(413, f"{len(photos)} photos in one request; at most {limits.photos} are answered: ask in parts")
    files = [await photo.read() for photo in photos]
    for size in await asyncio.to_thread(lambda: [_pixels(data) for data in files]):
        if size > limits.pixels:
            raise Refusal(413, f"a photo has {size:,} pixels; at most {limits.pixels:,} are read: scale it down first")
    return files


async def refuse_unknown_fields(request: Request) -> None:
    """Answer no form that holds a field which would be ignored.

    Raises:
        Refusal: it does; the sentence names the near one.
    """
    route = request.scope.get("route")
    if not isinstance(route, APIRoute) or "form" not in request.headers.get("content-type", ""):
        return
    known = [field.alias for field in route.dependant.body_params]
    for name in await request.form():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known) or 'none'}"
            raise Refusal(422, f"there is no field {name[:80]}; {hint}")


def _pixels(data: bytes) -> int:
    try:
        facts = inspect(data)
    except BadPhotoError:
        return 0  # its own answer says so
    return facts.width * facts.height


async def or_gone(request: Request, work: Awaitable[T], seconds: float) -> T:
    """The result of some work; given up when its client goes away, or when it takes too long.

    Raises:
        Refusal: either happened.
    """
    task = asyncio.ensure_future(work)

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    watch = asyncio.ensure_future(gone())
    try:
        await asyncio.wait({task, watch}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if watch.done():
            raise Refusal(499, "the client went away")
        raise Refusal(503, f"there was no answer within {seconds:g} s; try again later", {"Retry-After": "10"})
    finally:
        task.cancel()
        watch.cancel()
