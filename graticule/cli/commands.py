"""The commands around cells, scores and models. Each imports its rooms when it runs: torch takes seconds."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from graticule.cli import say
from graticule.cli.options import Column, Json, Sets, SplitBy, position
from graticule.errors import BadTableError

app = typer.Typer()


class Keep(StrEnum):
    planet = "planet"
    nested = "nested"


class Method(StrEnum):
    occlusion = "occlusion"
    saliency = "saliency"
    integrated_gradients = "integrated-gradients"
    gradcam = "gradcam"
    patches = "patches"
    map = "map"


class Target(StrEnum):
    true = "true"
    predicted = "predicted"


class Format(StrEnum):
    table = "table"
    json = "json"
    csv = "csv"
    geojson = "geojson"
    kml = "kml"


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
    from graticule.partition import Partition
    from graticule.photos import read_points

    lats, lons = read_points(points, lat, lon)
    partition = Partition.fit(
        lats, lons, split_above=split_above, drop_below=drop_below, max_level=max_level, keep=keep.value
    )
    partition.write(out)
    if plot:
        from graticule.figures import cells_map, save

        save(cells_map(partition, lat=lats, lon=lons, title=f"{len(partition):,} cells of {points.name}"), plot)
    facts = partition.summary(total=len(lats)) | {"out": str(out)}
    if as_json:
        say.print_json(facts)
        return
    per_cell, levels = facts["photos_per_cell"], [int(level) for level in facts["levels"]]
    typer.echo(
        f"{len(lats):,} points make {len(partition):,} cells of {per_cell['min']:,} to {per_cell['max']:,} points, "
        f"S2 levels {min(levels)} to {max(levels)}; {facts['photos_outside']:,} points lie in no cell. "
        f"Written to {out}" + (f", drawn in {plot}" if plot else "")
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
        say.print_json(facts)
        return
    say.tell_metrics(facts)
    for reason, count in facts["refused_reasons"].items():
        rows = [str(row["row"]) for row in facts["refused_rows"] if row["reason"] == reason]
        typer.echo(f"refused {count} rows: {reason} (row {', '.join(rows[:5])}{', ...' if count > 5 else ''})")


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

    with say.progress("training") as progress:
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
    with say.progress("photos") as progress:
        found = evaluate_folder(bundle, dataset, folder, split=split, store=default_store(), progress=progress)
    if as_json:
        say.print_json(found.metrics | {"audit": found.audit.to_json() if found.audit else None})
        return
    say.tell_metrics(found.metrics)
    if found.audit:
        say.tell_audit(found.audit.to_json())
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

    with say.progress("folds") as progress:
        found = run(plan, read_photos(photos), folds=folds, group=group, store=default_store(), progress=progress)
    if out:
        found.write(out)
    if as_json:
        say.print_json(found.metrics)
        return
    say.tell_metrics(found.metrics)
    medians = ", ".join(say.distance(km) for km in found.metrics["median_km_by_fold"])
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
    with say.progress("training") as progress:
        rows = [asdict(row) for row in leak_table(plan, read_photos(photos), methods, progress=progress)]
    if out:
        write_json(out, rows)
    if as_json:
        say.print_json(rows)
        return
    errors = ("top-1", "centre to centre", "median error", "mean error", "within 25 m")
    say.print_table(
        ("split by", "method", *errors, "training photo within 5 m", "shared sequences"),
        [
            (
                row["split"],
                row["method"],
                "" if row["top1"] is None else f"{row['top1']:.1%}",
                "" if row["center_distance_km"] is None else say.distance(row["center_distance_km"]),
                say.distance(row["median_km"]),
                say.distance(row["mean_km"]),
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
    with say.progress("photos") as progress:
        replies = list(load(bundle).replies(wanted, top=top, progress=progress))
    if format is Format.table and out is None:
        say.print_table(
            ("photo", "lat", "lon", "expected error", "likeliest cell", "probability*"),
            [
                (str(r.photo), "", "", str(r.error), "", "")
                if r.fix is None
                else (
                    str(r.photo),
                    f"{r.fix.lat:.5f}",
                    f"{r.fix.lon:.5f}",
                    say.distance(r.fix.expected_error_km),
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
def explain(
    bundle: Path,
    photos: Annotated[list[Path], typer.Argument(help="Photos, or folders of photos.")],
    out: Annotated[Path, typer.Option(help="Folder of the pictures.")],
    method: Annotated[list[Method], typer.Option(help="May be repeated.")] = [Method.occlusion, Method.map],  # noqa: B006
    target: Annotated[Target, typer.Option(help="The cell asked about.")] = Target.predicted,
    truth: Annotated[str | None, typer.Option(help="LAT,LON of the photo, degrees; by default its EXIF's.")] = None,
    patch: Annotated[int | None, typer.Option(min=1, help="Occlusion: side of the square, network pixels.")] = None,
    stride: Annotated[int | None, typer.Option(min=1, help="Occlusion: step of the square, network pixels.")] = None,
    score: Annotated[bool, typer.Option(help="Judge each map by deletion and insertion.")] = True,
) -> None:
    """Show which parts of photos the answers hang on, and all cells' probabilities on a map.

    Exit status 1 if a photo could not be explained; the others are.
    """
    from graticule.errors import BadPhotoError
    from graticule.explained import explain_photo, names_of
    from graticule.locate import load

    wanted = _expand(photos)
    where = position(truth, "--truth") if truth else None
    if where and len(wanted) > 1:
        raise BadTableError(
            f"--truth is where one photo was taken, but there are {len(wanted)}; explain them one by one"
        )
    locator, failed = load(bundle), 0
    for photo, name in zip(wanted, names_of(wanted), strict=True):
        try:
            with say.progress(photo.name) as progress:
                written = explain_photo(
                    locator,
                    photo,
                    out,
                    [m.value for m in method],
                    name=name,
                    truth=where,
                    target=target.value,
                    patch=patch,
                    stride=stride,
                    score=score,
                    progress=progress,
                )
        except BadPhotoError as error:
            failed += 1
            typer.secho(f"{photo}: {error}", fg="red", err=True)
            continue
        for path in written:
            typer.echo(str(path))
    if failed:
        typer.secho(f"{failed} of {len(wanted)} photos could not be explained", fg="red", err=True)
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


def _expand(photos: list[Path]) -> list[Path]:
    from graticule.images import SUFFIXES
    from graticule.sources.folder import photo_paths

    wanted: list[Path] = []
    for photo in photos:
        if not photo.is_dir():
            wanted.append(photo)
            continue
        found = photo_paths(photo)
        if not found:
            raise BadTableError(f"the folder {photo} holds no photos ({', '.join(sorted(SUFFIXES))})")
        wanted += found
    return wanted
