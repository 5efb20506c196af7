"""What a service of street-level photos has to answer, and the one way from its answers to a dataset."""

import asyncio
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import polars as pl

from graticule.errors import BadRecipeError, BadTableError, SourceError
from graticule.files import write_json, write_parquet
from graticule.geo import sphere
from graticule.sources.ingest import MAX_REFUSED, Refusal, ingest
from graticule.sources.web.download import FETCH_FOLDER, PASSING, Journal, Progress, Wanted, fetch, photo_path
from graticule.sources.web.http import Client, NotHadError, run_alone, until_done

LICENCE = "CC-BY-SA-4.0"  # of photos of Mapillary (mapillary.com/terms, 7) and KartaView (kartaview.org/terms, 4)
SIZES = ("256", "1024", "2048", "original")
ROUND = frozenset({"spherical", "equirectangular", "sphere", "cylinder"})  # camera types that are panoramas
COLUMNS = {
    "source": pl.String, "orig_id": pl.String, "lat": pl.Float64, "lon": pl.Float64, "sequence": pl.String,
    "captured_at": pl.String, "heading": pl.Float64, "camera_type": pl.String, "creator": pl.String,
    "licence": pl.String, "attribution": pl.String, "url": pl.String,
}  # fmt: skip

Box = tuple[float, float, float, float]
Query = dict[str, str]
Row = dict[str, Any]


class Answer(NamedTuple):
    """Photos as rows of :data:`COLUMNS`; what to ask next: another page, or halves of a box; what is not told."""

    rows: list[Row]
    more: list[Query]
    lacking: str = ""


class Service(Protocol):
    """A service of photos.

    Attributes:
        name: how datasets call it, and how keys of its photos begin.
    """

    @property
    def name(self) -> str: ...

    def queries(self, search: "Search") -> list[Query]:
        """The first questions of a search; no token is in them, for they are written down."""

    async def answer(self, client: Client, query: Query) -> Answer:
        """Ask one question. Raises :class:`NotHadError` where it cannot be answered."""

    async def links(self, client: Client, ids: Sequence[str]) -> dict[str, str]:
        """Fresh links by id; what is missing is gone."""


@dataclass(frozen=True, slots=True)
class Search:
    """Which photos are wanted: one of ``bbox``, ``center``, ``ids`` and ``sequences``, narrowed by the rest.

    Attributes:
        bbox: ``south, west, north, east`` in degrees; ``west > east`` crosses the 180th meridian.
        center, radius_km: ``lat, lon`` in degrees and the great-circle distance around it.
        ids, sequences: as the service names them.
        since, until: days of capture, both included.
        pano: only panoramas (True) or none (False).

    Raises:
        BadRecipeError: none or several places to look, or a value that cannot be.
    """

    bbox: Box | None = None
    center: tuple[float, float] | None = None
    radius_km: float = 1.0
    ids: tuple[str, ...] = ()
    sequences: tuple[str, ...] = ()
    since: date | None = None
    until: date | None = None
    pano: bool | None = None

    def __post_init__(self) -> None:
        if sum(map(bool, (self.bbox, self.center, self.ids, self.sequences))) != 1:
            raise BadRecipeError("give one of a box, a centre with a radius, ids and a sequence to look for photos")
        if self.bbox:
            south, west, north, east = self.bbox
            if not (-90 <= south < north <= 90 and abs(west) <= 180 and abs(east) <= 180 and west != east):
                raise BadRecipeError(
                    f"the box {south},{west},{north},{east} is none; give SOUTH,WEST,NORTH,EAST in degrees, "
                    f"such as 38.89,-77.05,38.91,-77.01"
                )
        if self.center:
            sphere.check_latlon(*self.center)
            if not 0 < self.radius_km <= 200:
                raise BadRecipeError(f"a radius of {self.radius_km} km cannot be used; it lies in (0, 200] km")
        if self.since and self.until and self.since > self.until:
            raise BadRecipeError(f"no day is since {self.since} and until {self.until}; exchange them")

    def boxes(self) -> list[Box]:
        """The boxes that hold the place, none of them across the 180th meridian."""
        if self.center:
            lat, lon = self.center
            reach = float(np.degrees(self.radius_km / sphere.EARTH_RADIUS_KM))
            south, north = max(lat - reach, -90.0), min(lat + reach, 90.0)
            wide = reach / max(float(np.cos(np.radians(max(abs(south), abs(north))))), 1e-6)
            if wide >= 180:
                return [(south, -180.0, north, 180.0)]
            west, east = (lon - wide + 180) % 360 - 180, (lon + wide + 180) % 360 - 180
        elif self.bbox:
            south, west, north, east = self.bbox
        else:
            return []
        if west < east:
            return [(south, west, north, east)]
        return [(south, west, north, 180.0), (south, -180.0, north, east)]

    def narrow(self, found: pl.DataFrame) -> pl.DataFrame:
        """The rows within the radius, taken on the days, of the kind; services do not narrow by all of these."""
        if self.center and found.height:
            placed = found.filter(pl.col("lat").is_between(-90, 90) & pl.col("lon").is_between(-180, 180))
            found = placed.filter(sphere.great_circle_km(placed["lat"], placed["lon"], *self.center) <= self.radius_km)
        return narrow(found, since=self.since, until=self.until, pano=self.pano)


def narrow(
    found: pl.DataFrame, *, since: date | None = None, until: date | None = None, pano: bool | None = None
) -> pl.DataFrame:
    """The rows of photos taken on these days, both included, and of this kind."""
    day = pl.col("captured_at").str.slice(0, 10)
    if since:
        found = found.filter(day >= since.isoformat())
    if until:
        found = found.filter(day <= until.isoformat())
    if pano is not None:
        panorama = pl.col("camera_type").str.to_lowercase().is_in(ROUND).fill_null(False)
        found = found.filter(panorama == pano)
    return found


def parts(box: Box, deg2: float) -> list[Box]:
    """Split a box into equal ones, each under ``deg2`` square degrees; neighbours share their edges."""
    south, west, north, east = box
    if (north - south) * (east - west) < deg2:
        return [box]
    if north - south >= east - west:
        middle = (south + north) / 2
        halves = (south, west, middle, east), (middle, west, north, east)
    else:
        middle = (west + east) / 2
        halves = (south, west, north, middle), (south, middle, north, east)
    return [part for half in halves for part in parts(half, deg2)]


def collect(
    service: Service,
    search: Search,
    out: Path,
    *,
    size: str,
    limit: int | None = None,
    rate: float = 20,
    at_once: int = 16,
    max_refused: float = MAX_REFUSED,
    with_images: bool = True,
    progress: Progress | None = None,
) -> Path:
    """Make a dataset of what a search finds; run again, it goes on where it stopped.

    Answers are kept in ``out/.fetch/answers.jsonl`` until everything was fetched, so that a run that goes on does
    not ask again. They hold no token and no link that expires.

    Args:
        size: of :data:`SIZES`; a folder holds photos of one size.
        limit: at most so many photos, drawn evenly by a hash of their id, the same ones each time.
        with_images: False writes what is known of the photos to ``out/found.parquet`` and stops there.

    Returns:
        ``out``.

    Raises:
        BadRecipeError: ``out`` holds photos of another source or size.
        BadTableError: nothing was found.
        SourceError, WriteError: see :func:`graticule.sources.web.download.fetch`.
        TooManyRefusedError: see :func:`graticule.sources.ingest.ingest`.
    """
    check_output_folder(out, service.name, size)
    found, refusals = find(service, search, out, rate=rate, at_once=at_once, progress=progress)
    if found.is_empty():
        raise BadTableError(
            f"{service.name} has no photos there" + (f": {refusals[0].detail}" if refusals else "; widen the search")
        )
    return download_dataset(
        sample(found, limit), refusals, {service.name: service}, out, source=service.name, size=size, rate=rate,
        at_once=at_once, max_refused=max_refused, with_images=with_images, progress=progress,
    )  # fmt: skip


def check_output_folder(out: Path, source: str, size: str) -> None:
    """Note what a folder is for, or refuse to mix it with something else."""
    note = out / FETCH_FOLDER / "for.json"
    wanted = {"source": source, "size": size}
    if note.exists():
        there = json.loads(note.read_text(encoding="utf-8"))
        if there != wanted:
            raise BadRecipeError(
                f"{out} holds photos of {there['source']} of size {there['size']}, not of {source} of size {size}; "
                f"choose another folder"
            )
        return
    write_json(note, wanted)


def find(
    service: Service,
    search: Search,
    out: Path,
    *,
    rate: float,
    at_once: int,
    progress: Progress | None = None,
) -> tuple[pl.DataFrame, list[Refusal]]:
    """Ask a service for all photos of a search; each is in the table once, whatever boxes and pages it came in.

    Returns:
        The table, columns :data:`COLUMNS`, and the questions that got no answer.
    """
    tables: list[pl.DataFrame] = []
    refusals: list[Refusal] = []
    with Journal(out / FETCH_FOLDER / "answers.jsonl") as journal:
        known = {_name(query): Answer(*answer) for query, *answer in journal.entries}
        journal.entries.clear()
        asked = found_rows = 0
        waiting: asyncio.LifoQueue[Query] = asyncio.LifoQueue()  # depth first: fewer boxes wait at a time
        for query in service.queries(search):
            waiting.put_nowait(query)

        async def ask(client: Client) -> None:
            nonlocal asked, found_rows
            while True:
                query = await waiting.get()
                try:
                    answer = known.pop(_name(query), None)
                    if answer is None:
                        answer = await service.answer(client, query)
                        journal.add([query, *answer])
                    for more in answer.more:
                        waiting.put_nowait(more)
                    if answer.lacking:
                        refusals.append(Refusal(_name(query), "gone", answer.lacking))
                    if answer.rows:
                        tables.append(pl.DataFrame(answer.rows, schema=COLUMNS, strict=False))
                        found_rows += len(answer.rows)
                except NotHadError as refused:
                    refusals.append(Refusal(_name(query), refused.reason, refused.detail))
                finally:
                    waiting.task_done()
                asked += 1
                if progress:
                    progress(asked, asked + waiting.qsize(), f"{found_rows:,} photos found")

        async def run() -> None:
            async with Client(rate=rate, at_once=at_once) as client:
                await until_done(waiting, [ask(client) for _ in range(at_once)])

        run_alone(run())
    found = pl.concat(tables) if tables else pl.DataFrame(schema=COLUMNS)
    unknown = set(search.ids).difference(found["orig_id"])
    if not refusals:  # else an id may be unknown only to us
        paths = sorted(photo_path(f"{service.name}-{id_}") for id_ in unknown)
        refusals += [Refusal(path, "gone", f"{service.name} does not know it, or no longer shows it") for path in paths]
    return search.narrow(found.unique("orig_id", keep="first").sort("orig_id")), refusals


def sample(found: pl.DataFrame, limit: int | None) -> pl.DataFrame:
    """At most ``limit`` rows, spread evenly over the table: those whose id hashes lowest, in the table's order."""
    if limit is None or found.height <= limit:
        return found
    hashes = [hashlib.sha256(id_.encode()).digest() for id_ in found["orig_id"]]
    lowest = sorted(range(found.height), key=hashes.__getitem__)[:limit]
    return found[sorted(lowest)]


def download_dataset(
    found: pl.DataFrame,
    refusals: Sequence[Refusal],
    services: Mapping[str, Service],
    out: Path,
    *,
    source: str,
    size: str,
    rate: float,
    at_once: int,
    max_refused: float,
    with_images: bool,
    progress: Progress | None,
) -> Path:
    """Fetch the photos of a table and make a dataset of them; what could not be fetched is refused with its reason."""
    if not with_images:
        write_parquet(out / "found.parquet", found.drop("url", strict=False))
        return out

    async def resolve(client: Client, keys: Sequence[str]) -> dict[str, str]:
        links: dict[str, str] = {}
        for name, service in services.items():
            ids = [key.removeprefix(f"{name}-") for key in keys if key.startswith(f"{name}-")]
            links |= {f"{name}-{id_}": link for id_, link in (await service.links(client, ids)).items()} if ids else {}
        return links

    not_had = [*refusals]
    not_had += fetch(
        _wanted(found), out, total=found.height, resolve=resolve, rate=rate, at_once=at_once, progress=progress
    )
    keys = zip(found["source"], found["orig_id"], strict=True)
    found = found.with_columns(pl.Series("path", [photo_path(f"{name}-{id_}") for name, id_ in keys], pl.String))
    had = found.filter(~pl.col("path").is_in([one.path for one in not_had])).drop("url", strict=False)
    ingest(
        had, out, out, source=source, max_refused=max_refused, refused_before=not_had,
        facts={"size": size, "licence": LICENCE},
        progress=(lambda done, total: progress(done, total, "checking")) if progress else None,
    )  # fmt: skip
    if not any(one.reason in PASSING for one in not_had):
        (out / FETCH_FOLDER / "answers.jsonl").unlink(missing_ok=True)  # the next run looks for what is new
    return out


def _wanted(found: pl.DataFrame) -> Iterator[Wanted]:
    columns = [found[name] if name in found.columns else [None] * found.height for name in ("source", "orig_id", "url")]
    for name, id_, url in zip(*columns, strict=True):
        yield Wanted(f"{name}-{id_}", url)


def _name(query: Query) -> str:
    return ", ".join(f"{name}={value}" for name, value in query.items())


def number(value: Any) -> float | None:
    """A finite number, or None: services write numbers as text, and nothing in many ways."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if np.isfinite(found) else None


def not_as_documented(service: str, what: str) -> SourceError:
    return SourceError(f"{service} does not answer as documented ({what}); see whether a newer graticule does better")
