"""The command that shows what an answer depends on."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from graticule.cli import console
from graticule.cli.options import Arithmetic, Exported, check_bundle, expand, position
from graticule.errors import BadTableError

app = typer.Typer()


class Method(StrEnum):  # typer takes no list of literals
    occlusion = "occlusion"
    saliency = "saliency"
    integrated_gradients = "integrated-gradients"
    gradcam = "gradcam"
    patches = "patches"
    map = "map"
    match = "match"


Target = Literal["true", "predicted"]


@app.command()
def explain(
    bundle: Path,
    photos: Annotated[list[Path], typer.Argument(help="Photos, or folders of photos.")],
    out: Annotated[Path, typer.Option(help="Folder of the pictures.")],
    method: Annotated[list[Method], typer.Option(help="May be repeated.")] = [Method.occlusion, Method.map],  # noqa: B006
    target: Annotated[Target, typer.Option(help="The cell to explain.")] = "predicted",
    truth: Annotated[str | None, typer.Option(help="LAT,LON of the photo, degrees; by default its EXIF's.")] = None,
    patch: Annotated[int | None, typer.Option(min=1, help="Occlusion: side of the square, network pixels.")] = None,
    stride: Annotated[
        int | None,
        typer.Option(
            min=1, help="Occlusion: step of the square, network pixels; half the step, four times the squares."
        ),
    ] = None,
    score: Annotated[bool, typer.Option(help="Judge each map by deletion and insertion.")] = True,
    gallery: Annotated[
        Path | None,
        typer.Option(help="match: the dataset trained on, for its photos. [default: the pictures in the bundle]"),
    ] = None,
    precision: Arithmetic = "float32",
    runtime: Exported = None,
) -> None:
    """Show which parts of photos the answers depend on, on a map, or by the known photo that shares most with them.

    Exit status 1 if a photo could not be explained; the others are.
    """
    bundle = check_bundle(bundle)
    console.opening(bundle)
    from graticule.errors import BadPhotoError
    from graticule.explaining.matching import LONGEST_PX
    from graticule.explaining.methods import cost
    from graticule.explaining.render import doubts, explain_photo, names_of
    from graticule.inference.locate import load
    from graticule.inference.pictures import files_of
    from graticule.photos.table import read_photos

    wanted = expand(photos)
    where = position(truth, "--truth") if truth else None
    if where and len(wanted) > 1:
        raise BadTableError(
            f"--truth is where one photo was taken, but there are {len(wanted)}; explain them one by one"
        )
    locator, failed = load(bundle, precision=precision, runtime=runtime), 0
    pictures = files_of(locator, read_photos(gallery), LONGEST_PX) if gallery else locator.bundle.thumbnails
    for photo, name in zip(wanted, names_of(wanted), strict=True):
        try:
            methods = [m.value for m in method]
            passes, step = cost(locator, photo, methods, patch=patch, stride=stride, score=score)
            said = f"{photo.name}: the network is asked {passes:,} times"
            if step and step > 1 and stride is None:
                said += f"; --stride {step // 2} makes it finer by four times the squares, --method saliency is quick"
            typer.echo(said, err=True)
            with console.progress(photo.name) as progress:
                written = explain_photo(
                    locator,
                    photo,
                    out,
                    methods,
                    name=name,
                    truth=where,
                    target=target,
                    patch=patch,
                    stride=stride,
                    score=score,
                    pictures=pictures,
                    progress=progress,
                )
        except BadPhotoError as error:
            failed += 1
            typer.secho(f"{photo}: {error}", fg="red", err=True)
            continue
        for path in written:
            typer.echo(str(path))
        for warning in doubts(written):
            typer.secho(warning, fg="yellow", err=True)
    if failed:
        typer.secho(f"{failed} of {len(wanted)} photos could not be explained", fg="red", err=True)
        raise typer.Exit(1)
