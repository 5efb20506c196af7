"""``graticule data ...``: make a dataset that trains."""

from pathlib import Path
from typing import Annotated

import typer

from graticule.cli import say
from graticule.cli.options import Column, Json, MaxRefused, SplitBy, position
from graticule.errors import BadTableError

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
            center=position(center, "--center"),
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
