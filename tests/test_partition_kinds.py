"""The divisions beside the cells of S2, each against the library or the arithmetic that it is made of."""

import sys

import numpy as np
import polars as pl
import pytest
from matplotlib.path import Path
from scipy.spatial import ConvexHull
from sklearn.cluster import HDBSCAN, KMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture
from towns import QUARTERS, make_town, tiny_recipe

from graticule.config import parse_recipe
from graticule.errors import BadCoordinateError, BadRecipeError, BadTableError
from graticule.evaluation.evaluate import evaluate
from graticule.geo.sphere import great_circle_km, spherical_mean, unit_vectors
from graticule.inference.locate import Locator
from graticule.model.bundle import Bundle
from graticule.partition import (
    NO_CELL,
    CellPartition,
    GaussianPartition,
    GridPartition,
    KMeansPartition,
    LabelPartition,
    PointPartition,
    SemanticPartition,
    grow,
    read_partition,
)
from graticule.photos.table import Photos
from graticule.reporting import maps
from graticule.training.prepare import split_photos
from graticule.training.train import train

SETTINGS = {
    "s2": {"split_above": 60, "drop_below": 5},
    "grid": {"rows": 4, "columns": 5},
    "kmeans": {"clusters": 12},
    "gaussian": {"clusters": 6},
    "semantic": {"split_above": 300, "min_cluster_size": 10},
    "label": {"label": "town"},
    "points": {},
}
kinds = pytest.mark.parametrize("kind", SETTINGS)
PLACES = {"city": (37.79, -122.41, 0.01), "world": (10.0, 20.0, 40.0), "Fiji": (-17.8, 180.0, 0.5), "pole": (89, 0, 1)}
places = pytest.mark.parametrize("place", PLACES)


def positions(place, n=800, seed=0):
    """Clumps of points around a place, all over the globe for ``world``."""
    lat, lon, spread = PLACES[place]
    rng = np.random.default_rng(seed)
    clump = rng.integers(0, 15, n)
    north, east = (rng.normal(0, spread, 15)[clump] + rng.normal(0, spread / 10, n) for _ in range(2))
    if place == "pole":
        lats = 90 - np.hypot(north, east)
        return lats, np.degrees(np.arctan2(east, north))
    return np.clip(lat + north, -89, 89), (lon + east + 180) % 360 - 180


def towns_of(n):
    return np.array(["Ber", "Åre", "Zug", None], object)[np.arange(n) % 4]


def grown(kind, place="world"):
    lat, lon = positions(place)
    return grow(lat, lon, kind, labels=towns_of(len(lat)), **SETTINGS[kind])


@kinds
@places
def test_what_was_written_is_read_back_and_answers_the_same(kind, place, tmp_path):
    partition = grown(kind, place)
    partition.write(tmp_path / "cells.parquet")
    again = read_partition(tmp_path / "cells.parquet")
    rng = np.random.default_rng(5)
    around = rng.uniform(-90, 90, 500), rng.uniform(-180, 180, 500)
    lat, lon = (np.r_[near, far] for near, far in zip(positions(place), around, strict=True))
    assert again.assign(lat, lon).tolist() == partition.assign(lat, lon).tolist()
    assert (type(again), again.names, again.summary()) == (type(partition), partition.names, partition.summary())
    for ours, theirs in zip(again.outlines(), partition.outlines(), strict=True):
        assert [ring.tolist() for ring in ours] == [ring.tolist() for ring in theirs]


@kinds
@places
def test_every_class_has_photos_a_mean_a_spread_and_a_name_of_its_own(kind, place):
    lat, lon = positions(place)
    partition = grown(kind, place)
    table = Photos(pl.DataFrame({"path": [""] * len(lat), "lat": lat, "lon": lon, "town": towns_of(len(lat))}), None)
    rows = partition.rows_of(table)
    assert np.bincount(rows[rows != NO_CELL], minlength=len(partition)).tolist() == partition.photos.tolist()
    for row in range(len(partition)):
        mean = spherical_mean(lat[rows == row], lon[rows == row])
        assert great_circle_km(*mean, partition.lat[row], partition.lon[row]) < 1e-6
    assert len(set(partition.names)) == len(partition)
    assert (partition.spread_km() > 0).all()
    assert (partition.spacing_km() > 0).all()


@pytest.mark.parametrize(
    ("kind", "settings"),
    [("grid", {"rows": 4, "columns": 5}), ("kmeans", {"clusters": 3}), ("label", {"label": "side"})],
)
def test_the_spread_is_what_new_photos_of_the_class_show(kind, settings):
    rng = np.random.default_rng(0)
    lat, lon = rng.normal(0, 0.01, (2, 4000))
    few = np.arange(4000) < 400
    partition = grow(lat[few], lon[few], kind, labels=np.where(lon > 0, "east", "west")[few], **settings)
    rows = partition.assign(lat[~few], lon[~few])
    off_km = great_circle_km(lat[~few], lon[~few], partition.lat[rows], partition.lon[rows])
    assert partition.spread_km()[rows].mean() == pytest.approx(off_km.mean(), rel=0.1)


@pytest.mark.parametrize("kind", ["grid", "kmeans", "gaussian", "semantic", "label"])
@pytest.mark.parametrize("place", ["city", "Fiji", "pole"])
def test_the_outline_of_a_class_holds_its_photos(kind, place):
    lat, lon = positions(place)
    partition = grown(kind, place)
    rows = partition.assign(lat, lon) if kind != "label" else np.array([0, 2, 1, NO_CELL])[np.arange(len(lat)) % 4]
    for row, ring in enumerate(maps.rings(*partition.outlines())):
        held = [
            Path(ring).contains_points(np.stack([lon + turn, lat], axis=1)[rows == row], radius=side * 1e-9)
            for turn in (-360, 0, 360)
            for side in (-1, 1)  # which side is out depends on the way round
        ]
        assert np.any(held, axis=0).all(), partition.names[row]


def test_a_grid_has_the_quantiles_of_numpy_as_its_lines_and_equal_counts_between_them():
    lat, lon = positions("city")
    grid = GridPartition.fit(lat, lon, rows=4, columns=5)
    np.testing.assert_allclose(np.union1d(grid.south, grid.north), np.quantile(lat, [0, 0.25, 0.5, 0.75, 1]))
    np.testing.assert_allclose(np.union1d(grid.west, grid.east), np.quantile(lon, [0, 0.2, 0.4, 0.6, 0.8, 1]))
    names = np.array(grid.names)[grid.assign(lat, lon)]
    assert np.unique([name[:2] for name in names], return_counts=True)[1].tolist() == [200] * 4
    assert np.unique([name[2:] for name in names], return_counts=True)[1].tolist() == [160] * 5


def test_values_that_many_photos_share_make_fewer_rows():
    lat = np.r_[np.zeros(90), np.linspace(1, 2, 10)]
    grid = GridPartition.fit(lat, np.linspace(0, 1, 100), rows=10, columns=1)
    assert grid.photos.tolist() == [90, 10]
    assert grid.assign([0.0, 0.5, -3.0], [0.5] * 3).tolist() == [0, 1, 0]


def test_a_grid_reaches_on_to_the_poles_and_to_the_middle_of_the_widest_gap():
    lat, lon = np.array([[0, 170], [1, 171], [2, 170], [3, 171], [2.5, -175], [3.5, -170]]).T
    grid = GridPartition.fit(lat, lon, rows=2, columns=2)  # no photo in the south-east
    assert (grid.names, grid.photos.tolist()) == (["r0c0", "r1c0", "r1c1"], [3, 1, 2])
    assert grid.assign([-90, 90, 90, -90], [1.0, 1.0, -1.0, -1.0]).tolist() == [0, 1, 2, NO_CELL]


@pytest.mark.parametrize("kind", ["grid", "kmeans", "gaussian"])
@pytest.mark.parametrize("place", ["Fiji", "city"])
def test_the_antimeridian_is_a_meridian_like_any_other(kind, place):
    lat, lon = positions(place)
    turned = (lon - PLACES[place][1] + 360) % 360 - 180  # to the antimeridian, from Fiji back to itself
    away = (turned + 250) % 360 - 180
    here, there = (grow(lat, x, kind, **SETTINGS[kind]) for x in (turned, away))
    assert adjusted_rand_score(here.assign(lat, turned), there.assign(lat, away)) == 1
    widest_deg = 2 * np.ptp((turned + 360) % 360)
    assert all(np.ptp(ring[:, 0]) < widest_deg for ring in maps.rings(*here.outlines()))


@places
def test_k_means_is_that_of_scikit_learn(place):
    lat, lon = positions(place)
    model = KMeans(12, n_init=4, random_state=3).fit(1000 * unit_vectors(lat, lon))
    partition = KMeansPartition.fit(lat, lon, clusters=12, seed=3)
    new = positions(place, seed=1)
    theirs = model.predict(1000 * unit_vectors(*new))
    assert adjusted_rand_score(partition.assign(*new), theirs) == 1


@places
def test_a_mixture_of_gaussians_is_that_of_scikit_learn(place):
    lat, lon = positions(place)
    points = unit_vectors(lat, lon)
    scale = np.sqrt(points.var(axis=0).sum())
    model = GaussianMixture(6, max_iter=500, random_state=3).fit((points - points.mean(axis=0)) / scale)
    partition = GaussianPartition.fit(lat, lon, clusters=6, seed=3)
    new = positions(place, seed=1)
    theirs = model.predict((unit_vectors(*new) - points.mean(axis=0)) / scale)
    assert adjusted_rand_score(partition.assign(*new), theirs) == 1


@places
def test_semantic_cells_are_the_clusters_of_scikit_learn_and_what_lies_nearest_to_them(place):
    lat, lon = np.unique(positions(place), axis=1)  # in order: where distances tie, HDBSCAN takes what comes first
    parents = CellPartition.fit(lat, lon, split_above=300, drop_below=1, max_level=18)
    partition = SemanticPartition.fit(lat, lon, split_above=300, min_cluster_size=10, max_level=18)
    new = positions(place, seed=1)
    rows, new_rows, new_parent = partition.assign(lat, lon), partition.assign(*new), parents.assign(*new)
    assert (new_rows[new_parent == NO_CELL] == NO_CELL).all()
    several = 0
    for row in range(len(parents)):
        own, asked = parents.assign(lat, lon) == row, new_parent == row
        points, labels = unit_vectors(lat[own], lon[own]), np.full(own.sum(), -1)
        if own.sum() >= 10:
            labels = HDBSCAN(min_cluster_size=10, cluster_selection_method="leaf", copy=True).fit_predict(points)
        known = labels >= 0
        if not known.any():
            assert len(set(rows[own])) == 1
            continue
        several += 1
        nearest = great_circle_km(lat[own], lon[own], lat[own, None], lon[own, None])[:, known].argmin(axis=1)
        assert adjusted_rand_score(rows[own], labels[known][nearest]) == 1
        nearest = great_circle_km(new[0][asked, None], new[1][asked, None], lat[own], lon[own]).argmin(axis=1)
        assert new_rows[asked].tolist() == rows[own][nearest].tolist()
    assert several
    assert partition.names == sorted(partition.names)


def test_semantic_cells_count_places_not_photos():
    lat, lon = positions("city", 300)
    once = grow(lat, lon, "semantic", split_above=100, min_cluster_size=5)
    often = grow(np.repeat(lat, 3), np.repeat(lon, 3), "semantic", split_above=100, min_cluster_size=5)
    assert often.names == once.names
    assert often.photos.tolist() == (3 * once.photos).tolist()
    backwards = grow(lat[::-1], lon[::-1], "semantic", split_above=100, min_cluster_size=5)
    assert backwards.assign(lat, lon).tolist() == once.assign(lat, lon).tolist()


@pytest.mark.parametrize("kind", ["kmeans", "gaussian"])
def test_clusters_depend_on_the_seed_alone(kind):
    lat, lon = positions("world")
    one, two, other = (grow(lat, lon, kind, clusters=20, seed=seed) for seed in (0, 0, 1))
    assert one.assign(lat, lon).tolist() == two.assign(lat, lon).tolist()
    assert one.photos.tolist() != other.photos.tolist()


@pytest.mark.parametrize("kind", ["kmeans", "gaussian", "semantic"])
def test_an_answer_needs_no_scikit_learn(kind, tmp_path, monkeypatch):
    partition = grown(kind)
    partition.write(tmp_path / "cells.parquet")
    for name in [name for name in sys.modules if name.split(".")[0] == "sklearn"]:
        monkeypatch.setitem(sys.modules, name, None)
    again = read_partition(tmp_path / "cells.parquet")
    lat, lon = positions("world")
    assert again.assign(lat, lon).tolist() == partition.assign(lat, lon).tolist()


def test_an_outline_is_the_convex_hull_and_a_rim():
    lat, lon = positions("city")
    partition = KMeansPartition.fit(lat, lon, clusters=3)
    rows = partition.assign(lat, lon)
    km = np.array([np.cos(np.radians(37.79)), 1]) * np.pi * 6371.0088 / 180
    for row, ring in enumerate(maps.rings(*partition.outlines())):
        inner = ConvexHull(np.stack([lon, lat], axis=1)[rows == row] * km)
        rim_km = partition.spread_km()[row] / 10
        expected = inner.volume + rim_km * inner.area + np.pi * rim_km**2  # Steiner's formula; area is the perimeter
        assert ConvexHull(ring * km).volume == pytest.approx(expected, rel=0.02)


def test_photos_of_one_place_make_a_class_that_can_be_drawn_and_answered_with():
    lat, lon = np.repeat([[48.0, 48.0, 48.1], [2.0, 2.1, 2.0]], 5, axis=1)
    partition = KMeansPartition.fit(lat, lon, clusters=3)
    km = great_circle_km(48.0, 2.0, 48.0, 2.1)
    assert sorted(partition.spread_km())[:2] == pytest.approx([0.3826 * km] * 2, rel=1e-3)
    assert min(np.ptp(ring, axis=0).min() for ring in maps.rings(*partition.outlines())) > 1e-4
    alone = KMeansPartition.fit(lat[:5], lon[:5], clusters=1)
    assert alone.spread_km()[0] == 0.001
    assert alone.spacing_km()[0] == pytest.approx(0.001 / 0.3826, rel=1e-3)


def test_labels_are_the_values_of_the_column_and_nothing_else(tmp_path):
    lat, lon = np.zeros(6), np.arange(6.0)
    frame = pl.DataFrame({"path": [""] * 6, "lat": lat, "lon": lon, "town": ["b", "a", None, " ", "b", "a"]})
    partition = LabelPartition.fit(lat, lon, frame["town"].to_numpy(), column="town")
    assert (partition.names, partition.photos.tolist()) == (["a", "b"], [2, 2])
    np.testing.assert_allclose((partition.lat, partition.lon), ([0, 0], [3, 2]), atol=1e-9)
    asked = Photos(frame.with_columns(pl.Series("town", ["a", "c", None, "b", "", "A"])), tmp_path)
    assert partition.rows_of(asked).tolist() == [0, NO_CELL, NO_CELL, 1, NO_CELL, NO_CELL]
    assert partition.assign([0, 0], [0.0, 9.0]).tolist() == [1, 0]
    with pytest.raises(BadTableError, match="values of the column 'town', which these photos lack; they have: path"):
        partition.rows_of(Photos(frame.drop("town"), tmp_path))


def test_a_label_that_is_a_number_in_one_table_and_text_in_another_is_one_label(tmp_path):
    partition = LabelPartition.fit([0, 0, 0], [0, 1, 2], np.array([7, 12, 7]), column="district")
    assert partition.names == ["12", "7"]
    frame = pl.DataFrame({"path": ["", ""], "lat": [0.0, 0.0], "lon": [0.0, 1.0], "district": ["12", "8"]})
    assert partition.rows_of(Photos(frame, tmp_path)).tolist() == [0, NO_CELL]


@pytest.mark.parametrize(
    ("kind", "settings", "sentence"),
    [
        ("grid", {"rows": 4, "columns": 1}, "rows=4 is impossible: the photos have 3 different latitudes, so 1 to 3"),
        ("grid", {"rows": 1, "columns": 0}, "columns=0 is impossible: the photos have 2 different longitudes"),
        ("kmeans", {"clusters": 5}, "clusters=5 is impossible: the photos have 4 different positions"),
        ("gaussian", {"clusters": 5}, "clusters=5 is impossible"),
        ("semantic", {"min_cluster_size": 1}, "min_cluster_size=1 is no cluster; give at least 2"),
        ("label", {"label": "town", "labels": [None] * 5}, "the column 'town' is empty in all 5 photos"),
        ("voronoi", {}, "kind='voronoi' is unknown; valid are s2, grid, kmeans, gaussian, semantic, label"),
    ],
)
def test_what_the_photos_do_not_allow_is_refused_with_what_they_do(kind, settings, sentence):
    with pytest.raises(BadRecipeError, match=sentence):
        grow([0, 1, 2, 2, 2], [0, 0, 0, 1, 1], kind, **settings)


def test_a_gallery_of_many_points_is_gathered_into_cells_with_all_of_its_probability():
    rng = np.random.default_rng(0)
    gallery = PointPartition.of(rng.uniform(-60, 70, 6000), rng.uniform(-180, 180, 6000))
    cells, logits = gallery.coarse(), rng.normal(0, 5, (3, 6000))
    assert 2000 < len(cells) < 6000
    weight = np.exp(logits)
    row = cells.assign(gallery.lat, gallery.lon)
    expected = np.stack([np.bincount(row, w, minlength=len(cells)) for w in weight])
    np.testing.assert_allclose(np.exp(gallery.coarse_logits(logits)), expected)
    few = PointPartition.of([1.0, 2.0, 2.0], [3.0, 4.0, 4.0], ["a", "b", "c"])
    assert few.coarse() is few
    assert few.coarse_logits(logits) is logits
    assert few.assign([1.1, 1.9], [3.1, 3.9]).tolist() == [0, 1]


def test_points_with_one_name_for_two_are_refused():
    with pytest.raises(ValueError, match="2 points need as many names, all different"):
        PointPartition.of([1.0, 2.0], [3.0, 4.0], ["a", "a"])


@kinds
def test_no_photos_and_photos_off_the_globe_are_refused(kind):
    with pytest.raises(BadTableError, match="there are no photos to grow cells from"):
        grow([], [], kind, **SETTINGS[kind])
    with pytest.raises(BadCoordinateError, match="lat=95"):
        grow([95.0], [0.0], kind, labels=["a"], **SETTINGS[kind])


def test_a_file_of_cells_from_before_there_were_kinds_is_read(tmp_path):
    partition = grown("s2")
    partition.write(tmp_path / "cells.parquet")
    pl.read_parquet(tmp_path / "cells.parquet").write_parquet(tmp_path / "old.parquet")  # without metadata
    old = read_partition(tmp_path / "old.parquet")
    assert isinstance(old, CellPartition)
    assert old.names == partition.names


def test_a_file_of_an_unknown_kind_or_without_a_column_is_refused(tmp_path):
    grown("kmeans").write(tmp_path / "cells.parquet")
    table = pl.read_parquet(tmp_path / "cells.parquet")
    table.write_parquet(tmp_path / "next.parquet", metadata={"graticule.kind": "voronoi"})
    with pytest.raises(BadTableError, match="of the kind 'voronoi'; this version reads s2, grid"):
        read_partition(tmp_path / "next.parquet")
    table.drop("middle").write_parquet(tmp_path / "half.parquet", metadata={"graticule.kind": "kmeans"})
    with pytest.raises(BadTableError, match="has no column middle"):
        read_partition(tmp_path / "half.parquet")


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    photos = make_town(tmp_path_factory.mktemp("town"))
    quarters = np.array(["SW", "SE", "NW", "NE"])[np.arange(96) % 4]
    return Photos(photos.frame.with_columns(pl.Series("quarter", quarters)), photos.root)


OF_TOWN = {
    "grid": {"rows": 2, "columns": 2},
    "semantic": {"min_cluster_size": 12},
    "label": {"label": "quarter"},
}


def recipe_of(kind, **changes):
    tree = tiny_recipe(**changes).model_dump(mode="json")
    return parse_recipe(tree | {"cells": {"kind": kind} | OF_TOWN[kind]})


@pytest.mark.parametrize("kind", OF_TOWN)
def test_the_whole_way_from_photos_to_an_answer(kind, town, tmp_path):
    recipe = recipe_of(kind, train={"epochs": 3}, split={"val": 0.0})
    train(recipe, town, tmp_path)
    bundle = Bundle.read(tmp_path)
    assert (bundle.partition.kind, len(bundle.partition), bundle.recipe.cells) == (kind, 4, recipe.cells)
    np.testing.assert_allclose(sorted(bundle.partition.lat), sorted(lat for lat, _ in QUARTERS), atol=0.002)
    found = evaluate(bundle, town)
    assert found.metrics["outside_cells"] == 0
    assert found.metrics["top1"] > 0.5, "four colours are four quarters"
    fix = Locator(bundle).locate(town.paths()[0])
    assert {cell.token for cell in fix.cells} == set(bundle.partition.names)
    assert 0 < fix.expected_error_km < 5


def test_a_random_split_gives_each_label_its_share(town):
    split = split_photos(recipe_of("label", split={"by": "random", "val": 0.0, "test": 0.25}), town)
    tests = town.frame.with_columns(pl.Series("split", split)).filter(pl.col("split") == "test")
    assert sorted(tests["quarter"].value_counts()["count"]) == [6, 6, 6, 6]
