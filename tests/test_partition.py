"""The partition against PlaNet written once more, plainly, with s2geometry's cells and Python's integers."""

from bisect import bisect_left, bisect_right
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import s2geometry
from typer.testing import CliRunner

from graticule.cli import app
from graticule.errors import BadCoordinateError, BadRecipeError, BadTableError, WriteError
from graticule.geo import s2
from graticule.geo.sphere import great_circle_km, spherical_mean
from graticule.partition import NO_CELL, CellPartition, read_partition
from graticule.partition.stream import fit_batches
from graticule.photos.table import point_batches

COORDINATES = Path(__file__).parents[1] / ".." / "shared" / "data" / "coordinates"
FILES = sorted(COORDINATES.glob("*.csv")) or [
    pytest.param(Path("none"), marks=pytest.mark.skip(reason="the real data is not on this machine"))
]
FACES = [s2geometry.S2CellId.FromFacePosLevel(face, 0, 0) for face in range(6)]
HERE, FAR = (48.8566, 2.3522), (-33.86, 151.21)


@cache
def positions(path):
    table = pl.read_csv(path, columns=["lat", "lon"])
    return table["lat"].to_numpy(), table["lon"].to_numpy()


def leaf(lat, lon):
    return s2geometry.S2CellId(s2geometry.S2LatLng.FromDegrees(lat, lon))


@cache
def sorted_leaves(path):
    return sorted(leaf(*point).id() for point in zip(*(side.tolist() for side in positions(path)), strict=True))


def plain_planet(leaves, split_above, drop_below, max_level):
    """Cell id to number of photos, by the words of the paper."""

    def grow(cell):
        photos = bisect_right(leaves, cell.range_max().id()) - bisect_left(leaves, cell.range_min().id())
        if photos > split_above and cell.level() < max_level:
            for n in range(4):
                grow(cell.child(n))
        elif photos >= drop_below:
            kept[cell.id()] = photos

    kept = {}
    for face in FACES:
        grow(face)
    return kept


def plain_nested(leaves, split_above, drop_below, max_level):
    """Cell id to number of photos, as report A counts: every photo at every level."""
    markers = [1 << 2 * (30 - level) for level in range(max_level + 1)]
    counts = Counter(one & -marker | marker for one in leaves for marker in markers)
    return {cell: photos for cell, photos in counts.items() if drop_below <= photos <= split_above}


def plain_assign(cells, lat, lon):
    """Row of the first kept cell on the way up from each leaf."""
    row_of = {cell: row for row, cell in enumerate(cells.tolist())}
    rows = []
    for point in zip(lat.tolist(), lon.tolist(), strict=True):
        ways_up = (leaf(*point).parent(level).id() for level in range(30, -1, -1))
        rows.append(next((row_of[cell] for cell in ways_up if cell in row_of), NO_CELL))
    return rows


def cells_of(partition):
    return dict(zip(partition.cells.tolist(), partition.photos.tolist(), strict=True))


def towns(n, seed=0):
    """Clustered points, some of them on top of each other, some at the poles and on the antimeridian."""
    rng = np.random.default_rng(seed)
    centers = np.degrees(np.arcsin(rng.uniform(-1, 1, 20))), rng.uniform(-180, 180, 20)
    town, spread = rng.integers(0, 20, n), 10 ** rng.uniform(-6, 1, n)
    lat = np.clip(centers[0][town] + spread * rng.standard_normal(n), -90, 90)
    lon = np.clip(centers[1][town] + spread * rng.standard_normal(n), -180, 180)
    lat[:40], lon[40:80] = [90, -90] * 20, [180, -180] * 20
    lat[80:120], lon[80:120] = HERE
    return lat, lon


@pytest.fixture(scope="module")
def world():
    lat, lon = towns(5000)
    return lat, lon, CellPartition.fit(lat, lon, split_above=100, drop_below=10)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
@pytest.mark.parametrize(
    "settings",
    [(1000, 50, 18), (100, 20, 30), (10_000, 1000, 30), (200, 200, 10), (50, 1, 5), (5, 1, 30), (10, 1, 0)],
    ids=str,
)
def test_the_partition_of_real_positions_is_planets(path, settings):
    split_above, drop_below, max_level = settings
    expected = plain_planet(sorted_leaves(path), *settings)
    lat, lon = positions(path)
    recipe = {"split_above": split_above, "drop_below": drop_below, "max_level": max_level}
    if not expected:
        with pytest.raises(BadRecipeError, match="no cell holds at least"):
            CellPartition.fit(lat, lon, **recipe)
    else:
        assert cells_of(CellPartition.fit(lat, lon, **recipe)) == expected


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("keep", ["planet", "nested"])
def test_the_partition_of_random_positions_is_the_plain_one(seed, keep):
    rng = np.random.default_rng(seed)
    lat, lon = towns(1000, seed)
    leaves = sorted(leaf(*point).id() for point in zip(lat.tolist(), lon.tolist(), strict=True))
    split_above = int(rng.integers(5, 300))
    drop_below = int(rng.integers(1, min(split_above, 60) + 1))
    max_level = int(rng.integers(4, 31))
    plain = plain_planet if keep == "planet" else plain_nested
    partition = CellPartition.fit(
        lat, lon, split_above=split_above, drop_below=drop_below, max_level=max_level, keep=keep
    )
    assert cells_of(partition) == plain(leaves, split_above, drop_below, max_level)
    assert partition.assign(lat, lon).tolist() == plain_assign(partition.cells, lat, lon)


@pytest.mark.parametrize(
    ("photos", "settings", "level"),
    [
        pytest.param(10, (10, 1, 30), 0, id="exactly split_above is not split"),
        pytest.param(11, (10, 1, 30), 30, id="one more is split, down to the last level"),
        pytest.param(11, (10, 1, 7), 7, id="max_level stops splitting"),
        pytest.param(11, (10, 1, 0), 0, id="max_level 0 keeps whole faces"),
        pytest.param(5, (10, 5, 30), 0, id="exactly drop_below is kept"),
        pytest.param(11, (10, 10, 3), 3, id="at max_level a cell may hold more than split_above"),
    ],
)
def test_the_words_at_the_boundary(photos, settings, level):
    split_above, drop_below, max_level = settings
    lat, lon = np.full(photos, HERE[0]), np.full(photos, HERE[1])
    partition = CellPartition.fit(lat, lon, split_above=split_above, drop_below=drop_below, max_level=max_level)
    assert cells_of(partition) == {leaf(*HERE).parent(level).id(): photos}
    assert partition.level.tolist() == [level]


def test_one_photo_fewer_than_drop_below_is_dropped():
    lat, lon = np.array([HERE] * 10 + [FAR] * 9).T
    partition = CellPartition.fit(lat, lon, split_above=100, drop_below=10)
    assert cells_of(partition) == {leaf(*HERE).parent(0).id(): 10}
    assert partition.assign(lat, lon).tolist() == [0] * 10 + [NO_CELL] * 9


@pytest.mark.skipif(not COORDINATES.exists(), reason="the real data is not on this machine")
def test_the_nested_form_keeps_the_cells_that_report_a_keeps():
    lat, lon = positions(COORDINATES / "daejeon_database.csv")
    recipe = {"split_above": 2000, "drop_below": 200}
    nested = CellPartition.fit(lat, lon, keep="nested", **recipe)
    assert cells_of(nested) == plain_nested(sorted_leaves(COORDINATES / "daejeon_database.csv"), 2000, 200, 30)
    rows = nested.assign(lat, lon)
    assert (len(nested), len(set(rows.tolist()) - {NO_CELL})) == (111, 97)  # the figures of PEERS.md
    assert len(CellPartition.fit(lat, lon, **recipe)) == 34


def test_a_cell_stands_at_the_mean_of_its_photos(world):
    lat, lon, partition = world
    rows = partition.assign(lat, lon)
    for row in range(len(partition)):
        expected = spherical_mean(lat[rows == row], lon[rows == row])
        assert great_circle_km(*expected, partition.lat[row], partition.lon[row]) < 1e-8
    assert np.bincount(rows[rows >= 0]).tolist() == partition.photos.tolist()


def test_a_nested_cell_stands_at_the_mean_of_all_photos_inside():
    lat, lon = towns(3000)
    partition = CellPartition.fit(lat, lon, split_above=500, drop_below=20, keep="nested")
    leaves = s2.leaf_cells(lat, lon)
    for row, cell in enumerate(partition.cells):
        inside = (leaves >= s2.range_min(cell)) & (leaves <= s2.range_max(cell))
        assert inside.sum() == partition.photos[row]
        expected = spherical_mean(lat[inside], lon[inside])
        assert great_circle_km(*expected, partition.lat[row], partition.lon[row]) < 1e-8


def test_the_order_of_the_photos_does_not_matter(world):
    lat, lon, partition = world
    again = CellPartition.fit(lat[::-1], lon[::-1], split_above=100, drop_below=10)
    assert cells_of(again) == cells_of(partition)
    np.testing.assert_allclose((again.lat, again.lon), (partition.lat, partition.lon), atol=1e-10)


def test_assign_finds_the_cell_of_points_anywhere_and_keeps_their_shape(world):
    *_, partition = world
    rng = np.random.default_rng(1)
    lat, lon = np.degrees(np.arcsin(rng.uniform(-1, 1, 2000))), rng.uniform(-180, 180, 2000)
    rows = partition.assign(lat.reshape(20, 100), lon.reshape(20, 100))
    assert rows.ravel().tolist() == plain_assign(partition.cells, lat, lon)
    assert (rows.shape, rows.dtype) == ((20, 100), np.int64)
    assert partition.assign(*HERE).shape == ()


@pytest.mark.parametrize("keep", ["planet", "nested"])
def test_assign_knows_the_first_and_the_last_leaf_of_every_cell(keep):
    partition = CellPartition.fit(*towns(5000), split_above=300, drop_below=10, keep=keep)
    row_of = {cell: row for row, cell in enumerate(partition.cells.tolist())}
    first, last = s2.range_min(partition.cells), s2.range_max(partition.cells)
    before, behind = (
        first[first > 1] - np.uint64(2),
        last[last < s2.range_max(s2.face_cells())[-1]] + np.uint64(2),
    )
    for leaves in (first, last, before, behind):
        expected = [
            next(
                (row_of[up] for level in range(30, -1, -1) if (up := cell.parent(level).id()) in row_of),
                NO_CELL,
            )
            for cell in map(s2geometry.S2CellId, leaves.tolist())
        ]
        assert partition.assign_leaves(leaves).tolist() == expected


@pytest.mark.parametrize("row", range(6))
def test_a_partition_of_one_face_has_everything_else_outside(row):
    face = s2.face_cells()[row : row + 1]
    partition = CellPartition(face, np.array([1]), np.zeros(1), np.zeros(1))
    all_faces = np.concatenate([s2.range_min(s2.face_cells()), s2.range_max(s2.face_cells())])
    expected = [0 if face == row else NO_CELL for face in [*range(6), *range(6)]]
    assert partition.assign_leaves(all_faces).tolist() == expected


@pytest.mark.parametrize("keep", ["planet", "nested"])
def test_a_partition_read_back_is_the_one_written(tmp_path, keep):
    lat, lon = towns(5000)
    partition = CellPartition.fit(lat, lon, split_above=100, drop_below=10, keep=keep)
    assert (partition.cells > np.uint64(2**63)).any()
    partition.write(tmp_path / "cells.parquet")
    again = read_partition(tmp_path / "cells.parquet")
    for name in ("cells", "photos", "lat", "lon"):
        np.testing.assert_array_equal(getattr(again, name), getattr(partition, name))
        assert getattr(again, name).dtype == getattr(partition, name).dtype
        assert getattr(again, name).flags.writeable  # torch warns of arrays that are not
    np.testing.assert_array_equal(again.assign(lat, lon), partition.assign(lat, lon))


def test_the_file_has_the_promised_columns(tmp_path, world):
    *_, partition = world
    partition.write(tmp_path / "cells.parquet")
    table = pl.read_parquet(tmp_path / "cells.parquet")
    assert table.schema == {
        "cell": pl.UInt64,
        "token": pl.String,
        "level": pl.Int64,
        "photos": pl.Int64,
        "lat": pl.Float64,
        "lon": pl.Float64,
        "center_lat": pl.Float64,
        "center_lon": pl.Float64,
    }
    assert table["cell"].is_sorted()
    assert [s2geometry.S2CellId.FromToken(token).id() for token in table["token"]] == table["cell"].to_list()
    np.testing.assert_array_equal(table["center_lat"], partition.center_lat)
    np.testing.assert_array_equal(table["center_lon"], partition.center_lon)


def test_a_failed_write_says_so_and_leaves_nothing(tmp_path, world):
    *_, partition = world
    (tmp_path / "cells.parquet").mkdir()
    with pytest.raises(WriteError, match="cannot be written"):
        partition.write(tmp_path / "cells.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["cells.parquet"]


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        pytest.param({"cell": None}, "has no column cell; it has photos, lat, lon", id="no cell"),
        pytest.param({"cell": pl.Int64}, "cells must be uint64, got int64", id="signed cells"),
        pytest.param({"lat": pl.Float32}, "lat must be float64, got float32", id="float32"),
    ],
)
def test_a_file_without_cells_is_refused(tmp_path, columns, sentence):
    table = pl.DataFrame({"cell": [1 << 60], "photos": [3], "lat": [0.0], "lon": [0.0]})
    table = table.cast({"cell": pl.UInt64}).cast({name: dtype for name, dtype in columns.items() if dtype})
    table.drop([name for name, dtype in columns.items() if not dtype]).write_parquet(tmp_path / "cells.parquet")
    with pytest.raises(BadTableError, match=sentence):
        read_partition(tmp_path / "cells.parquet")


def test_a_file_that_is_missing_or_no_parquet_is_refused(tmp_path):
    with pytest.raises(BadTableError, match="cannot be read as a Parquet file of cells"):
        read_partition(tmp_path / "none.parquet")
    (tmp_path / "cells.parquet").write_text("cell,lat,lon\n")
    with pytest.raises(BadTableError, match="make one with 'graticule cells'"):
        read_partition(tmp_path / "cells.parquet")


@pytest.mark.parametrize(
    ("recipe", "sentence"),
    [
        ({"drop_below": 11}, "drop_below=11 exceeds split_above=10"),
        ({"split_above": 0}, "split_above=0 would split for ever"),
        ({"drop_below": 0}, "drop_below=0 would keep cells without photos"),
        ({"max_level": 31}, "max_level=31 does not exist; S2 levels run from 0 to 30"),
        ({"max_level": -1}, "max_level=-1 does not exist"),
        ({"keep": "all"}, "keep='all' is unknown; valid are 'planet' and 'nested'"),
    ],
)
def test_settings_that_contradict_are_refused(recipe, sentence):
    with pytest.raises(BadRecipeError, match=sentence):
        CellPartition.fit([0], [0], **{"split_above": 10, "drop_below": 1} | recipe)


@pytest.mark.parametrize(
    ("recipe", "sentence"),
    [
        (
            {"drop_below": 50},
            "of 20 photos no cell holds at least drop_below=50: the fullest holds 12, so drop",
        ),
        (
            {"drop_below": 9, "split_above": 11, "keep": "nested"},
            "the fullest holds 8, so drop_below=8 would",
        ),
        (
            {"drop_below": 1, "split_above": 5, "keep": "nested"},
            "each holds more than split_above=5; raise split_above or max_level",
        ),
    ],
)
def test_a_partition_without_cells_is_refused_with_what_would_do(recipe, sentence):
    lat, lon = np.array([HERE] * 12 + [FAR] * 8).T
    with pytest.raises(BadRecipeError, match=sentence):
        CellPartition.fit(lat, lon, **{"split_above": 100} | recipe)


def test_no_photos_and_photos_off_the_globe_are_refused():
    with pytest.raises(BadTableError, match="there are no photos to grow cells from"):
        CellPartition.fit([], [], split_above=10, drop_below=1)
    with pytest.raises(BadCoordinateError, match="lat=95"):
        CellPartition.fit([95.0], [0.0], split_above=10, drop_below=1)


FACE = np.uint64(1 << 60)


@pytest.mark.parametrize(
    ("values", "error", "sentence"),
    [
        ({"cells": np.array([1], np.int64)}, TypeError, "cells must be uint64, got int64"),
        ({"photos": np.array([1.0])}, TypeError, "photos must be int64, got float64"),
        ({"lat": np.zeros(2)}, ValueError, "must share one shape"),
        ({"cells": np.array([2], np.uint64)}, ValueError, "0x0000000000000002 is not the id of an S2 cell"),
        ({"photos": np.array([0])}, ValueError, "at least one photo"),
        ({"lat": np.array([np.nan])}, BadCoordinateError, "off the globe"),
    ],
)
def test_a_partition_cannot_hold_nonsense(values, error, sentence):
    good = {"cells": np.array([FACE]), "photos": np.array([1]), "lat": np.zeros(1), "lon": np.zeros(1)}
    with pytest.raises(error, match=sentence):
        CellPartition(**good | values)


@pytest.mark.parametrize("cells", [[3 << 60, 1 << 60], [1 << 60, 1 << 60]])
def test_cells_out_of_order_are_refused(cells):
    with pytest.raises(ValueError, match="cells must be sorted and must not repeat"):
        CellPartition(np.array(cells, np.uint64), np.array([1, 1]), np.zeros(2), np.zeros(2))


def test_spacing_is_the_distance_to_the_nearest_other_mean(world):
    *_, partition = world
    km = great_circle_km(partition.lat[:, None], partition.lon[:, None], partition.lat, partition.lon)
    np.fill_diagonal(km, np.inf)
    np.testing.assert_allclose(partition.spacing_km(), km.min(axis=1), rtol=1e-6)


def test_spacing_of_nested_cells_with_the_same_photos_is_never_zero():
    lat, lon = np.array([HERE] * 12 + [FAR] * 8).T
    partition = CellPartition.fit(lat, lon, split_above=100, drop_below=1, keep="nested")
    assert len(partition) == 62
    np.testing.assert_allclose(partition.spacing_km(), great_circle_km(*HERE, *FAR))
    alone = CellPartition.fit(lat[:12], lon[:12], split_above=100, drop_below=1)
    np.testing.assert_allclose(alone.spacing_km(), np.sqrt(s2.areas_km2(alone.cells)))


def test_spread_is_the_mean_distance_of_points_spread_over_the_cell():
    cell = s2.parents(s2.leaf_cells([0.1], [0.1]), 12)  # a cell that is nearly a square
    partition = CellPartition(cell, np.array([1]), *s2.centers(cell))
    corner_lat, corner_lon = s2.outlines(cell)
    rng = np.random.default_rng(0)
    lat = rng.uniform(corner_lat.min(), corner_lat.max(), 100_000)
    lon = rng.uniform(corner_lon.min(), corner_lon.max(), 100_000)
    inside = partition.assign(lat, lon) == 0
    km = great_circle_km(lat[inside], lon[inside], partition.center_lat, partition.center_lon)
    assert partition.spread_km()[0] == pytest.approx(km.mean(), rel=0.05)


@pytest.mark.parametrize("keep", ["planet", "nested"])
def test_the_summary_counts_every_photo_once(keep):
    lat, lon = towns(5000)
    partition = CellPartition.fit(lat, lon, split_above=100, drop_below=10, keep=keep)
    summary = partition.summary(total=len(lat))
    assert summary["photos_outside"] == (partition.assign(lat, lon) == NO_CELL).sum()
    assert (summary["cells"], summary["photos"]) == (len(partition), 5000)
    assert sum(summary["levels"].values()) == len(partition)
    assert summary["photos_per_cell"]["max"] == partition.photos.max()


@pytest.mark.parametrize("keep", ["planet", "nested"])
def test_cells_of_batches_are_those_of_all_points_at_once(tmp_path, monkeypatch, keep):
    rng = np.random.default_rng(3)
    lat, lon = rng.normal(0, 20, 30_000).clip(-89, 89), rng.normal(0, 40, 30_000).clip(-179, 179)
    lat[:9000], lon[:9000] = 48.1 + rng.normal(0, 0.01, 9000), 11.5 + rng.normal(0, 0.01, 9000)
    (tmp_path / "parts").mkdir()
    for number, rows in enumerate(np.array_split(rng.permutation(30_000), 7)):
        frame = pl.DataFrame({"y": lat[rows], "x": lon[rows], "path": "a.jpg"})
        frame.write_parquet(tmp_path / f"parts/{number}.parquet", row_group_size=700)
    monkeypatch.setattr("graticule.photos.table.BATCH", 1000)
    monkeypatch.setattr("graticule.partition.stream._PENDING", 10)
    settings = {"split_above": 100, "drop_below": 5, "max_level": 16, "keep": keep}
    whole = CellPartition.fit(lat, lon, **settings)
    found, total = fit_batches(point_batches(tmp_path / "parts", "y", "x"), **settings)
    assert total == 30_000
    np.testing.assert_array_equal(found.cells, whole.cells)
    np.testing.assert_array_equal(found.photos, whole.photos)
    np.testing.assert_allclose(found.lat, whole.lat, atol=1e-9)
    np.testing.assert_allclose(found.lon, whole.lon, atol=1e-9)
    options = ["--lat", "y", "--lon", "x", "--split-above", "100", "--drop-below", "5", "--max-level", "16"]
    out = str(tmp_path / "cells.parquet")
    done = CliRunner().invoke(app, ["cells", str(tmp_path / "parts"), *options, "--keep", keep, "--out", out])
    assert done.output.startswith("30,000 points make"), done.output
    assert read_partition(Path(out)).names == whole.names
    streamed = Path(out).read_bytes()
    command = ["cells", str(tmp_path / "parts"), *options, "--keep", keep, "--out", out, "--engine", "here"]
    with monkeypatch.context() as patched:
        patched.setattr("graticule.partition.stream._sums", None)
        assert CliRunner().invoke(app, command).exception
    for lost in (2, 9):
        (tmp_path / f"cells.parquet.parts/counts/part-{lost:06}.parquet").unlink()
    assert CliRunner().invoke(app, command).exit_code == 0
    assert Path(out).read_bytes() == streamed
    assert not (tmp_path / "cells.parquet.parts").exists()


def test_a_bad_row_of_a_large_table_is_told_by_its_number(tmp_path, monkeypatch):
    monkeypatch.setattr("graticule.photos.table.BATCH", 10)
    lat = np.zeros(35)
    lat[27] = 99
    pl.DataFrame({"lat": lat, "lon": np.zeros(35)}).write_parquet(tmp_path / "points.parquet")
    with pytest.raises(BadTableError, match="row 28 .* has lat=99"):
        list(point_batches(tmp_path / "points.parquet")())
