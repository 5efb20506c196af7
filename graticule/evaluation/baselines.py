"""What else could have answered: the photos of a place or a drive together, and the photos that training knew."""

import numpy as np
import polars as pl

from graticule.choices import Together
from graticule.errors import BadTableError
from graticule.geo.sphere import Floats, great_circle_km
from graticule.inference.albums import Albums
from graticule.inference.gallery import Gallery
from graticule.inference.locate import Locator
from graticule.model.loading import Progress, silent
from graticule.photos.columns import is_empty, moments
from graticule.photos.table import Photos

BASELINES = {  # column of the predictions, what it is
    "together_error_km": "answered together",
    "nearest_error_km": "nearest neighbour",
    "density_error_km": "density of neighbours",
}


def albums_of(photos: Photos, together: Together) -> Albums:
    """Albums by the column ``place`` (else by position to 0.001 degrees) or by ``sequence``, in order of capture.

    Raises:
        BadTableError: there is no column ``sequence``.
    """
    if together == "place":
        return Albums.of(together, photos.places())
    when = None if is_empty(photos, "captured_at") else moments(photos)
    return Albums.of(together, photos.groups("sequence"), when)


def together_error_km(locator: Locator, photos: Photos, together: Together, *, progress: Progress = silent) -> Floats:
    """The error of each photo when its album is answered together, shape ``(N,)``; NaN where it cannot be read."""
    error_km = np.full(len(photos), np.nan)
    for predictions in locator.predict_together(photos.paths(), albums_of(photos, together), progress=progress):
        at = predictions.index
        error_km[at] = great_circle_km(photos.lat[at], photos.lon[at], predictions.points.lat, predictions.points.lon)
    return error_km


def neighbour_errors_km(
    locator: Locator, known: Photos, asked: Photos, *, seed: int = 0, progress: Progress = silent
) -> tuple[Floats, Floats]:
    """Errors without any training beyond the encoder's, each of shape ``(N,)``: of the nearest known photo's place, and
    of the densest place among several (Im2GPS). How wide and how many, the known photos decide among themselves.

    Raises:
        BadPhotoError: a photo cannot be read.
        BadTableError: there are no known photos.
    """
    if not len(known):
        raise BadTableError("there are no training photos to be neighbours")
    theirs, own = (locator.features(photos.paths(), progress=progress) for photos in (known, asked))
    gallery = Gallery(theirs, known.lat, known.lon, known.places())
    nearest = gallery.nearest(own)
    mode = gallery.density_mode(own, gallery.best_kernel(seed))
    return (
        great_circle_km(asked.lat, asked.lon, known.lat[nearest], known.lon[nearest]),
        great_circle_km(asked.lat, asked.lon, *mode),
    )


def with_baselines(
    rows: pl.DataFrame,
    locator: Locator,
    asked: Photos,
    known: Photos | None,
    *,
    together: Together | None,
    seed: int = 0,
    progress: Progress = silent,
) -> pl.DataFrame:
    """The rows of an evaluation with the errors of others beside the network's, as :data:`OTHERS` names them.

    Args:
        known: training photos, for the neighbours; none leaves these out.
        together: by what photos are answered together; none leaves that out.
    """
    if together:
        found = together_error_km(locator, asked, together, progress=progress)
        rows = rows.with_columns(pl.Series("together_error_km", found).fill_nan(None))
    if known is not None:
        read = rows["error"].is_null().to_numpy()
        both = np.full((2, len(rows)), np.nan)
        both[:, read] = neighbour_errors_km(locator, known, asked.take(read), seed=seed, progress=progress)
        rows = rows.with_columns(
            pl.Series(name, errors).fill_nan(None)
            for name, errors in zip(("nearest_error_km", "density_error_km"), both, strict=True)
        )
    return rows
