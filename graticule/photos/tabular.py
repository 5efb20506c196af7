"""Any table of positions as a frame: CSV in many habits, Parquet, Arrow, JSON, GeoJSON, spreadsheets, map files.

What had to be understood (another name of a column, another encoding, blank lines) is said in a note
(:class:`graticule.errors.Note`).
"""

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO, StringIO
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from graticule.errors import BadTableError, note
from graticule.photos.contents import flat, from_values, names_positions, reference_columns, with_hemispheres
from graticule.photos.extras import MAPS, SPREADSHEETS, read_map, read_spreadsheet
from graticule.photos.images import SUFFIXES
from graticule.photos.objects import read_json
from graticule.photos.synonyms import column_of
from graticule.photos.texts import first_bytes, is_binary, suffix_of, utf8, utf8_bytes

READABLE = (
    "CSV, TSV, Parquet, Arrow, JSON lines, GeoJSON, and with the extra graticule[tables] Excel, GPX, KML, GeoPackage"
)
PARQUET = (".parquet", ".pq", ".geoparquet")
JSON = (".geojson", ".json", ".jsonl", ".ndjson", ".geojsonl", ".geojsons")
ARROW = (".arrow", ".arrows", ".feather", ".ipc")
MAGIC = {
    b"PK\x03\x04": "a zip file or a spreadsheet; unpack or rename it",
    b"SQLite format 3\0": "an SQLite database",
    b"PAR1": "a Parquet file; name it .parquet",
    b"ARROW1": "an Arrow file; name it .arrow",
    b"%PDF": "a PDF",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook; name it .xls",
    b"\x89HDF": "an HDF5 file",
    b"\xff\xd8\xff": "a photo",
    b"\x89PNG": "a picture",
    b"\x28\xb5\x2f\xfd": "a file packed by Zstandard; unpack it",
    b"7z\xbc\xaf": "a 7-Zip archive; unpack it",
    b"Rar!": "a RAR archive; unpack it",
    b"\x93NUMPY": "an array of NumPy",
    b"\x80\x04\x95": "a pickle of Python",
    b"\x80\x05\x95": "a pickle of Python",
    b"<?xml": "an XML file",
    b"<!DOCTYPE": "a web page",
    b"<html": "a web page",
}
TITLE_WITHIN = 20  # lines in which a header is looked for below a title
FOOTER = 3  # lines of totals, at most


def read_table(
    file: Path,
    columns: Mapping[str, str] | None = None,
    *,
    need: Sequence[str] = (),
    only: bool = False,
    encoding: str | None = None,
) -> pl.DataFrame:
    """Read a table under our column names; of the values nothing is checked.

    A column of a text file becomes numbers only where every value survives the way back: ``007`` stays text,
    and large ids never pass through a float. A needed column that is missing is taken from the one column with a usual
    other name (:mod:`graticule.photos.synonyms`), else by its values. Rows without any of the needed values, repeated
    headers and a line of totals at the end are dropped.

    Args:
        columns: our names to the table's own. A renamed column takes the place of one with our name.
        need: names that must be there after renaming.
        only: read the needed columns alone, as numbers.
        encoding: of a text file, such as ``cp1252``; by its mark, else UTF-8, where not given.

    Raises:
        BadTableError: no such file, not a table, no rows, or a missing or ambiguous column.
    """
    theirs = {**{name: name for name in need}, **(columns or {})}
    if len(set(theirs.values())) < len(theirs):
        raise BadTableError(f"{file}: one column cannot be two of {', '.join(theirs)}; name each once")
    if not file.is_file():
        what = f"{file} is a folder" if file.is_dir() else f"there is no file {file}"
        raise BadTableError(f"{what}; give a table: {READABLE}")
    reader = _reader(file)
    try:
        frame = reader(file) if reader else None
        found = column_names(file, encoding) if frame is None else frame.columns
        named = {
            ours: column_of(file, ours, name, found, asked=ours in (columns or {})) for ours, name in theirs.items()
        }
        if None in named.values():  # not by its name: by what stands in it
            frame = frame if frame is not None else _whole(file, encoding)
            frame, named = from_values(frame, named, file)
        theirs = {ours: name for ours, name in named.items() if name is not None}
        signs = reference_columns(theirs, found)
        wanted = list({**dict.fromkeys(theirs.values()), **dict.fromkeys(signs.values())}) if only else None
        if frame is not None:
            frame = frame.select(wanted) if wanted else frame
        elif wanted and file.suffix.lower() in PARQUET:
            frame = flat(pl.read_parquet(file, columns=list(dict.fromkeys(_top(name, file) for name in wanted))))
        elif wanted:
            frame = _csv_numbers(file, wanted, encoding)
        else:
            frame = _whole(file, encoding)
    except (pl.exceptions.PolarsError, UnicodeError, LookupError) as error:
        raise BadTableError(_unreadable(file, encoding, error)) from error
    frame = _rows(frame, {ours: theirs[ours] for ours in need}, file)
    if signs:
        frame = with_hemispheres(frame, theirs, file)
    if not wanted and reader is None and file.suffix.lower() not in PARQUET:
        frame = pl.DataFrame([_as_written(column) if column.dtype == pl.String else column for column in frame])
    if frame.is_empty():
        raise BadTableError(f"{file} has no rows under its header {', '.join(found)}; nothing to do")
    ours_of = {name: ours for ours, name in theirs.items()}
    keep = [name for name in frame.columns if name in ours_of or (name not in theirs and not only)]
    return frame.select(keep).rename({name: ours_of[name] for name in keep if name in ours_of})


def _whole(file: Path, encoding: str | None) -> pl.DataFrame:
    return flat(pl.read_parquet(file)) if file.suffix.lower() in PARQUET else _csv(file, encoding)


def column_names(file: Path, encoding: str | None = None) -> list[str]:
    """The columns of a table."""
    if file.suffix.lower() in PARQUET:
        return flat(pl.DataFrame(schema=pl.read_parquet_schema(file))).columns
    if reader := _reader(file):
        return reader(file).columns
    return _csv(file, encoding, n_rows=0).columns


def _top(name: str, file: Path) -> str:
    """The column of a Parquet file that holds one of ``column_names``: ``location`` of ``location.lat``."""
    schema = pl.read_parquet_schema(file)
    return next(top for top in (name, *schema) if top in schema and (top == name or name.startswith(f"{top}.")))


def _rows(frame: pl.DataFrame, needed: Mapping[str, str], file: Path) -> pl.DataFrame:
    """The rows that are rows: no blank lines, no second header, no line of units above, none of totals below."""
    if not needed or frame.is_empty():
        return frame
    text = frame.select(pl.col(name).cast(pl.String).str.strip_chars().fill_null("") for name in needed.values())
    blank = pl.all_horizontal(pl.all() == "")
    header = pl.all_horizontal(pl.col(name).str.to_lowercase() == name.strip().lower() for name in text.columns)
    for what, which in (("blank rows", blank), ("repeated headers", header)):
        found = text.select(which).to_series()
        if found.any() and (what == "blank rows" or "path" in needed or len(needed) > 1):
            note(f"{file}: {found.sum()} {what} dropped")
            frame, text = frame.filter(~found), text.filter(~found)
    if "path" in needed and len(frame) > 1:
        frame = _without_ends(frame, text[needed["path"]], file)
    return frame


def _without_ends(frame: pl.DataFrame, path: pl.Series, file: Path) -> pl.DataFrame:
    """Without the lines above and below the photos that name none: units or types, sums and remarks."""
    endings = "|".join(suffix[1:] for suffix in sorted(SUFFIXES))
    named = path.str.contains(rf"(?i)[.]({endings})['\"]?$")
    if named.all() or not named.any():
        return frame
    rows = named.arg_true()
    first, last = rows[0], rows[-1] + 1
    if not named[first:last].all() or first > 1 or len(frame) - last > FOOTER:
        return frame
    for what, row in [("first", 0)] * bool(first) + [("last", row) for row in range(last, len(frame))]:
        note(f"{file}: the {what} row ({path[row][:40]!r}) names no photo and is dropped")
    return frame[first:last]


def _reader(file: Path) -> Callable[[Path], pl.DataFrame] | None:
    """What reads the whole file; none for Parquet and text, which can be read in part.

    Raises:
        BadTableError: a kind of file that is named but not read.
    """
    suffix = suffix_of(file)
    if suffix in JSON:
        return read_json
    if file.suffix.lower() in ARROW:
        return _arrow
    if suffix in SPREADSHEETS and file.suffix.lower() == suffix:
        return lambda file: read_spreadsheet(file, SPREADSHEETS[suffix])
    if suffix in MAPS and file.suffix.lower() == suffix:
        return lambda file: read_map(file, MAPS[suffix])
    if suffix in PARQUET:
        return None
    head = first_bytes(file)
    for magic, kind in MAGIC.items():
        if head.startswith(magic):
            inner = next((name for name in (".gpx", ".kml") if b"<" + name[1:].encode() in head), None)
            if inner:
                return lambda file: read_map(file, MAPS[inner])
            raise BadTableError(f"{file} is {kind}, not a text table; what can be read is {READABLE}")
    if re.match(rb"(?:\xef\xbb\xbf)?\s*[\[{]\s*[\[{\"]", head):
        return read_json
    if is_binary(head.rstrip(b"\x1a")) and not head.startswith((b"\xff\xfe", b"\xfe\xff")) and head[:2].count(0) != 1:
        raise BadTableError(f"{file} is a binary file of a kind that is not known; what can be read is {READABLE}")
    return None


def _arrow(file: Path) -> pl.DataFrame:
    try:
        return flat(pl.read_ipc(file))
    except pl.exceptions.ComputeError:  # without the footer, as it is sent
        return flat(pl.read_ipc_stream(file))


def _csv(file: Path, encoding: str | None = None, **options: Any) -> pl.DataFrame:
    text = utf8(file, encoding)
    with text.open("rb") if isinstance(text, Path) else BytesIO(text.getvalue()) as lines:
        first = [
            line.decode("utf-8-sig" if not row else "utf-8").rstrip("\r\n")
            for row, line in enumerate(islice(lines, 200))
        ]
    skip = _header(first, file)
    header = first[skip] if skip < len(first) else ""
    if not header.strip():
        raise BadTableError(f"{file} is empty; a table begins with a line of column names")
    if "\r" in header:  # as old Macs wrote: lines that nothing but a return ends
        options["eol_char"] = "\r"
        header = header.partition("\r")[0]
    if not any(mark in header for mark in ",;\t|"):
        text = _spaced(text, len(header.split())) or text
        header = "\t".join(header.split())
    separator = max(",;\t|", key=header.count)
    options = {"infer_schema": False, "separator": separator, "skip_lines": skip, **options}
    try:
        return _unwrapped(pl.read_csv(text, **options))
    except pl.exceptions.ComputeError as error:
        if "more fields" not in str(error):
            raise
        return _unwrapped(pl.read_csv(_shortened(file, encoding, separator, skip), **options))


def _header(lines: Sequence[str], file: Path) -> int:
    """The number of the line that names the columns: below comments, Excel's word of the separator, and a title."""
    start = next((row for row, line in enumerate(lines) if line.strip() and not re.match(r"#|sep=.$", line)), 0)
    names = [re.split(r"[,;\t|]", line.replace('"', "")) for line in lines[start : start + TITLE_WITHIN]]
    if not names or len([name for name in names[0] if name.strip()]) > 1:
        return start
    below = next((row for row, some in enumerate(names) if len(some) > 1 and names_positions(some)), 0)
    if below:
        note(f"{file}: the {below} lines above its header are passed over")
    return start + below


def _shortened(file: Path, encoding: str | None, separator: str, skip: int) -> BytesIO:
    """The text without empty fields beyond those that its header names.

    Raises:
        BadTableError: a line has more fields than the header.
    """
    lines = StringIO(utf8_bytes(file, encoding).decode(), newline="")
    above = [next(lines) for _ in range(skip)]
    rows = csv.reader(lines, delimiter=separator)
    header = next(rows)
    text = StringIO("".join(above))
    text.seek(0, 2)
    writer = csv.writer(text, delimiter=separator)
    writer.writerow(header)
    for row in rows:
        if any(field.strip() for field in row[len(header) :]):
            raise BadTableError(
                f"{file}: line {rows.line_num + skip} has {len(row)} fields and the header {len(header)}; put quotes "
                f"around values with {separator!r} in them, such as decimal commas"
            )
        writer.writerow(row[: len(header)])
    return BytesIO(text.getvalue().encode())


def _unwrapped(frame: pl.DataFrame) -> pl.DataFrame:
    """Text columns without spaces and quotes around every value, or the ``="..."`` that spreadsheets keep text by."""
    text = frame.select(pl.col(pl.String).str.strip_chars())
    wrapped = text.select(pl.all().str.contains(r"^(?:=?\"(?s:.)*\"|'(?s:.)*')$").all() & (pl.all().count() > 0))
    names = [name for name in text.columns if text.height and wrapped[name][0]]
    return frame.with_columns(text[name].str.extract(r"^=?['\"]((?s:.)*)['\"]$", 1) for name in names)


def _spaced(text: Path | BytesIO, columns: int) -> BytesIO | None:
    """A table whose columns stand apart by spaces, with tabs; None where its lines are of other lengths."""
    data = text.read_bytes() if isinstance(text, Path) else text.getvalue()
    rows = [line.split() for line in data.splitlines()]
    if columns < 2 or any(row and len(row) != columns for row in rows):
        return None
    return BytesIO(b"\n".join(map(b"\t".join, rows)))


def _csv_numbers(file: Path, names: list[str], encoding: str | None) -> pl.DataFrame:
    try:
        return _csv(file, encoding, columns=names, schema_overrides=dict.fromkeys(names, pl.Float64))
    except pl.exceptions.ComputeError:  # some value is no number: read as text, so that its row can be named
        return _csv(file, encoding, columns=names)


def _as_written(column: pl.Series) -> pl.Series:
    for dtype in (pl.Int64, pl.Float64):
        typed = column.cast(dtype, strict=False)
        if typed.cast(pl.String).eq_missing(column).all() and typed.null_count() < len(typed):
            return typed
    return column


def _unreadable(file: Path, encoding: str | None, error: Exception) -> str:
    suffix = file.suffix.lower()
    if isinstance(error, LookupError) and encoding:
        return f"there is no encoding {encoding!r}; usual ones are cp1252, latin-1, utf-16, cp1251, shift_jis"
    if suffix in PARQUET or _reader(file):
        kind = "Parquet" if suffix in PARQUET else suffix[1:].upper()
        return f"{file} cannot be read as {kind}: {str(error).splitlines()[0]}. Repair that, or save the table anew"
    try:
        (first_bytes(file, 100_000) if isinstance(utf8(file), Path) else utf8_bytes(file)).decode(encoding or "utf-8")
    except UnicodeDecodeError as wrong:
        if wrong.start < 100_000 - 4:  # not a letter that the end of the piece cuts
            hint = "" if encoding else "; in Western Europe that is often Windows-1252: add --encoding cp1252"
            return f"{file} is not {encoding or 'UTF-8'} text (byte {wrong.start}){hint}"
    except (OSError, UnicodeError):
        pass
    return (
        f"{file} cannot be read as CSV in {encoding or 'UTF-8'}: {str(error).splitlines()[0][:200]}. "
        f"Repair that, or save the table anew"
    )
