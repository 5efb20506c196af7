"""The addresses of the service."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from fastapi import FastAPI, File, Form, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartParser

from graticule import __version__
from graticule.errors import BadPhotoError, BadRecipeError, GraticuleError
from graticule.inference.claims import Place, own_position
from graticule.photos.images import inspect
from graticule.serving import problems, shapes
from graticule.serving.asks import Answer, Ask
from graticule.serving.explain import explain_json, hidden, parse_box, streamed
from graticule.serving.play import Play
from graticule.serving.play import routes as play_routes
from graticule.serving.problems import Refusal
from graticule.serving.queue import FullError
from graticule.serving.service import Model, Service

T = TypeVar("T")
NO_PAGE = (
    "<!doctype html><html lang=en><meta charset=utf-8><title>Graticule</title><main><h1>Graticule</h1>"
    "<p>The page is not built. In a checkout, <code>make page</code> builds it (Node is needed); the service answers "
    "all the same: <a href=/openapi.json>/openapi.json</a> says how to ask it.</p></main></html>"
)
log = logging.getLogger("graticule.serving")


def page_folder() -> Path:
    """Where the built page lies in the package."""
    return Path(str(resources.files("graticule") / "serving" / "page"))


def create_app(service: Service, play: Play | None = None) -> FastAPI:
    """The service as an ASGI application."""
    # Photos stay in memory: what is larger than this would be written to a temporary file.
    MultiPartParser.spool_max_size = service.limits.bytes + 1

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.line.close)

    app = FastAPI(title="Graticule", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    _handle_errors(app)
    registry = CollectorRegistry()

    @app.get("/healthz", response_class=PlainTextResponse)
    def healthz() -> str:
        return "ok\n"

    @app.get("/readyz", response_class=PlainTextResponse)
    def readyz() -> str:
        return "ready\n"

    @app.get("/metrics", response_class=PlainTextResponse)
    def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/model")
    def model() -> dict[str, Any]:
        limits = service.limits
        return {
            "models": [each.facts for each in service.models],
            "coarsest_answer_km": service.coarsest_answer_km,
            "limits": {"bytes": limits.bytes, "pixels": limits.pixels, "photos": limits.photos},
            "play": play is not None,
        }

    @app.post("/v1/locate")
    async def locate(
        request: Request,
        photos: Annotated[list[UploadFile], File()],
        together: Annotated[bool, Form()] = False,
        top: Annotated[int, Form(ge=1, le=100)] = 5,
        claim: Annotated[str | None, Form()] = None,
        within_km: Annotated[float | None, Form(gt=0, le=20_038)] = None,
        max_error_km: Annotated[float | None, Form(gt=0, le=20_038)] = None,
        regions: Annotated[bool, Form()] = False,
        density: Annotated[bool, Form()] = False,
        model: Annotated[str | None, Form()] = None,
    ) -> JSONResponse:
        asked = service.model(model)
        files = await _read(photos, service)
        own = await asyncio.to_thread(lambda: [own_position(data) for data in files])
        place = None if claim in (None, "", "exif") else parse_place(str(claim), "claim")
        claims: tuple[Place | None, ...] = tuple(own) if claim == "exif" else (place,) * len(files)
        question = Ask(tuple(files), claims, top, within_km, max_error_km, together)
        answers = await _or_gone(request, service.ask(asked, question))
        names = [photo.filename or f"photo {i}" for i, photo in enumerate(photos)]
        return await asyncio.to_thread(_located, asked, names, answers, own, regions, density)

    @app.post("/v1/probability")
    async def probability(
        request: Request,
        photo: Annotated[UploadFile, File()],
        lat: Annotated[float, Form(ge=-90, le=90)],
        lon: Annotated[float, Form(ge=-180, le=180)],
        within_km: Annotated[float | None, Form(gt=0, le=20_038)] = None,
        model: Annotated[str | None, Form()] = None,
    ) -> JSONResponse:
        asked = service.model(model)
        files = await _read([photo], service)
        [answer] = await _or_gone(request, service.ask(asked, Ask(tuple(files), ((lat, lon),), 1, within_km)))
        if answer.fix is None or answer.fix.claim is None:
            raise answer.error or BadPhotoError("unreadable", "the photo cannot be read")
        return JSONResponse(shapes.claim_json(asked.locator, answer))

    @app.post("/v1/explain")
    async def explain(
        request: Request,
        photo: Annotated[UploadFile, File()],
        method: Annotated[Literal["occlusion", "saliency"] | None, Form()] = None,
        hide: Annotated[str | None, Form()] = None,
        model: Annotated[str | None, Form()] = None,
    ) -> Response:
        asked = service.model(model)
        [data] = await _read([photo], service)
        if hide:
            data = await asyncio.to_thread(hidden, asked.locator, data, parse_box(hide))
        [answer] = await _or_gone(request, service.ask(asked, Ask((data,), (None,))))
        if answer.fix is None:
            raise answer.error or BadPhotoError("unreadable", "the photo cannot be read")
        fix = shapes.fix_json(asked.locator, photo.filename or "photo", answer, None, False, False)
        work = explain_json(asked.locator, data, method, fix)
        if "text/event-stream" in request.headers.get("accept", ""):
            return streamed(service, work)
        async with service.one_explanation:
            return JSONResponse(await _or_gone(request, asyncio.to_thread(work, lambda *_: None)))

    if play is not None:
        play_routes(app, service, play)

    page = page_folder()

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    def index() -> Response:
        if not (page / "index.html").is_file():
            return HTMLResponse(NO_PAGE)
        return FileResponse(page / "index.html", headers={"Cache-Control": "no-cache"})

    if (page / "assets").is_dir():
        from starlette.staticfiles import StaticFiles

        app.mount("/assets", StaticFiles(directory=page / "assets"))
    return app


def _located(
    model: Model, names: list[str], answers: list[Answer], own: list[Place | None], regions: bool, density: bool
) -> JSONResponse:
    fixes = [
        shapes.fix_json(model.locator, name, answer, place, regions, density)
        for name, answer, place in zip(names, answers, own, strict=False)
    ]
    if all(answer.fix is None for answer in answers):
        return problems.response(422, fixes[0]["error"], photos=fixes)
    return JSONResponse({"fixes": fixes})


def parse_place(text: str, name: str) -> Place:
    """``LAT,LON`` in degrees.

    Raises:
        BadRecipeError: not two numbers, or none on the globe.
    """
    try:
        lat, lon = (float(part) for part in text.split(","))
    except ValueError as error:
        raise BadRecipeError(f"{name} takes LAT,LON in degrees, such as 38.9,-77.03; found {text[:80]!r}") from error
    if not (abs(lat) <= 90 and abs(lon) <= 180):
        raise BadRecipeError(
            f"{name} {text[:80]} is off the globe; latitudes lie in [-90, 90], longitudes in [-180, 180]"
        )
    return lat, lon


async def _read(photos: list[UploadFile], service: Service) -> list[bytes]:
    """The bytes of uploads; one with too many pixels is refused by its header."""
    limits = service.limits
    if len(photos) > limits.photos:
        raise Refusal(413, f"{len(photos)} photos in one request; at most {limits.photos} are answered: ask in parts")
    files = [await photo.read() for photo in photos]

    def look() -> None:
        for data in files:
            try:
                facts = inspect(data)
            except BadPhotoError:
                continue  # its own answer says so
            if facts.width * facts.height > limits.pixels:
                raise Refusal(
                    413,
                    f"the photo is {facts.width} x {facts.height} pixels, more than the {limits.pixels:,} allowed; "
                    f"scale it down first",
                )

    await asyncio.to_thread(look)
    return files


async def _or_gone(request: Request, work: Awaitable[T]) -> T:
    """The result of some work, which is given up when its client goes away."""
    task = asyncio.ensure_future(work)

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    watch = asyncio.ensure_future(gone())
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Refusal(499, "the client went away")
        return task.result()
    finally:
        task.cancel()
        watch.cancel()


def _handle_errors(app: FastAPI) -> None:
    def handle(kind: type[Exception], make: Callable[[Any], JSONResponse]) -> None:
        async def handler(_: Request, error: Exception) -> JSONResponse:
            return make(error)

        app.add_exception_handler(kind, handler)

    def invalid(error: RequestValidationError) -> JSONResponse:
        found = [f"{'.'.join(str(part) for part in each['loc'][1:])}: {each['msg']}" for each in error.errors()]
        return problems.response(422, "; ".join(found))

    handle(Refusal, lambda error: problems.response(error.status, error.detail, error.headers, **error.more))
    handle(RequestValidationError, invalid)
    handle(HTTPException, lambda error: problems.response(error.status_code, str(error.detail), error.headers))
    handle(GraticuleError, lambda error: problems.response(422, str(error)))
    handle(
        FullError,
        lambda _: problems.response(503, "too many photos wait already; try again soon", {"Retry-After": "2"}),
    )
    handle(
        Exception, lambda _: problems.response(500, "this should not have happened; it was logged without the photo")
    )
