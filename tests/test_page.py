"""The page in a real browser, with no network but its own server: what is dropped is answered, and all can use it."""

import csv
import io
import json
import shutil
import socket
import threading
import time
from pathlib import Path
from xml.etree import ElementTree

import httpx
import numpy as np
import polars as pl
import pyogrio
import pytest
from conftest import encoded, exif_of, picture
from PIL import Image
from shapely import LineString, to_wkb
from test_cli import graticule as command

import graticule
from graticule.explaining.answer_page import AnswerPage
from graticule.inference.claims import own_position
from graticule.photos.table import read_photos
from graticule.reporting.report import write_report
from graticule.serving.app import create_app, page_folder
from graticule.serving.limits import Limits
from graticule.serving.play import Play
from graticule.serving.run import server
from graticule.serving.service import Model, Service

KEPT = Path(__file__).parent / "bundles" / "format-3"
AXE = Path(__file__).parents[1] / "web" / "node_modules" / "axe-core" / "axe.min.js"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
    *("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),  # a map without a graphics card
]
AT = (38.9, -77.03)
SLOWEST_MS = 90_000  # of one step, on a machine that has much else to do

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium"),
    pytest.mark.skipif(not (page_folder() / "index.html").is_file(), reason="the page is not built: make page"),
]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three photos with a position of their own, and a broken one."""
    folder = tmp_path_factory.mktemp("photos")
    for i in range(3):
        data = encoded(picture(seed=i), exif=exif_of(AT[0] + i / 1000, AT[1]))
        (folder / f"photo-{i}.jpg").write_bytes(data)
    (folder / "broken.jpg").write_bytes(data[:400])
    shutil.copy(KEPT / "photo.jpg", folder / "known.jpg")
    return folder


@pytest.fixture(scope="module")
def locator():
    return graticule.load(KEPT)


@pytest.fixture(scope="module")
def address(locator, photos):
    rows = [{"path": f"photo-{i % 3}.jpg", "lat": AT[0] + i / 1000, "lon": AT[1]} for i in range(5)]
    pl.DataFrame(rows).write_csv(photos / "table.csv")
    game = Play(read_photos(photos / "table.csv"), scale_km=3.5)
    service = Service([Model("town", locator), Model("other", locator)])
    real = server(create_app(service, play=game), Limits())
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=real.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
    while httpx.get(f"{url}readyz").status_code != 200:
        time.sleep(0.05)
    yield url
    real.should_exit = True
    thread.join(10)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def open_page(browser, address):
    """Opens the page; what leaves the machine, or breaks the policy of its security, fails the test that asked."""
    complaints: list[str] = []

    def opened(width=1000, height=600, scheme="light"):
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce"
        )
        page = context.new_page()
        page.set_default_timeout(SLOWEST_MS)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        # A photo that cannot be read is answered with 422, which a browser calls an error.
        page.on("console", lambda said: complaints.append(said.text)
                if said.type == "error" and "status of 422" not in said.text else None)  # fmt: skip
        page.on("request", lambda asked: None if asked.url.startswith((address, "blob:", "data:"))
                else complaints.append(f"asked {asked.url}"))  # fmt: skip
        page.add_init_script(
            "window.jumps = 0; new PerformanceObserver((list) => { for (const each of list.getEntries())"
            " window.jumps += each.value; }).observe({ type: 'layout-shift', buffered: true });"
        )
        page.goto(address)
        page.wait_for_selector("[data-ready]")
        return page

    yield opened
    assert complaints == []


@pytest.fixture(scope="module")
def one_page(open_page):
    return open_page()


@pytest.fixture
def page(one_page):
    """The page as one finds it; a new one for each test would take longer than the tests."""
    one_page.click("role=tab[name=Locate]")
    if (again := one_page.get_by_text("Start over")).count():
        again.click()
    one_page.wait_for_selector(".about")
    return one_page


def choose(page, *paths):
    page.set_input_files("input[type=file][multiple]", [str(path) for path in paths])
    page.wait_for_selector(".answer:not(.waiting) h2, .notice")


def saved(page, name):
    """What a button of the page saves, as text."""
    with page.expect_download() as download:
        page.click(f"button:text-is('{name}')")
    return Path(download.value.path()).read_text(encoding="utf-8")


def violations(page):
    if not AXE.is_file():
        pytest.skip("axe-core is not there: make page")
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run()")["violations"]
    return [(each["id"], [node["html"][:120] for node in each["nodes"]]) for each in found]


def test_a_dropped_photo_is_answered_as_python_answers_it(page, photos, locator):
    data = (photos / "photo-0.jpg").read_bytes()
    page.evaluate(
        """bytes => {
            const files = new DataTransfer();
            files.items.add(new File([new Uint8Array(bytes)], "street.jpg", { type: "image/jpeg" }));
            dispatchEvent(new DragEvent("drop", { dataTransfer: files, bubbles: true, cancelable: true }));
        }""",
        list(data),
    )
    page.wait_for_selector(".answer:not(.waiting) h2")
    [result] = locator.results([data], names=True)
    said = page.inner_text(".answer")
    assert f"{result.fix.lat:.5f}, {result.fix.lon:.5f}" in said
    assert f"Near {result.fix.near}" in said
    assert f"{result.fix.places[0].name}" in said
    assert "38.90000, -77.03000" in page.inner_text(".claim")  # what the photo says of itself
    assert {"50 % region", "90 % region", "less to more likely"} <= set(page.inner_text(".legend").split("\n"))
    assert page.evaluate("jumps") < 0.1  # "good", by Google's Core Web Vitals


def test_the_page_the_service_the_command_line_and_python_answer_alike_to_the_last_digit(
    page, photos, locator, address
):
    photo = photos / "photo-1.jpg"
    choose(page, photo)
    feature, *_ = json.loads(saved(page, "GeoJSON"))["features"]
    lon, lat = feature["geometry"]["coordinates"]
    numbers = "median_error_km", "p90_error_km", "expected_error_km", "area_km2", "unlike_training"
    shown = {"lat": lat, "lon": lon, **{name: feature["properties"][name] for name in numbers}}
    served = httpx.post(f"{address}v1/locate", files={"photos": photo.read_bytes()}, timeout=60).json()["fixes"][0]
    printed = json.loads(command("locate", photo, "--model", KEPT, "--format", "json").stdout)[0]
    for answer in (served, printed, locator.locate(photo).to_json()):
        assert {name: answer[name] for name in shown} == shown


def test_streets_of_a_file_of_ones_own_are_drawn(page, tmp_path):
    grid = np.arange(-4, 5) / 500
    streets = [LineString([(AT[1] - 0.01, AT[0] + at), (AT[1] + 0.01, AT[0] + at)]) for at in grid]
    file = tmp_path / "my town (1).pmtiles"
    pyogrio.raw.write(
        file,
        to_wkb(streets),
        [],
        [],
        layer="lines",
        driver="PMTiles",
        geometry_type="LineString",
        crs="EPSG:4326",
        dataset_options={"MAXZOOM": "14"},
    )

    def drawn():
        page.wait_for_selector(".map-canvas[data-still]")
        pixels = np.asarray(Image.open(io.BytesIO(page.locator(".map-canvas canvas").screenshot())).convert("RGB"))
        return (pixels == (0x8B, 0x8F, 0x98)).all(axis=-1).sum()  # the colour of streets

    before = drawn()
    page.set_input_files("input[accept='.pmtiles']", file)
    for _ in range(100):
        if (now := drawn()) > before + 100:
            break
        page.wait_for_timeout(100)
    assert now > before + 100
    page.select_option(".options label:has-text('Streets') select", "none")


def test_a_hidden_part_moves_the_answer_and_a_heatmap_lies_over_the_photo(page, photos):
    choose(page, photos / "photo-1.jpg")
    frame = page.locator(".stage-frame")
    frame.scroll_into_view_if_needed()
    box = frame.bounding_box()
    page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.2 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 0.7 * box["height"], steps=3)
    page.mouse.up()
    page.wait_for_selector("text=Without this part the answer moves")
    assert "without the hidden part" in page.inner_text(".legend")
    frame.press("Escape")
    page.click("text=Show what it depends on")
    page.wait_for_selector("img.heat")


def test_a_place_that_is_clicked_or_typed_is_weighed(page, photos, locator):
    choose(page, photos / "photo-0.jpg")
    map_box = page.locator(".map-canvas").bounding_box()
    page.mouse.click(map_box["x"] + 200, map_box["y"] + 300)
    page.wait_for_selector("#claim-says:has-text('from the answer')")
    page.fill(".claims input", "38.9, -77.03")
    page.select_option(".claims select", "10")
    page.press(".claims input", "Enter")
    page.wait_for_selector("#claim-says:has-text('within 10.0 km')")
    [result] = locator.results([photos / "photo-0.jpg"], claims=[AT], within_km=10)
    share = result.fix.claim.probability
    assert page.inner_text("#claim-says").startswith(f"{share * 100:.0f} %" if share >= 0.1 else f"{share * 100:.1f} %")
    page.fill(".claims input", "here")
    page.press(".claims input", "Enter")
    assert "A place is LAT, LON" in page.inner_text("#claim-says")


def test_several_photos_are_listed_filtered_answered_together_and_saved(page, photos, locator):
    names = ["photo-0.jpg", "photo-1.jpg", "broken.jpg"]
    choose(page, *(photos / name for name in names))
    page.wait_for_selector("h2:has-text('3 photos')")

    rows = list(csv.DictReader(io.StringIO(saved(page, "CSV"))))
    assert [row["photo"] for row in rows] == names
    fix = locator.locate(photos / "photo-0.jpg")
    # Photos of one batch move one another in the last digits.
    assert (float(rows[0]["lat"]), float(rows[0]["lon"])) == pytest.approx((fix.lat, fix.lon), abs=1e-5)
    assert rows[2]["error"]
    assert rows[2]["lat"] == ""
    features = json.loads(saved(page, "GeoJSON"))["features"]
    assert features[0]["geometry"]["coordinates"] == pytest.approx([fix.lon, fix.lat], abs=1e-5)
    kml = ElementTree.fromstring(saved(page, "KML"))
    assert [len(kml.findall(f".//{{*}}{name}")) for name in ("Point", "Folder", "MultiGeometry")] == [2, 1, 2]
    page.select_option("label:has-text('Show') select", "failed")
    assert page.locator(".photo").count() == 1
    page.select_option("label:has-text('Show') select", "all")
    page.check("text=answer them together")
    joint = locator.locate([photos / "photo-0.jpg", photos / "photo-1.jpg"], together=True)
    shown = f"{joint.lat:.5f}"[:-1]  # the last digit may be another
    page.wait_for_selector(f".answer:has-text('{shown}')")


def test_an_answer_that_is_not_sure_enough_says_that_it_cannot_tell(page, photos):
    choose(page, photos / "photo-2.jpg")
    page.select_option(".limit select", "0.05")
    page.wait_for_selector(".answer .notice:has-text('Cannot tell')")
    assert "Near" not in page.inner_text(".answer")


def test_a_round_is_played_and_the_result_is_text_to_share(page):
    page.click("role=tab[name=Play]")
    page.fill("input[type=number]", "7")
    page.click("role=button[name=Start]")
    for number in range(1, 6):
        page.wait_for_selector(f"h2:has-text('Round {number} of 5')")
        assert page.locator(".legend").count() == 0  # no truth before the guess
        page.click("text=Pin in the middle of the map")
        page.click("role=button[name=Guess]")
        page.wait_for_selector("text=The model:")
        assert "the truth" in page.inner_text(".legend")
        page.click("role=button[name=/Next round|See the score/]")
    text = page.input_value(".share textarea")
    assert text.startswith("Graticule, ")
    assert "game 7" in text
    assert len(text.splitlines()) == 7


def test_two_models_are_compared_on_the_same_photos_and_on_a_test_set(page, photos):
    choose(page, photos / "photo-0.jpg", photos / "photo-1.jpg")
    page.click("role=tab[name=Compare]")
    page.wait_for_selector("text=The two answers lie 0 m apart")
    page.wait_for_selector("tfoot:has-text('Median of 2 photos')")
    page.check("label:has-text('the test set, 5 photos')")
    page.click("role=button[name=Compare]")
    page.wait_for_selector("text=Of 5 photos both have the same answers.")
    page.click(".compare td button >> nth=0")
    page.wait_for_selector(".round-photo[src^=blob]")
    assert "the truth" in page.inner_text(".legend")


def test_a_report_opens_from_disk_and_shows_each_photo_with_truth_and_answer(browser, locator, photos, tmp_path):
    top = locator.bundle.partition.names[:2]
    rows = [
        {"path": f"photo-{i}.jpg", "lat": AT[0], "lon": AT[1] + i / 1000, "predicted_lat": AT[0],
         "predicted_lon": AT[1], "error_km": 0.0867 * i, "top_cells": top, "top_probabilities": [0.5, 0.2]}
        for i in range(3)
    ]  # fmt: skip
    pl.DataFrame(rows).write_parquet(tmp_path / "predictions.parquet")
    out = write_report(KEPT, tmp_path, tmp_path / "report.html", photos=photos)
    context = browser.new_context(viewport={"width": 1000, "height": 700}, offline=True, reduced_motion="reduce")
    page = context.new_page()
    page.set_default_timeout(SLOWEST_MS)
    page.goto(out.as_uri())
    page.wait_for_selector("[data-ready]")
    assert page.locator(".browse-list li").all_inner_texts()[0].startswith("173 m")
    page.select_option(".browse-filters select >> nth=0", "best")
    assert page.locator(".browse-list li").all_inner_texts()[0].startswith("0 m")
    page.select_option(".browse-filters select >> nth=1", "0.1")
    assert page.locator(".browse-list li").count() == 1
    page.click(".browse-list li button")
    page.wait_for_selector(".browse-one:has-text('173 m off')")
    page.wait_for_selector(".legend:has-text('the truth')")  # drawn with the map, which may come later
    assert "the model's answer" in page.inner_text(".legend").split("\n")
    context.close()


def test_answers_open_from_disk_as_a_table_and_a_map(browser, locator, photos, tmp_path):
    asked = [photos / name for name in ("photo-0.jpg", "known.jpg", "broken.jpg")]
    made = AnswerPage(locator, asked, why="saliency")
    own = [own_position(photo) for photo in asked]
    results = list(made.gather(locator.results(asked, names=True, neighbours=2, masses=True, claims=own)))
    context = browser.new_context(viewport={"width": 390, "height": 844}, offline=True, reduced_motion="reduce")
    page = context.new_page()
    page.set_default_timeout(SLOWEST_MS)
    page.goto(made.write(tmp_path / "answers.html").as_uri())
    page.wait_for_selector("[data-ready]")
    assert page.locator("tbody tr").count() == 3
    page.select_option("label:has-text('Show') select", "exif")
    page.click("tbody button")
    page.wait_for_selector(f".answer:has-text('{results[0].fix.lat:.5f}')")
    page.wait_for_selector("img.heat")
    assert "The photo itself says 38.90000, -77.03000." in page.inner_text(".claim")
    page.wait_for_selector(".legend:has-text('90 % region')")  # drawn with the map, which may come later
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert violations(page) == []
    context.close()


def test_axe_finds_no_violation_in_the_dark(open_page, photos):
    page = open_page(1280, 800, "dark")
    choose(page, photos / "photo-0.jpg", photos / "known.jpg")
    page.wait_for_selector("h2:has-text('2 photos')")
    assert violations(page) == []
    page.click("role=tab[name=Compare]")
    page.wait_for_selector("text=apart")
    assert violations(page) == []
    page.context.close()


def test_axe_finds_no_violation_on_a_phone_and_nothing_is_cut_off(open_page, photos):
    page = open_page(390, 844)
    assert violations(page) == []
    choose(page, photos / "photo-0.jpg")
    page.wait_for_selector(".claim:has-text('within')")
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.click("role=tab[name=Play]")
    page.click("role=button[name=Start]")
    page.wait_for_selector(".round-photo")
    assert violations(page) == []
    page.context.close()
