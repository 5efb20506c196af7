"""What the usual columns of a table say, as codes and numbers: who took a photo, on which day, when."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from graticule.errors import BadRecipeError
from graticule.photos.table import Photos, group_codes
from graticule.photos.times import read_times

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

UPLOADER_COLUMNS = ("creator", "creator_id", "uploader", "user", "mly_creator_id")


def is_empty(photos: Photos, name: str) -> bool:
    """Whether a column is missing or holds nothing."""
    return not photos.has(name) or photos.frame[name].null_count() == len(photos)


def uploader_column(photos: Photos) -> str | None:
    """The column that names who uploaded a photo; none where there is no such, or an empty one."""
    return next((name for name in UPLOADER_COLUMNS if not is_empty(photos, name)), None)


def uploaders(photos: Photos) -> Ints:
    """Codes of who uploaded each photo, shape ``(N,)``; those of unknown uploader are one group."""
    column = uploader_column(photos)
    if column is None:
        return np.zeros(len(photos), np.int64)
    return group_codes(photos.frame[column].cast(pl.String).fill_null(""))


def days(photos: Photos) -> Ints:
    """Codes of the calendar day where each photo was taken, shape ``(N,)``; those of unknown day are one group."""
    return group_codes(read_times(photos.frame["captured_at"])["day"].cast(pl.String).fill_null(""))


def joined(codes: Ints, *others: Ints) -> Ints:
    """Codes of each combination that occurs, shape ``(N,)``."""
    for other in others:
        codes = np.unique(codes * (other.max(initial=0) + 1) + other, return_inverse=True)[1].astype(np.int64)
    return codes


def seconds(photos: Photos) -> Floats:
    """When each photo was taken, shape ``(N,)``: seconds since 1970 in UTC, a date alone at midnight, else NaN."""
    if is_empty(photos, "captured_at"):
        return np.full(len(photos), np.nan)
    times = read_times(photos.frame["captured_at"])
    midnight = times["day"].cast(pl.Datetime("us")).dt.epoch("us").cast(pl.Float64) / 1e6
    return times["second"].fill_null(midnight).fill_null(float("nan")).to_numpy()


def moments(photos: Photos) -> Floats:
    """:func:`seconds`, of photos of which some must have a time.

    Raises:
        BadRecipeError: there is no column ``captured_at``, or no value in it is a time.
    """
    if is_empty(photos, "captured_at"):
        raise BadRecipeError(
            f"the photos have no column 'captured_at' that says when they were taken, or it is empty; they have: "
            f"{', '.join(photos.frame.columns)}"
        )
    second = seconds(photos)
    if np.isnan(second).all():
        raise BadRecipeError(
            f"no value in the column 'captured_at' is a time, such as {photos.frame['captured_at'].drop_nulls()[0]!r}; "
            f"write them like 2024-07-09T03:24:18+02:00, or as seconds since 1970"
        )
    return second
