"""Any table of positions as a frame: CSV in many habits, Parquet, Arrow, JSON, GeoJSON, spreadsheets, map files.

What had to be understood (another name of a column, another encoding, blank lines) is said in a note
(:class:`graticule.errors.Note`).
"""

import gzip
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl
from numpy.typing import NDArray

from graticule.errors import BadTableError, note
from graticule.photos.images import SUFFIXES
from graticule.photos.objects import read_json
from graticule.photos.synonyms import column_of, from_values, usual

READABLE = (
    "CSV, TSV, Parquet, Arrow, JSON lines, GeoJSON, and with the extra graticule[tables] Excel, GPX, KML, GeoPackage"
)
PARQUET = (".parquet", ".pq")
SPREADSHEETS = {".xlsx": "an Excel workbook", ".xlsm": "an Excel workbook", ".xls": "an Excel workbook",
                ".ods": "an OpenDocument spreadsheet"}  # fmt: skip
MAPS = {".gpx": "a GPX file", ".kml": "a KML file", ".gpkg": "a GeoPackage", ".shp": "a shapefile"}
MAGIC = {
    b"PK\x03\x04": "a zip file or a spreadsheet",
    b"SQLite format 3\0": "an SQLite database",
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    b"%PDF": "a PDF",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
    b"\x89HDF": "an HDF5 file",
    b"\xff\xd8\xff": "a photo",
    b"\x89PNG": "a picture",
}
MARKS = ((b"\xff\xfe\0\0", "utf-32"), (b"\0\0\xfe\xff", "utf-32"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))


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
        wanted = list(theirs.values()) if only else None
        if frame is not None:
            frame = frame.select(wanted) if wanted else frame
        elif wanted and file.suffix.lower() in PARQUET:
            frame = pl.read_parquet(file, columns=wanted)
        elif wanted:
            frame = _csv_numbers(file, wanted, encoding)
        else:
            frame = _whole(file, encoding)
    except (pl.exceptions.PolarsError, UnicodeError, LookupError, gzip.BadGzipFile) as error:
        raise BadTableError(_unreadable(file, encoding, error)) from error
    frame = _rows(frame, {ours: theirs[ours] for ours in need}, file)
    if not wanted and reader is None and file.suffix.lower() not in PARQUET:
        frame = pl.DataFrame([_as_written(column) for column in frame])
    if frame.is_empty():
        raise BadTableError(f"{file} has no rows under its header {', '.join(found)}; nothing to do")
    ours_of = {name: ours for ours, name in theirs.items()}
    keep = [name for name in frame.columns if name in ours_of or name not in theirs]
    return frame.select(keep).rename({name: ours_of[name] for name in keep if name in ours_of})


def _whole(file: Path, encoding: str | None) -> pl.DataFrame:
    return pl.read_parquet(file) if file.suffix.lower() in PARQUET else _csv(file, encoding)


def column_names(file: Path, encoding: str | None = None) -> list[str]:
    """The columns of a table."""
    if file.suffix.lower() in PARQUET:
        return list(pl.read_parquet_schema(file))
    if reader := _reader(file):
        return reader(file).columns
    return _csv(file, encoding, n_rows=0).columns


def _rows(frame: pl.DataFrame, needed: Mapping[str, str], file: Path) -> pl.DataFrame:
    """The rows that are rows: no blank lines, no second header, no line of totals below."""
    if not needed or frame.is_empty():
        return frame
    text = [pl.col(name).cast(pl.String).str.strip_chars().fill_null("") for name in needed.values()]
    blank = pl.all_horizontal(each == "" for each in text)
    header = pl.all_horizontal(each == name for each, name in zip(text, needed.values(), strict=True))
    for what, which in (("blank rows", blank), ("repeated headers", header)):
        count = frame.select(which.sum()).item()
        if count and (what == "blank rows" or "path" in needed or len(needed) > 1):
            note(f"{file}: {count} {what} dropped")
            frame = frame.filter(~which)
    if "path" in needed and len(frame) > 1:
        path = frame[needed["path"]].cast(pl.String).fill_null("")
        endings = "|".join(suffix[1:] for suffix in sorted(SUFFIXES))
        photos = path.str.to_lowercase().str.contains(rf"[.]({endings})$")
        if not photos[-1] and photos[:-1].all():
            note(f"{file}: the last row ({path[-1][:40]!r}) names no photo and is dropped")
            frame = frame[:-1]
    return frame


def _reader(file: Path) -> Callable[[Path], pl.DataFrame] | None:
    """What reads the whole file; none for Parquet and text, which can be read in part.

    Raises:
        BadTableError: a kind of file that is named but not read.
    """
    suffix = file.suffix.lower()
    readers: dict[str, Callable[[Path], pl.DataFrame]] = {
        **dict.fromkeys((".geojson", ".json", ".jsonl", ".ndjson", ".geojsonl", ".geojsons"), read_json),
        ".arrow": _arrow, ".feather": _arrow, ".ipc": _arrow,
        **dict.fromkeys(SPREADSHEETS, _spreadsheet), **dict.fromkeys(MAPS, _map),
    }  # fmt: skip
    if suffix in readers or suffix in PARQUET:
        return readers.get(suffix)
    with file.open("rb") as begin:
        head = begin.read(16)
    for magic, kind in MAGIC.items():
        if head.startswith(magic):
            raise BadTableError(f"{file} is {kind}, not a text table; what can be read is {READABLE}")
    return None


def _arrow(file: Path) -> pl.DataFrame:
    return pl.read_ipc(file)


def _spreadsheet(file: Path) -> pl.DataFrame:
    kind = SPREADSHEETS[file.suffix.lower()]
    _need_extra("fastexcel", file, kind)
    try:
        return pl.read_excel(file, engine="calamine", infer_schema_length=None)
    except Exception as error:  # the reader's own errors share no class
        raise BadTableError(f"{file} cannot be read as {kind}: it is damaged or protected. Save it as CSV") from error


def _map(file: Path) -> pl.DataFrame:
    kind = MAPS[file.suffix.lower()]
    _need_extra("pyogrio", file, kind)
    import pyogrio

    layer = "waypoints" if file.suffix.lower() == ".gpx" else None
    try:
        about, _, shapes, fields = pyogrio.raw.read(file, layer=layer)
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, pyogrio.errors.FieldError) as error:
        raise BadTableError(f"{file} cannot be read as {kind}: it is damaged or empty") from error
    if about["crs"] not in (None, "EPSG:4326", "OGC:CRS84", "EPSG:4979"):
        raise BadTableError(
            f"{file}: its positions are in {about['crs']}, not in degrees; convert it first: "
            f"ogr2ogr -t_srs EPSG:4326 degrees.gpkg {file.name}"
        )
    columns = {name: _values(values) for name, values in zip(about["fields"], fields, strict=True)}
    frame = pl.DataFrame(columns, strict=False)
    points = [_point(shape) for shape in shapes]
    if all(point is None for point in points):
        raise BadTableError(f"{file} holds no points; each photo needs one")
    if "name" in frame.columns and usual("path", frame.columns) == ["name"]:
        frame = frame.rename({"name": "path"})  # what GPX and KML call it
    lon, lat = zip(*(point or (None, None) for point in points), strict=True)
    return frame.with_columns(pl.Series("lat", lat, pl.Float64), pl.Series("lon", lon, pl.Float64))


def _values(values: NDArray[Any]) -> list[Any]:
    """A column of GDAL's: text comes as objects, among them None."""
    if values.dtype != object:
        return values.tolist()  # type: ignore[no-any-return]
    return [None if value is None else str(value) for value in values]


def _point(shape: bytes | None) -> tuple[float, float] | None:
    """Longitude and latitude of a point in well-known binary (OGC 06-103r4, section 8.2), with or without height."""
    if shape is None or len(shape) < 21:
        return None
    order = "<" if shape[0] else ">"
    (code,) = struct.unpack_from(order + "I", shape, 1)
    return struct.unpack_from(order + "dd", shape, 5) if code & 0xFFFF in (1, 1001, 2001, 3001) else None


def _need_extra(module: str, file: Path, kind: str) -> None:
    from importlib.util import find_spec

    if find_spec(module) is None:
        raise BadTableError(f"{file} is {kind}; to read it, pip install 'graticule[tables]', or save it as CSV")


def _text(file: Path, encoding: str | None) -> Path | BytesIO:
    """What polars reads: the file itself where it is plain UTF-8, else its text in UTF-8."""
    data = gzip.decompress(file.read_bytes()) if file.suffix.lower() == ".gz" else None
    with file.open("rb") as begin:
        head = begin.read(4) if data is None else data[:4]
    marked = next((name for mark, name in MARKS if head.startswith(mark)), None)
    if not marked and re.fullmatch(rb"[^\0]\0[^\0]\0|\0[^\0]\0[^\0]", head, re.DOTALL):  # Latin letters, two bytes each
        marked = "utf-16-be" if head[0] == 0 else "utf-16-le"
    if marked and not encoding:
        note(f"{file}: read as {marked.upper()}, as its first bytes say")
    if wanted := encoding or marked:
        return BytesIO((data or file.read_bytes()).decode(wanted).encode())
    return file if data is None else BytesIO(data)


def _csv(file: Path, encoding: str | None = None, **options: Any) -> pl.DataFrame:
    text = _text(file, encoding)
    first: list[str] = []  # lines, as far as the header
    with text.open("rb") if isinstance(text, Path) else BytesIO(text.getvalue()) as lines:
        for line in lines:
            first.append(line.decode("utf-8-sig" if not first else "utf-8").rstrip("\r\n"))
            if not re.match(r"#|sep=.$", first[-1]):
                break
    header = first[-1] if first else ""
    if not header.strip():
        raise BadTableError(f"{file} is empty; a table begins with a line of column names")
    if "\r" in header:  # as old Macs wrote: lines that nothing but a return ends
        options["eol_char"] = "\r"
        header = header.partition("\r")[0]
    if not any(mark in header for mark in ",;\t|"):
        text = _spaced(text, len(header.split())) or text
        header = "\t".join(header.split())
    separator = max(",;\t|", key=header.count)
    skip = len(first) - 1  # comments, and Excel's word about the separator
    return pl.read_csv(text, separator=separator, skip_lines=skip, **{"infer_schema": False, **options})


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
        data = file.read_bytes()[:100_000]
        (gzip.decompress(file.read_bytes()) if suffix == ".gz" else data).decode(encoding or "utf-8")
    except UnicodeDecodeError as wrong:
        if wrong.start < len(data) - 4:  # not a letter that the end of the piece cuts
            hint = "" if encoding else "; in Western Europe that is often Windows-1252: add --encoding cp1252"
            return f"{file} is not {encoding or 'UTF-8'} text (byte {wrong.start}){hint}"
    except (OSError, EOFError):
        pass
    return (
        f"{file} cannot be read as CSV in {encoding or 'UTF-8'}: {str(error).splitlines()[0][:200]}. "
        f"Repair that, or save the table anew"
    )
