"""When a photo was taken: the ways in which tables write it, read in one place."""

import polars as pl

# ISO 8601 and its common spellings, and EXIF's 2020:05:01 10:30:00. Digits without separators would look like a number.
WRITTEN = (
    r"^\s*(?<year>\d{4})[-:/](?<month>\d{2})[-:/](?<day>\d{2})"
    r"(?:[T ]\s*(?<hour>\d{2}):(?<minute>\d{2})(?::(?<second>\d{2})(?<fraction>[.,]\d+)?)?"
    r"\s*(?:(?<utc>Z|z|UTC|GMT)|(?<sign>[+-])(?<zone_hour>\d{2}):?(?<zone_minute>\d{2})?)?)?\s*$"
)
UNITS = ((1e8, 1e11, 1.0), (1e11, 1e14, 1e3), (1e14, 1e17, 1e6), (1e17, 1e20, 1e9))
# Epochs: from, below, units in a second. As seconds the first range is 1973 to 5138, as milliseconds the second, ...


def read_times(column: pl.Series) -> pl.DataFrame:
    """Read any column of times.

    Understood: ISO 8601 with or without a zone (``2024-07-09 03:24:18.913+02:00``, ``...Z``), EXIF
    (``2024:07:09 03:24:18``), a date alone, seconds, milli-, micro- or nanoseconds since 1970 as a number or as
    text, and Polars dates and datetimes. Whatever is none of these, or no such day, is null, never a guess.

    Returns:
        One row a value: ``second``, float64 since 1970 in UTC; a time without a zone counts as if it were UTC, so
        it compares rightly with others of its camera and to within a day with the rest; null for a date alone.
        ``day``, the date where the photo was taken: the one written, and that in UTC of an epoch.
    """
    if column.dtype == pl.Date:
        return pl.DataFrame({"second": pl.Series([None] * len(column), dtype=pl.Float64), "day": column})
    if column.dtype == pl.Datetime:
        second = column.dt.epoch("us").cast(pl.Float64) / 1e6
        return pl.DataFrame({"second": second, "day": column.dt.date()})
    text = column.cast(pl.String)
    parts = text.str.extract_groups(WRITTEN).struct.unnest()
    stamp = pl.format(
        "{}-{}-{} {}:{}:{}",
        *("year", "month", "day"),
        *(pl.col(name).fill_null("00") for name in ("hour", "minute", "second")),
    ).str.to_datetime("%Y-%m-%d %H:%M:%S", strict=False)
    fraction = pl.concat_str(pl.lit("0."), pl.col("fraction").str.slice(1)).cast(pl.Float64).fill_null(0.0)
    zone = pl.col("zone_hour").cast(pl.Float64) * 3600 + pl.col("zone_minute").cast(pl.Float64).fill_null(0.0) * 60
    east = pl.when(pl.col("sign") == "-").then(-zone).otherwise(zone).fill_null(0.0)
    written = parts.select(
        second=pl.when(pl.col("hour").is_not_null()).then(stamp.dt.epoch("us") / 1e6 + fraction - east),
        day=stamp.dt.date(),
    )
    number = text.str.strip_chars().cast(pl.Float64, strict=False)
    epoch = pl.coalesce(
        pl.when(pl.col("number").is_between(low, high, closed="left")).then(pl.col("number") / units)
        for low, high, units in UNITS
    )
    counted = pl.DataFrame({"number": number}).select(
        second=epoch, day=pl.from_epoch((epoch * 1e6).cast(pl.Int64), time_unit="us").dt.date()
    )
    return pl.DataFrame(
        {name: written[name].zip_with(written["day"].is_not_null(), counted[name]) for name in written.columns}
    )
