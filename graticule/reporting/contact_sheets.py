"""Contact sheets: what a check found, as small pictures that a person looks at before believing it."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray

from graticule.errors import BadPhotoError
from graticule.files import write_text
from graticule.photos import images
from graticule.photos.quality import MARKING, REASONS, Checks
from graticule.photos.table import Photos

Rows = NDArray[np.int64]

CONTACT = "contact.html"
THUMBNAIL_PX = 200
BESIDE = 0.25  # of a limit: photos farther off are plainly this or plainly not


@dataclass(frozen=True, slots=True)
class Thumb:
    """A photo on the sheet; ``uri`` is none where it cannot be read."""

    name: str
    uri: str | None
    note: str


@dataclass(frozen=True, slots=True)
class Sheet:
    """One reason: a sample of its photos, then those on either side of its limit."""

    reason: str
    text: str
    count: int
    marked: bool
    limit: str
    rows: list[tuple[str, list[Thumb]]]


def write_contact(
    photos: Photos,
    checks: Checks,
    out: Path,
    *,
    marking: Sequence[str] = MARKING,
    each: int = 24,
    beside: int = 8,
    seed: int = 0,
) -> Path:
    """Write one HTML page with a sheet a reason.

    Args:
        marking: reasons that ``--apply`` marks photos for; only said on the page.
        each: photos shown of each reason, drawn at random.
        beside: where one number decides, photos shown that lie nearest to the limit, on each side of it
            that is not shown in full, and no farther off than ``BESIDE``.

    Raises:
        WriteError: ``out`` cannot be written.
    """
    rng = np.random.default_rng(seed)
    counts = checks.counts()
    sheets = [
        _sheet(photos, checks, reason, count, reason in marking, each, beside, rng)
        for reason, count in counts.items()
        if reason not in checks.unknown or count
    ]
    env = Environment(
        loader=PackageLoader("graticule", "assets"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = env.get_template("contact.html.j2").render(
        name=photos.name,
        photos=len(photos),
        synthetic=photos.synthetic,
        flagged=int((checks.frame["reasons"].list.len() > 0).sum()),
        marked=len(photos) - checks.marks(marking).null_count(),
        sheets=sheets,
        unknown=checks.not_looked_for(),
    )
    write_text(out, page)
    return out


def _sheet(
    photos: Photos,
    checks: Checks,
    reason: str,
    count: int,
    marked: bool,
    each: int,
    beside: int,
    rng: np.random.Generator,
) -> Sheet:
    about = REASONS[reason]
    has = checks.has(reason)
    some = np.sort(rng.permutation(np.flatnonzero(has))[:each])
    if reason == "near-duplicate":  # each after the photo that it repeats
        row_of = {path: row for row, path in enumerate(checks.frame["path"])}
        firsts = [row_of[path] for path in checks.frame["like"][some.tolist()]]
        some = np.stack([np.array(firsts, np.int64), some], axis=1).ravel()
    rows = [("drawn at random" if count > each else "all", some)]
    limit = ""
    if about.measure and about.limit:
        level = float(getattr(checks.limits, about.limit))
        limit = f"{about.limit} = {level:g}"
        value = checks.frame[about.measure].to_numpy()
        nearest = np.argsort(np.abs(value - level), kind="stable")
        nearest = nearest[np.abs(value[nearest] - level) <= BESIDE * level]  # NaN is not
        if count > each:
            rows.append(("nearest to the limit, and this reason", nearest[has[nearest]][:beside]))
        rows.append(("nearest to the limit, and not this reason", nearest[~has[nearest]][:beside]))
    shown = [(title, [_thumb(photos, checks, row, about.measure) for row in chosen]) for title, chosen in rows]
    return Sheet(reason, about.text, count, marked, limit, [(title, thumbs) for title, thumbs in shown if thumbs])


def _thumb(photos: Photos, checks: Checks, row: int, measure: str | None) -> Thumb:
    found = checks.frame.row(int(row), named=True)
    note = found["error"] or ", ".join(found["reasons"]) or "fine"
    if measure and found[measure] is not None:
        note = f"{measure} {found[measure]:.3g}; {note}"
    return Thumb(Path(found["path"]).name, _uri(photos.root / found["path"]), note)


def _uri(path: Path) -> str | None:
    """A small JPEG, without the EXIF of its original."""
    try:
        jpeg = images.thumbnail(images.read_file(path), THUMBNAIL_PX)
    except BadPhotoError:
        return None
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
