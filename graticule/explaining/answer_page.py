"""Answers as one HTML file that opens from disk: photos, a map, names, errors, claims, known photos alike, and why."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from graticule.errors import BadPhotoError, BadRecipeError
from graticule.explaining.heatmaps import matches
from graticule.explaining.matching import evidence
from graticule.explaining.overlays import overlay, quick
from graticule.files import write_text
from graticule.inference.claims import own_position
from graticule.inference.formats import map_link
from graticule.inference.locate import Locator
from graticule.inference.pictures import Pictures
from graticule.inference.said import Result
from graticule.inference.views import SHOWN_MASS, SHOWN_REGIONS, Exact, cells_json, fix_json, regions_json
from graticule.model.loading import Progress, read_bytes, silent
from graticule.photos.images import data_uri, thumbnail
from graticule.reporting.browse import answers_of
from graticule.reporting.figures import to_data_uri
from graticule.reporting.pages import render

MOST = 50  # photos of a page that shows all of each
CELLS, LEAST_CELLS, MOST_CELLS = 12_000, 100, 1500  # of all beliefs in a page, and of one
PHOTO_PX, SMALL_PX = 1280, 120  # longer sides of photos, alone and on a map of many
DRAWN, LISTED = 1000, 20_000  # photos on a map of many with picture and region; with their answer alone
DECIMALS = 6  # of a degree, 0.1 m, in a map of many


@dataclass
class AnswerPage:
    """What a page is made of, gathered while photos are answered; no more is held than the page will show.

    Attributes:
        locator: the bundle that answers, with :attr:`Result.masses` kept.
        photos: all that are asked about.
        many: a map of a folder: photos are small, and what lies beyond ``LISTED`` is only counted.
        pictures: of known photos.
        why: a method of :data:`graticule.explaining.methods.METHODS` that shows what each answer depends on, or
            ``match``, which draws lines to the known photo that shares most with it.
    """

    locator: Locator
    photos: Sequence[Path]
    many: bool = False
    pictures: Pictures | None = None
    why: str | None = None
    progress: Progress = silent
    _shown: list[dict[str, Any]] = field(default_factory=list)
    _seen: int = 0
    _folder: str = field(init=False)

    def __post_init__(self) -> None:
        if len(self.photos) > MOST and not self.many:
            raise BadRecipeError(
                f"a page shows all of each photo, at most of {MOST}, and there are {len(self.photos):,}; "
                f"--map FILE.html puts a folder on one map with one table"
            )
        self._folder = os.path.commonpath([photo.absolute().parent for photo in self.photos])

    @property
    def _synthetic(self) -> bool:
        return bool(self.locator.bundle.facts.get("synthetic", False))

    def gather(self, results: Iterable[Result]) -> Iterator[Result]:
        """The same results, each taken down on its way."""
        for result in results:
            self._seen += 1
            if len(self._shown) < LISTED:
                self._shown.append(self._of(result))
            yield replace(result, masses=None, calibration=None)

    def write(self, out: Path) -> Path:
        """Write the page.

        Raises:
            WriteError: it cannot be written.
        """
        bundle = self.locator.bundle
        model = {
            "name": bundle.recipe.name,
            "cells": len(bundle.partition),
            "area": self.locator.area,
            "calibrated": bundle.confidence is not None,
            "synthetic": self._synthetic,
        }
        answers = {"answers": self._shown, "total": self._seen, "drawn": DRAWN if self.many else MOST, "model": model}
        title = self._shown[0]["name"] if self._seen == 1 else f"{self._seen:,} photos"
        write_text(out, render("answers.html.j2", title=title, browse=answers_of(answers), page=answers))
        return out

    def _of(self, result: Result) -> dict[str, Any]:
        photo = Path(result.photo)
        name = os.path.relpath(photo.absolute(), self._folder)  # no page tells the folders of the machine that made it
        if result.fix is None:
            return {"name": name, "photo": None, "error": str(result.error)}
        if self.many and len(self._shown) >= DRAWN:
            return {"name": name, "photo": None, "fix": _short(result.fix.to_json())}
        data = read_bytes(photo)
        view = Exact(self.locator, result.fix, result.masses, result.calibration)
        fix = fix_json(name, view, self.locator.area, own_position(data), pictures=self.pictures)
        coverages = SHOWN_REGIONS[-1:] if self.many else SHOWN_REGIONS
        fix["regions"] = regions_json(view, coverages, DECIMALS if self.many else None)
        shown: dict[str, Any] = {
            "link": None if self._synthetic else map_link(result.fix),
            "name": name,
            "photo": _photo(data, SMALL_PX if self.many else PHOTO_PX),
        }
        if self.many:
            return shown | {"fix": _short(fix)}
        ground = self.locator.grown
        if ground is not None and result.masses is not None:
            most = min(max(CELLS // len(self.photos), LEAST_CELLS), MOST_CELLS)
            fix["density"] = cells_json(*ground.summary(result.masses, SHOWN_MASS, most))
        if self.why == "match":
            found, own, theirs = evidence(self.locator, data, self.pictures, progress=self.progress)
            best = found.found[0]
            drawn = matches(own, theirs, best.here, best.there, title="", synthetic=self._synthetic)
            shown["match"] = {"picture": to_data_uri(drawn), "words": found.in_words()}
        elif self.why:
            heat = quick(self.locator, data, self.why, self.progress)
            shown |= {"heat": overlay(heat.heat, heat.signed), "signed": heat.signed, "why": self.why}
        return shown | {"fix": fix}


def _photo(data: bytes, longest: int) -> str | None:
    """A small JPEG without what the camera wrote; None of a photo that only the network can read."""
    try:
        return data_uri(thumbnail(data, longest))
    except BadPhotoError:
        return None


def _short(fix: dict[str, Any]) -> dict[str, Any]:
    """Without what a table of many does not show."""
    return fix | {"region": [], "cells": []}
