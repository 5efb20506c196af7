import numpy as np
import pytest
from scipy.optimize import minimize

from graticule import decode
from graticule.geo import great_circle_km
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
    p = probabilities(len(partition), sharpness, count=6)
    found = decode.points(p, partition, "median")
    for i, row in enumerate(p):
        ours = expected_km(row, partition, found.lat[i], found.lon[i])
        starts = np.argsort(-row)[:5]
        best = min(
            minimize(
                lambda x, row=row: expected_km(row, partition, np.clip(x[0], -90, 90), (x[1] + 180) % 360 - 180),
                (partition.lat[s], partition.lon[s]),
                method="Nelder-Mead",
                options={"xatol": 1e-7, "fatol": 1e-7, "maxiter": 2000},
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


def test_two_equal_cells_across_the_antimeridian_are_answered_between_them():
    partition = CellPartition.fit([0, 0, 0, 0], [179, 179, -179, -179], split_above=3, drop_below=1)
    found = decode.points(np.full((1, 2), 0.5), partition, "median")
    assert abs(found.lon[0]) >= 179 - 1e-6


def test_a_fix_names_its_likeliest_cells_in_order(town):
    p = probabilities(len(town), 2.0, count=1)
    [fix] = decode.fixes(decode.points(p, town, "median"), p, town, top=4)
    shown = [cell.probability for cell in fix.cells]
    assert shown == sorted(p[0].tolist(), reverse=True)[:4]
    assert fix.cells[0].token == town.names[p[0].argmax()]
    assert fix.to_json()["calibrated"] is False


def test_a_geojson_feature_puts_the_longitude_first(town):
    p = probabilities(len(town), 2.0, count=1)
    [fix] = decode.fixes(decode.points(p, town, "median"), p, town, top=1)
    feature = fix.to_geojson({"photo": "a.jpg"})
    assert feature["geometry"]["coordinates"] == [round(fix.lon, 7), round(fix.lat, 7)]
    assert feature["properties"]["photo"] == "a.jpg"


def test_probabilities_of_another_partition_are_refused(town):
    with pytest.raises(ValueError, match="should have shape"):
        decode.points(np.ones((2, len(town) + 1)), town, "mode")
