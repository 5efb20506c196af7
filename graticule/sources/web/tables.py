"""Tables of photos, larger than memory: CSV files, and Parquet files of which only what fits is read.

Every value comes as text, so that no id goes through a float.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from graticule.errors import BadTableError, note

KEYS = ("uuid", "source", "orig_id")
ALIKE = {"country": ("country", "iso2", "iso3"), "city": ("city", "city_ascii")}  # names that a condition asks of
WORTH_SAYING = 10**8  # bytes that are worth a word before they are fetched


@dataclass(frozen=True, slots=True)
class CsvTable:
    """A CSV file, read in a stream; ``file`` is called when it is needed, and may fetch it."""

    columns: tuple[str, ...]
    file: Callable[[], Path]

    def rows(
        self, names: Sequence[str], conditions: Mapping[str, pl.Expr] | None = None, those: pl.Series | None = None
    ) -> pl.DataFrame:
        """One row a photo: the ``names`` of those that meet all ``conditions`` (by the column they ask of) and, where
        given, whose uuid is among ``those``."""
        rows = self._scan()
        rows = rows.filter(*conditions.values()) if conditions else rows
        rows = rows.select(*names)
        if those is not None:
            rows = rows.join(those.to_frame("uuid").lazy(), on="uuid", how="semi")
        return rows.collect(engine="streaming").unique("uuid", keep="first", maintain_order=True)

    def values(self, name: str) -> list[str]:
        """What stands in a column, sorted."""
        found = self._scan().select(pl.col(name).unique()).collect(engine="streaming")
        return sorted(found.to_series().drop_nulls())

    def _scan(self) -> pl.LazyFrame:
        rows = pl.scan_csv(self.file(), infer_schema=False)
        names = rows.collect_schema().names()
        return rows.rename({"image_id": "uuid"}) if "uuid" not in names and "image_id" in names else rows


class ParquetTable:
    """A Parquet file here or on the hub, of which the columns that are asked of are read, then the groups that fit.

    Rows lie in groups, and in a group each column by itself. Tables that were made city by city have a city in few
    groups: of the others nothing is read but what names the city.
    """

    def __init__(self, file: Any, what: str) -> None:
        """Read the index at the end of ``file``, a binary file that can seek; ``what`` names it.

        Raises:
            BadTableError: it is no Parquet file.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            self._file, self._what = pq.ParquetFile(file, pre_buffer=True), what
        except pa.ArrowInvalid as error:
            raise BadTableError(f"{what} is no Parquet file, whatever its name says ({error})") from error
        self.columns: tuple[str, ...] = tuple(self._file.schema_arrow.names)

    def rows(
        self, names: Sequence[str], conditions: Mapping[str, pl.Expr] | None = None, those: pl.Series | None = None
    ) -> pl.DataFrame:
        """As :meth:`CsvTable.rows`."""
        tests = [*(conditions or {}).values(), *([pl.col("uuid").is_in(those.implode())] if those is not None else [])]
        looked_at = {other for name in conditions or () for other in ALIKE.get(name, (name,))}
        looked_at |= {"uuid"} if those is not None else set()
        asked = [name for name in self.columns if name in looked_at]
        fits: dict[int, pl.Expr | pl.Series] = dict.fromkeys(range(self._file.num_row_groups), pl.lit(True))
        if tests:
            self._say(fits, asked)
            found = ((g, self._read(g, asked).select(pl.all_horizontal(*tests)).to_series()) for g in fits)
            fits = {g: fit for g, fit in found if fit.any()}
        self._say(fits, names)
        empty = pl.DataFrame(schema=dict.fromkeys(names, pl.String))
        rows = pl.concat([empty, *(self._read(g, names).filter(fit) for g, fit in fits.items())])
        return rows.unique("uuid", keep="first", maintain_order=True)

    def values(self, name: str) -> list[str]:
        """As :meth:`CsvTable.values`."""
        found = [self._read(group, [name]).to_series().unique() for group in range(self._file.num_row_groups)]
        return sorted(pl.concat(found).unique().drop_nulls()) if found else []

    def _read(self, group: int, names: Sequence[str]) -> pl.DataFrame:
        table = pl.DataFrame(pl.from_arrow(self._file.read_row_group(group, columns=list(names))))
        times = [name for name, kind in table.schema.items() if isinstance(kind, pl.Datetime)]
        return table.with_columns(pl.col(times).dt.to_string("iso")).select(pl.col(list(names)).cast(pl.String))

    def _say(self, groups: Iterable[int], names: Sequence[str]) -> None:
        index = self._file.metadata
        at = [i for i in range(index.num_columns) if index.schema.column(i).path in names]
        size = sum(index.row_group(g).column(i).total_compressed_size for g in groups for i in at)
        if size >= WORTH_SAYING:
            note(f"{size / 1e9:.1f} GB of {self._what} are read; nothing of it is kept on the disk")


Table = CsvTable | ParquetTable
