"""The commands around many runs: sweeps, the reports' tables, cards."""

from pathlib import Path
from shlex import quote
from shlex import split as shell_words
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


SWITCHES = (  # of a frozen encoder with a gallery, as `laptop` and `real-photos` have one
    "hidden layer: head.hidden=256",
    "one cell as target: target.kind=one_cell target.tau_spacings=null",
    "last layer alone: encoder.inner=[]",
    "whole photos: encoder.second_order_halves=false",
    "gallery of pooled features: encoder.second_order=[]",
    "no gallery: remember=false",
    "semantic cells: cells.kind=semantic cells.split_above=30 cells.drop_below=null",
    "softmaxes down S2 cells: head.hierarchy=true",
)


@app.command()
def ablate(
    recipe: Annotated[Path, typer.Argument(help=RECIPE)],
    photos: Annotated[
        list[str],
        typer.Option(help="A dataset or table; DATASET@block also says what stays whole in a fold. May be repeated."),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the measurements and of table.md.")],
    switches: Annotated[
        list[str] | None,
        typer.Option("--switch", help="Settings to change together: 'NAME: head.hidden=256 head.dropout=0.3'. Repeat."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How often folds are dealt and weights begin anew.")] = 3,
    folds: Annotated[int, typer.Option(min=2)] = 5,
    settings: Sets = None,
    as_json: Json = False,
) -> None:
    """Measure what settings are worth: plain, with each switch, with all of them. Run it again to go on."""
    from graticule.config import parse_overrides, read_recipe
    from graticule.photos.table import table_file

    common = settings or []
    tried = dict(_switch(text) for text in switches or SWITCHES)
    recipes = {name: read_recipe(recipe, parse_overrides([*common, *words])) for name, words in tried.items()}
    plain = read_recipe(recipe, parse_overrides(common))
    every = [word for words in tried.values() for word in words]
    together = read_recipe(recipe, parse_overrides([*common, *every])) if len(tried) > 1 else None
    sources = [(Path(name), group) for name, _, group in (text.partition("@") for text in photos)]
    for source, _ in sources:
        table_file(source)

    from dataclasses import asdict

    from graticule.evaluation.ablation import Collection, ablate, effects, variants_of
    from graticule.files import write_text
    from graticule.model.features import default_store
    from graticule.photos.table import read_photos
    from graticule.reporting.tables import table_of_effects

    variants = variants_of(recipes, plain, together)
    collections = []
    for source, group in sources:
        table = read_photos(source)
        name = source.parent.name if source.stem in ("manifest", "photos") else source.stem
        collections.append(Collection(f"{name}-{group or 'place'}", table, group or "place"))
    failed = 0
    numbers = range(plain.seed, plain.seed + seeds)
    with console.progress("ablation") as progress:
        for trial in ablate(
            variants, collections, out, seeds=numbers, folds=folds, store=default_store(), progress=progress
        ):
            failed += trial.error is not None
            if trial.error:
                typer.echo(f"{trial.collection}, {trial.variant}, seed {trial.seed}: failed: {trial.error}")
    found = [asdict(effect) for effect in effects(out, list(variants), collections, numbers)]
    tables = table_of_effects(found)
    write_text(out / "table.md", "\n".join(one.to_markdown() for one in tables))
    if as_json:
        console.print_json(found)
    else:
        for one in tables:
            typer.echo(one.title)
            console.print_table(one.header, one.texts())
        typer.echo(f"written to {out / 'table.md'}")
    if failed:
        raise typer.Exit(1)


def _switch(text: str) -> tuple[str, list[str]]:
    """The name and the settings of ``NAME: SETTINGS``; settings without a name are called by themselves."""
    name, _, words = text.partition(": ")
    if "=" in name:  # a colon of a setting's own
        name, words = text, text
    return name, shell_words(words)


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
