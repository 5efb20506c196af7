"""The photo table: which photos there are, where they were taken, and what else is known of them.

A dataset is a folder with ``photos.parquet``, ``refused.parquet`` and ``dataset.json``; a plain CSV or
Parquet table with ``path, lat, lon`` is read the same way. See docs/architecture.md for the columns.
"""

import itertools
import json
import shlex
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from graticule.errors import BadTableError, note
from graticule.files import atomic_file, parquet_bytes
from graticule.geo import sphere
from graticule.photos.cards import card_file, datasheet
from graticule.photos.degrees import POINT, read_degrees
from graticule.photos.shards import open_url, url_of
from graticule.photos.synonyms import missing
from graticule.photos.tabular import column_names, read_table

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MARKED = "marked"  # the column that says why a photo does not train; null is fine
BATCH, MANY = 1 << 20, 5_000_000  # rows read at a time, and how many are too many to read at once
PLACE_DECIMALS = 3  # without a column `place`, positions equal to 0.001 degrees are one place


class SwappedColumnsWarning(UserWarning):
    """The columns lat and lon look swapped; nothing was changed."""


@dataclass(frozen=True, eq=False, slots=True)
class Photos:
    """N photos with positions.

    Attributes:
        frame: columns ``path`` (text), ``lat`` and ``lon`` (float64 degrees), and whatever else is known.
        root: the folder that relative paths start from.
        synthetic: the photos were rendered, not taken.
        evaluation_only: a benchmark; training on it is refused, see :meth:`check_trainable`.
        name: what to call the collection in reports.
    """

    frame: pl.DataFrame
    root: Path
    synthetic: bool = False
    name: str = "photos"
    evaluation_only: bool = False

    def __post_init__(self) -> None:
        for name, dtype in (("path", pl.String), ("lat", pl.Float64), ("lon", pl.Float64)):
            if self.frame.schema.get(name) != dtype:
                raise BadTableError(
                    f"the photo table needs a column {name!r} of type {dtype}; its columns are "
                    f"{dict(self.frame.schema)}"
                )
        sphere.check_latlon(self.lat, self.lon)

    def __len__(self) -> int:
        return self.frame.height

    @property
    def lat(self) -> Floats:
        """Latitudes in degrees, shape ``(N,)``."""
        return self.frame["lat"].to_numpy()

    @property
    def lon(self) -> Floats:
        """Longitudes in degrees, shape ``(N,)``."""
        return self.frame["lon"].to_numpy()

    def has(self, column: str) -> bool:
        return column in self.frame.columns

    def column(self, name: str) -> NDArray[Any]:
        """One column, shape ``(N,)``; text comes as objects, integers with gaps as float64 with NaN.

        Raises:
            BadTableError: no such column.
        """
        return self._series(name).to_numpy()

    def paths(self) -> list[Path]:
        """Where each photo lies; absolute paths stay as they are."""
        return [self.root / path for path in self.frame["path"]]

    def take(self, rows: NDArray[np.bool_] | NDArray[np.integer[Any]] | Sequence[int]) -> "Photos":
        """The photos at a boolean mask of shape ``(N,)``, or at row numbers in their order."""
        chosen = np.asarray(rows)
        if chosen.dtype == np.bool_ and chosen.shape != (len(self),):
            raise ValueError(f"the mask has shape {chosen.shape}; it needs ({len(self)},)")
        numbers = np.flatnonzero(chosen) if chosen.dtype == np.bool_ else chosen.astype(np.int64)
        return replace(self, frame=self.frame[numbers])

    def places(self) -> Ints:
        """Group codes of places, shape ``(N,)``: the column ``place``, else the position to 0.001 degrees."""
        if self.has("place"):
            return group_codes(self.frame["place"])
        keys = sphere.position_keys(self.lat, self.lon, PLACE_DECIMALS)
        return np.unique(keys, return_inverse=True)[1].astype(np.int64)

    def may_train(self) -> NDArray[np.bool_]:
        """Which photos may train, shape ``(N,)``: all but those marked by ``graticule data check --apply``."""
        if not self.has(MARKED):
            return np.ones(len(self), bool)
        return self.frame[MARKED].is_null().to_numpy()

    def groups(self, name: str) -> Ints:
        """Group codes of any column, shape ``(N,)``; each missing value is a group of its own.

        Raises:
            BadTableError: no such column (``place`` is always there, see :meth:`places`).
        """
        return self.places() if name == "place" else group_codes(self._series(name))

    def check_trainable(self) -> None:
        """Refuse to train on a benchmark: its published figures mean nothing for a model that has seen it.

        Raises:
            BadTableError: the photos are for evaluation only.
        """
        if self.evaluation_only:
            raise BadTableError(
                f"{self.name} is a benchmark and for evaluation only; train on other photos, then run: "
                f"graticule evaluate BUNDLE {self.name}"
            )

    def _series(self, name: str) -> pl.Series:
        if not self.has(name):
            raise BadTableError(f"the photos have no column {name!r}; they have: {', '.join(self.frame.columns)}")
        return self.frame[name]


def stacked(tables: Sequence[Photos]) -> Photos:
    """The photos of several tables as one, with nothing but their paths and positions."""
    frames = [
        table.frame.select(pl.Series("path", [str(path.resolve()) for path in table.paths()], pl.String), "lat", "lon")
        for table in tables
    ]
    return Photos(pl.concat(frames), Path(), synthetic=any(table.synthetic for table in tables))


def read_photos(source: Path, columns: Mapping[str, str] | None = None) -> Photos:
    """Read a dataset folder, or a CSV, TSV or Parquet table with ``path, lat, lon``.

    Args:
        source: a path, or the URL of a packed dataset in an object store: ``Path("s3://bucket/town")``.
        columns: our names to the table's own, as ``{"lat": "latitude"}``.

    Raises:
        BadTableError: nothing there, a column is missing, or a position is no number or off the globe.
        SourceError: the object store cannot be reached.
    """
    if url := url_of(source):
        with TemporaryDirectory() as copies:  # the index alone; photos are read where they are
            return replace(read_photos(_fetch_index(url, Path(copies) / source.name), columns), root=source)
    file = table_file(source)
    frame = read_table(file, columns, need=("path", "lat", "lon"))
    lat, lon = positions(frame, file)
    frame = frame.with_columns(pl.col("path").cast(pl.String), pl.Series("lat", lat), pl.Series("lon", lon))
    if frame["path"].null_count():
        row = frame["path"].is_null().arg_true()[0] + 1
        raise BadTableError(f"{file}: row {row} has no path; give every photo one, or delete the row")
    about = file.parent / "dataset.json"
    if file.name != "photos.parquet" or not about.is_file():
        return Photos(frame, file.parent, name=file.stem)
    facts = json.loads(about.read_text(encoding="utf-8"))
    return Photos(
        frame,
        file.parent,
        synthetic=bool(facts.get("synthetic", False)),
        name=file.parent.name,
        evaluation_only=bool(facts.get("evaluation_only", False)),
    )


def read_located(sources: Sequence[Path], columns: Mapping[str, str] | None = None) -> list[Photos]:
    """Read any tables with ``lat, lon`` as photos, also where there are none to open.

    Without a column ``path``, rows are called ``row 1``, ``row 2``, ...

    Args:
        columns: as for :func:`read_photos`; a table that lacks a name keeps its own column, so that a dataset and a
            foreign table can be read alike.

    Raises:
        BadTableError: as for :func:`read_photos`, or a name that no table has.
    """
    files = [table_file(source) for source in sources]
    found = [column_names(file) for file in files]
    for ours, theirs in (columns or {}).items():
        if not any(theirs in names for names in found):
            raise BadTableError(missing(" and ".join(map(str, files)), ours, theirs, list(itertools.chain(*found))))
    tables = []
    for source, file, names in zip(sources, files, found, strict=True):
        given = {ours: theirs for ours, theirs in (columns or {}).items() if theirs in names}
        if "path" in {*names, *given}:
            tables.append(read_photos(source, given))
            continue
        frame = read_table(file, given, need=("lat", "lon"))
        lat, lon = positions(frame, file)
        rows = pl.Series("path", [f"row {n}" for n in range(1, len(frame) + 1)])
        frame = frame.select(rows, pl.Series("lat", lat), pl.Series("lon", lon), pl.exclude("lat", "lon"))
        tables.append(Photos(frame, file.parent, name=file.stem))
    return tables


def read_points(source: Path, lat: str = "lat", lon: str = "lon") -> tuple[Floats, Floats]:
    """Read positions alone, from a dataset folder or any CSV, TSV or Parquet table; shapes ``(N,)``, degrees.

    Holds the two columns and nothing else, so ten million rows fit into a few hundred megabytes.

    Raises:
        BadTableError: as for :func:`read_photos`.
    """
    file = table_file(source)
    frame = read_table(file, {"lat": lat, "lon": lon}, need=("lat", "lon"), only=True)
    return positions(frame, file)


def point_batches(source: Path, lat: str = "lat", lon: str = "lon") -> Callable[[], Iterator[tuple[Floats, Floats]]]:
    """As :func:`read_points`, a million rows at a time, of a Parquet table or a folder of such tables.

    Returns:
        What gives the batches, each time it is called.

    Raises:
        BadTableError: as for :func:`read_points`; of a value in a row, when its batch is read.
    """
    import pyarrow.parquet as pq

    def batches() -> Iterator[tuple[Floats, Floats]]:
        for file in parquet_files(source):
            held = pq.ParquetFile(file)
            lacking = [name for name in (lat, lon) if name not in held.schema_arrow.names]
            if lacking:
                raise BadTableError(f"{file} has no column {lacking[0]}; it has {', '.join(held.schema_arrow.names)}")
            for batch in held.iter_batches(BATCH, columns=[lat, lon]):
                yield _points_of(pl.DataFrame(pl.from_arrow(batch)), file, lat, lon)

    return batches


def point_spans(source: Path) -> list[tuple[Path, int, int]]:
    """The batches of :func:`point_batches`: files, and from which row to before which."""
    import pyarrow.parquet as pq

    rows = {file: pq.ParquetFile(file).metadata.num_rows for file in parquet_files(source)}
    return [
        (file, start, min(start + BATCH, count)) for file, count in rows.items() for start in range(0, count, BATCH)
    ]


def read_span(file: Path, start: int, stop: int, lat: str = "lat", lon: str = "lon") -> tuple[Floats, Floats]:
    """One of :func:`point_spans`, of which no more is read than the row groups that it lies in.

    Raises:
        BadTableError: as for :func:`read_points`.
    """
    rows = pl.scan_parquet(file, glob=False).select(lat, lon).slice(start, stop - start)
    try:
        return _points_of(rows.collect(), file, lat, lon)
    except pl.exceptions.ColumnNotFoundError as error:
        raise BadTableError(f"{file} has no column {lat} or {lon}") from error


def _points_of(rows: pl.DataFrame, file: Path, lat: str, lon: str) -> tuple[Floats, Floats]:
    try:
        return positions(rows.rename({lat: "lat", lon: "lon"}), file)
    except BadTableError:
        read_points(file, lat, lon)  # tells the row by its number in the whole table
        raise


def parquet_files(source: Path) -> list[Path]:
    """The Parquet tables that hold a source's points: itself, or those in its folder; none of any other format."""
    if url_of(source):
        return []
    if source.is_dir() and not (source / "photos.parquet").is_file():
        return sorted(source.glob("*.parquet"))
    file = table_file(source)
    return [file] if file.suffix in (".parquet", ".pq") else []


def many_points(source: Path) -> bool:
    """Whether a table is better read in batches: more than ``MANY`` rows, or several files."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = parquet_files(source)
    try:
        return len(files) > 1 or (bool(files) and pq.ParquetFile(files[0]).metadata.num_rows > MANY)
    except (OSError, pa.ArrowException):
        return False  # who reads it says what is wrong


def read_labels(source: Path, label: str) -> NDArray[Any]:
    """Read one column, of any type, from a dataset folder or any CSV, TSV or Parquet table; shape ``(N,)``.

    Raises:
        BadTableError: as for :func:`read_photos`.
    """
    return read_table(table_file(source), {"label": label}, need=("label",))["label"].to_numpy()


def positions(frame: pl.DataFrame, source: Path) -> tuple[Floats, Floats]:
    """Columns ``lat`` and ``lon`` as float64, every one of them on the globe; shapes ``(N,)``, degrees.

    Raises:
        BadTableError: a value is missing, no number, or off the globe; names the first such row.
    """
    lat, lon = degrees(frame, source)
    swapped = warn_if_swapped(lat, lon, source)
    for name, values, limit in (("lat", lat, 90), ("lon", lon, 180)):
        bad = np.flatnonzero(~(np.abs(values) <= limit))  # NaN fails too
        if len(bad):
            value = frame[name][int(bad[0])]
            what = "no number" if np.isnan(values[bad[0]]) else f"not in [-{limit}, {limit}] degrees"
            raise BadTableError(
                f"{source}: row {bad[0] + 1} (the first under the header is row 1) has {name}={value}, "
                f"which is {what}, as in {len(bad)} of {len(values)} rows. "
                + ("The columns lat and lon look swapped" if swapped else "Correct or delete these rows")
            )
    return lat, lon


def degrees(frame: pl.DataFrame, source: Path) -> tuple[Floats, Floats]:
    """Columns ``lat`` and ``lon`` as float64, shapes ``(N,)``; what is no number of degrees becomes NaN.

    Raises:
        BadTableError: a column mixes ways to write degrees.
    """
    found = []
    for axis in ("lat", "lon"):
        values, way = read_degrees(frame[axis], axis, source)
        if way != POINT:
            note(f"{source}: the column {axis} is read as {way}")
        found.append(values)
    return sphere.within_rounding(*found)


def numbers(values: pl.Series) -> Floats:
    """Any column as float64, shape ``(N,)``; what is no number becomes NaN."""
    if values.dtype == pl.String:
        values = values.str.strip_chars()
    return values.cast(pl.Float64, strict=False).fill_null(float("nan")).to_numpy()


def looks_swapped(lat: Floats, lon: Floats) -> bool:
    """Whether the columns are likely each other's: many latitudes off the globe, none after a swap.

    Swapped columns of a region within 90 degrees of Greenwich look like any others and are not noticed.
    """
    known = ~(np.isnan(lat) | np.isnan(lon))
    lat, lon = lat[known], lon[known]
    fits = (np.abs(lat) <= 180) & (np.abs(lon) <= 90)
    return bool(len(lat) and fits.all() and (np.abs(lat) > 90).mean() > 0.2)


def warn_if_swapped(lat: Floats, lon: Floats, source: Path) -> bool:
    """Warn with :class:`SwappedColumnsWarning` where :func:`looks_swapped`; never swap by itself."""
    swapped = looks_swapped(lat, lon)
    if swapped:
        warnings.warn(
            f"{source}: {(np.abs(lat) > 90).sum()} of {len(lat)} latitudes lie beyond 90 degrees and every "
            f"longitude within: lat and lon look swapped. If so, read them with --lat lon --lon lat",
            SwappedColumnsWarning,
            stacklevel=4,
        )
    return swapped


def write_dataset(out: Path, photos: pl.DataFrame, refused: pl.DataFrame, facts: Mapping[str, Any]) -> None:
    """Write ``photos.parquet``, ``refused.parquet``, ``dataset.json`` and the datasheet into ``out``, all or none.

    All are written aside before the first takes its name, and ``dataset.json`` takes it last: a folder
    without it is not a dataset.

    Raises:
        WriteError: the disk is full or the folder cannot be written.
    """
    from graticule import __version__

    about = {
        **facts,
        "photos": photos.height,
        "refused": refused.height,
        "created_with": f"graticule {__version__}",
    }
    contents = {
        "dataset.json": (json.dumps(about, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode(),
        "refused.parquet": parquet_bytes(refused),
        "photos.parquet": parquet_bytes(photos),
        card_file(out).name: datasheet(photos, refused, about, name=about.get("name", out.resolve().name)).encode(),
    }
    with ExitStack() as stack:  # left in reverse order, hence dataset.json first
        for name, data in contents.items():
            stack.enter_context(atomic_file(out / name)).write_bytes(data)


def _fetch_index(url: str, folder: Path) -> Path:
    """Copy the tables of a remote dataset, without its photos, into a folder."""
    folder.mkdir()
    for name in ("photos.parquet", "dataset.json"):
        try:
            with open_url(f"{url}/{name}") as file:
                (folder / name).write_bytes(file.read())
        except FileNotFoundError as error:
            raise BadTableError(
                f"{url} has no {name}, so it is not a dataset; copy there what graticule data pack wrote, all of it"
            ) from error
    return folder


def table_file(source: Path) -> Path:
    """The table of a dataset's folder, or the file itself.

    Raises:
        BadTableError: there is none, or writing the dataset was cut short.
    """
    if not source.exists():
        raise BadTableError(f"there is no file or folder {source}; give a dataset folder or a table")
    if source.is_file():
        return source
    if (source / "bundle.json").is_file():
        raise BadTableError(f"{source} is a bundle, which holds no photos; give a dataset or a table of photos")
    if not (source / "photos.parquet").is_file():
        if (source / "photos" / "dataset.json").is_file():  # what `graticule start` made
            raise BadTableError(f"{source} is no dataset itself; its dataset lies in {source / 'photos'}: give that")
        raise BadTableError(
            f"{source} is a folder without photos.parquet, so it is not a dataset. "
            f"Make one first: graticule data folder {shlex.quote(str(source))} OUT"
        )
    if not (source / "dataset.json").is_file():
        raise BadTableError(
            f"{source} has no dataset.json: writing it was cut short. Run its graticule data command again"
        )
    return source / "photos.parquet"


def group_codes(column: pl.Series) -> Ints:
    """Codes 0, 1, ... in the order of the values; each missing value gets a code of its own."""
    ranks = column.cast(pl.String).rank("dense").cast(pl.Int64)
    gaps = ranks.is_null().to_numpy()
    codes = ranks.fill_null(0).to_numpy().astype(np.int64) - 1
    codes[gaps] = codes.max(initial=-1) + 1 + np.arange(gaps.sum())
    return codes
