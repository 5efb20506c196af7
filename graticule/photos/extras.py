"""Tables that need the extra ``tables``: map files by GDAL (pyogrio), spreadsheets by calamine (fastexcel)."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import polars as pl
from numpy.typing import NDArray

from graticule.errors import BadTableError, note
from graticule.photos.contents import names_positions, point_of_wkb
from graticule.photos.synonyms import usual

SPREADSHEETS = {".xlsx": "an Excel workbook", ".xlsm": "an Excel workbook", ".xls": "an Excel workbook",
                ".xlsb": "an Excel workbook", ".ods": "an OpenDocument spreadsheet"}  # fmt: skip
MAPS = {".gpx": "a GPX file", ".kml": "a KML file", ".kmz": "a KMZ file", ".gpkg": "a GeoPackage",
        ".shp": "a shapefile", ".fgb": "a FlatGeobuf", ".gml": "a GML file"}  # fmt: skip
DEGREES = (None, "EPSG:4326", "OGC:CRS84", "EPSG:4979")
NEARLY = ("EPSG:4269", "EPSG:4258", "EPSG:4283", "EPSG:7844", "EPSG:4674", "EPSG:6668", "EPSG:4490", "EPSG:4167")
# systems of continents in degrees, within two metres of WGS 84: NAD83, ETRS89, GDA94, GDA2020, SIRGAS, JGD2011, ...
HEADER_WITHIN = 20  # rows of a sheet in which its header is looked for


def read_spreadsheet(file: Path, kind: str) -> pl.DataFrame:
    """The sheet that holds positions: the first whose header, perhaps below a title, names them; else the first.

    Raises:
        BadTableError: the extra is not installed, or the file cannot be read.
    """
    _need_extra("fastexcel", file, kind)
    import fastexcel

    try:
        book = fastexcel.read_excel(file.read_bytes())  # whose kind is seen by what is in it
        sheets: dict[str, pl.DataFrame] = {}
        for name in book.sheet_names:
            top = book.load_sheet(name, header_row=None, n_rows=HEADER_WITHIN, dtypes="string").to_polars()
            row = _header(top)
            if top.height and (row is not None or not sheets):
                header = row if row is not None else 0
                sheets[name if row is not None else ""] = book.load_sheet(name, header_row=header).to_polars()
    except Exception as error:  # the reader's own errors share no class
        raise BadTableError(f"{file} cannot be read as {kind}: it is damaged or protected. Save it as CSV") from error
    if not sheets:
        raise BadTableError(f"{file} is {kind} without a row")
    name = next((name for name in sheets if name), "")
    if name and len(book.sheet_names) > 1:
        note(f"{file}: of its {len(book.sheet_names)} sheets {name!r} is read")
    return sheets[name]


def read_map(file: Path, kind: str) -> pl.DataFrame:
    """The points of a map file, with what is said of each; of a KML those of all folders.

    Positions of another system than degrees are moved to WGS 84 by GDAL.

    Raises:
        BadTableError: the extra is not installed, the file cannot be read, holds no points, or several layers of them.
    """
    _need_extra("pyogrio", file, kind)
    import pyogrio

    try:
        source = _kml_inside(file) if kind == MAPS[".kmz"] else file
        layers = [(str(name), str(shape)) for name, shape in pyogrio.list_layers(source)]
        if kind == MAPS[".gpx"]:
            layers = [layer for layer in layers if layer[0] == "waypoints"]
        frames = {}
        for name, shape in layers:
            if shape == "None" or not any(word in shape for word in ("Point", "Unknown", "Collection")):
                continue
            if (frame := _layer(source, name, file)) is not None:
                frames[name] = frame
    except (BadZipFile, pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError,
            pyogrio.errors.FieldError) as error:  # fmt: skip
        raise BadTableError(f"{file} cannot be read as {kind}: it is damaged or empty") from error
    if not frames:
        raise BadTableError(f"{file} holds no points; each photo needs one")
    if len(frames) == 1 or kind in (MAPS[".kml"], MAPS[".kmz"]):
        return pl.concat(frames.values(), how="diagonal_relaxed")
    fits = [name for name, frame in frames.items() if usual("path", frame.columns)]
    if len(fits) != 1:
        raise BadTableError(f"{file} holds several layers of points: {', '.join(frames)}; save the one of the photos")
    note(f"{file}: of its layers {fits[0]!r} is read")
    return frames[fits[0]]


def _kml_inside(file: Path) -> bytes:
    """The document of a KMZ, which GDAL reads whole only from outside of its zip."""
    with ZipFile(file) as packed:
        names = [name for name in packed.namelist() if name.lower().endswith(".kml")]
        return packed.read(names[0]) if names else b""


def _layer(source: Path | bytes, layer: str, file: Path) -> pl.DataFrame | None:
    """One layer's points in degrees, or None where it has none."""
    import pyogrio

    about, _, shapes, fields = pyogrio.raw.read(source, layer=layer)
    if about["crs"] in NEARLY:
        note(f"{file}: its positions are in {about['crs']}, which is taken for WGS 84: they differ by a metre or two")
    elif about["crs"] not in DEGREES and shapes is not None and len(shapes):
        shapes = _moved(file, layer, about["crs"])
    points = [] if shapes is None else [point_of_wkb(shape) for shape in shapes]
    if all(point is None for point in points):
        return None
    # A shapefile whose table is lost has fields without values.
    columns = {name: _values(values) for name, values in zip(about["fields"], fields, strict=True) if len(values)}
    frame = pl.DataFrame(columns, strict=False)
    if "name" in frame.columns and usual("path", frame.columns) == ["name"]:
        frame = frame.rename({"name": "path"})  # what GPX and KML call it
    lon, lat = zip(*(point or (None, None) for point in points), strict=True)
    return frame.with_columns(pl.Series("lat", lat, pl.Float64), pl.Series("lon", lon, pl.Float64))


def _moved(file: Path, layer: str, system: str) -> NDArray[Any]:
    """The shapes of a layer in WGS 84, by the SQL of GDAL."""
    import pyogrio

    shape = pyogrio.read_info(file, layer=layer).get("geometry_name") or "geometry"
    name = layer.replace('"', '""')
    try:
        sql = f'SELECT ST_Transform("{shape}", 4326) FROM "{name}"'
        shapes = pyogrio.raw.read(file, sql=sql, sql_dialect="SQLITE")[2]
    except (pyogrio.errors.DataLayerError, pyogrio.errors.DataSourceError, ValueError):  # a GDAL without SpatiaLite
        shapes = None
    if shapes is None or all(found is None for found in shapes):
        raise BadTableError(
            f"{file}: its positions are in {system[:60]}, not in degrees; convert it first: "
            f"ogr2ogr -t_srs EPSG:4326 degrees.gpkg {file.name}"
        )
    note(f"{file}: its positions are in {system[:60]} and are moved to WGS 84")
    return shapes  # type: ignore[no-any-return]


def _values(values: NDArray[Any]) -> list[Any]:
    """A column of GDAL's: text comes as objects, among them None."""
    if values.dtype != object:
        return values.tolist()  # type: ignore[no-any-return]
    return [None if value is None else str(value) for value in values]


def _header(top: pl.DataFrame) -> int | None:
    """The first row that names a latitude, or a column of positions and one of photos."""
    for row in range(top.height):
        names = [str(value) for value in top.row(row) if value is not None]
        if names_positions(names):
            return row
    return None


def _need_extra(module: str, file: Path, kind: str) -> None:
    if find_spec(module) is None:
        raise BadTableError(f"{file} is {kind}; to read it, pip install 'graticule[tables]', or save it as CSV")
