"""The command that opens a page and a service around bundles."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from graticule.cli import console
from graticule.cli.options import check_bundle
from graticule.errors import BadRecipeError, BundleError

app = typer.Typer()


@app.command()
def serve(
    bundles: Annotated[
        list[Path] | None,
        typer.Argument(help="Bundles; the first answers where none is named.", envvar="GRATICULE_MODEL"),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines ask.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8017,
    play: Annotated[
        Path | None, typer.Option(help="A dataset: with its test part one plays, and compares models.")
    ] = None,
    gallery: Annotated[
        Path | None, typer.Option(help="The dataset that was trained on: known photos that look alike get pictures.")
    ] = None,
    coarsest_answer_km: Annotated[
        float | None, typer.Option(min=0.001, max=2000, help="Blur every answer to this scale.")
    ] = None,
    keys: Annotated[Path | None, typer.Option(help="A file of hashed keys; who asks needs one.")] = None,
    new_key: Annotated[str | None, typer.Option(help="Make a key for this name, print it once, and end.")] = None,
    per_minute: Annotated[float, typer.Option(min=0, help="Requests of one key or address; 0 is no limit.")] = 0,
    allow_host: Annotated[list[str] | None, typer.Option(help="A name this server goes by. May be repeated.")] = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="A page elsewhere that may ask, as https://maps.example. May be repeated.")
    ] = None,
    street_map: Annotated[
        str | None, typer.Option(help="Tiles that the page's user may switch on: https://.../{z}/{x}/{y}.png.")
    ] = None,
    audit: Annotated[Path | None, typer.Option(help="Write each request here, without its photos.")] = None,
    max_mb: Annotated[float, typer.Option(min=0.01, help="Largest request, MiB.")] = 32,
    max_photos: Annotated[int, typer.Option(min=1, help="Photos of one request.")] = 32,
    max_megapixels: Annotated[float, typer.Option(min=0.01, max=200, help="Of one photo.")] = 50,
    max_seconds: Annotated[float, typer.Option(min=0.1, help="For a request to arrive, and for its answer.")] = 60,
    batch: Annotated[int, typer.Option(min=1, help="Photos that the network sees at once.")] = 16,
) -> None:
    """Open a page to drop photos on, and a service to call, around bundles.

    Photos stay in memory and are forgotten with their answer.
    """
    if new_key:
        if keys is None:
            raise BadRecipeError("--new-key NAME needs --keys FILE, where the key's hash is written")
        from graticule.serving.keys import add_key

        typer.echo(add_key(keys, new_key))
        return
    if not bundles:
        raise BundleError("no model is named: graticule serve BUNDLE, or set GRATICULE_MODEL to one")
    for bundle in bundles:
        check_bundle(bundle)
        console.opening(bundle)
    from graticule.photos.table import read_photos
    from graticule.serving.app import create_app
    from graticule.serving.guard import Door
    from graticule.serving.keys import read_keys
    from graticule.serving.limits import Limits
    from graticule.serving.play import open_play
    from graticule.serving.run import run
    from graticule.serving.service import Service, open_models

    limits = Limits(
        bytes=round(max_mb * 2**20),
        pixels=round(max_megapixels * 1e6),
        photos=max_photos,
        seconds=max_seconds,
        batch=batch,
    )
    with ExitStack() as stack:
        door = Door(
            hosts=[host, *(allow_host or ())],
            origins=allow_origin or (),
            keys=read_keys(keys) if keys else None,
            per_minute=per_minute,
            images=[_origin(street_map)] if street_map else (),
            audit=stack.enter_context(audit.open("a", encoding="utf-8")) if audit else None,
        )
        models = open_models(bundles, coarsest_answer_km, read_photos(gallery) if gallery else None, batch)
        game = open_play(play, models) if play else None
        application = create_app(Service(models, limits), door, play=game, street_map=street_map)
        run(application, host, port, limits, lambda url: typer.echo(f"{url}  (Ctrl+C ends it)"))


def _origin(template: str) -> str:
    """The server of a template of tiles."""
    parts = urlsplit(template)
    if parts.scheme not in ("http", "https") or not parts.netloc or "{z}" not in template:
        raise BadRecipeError(f"--street-map takes https://.../{{z}}/{{x}}/{{y}}.png; found {template!r}")
    return f"{parts.scheme}://{parts.netloc}"
