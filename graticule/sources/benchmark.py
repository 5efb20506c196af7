"""Published benchmarks with local photos: Im2GPS, Im2GPS3k, YFCC4k. For evaluation only; training on them is refused.

The photos are Flickr's and cannot be handed on, so they are read from a folder; the tables are those that most papers
since Müller-Budack et al. (ECCV 2018) share, one row a photo with ``IMG_ID`` and its position.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from graticule.errors import BadTableError
from graticule.photos.table import numbers
from graticule.photos.tabular import read_table
from graticule.sources.folder import photo_paths
from graticule.sources.ingest import MAX_REFUSED, Progress, ingest


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A test set as published.

    Attributes:
        photos: how many rows its table has.
        tables: names that its table goes by.
        images: where its photos are published.
        paper: what to cite.
    """

    photos: int
    tables: tuple[str, ...]
    images: str
    paper: str


_REVISITED = "https://github.com/lugiavn/revisiting-im2gps"
BENCHMARKS = {
    "im2gps": Benchmark(
        237,
        ("im2gps_places365.csv", "meta__im2gps_places365.csv"),
        "http://graphics.cs.cmu.edu/projects/im2gps",
        "Hays and Efros (CVPR 2008)",
    ),
    "im2gps3k": Benchmark(2997, ("im2gps3k_places365.csv",), _REVISITED, "Vo, Jacobs and Hays (ICCV 2017)"),
    "yfcc4k": Benchmark(4536, ("yfcc4k_places365.csv",), _REVISITED, "Vo, Jacobs and Hays (ICCV 2017)"),
}


def import_benchmark(
    name: str,
    out: Path,
    photos: Path,
    *,
    table: Path | None = None,
    max_refused: float = MAX_REFUSED,
    progress: Progress | None = None,
) -> Path:
    """Make a dataset, for evaluation only, of a benchmark's table and a local folder of its photos.

    Photos are found by the table's path, by the name of the file anywhere below the folder, or by that name with
    another suffix. One that is not there is refused as missing: figures for fewer photos are not the published
    benchmark's, and ``dataset.json`` tells both counts. All rows are of the part ``test``.

    Args:
        name: one of :data:`BENCHMARKS`.
        table: CSV with ``IMG_ID`` (or ``path``) and ``lat, lon`` (or ``LAT, LON``); by default the published table,
            by its name, in the folder of photos or beside it.

    Raises:
        BadTableError: no such folder, no table, a column is missing, or two photos have the name of one row.
        TooManyRefusedError, WriteError: see :func:`graticule.sources.ingest.ingest`.
    """
    known = BENCHMARKS[name]
    if not photos.is_dir():
        raise BadTableError(f"there is no folder {photos}; its photos are published at {known.images}")
    file = table or _find_table(name, photos)
    rows, swapped = _positions(_renamed(read_table(file), file))
    files = photo_paths(photos, skip=out)
    rows = rows.with_columns(path=pl.Series(_paths(rows["path"].to_list(), files, photos), dtype=pl.String))
    return ingest(
        rows.with_columns(split=pl.lit("test")),
        photos,
        out,
        source=name,
        max_refused=max_refused,
        progress=progress,
        facts={
            "evaluation_only": True,
            "paper": known.paper,
            "published_photos": known.photos,
            "table_rows": len(rows),
            "lat_lon_headers": "each other's in the table; read as meant" if swapped else "as in the table",
        },
    )


def _find_table(name: str, photos: Path) -> Path:
    known = BENCHMARKS[name]
    for folder in (photos, photos.parent):
        for table in known.tables:
            if (folder / table).is_file():
                return folder / table
    raise BadTableError(
        f"neither {photos} nor the folder above holds {known.tables[0]}, the table of {known.photos:,} photos that "
        f"papers on {name} share (its photos: {known.images}). Give it with --table FILE: a CSV with the columns "
        f"IMG_ID, lat, lon"
    )


def _renamed(rows: pl.DataFrame, file: Path) -> pl.DataFrame:
    lowered = {column.lower(): column for column in rows.columns}
    theirs = {
        "path": ("img_id", "path", "id"),
        "lat": ("lat", "latitude", "gt_lat"),
        "lon": ("lon", "longitude", "gt_long"),
    }
    found = {}
    for ours, names in theirs.items():
        column = next((lowered[name] for name in names if name in lowered), None)
        if column is None:
            raise BadTableError(
                f"{file} has no column {names[0].upper()}; it has: {', '.join(rows.columns)}. A benchmark's table "
                f"needs IMG_ID, lat, lon"
            )
        found[column] = ours
    return rows.rename(found).with_columns(pl.col("path").cast(pl.String).fill_null(""))


def _positions(rows: pl.DataFrame) -> tuple[pl.DataFrame, bool]:
    """The published table of Im2GPS has its headers LON and LAT the wrong way round: it is read as it is meant.

    Its results table, with ``gt_lat, gt_long``, shows which way that is. Only a table without any other reading is
    turned: latitudes beyond 90 degrees, and every longitude within.
    """
    lat, lon = numbers(rows["lat"]), numbers(rows["lon"])
    swapped = bool((np.abs(lat) > 90).any() and (np.abs(lon) <= 90).all())
    return rows.with_columns(lat=pl.Series(lon if swapped else lat), lon=pl.Series(lat if swapped else lon)), swapped


def _paths(wanted: list[str], files: list[Path], root: Path) -> list[str]:
    relative = [file.relative_to(root).as_posix() for file in files]
    exact = set(relative)
    by_name, by_stem = ({key(path): path for path in relative} for key in (_name, _stem))
    twice = {key for key, count in Counter(map(_name, relative)).items() if count > 1}
    found = []
    for path in wanted:
        if path not in exact and _name(path) in twice:
            raise BadTableError(
                f"{root} holds more than one file called {_name(path)}, and the table does not say which; give the "
                f"folder of the benchmark's photos alone"
            )
        found.append(path if path in exact else by_name.get(_name(path)) or by_stem.get(_stem(path)) or path)
    return found


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _stem(path: str) -> str:
    return Path(_name(path)).stem
