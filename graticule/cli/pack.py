"""``graticule data pack``: a dataset as few large files."""

from pathlib import Path
from typing import Annotated

import typer

from graticule.choices import Engine
from graticule.cli import console
from graticule.cli.options import Cores, MaxRefused

app = typer.Typer()


@app.command("pack")
def data_pack(
    dataset: Annotated[Path, typer.Argument(help="A dataset, or a table with path, lat, lon.")],
    out: Path,
    side: Annotated[int | None, typer.Option(help="Make the shorter side this many pixels, without EXIF.")] = None,
    quality: Annotated[int, typer.Option(min=1, max=100, help="Of the JPEGs that --side writes.")] = 90,
    shard_mb: Annotated[float, typer.Option(help="About how large a shard becomes, MiB.")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="Of the order of the photos.")] = 0,
    max_refused: MaxRefused = 0.05,
    engine: Annotated[Engine, typer.Option(help="Who writes the shards: here this process, or Ray.")] = "here",
    cores: Cores = 1,
) -> None:
    """Pack photos into Parquet shards, which train as well from an object store; run again, it goes on."""
    from graticule.photos.table import read_photos
    from graticule.sources.pack import facts_of, pack

    photos, facts = read_photos(dataset), facts_of(dataset)
    with console.progress("photos") as progress:
        pack(
            photos,
            out,
            side=side,
            quality=quality,
            shard_mb=shard_mb,
            seed=seed,
            max_refused=max_refused,
            facts=facts,
            engine=engine,
            cores=cores,
            progress=lambda done, total: progress(done, total, ""),
        )
    console.print_dataset(out)
