"""What else could have answered: the photos of a place or a drive together, and the photos that training knew."""

import numpy as np
import polars as pl

from graticule.choices import Together
from graticule.errors import BadTableError
from graticule.evaluation.predictions import BELIEF, predict_rows
from graticule.geo.sphere import Floats, great_circle_km
from graticule.inference.albums import albums_of
from graticule.inference.gallery import Gallery
from graticule.inference.locate import Locator
from graticule.model.loading import Progress, silent
from graticule.photos.table import Photos


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
    """The rows of an evaluation with the errors of others beside the network's, as :data:`BASELINES` names them.

    Args:
        known: training photos, for the neighbours; none leaves these out.
        together: by what photos are answered together; none leaves that out.
    """
    if together:
        found = predict_rows(locator, asked, albums=albums_of(asked, together), progress=progress)
        rows = rows.with_columns(found[name].alias(f"together_{name}") for name in ("error_km", *BELIEF))
    if known is not None:
        read = rows["error"].is_null().to_numpy()
        both = np.full((2, len(rows)), np.nan)
        both[:, read] = neighbour_errors_km(locator, known, asked.take(read), seed=seed, progress=progress)
        rows = rows.with_columns(
            pl.Series(name, errors).fill_nan(None)
            for name, errors in zip(("nearest_error_km", "density_error_km"), both, strict=True)
        )
    return rows
