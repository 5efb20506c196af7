"""Asking a model where photos were taken: ``predict`` for programs, ``locate`` for people."""

import os
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from graticule.choices import Answer, Precision, Runtime, Together
from graticule.cli import console
from graticule.cli.options import (
    TABLES,
    Arithmetic,
    ByEngine,
    Cores,
    Exported,
    PhotosAPart,
    Point,
    check_bundle,
    expand,
    position,
)
from graticule.cli.scale import in_parts
from graticule.errors import BadRecipeError, BadTableError, BundleError

if TYPE_CHECKING:
    from graticule.explaining.answer_page import AnswerPage
    from graticule.inference.albums import Albums
    from graticule.inference.claims import Place
    from graticule.inference.locate import Locator
    from graticule.inference.said import Result

BESIDE = 6  # known photos on a page
app = typer.Typer()

Explained = Literal["occlusion", "saliency", "match"]
Format = Literal["table", "words", "json", "csv", "geojson", "kml"]
Photos = Annotated[list[Path] | None, typer.Argument(help="Photos, folders of photos, or one dataset or table.")]
Out = Annotated[Path | None, typer.Option(help="Write to a file instead of the screen.")]
Top = Annotated[int | None, typer.Option(min=1, max=100, help="Likely cells to name. [default: 5; of table and csv 1]")]
Joined = Annotated[
    Together | None,
    typer.Option(help="Answer photos of a place or along a drive together: the table's, or those of a folder."),
]
MaxErrorKm = Annotated[
    float | None,
    typer.Option(
        min=0, help="Say 'cannot tell' where half of such photos lie farther off, and of strange or empty photos."
    ),
]
MinProbability = Annotated[
    float | None,
    typer.Option(
        help="How probable it must be that a photo lies within --max-error-km, else 'cannot tell'. [default: 0.5]"
    ),
]
ClaimOf = Annotated[
    str | None,
    typer.Option(help="A place claimed for the photos: LAT,LON or a town; or exif, what each photo says of itself."),
]
Regions = Annotated[
    bool,
    typer.Option(
        "--regions/--no-regions",
        help="geojson, kml: around each point, the region and the circle of nine of ten photos.",
    ),
]
Neighbours = Annotated[
    int, typer.Option(min=0, max=24, help="json, geojson: name so many known photos that look alike, with distances.")
]
Page = Annotated[
    Path | None,
    typer.Option(help="Write one HTML file too: photo, map, names, errors, known photos alike. It opens from disk."),
]
Map = Annotated[
    Path | None, typer.Option("--map", help="Write one HTML file too: a folder's photos on one map with one table.")
]
Why = Annotated[
    Explained | None,
    typer.Option(
        help="--page: lay over each photo what its answer depends on (occlusion is slow), or draw lines to the known "
        "photo that shares most with it (match)."
    ),
]
Gallery = Annotated[
    Path | None,
    typer.Option(help="--page: the dataset trained on, for pictures of known photos. [default: those in the bundle]"),
]
Resume = Annotated[
    Path | None,
    typer.Option(
        help="Keep the encoder's features of each photo in this folder: the same command, stopped, then goes on."
    ),
]
WithinKm = Annotated[
    float | None,
    typer.Option(min=1e-3, help="How probable it is so near the claim. [default: the median error; of a town 15 km]"),
]
Inside = Annotated[
    str | None,
    typer.Option(
        help="How probable an area is: a GeoJSON file of polygons, or tokens of S2 cells such as 89c25,89c27."
    ),
]


@app.command()
def predict(
    bundle: Path,
    photos: Photos = None,
    format: Annotated[Format, typer.Option(help="How to write the answers.")] = "table",
    out: Out = None,
    top: Top = None,
    together: Joined = None,
    max_error_km: MaxErrorKm = None,
    min_probability: MinProbability = None,
    claim: ClaimOf = None,
    within_km: WithinKm = None,
    neighbours: Neighbours = 0,
    inside: Inside = None,
    regions: Regions = False,
    answer: Point = None,
    precision: Arithmetic = "float32",
    runtime: Exported = None,
    engine: ByEngine = None,
    cores: Cores = 1,
    part: PhotosAPart = 1024,
) -> None:
    """Tell where photos were taken, for programs and tables. Exit status 1 if one could not be read."""
    bundle = check_bundle(bundle)
    if not photos:
        raise BadTableError(f"no photo is named; graticule predict {quote(str(bundle))} PHOTO, a folder, or a table")
    if engine:
        given = {"--together": together, "--claim": claim, "--inside": inside, "--neighbours": neighbours or None,
                 "--regions": regions or None}  # fmt: skip
        if other := [name for name, value in given.items() if value is not None]:
            raise BadRecipeError(
                f"--engine answers photo by photo, without {' and '.join(other)}; leave one of them out"
            )
        from graticule.inference.parts import PhotoJob

        job = PhotoJob(
            str(bundle.absolute()),
            "answers",
            precision=precision,
            runtime=runtime,
            top=top or 1,
            max_error_km=max_error_km,
            answer=answer,
            min_probability=_least(min_probability, max_error_km),
        )
        in_parts(job, photos, out, engine, cores, part)
        return
    _answer(
        bundle,
        photos,
        format,
        out,
        top,
        together,
        max_error_km,
        min_probability,
        claim,
        within_km,
        inside,
        regions,
        answer,
        precision,
        runtime,
        names=format == "words",
        neighbours=neighbours,
    )


@app.command()
def locate(
    photos: Photos = None,
    model: Annotated[Path | None, typer.Option(envvar="GRATICULE_MODEL", help="The bundle to ask.")] = None,
    format: Annotated[Format, typer.Option(help="How to write the answers.")] = "words",
    out: Out = None,
    top: Top = None,
    together: Joined = None,
    max_error_km: MaxErrorKm = None,
    min_probability: MinProbability = None,
    claim: ClaimOf = None,
    within_km: WithinKm = None,
    neighbours: Neighbours = 0,
    inside: Inside = None,
    regions: Regions = True,
    page: Page = None,
    map_: Map = None,
    why: Why = None,
    gallery: Gallery = None,
    resume: Resume = None,
    answer: Point = None,
    precision: Arithmetic = "float32",
    runtime: Exported = None,
) -> None:
    """Tell in words where photos were taken, and what they say themselves. Exit status 1 if one could not be read."""
    model = check_bundle(model or _only_one())
    if not photos:
        raise BadTableError("no photo is named; graticule locate PHOTO, a folder, or a table")
    if page and map_:
        raise BadRecipeError("--page shows all of some photos and --map a folder on one map; name one of them")
    if (why or gallery) and not page:
        raise BadRecipeError("--why and --gallery are shown on a page; name its file: --page FILE.html")
    _answer(
        model,
        photos,
        format,
        out,
        top,
        together,
        max_error_km,
        min_probability,
        claim or "own",
        within_km,
        inside,
        regions,
        answer,
        precision,
        runtime,
        names=True,
        neighbours=neighbours,
        pages=(page, map_, why, gallery),
        resume=resume,
    )


def _only_one() -> Path:
    """The one public model that was fetched, where no bundle is named."""
    from graticule.model.index import fetched

    names = fetched()
    if len(names) == 1:
        return Path(names[0])
    raise BundleError(
        "no model is named: give --model BUNDLE, or set GRATICULE_MODEL to one"
        + (f"; there are {', '.join(names)}" if names else "")
        + ".\nThere is none yet? graticule get geoclip fetches one of the world (graticule models lists more),\n"
        "or train your own: graticule data folder PHOTOS TOWN, then graticule train laptop --photos TOWN --out BUNDLE"
    )


def _answer(
    bundle: Path,
    photos: list[Path],
    format: Format,
    out: Path | None,
    top: int | None,
    together: Together | None,
    max_error_km: float | None,
    min_probability: float | None,
    claim: str | None,
    within_km: float | None,
    inside: str | None,
    regions: bool,
    answer: Answer | None,
    precision: Precision,
    runtime: Runtime | None,
    *,
    names: bool,
    neighbours: int,
    pages: "tuple[Path | None, Path | None, Explained | None, Path | None]" = (None, None, None, None),
    resume: Path | None = None,
) -> None:
    from graticule.photos.shards import shard_row

    # Said before torch is imported and a network opened; a photo of a shard is asked of its shard.
    if not any(shard_row(photo) or photo.exists() for photo in photos):
        raise BadTableError(f"there is no file {photos[0]}; correct the path or the folder it starts from")
    from graticule.geo.areas import read_areas
    from graticule.inference.formats import WRITERS, Writer, to_csv, to_geojson, to_kml, to_words
    from graticule.inference.locate import load
    from graticule.model.store import FeatureStore

    least = _least(min_probability, max_error_km)
    top = top or (1 if format in ("table", "csv") else 5)
    areas = read_areas(inside) if inside else []
    wanted, albums = _asked(photos, together)
    claims, around_km = (None, None) if claim is None else _claims(claim, wanted)
    console.opening(bundle)
    locator = load(bundle, precision=precision, runtime=runtime, answer=answer)
    if resume:
        locator.store = FeatureStore(resume)
    write: Writer = WRITERS.get(format, to_csv)
    if format == "words":
        learned_from = locator.bundle.facts.get("photos")
        own = claim in ("exif", "own")
        write = partial(to_words, knows=locator.area, learned_from=learned_from, own=own)
    elif format in ("geojson", "kml"):
        write = partial(to_geojson if format == "geojson" else to_kml, regions=regions)
    elif format in ("table", "csv"):
        write = partial(to_csv, top=top, claims=claims is not None, inside=[area.name for area in areas])
    page, paper = _page(locator, wanted, *pages)
    broken: list[Result] = []

    def counted(results: "Iterable[Result]") -> "Iterator[Result]":
        for result in results:
            if result.fix is None:
                broken.append(result)
            yield result

    with console.progress("photos") as progress:
        answers = locator.results(
            wanted,
            albums=albums,
            top=top,
            max_error_km=max_error_km,
            min_probability=least,
            claims=claims,
            within_km=within_km or around_km,
            inside=areas,
            names=names,
            neighbours=max(neighbours, BESIDE if pages[0] else 0),
            masses=page is not None,
            progress=progress,
        )
        results = counted(page.gather(answers) if page else answers)
        if out is not None:
            from graticule.files import atomic_file

            with atomic_file(out) as aside, aside.open("w", encoding="utf-8") as file:
                file.writelines(write(results))
        elif format != "table" and not sys.stdout.isatty():
            for piece in write(results):
                typer.echo(piece, nl=False)
        held = list(results)  # on a terminal the answers wait until the bar is gone
    if page and paper:
        typer.echo(f"written to {page.write(paper)}", err=True)
    if out is not None:
        typer.echo(f"{console.counted(len(wanted) - len(broken), 'photo')} answered, written to {out}")
    elif format == "table":
        _print_fixes([result for result in held if result.fix], top)
    elif sys.stdout.isatty():
        typer.echo("".join(write(held)), nl=False)
    if broken:
        said = out is None and format == "words"  # on the screen, below each photo's name
        for result in [] if said else broken[:10]:
            typer.secho(f"{result.photo}: {result.error}", fg="red", err=True)
        typer.secho(f"{len(broken)} of {len(wanted)} photos could not be read", fg="red", err=True)
        raise typer.Exit(1)


def _page(
    locator: "Locator",
    photos: list[Path],
    page: Path | None,
    map_: Path | None,
    why: Explained | None,
    gallery: Path | None,
) -> "tuple[AnswerPage | None, Path | None]":
    """The page that was asked for, and where it is written."""
    paper = page or map_
    if paper is None:
        return None, None
    from graticule.explaining.answer_page import AnswerPage
    from graticule.explaining.matching import LONGEST_PX
    from graticule.inference.pictures import SHOWN_PX, files_of
    from graticule.photos.table import read_photos

    side = LONGEST_PX if why == "match" else SHOWN_PX
    pictures = files_of(locator, read_photos(gallery), side) if gallery else locator.bundle.thumbnails
    return AnswerPage(locator, photos, page is None, pictures, why), paper


def _least(min_probability: float | None, max_error_km: float | None) -> float:
    """The probability that is asked for."""
    if min_probability is None:
        return 0.5
    if max_error_km is None:
        raise BadRecipeError(
            "--min-probability says how probable a photo must lie within --max-error-km; give that distance too, such "
            "as --max-error-km 25"
        )
    if not 0 < min_probability < 1:
        raise BadRecipeError(f"--min-probability lies between 0 and 1, such as 0.9; found {min_probability:g}")
    return min_probability


def _claims(claim: str, photos: list[Path]) -> "tuple[list[Place | None], float | None]":
    """What is claimed of each photo: one place for all, or what its own EXIF says; ``exif`` insists on that.

    With how far a town reaches around its middle, where the place is one.
    """
    if claim not in ("exif", "own"):
        if any(letter.isalpha() for letter in claim):
            from graticule.geo.territory import TOWN_KM, town_position

            return [town_position(claim)] * len(photos), TOWN_KM
        return [position(claim, "--claim")] * len(photos), None
    from graticule.inference.claims import own_position

    found = [own_position(photo) for photo in photos]
    if claim == "exif" and not any(found):
        raise BadTableError(
            f"--claim exif: none of the {len(photos)} photos says where it was taken; name the claimed place, as in "
            f"--claim 38.9,-77.03"
        )
    return found, None


def _print_fixes(results: "list[Result]", top: int) -> None:
    """Answers as a table; the folder that all photos share stands once above it."""
    if not results:
        return
    photos = [str(result.photo) for result in results]
    shared = os.path.commonpath([os.path.dirname(photo) for photo in photos])  # noqa: PTH120
    if shared:
        typer.echo(f"in {shared}:")
    cells = ("likeliest cell", "probability*") if top == 1 else (f"{top} likeliest cells, probabilities*",)
    rows: list[tuple[str, ...]] = []
    for photo, result in zip(photos, results, strict=True):
        if result.fix is None:
            continue
        fix = result.fix
        expected = "unknown" if fix.expected_error_km is None else console.distance(fix.expected_error_km)
        if fix.median_error_km is not None and fix.p90_error_km is not None:
            expected = f"{console.distance(fix.median_error_km)} / {console.distance(fix.p90_error_km)}"
            expected += "  unlike the training photos" if fix.is_unlike_training else ""
        likely = [(cell.token, f"{cell.probability:.0%}") for cell in fix.cells]
        last = (likely[0] if likely else ("", "")) if top == 1 else (", ".join(" ".join(cell) for cell in likely),)
        name = os.path.relpath(photo, shared) if shared else photo
        where = ("cannot", "tell") if fix.cannot_tell else (f"{fix.lat:.5f}", f"{fix.lon:.5f}")
        rows.append((name, *where, expected, *last))
    sure = any(result.fix and result.fix.calibrated for result in results)
    error = "half / nine of ten within" if sure else "expected error"
    console.print_table(("photo", "lat", "lon", error, *cells), rows)
    typer.echo("* the network's own; not calibrated against outcomes")
    for (name, *_), result in zip(rows, (result for result in results if result.fix), strict=True):
        if result.fix and result.fix.claim:
            typer.echo(f"the place claimed for {name}: {result.fix.claim.in_words()}")
        for area in result.fix.inside if result.fix else ():
            typer.echo(f"{name} inside {area.name}: {area.probability:.1%}")


def _asked(photos: list[Path], together: Together | None) -> "tuple[list[Path], Albums | None]":
    """The photos named, and which of them are answered together: as a table says, else those of each folder."""
    import numpy as np

    from graticule.inference.albums import Albums, albums_of
    from graticule.photos.table import read_photos

    [first, *more] = photos
    if not more and (first.suffix.lower() in TABLES or (first / "photos.parquet").is_file()):
        table = read_photos(first)
        return table.paths(), albums_of(table, together) if together else None
    wanted = expand(photos)
    if together is None:
        return wanted, None
    folders = np.unique([str(photo.parent) for photo in wanted], return_inverse=True)[1]
    return wanted, Albums.of(together, folders.astype(np.int64))
