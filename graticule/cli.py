"""The command line: typer commands around the rooms. The only room that prints."""

import json
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from graticule.errors import BadRecipeError, BadTableError, GraticuleError

app = typer.Typer(
    help="Tell where a street-level photo was taken, and how sure one can be.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data = typer.Typer(
    help="Make a dataset that trains: from a folder, a table, or a synthetic city.", no_args_is_help=True
)
app.add_typer(data, name="data")

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
MaxRefused = Annotated[float, typer.Option(min=0, max=1, help="Stop if more than this share of photos is refused.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="Change one setting: train.epochs=2. May be repeated.")]
Column = typer.Option(help="The table's own name of this column.")


class SplitBy(StrEnum):
    random = "random"
    place = "place"
    sequence = "sequence"
    column = "column"
    block = "block"


class Keep(StrEnum):
    planet = "planet"
    nested = "nested"


class Format(StrEnum):
    table = "table"
    json = "json"
    csv = "csv"
    geojson = "geojson"
    kml = "kml"


def main() -> None:
    """Run the command line; an expected failure is one sentence and exit status 1."""
    warnings.showwarning = _show_warning
    # Threads that spin while they wait take the cores from whoever works: on two busy cores that made a network four
    # times slower, against a fifth lost where nothing else runs. OpenMP reads it when torch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except GraticuleError as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        sys.exit(1)


# ---------------------------------------------------------------- data


@data.command("folder")
def data_folder(folder: Path, out: Path, max_refused: MaxRefused = 0.05) -> None:
    """Read a folder of photos with GPS in their EXIF."""
    from graticule.sources.folder import import_folder

    with _progress("photos") as progress:
        import_folder(folder, out, max_refused=max_refused, progress=lambda done, total: progress(done, total, ""))
    _tell_dataset(out)


@data.command("table")
def data_table(
    file: Path,
    out: Path,
    path: Annotated[str, Column] = "path",
    lat: Annotated[str, Column] = "lat",
    lon: Annotated[str, Column] = "lon",
    place: Annotated[str, Column] = "place",
    sequence: Annotated[str, Column] = "sequence",
    captured_at: Annotated[str, Column] = "captured_at",
    heading: Annotated[str, Column] = "heading",
    split: Annotated[str, Column] = "split",
    photos_root: Annotated[Path | None, typer.Option(help="Folder that the paths start from.")] = None,
    max_refused: MaxRefused = 0.05,
) -> None:
    """Read a CSV or Parquet table of photos: path, lat, lon, and more columns where there are some."""
    from graticule.sources.table import import_table

    given = {"path": path, "lat": lat, "lon": lon, "place": place, "sequence": sequence}
    given |= {"captured_at": captured_at, "heading": heading, "split": split}
    with _progress("photos") as progress:
        import_table(
            file,
            out,
            columns={ours: theirs for ours, theirs in given.items() if ours != theirs},
            photos_root=photos_root,
            max_refused=max_refused,
            progress=lambda done, total: progress(done, total, ""),
        )
    _tell_dataset(out)


@data.command("city")
def data_city(
    out: Path,
    frames: Annotated[int, typer.Option(min=1, help="How many photos.")] = 2400,
    drives: Annotated[int, typer.Option(min=1, help="How many drives they come from.")] = 20,
    size_km: Annotated[float, typer.Option(help="Side of the square city.")] = 2.0,
    center: Annotated[str, typer.Option(help="LAT,LON of its centre, degrees.")] = "38.9,-77.03",
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Make a synthetic city seen from its streets: no download, every street known, drives under other light."""
    from graticule.sources.city import make_city

    with _progress("frames") as progress:
        make_city(
            out,
            frames=frames,
            drives=drives,
            size_km=size_km,
            center=_position(center),
            seed=seed,
            progress=lambda done, total: progress(done, total, ""),
        )
    _tell_dataset(out)


@data.command("split")
def data_split(
    dataset: Path,
    by: Annotated[SplitBy, typer.Option(help="What stays whole on one side.")] = SplitBy.sequence,
    val: Annotated[float, typer.Option(min=0, max=1)] = 0.1,
    test: Annotated[float, typer.Option(min=0, max=1)] = 0.2,
    block_km: Annotated[float, typer.Option(help="Size of a block.")] = 0.2,
    buffer_km: Annotated[float, typer.Option(help="Strip around held-out blocks that no part uses.")] = 0.1,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    as_json: Json = False,
) -> None:
    """Write the column `split` into a dataset, and audit.json: how much of the test part training would see."""
    import polars as pl

    from graticule.files import atomic_file, write_json
    from graticule.photos import read_photos
    from graticule.splits import audit, make_split

    photos = read_photos(dataset)
    if not dataset.is_dir():
        raise BadTableError(f"{dataset} is a table; make a dataset of it first: graticule data table {dataset} OUT")
    shares = (1 - val - test, val, test)
    parts = make_split(photos, by.value, shares=shares, seed=seed, block_km=block_km, buffer_km=buffer_km)
    found = audit(photos.take(parts == "train"), photos.take(parts == "test"))
    with atomic_file(dataset / "photos.parquet") as aside:
        photos.frame.with_columns(pl.Series("split", parts)).write_parquet(aside)
    write_json(dataset / "audit.json", found.to_json())
    counts = {str(name): int((parts == name).sum()) for name in dict.fromkeys(parts)}
    if as_json:
        _print_json({"split": counts, "audit": found.to_json()})
        return
    typer.echo("  ".join(f"{name} {count:,}" for name, count in counts.items()))
    _tell_audit(found.to_json())


# ---------------------------------------------------------------- cells and scores


@app.command()
def cells(
    points: Annotated[Path, typer.Argument(help="A dataset, or any CSV or Parquet with lat, lon.")],
    out: Annotated[Path, typer.Option(help="Where the cells go.")] = Path("cells.parquet"),
    split_above: Annotated[int, typer.Option(help="Split a cell with more photos than this.")] = 1000,
    drop_below: Annotated[int, typer.Option(help="Drop a cell with fewer photos than this.")] = 50,
    max_level: Annotated[int, typer.Option(help="Finest S2 level.")] = 18,
    keep: Annotated[Keep, typer.Option(help="planet, or nested as report A.")] = Keep.planet,
    lat: Annotated[str, Column] = "lat",
    lon: Annotated[str, Column] = "lon",
    plot: Annotated[Path | None, typer.Option(help="Draw the cells over a map.")] = None,
    as_json: Json = False,
) -> None:
    """Divide the map into adaptive S2 cells."""
    from graticule.partition import NO_CELL, Partition
    from graticule.photos import read_points

    lats, lons = read_points(points, lat, lon)
    partition = Partition.fit(
        lats, lons, split_above=split_above, drop_below=drop_below, max_level=max_level, keep=keep.value
    )
    partition.write(out)
    if plot:
        from graticule.figures import cells_map, save

        save(cells_map(partition, lat=lats, lon=lons, title=f"{len(partition):,} cells of {points.name}"), plot)
    outside = int((partition.assign(lats, lons) == NO_CELL).sum())
    levels = {int(level): int((partition.level == level).sum()) for level in sorted(set(partition.level.tolist()))}
    facts = {
        "points": len(lats),
        "cells": len(partition),
        "outside_cells": outside,
        "levels": levels,
        "photos_smallest": int(partition.photos.min()),
        "photos_median": float(sorted(partition.photos.tolist())[len(partition) // 2]),
        "photos_largest": int(partition.photos.max()),
        "out": str(out),
    }
    if as_json:
        _print_json(facts)
        return
    typer.echo(
        f"{len(lats):,} points make {len(partition):,} cells of {facts['photos_smallest']:,} to "
        f"{facts['photos_largest']:,} points, S2 levels {min(levels)} to {max(levels)}; "
        f"{outside:,} points lie in no cell. Written to {out}" + (f", drawn in {plot}" if plot else "")
    )


@app.command()
def score(
    file: Annotated[Path, typer.Argument(help="A table with lat, lon, predicted_lat, predicted_lon.")],
    lat: Annotated[str, Column] = "lat",
    lon: Annotated[str, Column] = "lon",
    predicted_lat: Annotated[str, Column] = "predicted_lat",
    predicted_lon: Annotated[str, Column] = "predicted_lon",
    group: Annotated[str | None, typer.Option(help="Column whose groups the intervals resample.")] = None,
    map_diagonal_km: Annotated[float | None, typer.Option(help="Scale of the score; the world's is 14927.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write each row's error as Parquet.")] = None,
    as_json: Json = False,
) -> None:
    """Score anyone's predictions: distances, shares within a radius, map-scaled score, intervals."""
    from graticule.score import score_table

    columns = {"lat": lat, "lon": lon, "predicted_lat": predicted_lat, "predicted_lon": predicted_lon}
    report = score_table(file, columns=columns, map_diagonal_km=map_diagonal_km, group=group)
    if out:
        report.write_rows(out)
    facts = report.to_json()
    if as_json:
        _print_json(facts)
        return
    _tell_metrics(facts)
    for reason, count in facts["refused_reasons"].items():
        rows = [str(row["row"]) for row in facts["refused_rows"] if row["reason"] == reason]
        typer.echo(f"refused {count} rows: {reason} (row {', '.join(rows[:5])}{', ...' if count > 5 else ''})")


# ---------------------------------------------------------------- models


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="A YAML file; see recipes/.")],
    photos: Annotated[Path, typer.Option(help="A dataset, or a table with path, lat, lon.")],
    out: Annotated[Path, typer.Option(help="The bundle's folder.")],
    resume: Annotated[bool, typer.Option(help="Go on with an interrupted run.")] = False,
    settings: Sets = None,
) -> None:
    """Train on geotagged photos; the result is a bundle."""
    from graticule.config import parse_overrides, read_recipe

    plan = read_recipe(recipe, parse_overrides(settings or []))
    from graticule.data import default_store
    from graticule.photos import read_photos
    from graticule.train import train as run

    with _progress("training") as progress:
        bundle = run(plan, read_photos(photos), out, resume=resume, store=default_store(), progress=progress)
    facts = bundle.facts
    typer.echo(
        f"trained on {facts['photos']:,} photos of {facts['places']:,} places, {facts['cells']:,} cells, in "
        f"{facts['seconds']:.0f} s; the bundle lies in {out}"
    )
    typer.echo(f"next: graticule evaluate {out} {photos}")


@app.command()
def evaluate(
    bundle: Path,
    dataset: Path,
    split: Annotated[str, typer.Option(help="test, val, train, or all for photos not trained with.")] = "test",
    out: Annotated[Path | None, typer.Option(help="Folder of the result; by default in the bundle's folder.")] = None,
    as_json: Json = False,
) -> None:
    """Measure a bundle on photos whose place is known."""
    from graticule.data import default_store
    from graticule.evaluate import evaluate_folder

    folder = out or bundle / "evaluation" / split
    with _progress("photos") as progress:
        found = evaluate_folder(bundle, dataset, folder, split=split, store=default_store(), progress=progress)
    if as_json:
        _print_json(found.metrics | {"audit": found.audit.to_json() if found.audit else None})
        return
    _tell_metrics(found.metrics)
    if found.audit:
        _tell_audit(found.audit.to_json())
    else:
        typer.echo("leak audit: unknown, the table of training photos is not beside the bundle")
    typer.echo(f"written to {folder}")


@app.command()
def crossval(
    recipe: Annotated[Path, typer.Argument(help="A YAML file; see recipes/.")],
    photos: Annotated[Path, typer.Option(help="A dataset, or a table with path, lat, lon.")],
    folds: Annotated[int, typer.Option(min=2)] = 5,
    group: Annotated[str, typer.Option(help="What stays in one fold: place, sequence, block or a column.")] = "place",
    out: Annotated[Path | None, typer.Option(help="Folder for the rows and numbers.")] = None,
    settings: Sets = None,
    as_json: Json = False,
) -> None:
    """Train and test on K grouped folds and pool the figures: honest numbers for small collections."""
    from graticule.config import parse_overrides, read_recipe

    plan = read_recipe(recipe, parse_overrides(settings or []))
    from graticule.data import default_store
    from graticule.evaluate import crossval as run
    from graticule.photos import read_photos

    with _progress("folds") as progress:
        found = run(plan, read_photos(photos), folds=folds, group=group, store=default_store(), progress=progress)
    if out:
        found.write(out)
    if as_json:
        _print_json(found.metrics)
        return
    _tell_metrics(found.metrics)
    medians = ", ".join(_distance(km) for km in found.metrics["median_km_by_fold"])
    typer.echo(f"median by fold: {medians}; no {group} lies in two folds")
    nearest = max(audit["nearest_within"]["within_25_m"] for audit in found.metrics["audits"])
    typer.echo(f"leak audit: at most {nearest:.0%} of a fold's photos have a training photo within 25 m")


@app.command()
def leak(
    recipe: Annotated[Path, typer.Argument(help="A YAML file; see recipes/.")],
    photos: Annotated[Path, typer.Option(help="A dataset with what the splits need.")],
    by: Annotated[list[SplitBy] | None, typer.Option(help="A split to try; may be repeated.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the table as JSON.")] = None,
    settings: Sets = None,
    as_json: Json = False,
) -> None:
    """Train one recipe on a leaking and on an honest split: how much of a number is memory."""
    from graticule.config import parse_overrides, read_recipe

    plan = read_recipe(recipe, parse_overrides(settings or []))
    from dataclasses import asdict

    from graticule.evaluate import leak_table
    from graticule.files import write_json
    from graticule.photos import read_photos

    methods = [b.value for b in by or (SplitBy.random, SplitBy.sequence)]
    with _progress("training") as progress:
        rows = [asdict(row) for row in leak_table(plan, read_photos(photos), methods, progress=progress)]
    if out:
        write_json(out, rows)
    if as_json:
        _print_json(rows)
        return
    errors = ("top-1", "centre to centre", "median error", "mean error", "within 25 m")
    _print_table(
        ("split by", "method", *errors, "training photo within 5 m", "shared sequences"),
        [
            (
                row["split"],
                row["method"],
                "" if row["top1"] is None else f"{row['top1']:.1%}",
                "" if row["center_distance_km"] is None else _distance(row["center_distance_km"]),
                _distance(row["median_km"]),
                _distance(row["mean_km"]),
                f"{row['within_25_m']:.1%}",
                f"{row['within_5_m_of_training']:.0%}",
                "unknown" if row["shared_sequences"] is None else str(row["shared_sequences"]),
            )
            for row in rows
        ],
    )


@app.command()
def predict(
    bundle: Path,
    photos: Annotated[list[Path], typer.Argument(help="Photos, or folders of photos.")],
    format: Annotated[Format, typer.Option(help="How to write the answers.")] = Format.table,
    out: Annotated[Path | None, typer.Option(help="Write to a file instead of the screen.")] = None,
    top: Annotated[int, typer.Option(min=1, max=100, help="How many likely cells to name.")] = 5,
) -> None:
    """Tell where photos were taken. Exit status 1 if one could not be read."""
    from graticule.formats import WRITERS
    from graticule.locate import load

    wanted = _expand(photos)
    with _progress("photos") as progress:
        replies = list(load(bundle).replies(wanted, top=top, progress=progress))
    if format is Format.table and out is None:
        _print_table(
            ("photo", "lat", "lon", "expected error", "likeliest cell", "probability*"),
            [
                (str(r.photo), "", "", str(r.error), "", "")
                if r.fix is None
                else (
                    str(r.photo),
                    f"{r.fix.lat:.5f}",
                    f"{r.fix.lon:.5f}",
                    _distance(r.fix.expected_error_km),
                    r.fix.cells[0].token,
                    f"{r.fix.cells[0].probability:.0%}",
                )
                for r in replies
            ],
        )
        typer.echo("* the network's own; not calibrated against outcomes")
    else:
        text = WRITERS["csv" if format is Format.table else format.value](replies)
        if out is None:
            typer.echo(text)
        else:
            from graticule.files import write_text

            write_text(out, text + "\n")
    broken = [r for r in replies if r.fix is None]
    if broken:
        typer.secho(
            f"{len(broken)} of {len(replies)} photos could not be read, such as {broken[0].photo}: {broken[0].error}",
            fg="red",
            err=True,
        )
        raise typer.Exit(1)


@app.command()
def report(
    bundle: Path,
    evaluation: Annotated[
        Path | None, typer.Option(help="Folder of an evaluation; by default the test part's.")
    ] = None,
    photos: Annotated[Path | None, typer.Option(help="The dataset, to show examples from.")] = None,
    out: Annotated[Path | None, typer.Option(help="The page; by default report.html in the bundle's folder.")] = None,
) -> None:
    """Write one HTML page with the numbers, maps, figures and examples of an evaluation."""
    from graticule.report import write_report

    page = write_report(
        bundle, evaluation or bundle / "evaluation" / "test", out or bundle / "report.html", photos=photos
    )
    typer.echo(f"open {page.resolve().as_uri()}")


# ---------------------------------------------------------------- saying things


def _tell_dataset(out: Path) -> None:
    from collections import Counter

    import polars as pl

    kept = pl.scan_parquet(out / "photos.parquet").select(pl.len()).collect().item()
    refused = Counter(pl.read_parquet(out / "refused.parquet")["reason"].to_list())
    reasons = ", ".join(f"{count} {reason}" for reason, count in refused.most_common())
    typer.echo(f"{kept:,} photos in {out}" + (f"; refused {refused.total()}: {reasons}" if refused else ""))


def _tell_metrics(facts: dict[str, Any]) -> None:
    """The headline with its interval, then the rest as two columns."""
    spans = facts.get("intervals", {})

    def span(name: str, show: Any) -> str:
        return f"  ({show(spans[name][0])} to {show(spans[name][1])})" if name in spans else ""

    rows = [("photos", f"{facts['photos']:,}" + (" (synthetic)" if facts.get("synthetic") else ""))]
    if "places" in facts and isinstance(facts["places"], int):
        rows.append(("places", f"{facts['places']:,}"))
    for name in ("median_km", "mean_km", "p90_km"):
        rows.append((f"{name.removesuffix('_km')} error", _distance(facts[name]) + span(name, _distance)))
    if facts.get("expected_error_km") is not None:
        rows.append(("expected error, mean", _distance(facts["expected_error_km"]) + "  (uncalibrated)"))
    for name in ("top1", "top3", "top5"):
        if name in facts:
            rows.append((f"top-{name[3:]} cell", f"{facts[name]:.1%}" + span(name, _percent)))
    if facts.get("cross_entropy") is not None:
        rows.append(("cross-entropy", f"{facts['cross_entropy']:.3f} nats"))
    if facts.get("center_distance_km") is not None:
        rows.append(("centre to centre, mean", _distance(facts["center_distance_km"]) + "  (report A's distance)"))
    if facts.get("outside_cells"):
        rows.append(("outside every cell", f"{facts['outside_cells']:,}"))
    if facts.get("unreadable"):
        rows.append(("unreadable", f"{facts['unreadable']:,}"))
    for name, value in facts.items():
        if name.startswith("within_") and value > 0 and (value < 1 or name == "within_25_m"):
            label = name.removeprefix("within_").replace("_", " ")
            rows.append((f"within {label}", _percent(value) + span(name, _percent)))
    rows.append(("score of 5000", f"{facts['score']:.0f}  (map of {_distance(facts['map_diagonal_km'])})"))
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        typer.echo(f"{name:<{width}}  {value}")


def _tell_audit(audit: dict[str, Any]) -> None:
    near = "  ".join(
        f"{name.removeprefix('within_').replace('_', ' ')} {share:.0%}"
        for name, share in audit["nearest_within"].items()
    )
    typer.echo(f"leak audit: {audit['verdict']}")
    typer.echo(f"nearest training photo within: {near}")


def _distance(km: float) -> str:
    from graticule.geo import format_km

    return format_km(km)


def _percent(share: float) -> str:
    return f"{share:.1%}"


def _position(text: str) -> tuple[float, float]:
    try:
        lat, lon = (float(part) for part in text.split(","))
    except ValueError as error:
        raise BadRecipeError(f"--center takes LAT,LON in degrees, such as 38.9,-77.03; found {text!r}") from error
    return lat, lon


def _expand(photos: list[Path]) -> list[Path]:
    from graticule.images import SUFFIXES

    wanted: list[Path] = []
    for photo in photos:
        if not photo.is_dir():
            wanted.append(photo)
            continue
        found = sorted(p for p in photo.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        if not found:
            raise BadTableError(f"the folder {photo} holds no photos ({', '.join(sorted(SUFFIXES))})")
        wanted += found
    return wanted


@contextmanager
def _progress(name: str) -> Iterator[Any]:
    """A progress bar on stderr, so that what is printed stays clean; called with done, total and a note."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        BarColumn(30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(TextColumn("{task.description}"), *columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(name, total=None)

        def show(done: int, total: int, note: str = "") -> None:
            bars.update(task, completed=done, total=total, description=note or name)

        yield show


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _print_table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(*header, box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*row)
    # Where nobody watches, a file or a pipe, nothing is cut or wrapped to a screen's width.
    console = Console() if sys.stdout.isatty() else Console(width=200)
    console.print(table)


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if category.__module__.startswith("graticule"):
        typer.secho(f"warning: {message}", fg="yellow", err=True)


if __name__ == "__main__":
    main()
