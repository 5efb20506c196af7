"""The commands around cells, scores and models. Each imports its rooms when it runs: torch takes seconds."""

import time
from contextlib import nullcontext
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from graticule.choices import Engine, Keep, PartitionKind, Together, Tracker
from graticule.cli import console
from graticule.cli.options import (
    RECIPE,
    SPLIT_BY,
    Arithmetic,
    ByEngine,
    Column,
    Cores,
    Exported,
    Json,
    Point,
    Sets,
    check_bundle,
)
from graticule.errors import BadRecipeError
from graticule.files import claimed, remove_folder

if TYPE_CHECKING:
    from graticule.partition import CellPartition

app = typer.Typer()

Baseline = Literal["knn"]


@app.command()
def cells(
    points: Annotated[
        Path, typer.Argument(help="A dataset, any CSV or Parquet with lat, lon, or a folder of Parquet files.")
    ],
    out: Annotated[Path | None, typer.Option(help="Write the cells, as Parquet.")] = None,
    kind: Annotated[PartitionKind, typer.Option(help="How to divide: S2 cells, a grid, clusters, or a column.")] = "s2",
    split_above: Annotated[
        int | None,
        typer.Option(
            help="s2: split a cell with more photos; semantic: places. [default: 1000; at most a fiftieth of all]"
        ),
    ] = None,
    drop_below: Annotated[
        int | None,
        typer.Option(help="s2: drop a cell with fewer photos. [default: --split-above / 20, at most 50]"),
    ] = None,
    max_level: Annotated[int | None, typer.Option(help="s2, semantic: finest level. [default: 18]")] = None,
    keep: Annotated[Keep | None, typer.Option(help="s2: planet, or nested as report A. [default: planet]")] = None,
    rows: Annotated[int | None, typer.Option(help="grid: rows with equally many photos.")] = None,
    columns: Annotated[int | None, typer.Option(help="grid: columns with equally many photos.")] = None,
    clusters: Annotated[int | None, typer.Option(help="kmeans, gaussian: how many.")] = None,
    min_cluster_size: Annotated[
        int | None, typer.Option(help="semantic: fewest places of a cluster. [default: --split-above / 20, at least 2]")
    ] = None,
    label: Annotated[str | None, typer.Option(help="label: the column whose values are the classes.")] = None,
    seed: Annotated[int, typer.Option(help="kmeans, gaussian: where clusters begin.")] = 0,
    lat: Annotated[str, Column] = "lat",
    lon: Annotated[str, Column] = "lon",
    plot: Annotated[Path | None, typer.Option(help="Draw the cells over a map.")] = None,
    engine: ByEngine = None,
    cores: Cores = 1,
    as_json: Json = False,
) -> None:
    """Divide the map: adaptive S2 cells, a quantile grid, clusters (within S2 cells too), or the values of a column."""
    from graticule.config import parse_recipe
    from graticule.sections import LabelCells, S2Cells, SemanticCells

    given = {
        "split_above": split_above, "drop_below": drop_below, "max_level": max_level, "keep": keep,
        "rows": rows, "columns": columns, "clusters": clusters, "min_cluster_size": min_cluster_size, "label": label,
    }  # fmt: skip
    wanted = parse_recipe({"cells": {"kind": kind} | given}, where="the options").cells
    from graticule.partition import Partition, grow
    from graticule.photos.table import many_points, point_batches, read_labels, read_points

    many = isinstance(wanted, S2Cells) and not plot and many_points(points)
    settings = wanted.model_dump(exclude={"kind"})
    partition: Partition
    if engine and not (many and out):
        raise BadRecipeError(
            "--engine counts points of a folder of Parquet files, or of a large one, into S2 cells that --out FILE "
            "keeps, without --plot; add what is missing, or leave --engine out"
        )
    if engine and out:
        partition, total = _counted_in_parts(points, out, lat, lon, engine, cores, settings)
    elif many:
        from graticule.partition.stream import fit_batches

        partition, total = fit_batches(point_batches(points, lat, lon), **settings)
    else:
        lats, lons = read_points(points, lat, lon)
        if isinstance(wanted, S2Cells | SemanticCells) and split_above is None:
            fewer = {"split_above": max(drop_below or 1, min(wanted.split_above, len(lats) // 50))}
            wanted = parse_recipe({"cells": {"kind": kind} | given | fewer}, where="the options").cells
        labels = read_labels(points, wanted.label) if isinstance(wanted, LabelCells) else ()
        partition, total = grow(lats, lons, labels=labels, seed=seed, **wanted.model_dump()), len(lats)
    if out and not engine:
        partition.write(out)
    if plot:
        from graticule.reporting.figures import cells_map, save

        save(cells_map(partition, lat=lats, lon=lons, title=f"{points.name}: {partition.title}"), plot)
    facts = partition.summary(total=total) | {"out": str(out) if out else None}
    if as_json:
        console.print_json(facts)
        return
    per_cell, levels = facts["photos_per_cell"], [int(level) for level in facts.get("levels", ())]
    did = [f"Written to {out}"] if out else []
    did += [f"drawn in {plot}" if out else f"Drawn in {plot}"] if plot else []
    typer.echo(
        f"{total:,} points make {partition.title}, with {per_cell['min']:,} to {per_cell['max']:,} points each"
        + (f", S2 levels {min(levels)} to {max(levels)}" if levels else "")
        + f"; {facts['photos_outside']:,} points lie in none. "
        + (", ".join(did) or "Nothing is written: --out FILE keeps them, --plot FILE draws them")
    )
    if len(partition) <= 1 and isinstance(wanted, S2Cells | SemanticCells):
        typer.echo(f"one cell is no division: --split-above {max(1, total // 50)} would make some dozens", err=True)


def _counted_in_parts(
    points: Path, out: Path, lat: str, lon: str, engine: Engine, cores: int, settings: dict[str, Any]
) -> "tuple[CellPartition, int]":
    """Cells of many points, written; what was counted lies beside them until then."""
    from graticule.partition.stream import fit_in_parts
    from graticule.photos.table import point_spans

    parts, spans = out.with_name(f"{out.name}.parts"), point_spans(points)
    with claimed(parts), console.progress("batches, read twice") as progress:
        partition, total = fit_in_parts(
            parts,
            spans,
            lat,
            lon,
            **settings,
            engine=engine,
            cores=cores,
            progress=lambda done, total: progress(done, total, ""),
        )
        partition.write(out)
        for made in sorted(parts.iterdir()):
            remove_folder(made)
    if parts.is_dir():  # who made it has removed it
        parts.rmdir()
    return partition, total


@app.command()
def score(
    file: Annotated[Path, typer.Argument(help="A table with lat, lon, predicted_lat, predicted_lon.")],
    lat: Annotated[str, Column] = "lat",
    lon: Annotated[str, Column] = "lon",
    predicted_lat: Annotated[str, Column] = "predicted_lat",
    predicted_lon: Annotated[str, Column] = "predicted_lon",
    group: Annotated[str | None, typer.Option(help="Column whose groups the intervals resample.")] = None,
    photo: Annotated[
        str | None,
        typer.Option(help="Column that names the photo: its rows are samples, or points, of what is believed of it."),
    ] = None,
    weight: Annotated[str | None, typer.Option(help="--photo: column of the points' weights; else all alike.")] = None,
    map_diagonal_km: Annotated[float | None, typer.Option(help="Scale of the score; the world's is 14927.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write each row's error as Parquet.")] = None,
    as_json: Json = False,
) -> None:
    """Score anyone's predictions: distances, shares within a radius, map-scaled score, intervals."""
    from graticule.evaluation.score import score_table

    columns = {"lat": lat, "lon": lon, "predicted_lat": predicted_lat, "predicted_lon": predicted_lon}
    if weight and not photo:
        raise BadRecipeError("--weight weighs the points of one photo; name the column that says which, with --photo")
    report = score_table(
        file, columns=columns, map_diagonal_km=map_diagonal_km, group=group, photo=photo, weight=weight
    )
    if out:
        report.write_rows(out)
    facts = report.to_json()
    if as_json:
        console.print_json(facts)
        return
    console.print_metrics(facts)
    for reason, count in facts["refused_reasons"].items():
        rows = [str(row["row"]) for row in facts["refused_rows"] if row["reason"] == reason]
        typer.echo(f"refused {count} rows: {reason} (row {', '.join(rows[:5])}{', ...' if count > 5 else ''})")


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(help="Print this one, to copy and change it.")] = None,
) -> None:
    """List the recipes that come with Graticule."""
    from graticule.trees import find_recipe, packaged_recipes

    if name:
        typer.echo(find_recipe(Path(name)).read_text(encoding="utf-8"), nl=False)
        return
    texts = {name: file.read_text(encoding="utf-8") for name, file in packaged_recipes().items()}
    rows: list[tuple[str, ...]] = [(name, text.partition("\n")[0][2:]) for name, text in texts.items()]
    console.print_table(("recipe", "what it is for"), rows)


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help=RECIPE)],
    photos: Annotated[Path, typer.Option(help="A dataset, or a table with path, lat, lon.")],
    out: Annotated[Path, typer.Option(help="The bundle's folder.")],
    resume: Annotated[bool, typer.Option(help="Go on with an interrupted run.")] = False,
    devices: Annotated[
        int | None, typer.Option(min=1, help="GPUs of each machine, or processes on the CPU. [default: 1]")
    ] = None,
    nodes: Annotated[int | None, typer.Option(min=1, help="Machines that train together. [default: 1]")] = None,
    logger: Annotated[Tracker | None, typer.Option(help="An experiment tracker to tell, too.")] = None,
    settings: Sets = None,
) -> None:
    """Train on geotagged photos; the result is a bundle."""
    started = time.monotonic()
    from graticule.config import parse_overrides, read_recipe

    plan = read_recipe(recipe, parse_overrides(settings or []))
    from graticule.photos.table import read_photos
    from graticule.training.devices import Machines
    from graticule.training.prepare import check_output_folder

    table = read_photos(photos)
    machines = Machines.of(devices, nodes, logger)
    if machines.is_first:
        check_output_folder(out, resume)
    # Torch takes seconds to load; what can be wrong before is said by now.
    from graticule.model.features import default_store
    from graticule.model.loading import silent
    from graticule.training.loop import chosen_precision
    from graticule.training.train import train as run

    arithmetic, why = chosen_precision(plan)
    if machines.is_first:
        typer.echo(f"training in {arithmetic}: {why}")
    try:
        with console.progress("training") if machines.is_first else nullcontext(silent) as progress:
            bundle = run(plan, table, out, resume=resume, store=default_store(), machines=machines, progress=progress)
    except KeyboardInterrupt:
        if not machines.is_first:  # one of them says it
            raise typer.Exit(130) from None
        raise KeyboardInterrupt("the same command with --resume goes on after the last checkpoint") from None
    facts, seconds = bundle.facts, time.monotonic() - started
    typer.echo(
        f"trained on {facts['photos']:,} photos of {facts['places']:,} places, {facts['cells']:,} cells, in "
        f"{seconds:.0f} s ({_parts_of_time(facts, plan.encoder.frozen, seconds)}); the bundle lies in {out}"
    )
    if facts["split"]["marked"]:
        typer.echo(f"{facts['split']['marked']:,} marked photos were left out of training")
    typer.echo(f"next: graticule evaluate {quote(str(out))} {quote(str(photos))}")


def _parts_of_time(facts: dict[str, Any], frozen: bool, whole: float) -> str:
    """Where the seconds of a training went; opening libraries, the split's audit and writing are the rest."""
    fitting = facts["seconds"] - facts["feature_seconds"]
    parts = {"features": facts["feature_seconds"], "head": fitting} if frozen else {"network": fitting}
    parts["calibration"] = facts["calibration_seconds"]
    parts["opening, split and writing"] = max(0.0, whole - sum(parts.values()))
    return ", ".join(f"{name} {seconds:.0f} s" for name, seconds in parts.items())


@app.command()
def evaluate(
    bundle: Path,
    dataset: Path,
    split: Annotated[str, typer.Option(help="test, val, train, or all for photos not trained with.")] = "test",
    baseline: Annotated[Baseline | None, typer.Option(help="Measure training photos as neighbours too.")] = None,
    together: Annotated[Together | None, typer.Option(help="Measure photos of a place or drive together too.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the result; by default in the bundle's folder.")] = None,
    allow_leak: Annotated[
        bool, typer.Option("--allow-leak", help="Measure photos of drives that training has seen, and say so.")
    ] = False,
    answer: Point = None,
    precision: Arithmetic = "float32",
    runtime: Exported = None,
    as_json: Json = False,
) -> None:
    """Measure a bundle on photos whose place is known. Exit status 1 if training has seen their drives."""
    bundle = check_bundle(bundle)
    from graticule.photos.table import table_file

    table_file(dataset)
    console.opening(bundle)
    from graticule.evaluation.evaluate import evaluate_folder
    from graticule.model.features import default_store

    folder = out or bundle / "evaluation" / (f"{split}-{answer}" if answer else split)
    with console.progress("photos") as progress:
        found = evaluate_folder(
            bundle,
            dataset,
            folder,
            split=split,
            allow_leak=allow_leak,
            baseline=baseline is not None,
            together=together,
            store=default_store(),
            answer=answer,
            precision=precision,
            runtime=runtime,
            progress=progress,
        )
    if as_json:
        console.print_json(found.metrics | {"audit": found.audit.to_json() if found.audit else None})
        return
    console.print_metrics(found.metrics)
    if found.audit:
        console.print_nearest(found.audit.to_json())
    console.print_verdicts(found.metrics)
    typer.echo(f"written to {folder}")


@app.command()
def crossval(
    recipe: Annotated[Path, typer.Argument(help=RECIPE)],
    photos: Annotated[Path, typer.Option(help="A dataset, or a table with path, lat, lon.")],
    folds: Annotated[int, typer.Option(min=2)] = 5,
    group: Annotated[str, typer.Option(help="What stays in one fold: place, sequence, block or a column.")] = "place",
    baseline: Annotated[Baseline | None, typer.Option(help="Measure training photos as neighbours too.")] = None,
    together: Annotated[Together | None, typer.Option(help="Measure photos of a place or drive together too.")] = None,
    without: Annotated[
        str | None, typer.Option(help="Leave out this part of the table's own split: test, to keep it unseen.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the rows and numbers.")] = None,
    settings: Sets = None,
    as_json: Json = False,
) -> None:
    """Train and test on K grouped folds and pool the figures: honest numbers for small collections."""
    from graticule.config import parse_overrides, read_recipe

    plan = read_recipe(recipe, parse_overrides(settings or []))
    from graticule.photos.splits import make_split
    from graticule.photos.table import read_photos

    table = read_photos(photos)
    if without:
        table = table.take(make_split(table, "column") != without)
    from graticule.evaluation.folds import crossval as run
    from graticule.evaluation.folds import write_folds
    from graticule.model.features import default_store

    with console.progress("folds") as progress:
        found = run(
            plan,
            table,
            folds=folds,
            group=group,
            baseline=baseline is not None,
            together=together,
            store=default_store(),
            progress=progress,
        )
    if out:
        write_folds(found, plan, out)
    if as_json:
        console.print_json(found.metrics)
        return
    console.print_metrics(found.metrics)
    if found.metrics["never_trained"]:
        typer.echo(f"{found.metrics['never_trained']:,} marked photos were predicted, but trained in no fold")
    medians = ", ".join(console.distance(km) for km in found.metrics["median_km_by_fold"])
    typer.echo(f"median by fold: {medians}; no {group} lies in two folds")
    nearest = max(audit["nearest_within"]["within_25_m"] for audit in found.metrics["audits"])
    typer.echo(f"leak audit: at most {nearest:.0%} of a fold's photos have a training photo within 25 m")
    console.print_verdicts(found.metrics)


@app.command()
def leak(
    recipe: Annotated[Path, typer.Argument(help=RECIPE)],
    photos: Annotated[Path, typer.Option(help="A dataset with what the splits need.")],
    by: Annotated[list[str] | None, typer.Option(help=f"A split to try; may be repeated. {SPLIT_BY}")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the table as JSON.")] = None,
    settings: Sets = None,
    as_json: Json = False,
) -> None:
    """Train one recipe on a leaking and on an honest split: how much of a number is memory."""
    from graticule.config import parse_overrides, read_recipe

    plan = read_recipe(recipe, parse_overrides(settings or []))
    from dataclasses import asdict

    from graticule.files import write_json
    from graticule.photos.table import read_photos

    table, methods = read_photos(photos), by or ["random", "sequence"]
    from graticule.evaluation.leak_table import leak_table

    with console.progress("training") as progress:
        rows = [asdict(row) for row in leak_table(plan, table, methods, progress=progress)]
    if out:
        write_json(out, rows)
    if as_json:
        console.print_json(rows)
        return
    errors = ("top-1", "centre to centre", "median error", "mean error", "within 25 m")
    console.print_table(
        ("split by", "method", *errors, "training photo within 5 m", "shared sequences"),
        [
            (
                row["split"],
                row["method"],
                "" if row["top1"] is None else f"{row['top1']:.1%}",
                "" if row["center_distance_km"] is None else console.distance(row["center_distance_km"]),
                console.distance(row["median_km"]),
                console.distance(row["mean_km"]),
                f"{row['within_25_m']:.1%}",
                f"{row['within_5_m_of_training']:.0%}",
                "unknown" if row["shared_sequences"] is None else str(row["shared_sequences"]),
            )
            for row in rows
        ],
    )


@app.command()
def report(
    bundle: Path,
    evaluation: Annotated[
        Path | None, typer.Option(help="Folder of an evaluation; by default the test part's.")
    ] = None,
    photos: Annotated[Path | None, typer.Option(help="The dataset, to show examples from.")] = None,
    basemap: Annotated[
        Path | None, typer.Option(help="Streets, water, names for maps of a town: .osm.pbf, PMTiles, GeoPackage.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The page; by default report.html in the bundle's folder.")] = None,
) -> None:
    """Write one HTML page with the numbers, maps, figures and examples of an evaluation."""
    bundle = check_bundle(bundle)
    from graticule.reporting.report import write_report

    measured, page = evaluation or bundle / "evaluation" / "test", out or bundle / "report.html"
    write_report(bundle, measured, page, photos=photos, basemap=basemap)
    typer.echo(f"open {page.resolve().as_uri()}")
