"""A table that says where each photo was taken: CSV, TSV, Parquet and others, or another dataset."""

import json
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from graticule.photos.table import degrees, table_file
from graticule.photos.tabular import read_table
from graticule.sources.ingest import MAX_REFUSED, Progress, ingest


def import_table(
    file: Path,
    out: Path,
    *,
    columns: Mapping[str, str] | None = None,
    photos_root: Path | None = None,
    encoding: str | None = None,
    max_refused: float = MAX_REFUSED,
    progress: Progress | None = None,
) -> Path:
    """Make a dataset of a table with ``path, lat, lon``, or of a dataset's; photos stay where they are.

    ``place, sequence, captured_at, heading`` and ``split`` have a meaning; these and all further columns are
    kept as they are. A row without a usable position is a refused photo, not an error.

    Args:
        columns: our names to the table's own, as ``{"lat": "latitude"}``.
        photos_root: the folder that relative paths start from; the table's own where not given.
        encoding: of a text file that is neither UTF-8 nor marked as UTF-16.

    Raises:
        BadTableError: no such file, no rows, or a missing column.
        TooManyRefusedError, WriteError: see :func:`graticule.sources.ingest.ingest`.
    """
    file, folder = table_file(file), file
    candidates = read_table(file, columns, need=("path", "lat", "lon"), encoding=encoding)
    lat, lon = degrees(candidates, file)
    candidates = candidates.with_columns(pl.Series("lat", lat), pl.Series("lon", lon))
    root = file.parent if photos_root is None else photos_root
    about = json.loads((folder / "dataset.json").read_text(encoding="utf-8")) if folder.is_dir() else {}
    facts = {name: about[name] for name in ("synthetic", "evaluation_only") if name in about}
    return ingest(candidates, root, out, source="table", max_refused=max_refused, progress=progress, facts=facts)
