"""``graticule data ...``: make a dataset that trains."""

from pathlib import Path
from typing import Annotated

import typer

from graticule.cli import say
from graticule.cli.options import Column, Json, MaxRefused, SplitBy
from graticule.errors import BadRecipeError, BadTableError

app = typer.Typer(help="Make a dataset that trains: from a folder, a table, or a synthetic city.", no_args_is_help=True)


@app.command("folder")
def data_folder(folder: Path, out: Path, max_refused: MaxRefused = 0.05) -> None:
    """Read a folder of photos with GPS in their EXIF."""
    from graticule.sources.folder import import_folder

    with say.progress("photos") as progress:
        import_folder(folder, out, max_refused=max_refused, progress=lambda done, total: progress(done, total, ""))
    say.tell_dataset(out)


@app.command("table")
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
    with say.progress("photos") as progress:
        import_table(
            file,
            out,
            columns={ours: theirs for ours, theirs in given.items() if ours != theirs},
            photos_root=photos_root,
            max_refused=max_refused,
            progress=lambda done, total: progress(done, total, ""),
        )
    say.tell_dataset(out)


@app.command("city")
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

    with say.progress("frames") as progress:
        make_city(
            out,
            frames=frames,
            drives=drives,
            size_km=size_km,
            center=_position(center),
            seed=seed,
            progress=lambda done, total: progress(done, total, ""),
        )
    say.tell_dataset(out)


@app.command("split")
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

    from graticule.files import write_json, write_parquet
    from graticule.photos import read_photos
    from graticule.splits import audit, make_split

    photos = read_photos(dataset)
    if not dataset.is_dir():
        raise BadTableError(f"{dataset} is a table; make a dataset of it first: graticule data table {dataset} OUT")
    shares = (1 - val - test, val, test)
    parts = make_split(photos, by.value, shares=shares, seed=seed, block_km=block_km, buffer_km=buffer_km)
    found = audit(photos.take(parts == "train"), photos.take(parts == "test"))
    write_parquet(dataset / "photos.parquet", photos.frame.with_columns(pl.Series("split", parts)))
    write_json(dataset / "audit.json", found.to_json())
    counts = {str(name): int((parts == name).sum()) for name in dict.fromkeys(parts)}
    if as_json:
        say.print_json({"split": counts, "audit": found.to_json()})
        return
    typer.echo("  ".join(f"{name} {count:,}" for name, count in counts.items()))
    say.tell_audit(found.to_json())


@app.command("check")
def data_check(
    dataset: Path,
    out: Annotated[Path | None, typer.Option(help="Folder of the findings; by default DATASET/check.")] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Mark what was found, so that it does not train.")] = False,
    clear: Annotated[bool, typer.Option("--clear", help="Only take earlier marks away.")] = False,
    mark: Annotated[list[str] | None, typer.Option(help="A reason to mark for, instead of the usual; repeat.")] = None,
    limit: Annotated[list[str] | None, typer.Option(help="Change a limit: night_below=60. May be repeated.")] = None,
    as_json: Json = False,
) -> None:
    """Find photos that teach nothing, with reasons and contact sheets; --apply marks them and deletes none."""
    from graticule.quality import CHECKS, MARKING, REASONS, Limits, check_folder
    from graticule.quality import apply as apply_marks
    from graticule.quality import clear as clear_marks
    from graticule.sheets import CONTACT, write_contact

    if clear:
        clear_marks(dataset)
        typer.echo(f"no photo of {dataset} is marked now")
        return
    if out is None and not dataset.is_dir():
        raise BadTableError(f"{dataset} is not a dataset; say with --out where the findings go")
    folder = out or dataset / "check"
    limits, reasons = Limits().changed(limit or []), tuple(mark or MARKING)
    with say.progress("photos") as progress:
        photos, checks = check_folder(dataset, folder, limits, progress=lambda done, total: progress(done, total, ""))
    marked = len(photos) - checks.marks(reasons).null_count()
    page = write_contact(photos, checks, folder / CONTACT, marking=reasons)
    if apply:
        apply_marks(dataset, checks, reasons)
    counts = checks.counts()
    if as_json:
        say.print_json({"photos": len(photos), "reasons": counts, "marked": marked, "applied": apply,
                        "not_looked_for": checks.unknown, "out": str(folder)})  # fmt: skip
        return
    say.print_table(
        ("reason", "photos", "kept from training", "meaning"),
        [
            (name, f"{count:,}", "yes" if name in reasons else "", REASONS[name].text)
            for name, count in counts.items()
            if count or name not in checks.unknown
        ],
    )
    for name, why in checks.unknown.items():
        typer.echo(f"not looked for: {name} ({why})")
    did = "are marked and will not train" if apply else "would be marked by --apply"
    typer.echo(f"{marked:,} of {len(photos):,} photos {did}; each photo's reasons are in {folder / CHECKS}")
    typer.echo(f"look at them first: open {page.resolve().as_uri()}")


def _position(text: str) -> tuple[float, float]:
    try:
        lat, lon = (float(part) for part in text.split(","))
    except ValueError as error:
        raise BadRecipeError(f"--center takes LAT,LON in degrees, such as 38.9,-77.03; found {text!r}") from error
    return lat, lon
