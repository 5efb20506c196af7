"""The command line: typer commands around the rooms. The only room that prints."""

import os
import sys
import warnings
from typing import Annotated, Any, NoReturn

import typer

from graticule.cli import (
    answer,
    archives,
    commands,
    data,
    explain,
    fetch,
    gallery,
    pack,
    runs,
    scale,
    serve,
    start,
    zoo,
)
from graticule.cli.group import Commands
from graticule.errors import GraticuleError, Note
from graticule.files import explained

app = typer.Typer(
    cls=Commands,
    help="Tell where a street-level photo was taken, and how sure one can be.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from graticule import __version__

        typer.echo(f"graticule {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


app.add_typer(start.app)
app.add_typer(commands.app)
app.add_typer(answer.app)
app.add_typer(explain.app)
app.add_typer(runs.app)
app.add_typer(scale.app)
app.add_typer(serve.app)
app.add_typer(zoo.app)
data.app.add_typer(archives.app)
data.app.add_typer(fetch.app)
data.app.add_typer(pack.app)
app.add_typer(data.app, name="data")
zoo.gallery.add_typer(gallery.app)
app.add_typer(zoo.gallery, name="gallery")


def main() -> None:
    """Run the command line; an expected failure is one sentence and exit status 1."""
    warnings.showwarning = _show_warning
    # Threads that spin for long while they wait take the cores from whoever works: beside one other process that made
    # a network four times slower on two cores. A short spin costs nothing where nothing else runs. GNU's OpenMP reads
    # it when torch is first imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:
        app()
    except GraticuleError as error:
        _fail(error)
    except OSError as error:  # a folder that may not be written and the like, wherever it is met
        told = explained(error, error.filename or "the disk")
        if told is error:
            raise
        _fail(told)


def _fail(error: Exception) -> NoReturn:
    typer.secho(f"error: {error}", fg="red", err=True)
    sys.exit(1)


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if category.__module__.startswith("graticule"):
        note = issubclass(category, Note)
        typer.secho(f"{'note' if note else 'warning'}: {message}", fg=None if note else "yellow", err=True)
