"""The commands around many runs: sweeps, the reports' tables, cards."""

from pathlib import Path
from shlex import quote
from typing import Annotated, Any, Literal

import typer

from graticule.cli import console
from graticule.cli.options import RECIPE, Json, Sets
from graticule.errors import BadRecipeError

app = typer.Typer()


Layout = Literal["runs", "a", "b"]
TableFormat = Literal["markdown", "csv", "latex"]


@app.command()
def sweep(
    recipe: Annotated[Path, typer.Argument(help=RECIPE)],
    photos: Annotated[Path, typer.Option(help="A dataset, or a table with path, lat, lon.")],
    out: Annotated[Path, typer.Option(help="Folder of the runs, one folder each.")],
    encoders: Annotated[str | None, typer.Option(help="Encoders to try: resnet50,vit_b_16,...")] = None,
    vary: Annotated[
        list[str] | None, typer.Option(help="A setting and its values: split.by=random,sequence. May be repeated.")
    ] = None,
    settings: Sets = None,
) -> None:
    """Train and measure every combination of some settings; run it again to go on where it stopped."""
    from graticule.config import parse_overrides, read_recipe

    tried: dict[str, list[Any]] = {"encoder.name": encoders.split(",")} if encoders else {}
    for pair in vary or []:
        name, sign, values = pair.partition("=")
        if not sign:
            raise BadRecipeError(f"--vary takes name=value,value, such as split.by=random,sequence; found {pair!r}")
        tried[name.strip()] = [parse_overrides([f"x={value}"])["x"] for value in values.split(",") if value]
    from graticule.photos.table import table_file

    read_recipe(recipe, parse_overrides(settings or []))
    table_file(photos)
    from graticule.evaluation.sweep import sweep as run
    from graticule.model.features import default_store

    failed = 0
    with console.progress("sweep") as progress:
        overrides = parse_overrides(settings or [])
        for done in run(recipe, photos, out, tried, overrides=overrides, store=default_store(), progress=progress):
            failed += done.error is not None
            state = f"failed: {done.error}" if done.error else "done" if done.fresh else "was there"
            typer.echo(f"{done.arm.name}: {state}")
    typer.echo(f"next: graticule table runs --runs {quote(str(out))}")
    if failed:
        raise typer.Exit(1)


@app.command()
def table(
    layout: Annotated[
        Layout,
        typer.Argument(help="runs: every run with intervals; a: report A's encoders and heads; b: report B's parts."),
    ],
    runs: Annotated[Path, typer.Option(help="Folder of runs, as `sweep` or `crossval --out FOLDER/NAME` write them.")],
    out: Annotated[Path | None, typer.Option(help="Write the tables: .md, .csv or .tex.")] = None,
    format: Annotated[TableFormat | None, typer.Option(help="By default the suffix of --out, else Markdown.")] = None,
    as_json: Json = False,
) -> None:
    """Print a table of finished runs: with intervals, or as one of the reports has it, honest columns beside."""
    from dataclasses import asdict

    from graticule.files import write_text
    from graticule.reporting.tables import FORMATS, SUFFIXES, TABLES, read_runs

    tables = TABLES[layout](read_runs(runs))
    if out:
        wanted = format or SUFFIXES.get(out.suffix.lower(), "markdown")
        write_text(out, "\n".join(FORMATS[wanted](one) for one in tables))
    if as_json:
        console.print_json([asdict(one) for one in tables])
        return
    if format and not out:
        typer.echo("\n".join(FORMATS[format](one) for one in tables), nl=False)
        return
    for one in tables:
        typer.echo(one.title)
        console.print_table(one.header, one.texts())


@app.command()
def card(folder: Annotated[Path, typer.Argument(help="A bundle, or a dataset.")]) -> None:
    """Write the model card of a bundle or the datasheet of a dataset anew, from what lies in its folder."""
    from graticule.photos.cards import write_card

    typer.echo(f"written: {write_card(folder)}")
