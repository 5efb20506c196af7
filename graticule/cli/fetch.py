"""``graticule data streetscapes|mapillary|kartaview``: photos from the network into a dataset."""

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from graticule.cli import console
from graticule.cli.options import MaxRefused, bounding_box, position
from graticule.errors import BadRecipeError, BadTableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from graticule.sources.web.service import Service

app = typer.Typer()


Size = Literal["256", "1024", "2048", "original"]


Box = Annotated[str | None, typer.Option(help="SOUTH,WEST,NORTH,EAST of a box, degrees: latitude first.")]
Center = Annotated[str | None, typer.Option(help="LAT,LON of a point to look around, degrees.")]
Radius = Annotated[float, typer.Option(help="How far around the point.")]
Ids = Annotated[Path | None, typer.Option(help="A text file with one photo's id a line.")]
Sequences = Annotated[list[str] | None, typer.Option("--sequence", help="A drive's id. May be repeated.")]
Since = Annotated[str | None, typer.Option(help="First day of capture, such as 2019-01-31.")]
Until = Annotated[str | None, typer.Option(help="Last day of capture.")]
Pano = Annotated[bool | None, typer.Option(help="Only panoramas, or none; both by default.")]
Sizes = Annotated[Size, typer.Option(help="Width of the photos, pixels.")]
Limit = Annotated[int | None, typer.Option(min=1, help="At most so many photos, drawn evenly.")]
Rate = Annotated[float, typer.Option(min=0.1, help="Requests a second to one host.")]
AtOnce = Annotated[int, typer.Option(min=1, max=256, help="Photos under way at the same time.")]
Images = Annotated[bool, typer.Option("--images/--no-images", help="Or only write found.parquet.")]


@app.command("streetscapes")
def data_streetscapes(
    out: Path,
    city: Annotated[str | None, typer.Option(help="Photos of this city.")] = None,
    country: Annotated[str | None, typer.Option(help="Photos of this country; a name or an ISO code.")] = None,
    continent: Annotated[str | None, typer.Option(help="Photos of this continent.")] = None,
    where: Annotated[
        list[str] | None, typer.Option(help="COLUMN=VALUE or COLUMN=6..18, such as quality=good. May be repeated.")
    ] = None,
    keep: Annotated[list[str] | None, typer.Option(help="A further column to keep. May be repeated.")] = None,
    tables: Annotated[
        Path | None, typer.Option(help="Folder of the CSV or Parquet tables, instead of the hub.")
    ] = None,
    since: Since = None,
    until: Until = None,
    pano: Pano = None,
    size: Sizes = "1024",
    limit: Limit = None,
    rate: Rate = 20,
    at_once: AtOnce = 16,
    images: Images = True,
    max_refused: MaxRefused = 0.05,
) -> None:
    """Photos of Global Streetscapes: choose by city and more, fetch from Mapillary (MAPILLARY_TOKEN) and KartaView."""
    from graticule.sources.web.streetscapes import import_streetscapes

    with console.progress("photos") as progress:
        import_streetscapes(
            out, tables=tables, city=city, country=country, continent=continent,
            where=[_pair(text) for text in where or []], attributes=keep or [], since=_day("--since", since),
            until=_day("--until", until), pano=pano, size=size, limit=limit, rate=rate, at_once=at_once,
            max_refused=max_refused, with_images=images, progress=progress,
        )  # fmt: skip
    _print(out, images)


def _data_service(make: "Callable[[str], Service]", usual_rate: float) -> "Callable[..., None]":
    """The command of a service that is searched; ``make`` gets it for a size of photos."""

    def command(
        out: Path,
        bbox: Box = None,
        center: Center = None,
        radius_km: Radius = 1.0,
        ids: Ids = None,
        sequence: Sequences = None,
        since: Since = None,
        until: Until = None,
        pano: Pano = None,
        size: Sizes = "1024",
        limit: Limit = None,
        rate: Rate = usual_rate,
        at_once: AtOnce = 16,
        images: Images = True,
        max_refused: MaxRefused = 0.05,
    ) -> None:
        from graticule.sources.web.service import Search, collect

        search = Search(
            bbox=bounding_box(bbox) if bbox else None,
            center=position(center, "--center") if center else None,
            radius_km=radius_km,
            ids=_lines(ids) if ids else (),
            sequences=tuple(sequence or ()),
            since=_day("--since", since),
            until=_day("--until", until),
            pano=pano,
        )
        service = make(size)
        with console.progress("photos") as progress:
            collect(
                service, search, out, size=size, limit=limit, rate=rate, at_once=at_once, max_refused=max_refused,
                with_images=images, progress=progress,
            )  # fmt: skip
        _print(out, images)

    return command


def _mapillary(size: str) -> "Service":
    from graticule.sources.web.mapillary import Mapillary

    return Mapillary.from_environment(size)


def _kartaview(size: str) -> "Service":
    from graticule.sources.web.kartaview import KartaView

    return KartaView.from_environment(size)


WAYS = "in a box, around a point, by id or sequence."
app.command("mapillary", help=f"Photos of Mapillary: {WAYS} The token is read from MAPILLARY_TOKEN.")(
    _data_service(_mapillary, usual_rate=20)
)
app.command("kartaview", help=f"Photos of KartaView: {WAYS}")(_data_service(_kartaview, usual_rate=10))


def _print(out: Path, images: bool) -> None:
    if images:
        console.print_dataset(out)
        return
    import polars as pl

    found = pl.scan_parquet(out / "found.parquet").select(pl.len()).collect().item()
    typer.echo(f"{found:,} photos found, listed in {out / 'found.parquet'}; none was fetched")


def _lines(file: Path) -> tuple[str, ...]:
    if not file.is_file():
        raise BadTableError(f"there is no file {file}; give a text file with one photo's id a line")
    ids = tuple(dict.fromkeys(line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()))
    wrong = next((id_ for id_ in ids if not id_.isdecimal()), None)
    if not ids or wrong:
        raise BadTableError(
            f"{file} " + (f"has {wrong!r}, which is no id" if wrong else "has no ids") + "; ids are digits"
        )
    return ids


def _day(option: str, text: str | None) -> date | None:
    try:
        return date.fromisoformat(text) if text else None
    except ValueError as error:
        raise BadRecipeError(f"{option} takes a day such as 2019-01-31; found {text!r}") from error


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise BadRecipeError(f"--where takes COLUMN=VALUE, such as quality=good; found {text!r}")
    return name, value
