"""``graticule data ...``: make a dataset that trains."""

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graticule.cli import console
from graticule.cli.group import Commands
from graticule.cli.options import (
    SPLIT_BY,
    ByEngine,
    ClockOffset,
    Column,
    Cores,
    Gpx,
    Json,
    MaxRefused,
    PhotosAPart,
    Track,
    position,
)
from graticule.errors import BadRecipeError, BadTableError

if TYPE_CHECKING:
    import polars as pl

    from graticule.photos.table import Photos

FEW_TESTED = 100  # photos of a test part whose figures have wide intervals

app = typer.Typer(
    cls=Commands,
    help="Make a dataset that trains: from a folder, a table, or a synthetic city.",
    no_args_is_help=True,
)


@app.command("folder")
def data_folder(
    folder: Path,
    out: Path,
    gpx: Gpx = None,
    clock_offset: ClockOffset = 0,
    hemisphere: Annotated[str, typer.Option(help="NE, NW, SE or SW, for positions whose EXIF lacks it.")] = "",
    max_refused: MaxRefused = 0.05,
) -> None:
    """Read a folder of photos with GPS in EXIF or XMP, a Google Takeout, or tar files and WebDataset shards."""
    from datetime import timedelta

    from graticule.sources.folder import import_folder

    if hemisphere.upper() not in ("", "NE", "NW", "SE", "SW"):
        raise BadRecipeError(f"--hemisphere takes NE, NW, SE or SW; found {hemisphere!r}")
    with console.progress("photos") as progress:
        import_folder(
            folder,
            out,
            max_refused=max_refused,
            progress=lambda done, total: progress(done, total, ""),
            tracks=gpx or (),
            clock_offset=timedelta(seconds=clock_offset),
            hemisphere=hemisphere,
        )
    console.print_dataset(out)


@app.command("video")
def data_video(
    source: Annotated[Path, typer.Argument(help="A video, or a folder of them.")],
    out: Path,
    every_m: Annotated[float, typer.Option(help="Metres from one frame to the next.")] = 10,
    gpx: Gpx = None,
    clock_offset: ClockOffset = 0,
    max_refused: MaxRefused = 0.05,
) -> None:
    """Take frames of dashcam and action camera videos: by a GPX of the video's name beside it, or GPS inside it."""
    from datetime import timedelta

    from graticule.sources.video import import_videos

    with console.progress("videos") as progress:
        import_videos(
            source,
            out,
            every_km=every_m / 1000,
            tracks=gpx or (),
            clock_offset=timedelta(seconds=clock_offset),
            max_refused=max_refused,
            progress=lambda done, total: progress(done, total, ""),
        )
    console.print_dataset(out)


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
    encoding: Annotated[str | None, typer.Option(help="Of a text file, such as cp1252; UTF-8 by default.")] = None,
    max_refused: MaxRefused = 0.05,
) -> None:
    """Read a CSV or Parquet table of photos: path, lat, lon, and more columns where there are some."""
    from graticule.sources.table import import_table

    given = {"path": path, "lat": lat, "lon": lon, "place": place, "sequence": sequence}
    given |= {"captured_at": captured_at, "heading": heading, "split": split}
    with console.progress("photos") as progress:
        import_table(
            file,
            out,
            columns={ours: theirs for ours, theirs in given.items() if ours != theirs},
            photos_root=photos_root,
            encoding=encoding,
            max_refused=max_refused,
            progress=lambda done, total: progress(done, total, ""),
        )
    console.print_dataset(out)


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
    from graticule.sources.city.make import make_city

    with console.progress("frames") as progress:
        make_city(
            out,
            frames=frames,
            drives=drives,
            size_km=size_km,
            center=position(center, "--center"),
            seed=seed,
            progress=lambda done, total: progress(done, total, ""),
        )
    console.print_dataset(out)


@app.command("panoramas")
def data_panoramas(
    dataset: Annotated[Path, typer.Argument(help="A dataset, or a table with path, lat, lon.")],
    out: Path,
    headings: Annotated[str, typer.Option(help="Degrees clockwise from the middle of a panorama.")] = "0,90,180,270",
    field_of_view: Annotated[float, typer.Option(help="Degrees from the left to the right of a view.")] = 90.0,
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT of a view, pixels.")] = "640x640",
    max_refused: MaxRefused = 0.05,
) -> None:
    """Cut flat views out of panoramas, each a row of the same place; other photos stay as they are."""
    from graticule.photos.table import read_photos
    from graticule.sources.panoramas import cut_panoramas

    try:
        turns = [float(part) for part in headings.split(",")]
        width, height = (int(part) for part in size.lower().split("x"))
    except ValueError as error:
        raise BadRecipeError(
            f"--headings takes degrees such as 0,120,240 and --size such as 640x480; found {headings!r} and {size!r}"
        ) from error
    photos = read_photos(dataset)
    with console.progress("panoramas") as progress:
        cut_panoramas(
            photos,
            out,
            headings=turns,
            field_of_view=field_of_view,
            size=(width, height),
            max_refused=max_refused,
            progress=lambda done, total: progress(done, total, ""),
        )
    console.print_dataset(out)


@app.command("split")
def data_split(
    source: Annotated[Path, typer.Argument(help="A dataset, or any CSV or Parquet with lat, lon.")],
    by: Annotated[str | None, typer.Option(help=f"{SPLIT_BY} By default auto.")] = None,
    track: Annotated[
        Track | None,
        typer.Option(help="revisit: new drives on known streets (by drive). unseen: streets never seen (by block)."),
    ] = None,
    val: Annotated[float, typer.Option(min=0, max=1)] = 0.1,
    test: Annotated[float, typer.Option(min=0, max=1)] = 0.2,
    block_km: Annotated[float | None, typer.Option(help="Size of a block; by default 0.2, of world 100.")] = None,
    buffer_km: Annotated[
        float | None, typer.Option(help="Strip around held-out blocks that no part uses; 0.1, of world 10.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    out: Annotated[Path | None, typer.Option(help="Write the table here; a dataset is changed without it.")] = None,
    lat: Annotated[str, Column] = "lat",
    lon: Annotated[str, Column] = "lon",
    path: Annotated[str, Column] = "path",
    sequence: Annotated[str, Column] = "sequence",
    captured_at: Annotated[str, Column] = "captured_at",
    creator: Annotated[str, Column] = "creator",
    as_json: Json = False,
) -> None:
    """Write the column `split`, and print how much of the test part training would see."""
    import numpy as np
    import polars as pl

    from graticule.files import write_json
    from graticule.photos.columns import is_empty
    from graticule.photos.drives import drive_source, drives, too_few
    from graticule.photos.leakage import audit
    from graticule.photos.splits import TRACKS, honest_split, make_split, part_days
    from graticule.photos.table import read_located

    if by and track:
        raise BadRecipeError(f"--track {track} is --by {TRACKS[track]}; give one of the two")
    columns = _renamed(path=path, lat=lat, lon=lon, sequence=sequence, captured_at=captured_at, creator=creator)
    [photos] = read_located([source], columns)
    way, why = (TRACKS[track], "") if track else (by, "") if by and by != "auto" else honest_split(photos)
    shares = (1 - val - test, val, test)
    parts = make_split(photos, way, shares=shares, seed=seed, block_km=block_km, buffer_km=buffer_km)
    found = audit(photos.take(parts == "train"), photos.take(parts == "test")) if "test" in parts else None
    _write_column(source, out, photos, pl.Series("split", parts))
    if source.is_dir() and not out and found:
        write_json(source / "audit.json", found.to_json())
    counts = {str(name): int((parts == name).sum()) for name in dict.fromkeys(parts)}
    days = part_days(photos, parts)
    about: dict[str, Any] = {"by": way, "split": counts, "days": days}
    few = ""
    if way in ("drive", "time"):
        drive = drives(photos)
        few = too_few(drive)
        about |= {"drives_from": drive_source(photos), "drives": len(np.unique(drive))}
    if as_json:
        console.print_json(about | {"audit": found and found.to_json()})
        return
    rebuilt = "positions and the order of the rows" if is_empty(photos, "captured_at") else "positions and times"
    sources = {"rebuilt": rebuilt, "uploader+day": "uploader and day", "sequence": "sequence ids"}
    drawn = f", {about['drives']:,} drives from {sources[about['drives_from']]}" if "drives" in about else ""
    if why:
        typer.echo(f"{why}; --by chooses another way")
    typer.echo(f"split by {way}{drawn}: " + "  ".join(f"{name} {count:,}" for name, count in counts.items()))
    if few:
        typer.echo(f"there are only {few}; --track unseen splits by blocks of the map instead")
    if way == "time":
        typer.echo("  ".join(f"{part} {first} to {last}" for part, (first, last) in days.items()))
    if found:
        console.print_audit(found.to_json())
    if 0 < (tested := counts.get("test", 0)) < FEW_TESTED:
        typer.echo(
            f"{tested:,} test photos give wide intervals; graticule crossval laptop --photos "
            f"{quote(str(source))} asks about every photo in turn"
        )


@app.command("sequences")
def data_sequences(
    source: Annotated[Path, typer.Argument(help="A dataset, or any CSV or Parquet with lat, lon.")],
    max_gap_minutes: Annotated[float, typer.Option(help="A longer pause ends a sequence.")] = 2.0,
    max_step_km: Annotated[float, typer.Option(help="A farther jump ends a sequence.")] = 1.0,
    force: Annotated[bool, typer.Option("--force", help="Replace the sequences that are there.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the table here; a dataset is changed without it.")] = None,
    lat: Annotated[str, Column] = "lat",
    lon: Annotated[str, Column] = "lon",
    path: Annotated[str, Column] = "path",
    captured_at: Annotated[str, Column] = "captured_at",
    creator: Annotated[str, Column] = "creator",
) -> None:
    """Rebuild missing sequences from uploader, time and position, or from the order of the rows."""
    import polars as pl

    from graticule.photos.columns import is_empty
    from graticule.photos.drives import rebuild_sequences
    from graticule.photos.table import read_located

    columns = _renamed(path=path, lat=lat, lon=lon, captured_at=captured_at, creator=creator)
    [photos] = read_located([source], columns)
    if not is_empty(photos, "sequence") and not force:
        raise BadTableError(f"{source} has sequences already; --force replaces them with guesses")
    codes = rebuild_sequences(photos, max_gap_minutes=max_gap_minutes, max_step_km=max_step_km)
    _write_column(source, out, photos, pl.Series("sequence", [f"rebuilt-{code}" for code in codes.tolist()]))
    from_time = "their times" if not is_empty(photos, "captured_at") else "the order of the rows"
    typer.echo(f"{codes.max() + 1:,} sequences of {len(photos):,} photos, rebuilt from {from_time}")


@app.command("audit")
def data_audit(
    train: Annotated[Path, typer.Argument(help="A dataset or table: the training photos, or both with a split.")],
    test: Annotated[Path | None, typer.Argument(help="The test photos; without it the column split tells.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write audit.html, with a map and pairs, and audit.json.")] = None,
    lat: Annotated[str, Column] = "lat",
    lon: Annotated[str, Column] = "lon",
    path: Annotated[str, Column] = "path",
    place: Annotated[str, Column] = "place",
    sequence: Annotated[str, Column] = "sequence",
    captured_at: Annotated[str, Column] = "captured_at",
    creator: Annotated[str, Column] = "creator",
    as_json: Json = False,
) -> None:
    """Is this test set leaking from that training set? --out writes a page with a map and the worst pairs."""
    from graticule.photos.leakage import audit as measure
    from graticule.photos.splits import make_split
    from graticule.photos.table import read_located

    columns = _renamed(
        path=path, lat=lat, lon=lon, place=place, sequence=sequence, captured_at=captured_at, creator=creator
    )
    sides = read_located([train, test] if test else [train], columns)
    if not test:
        parts = make_split(sides[0], "column")
        if "test" not in parts:
            raise BadTableError(f"the column 'split' of {train} gives no photo to test; audit two tables instead")
        sides = [sides[0].take(parts == part) for part in ("train", "test")]
    ours, theirs = sides
    from graticule.reporting.audit_page import write_audit  # which takes seconds to import

    found = (write_audit(ours, theirs, out) if out else measure(ours, theirs)).to_json()
    if as_json:
        console.print_json(found)
        return
    console.print_audit(found)
    page = f"open {(out / 'audit.html').resolve().as_uri()}" if out else "--out DIR writes a page with the worst pairs"
    typer.echo(page)


def _renamed(**names: str) -> dict[str, str]:
    """Our names to the table's own, where they differ."""
    return {ours: theirs for ours, theirs in names.items() if ours != theirs}


def _write_column(source: Path, out: Path | None, photos: "Photos", column: "pl.Series") -> None:
    """The photos with one more column: into the dataset they come from, or as a table of its own."""
    from graticule.files import write_parquet, write_text

    frame = photos.frame.with_columns(column)
    if out is None and not source.is_dir():
        raise BadTableError(f"{source} is a table and is left as it is; say where the new one goes with --out FILE")
    file = out or source / "photos.parquet"
    if file.suffix.lower() == ".csv":
        write_text(file, frame.write_csv())
    else:
        write_parquet(file, frame)


@app.command("check")
def data_check(
    dataset: Path,
    out: Annotated[Path | None, typer.Option(help="Folder of the findings; by default DATASET/check.")] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Mark what was found, so that it does not train.")] = False,
    clear: Annotated[bool, typer.Option("--clear", help="Only take earlier marks away.")] = False,
    mark: Annotated[list[str] | None, typer.Option(help="A reason to mark for, instead of the usual; repeat.")] = None,
    limit: Annotated[list[str] | None, typer.Option(help="Change a limit: night_below=60. May be repeated.")] = None,
    engine: ByEngine = None,
    cores: Cores = 1,
    part: PhotosAPart = 1024,
    as_json: Json = False,
) -> None:
    """Find photos that teach nothing, with reasons and contact sheets; --apply marks them and deletes none."""
    from graticule.photos.quality import CHECKS, MARKING, REASONS, Limits, check_folder
    from graticule.photos.quality import apply as apply_marks
    from graticule.photos.quality import clear as clear_marks
    from graticule.photos.table import table_file
    from graticule.reporting.contact_sheets import CONTACT, write_contact

    if clear:
        clear_marks(dataset)
        typer.echo(f"no photo of {dataset} is marked now")
        return
    table_file(dataset)
    if out is None and not dataset.is_dir():
        raise BadTableError(f"{dataset} is not a dataset; say with --out where the findings go")
    folder = out or dataset / "check"
    limits, reasons = Limits().changed(limit or []), tuple(mark or MARKING)
    with console.progress("photos") as progress:
        photos, checks = check_folder(
            dataset,
            folder,
            limits,
            engine=engine,
            cores=cores,
            part=part,
            progress=lambda done, total: progress(done, total, ""),
        )
    marked = len(photos) - checks.marks(reasons).null_count()
    page = write_contact(photos, checks, folder / CONTACT, marking=reasons)
    if apply:
        apply_marks(dataset, checks, reasons)
    counts = checks.counts()
    if as_json:
        console.print_json({"photos": len(photos), "reasons": counts, "marked": marked, "applied": apply,
                        "not_looked_for": checks.unknown, "out": str(folder)})  # fmt: skip
        return
    console.print_table(
        ("reason", "photos", "excluded from training", "meaning"),
        [
            (name, f"{count:,}", "yes" if name in reasons else "", REASONS[name].text)
            for name, count in counts.items()
            if count or name not in checks.unknown
        ],
    )
    for sentence in checks.not_looked_for():
        typer.echo(f"not looked for: {sentence}")
    did = "are marked and will not train" if apply else "would be marked by --apply"
    typer.echo(f"{marked:,} of {len(photos):,} photos {did}; each photo's reasons are in {folder / CHECKS}")
    if not marked:
        first = "nothing to take out; what was looked at"
    else:
        first = "look at them; --clear takes the marks away" if apply else "look at them first"
    typer.echo(f"{first}: open {page.resolve().as_uri()}")
