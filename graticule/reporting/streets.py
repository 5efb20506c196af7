"""Streets for maps of towns: from a file such as an OpenStreetMap extract, or from the photos' own tracks."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from graticule.errors import BadTableError
from graticule.geo.sphere import great_circle_km
from graticule.photos.columns import is_empty, seconds
from graticule.photos.drives import rebuild_sequences
from graticule.photos.table import Photos

Floats = NDArray[np.float64]
Lines = tuple[Floats, Floats]  # lat, lon in degrees, with a NaN after each line, as of graticule.geo.borders.lines
STEP_KM = 0.08  # photos of one drive that are no farther apart are joined: there is a street between them
LEAST_PHOTOS = 5  # of a drive; two or three photos in a row would be a scratch on the map
MARGIN_DEG = 0.05  # around the photos


def tracks_of(photos: Photos) -> Lines:
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
    return np.insert(lat, ends, np.nan), np.insert(lon, ends, np.nan)


def read_basemap(file: Path, lat: Floats, lon: Floats) -> Lines:
    """The lines of a map around positions: streets, railways and rivers of an OpenStreetMap extract, or all of a file.

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

    box = (lon.min() - MARGIN_DEG, lat.min() - MARGIN_DEG, lon.max() + MARGIN_DEG, lat.max() + MARGIN_DEG)
    found = []
    try:
        for layer, kind in pyogrio.list_layers(file):
            if kind and "Point" in kind:
                continue
            extract = file.suffix.lower() in (".pbf", ".osm")
            if extract and layer != "lines":
                continue
            about, _, shapes, _ = pyogrio.raw.read(file, layer=layer, columns=[], bbox=box)
            if about["crs"] not in (None, "EPSG:4326", "OGC:CRS84"):
                raise BadTableError(
                    f"{file} is in {about['crs']}, not in degrees; convert it first: "
                    f"ogr2ogr -t_srs EPSG:4326 degrees.gpkg {file.name}"
                )
            found += list(shapes)
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
        raise BadTableError(f"{file} cannot be read as a map: it is damaged or of another kind") from error
    lines = shapely.get_parts(shapely.from_wkb(found))
    lines = lines[np.isin(shapely.get_type_id(lines), (1, 3))]  # lines and polygons, whose rims are lines
    points, line = shapely.get_coordinates(lines, return_index=True)
    if not len(points):
        raise BadTableError(f"{file} has no streets around these photos; is it of another region?")
    ends = np.flatnonzero(np.diff(line)) + 1
    return np.insert(points[:, 1], ends, np.nan), np.insert(points[:, 0], ends, np.nan)
