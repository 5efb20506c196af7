"""The command that opens a page and a service around a bundle."""

from pathlib import Path
from typing import Annotated

import typer

from graticule.cli.options import check_bundle

app = typer.Typer()


@app.command()
def serve(
    bundles: Annotated[
        list[Path], typer.Argument(help="Bundles; the first answers where none is named.", envvar="GRATICULE_MODEL")
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 for others than this machine.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8017,
    play: Annotated[Path | None, typer.Option(help="A dataset whose test part is played with.")] = None,
) -> None:
    """Open a page to drop photos on, and a service to call, around a bundle."""
    for bundle in bundles:
        check_bundle(bundle)
    import uvicorn

    from graticule.serving.app import create_app
    from graticule.serving.play import open_play
    from graticule.serving.service import Service, open_models

    models = open_models(bundles)
    service = Service(models)
    application = create_app(service, open_play(play, models[0]) if play else None)
    typer.echo(f"http://{host}:{port}  (Ctrl+C ends it)")
    uvicorn.run(application, host=host, port=port, log_level="warning", access_log=False, server_header=False)
