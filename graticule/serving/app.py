"""The addresses of the service."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, File, Form, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartParser
from starlette.staticfiles import StaticFiles

from graticule import __version__
from graticule.choices import Answer as Point
from graticule.errors import BadPhotoError, BadRecipeError, GraticuleError
from graticule.geo.areas import parse_areas
from graticule.inference import views
from graticule.inference.claims import Place, own_position
from graticule.serving import examples, problems, shapes
from graticule.serving.asks import Answer, Ask
from graticule.serving.explain import Work, hidden, parse_box, streamed
from graticule.serving.guard import Door, Guard
from graticule.serving.play import Play
from graticule.serving.play import routes as play_routes
from graticule.serving.problems import Refusal
from graticule.serving.queue import FullError
from graticule.serving.requests import or_gone, read_photos, refuse_unknown_fields
from graticule.serving.service import Model, Service

NO_PAGE = (
    "<!doctype html><html lang=en><meta charset=utf-8><title>Graticule</title><main><h1>Graticule</h1>"
    "<p>The page is not built. In a checkout, <code>make page</code> builds it (Node is needed); the service answers "
    "all the same: <a href=/openapi.json>/openapi.json</a> says how to ask it.</p></main></html>"
)
MOST_AREA_TEXT = 20_000  # characters: of polygons with more corners the shares would take too long
HALF_EARTH_KM = 20_038  # no circle around a place is wider

Model_ = Annotated[str | None, Form(description="Which model answers, by its id; the first where none is named.")]
Within = Annotated[
    float | None,
    Form(gt=0, le=HALF_EARTH_KM, description="Radius around the claimed place; by default the answer's median error."),
]


def page_folder() -> Path:
    """Where the built page lies in the package."""
    return Path(str(resources.files("graticule") / "serving" / "page"))


def create_app(
    service: Service, door: Door | None = None, *, play: Play | None = None, street_map: str | None = None
) -> Guard:
    """The service as an ASGI application.

    Args:
        street_map: a template ``https://.../{z}/{x}/{y}.png`` of tiles that the page may show when its user wants.
    """
    # Photos stay in memory: what is larger than this would be written to a temporary file.
    MultiPartParser.spool_max_size = service.limits.bytes + 1

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        warming = asyncio.create_task(service.warm_up())
        yield
        warming.cancel()
        await asyncio.to_thread(service.line.close)

    app = FastAPI(
        title="Graticule",
        version=__version__,
        description="Tells where photos were taken, and how sure it is.",
        docs_url=None,  # their pages fetch code from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        responses=problems.ANYWHERE,
        dependencies=[Depends(refuse_unknown_fields)],
    )
    _handle_errors(app)
    registry = CollectorRegistry()
    Gauge("graticule_waiting_photos", "Photos in the line.", registry=registry).set_function(
        lambda: service.line.waiting
    )
    _plain_routes(app, service, registry, 0 if play is None else len(play.photos), street_map)
    _photo_routes(app, service)
    if play is not None:
        play_routes(app, service, play)
    _page_routes(app)
    return Guard(app, door or Door(), service.limits, registry)


def _plain_routes(
    app: FastAPI, service: Service, registry: CollectorRegistry, test_photos: int, street_map: str | None
) -> None:
    @app.get("/healthz", response_class=PlainTextResponse)
    def healthz() -> str:
        """The process answers."""
        return "ok\n"

    @app.get("/readyz", response_class=PlainTextResponse)
    def readyz() -> str:
        """The models are warm."""
        if not service.ready:
            raise Refusal(503, "the models are still being opened", {"Retry-After": "2"})
        return "ready\n"

    @app.get("/metrics", response_class=PlainTextResponse)
    def metrics() -> Response:
        """Counters and times for Prometheus."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/model", responses={200: examples.MODEL})
    def model() -> dict[str, Any]:
        """What is served, and how much one request may hold."""
        limits = service.limits
        coarse = service.models[0].coarse
        return {
            "models": [each.facts for each in service.models],
            "coarsest_answer_km": coarse and coarse.km,
            "limits": {"bytes": limits.bytes, "pixels": limits.pixels, "photos": limits.photos},
            "test_photos": test_photos,
            "street_map": street_map,
        }


def _photo_routes(app: FastAPI, service: Service) -> None:
    @app.post("/v1/locate", responses={200: examples.LOCATE})
    async def locate(
        request: Request,
        photos: Annotated[list[UploadFile], File(description="JPEG, PNG, WebP, HEIC, AVIF, GIF, TIFF or BMP.")],
        together: Annotated[bool, Form(description="They show one place from one spot: one answer for all.")] = False,
        top: Annotated[int, Form(ge=1, le=100, description="Likely cells that each answer names.")] = 5,
        claim: Annotated[
            str | None, Form(description="A claimed place LAT,LON, or exif: what each photo says.")
        ] = None,
        within_km: Within = None,
        max_error_km: Annotated[
            float | None,
            Form(
                gt=0, le=HALF_EARTH_KM, description="Answers with a larger error, by default the median, cannot tell."
            ),
        ] = None,
        min_probability: Annotated[
            float, Form(gt=0, lt=1, description="How probable it must be that the photo lies within max_error_km.")
        ] = 0.5,
        regions: Annotated[bool, Form(description="The 50 and 90 % regions as GeoJSON.")] = False,
        density: Annotated[bool, Form(description="The belief as some cells for a map, densest first.")] = False,
        neighbours: Annotated[
            int, Form(ge=0, le=24, description="Known photos that look alike; none where answers are coarse.")
        ] = 0,
        inside: Annotated[
            str | None,
            Form(
                max_length=MOST_AREA_TEXT,
                description="GeoJSON polygons, or tokens of S2 cells with commas: how probably it was taken in each.",
            ),
        ] = None,
        answer: Annotated[
            Point | None, Form(description="Which point of the belief; by default the bundle's own choice.")
        ] = None,
        model: Model_ = None,
    ) -> JSONResponse:
        """Where photos were taken."""
        asked = service.model(model)
        files = await read_photos(request, photos, service.limits)
        own = await asyncio.to_thread(lambda: [own_position(data) for data in files])
        place = None if claim in (None, "", "exif") else parse_place(str(claim), "claim")
        claims: tuple[Place | None, ...] = tuple(own) if claim == "exif" else (place,) * len(files)
        if answer and asked.coarse:
            raise BadRecipeError("this server blurs its answers, each from one point alone; leave answer out")
        areas = await asyncio.to_thread(parse_areas, inside, "inside") if inside else []
        question = Ask(
            tuple(files),
            claims,
            top,
            within_km,
            max_error_km,
            min_probability,
            together,
            neighbours,
            tuple(areas),
            answer,
        )
        answers = await or_gone(request, service.ask(asked, question), service.limits.seconds)
        names = [photo.filename or f"photo {i}" for i, photo in enumerate(photos)]
        told = asyncio.to_thread(_located, asked, question, names, answers, own, regions, density)
        return await told

    @app.post("/v1/probability", responses={200: examples.PROBABILITY})
    async def probability(
        request: Request,
        photo: Annotated[UploadFile, File()],
        lat: Annotated[float, Form(ge=-90, le=90)],
        lon: Annotated[float, Form(ge=-180, le=180)],
        within_km: Within = None,
        model: Model_ = None,
    ) -> JSONResponse:
        """How a claimed place fits a photo."""
        asked = service.model(model)
        files = await read_photos(request, [photo], service.limits)
        question = Ask(tuple(files), ((lat, lon),), 1, within_km)
        [answer] = await or_gone(request, service.ask(asked, question), service.limits.seconds)
        view = await asyncio.to_thread(shapes.view_of, asked, answer, question, (lat, lon))
        return JSONResponse(await asyncio.to_thread(views.claim_json, view))

    @app.post("/v1/explain", responses={200: examples.EXPLAIN})
    async def explain(
        request: Request,
        photo: Annotated[UploadFile, File()],
        method: Annotated[
            Literal["occlusion", "saliency"] | None, Form(description="Without one there is the answer alone.")
        ] = None,
        hide: Annotated[
            str | None, Form(description="x0,y0,x1,y1 as shares of width and height: this box is made grey first.")
        ] = None,
        model: Model_ = None,
    ) -> Response:
        """Which parts of a photo the answer depends on; ``Accept: text/event-stream`` tells the progress."""
        asked = service.model(model)
        [data] = await read_photos(request, [photo], service.limits)
        if hide:
            data = await asyncio.to_thread(hidden, asked.locator, data, parse_box(hide))
        question = Ask((data,), (None,))
        [answer] = await or_gone(request, service.ask(asked, question), service.limits.seconds)
        view = await asyncio.to_thread(shapes.view_of, asked, answer, question, None)
        fix = await asyncio.to_thread(views.fix_json, photo.filename or "photo", view, asked.locator.area, None)
        work = Work(asked, data, method, fix)
        if "text/event-stream" in request.headers.get("accept", ""):
            return streamed(service, work)
        return JSONResponse(await or_gone(request, work.in_turn(service), 10 * service.limits.seconds))


def _page_routes(app: FastAPI) -> None:
    page = page_folder()

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    def index() -> Response:
        if not (page / "index.html").is_file():
            return HTMLResponse(NO_PAGE)
        return FileResponse(page / "index.html", headers={"Cache-Control": "no-cache"})

    if (page / "assets").is_dir():
        app.mount("/assets", StaticFiles(directory=page / "assets"))


def _located(
    model: Model,
    ask: Ask,
    names: list[str],
    answers: list[Answer],
    own: list[Place | None],
    regions: bool,
    density: bool,
) -> JSONResponse:
    fixes: list[dict[str, Any]] = []
    for name, answer, place, claim in zip(names, answers, own, ask.claims, strict=False):
        if answer.fix is None:
            fixes.append({"path": name, "error": str(answer.error)})
            continue
        view = shapes.view_of(model, answer, ask, claim)
        fix = views.fix_json(
            name, view, model.locator.area, place, regions=regions, density=density, pictures=model.pictures
        )
        fixes.append(fix)
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
        raise BadRecipeError(f"{name} {text[:80]} is off the globe: latitudes reach 90, longitudes 180 degrees")
    return lat, lon


def _handle_errors(app: FastAPI) -> None:
    def handle(kind: type[Exception], make: Callable[[Any], JSONResponse]) -> None:
        async def handler(_: Request, error: Exception) -> JSONResponse:
            return make(error)

        app.add_exception_handler(kind, handler)

    def invalid(error: RequestValidationError) -> JSONResponse:
        return problems.response(422, "; ".join(map(problems.of_field, error.errors())))

    async def of_http(request: Request, error: Any) -> JSONResponse:
        detail = problems.of_http(request.method, request.url.path, error)
        return problems.response(error.status_code, detail, error.headers)

    app.add_exception_handler(HTTPException, of_http)
    handle(Refusal, lambda error: problems.response(error.status, error.detail, error.headers, **error.more))
    handle(RequestValidationError, invalid)
    handle(BadPhotoError, lambda error: problems.response(422, str(error), reason=error.reason))
    handle(GraticuleError, lambda error: problems.response(422, str(error)))
    busy = "too many photos wait already; try again soon"
    handle(FullError, lambda _: problems.response(503, busy, {"Retry-After": "2"}))
    unforeseen = "this should not have happened; it was logged without the photo"
    handle(Exception, lambda _: problems.response(500, unforeseen))
