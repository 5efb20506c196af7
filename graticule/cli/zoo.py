"""The commands around models that others have trained: list, fetch, calibrate, compare."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from graticule.cli import console
from graticule.cli.group import Commands
from graticule.cli.options import Json, check_bundle
from graticule.errors import BadRecipeError, BadWeightsError, WriteError
from graticule.inference.bundles import HUB_NAME
from graticule.model.index import CARD, CONFIDENCE, FILES, INDEX, KNOWN, THUMBNAILS

if TYPE_CHECKING:
    from graticule.evaluation.published import Line

app = typer.Typer()
gallery = typer.Typer(cls=Commands, help="The known photos that a bundle compares others with.", no_args_is_help=True)


@app.command()
def models(
    name: Annotated[str | None, typer.Argument(help="Tell all about this one.")] = None, as_json: Json = False
) -> None:
    """List the public models that can be made into bundles: licence, size, training photos, published figures."""
    from dataclasses import asdict

    from graticule.zoo import public_models, seconds_a_photo

    found = public_models()
    if name and name not in found:
        raise BadWeightsError(f"no public model is called {name!r}; there are {', '.join(found)}")
    chosen = [found[name]] if name else list(found.values())
    if as_json:
        console.print_json([asdict(model) for model in chosen])
        return
    if name:
        [model] = chosen
        limits = ", which forbids some uses" if model.restricted else ""
        lines = [
            f"{model.name}: {model.what}", f"licence: {model.licence}{limits}", f"fetches: {model.gigabytes:g} GB",
            f"trained on: {model.trained_on}", f"published: {model.figures}", f"see: {model.source}",
        ]  # fmt: skip
        if model.needs:
            lines.append(f"needs: {model.needs}")
        agree = f" --licence {model.licence}" if model.restricted else ""
        have = f"to have it: graticule get {model.name}{agree}"
        lines.append(f"cannot be had: {model.lacks}" if model.lacks else have)
        typer.echo("\n".join(lines))
        if not model.lacks and (seconds := seconds_a_photo(model)):
            typer.echo(f"a photo takes about {seconds:.2g} s on this machine, by how fast it multiplies now")
        return
    rows: list[tuple[str, ...]] = [
        (model.name + ("*" if model.lacks else ""), model.licence, f"{model.gigabytes:g}", model.what)
        for model in chosen
    ]
    console.print_table(("model", "licence", "GB", "what it is"), rows)
    typer.echo("* cannot be had here; graticule models NAME tells why, and of each its training photos and figures")


@app.command()
def get(
    name: Annotated[str, typer.Argument(help="A public model; graticule models lists them.")],
    folder: Annotated[
        Path | None, typer.Option("--from", help="Folder with its files, where there is no network.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The bundle's folder. [default: NAME in the cache folder]")] = None,
    licence: Annotated[str | None, typer.Option(help="The licence that you agree to, where it forbids uses.")] = None,
    within: Annotated[
        str | None,
        typer.Option(help="Places of this area alone, and more of them: a country, state or town, S,W,N,E, a GeoJSON."),
    ] = None,
    refine: Annotated[
        int, typer.Option(min=0, max=6, help="Rounds of a denser gallery around the likeliest place; of geoclip.")
    ] = 0,
) -> None:
    """Make a bundle of a public model, from the Hugging Face hub or from a folder."""
    from graticule.zoo import check_wanted

    model = check_wanted(name, agreed=licence, within=within is not None, refine=refine)
    if folder is not None and not folder.is_dir():
        raise BadWeightsError(f"there is no folder {folder}; --from names one that holds the files of the model")
    from graticule.files import fetched_folder
    from graticule.geo.territory import read_territory

    called = name
    if within:
        called += "-" + re.sub(r"[^\w.-]+", "-", Path(within).stem if Path(within).is_file() else within).strip("-")
    if refine:
        called += f"-refined-{refine}"
    where = out or fetched_folder() / called
    if out is None and (where / INDEX).is_file():
        raise BadWeightsError(
            f"{called} is here already: graticule locate PHOTO --model {called} asks it; to make it anew, remove "
            f"{where}"
        )
    _check_empty(where)
    _check_room(where, model.gigabytes)
    area = read_territory(within) if within else None
    from graticule.photos.cards import write_card
    from graticule.zoo import get as make

    typer.echo(f"{name} is under {model.licence}, trained on {model.trained_on}")
    typer.echo("reading its files and making a bundle of them takes a minute or two, after what is fetched")
    bundle = make(name, folder, agreed=licence, within=area, refine=refine)
    bundle.write(where)
    write_card(where)
    answers = bundle.model.head.has_cells
    typer.echo(f"the bundle lies in {where}")
    typer.echo(
        f"next: graticule locate PHOTO --model {out or called}; graticule calibrate {out or called} PHOTOS lets it "
        f"say how sure it is"
        if answers
        else f"next: name it in a recipe, encoder: {{bundle: {out or called}}}"
    )


@app.command()
def calibrate(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder, or the name of a public model that was fetched.")],
    photos: Annotated[Path, typer.Argument(help="A dataset, or a table with path, lat, lon.")],
    out: Annotated[Path | None, typer.Option(help="Write the bundle here, and leave the one that was read.")] = None,
    allow_leak: Annotated[
        bool, typer.Option("--allow-leak", help="Use photos of drives that training has seen all the same.")
    ] = False,
) -> None:
    """Measure on photos whose place is known how sure a bundle may be, and write it into the bundle."""
    where = check_bundle(bundle)
    if out is None and not bundle.exists() and len(bundle.parts) == 2:
        raise BadRecipeError(f"{bundle} is of the hub; name a folder for the calibrated bundle with --out")
    if out is not None:
        _check_empty(out)
    console.opening(where)
    from graticule.belief.calibration import coverage_within
    from graticule.evaluation.evaluate import seen, training_photos
    from graticule.model.bundle import Bundle
    from graticule.model.features import default_store
    from graticule.photos.cards import write_card
    from graticule.photos.table import read_photos
    from graticule.training.calibrate import calibrate as fit

    table, read = read_photos(photos), Bundle.read(where)
    whole = training_photos(read)
    trained = None if whole is None else seen(whole)
    with console.progress("photos") as progress:
        found = fit(read, table, trained=trained, allow_leak=allow_leak, store=default_store(), progress=progress)
    found.write(out or where, keep_weights=out is None)
    write_card(out or where)
    confidence = found.confidence
    if confidence is None:
        return
    places = confidence.calibration.places
    low, high = coverage_within(places, 0.9)
    typer.echo(f"{found.facts['calibration']}; written to {out or where}")
    typer.echo(
        f"how sure that is: with {places:,} places its 90 % region holds between {low:.0%} and {high:.0%} of photos "
        f"like these, nine times of ten; more places bring the two nearer"
    )


@gallery.command()
def add(
    bundle: Annotated[Path, typer.Argument(help="A calibrated bundle of a frozen encoder, such as laptop makes.")],
    photos: Annotated[Path, typer.Argument(help="A dataset, or a table with path, lat, lon.")],
    out: Annotated[Path | None, typer.Option(help="Write the bundle here, and leave the one that was read.")] = None,
) -> None:
    """Let a bundle know further photos of known places, without training it again."""
    where = check_bundle(bundle)
    if out is not None:
        _check_empty(out)
    from graticule.evaluation.evaluate import note_added
    from graticule.model.bundle import Bundle
    from graticule.model.features import default_store
    from graticule.photos.cards import write_card
    from graticule.photos.table import read_photos
    from graticule.training.calibrate import remember

    table = read_photos(photos)
    found, count = remember(Bundle.read(where), table, store=default_store())
    folder = out or where
    found.write(folder, keep_weights=out is None)
    note_added(folder, table)
    write_card(folder)
    known = found.confidence.known if found.confidence else None
    if known is not None:
        typer.echo(f"{count:,} photos are new to {folder}, which now knows {len(known.lat):,}")
    typer.echo(
        "how sure it is stays as it was fitted before, without them: graticule calibrate does it anew with photos of "
        "other places"
    )


@app.command()
def join(
    world: Annotated[Path, typer.Argument(help="A calibrated bundle of much ground.")],
    cities: Annotated[list[Path], typer.Argument(help="Calibrated bundles of parts of it.")],
    photos: Annotated[
        list[Path], typer.Option(help="A table of known places that trained none of them; repeat for the cities' own.")
    ],
    split: Annotated[str, typer.Option(help="Of tables that a bundle trained on, this part: val or test.")] = "all",
    allow_leak: Annotated[
        bool, typer.Option("--allow-leak", help="Use photos of drives that training has seen all the same.")
    ] = False,
) -> None:
    """Let a bundle of the world go down to bundles of cities; writes cities.json into the world's folder."""
    folders = [check_bundle(bundle) for bundle in (world, *cities)]
    for folder in folders:
        console.opening(folder)
    from graticule.evaluation.evaluate import choose_photos, seen, training_photos
    from graticule.inference.cities import CITIES
    from graticule.model.bundle import Bundle
    from graticule.model.features import default_store
    from graticule.photos.table import read_photos, stacked
    from graticule.training.joining import join as fit

    bundles = [Bundle.read(folder) for folder in folders]
    trained = [table for bundle in bundles if (table := training_photos(bundle)) is not None]
    chosen = []
    for table in map(read_photos, photos):
        paths = set(table.frame["path"])
        owner = next((known for known in trained if not paths.isdisjoint(known.frame["path"])), None)
        chosen.append(choose_photos(table, owner, split))
    with console.progress("photos") as progress:
        found = fit(
            bundles[0],
            bundles[1:],
            stacked(chosen),
            trained=[seen(table) for table in trained],
            allow_leak=allow_leak,
            store=default_store(),
            progress=progress,
        )
    found.write(folders[0])
    for city, share in zip(found.cities, found.before[1:], strict=True):
        typer.echo(f"{city.path}: {share:.0%} of these photos are taken for its own")
    typer.echo(f"written to {folders[0] / CITIES}; {folders[0]} now answers for all of them")


@app.command()
def benchmark(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder, or the name of a public model that was fetched.")],
    name: Annotated[Literal["im2gps", "im2gps3k", "yfcc4k"], typer.Argument(help="A published test set.")],
    images: Annotated[Path, typer.Option(help="Folder of its photos.")],
    table: Annotated[
        Path | None, typer.Option(help="Its table: IMG_ID, lat, lon; by default beside the photos.")
    ] = None,
    peers: Annotated[
        list[Path] | None,
        typer.Option(help="Published predictions (img_id, predicted_lat, ...), or a folder of such tables. Repeat."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the table and what was predicted.")] = None,
    allow_leak: Annotated[
        bool, typer.Option("--allow-leak", help="Measure photos of places that training has seen, and say so.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Print a benchmark's published table with the line of a bundle, all lines of the same photos."""
    where = check_bundle(bundle)
    if out is not None:
        _check_empty(out)
    from tempfile import TemporaryDirectory

    import polars as pl

    from graticule.evaluation.evaluate import evaluate
    from graticule.evaluation.published import QUOTED, comparable, own_line, recomputed
    from graticule.files import write_json
    from graticule.model.bundle import Bundle
    from graticule.model.features import default_store
    from graticule.photos.table import read_photos
    from graticule.sources.benchmark import BENCHMARKS, import_benchmark

    with TemporaryDirectory() as aside, console.progress("photos") as progress:
        found = import_benchmark(name, Path(aside) / name, images, table=table, max_refused=1, progress=progress)
        measured = evaluate(
            Bundle.read(where), read_photos(found), split="all", allow_leak=allow_leak, store=default_store(),
            progress=progress,
        )  # fmt: skip
    read, published = measured.rows.filter(pl.col("error").is_null()), BENCHMARKS[name].photos
    lines = [line for path in peers or [] for line in recomputed(path, read)]
    quoted = comparable(QUOTED[name], len(read))
    lines = [*sorted([*quoted, *lines], key=lambda line: line.within[1] or 0), own_line(str(bundle), measured.metrics)]
    facts = {
        "benchmark": name,
        "published_photos": published,
        "missing": published - len(read),
        "lines": [line.to_json() for line in lines],
        "metrics": measured.metrics,
    }
    if out is not None:
        write_json(measured.write(out) / "table.json", facts)
    if as_json:
        console.print_json(facts)
        return
    if len(read) < published:
        typer.echo(
            f"{published - len(read):,} of {published:,} photos are missing; figures on the {len(read):,} found. "
            f"{len(QUOTED[name])} published lines are of all, and so left out"
        )
    _print_lines(lines)
    low, high = measured.metrics["intervals"].get("within_25_km", (0, 1))
    typer.echo(f"% within each distance; {bundle} within 25 km: {low:.1%} to {high:.1%} (95 % interval)")
    typer.echo(measured.metrics["held_out_reason"])


def _print_lines(lines: "list[Line]") -> None:
    from graticule.evaluation.metrics import WITHIN_KM

    def percent(share: float | None) -> str:
        return "-" if share is None else f"{100 * share:.1f}"

    rows: list[tuple[str, ...]] = [
        (
            line.name, *map(percent, line.within), "-" if line.median_km is None else console.distance(line.median_km),
            "-" if line.bits is None else f"{line.bits:.2f}", percent(line.coverage_90), line.source,
        )
        for line in lines
    ]  # fmt: skip
    radii = (f"{km:,} km" for km in WITHIN_KM)
    console.print_table(("model", *radii, "median", "bits", "in 90 % region", "from"), rows)


@app.command()
def push(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder, or the name of a public model that was fetched.")],
    repo: Annotated[str, typer.Argument(help="Where to: user/name on the Hugging Face hub.")],
    public: Annotated[bool, typer.Option("--public", help="Let everybody see it, where it is new.")] = False,
) -> None:
    """Put a bundle and its card on the Hugging Face hub; graticule.load("user/name") opens it anywhere."""
    where = check_bundle(bundle)
    if repo.count("/") != 1 or not HUB_NAME.fullmatch(repo) or "@" in repo:
        raise BadRecipeError(f"{repo} is no name on the hub; give user/name")
    from graticule.sources.web.hub import hub_upload

    names = [name for name in (*FILES, *CONFIDENCE, THUMBNAILS, INDEX, CARD) if (where / name).is_file()]
    if KNOWN in names:
        typer.echo(f"note: {KNOWN} goes along: where the known photos were taken, and what the encoder makes of them")
    done = hub_upload(repo, where, names, private=not public)
    typer.echo(f"{len(names)} files are on the hub: {done}")
    typer.echo(f'next: graticule locate PHOTO --model {repo}, or graticule.load("{repo}")')


def _check_room(folder: Path, gigabytes: float) -> None:
    """Said before a gigabyte is fetched, not after.

    Raises:
        WriteError: the disk is too full for a bundle of this size.
    """
    from shutil import disk_usage

    there = next(parent for parent in folder.absolute().parents if parent.exists())
    free = disk_usage(there).free / 1e9
    if free < gigabytes:
        raise WriteError(
            f"a bundle of this model takes about {gigabytes:g} GB, and {there} has {free:.1f} GB free; free some space "
            f"or name a folder elsewhere with --out"
        )


def _check_empty(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadRecipeError(f"{folder} is not empty; choose another folder with --out, or remove this one")
