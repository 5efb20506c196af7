"""Many photos: exported models, features in a table, what is kept between runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graticule.choices import Engine, Runtime
from graticule.cli import console
from graticule.cli.options import (
    Arithmetic,
    ByEngine,
    Cores,
    Exported,
    Json,
    PhotosAPart,
    check_bundle,
    photos_named,
)
from graticule.errors import BadRecipeError

if TYPE_CHECKING:
    from graticule.inference.parts import PhotoJob

app = typer.Typer()


@app.command()
def export(
    bundle: Path,
    to: Annotated[Runtime, typer.Option(help="The runtime to write for.")] = "onnx",
) -> None:
    """Write a bundle's encoder as an ONNX or OpenVINO model beside its weights, for --runtime of other commands."""
    bundle = check_bundle(bundle)
    from graticule.model.exporting import export as run

    typer.echo(f"written to {run(bundle, to)}; its features are the bundle's own, but for rounding")


@app.command()
def features(
    bundle: Path,
    photos: Annotated[list[Path], typer.Argument(help="Photos, folders of photos, or one dataset or table.")],
    out: Annotated[Path, typer.Option(help="The Parquet file: path, feature, error.")] = Path("features.parquet"),
    precision: Arithmetic = "float32",
    runtime: Exported = None,
    engine: ByEngine = None,
    cores: Cores = 1,
    part: PhotosAPart = 1024,
) -> None:
    """Write what a bundle's encoder makes of each photo. Exit status 1 if one could not be read."""
    bundle = check_bundle(bundle)
    if engine:
        from graticule.inference.parts import PhotoJob

        job = PhotoJob(str(bundle.absolute()), "features", precision=precision, runtime=runtime)
        in_parts(job, photos, out, engine, cores, part)
        return
    wanted = photos_named(photos)
    from graticule.inference.batch import feature_table
    from graticule.inference.locate import load

    with console.progress("photos") as progress:
        frame = feature_table(load(bundle, precision=precision, runtime=runtime), wanted, progress=progress)
    from graticule.files import write_parquet

    write_parquet(out, frame)
    console.print_counts(len(frame), frame["error"].count(), out)


def in_parts(job: "PhotoJob", photos: list[Path], out: Path | None, engine: Engine, cores: int, part: int) -> None:
    """Make a job's parts; exit status 1 if a photo could not be read."""
    if out is None:
        raise BadRecipeError("--engine writes parts into a folder; name it with --out")
    from graticule.parts import Folder
    from graticule.photos.shards import url_of

    wanted = [photo if url_of(photo) else photo.absolute() for photo in photos_named(photos)]
    parts = Folder(out.absolute(), job, wanted, part)
    with console.progress("photos") as progress:
        done, broken = parts.make(
            engine, cores=cores, gpu=job.runtime is None, progress=lambda done, total: progress(done, total, "photos")
        )
    if done < len(wanted):
        typer.echo(f"{len(wanted) - done:,} photos were in {out} already")
    console.print_counts(done, broken, out)


@app.command()
def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Delete all of it.")] = False,
    as_json: Json = False,
) -> None:
    """Show the features that are kept between runs, or delete them."""
    from graticule.model.store import default_store

    store = default_store()
    facts = store.clear() if clear else store.facts()
    if as_json:
        console.print_json(facts)
        return
    kept = f"{facts['features']:,} features of {facts['encoders']} encoders, {facts['bytes'] / 1e9:.2f} GB"
    done = "deleted" if clear else f"of at most {facts['limit_bytes'] / 1e9:g} GB (GRATICULE_CACHE_GB)"
    typer.echo(f"{facts['folder']}: {kept}, {done}")
