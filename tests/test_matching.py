"""Local features of two photos of one thing agree where the geometry says so, and those of two things do not."""

import io
import json

import numpy as np
import pytest
from PIL import Image, ImageFilter
from test_evidence import KEPT, PHOTO
from test_explain import make_locator

import graticule
from graticule.errors import BadRecipeError
from graticule.explaining import matching
from graticule.explaining.answer_page import AnswerPage
from graticule.explaining.matching import Agreement, Evidence, agreeing, evidence, features
from graticule.explaining.render import explain_photo

pytest.importorskip("cv2", reason="OpenCV is not installed: pip install 'graticule[match]'")


def wall(seed, size=360):
    """A wall of blotches, as no other."""
    noise = np.random.default_rng(seed).integers(0, 256, (size // 6, size // 6, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(2))


def turned(image, degrees=8, dx=15, dy=-9):
    """The wall seen turned and moved, and where a point of the first lies in the second."""
    seen = image.rotate(degrees, translate=(dx, dy), resample=Image.Resampling.BICUBIC)
    angle, middle = np.radians(degrees), np.array(image.size) / 2
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return seen, lambda points: (points - middle) @ turn.T + middle + (dx, dy)


def jpeg(image):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=92)
    return file.getvalue()


def test_points_agree_where_a_turned_and_moved_wall_puts_them():
    first = wall(0)
    second, moved = turned(first)
    here, there = features(np.asarray(first)), features(np.asarray(second))
    own, theirs, matched = agreeing(here, there)
    off = np.linalg.norm(moved(here.at[own]) - there.at[theirs], axis=1)
    assert len(own) > 100
    assert (off < 2).mean() > 0.95
    assert len(own) <= matched
    other, _, _ = agreeing(here, features(np.asarray(wall(1))))
    assert len(other) < matching.STRONG
    nothing = features(np.full((100, 100, 3), 128, np.uint8))
    assert agreeing(here, nothing)[2] == 0


def evidence_of(best, others, candidates=3):
    def one(index, count):
        points = np.zeros((count, 2), np.float32)
        return Agreement(index, 38.9, -77.03, 0.012, 2 * count, points, points)

    return Evidence([one(0, best), *(one(i, 0) for i in range(1, candidates))], np.array(others))


@pytest.mark.parametrize(
    ("best", "others", "strength"),
    [
        (60, [4, 7, 9, 0] * 3, "strong"),
        (60, [4, 7, 9, 0], "some"),
        (16, [4, 9, 15, 0], "some"),
        (9, [0, 1, 2, 3], "none"),
        (16, [20, 9, 15, 18], "none"),
    ],
)
def test_evidence_is_as_strong_as_photos_from_elsewhere_let_it_be(best, others, strength):
    found = evidence_of(best, others)
    assert found.strength == strength
    assert found.in_words().startswith(f"{best} points agree on one geometry with the known photo at 38.90000")


class Walls:
    """A wall for each known photo; that of ``index`` is the one that is asked about."""

    def __init__(self, index, size=360):
        self.index, self.size = index, size

    def jpeg(self, index):
        return jpeg(wall(0 if index == self.index else index + 1, self.size))


def test_the_known_photo_of_the_same_wall_is_found_drawn_and_told(tmp_path, monkeypatch):
    monkeypatch.setattr(matching, "OTHERS", 10)
    locator = graticule.load(KEPT)
    asked = jpeg(turned(wall(0))[0])
    near = next(locator.results([asked], neighbours=3)).fix.neighbours
    monkeypatch.setattr(matching, "CANDIDATES", 3)
    (tmp_path / "wall.jpg").write_bytes(asked)
    picture, facts = explain_photo(
        locator, tmp_path / "wall.jpg", tmp_path, ["match"], pictures=Walls(near[2].index), score=False
    )
    found = json.loads(facts.read_text())["evidence"]
    assert found["strength"] == "strong"
    assert found["known_photos"][0]["index"] == near[2].index
    assert found["known_photos"][0]["inliers"] > 50 > 2 * max(found["inliers_elsewhere"])
    assert len(found["inliers_elsewhere"]) == 10
    assert picture.name == "wall-match.png"
    page = AnswerPage(locator, [tmp_path / "wall.jpg"], pictures=Walls(near[2].index), why="match")
    list(page.gather(locator.results(page.photos, masses=True)))
    written = page.write(tmp_path / "page.html").read_text(encoding="utf-8")
    assert "strong evidence that both show the same things" in written


def test_without_pictures_that_are_large_enough_it_is_said_what_to_do():
    locator = graticule.load(KEPT)
    for pictures in (None, Walls(0, size=160)):
        with pytest.raises(BadRecipeError, match="gallery thumbnails BUNDLE DATASET --px 800"):
            evidence(locator, PHOTO.read_bytes(), pictures)
    with pytest.raises(BadRecipeError, match="--gallery"):
        evidence(make_locator(), PHOTO.read_bytes(), Walls(0))
