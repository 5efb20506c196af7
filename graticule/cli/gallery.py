"""Commands around the photos that a bundle knows."""

from pathlib import Path
from typing import Annotated

import typer

from graticule.cli import console
from graticule.cli.options import check_bundle
from graticule.errors import BadRecipeError

app = typer.Typer()


@app.command()
def thumbnails(
    bundle: Path,
    photos: Annotated[
        Path | None, typer.Argument(help="The dataset, or table, that the bundle was trained on.")
    ] = None,
    longest: Annotated[
        int, typer.Option("--px", min=32, max=1600, help="Longer side; explain --method match needs 320 or more.")
    ] = 160,
    remove: Annotated[bool, typer.Option("--remove", help="Take all pictures out of the bundle again.")] = False,
) -> None:
    """Put small pictures of its known photos into a bundle, so that they are shown beside its answers.

    No bundle has any unless you ask for them here. What is on them, faces and plates included, is then public where the
    bundle is, and their photographers' licences apply.
    """
    if remove == (photos is not None):
        raise BadRecipeError("name the dataset whose pictures are kept, or --remove to take them out")
    folder = check_bundle(bundle)
    from graticule.inference.locate import load
    from graticule.inference.pictures import keep_thumbnails
    from graticule.model.index import THUMBNAILS
    from graticule.photos.table import read_photos

    table = None if photos is None else read_photos(photos)
    with console.progress("photos") as progress:
        made, count = keep_thumbnails(load(folder), table, longest, progress=progress)
    made.write(folder, keep_weights=True)
    if table is None or made.confidence is None:
        typer.echo(f"{folder} holds no pictures of its known photos")
        return
    size = (folder / THUMBNAILS).stat().st_size / 2**20
    typer.echo(
        f"{folder} holds pictures of {count:,} of its {len(made.confidence.known.lat):,} known photos, {size:.1f} MiB"
    )
