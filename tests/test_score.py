from pathlib import Path

import numpy as np
import polars as pl
import pytest

from graticule.errors import BadRecipeError, BadTableError
from graticule.evaluation.score import score_table
from graticule.geo.sphere import WORLD_MAP_DIAGONAL_KM

PUBLISHED = Path(__file__).parents[1] / ".." / "shared" / "data" / "published_predictions"
THEIR_NAMES = {"lat": "gt_lat", "lon": "gt_long", "predicted_lon": "predicted_long"}


def write(folder, rows, header="lat,lon,predicted_lat,predicted_lon", name="guesses.csv"):
    path = folder / name
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


@pytest.mark.skipif(not PUBLISHED.exists(), reason="needs ../shared/data/published_predictions")
@pytest.mark.parametrize(
    ("name", "photos"),
    [("im2gps3k__base_M-fstar", 2997), ("im2gps3k__base_L-m", 2997), ("im2gps__base_M-fstar", 237)],
)
def test_every_distance_and_summary_published_for_im2gps_is_found_again(name, photos):
    path = PUBLISHED / f"results__{name}.csv"
    report = score_table(path, columns=THEIR_NAMES)
    published = [line.split(",") for line in path.read_text().splitlines()]
    km = np.array([float(line[5]) for line in published[1 : photos + 1]])
    # They used a radius of 6371.000 km, we 6371.0088: 1.4 parts in a million, 28 m at the antipode.
    assert len(report.error_km) == photos
    assert (np.abs(report.error_km - km) <= np.maximum(0.01, 1e-4 * km)).all()

    keys = [f"within_{radius}_km" for radius in (1, 25, 200, 750, 2500)] + ["mean_km"]
    summary = [float(cell) for cell in published[-1]]
    assert [report.metrics[key] for key in keys] == pytest.approx(summary, rel=1e-5, abs=5e-7)
    assert list(report.refused) == [photos + 1, photos + 2, photos + 3]  # an empty line and the summary
    assert report.map_diagonal_from == "world"


@pytest.mark.skipif(not PUBLISHED.exists(), reason="needs ../shared/data/published_predictions")
def test_missing_columns_are_answered_with_the_options_to_type():
    with pytest.raises(BadTableError, match="--lat gt_lat --lon gt_long --predicted-lon predicted_long") as error:
        score_table(PUBLISHED / "results__im2gps3k__base_M-fstar.csv")
    assert "its columns are img_id, gt_lat," in str(error.value)


def test_refused_rows_are_counted_with_their_numbers_and_reasons(tmp_path):
    good = ["48.85,2.35,48.86,2.34"] * 8
    bad = ["48.85,2.35,,", "95,2.35,48.8,2.3", "lat,lon,predicted_lat,predicted_lon", ",,,", "1,2,3,nan"]
    report = score_table(write(tmp_path, good[:4] + bad + good[4:]))
    assert report.row.tolist() == [1, 2, 3, 4, 10, 11, 12, 13]
    assert report.refused == {
        5: "not a number", 6: "off the globe", 7: "the header again", 8: "empty", 9: "not a number",
    }  # fmt: skip
    assert report.to_json()["refused_reasons"]["not a number"] == 2
    assert report.to_json()["refused_rows"][1] == {"row": 6, "reason": "off the globe"}


def test_a_table_that_is_mostly_something_else_is_refused_with_the_reasons(tmp_path):
    path = write(tmp_path, ["1,2,3,4", "a,b,,", "91,2,3,4"])
    with pytest.raises(BadTableError, match=r"2 of 3 rows are no predictions \(1 not a number, 1 off the"):
        score_table(path)


def test_a_file_that_is_not_there_or_a_column_to_group_by_that_is_not_is_said(tmp_path):
    with pytest.raises(BadTableError, match=r"no file .*nowhere\.csv"):
        score_table(tmp_path / "nowhere.csv")
    with pytest.raises(BadTableError, match="no column 'city' to group by"):
        score_table(write(tmp_path, ["1,2,3,4"]), group="city")


def test_a_city_is_scored_on_its_own_map_and_the_world_on_the_usual_one(tmp_path):
    city = write(tmp_path, ["37.79,-122.42,37.79,-122.42", "37.80,-122.42,37.79,-122.42"])
    report = score_table(city)
    assert report.map_diagonal_from == "positions"
    assert report.map_diagonal_km == pytest.approx(1.112, abs=0.001)
    assert report.metrics["score"] == pytest.approx((5000 + 5000 * np.exp(-10)) / 2)
    assert score_table(city, map_diagonal_km=14.0).map_diagonal_km == 14.0
    with pytest.raises(BadRecipeError, match="positive distance"):
        score_table(city, map_diagonal_km=0)

    world = score_table(write(tmp_path, ["37.79,-122.42,0,0", "48.85,2.35,0,0"]))
    assert world.map_diagonal_km == WORLD_MAP_DIAGONAL_KM
    one_position = score_table(write(tmp_path, ["37.79,-122.42,0,0"]))
    assert (one_position.map_diagonal_from, one_position.intervals) == ("world", {})


def test_intervals_resample_the_place_that_the_table_names(tmp_path):
    rows = [f"0,{i / 10},0,{i / 10 + (i < 10) * 3},{'near' if i < 10 else 'far'}" for i in range(20)]
    path = write(tmp_path, rows, "lat,lon,predicted_lat,predicted_lon,camera")
    assert score_table(path).places == "position to 0.001 degrees"
    by_camera = score_table(path, group="camera")
    assert (by_camera.places, by_camera.intervals["within_1_km"]) == ("camera", (0, 1))


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
def test_all_kinds_of_tables_give_the_same_rows(tmp_path, suffix):
    frame = pl.DataFrame({"lat": [1.5, 2], "lon": [3.0, -179.9], "predicted_lat": [1.5, 2], "predicted_lon": [4, 180]})
    path = tmp_path / f"guesses.{suffix}"
    if suffix == "parquet":
        frame.write_parquet(path)
    else:
        frame.write_csv(path, separator="\t" if suffix == "tsv" else ",")
    report = score_table(path)
    report.write_rows(tmp_path / "rows.parquet")
    written = pl.read_parquet(tmp_path / "rows.parquet")
    assert written["row"].to_list() == [1, 2]
    assert written["error_km"].to_list() == pytest.approx([111.157, 11.113], abs=0.001)
