"""What is shown beside an answer: the known photos alike, their pictures, and a page that needs nothing but itself."""

import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import encoded, exif_of, picture
from PIL import Image
from test_cli import graticule as command

import graticule
from graticule.belief.confidence import Known
from graticule.errors import BadRecipeError, BadTableError, BundleError
from graticule.explaining import answer_page
from graticule.explaining.answer_page import AnswerPage
from graticule.geo.sphere import great_circle_km
from graticule.inference.locate import Locator
from graticule.inference.pictures import files_of
from graticule.model.bundle import Bundle
from graticule.photos.images import inspect
from graticule.photos.table import read_photos

KEPT = Path(__file__).parent / "bundles" / "format-4"
PHOTO = KEPT / "photo.jpg"


@pytest.fixture(scope="module")
def locator():
    return graticule.load(KEPT)


@pytest.fixture(scope="module")
def dataset(locator, tmp_path_factory):
    """A photo with EXIF wherever the bundle knows one, and those of one place twice."""
    folder = tmp_path_factory.mktemp("dataset")
    known = locator.bundle.confidence.known
    for i in range(4):
        (folder / f"{i}.jpg").write_bytes(encoded(picture(320, 240, seed=i), exif=exif_of(1, 2)))
    at = zip(known.lat, known.lon, strict=True)
    rows = [{"path": f"{i % 4}.jpg", "lat": lat, "lon": lon} for i, (lat, lon) in enumerate(at)]
    pl.DataFrame(rows).write_csv(folder / "table.csv")
    return read_photos(folder / "table.csv")


def test_the_known_photos_alike_are_those_that_weigh_most_with_their_distances(locator):
    [result] = locator.results([PHOTO], neighbours=3)
    fix, known = result.fix, locator.bundle.confidence.known
    weight = next(iter(locator.predict_batches([PHOTO]))).belief.known_weight[0]
    assert [near.index for near in fix.neighbours] == np.argsort(-weight, kind="stable")[:3].tolist()
    near = fix.to_json()["neighbours"][1]
    row = near["index"]
    assert (near["lat"], near["lon"]) == pytest.approx((known.lat[row], known.lon[row]), abs=1e-7)
    assert near["similarity"] == pytest.approx(weight[row], rel=1e-3)
    assert near["distance_km"] == pytest.approx(
        great_circle_km(fix.lat, fix.lon, known.lat[row], known.lon[row]), abs=1e-4
    )
    assert "neighbours" not in next(locator.results([PHOTO])).fix.to_json()


def test_photos_of_one_place_are_told_apart_by_their_looks(locator, dataset):
    """Four photos from one spot: a position alone does not say which of them is known."""
    paths = dataset.paths()[:4]
    features = locator.features(paths)
    known = Known.of(np.full(4, 38.9), np.full(4, -77.03), features, seed=0)
    confidence = replace(locator.bundle.confidence, known=known)
    own = Locator(replace(locator.bundle, confidence=confidence))
    order = [2, 0, 3, 1]
    frame = pl.DataFrame([{"path": paths[i].name, "lat": 38.9, "lon": -77.03} for i in order])
    frame.write_csv(paths[0].parent / "spot.csv")
    assert files_of(own, read_photos(paths[0].parent / "spot.csv")).paths == paths
    frame.with_columns(lat=pl.lit(12.0)).write_csv(paths[0].parent / "far.csv")
    with pytest.raises(BadTableError, match="none of these 4 photos lies where"):
        files_of(own, read_photos(paths[0].parent / "far.csv"))


def test_a_bundle_holds_pictures_only_where_its_publisher_puts_them(dataset, tmp_path):
    folder = Path(shutil.copytree(KEPT, tmp_path / "bundle"))
    assert Bundle.read(folder).thumbnails is None
    said = command("gallery", "thumbnails", folder, dataset.root / "table.csv", "--px", 96)
    assert "holds pictures of" in said.stdout
    bundle = Bundle.read(folder)
    count = len(bundle.confidence.known.lat)
    for index in (0, 1, count - 1):
        jpeg = bundle.thumbnails.jpeg(index)
        with Image.open(io.BytesIO(jpeg)) as image:
            assert max(image.size) == 96
        assert inspect(jpeg).lat is None
    again = Bundle.read(bundle.write(folder))  # as a calibration would
    assert again.thumbnails.jpeg(count - 1) == bundle.thumbnails.jpeg(count - 1)
    with pytest.raises(IndexError):
        bundle.thumbnails.jpeg(count)
    broken = Path(shutil.copytree(folder, tmp_path / "broken")) / "thumbnails.safetensors"
    broken.write_bytes(broken.read_bytes()[:-1] + b"?")
    with pytest.raises(BundleError, match="thumbnails.safetensors is not the file"):
        Bundle.read(broken.parent)
    command("gallery", "thumbnails", folder, "--remove")
    assert not (folder / "thumbnails.safetensors").exists()
    assert Bundle.read(folder).thumbnails is None


def data_of(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="browse-data">(.*?)</script>', text, re.DOTALL)[1]), text


@pytest.fixture
def scripted(monkeypatch):
    """A page as where `make page` built its script."""
    monkeypatch.setattr("graticule.reporting.browse.is_built", lambda: True)
    if not (Path(graticule.__file__).parent / "serving/page/report/report.js").is_file():
        monkeypatch.setattr("graticule.reporting.browse._built", lambda name: "")


def test_a_page_shows_all_of_a_photo_and_nothing_of_the_machine(locator, dataset, tmp_path, scripted):
    (tmp_path / "street.jpg").write_bytes(encoded(picture(), exif=exif_of(38.9, -77.03)))
    page = AnswerPage(locator, [tmp_path / "street.jpg"], pictures=files_of(locator, dataset), why="saliency")
    claims = [(38.9, -77.03)]
    results = locator.results(page.photos, names=True, neighbours=2, masses=True, claims=claims)
    [result] = page.gather(results)
    assert result.masses is None
    data, text = data_of(page.write(tmp_path / "page.html"))
    [one] = data["answers"]
    fix = one["fix"]
    assert (fix["lat"], fix["lon"]) == (round(result.fix.lat, 7), round(result.fix.lon, 7))
    assert [feature["properties"]["coverage"] for feature in fix["regions"]["features"]] == [0.5, 0.9]
    assert sum(cell["properties"]["mass"] for cell in fix["density"]["features"]) == pytest.approx(1, abs=0.02)
    assert fix["exif"]["lat"] == pytest.approx(38.9)
    assert fix["claim"]["probability"] == round(result.fix.claim.probability, 6)
    assert all(near["thumbnail"].startswith("data:image/jpeg;base64,") for near in fix["neighbours"])
    assert one["heat"]
    assert one["name"] == "street.jpg"
    assert str(tmp_path) not in text


def test_a_map_of_a_folder_holds_many_and_says_what_it_leaves_out(locator, tmp_path, scripted, monkeypatch):
    monkeypatch.setattr(answer_page, "DRAWN", 2)
    monkeypatch.setattr(answer_page, "LISTED", 4)
    (tmp_path / "b").mkdir()
    photos = [PHOTO, *(Path(shutil.copy(PHOTO, tmp_path / name)) for name in ("0.jpg", "1.jpg", "b/2.jpg"))]
    photos = [*photos[1:], tmp_path / "none.jpg", tmp_path / "b/3.jpg"]
    page = AnswerPage(locator, photos, many=True)
    assert len(list(page.gather(locator.results(photos, masses=True)))) == 5
    data, _ = data_of(page.write(tmp_path / "map.html"))
    assert data["total"] == 5
    assert [one["name"] for one in data["answers"]] == ["0.jpg", "1.jpg", "b/2.jpg", "none.jpg"]
    assert [bool(one["photo"]) for one in data["answers"]] == [True, True, False, False]
    assert "there is no file" in data["answers"][3]["error"]
    assert "density" not in data["answers"][0]["fix"]
    with pytest.raises(BadRecipeError, match="at most of 50, and there are 60; --map"):
        AnswerPage(locator, photos * 12)


def test_a_page_without_its_script_still_says_the_answer(locator, tmp_path, monkeypatch):
    monkeypatch.setattr("graticule.reporting.browse.is_built", lambda: False)
    said = command("locate", PHOTO, "--model", KEPT, "--page", tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "make page" in text
    assert "half of such photos lie within" in text
    assert "half of such photos lie within" in said.stdout
