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
from graticule.reporting.labels import Basemap
from graticule.reporting.streets import read_basemap, tracks_of

LAT = 47.5 + np.arange(12) * 0.0005  # 56 m from one to the next


def table(**columns):
    return Photos(
        pl.DataFrame({"path": [f"{i}.jpg" for i in range(12)], "lat": LAT, "lon": [8.7] * 12} | columns), Path()
    )


def test_photos_that_follow_one_another_in_a_sequence_are_a_street():
    drawn = tracks_of(table(sequence=["a"] * 6 + ["b"] * 6))
    lat, lon = drawn.lat, drawn.lon
    assert np.isnan(lat).tolist() == [False] * 6 + [True] + [False] * 6
    assert lon[0] == 8.7
    shuffled = np.random.default_rng(0).permutation(12)
    times = [f"2024-05-01 12:00:{i:02}" for i in range(12)]
    mixed = table(captured_at=times).take(shuffled)
    np.testing.assert_allclose(tracks_of(mixed).lat, LAT)  # by their times, in whatever order they stand


def test_a_few_photos_in_a_row_are_dots_and_no_street():
    lat = tracks_of(table(sequence=["a"] * 2 + ["b"] * 3 + ["c"] * 7)).lat
    assert np.isnan(lat).tolist() == [False, True] * 5 + [False] * 7


def test_streets_are_drawn_close_up_and_borders_far_off():
    for scale, kind in ((1.0, "streets"), (300.0, "country")):
        lat, lon = 47 + (LAT - 47.5) * scale, 8.7 + (LAT - 47.5) * scale
        partition = CellPartition.fit(lat, lon, split_above=5, drop_below=1)
        figure: Figure = figures.cells_map(partition, title="", streets=Basemap(lat, lon))
        drawn = {line.get_gid() for line in figure.axes[0].lines}
        assert kind in drawn
        assert len(drawn & {"streets", "country"}) == 1


def test_a_map_file_gives_the_lines_around_the_photos(tmp_path):
    pyogrio, shapely = pytest.importorskip("pyogrio"), pytest.importorskip("shapely")
    near, far = [(8.69, 47.5), (8.71, 47.5), (8.71, 47.51)], [(100, 0), (101, 1)]
    shapes = shapely.to_wkb([shapely.LineString(near), shapely.LineString(far)])
    file = tmp_path / "streets.gpkg"
    pyogrio.raw.write(file, np.array(shapes, object), [], [], geometry_type="LineString", crs="EPSG:4326")
    drawn = read_basemap(file, LAT, np.full(12, 8.7))
    assert list(zip(drawn.lon, drawn.lat, strict=True)) == near
    with pytest.raises(BadTableError, match="another region"):
        read_basemap(file, LAT - 20, np.full(12, 8.7))
    (tmp_path / "x.gpkg").write_text("no map")
    with pytest.raises(BadTableError, match="cannot be read as a map"):
        read_basemap(tmp_path / "x.gpkg", LAT, LAT)
    with pytest.raises(BadTableError, match="there is no file"):
        read_basemap(tmp_path / "none.pbf", LAT, LAT)


def town(file):
    """A small town as OpenStreetMap's own library writes it."""
    osmium = pytest.importorskip("osmium")
    count = iter(range(1, 10_000))
    with osmium.SimpleWriter(str(file)) as out:

        def node(x, y, **tags):
            number = next(count)
            spot = (8.7 + x / 1000, 47.5 + y / 1000)
            out.add_node(osmium.osm.mutable.Node(id=number, version=1, location=spot, tags=tags))
            return number

        ways = [([node(x, y) for x in range(-6, 7)], {"highway": "residential", "name": f"Street {y}"})
                for y in range(-4, 5)]  # fmt: skip
        ways += [([node(x, y) for y in range(-5, 6)], {"highway": "primary", "name": f"Way {x}"}) for x in (-5, 5)]
        lake = [node(x, y) for x, y in ((1, 1.5), (3, 1.5), (3, 3.5), (1, 3.5))]
        island = [node(x, y) for x, y in ((1.5, 2), (2.5, 2), (2.5, 3))]
        ways += [([*lake, lake[0]], {"natural": "water"}), ([*island, island[0]], {"building": "yes"})]
        ways += [([node(-6, y) for y in (-5, 5)], {"waterway": "river", "name": "Ache"}),
                 ([node(7, y) for y in (-5, 5)], {"barrier": "wall"})]  # fmt: skip
        node(0, 0, place="town", name="Town")
        node(0.01, 0.01, place="suburb", name="Old Town")
        node(0, 2, amenity="cafe", name="Corner")
        for nodes, tags in ways:
            out.add_way(osmium.osm.mutable.Way(id=next(count), version=1, nodes=nodes, tags=tags))
    return file


def test_streets_water_and_names_of_an_extract_are_drawn_and_no_words_lie_over_others(tmp_path):
    pytest.importorskip("pyogrio")
    base = read_basemap(town(tmp_path / "town.osm.pbf"), LAT, np.full(12, 8.7))
    assert len(base.water) == 1
    assert base.creeks[1][~np.isnan(base.creeks[1])].tolist() == [8.694, 8.694]
    assert 8.707 not in base.lon.round(6)  # a wall is no street
    assert {name.text for name in base.names} == {
        "Town", "Old Town", "Ache", "Way -5", "Way 5", *(f"Street {y}" for y in range(-4, 5))
    }  # fmt: skip
    lat, lon = 47.5 + np.random.default_rng(0).normal(0, 0.002, (2, 200)) + [[0], [8.7 - 47.5]]
    partition = CellPartition.fit(lat, lon, split_above=50, drop_below=1)
    figure = figures.cells_map(partition, title="", streets=base)
    figure.canvas.draw()
    words = [text for text in figure.axes[0].texts if text.get_gid() == "name"]
    shown = {text.get_text() for text in words}
    assert "Town" in shown
    assert "Old Town" not in shown  # a smaller place on the same spot
    assert "Street 1" in shown
    boxes = [text.get_window_extent() for text in words]
    frame = figure.axes[0].get_window_extent()
    assert all(frame.contains(*box.p0) and frame.contains(*box.p1) for box in boxes)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert {"water", "streets"} <= {each.get_gid() for each in figure.axes[0].get_children()}


def test_vector_tiles_in_metres_are_laid_on_degrees(tmp_path):
    pyogrio, shapely = pytest.importorskip("pyogrio"), pytest.importorskip("shapely")
    if "w" not in pyogrio.list_drivers().get("PMTiles", ""):
        pytest.skip("this GDAL writes no PMTiles")
    shapes = shapely.to_wkb([shapely.LineString([(8.69, 47.5), (8.71, 47.51)])])
    options = {"driver": "PMTiles", "layer": "roads", "MINZOOM": 12, "MAXZOOM": 14}
    file = tmp_path / "town.pmtiles"
    pyogrio.raw.write(
        file, np.array(shapes, object), [np.array(["High Street"], object)], ["name"],
        geometry_type="LineString", crs="EPSG:4326", **options,
    )  # fmt: skip
    base = read_basemap(file, LAT, np.full(12, 8.7))
    assert [name.text for name in base.names] == ["High Street"]
    known = ~np.isnan(base.lat)
    np.testing.assert_allclose(base.lat[known], 47.5 + (base.lon[known] - 8.69) / 2, atol=2e-5)


def test_an_openstreetmap_extract_is_read(tmp_path):
    pytest.importorskip("pyogrio")
    nodes = "".join(f'<node id="{i}" lat="{47.5 + i / 1000}" lon="8.7" version="1"/>' for i in range(1, 4))
    way = '<way id="9" version="1"><nd ref="1"/><nd ref="2"/><nd ref="3"/><tag k="highway" v="residential"/></way>'
    (tmp_path / "town.osm").write_text(f'<?xml version="1.0"?><osm version="0.6">{nodes}{way}</osm>')
    drawn = read_basemap(tmp_path / "town.osm", LAT, np.full(12, 8.7))
    np.testing.assert_allclose(drawn.lat, [47.501, 47.502, 47.503])
