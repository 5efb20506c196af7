"""The panoramas of a dataset as views: flat pictures of some headings, each a row of the same place."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import polars as pl
from PIL import Image

from graticule.errors import BadPhotoError, BadRecipeError, BadTableError
from graticule.files import write_bytes
from graticule.photos import images
from graticule.photos.panoramas import perspective, whole
from graticule.photos.table import Photos
from graticule.sources.ingest import MAX_REFUSED, Progress, Refusal, ingest

HEADINGS = (0.0, 90.0, 180.0, 270.0)


def cut_panoramas(
    photos: Photos,
    out: Path,
    *,
    headings: Sequence[float] = HEADINGS,
    field_of_view: float = 90.0,
    size: tuple[int, int] = (640, 640),
    quality: int = 92,
    max_refused: float = MAX_REFUSED,
    progress: Progress | None = None,
) -> Path:
    """Make a dataset in which views stand in the place of each panorama; other photos stay as they are.

    A panorama says so by its GPano, or is twice as wide as high. Its views keep its columns, have its path as
    ``place`` where it had none, and ``heading`` where the panorama's own is known; one that a cropped panorama does
    not show is left out.

    Args:
        headings: degrees clockwise from the middle of the panorama.
        field_of_view: degrees from the left to the right side of a view.
        size: width and height of a view, pixels.

    Raises:
        BadRecipeError: no headings, or an impossible field of view or size.
        BadTableError: no photo is a panorama.
        TooManyRefusedError, WriteError: see :func:`graticule.sources.ingest.ingest`.
    """
    if not headings or not 10 <= field_of_view <= 150 or min(size) < images.MIN_SIDE:
        raise BadRecipeError(
            f"views need a heading, a field of view from 10 to 150 degrees and sides of {images.MIN_SIDE} pixels or "
            f"more; found {len(headings)} headings, {field_of_view:g} degrees, {size[0]} x {size[1]}"
        )
    rows: list[dict[str, object]] = []
    refused: list[Refusal] = []
    cut = 0
    for number, (row, path) in enumerate(zip(photos.frame.iter_rows(named=True), photos.paths(), strict=True)):
        try:
            data = images.read_file(path)
            facts = images.inspect(data)
            area = facts.pano or whole(facts.width, facts.height)
            if area is None:
                rows.append(row | {"path": str(path)})
                continue
            rgb = images.decode(data)
        except BadPhotoError as error:
            refused.append(Refusal(str(row["path"]), error.reason, str(error)))
            continue
        heading = row["heading"] if row.get("heading") is not None else facts.heading
        before = len(rows)
        for turn in headings:
            view = perspective(rgb, area, turn, field_of_view, *size)
            if view is None:
                continue
            name = f"images/{number:06}-{turn % 360:03.0f}.jpg"
            jpeg = BytesIO()
            Image.fromarray(view).save(jpeg, "JPEG", quality=quality)
            write_bytes(out / name, jpeg.getvalue())
            looks = None if heading is None else (float(heading) + turn) % 360
            rows.append(row | {"path": name, "place": row.get("place") or str(row["path"]), "heading": looks})
        cut += len(rows) > before
        if len(rows) == before:
            refused.append(Refusal(str(row["path"]), "too small", "it shows no whole view at any of the headings"))
        if progress:
            progress(number + 1, len(photos))
    if not cut:
        raise BadTableError(
            f"none of the {len(photos)} photos is a panorama that shows such a view: none has GPano metadata or is "
            f"twice as wide as high"
        )
    measured = {"width", "height", "sha256", "dhash"}  # of the panorama, and made anew
    table = pl.DataFrame(rows, infer_schema_length=None)
    return ingest(
        table.drop(measured & set(table.columns)),
        out,
        out,
        source="panoramas",
        max_refused=max_refused,
        facts={"panoramas": cut, "field_of_view": field_of_view, "headings": list(headings)},
        refused_before=refused,
    )
