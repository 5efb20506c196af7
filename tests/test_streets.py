"""Maps of towns have streets: from a file, or from the photos' own tracks."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from matplotlib.figure import Figure

from graticule.errors import BadTableError
from graticule.partition import CellPartition
from graticule.photos.table import Photos
from graticule.reporting import figures
from graticule.reporting.streets import read_basemap, tracks_of

LAT = 47.5 + np.arange(12) * 0.0005  # 56 m from one to the next


def table(**columns):
    return Photos(
        pl.DataFrame({"path": [f"{i}.jpg" for i in range(12)], "lat": LAT, "lon": [8.7] * 12} | columns), Path()
    )


def test_photos_that_follow_one_another_in_a_sequence_are_a_street():
    lat, lon = tracks_of(table(sequence=["a"] * 6 + ["b"] * 6))
    assert np.isnan(lat).tolist() == [False] * 6 + [True] + [False] * 6
    assert lon[0] == 8.7
    shuffled = np.random.default_rng(0).permutation(12)
    times = [f"2024-05-01 12:00:{i:02}" for i in range(12)]
    mixed = table(captured_at=times).take(shuffled)
    np.testing.assert_allclose(tracks_of(mixed)[0], LAT)  # by their times, in whatever order they stand


def test_a_few_photos_in_a_row_are_dots_and_no_street():
    lat, _ = tracks_of(table(sequence=["a"] * 2 + ["b"] * 3 + ["c"] * 7))
    assert np.isnan(lat).tolist() == [False, True] * 5 + [False] * 7


def test_streets_are_drawn_close_up_and_borders_far_off():
    for scale, kind in ((1.0, "streets"), (300.0, "country")):
        lat, lon = 47 + (LAT - 47.5) * scale, 8.7 + (LAT - 47.5) * scale
        partition = CellPartition.fit(lat, lon, split_above=5, drop_below=1)
        figure: Figure = figures.cells_map(partition, title="", streets=(lat, lon))
        drawn = {line.get_gid() for line in figure.axes[0].lines}
        assert kind in drawn
        assert len(drawn & {"streets", "country"}) == 1


def test_a_map_file_gives_the_lines_around_the_photos(tmp_path):
    pyogrio, shapely = pytest.importorskip("pyogrio"), pytest.importorskip("shapely")
    near, far = [(8.69, 47.5), (8.71, 47.5), (8.71, 47.51)], [(100, 0), (101, 1)]
    shapes = shapely.to_wkb([shapely.LineString(near), shapely.LineString(far)])
    file = tmp_path / "streets.gpkg"
    pyogrio.raw.write(file, np.array(shapes, object), [], [], geometry_type="LineString", crs="EPSG:4326")
    lat, lon = read_basemap(file, LAT, np.full(12, 8.7))
    assert list(zip(lon, lat, strict=True)) == near
    with pytest.raises(BadTableError, match="another region"):
        read_basemap(file, LAT - 20, np.full(12, 8.7))
    (tmp_path / "x.gpkg").write_text("no map")
    with pytest.raises(BadTableError, match="cannot be read as a map"):
        read_basemap(tmp_path / "x.gpkg", LAT, LAT)
    with pytest.raises(BadTableError, match="there is no file"):
        read_basemap(tmp_path / "none.pbf", LAT, LAT)


def test_an_openstreetmap_extract_is_read(tmp_path):
    pytest.importorskip("pyogrio")
    nodes = "".join(f'<node id="{i}" lat="{47.5 + i / 1000}" lon="8.7" version="1"/>' for i in range(1, 4))
    way = '<way id="9" version="1"><nd ref="1"/><nd ref="2"/><nd ref="3"/><tag k="highway" v="residential"/></way>'
    (tmp_path / "town.osm").write_text(f'<?xml version="1.0"?><osm version="0.6">{nodes}{way}</osm>')
    lat, _ = read_basemap(tmp_path / "town.osm", LAT, np.full(12, 8.7))
    np.testing.assert_allclose(lat, [47.501, 47.502, 47.503])
