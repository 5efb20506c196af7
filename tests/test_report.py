import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest
from PIL import Image

from graticule.errors import BadTableError
from graticule.geo.sphere import great_circle_km
from graticule.partition import CellPartition
from graticule.reporting import figures
from graticule.reporting.report import write_report

HOSTILE = "<script>alert(1)</script>.jpg"
RANDOM = "NOT held out: 3 sequences with 40% of the test photos are shared with training."


@pytest.fixture(scope="module", autouse=True)
def small_figures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "DPI", 20)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small run as `graticule train` and `graticule evaluate` leave it on disk."""
    root = tmp_path_factory.mktemp("run")
    bundle, evaluation, photos = root / "bundle", root / "evaluation", root / "photos"
    for folder in (bundle / "training", evaluation, photos):
        folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    lat, lon = 47.5 + rng.normal(0, 0.004, 300), 8.7 + rng.normal(0, 0.004, 300)
    partition = CellPartition.fit(lat, lon, split_above=50, drop_below=5)
    partition.write(bundle / "cells.parquet")
    index = {"facts": {"photos": 300, "cells": len(partition)}, "versions": {"torch": "2.15.0"}, "sha256": {}}
    (bundle / "bundle.json").write_text(json.dumps(index))
    (bundle / "recipe.yaml").write_text("name: tiny\nencoder:\n  name: resnet18\n")
    (bundle / "training" / "history.csv").write_text("epoch,train_loss,lr,val_loss\n1,3.0,0.001,\n2,2.0,0.001,2.5\n")

    n = 6
    to_lat, to_lon = lat[:n] + np.arange(n) * 0.001, lon[:n]
    names = [HOSTILE, *(f"{i}.jpg" for i in range(1, n))]
    for name in names[1:]:
        Image.new("RGB", (64, 48), "teal").save(photos / name.replace("/", "_"))
    errors = great_circle_km(lat[:n], lon[:n], to_lat, to_lon)
    cells = partition.names[:2]
    pl.DataFrame(
        {
            "path": names,
            "lat": lat[:n],
            "lon": lon[:n],
            "place": names,
            "predicted_lat": to_lat,
            "predicted_lon": to_lon,
        }
    ).with_columns(
        pl.Series("error_km", errors),
        pl.Series("expected_error_km", errors * 1.5),
        pl.Series("top_cells", [cells] * n),
        pl.Series("top_probabilities", [[0.7, 0.2]] * n),
        pl.Series("belief_cells", [cells] * n),
        pl.Series("belief_per_km2", [[3.0, 0.5]] * n),
    ).write_parquet(evaluation / "predictions.parquet")
    metrics = {
        "split": "test", "recipe": "tiny", "encoder": "resnet18", "synthetic": True, "photos": n, "places": n,
        "outside_cells": 1, "unreadable": 0, "top1": 0.5, "median_km": 0.278, "mean_km": 0.3, "p90_km": 1.234,
        "within_25_m": 0.25, "within_1_km": 1.0, "within_25_km": 1.0, "score": 2345.6, "cross_entropy": None,
        "center_distance_km": 0.057, "map_diagonal_km": 3.2, "intervals": {"median_km": [0.111, 0.444]},
        "by_country": [
            {"label": name, "photos": n // 2, "median_km": 0.278, "within_25_km": 1.0} for name in ("CH", "AT")
        ],
        "others": {"nearest neighbour": {"median_km": 0.777, "mean_km": 0.888, "intervals": {"median_km": [0.6, 0.9]}}},
        "unmarked": {"photos": 5, "median_km": 0.255, "intervals": {"median_km": [0.1, 0.4]}},
    }  # fmt: skip
    (evaluation / "metrics.json").write_text(json.dumps(metrics))
    bins = {
        "up_to_5_m": 3,
        "up_to_25_m": 2,
        "up_to_100_m": 1,
        "up_to_1_km": 0,
        "up_to_5_km": 0,
        "up_to_25_km": 0,
        "beyond": 0,
    }
    (evaluation / "audit.json").write_text(json.dumps({"nearest_photos": bins, "held_out": False, "verdict": RANDOM}))
    return bundle, evaluation, photos


class Page(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture(scope="module")
def page(run, tmp_path_factory):
    bundle, evaluation, photos = run
    out = write_report(bundle, evaluation, tmp_path_factory.mktemp("page") / "report.html", photos=photos)
    return Page(out.read_text())


def test_the_headline_has_its_unit_its_interval_and_the_verdict_beside_it(page):
    start = page.text[: page.text.index("What the numbers mean")]
    assert "278 m" in start
    assert "95 % interval: 111 m to 444 m" in start
    assert "NOT held out" in start
    assert "Not held out: part of this number is memory" in start
    assert start.index("NOT held out") < start.index("median error")


def test_the_maps_of_examples_show_the_belief(page):
    assert "The colours are how likely the model finds each spot" in page.text
    said = [attrs["alt"] for tag, attrs in page.tags if tag == "img"]
    assert sum(alt.endswith("best guess, and how likely the model finds each spot") for alt in said) == 6


def test_the_numbers_are_there_by_their_names(page):
    for words in (
        "90th percentile",
        "1.2 km",
        "between the centres of the predicted and the true cell",
        "57 m",
        "right cell",
        "50.0 %",
        "2,346",
        "CH",
        "resnet18",
    ):
        assert words in page.text, words
    assert "cross-entropy" not in page.text, "not measured, so not shown"
    assert "within 1 km" in page.text
    assert page.text.count("within 25 km") == 1, "100 % again says nothing: only the heading of the table by country"


def test_what_else_could_have_answered_stands_beside_the_model(page):
    table = page.text[page.text.index("What else could have answered") : page.text.index("How far off")]
    assert table.index("this model") < table.index("278 m") < table.index("nearest neighbour") < table.index("777 m")
    assert "600 m to 900 m" in table


def test_the_median_without_marked_photos_tells_of_how_many(page):
    row = page.text[page.text.index("median error, unmarked photos") :][:200]
    assert "of the 5 photos" in row
    assert "255 m" in row


def test_a_hostile_file_name_is_only_text(page):
    scripts = [attrs["type"] for tag, attrs in page.tags if tag == "script"]
    assert scripts in ([], ["application/json", "module"])  # our own two, where `make page` built them
    assert HOSTILE in page.text


def test_the_page_needs_nothing_but_itself(page):
    images = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    assert len(images) > 10
    assert all(src.startswith(("data:image/png;base64,", "data:image/jpeg;base64,")) for src in images)
    assert not {"link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert not any(re.match("(https?:)?//", str(v)) for _, attrs in page.tags for v in attrs.values())  # synthetic
    assert all(attrs["alt"] for tag, attrs in page.tags if tag == "img")


def test_photos_and_the_map_come_before_the_tables(page):
    headings = ("Examples", "Where it puts them", "What the numbers mean", "The cells")
    order = [page.text.index(words) for words in headings]
    assert order == sorted(order)


def test_a_real_place_links_to_a_map_and_an_invented_one_does_not(run, page, tmp_path):
    assert not [attrs for tag, attrs in page.tags if tag == "a"]
    bundle, evaluation, photos = run
    shutil.copytree(evaluation, tmp_path / "real")
    metrics = json.loads((evaluation / "metrics.json").read_text()) | {"synthetic": False}
    (tmp_path / "real/metrics.json").write_text(json.dumps(metrics))
    real = Page(write_report(bundle, tmp_path / "real", tmp_path / "r.html", photos=photos).read_text())
    links = [attrs["href"] for tag, attrs in real.tags if tag == "a"]
    rows = pl.read_parquet(evaluation / "predictions.parquet")
    assert len(links) == 12  # of 3 best and 3 worst photos the truth and the guess
    best = rows.sort("error_km").row(0, named=True)
    assert links[0].startswith(f"https://www.openstreetmap.org/?mlat={best['lat']:.5f}&mlon={best['lon']:.5f}#map=")


def test_a_photo_that_is_gone_is_said_to_be_gone(page):
    assert page.text.count("The photo is not at hand.") == 1


def test_a_synthetic_city_is_labelled_at_the_top_and_a_real_one_is_not(run, page, tmp_path):
    assert page.text.index("Synthetic city") < page.text.index("278 m")
    bundle, evaluation, _ = run
    (tmp_path / "metrics.json").write_text(
        (evaluation / "metrics.json").read_text().replace('"synthetic": true', '"synthetic": false')
    )
    real = Page(write_report(bundle, tmp_path, tmp_path / "real.html").read_text())
    assert "Synthetic city" not in real.text


def test_what_it_must_not_be_used_for_is_said(page):
    for words in ("navigation", "emergency", "surveillance", "private person"):
        assert words in page.text


def test_missing_parts_are_left_out_with_a_sentence(run, tmp_path):
    _, evaluation, _ = run
    (tmp_path / "metrics.json").write_text((evaluation / "metrics.json").read_text())
    bare = Page(write_report(tmp_path / "no-bundle", tmp_path, tmp_path / "r.html").read_text())
    assert "278 m" in bare.text
    assert not [tag for tag, _ in bare.tags if tag == "img"]
    for words in ("no map of the cells", "no learning curves", "no predictions.parquet", "no audit.json"):
        assert words in bare.text
    assert "Not audited" in bare.text


def test_a_bundle_alone_makes_a_page_without_a_headline(run, tmp_path):
    bundle, _, _ = run
    page = Page(write_report(bundle, tmp_path / "nothing", tmp_path / "r.html").read_text())
    assert "no metrics.json" in page.text
    assert "median error (" not in page.text


def test_nothing_at_all_is_an_error_that_says_what_to_run(tmp_path):
    with pytest.raises(BadTableError, match="graticule evaluate"):
        write_report(tmp_path / "a", tmp_path / "b", tmp_path / "r.html")


def test_a_broken_json_is_named(run, tmp_path):
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(BadTableError, match=r"metrics\.json is not JSON"):
        write_report(run[0], tmp_path, tmp_path / "r.html")


def test_a_held_out_verdict_is_not_marked_as_a_leak(run, tmp_path):
    bundle, evaluation, _ = run
    (tmp_path / "metrics.json").write_text((evaluation / "metrics.json").read_text())
    (tmp_path / "audit.json").write_text(
        json.dumps({"held_out": True, "verdict": "Held out by sequence: no sequence is shared."})
    )
    page = Page(write_report(bundle, tmp_path, tmp_path / "r.html").read_text())
    assert "Held out: measured on what training had not seen" in page.text
    assert "NOT held out" not in page.text


def test_what_cannot_be_told_is_not_called_held_out(run, tmp_path):
    bundle, evaluation, _ = run
    (tmp_path / "metrics.json").write_text((evaluation / "metrics.json").read_text())
    page = Page(write_report(bundle, tmp_path, tmp_path / "r.html").read_text())
    assert "Not known to be held out: read the number with care" in page.text


def test_known_spots_are_not_praised_as_unseen_ones(run, tmp_path):
    bundle, evaluation, _ = run
    shutil.copytree(evaluation, tmp_path / "evaluation")
    audit = {"held_out": True, "verdict": "Held out by sequence.", "nearest_within": {"within_5_m": 0.98}}
    (tmp_path / "evaluation/audit.json").write_text(json.dumps(audit))
    text = write_report(bundle, tmp_path / "evaluation", tmp_path / "page.html").read_text()
    assert 'class="verdict known"' in text
    assert "Held out, but on known spots" in text


def test_a_page_tells_no_folders_of_the_machine_that_made_it(run, tmp_path):
    bundle, evaluation, photos = run
    shutil.copytree(evaluation, tmp_path / "evaluation")
    table = tmp_path / "evaluation/predictions.parquet"
    frame = pl.read_parquet(table)
    last = pl.col("path").str.split("/").list.last()
    frame.with_columns(path=pl.format("{}/sub/{}", pl.lit(str(photos)), last)).write_parquet(table)
    text = write_report(bundle, tmp_path / "evaluation", tmp_path / "page.html", photos=photos).read_text()
    assert str(photos) not in text
