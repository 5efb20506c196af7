from datetime import UTC, date, datetime, timedelta, timezone

import polars as pl
import pytest

from graticule.photos.times import read_times

SUMMER = timezone(timedelta(hours=2))
MOMENT = datetime(2024, 7, 9, 0, 24, 18, tzinfo=SUMMER)  # still the day before in Greenwich


@pytest.mark.parametrize(
    "text",
    [
        "2024-07-09 00:24:18+02:00",
        "2024-07-09T00:24:18+0200",
        "2024-07-09T00:24:18.000000+02",
        " 2024:07:09 00:24:18+02:00 ",
        "2024/07/09 00:24:18 +02:00",
    ],
)
def test_a_time_with_a_zone_is_a_moment_and_its_day_is_where_it_was_taken(text):
    [(second, day)] = read_times(pl.Series([text])).rows()
    assert second == MOMENT.timestamp()
    assert day == date(2024, 7, 9)


@pytest.mark.parametrize("text", ["2024-07-08T22:24:18Z", "2024-07-08 22:24:18 UTC", "2024:07:08 22:24:18"])
def test_greenwich_and_a_time_without_zone_count_alike(text):
    assert read_times(pl.Series([text])).row(0) == (MOMENT.timestamp(), date(2024, 7, 8))


@pytest.mark.parametrize("zone", ["-05:30", "+14:00", "-00:00"])
def test_zones_are_read_as_python_reads_them(zone):
    text = f"2020-02-29T23:59:59.25{zone}"
    assert read_times(pl.Series([text]))["second"][0] == datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize("factor", [1, 10**3, 10**6, 10**9])
@pytest.mark.parametrize("form", [int, float, str])
def test_numbers_since_1970_are_told_by_their_size(factor, form):
    seconds = int(MOMENT.timestamp())
    found = read_times(pl.Series([form(seconds * factor)]))
    assert found["second"][0] == pytest.approx(seconds, abs=1e-3)
    assert found["day"][0] == date(2024, 7, 8)


def test_a_date_alone_is_a_day_and_no_moment():
    assert read_times(pl.Series(["2024-07-09"])).row(0) == (None, date(2024, 7, 9))
    assert read_times(pl.Series([date(2024, 7, 9)])).row(0) == (None, date(2024, 7, 9))


def test_what_is_no_time_is_null_beside_what_is():
    bad = [
        "",
        "noon",
        "0000:00:00 00:00:00",
        "2024-02-30 10:00:00",
        "2024-07-09 25:00:00",
        "2024",
        "20240709",
        "nan",
        None,
    ]
    found = read_times(pl.Series([*bad, "2024-07-09 10:00:00Z"]))
    assert found["second"].null_count() == found["day"].null_count() == len(bad)
    assert found["second"][-1] == datetime(2024, 7, 9, 10, tzinfo=UTC).timestamp()
    assert read_times(pl.Series([None, None]))["second"].null_count() == 2


def test_columns_of_datetimes_keep_their_zone():
    local = pl.Series([MOMENT.replace(tzinfo=None)]).dt.replace_time_zone("Europe/Berlin")
    assert read_times(local).row(0) == (MOMENT.timestamp(), date(2024, 7, 9))


def test_every_time_of_two_real_tables_is_read(streetscapes, imageo):
    for table in (streetscapes, imageo):
        found = read_times(table.frame["captured_at"])
        expected = [datetime.fromisoformat(text).timestamp() for text in table.frame["captured_at"]]
        assert found["second"].to_list() == pytest.approx(expected, abs=1e-5)
