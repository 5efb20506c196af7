import numpy as np
import polars as pl
import pytest
from PIL import Image
from test_report import Page
from test_splits import photos

from graticule.photos.table import Photos
from graticule.reporting.audit_page import write_audit

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def sides(tmp_path):
    """Ten photos a side, some metres apart, of which two test photos have a file."""
    rng = np.random.default_rng(0)
    train, test = (
        photos(
            rng.uniform(0, 0.002, 10), rng.uniform(0, 0.002, 10), sequence=[HOSTILE] * 5 + [name] * 5,
            captured_at=f"2024-07-0{day} 10:00:00", creator="Ann", attribution="a service", licence="CC-BY-SA-4.0",
            dhash=pl.Series([7] * 10, dtype=pl.UInt64),
        )
        for name, day in (("a", 1), ("b", 2))
    )  # fmt: skip
    for name in ("0.jpg", "1.jpg"):
        Image.new("RGB", (64, 48), "teal").save(tmp_path / name)
    return train, Photos(test.frame, tmp_path, name="summer")


def test_the_page_shows_the_verdict_the_map_what_is_shared_and_the_worst_pairs(sides, tmp_path):
    found = write_audit(*sides, tmp_path / "audit")
    page = Page((tmp_path / "audit/audit.html").read_text())
    assert found.verdict in page.text
    assert "NOT held out: training has seen the test" in page.text
    for words in ("sequences 1 50.0%", "uploaders 1 100.0%", "days 0 0.0%", "24 hours apart", "0 of 64 bits differ"):
        assert words in page.text, words
    assert "a service CC-BY-SA-4.0" in page.text
    pictures = [attrs for tag, attrs in page.tags if tag == "img"]
    assert any("blue dots" in attrs["alt"] for attrs in pictures)
    assert {"test photo 0.jpg", "test photo 1.jpg"} & {attrs["alt"] for attrs in pictures}
    assert "The photo is not at hand." in page.text


def test_the_page_needs_nothing_but_itself_and_trusts_no_text(sides, tmp_path):
    write_audit(*sides, tmp_path)
    page = Page((tmp_path / "audit.html").read_text())
    assert all(attrs["src"].startswith("data:image/") for tag, attrs in page.tags if tag == "img")
    assert not {"link", "iframe"} & {tag for tag, _ in page.tags}
    scripts = [attrs["type"] for tag, attrs in page.tags if tag == "script"]
    assert scripts in ([], ["application/json", "module"])  # our own two, where `make page` built them
    assert HOSTILE in page.text


def test_tables_without_photos_have_their_pairs_in_words(tmp_path):
    write_audit(photos([0, 1], 0), photos([0.0001, 2], 0), tmp_path)
    text = Page((tmp_path / "audit.html").read_text()).text
    assert "The photos themselves are not at hand" in text
    assert "11 m apart" in text
    assert "unknown: no column sequence" in text
