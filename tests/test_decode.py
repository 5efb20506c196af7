import time
import tracemalloc

import numpy as np
import pytest
from scipy.optimize import minimize

from graticule.geo.sphere import from_vectors, great_circle_km, unit_vectors
from graticule.inference import decode
from graticule.partition import CellPartition


@pytest.fixture(scope="module")
def world():
    rng = np.random.default_rng(0)
    lat, lon = np.degrees(np.arcsin(rng.uniform(-1, 1, 4000))), rng.uniform(-180, 180, 4000)
    return CellPartition.fit(lat, lon, split_above=60, drop_below=5)


@pytest.fixture(scope="module")
def town():
    rng = np.random.default_rng(1)
    return CellPartition.fit(
        38.9 + rng.normal(0, 0.01, 2000), -77 + rng.normal(0, 0.01, 2000), split_above=50, drop_below=5
    )


def probabilities(cells, sharpness, count=20):
    logits = np.random.default_rng(2).normal(0, sharpness, (count, cells))
    p = np.exp(logits)
    return p / p.sum(axis=1, keepdims=True)


def expected_km(p, partition, lat, lon):
    arc_km = great_circle_km(lat, lon, partition.lat, partition.lon)
    return float((p * np.hypot(arc_km, partition.spread_km())).sum())


@pytest.mark.parametrize("where", ["world", "town"])
@pytest.mark.parametrize("sharpness", [1.0, 3.0])
def test_the_median_is_the_point_that_a_general_minimiser_finds(where, sharpness, request):
    partition = request.getfixturevalue(where)
    p = probabilities(len(partition), sharpness, count=4)
    found = decode.points(p, partition, "median")
    for i, row in enumerate(p):
        ours = expected_km(row, partition, found.lat[i], found.lon[i])
        starts = np.argsort(-row)[:3]
        best = min(
            minimize(
                lambda x, row=row: expected_km(row, partition, np.clip(x[0], -90, 90), (x[1] + 180) % 360 - 180),
                (partition.lat[s], partition.lon[s]),
                method="Nelder-Mead",
                options={"xatol": 1e-6, "fatol": 1e-5, "maxiter": 2000},
            ).fun
            for s in starts
        )
        assert ours <= best * 1.002


def test_the_median_is_never_worse_than_the_mode(world):
    p = probabilities(len(world), 2.0)
    median, mode = decode.points(p, world, "median"), decode.points(p, world, "mode")
    for i, row in enumerate(p):
        at_mode = expected_km(row, world, mode.lat[i], mode.lon[i])
        assert expected_km(row, world, median.lat[i], median.lon[i]) <= at_mode + 1e-6


def test_the_mode_is_the_mean_position_of_the_likeliest_cell_and_the_center_its_centre(town):
    p = probabilities(len(town), 2.0)
    best = p.argmax(axis=1)
    mode, center = decode.points(p, town, "mode"), decode.points(p, town, "center")
    np.testing.assert_allclose(mode.lat, town.lat[best], atol=1e-9)
    np.testing.assert_allclose(center.lon, town.center_lon[best], atol=1e-9)


def test_a_certain_cell_expects_only_the_spread_within_it(town):
    certain = np.zeros((1, len(town)))
    certain[0, 3] = 1
    found = decode.points(certain, town, "median")
    assert found.expected_error_km[0] == pytest.approx(town.spread_km()[3], rel=1e-6)


def test_two_equal_cells_across_the_antimeridian_are_answered_halfway():
    partition = CellPartition.fit([0, 0, 0, 0], [179, 179, -178, -178], split_above=3, drop_below=1)
    found = decode.points(np.full((1, 2), 0.5), partition, "median")
    assert len(partition) == 2
    assert great_circle_km(found.lat[0], found.lon[0], 0, -179.5) < 0.1


@pytest.mark.parametrize(
    ("lat", "lon"), [(90, 0), (-90, 0), (20, 180), (48.8, 9.2)], ids=["north", "south", "antimeridian", "town"]
)
@pytest.mark.parametrize("sharpness", [0.1, 3.0])
def test_no_point_of_a_fine_grid_is_better_than_the_median(lat, lon, sharpness):
    rng = np.random.default_rng(3)
    middle, reach = unit_vectors(lat, lon), 0.01  # 64 km
    cells = from_vectors(middle + rng.normal(0, reach, (3000, 3)))
    partition = CellPartition.fit(*cells, split_above=60, drop_below=5)
    p = probabilities(len(partition), sharpness, count=3)
    found = decode.points(p, partition, "median")
    across = np.cross(middle, [0.6, 0.64, 0.48])
    across /= np.linalg.norm(across)
    east, north = np.meshgrid(*[np.linspace(-2 * reach, 2 * reach, 121)] * 2)  # every 2 km
    grid = from_vectors(middle + east[..., None] * across + north[..., None] * np.cross(middle, across))
    arc_km = great_circle_km(*(side[..., None] for side in grid), partition.lat, partition.lon)
    away_km = np.hypot(arc_km, partition.spread_km())
    for i, row in enumerate(p):
        ours = expected_km(row, partition, found.lat[i], found.lon[i])
        assert ours <= (away_km @ row).min() + 1e-3
        assert found.expected_error_km[i] == pytest.approx(ours, abs=1e-4)


def test_cells_that_hold_next_to_nothing_still_pull():
    rng = np.random.default_rng(4)
    partition = CellPartition.fit(
        np.append(rng.uniform(0, 1, 40), np.full(4000, 60)), np.append(rng.uniform(0, 1, 40), rng.uniform(0, 9, 4000)),
        split_above=4, drop_below=1, max_level=12,
    )  # fmt: skip
    p = np.where(partition.lat < 2, 1.0, 0.0)
    p = 0.99995 * p / p.sum() + 0.00005 * (p == 0) / (p == 0).sum()
    found = decode.points(p[None], partition, "median")
    whole = minimize(
        lambda x: expected_km(p, partition, *x),
        (0.5, 0.5),
        method="Nelder-Mead",
        options={"xatol": 1e-9, "fatol": 1e-12},
    )
    assert great_circle_km(found.lat[0], found.lon[0], *whole.x) < 0.001


def test_a_peaked_posterior_over_21_000_cells_costs_a_few_milliseconds_and_no_square_table():
    rng = np.random.default_rng(5)
    lat, lon = np.degrees(np.arcsin(rng.uniform(-1, 1, 170_000))), rng.uniform(-180, 180, 170_000)
    partition = CellPartition.fit(lat, lon, split_above=15, drop_below=1)
    p = np.full((1, len(partition)), 1e-5 / len(partition))
    p[0, rng.integers(0, len(partition), 20)] += 0.05
    p /= p.sum()
    decode.points(p, partition, "median")  # measures the partition, once
    seconds = []
    for _ in range(5):
        started = time.process_time()
        decode.points(p, partition, "median")
        seconds.append(time.process_time() - started)
    tracemalloc.start()
    decode.points(p, partition, "median")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(partition) > 20_000
    assert min(seconds) < 0.01  # under 2 ms on an idle core
    assert peak < 20e6


def test_a_fix_names_its_likeliest_cells_in_order(town):
    p = probabilities(len(town), 2.0, count=1)
    [fix] = decode.fixes(decode.points(p, town, "median"), np.log(p), town, top=4)
    shown = [cell.probability for cell in fix.cells]
    assert shown == pytest.approx(sorted(p[0].tolist(), reverse=True)[:4])
    assert fix.cells[0].token == town.names[p[0].argmax()]
    assert fix.to_json()["calibrated"] is False


def test_a_geojson_feature_puts_the_longitude_first(town):
    p = probabilities(len(town), 2.0, count=1)
    [fix] = decode.fixes(decode.points(p, town, "median"), np.log(p), town, top=1)
    feature = fix.to_geojson({"photo": "a.jpg"})
    assert feature["geometry"]["coordinates"] == [round(fix.lon, 7), round(fix.lat, 7)]
    assert feature["properties"]["photo"] == "a.jpg"


def test_probabilities_of_another_partition_are_refused(town):
    with pytest.raises(ValueError, match="should have shape"):
        decode.points(np.ones((2, len(town) + 1)), town, "mode")
