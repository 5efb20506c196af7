"""``graticule data ...``: datasets from published archives and benchmarks."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from graticule.cli import console
from graticule.cli.options import MaxRefused, bounding_box

app = typer.Typer()


Part = Literal["train", "test", "both"]


@app.command("osv5m")
def data_osv5m(
    out: Path,
    share: Annotated[float, typer.Option(help="Share of the zips, rounded up: 0.01 is one of 98 and of 5.")] = 1.0,
    country: Annotated[list[str] | None, typer.Option(help="ISO code such as US; may be repeated.")] = None,
    region: Annotated[list[str] | None, typer.Option(help="A region such as Texas; may be repeated.")] = None,
    bbox: Annotated[str | None, typer.Option(help="S,W,N,E in degrees.")] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many photos of each part.")] = None,
    split: Annotated[Part, typer.Option(help="Which official part.")] = "both",
    local: Annotated[Path | None, typer.Option(help="A copy of the dataset, instead of the hub.")] = None,
    max_refused: MaxRefused = 0.05,
) -> None:
    """Fetch OpenStreetView-5M, or a part of it, with its official test: 5.1 million photos, CC-BY-SA 4.0."""
    from graticule.sources.osv5m import PARTS, Selection, import_osv5m

    wanted = Selection(country or (), region or (), bounding_box(bbox) if bbox else None, share, limit)
    parts = PARTS if split == "both" else (split,)
    with console.progress("OpenStreetView-5M") as progress:
        import_osv5m(out, wanted, parts=parts, local=local, max_refused=max_refused, progress=progress)
    console.print_dataset(out)


@app.command("osv-mini")
def data_osv_mini(
    out: Path,
    local: Annotated[Path | None, typer.Option(help="The unpacked Kaggle copy, or a copy of OSV-5M.")] = None,
    max_refused: MaxRefused = 0.05,
) -> None:
    """Make report B's ten states: from OpenStreetView-5M by rule, or the Kaggle copy from a local folder."""
    from graticule.sources.osv5m import import_osv_mini

    with console.progress("OpenStreetView-5M") as progress:
        import_osv_mini(out, local=local, max_refused=max_refused, progress=progress)
    console.print_dataset(out)


Images = Annotated[Path, typer.Option(help="Folder of its photos.")]
Table = Annotated[Path | None, typer.Option(help="Its table: IMG_ID, lat, lon; by default beside the photos.")]


@app.command("im2gps")
def data_im2gps(out: Path, images: Images, table: Table = None, max_refused: MaxRefused = 0.05) -> None:
    """Read the benchmark Im2GPS, 237 photos; for evaluation only."""
    _benchmark("im2gps", out, images, table, max_refused)


@app.command("im2gps3k")
def data_im2gps3k(out: Path, images: Images, table: Table = None, max_refused: MaxRefused = 0.05) -> None:
    """Read the benchmark Im2GPS3k, 2,997 photos; for evaluation only."""
    _benchmark("im2gps3k", out, images, table, max_refused)


@app.command("yfcc4k")
def data_yfcc4k(out: Path, images: Images, table: Table = None, max_refused: MaxRefused = 0.05) -> None:
    """Read the benchmark YFCC4k, 4,536 photos; for evaluation only."""
    _benchmark("yfcc4k", out, images, table, max_refused)


def _benchmark(name: str, out: Path, images: Path, table: Path | None, max_refused: float) -> None:
    from graticule.sources.benchmark import import_benchmark

    with console.progress("photos") as progress:
        import_benchmark(name, out, images, table=table, max_refused=max_refused, progress=progress)
    console.print_dataset(out)
    typer.echo(f"for evaluation only: graticule evaluate BUNDLE {out}")
