"""What maps of towns show beneath the rest: from a file such as an OpenStreetMap extract, or the photos' own tracks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graticule.errors import BadTableError
from graticule.geo.sphere import great_circle_km
from graticule.photos.columns import is_empty, seconds
from graticule.photos.drives import rebuild_sequences
from graticule.photos.table import Photos
from graticule.reporting.labels import Basemap, Name

Floats = NDArray[np.float64]
Columns = Mapping[str, NDArray[Any]]
STEP_KM = 0.08  # photos of one drive that are no farther apart are joined: there is a street between them
LEAST_PHOTOS = 5  # of a drive; two or three photos in a row would be a scratch on the map
MARGIN_DEG = 0.05  # around the photos
MERCATOR_M = 6378137.0  # of EPSG:3857, in which tiles are stored
WATER = ("water", "ocean", "lake", "sea", "river", "reservoir", "bay", "riverbank", "basin", "dock", "canal", "stream")
OTHER_LINES = ("boundar", "admin", "contour", "rail", "barrier", "power", "building")  # parts of the names of layers
PLACES = {"city": 0, "town": 1, "village": 2, "borough": 2, "suburb": 3, "quarter": 4, "neighbourhood": 5,
          "neighborhood": 5, "hamlet": 5, "locality": 5}  # fmt: skip
SHOWN = ("name", "highway", "waterway", "natural", "landuse", "water",
         "place", "kind_detail", "kind", "class", "fclass", "type")  # fmt: skip
RANKED = SHOWN[6:]  # columns that may say how large a place is
EXTRACT = ("lines", "multipolygons", "points")  # layers in which GDAL gives OpenStreetMap; it parses all for each


def tracks_of(photos: Photos) -> Basemap:
    """The ways between photos that follow one another in a sequence, or in one rebuilt from times and positions; a
    drive of fewer than ``LEAST_PHOTOS`` shows no street, and each of its photos is a line of one point.
    """
    code = rebuild_sequences(photos) if is_empty(photos, "sequence") else photos.groups("sequence")
    order = np.lexsort((np.arange(len(photos)), seconds(photos), code))
    lat, lon, code = photos.lat[order], photos.lon[order], code[order]
    near = great_circle_km(lat[:-1], lon[:-1], lat[1:], lon[1:]) <= STEP_KM
    joined = near & (code[1:] == code[:-1])
    drive = np.cumsum(np.append(0, ~joined))
    joined &= np.bincount(drive)[drive[1:]] >= LEAST_PHOTOS
    ends = np.flatnonzero(~joined) + 1
    return Basemap(np.insert(lat, ends, np.nan), np.insert(lon, ends, np.nan))


def read_basemap(file: Path, lat: Floats, lon: Floats) -> Basemap:
    """Streets, water and names around positions, of an OpenStreetMap extract, vector tiles, or any map file.

    What is a street, water or a place is told by OpenStreetMap's keys where the file has them, else by the names of
    its layers. A file of areas alone gives their rims.

    Args:
        file: what GDAL reads: .osm.pbf, PMTiles, GeoPackage, GeoJSON, a shapefile.

    Raises:
        BadTableError: no such file, one that cannot be read, is not in degrees, or has no line there.
    """
    if not file.exists():
        raise BadTableError(f"there is no file {file}; --basemap takes an OpenStreetMap extract, PMTiles or GeoPackage")
    try:
        import pyogrio
    except ImportError as error:
        raise BadTableError(f"reading {file} needs one more library: pip install 'graticule[tables]'") from error
    import shapely

    streets, creeks, water, rims = [], [], [], []  # shapes
    lines: dict[str, list[Any]] = {}  # by name
    names: list[Name] = []
    try:
        for layer in EXTRACT if _is_extract(file) else pyogrio.list_layers(file)[:, 0]:
            shapes, columns = _read(file, layer, lat, lon)
            kind = shapely.get_type_id(shapes)
            line, area, point = np.isin(kind, (1, 5)), np.isin(kind, (3, 6)), kind == 0
            wet = _is_water(layer, columns, len(shapes))
            street = line & ~wet & _is_street(layer, columns, len(shapes))
            streets += list(shapes[street])
            creeks += list(shapes[line & wet])
            water += list(shapes[area & wet])
            rims += list(shapes[area & ~wet])
            texts = columns.get("name", np.full(len(shapes), None))
            named = np.array([bool(text) for text in texts], bool)
            for text in sorted(set(texts[named & line & (street | wet)])):
                lines.setdefault(text, []).extend(shapes[named & line & (texts == text)])
            for row in np.flatnonzero(named & point):
                if (rank := _rank(layer, columns, int(row))) is not None:
                    names.append(Name(texts[row], np.array([shapes[row].y]), np.array([shapes[row].x]), rank))
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
        raise BadTableError(f"{file} cannot be read as a map: it is damaged or of another kind") from error
    found = _ways(streets or creeks or water or rims)
    if not len(found[0]):
        raise BadTableError(f"{file} has no streets around these photos; is it of another region?")
    names += [Name(text, *_ways(parts)) for text, parts in lines.items()]
    outlines = [
        [np.asarray(ring.coords)[:, :2] for ring in (whole.exterior, *whole.interiors)]
        for whole in shapely.get_parts(np.array(water, object))
        if not whole.is_empty
    ]
    return Basemap(*found, outlines, _ways(creeks), names)


def _read(file: Path, layer: str, lat: Floats, lon: Floats) -> tuple[NDArray[Any], Columns]:
    """The shapes of a layer around positions, in degrees, and the columns that say what they are."""
    import pyogrio
    import shapely

    crs = None if _is_extract(file) else pyogrio.read_info(file, layer=layer)["crs"]
    mercator = crs == "EPSG:3857"
    if crs not in (None, "EPSG:4326", "OGC:CRS84", "EPSG:3857"):
        raise BadTableError(
            f"{file} is in {crs}, not in degrees; convert it first: ogr2ogr -t_srs EPSG:4326 degrees.gpkg {file.name}"
        )
    low, high = (lon.min() - MARGIN_DEG, lat.min() - MARGIN_DEG), (lon.max() + MARGIN_DEG, lat.max() + MARGIN_DEG)
    box = (*_mercator(*low), *_mercator(*high)) if mercator else (*low, *high)
    read, _, shapes, fields = pyogrio.raw.read(file, layer=layer, columns=SHOWN, bbox=box)
    found = shapely.from_wkb(shapes)
    if mercator:
        found = shapely.transform(found, _degrees)
    return found, dict(zip(read["fields"].tolist(), fields, strict=True))


def _is_extract(file: Path) -> bool:
    return file.suffix.lower() in (".pbf", ".osm")


def _mercator(lon: float, lat: float) -> tuple[float, float]:
    """Snyder, "Map Projections: A Working Manual" (1987), equations 7-1 and 7-2."""
    return MERCATOR_M * np.radians(lon), MERCATOR_M * np.arctanh(np.sin(np.radians(lat)))


def _degrees(metres: Floats) -> Floats:
    """The inverse: equations 7-4 and 7-5, rows of lon, lat."""
    x, y = metres.T / MERCATOR_M
    found: Floats = np.degrees(np.column_stack([x, np.arctan(np.sinh(y))]))
    return found


def _ways(shapes: Any) -> tuple[Floats, Floats]:
    """Latitudes and longitudes of lines, or of the rims of areas, with a NaN after each; what touches is joined."""
    import shapely

    parts = shapely.get_parts(np.asarray(shapes, object))
    rings = shapely.get_type_id(parts) == 3
    rims = shapely.boundary(parts[rings])
    merged = shapely.line_merge(shapely.multilinestrings(parts[~rings]))
    parts = shapely.get_parts(np.append(rims, merged))
    points, line = shapely.get_coordinates(parts, return_index=True)
    ends = np.flatnonzero(np.diff(line)) + 1
    return np.insert(points[:, 1], ends, np.nan), np.insert(points[:, 0], ends, np.nan)


def _is_water(layer: str, columns: Columns, count: int) -> NDArray[np.bool_]:
    """By OpenStreetMap's keys, by the class of a tile's feature, or by the layer's name."""
    found = np.zeros(count, bool)
    if "waterway" in columns:  # of OpenStreetMap's lines, where a dam is one too
        found |= np.isin(columns["waterway"].astype(str), ("river", "stream", "canal"))
    for key in ("natural", "landuse", "water", "class", "kind", "fclass", "type"):
        if key in columns:
            found |= np.isin(columns[key].astype(str), WATER)
    named = any(word in layer.lower() for word in ("water", "ocean", "lake", "river"))
    return found | named


def _is_street(layer: str, columns: Columns, count: int) -> NDArray[np.bool_]:
    if "highway" in columns:
        return np.array([bool(value) for value in columns["highway"]], bool)
    return np.full(count, not any(word in layer.lower() for word in OTHER_LINES))


def _rank(layer: str, columns: Columns, row: int) -> int | None:
    """How large a place a point is: 0 for a city; None where it is no place."""
    said = [str(columns[key][row]) for key in RANKED if key in columns]
    known = [PLACES[word] for word in said if word in PLACES]
    return known[0] if known else 4 if "place" in layer.lower() else None
