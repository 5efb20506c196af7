"""The service answers as Python does, and nothing that is uploaded hurts it."""

import asyncio
import base64
import io
import json
import socket
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import polars as pl
import pytest
from conftest import encoded, exif_of, picture
from PIL import Image
from starlette.testclient import TestClient
from test_cli import graticule as command

import graticule
from bench.hostile import hostile
from graticule.geo import s2
from graticule.geo.areas import read_areas
from graticule.geo.sphere import great_circle_km
from graticule.inference import views
from graticule.inference.claims import own_position
from graticule.inference.pictures import files_of
from graticule.photos.table import read_photos
from graticule.serving import examples, run
from graticule.serving.app import create_app
from graticule.serving.limits import Limits
from graticule.serving.play import Play
from graticule.serving.service import Model, Service

KEPT = Path(__file__).parent / "bundles" / "format-3"
PHOTO = KEPT / "photo.jpg"


@pytest.fixture(scope="module")
def locator():
    return graticule.load(KEPT)


@pytest.fixture(scope="module")
def client(locator):
    limits = Limits(bytes=4 * 2**20, pixels=2_000_000, photos=8)
    app = create_app(Service([Model("town", locator), Model("other", locator)], limits))
    with TestClient(app, base_url="http://127.0.0.1") as client:
        yield client


def ask(client, *photos, path="/v1/locate", name="photos", **fields):
    files = [(name, (f"{i}.jpg", photo)) for i, photo in enumerate(photos)]
    return client.post(path, files=files, data={key: str(value) for key, value in fields.items()})


def is_problem(answer):
    facts = answer.json()
    return (
        answer.headers["content-type"] == "application/problem+json"
        and facts["status"] == answer.status_code
        and facts["title"]
        and facts["detail"]
        and "Traceback" not in answer.text
    )


def test_the_service_the_command_line_and_python_answer_alike_to_the_last_digit(client, locator, monkeypatch):
    monkeypatch.setattr("graticule.inference.locate.load", lambda *_, **__: locator)  # grown ground is grown once
    [result] = locator.results([PHOTO], names=True)
    [served] = ask(client, PHOTO.read_bytes()).json()["fixes"]
    words, own = served.pop("words"), served.pop("exif")
    assert served.pop("path") == "0.jpg"
    assert served == json.loads(json.dumps(result.fix.to_json()))
    printed = json.loads(command("locate", PHOTO, "--model", KEPT, "--format", "json").stdout)[0]
    assert served == {key: value for key, value in printed.items() if key != "photo"}
    said = command("locate", PHOTO, "--model", KEPT).stdout.splitlines()
    lines = [line.strip() for line in said[said.index(str(PHOTO)) + 1 :]]  # before it, how few photos it learned from
    assert words.splitlines() == [line for line in lines if line]
    assert own is None


@pytest.mark.parametrize(
    ("method", "path", "form", "sentence"),
    [
        ("POST", "/v1/locate", {"photos": b"x", "clame": "3,4"}, "there is no field clame; did you mean claim?"),
        ("POST", "/v1/locate", {"photo": b"x"}, "there is no field photo; did you mean photos?"),
        ("POST", "/v1/locate", {"top": "3"}, "the field photos is missing: send the photo as photos=@FILE"),
        ("POST", "/v1/probability", {"photo": b"x", "lat": "3"}, "the field lon is missing: GET /openapi.json says"),
        ("GET", "/v1/locate", {}, "/v1/locate does not take GET; ask it with POST"),
        ("GET", "/v1/nosuch", {}, "there is nothing at /v1/nosuch; GET /openapi.json lists the addresses"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_a_sentence(client, method, path, form, sentence):
    files = {name: (None, value) for name, value in form.items() if isinstance(value, str)}
    files |= {name: ("0.jpg", value) for name, value in form.items() if isinstance(value, bytes)}
    answer = client.request(method, path, files=files or None)
    assert is_problem(answer)
    assert sentence in answer.json()["detail"]


def test_several_photos_are_answered_in_their_order_and_a_broken_one_says_why(client):
    photos = [encoded(picture(64, 48, seed=i)) for i in range(3)]
    answer = ask(client, photos[0], photos[1][:200], photos[2])
    assert answer.status_code == 200
    fixes = answer.json()["fixes"]
    assert [fix["path"] for fix in fixes] == ["0.jpg", "1.jpg", "2.jpg"]
    assert ["error" in fix for fix in fixes] == [False, True, False]
    for photo, fix in ((photos[0], fixes[0]), (photos[2], fixes[2])):
        alone = ask(client, photo).json()["fixes"][0]
        assert (alone["lat"], alone["lon"]) == pytest.approx((fix["lat"], fix["lon"]), abs=1e-5)


def test_a_client_may_choose_the_point_and_ask_how_probable_areas_are(client, locator, tmp_path):
    ring = [[-77.04, 38.8], [-77.0, 38.8], [-77.0, 39.0], [-77.04, 39.0], [-77.04, 38.8]]
    drawn = {
        "type": "Feature",
        "properties": {"name": "middle"},
        "geometry": {"type": "Polygon", "coordinates": [ring]},
    }
    (tmp_path / "area.geojson").write_text(json.dumps(drawn))
    [fix] = ask(client, PHOTO.read_bytes(), inside=json.dumps(drawn), answer="densest").json()["fixes"]
    densest = graticule.load(KEPT, answer="densest")
    [result] = densest.results([PHOTO], inside=read_areas(str(tmp_path / "area.geojson")))
    assert (fix["lat"], fix["lon"], fix["inside"]) == tuple(
        result.fix.to_json()[name] for name in ("lat", "lon", "inside")
    )
    assert (fix["lat"], fix["lon"]) != (locator.locate(PHOTO).lat, locator.locate(PHOTO).lon)
    assert 0 < fix["inside"][0]["probability"] < 1
    [cell] = ask(client, PHOTO.read_bytes(), inside="89b7b7").json()["fixes"][0]["inside"]
    assert cell["name"] == "89b7b7"


@pytest.mark.parametrize(
    "inside",
    [
        "/etc/passwd",
        "[" * 15_000,
        '{"type": "FeatureCollection", "features": 3}',
        '{"type": "Feature", "properties": 1}',
        '{"type": "Polygon", "coordinates": [[[1e999, 0], [1, 1], [2, 0]]]}',
        '{"type": "Polygon", "coordinates": [[]]}',
        '{"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [1, 0], [0, 1]]]}',
    ],
)
def test_areas_that_are_none_are_refused_with_a_sentence_and_no_file_is_read(client, inside):
    answer = ask(client, PHOTO.read_bytes(), inside=inside)
    assert answer.status_code == 422
    assert is_problem(answer)
    assert "root" not in answer.text


def test_photos_together_have_one_answer_that_is_pythons(client, locator):
    photos = [encoded(picture(64, 48, seed=i)) for i in range(3)]
    [fix] = ask(client, *photos, together=True).json()["fixes"]
    expected = locator.locate(photos, together=True)
    assert (fix["lat"], fix["lon"]) == (round(expected.lat, 7), round(expected.lon, 7))


def test_a_map_gets_regions_and_a_density_that_are_the_beliefs(client, locator):
    data = PHOTO.read_bytes()
    [fix] = ask(client, data, regions=True, density=True).json()["fixes"]
    half, most = fix["regions"]["features"]
    assert (half["properties"]["coverage"], most["properties"]["coverage"]) == (0.5, 0.9)
    assert half["properties"]["area_km2"] < most["properties"]["area_km2"] == pytest.approx(fix["area_km2"], abs=1e-3)
    cells = fix["density"]["features"]
    assert 0 < len(cells) <= views.MOST_CELLS
    assert sum(cell["properties"]["mass"] for cell in cells) == pytest.approx(1, abs=0.011)
    density = [cell["properties"]["per_km2"] for cell in cells]
    assert density == sorted(density, reverse=True)
    assert {cell["geometry"]["type"] for cell in cells} == {"Polygon"}


def test_a_belief_of_many_cells_is_shown_with_few_that_hold_the_same(locator):
    locator.locate(PHOTO)
    ground = locator.grown
    masses = np.random.default_rng(0).dirichlet(np.ones(len(ground.cells)))
    cells, held = ground.summary(masses, 0.9, 30)
    assert len(cells) <= 30
    for cell, mass in zip(cells, held, strict=True):
        inside = (s2.range_min(ground.cells) >= s2.range_min(cells[cells == cell])) & (
            s2.range_max(ground.cells) <= s2.range_max(cells[cells == cell])
        )
        assert mass == pytest.approx(masses[inside].sum())


def test_the_position_that_a_photo_claims_is_told_and_measured_and_nothing_else_of_its_exif(client):
    photo = encoded(picture(), exif=exif_of(38.9, -77.03, captured_at="2024:05:06 07:08:09"))
    answer = ask(client, photo, claim="exif")
    [fix] = answer.json()["fixes"]
    lat, lon = own_position(photo)
    assert (fix["exif"]["lat"], fix["exif"]["lon"]) == (round(lat, 7), round(lon, 7))
    assert fix["exif"]["distance_km"] == fix["claim"]["distance_km"]
    assert "Acme" not in answer.text
    assert "2024" not in answer.text


def test_a_claimed_place_is_weighed_as_python_weighs_it(client, locator):
    [result] = locator.results([PHOTO], claims=[(38.91, -77.02)], within_km=0.2, names=True)
    fields = {"path": "/v1/probability", "name": "photo", "lat": 38.91, "lon": -77.02, "within_km": 0.2}
    served = ask(client, PHOTO.read_bytes(), **fields).json()
    assert result.fix.claim.to_json().items() <= served.items()
    far = ask(client, PHOTO.read_bytes(), **(fields | {"lat": 10})).json()
    assert far["density_per_km2"] < served["density_per_km2"]
    assert far["surprise"] > served["surprise"]


def test_the_known_photos_that_look_alike_are_shown_with_pictures_where_their_files_are_at_hand(locator, tmp_path):
    known = locator.bundle.confidence.known
    (tmp_path / "known.jpg").write_bytes(encoded(picture(), exif=exif_of(1, 2)))
    rows = [{"path": "known.jpg", "lat": lat, "lon": lon} for lat, lon in zip(known.lat, known.lon, strict=True)]
    pl.DataFrame(rows).write_csv(tmp_path / "table.csv")
    pictures = files_of(locator, read_photos(tmp_path / "table.csv"))
    service = Service([Model("town", locator, pictures=pictures)])
    with TestClient(create_app(service), base_url="http://localhost") as client:
        [fix] = ask(client, PHOTO.read_bytes(), neighbours=4).json()["fixes"]
    assert len(fix["neighbours"]) == 4
    alike = [near["similarity"] for near in fix["neighbours"]]
    assert alike == sorted(alike, reverse=True)
    near = fix["neighbours"][0]
    assert (near["lat"], near["lon"]) in set(zip(known.lat.round(7), known.lon.round(7), strict=True))
    small = base64.b64decode(near["thumbnail"].removeprefix("data:image/jpeg;base64,"))
    assert own_position(small) is None


@pytest.mark.parametrize("method", ["occlusion", "saliency"])
def test_an_explanation_is_a_picture_over_the_photo(client, method):
    answer = ask(client, PHOTO.read_bytes(), path="/v1/explain", name="photo", method=method).json()
    with Image.open(io.BytesIO(base64.b64decode(answer["heatmap_png"]))) as heat:
        assert heat.mode == "RGBA"
    assert answer["scores"]["cell"] == answer["fix"]["cells"][0]["token"]


def test_an_explanation_tells_its_progress_and_a_coarse_map_on_the_way(client):
    files = {"photo": PHOTO.read_bytes()}
    headers = {"Accept": "text/event-stream"}
    text = client.post("/v1/explain", files=files, data={"method": "occlusion"}, headers=headers).text
    events = [event.split("\n") for event in text.strip().split("\n\n")]
    names = [name.removeprefix("event: ") for name, _ in events]
    done = [json.loads(data.removeprefix("data: ")) for _, data in events]
    at = names.index("sketch")
    assert names == ["progress"] * at + ["sketch"] + ["progress"] * (len(names) - at - 2) + ["answer"]
    assert done[at - 1]["done"] < done[-2]["done"] / 2 < done[-2]["done"] == done[-2]["total"]
    assert done[at]["heatmap_png"] != done[-1]["heatmap_png"]


def test_hiding_a_part_of_a_photo_moves_the_answer_and_hiding_nothing_that_is_seen_does_not(client):
    def hidden(**fields):
        return ask(client, PHOTO.read_bytes(), path="/v1/explain", name="photo", **fields).json()["fix"]

    plain, most = hidden(), hidden(hide="0,0,1,0.9")
    assert plain["cells"][0]["probability"] != most["cells"][0]["probability"]
    assert hidden(hide="0,0,1e-9,1e-9")["lat"] == pytest.approx(plain["lat"], abs=1e-4)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"claim": "here"}, "LAT,LON"),
        ({"claim": "91,0"}, "off the globe"),
        ({"top": 0}, "top"),
        ({"within_km": "nan"}, "within_km"),
        ({"model": "none"}, "town, other"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused_with_a_sentence(client, fields, says):
    answer = ask(client, PHOTO.read_bytes(), **fields)
    assert answer.status_code == 422
    assert is_problem(answer)
    assert says in answer.json()["detail"]


def test_a_hundred_hostile_uploads_get_a_sentence_or_an_answer_and_leave_the_service_alive(client):
    refused = 0
    for kind, data in hostile(encoded(picture(96, 64)), 100):
        answer = ask(client, data)
        assert answer.status_code in (200, 413, 422), kind
        refused += answer.status_code != 200
        if answer.status_code != 200:
            assert is_problem(answer), kind
    assert refused > 50
    assert ask(client, PHOTO.read_bytes()).status_code == 200


@pytest.mark.parametrize("name", ["../../etc/passwd", 'a"b.jpg', "x" * 5000, "<script>.jpg", "\u202egpj.exe"])
def test_the_name_of_an_upload_is_only_said_again(client, name):
    answer = client.post("/v1/locate", files={"photos": (name, PHOTO.read_bytes())})
    assert is_problem(answer) if len(name) > 1000 else "lat" in answer.json()["fixes"][0]
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_no_upload_touches_the_disk(client, monkeypatch):
    from tempfile import SpooledTemporaryFile

    monkeypatch.setattr(SpooledTemporaryFile, "rollover", lambda self: pytest.fail("written to a temporary file"))
    large = encoded(np.random.default_rng(0).integers(0, 255, (1000, 1000, 3), np.uint8), "PNG")
    assert len(large) > 2**20
    assert ask(client, large).status_code == 200


def test_too_many_bytes_pixels_or_photos_are_refused(client):
    assert ask(client, bytes(5 * 2**20)).status_code == 413
    assert ask(client, *[PHOTO.read_bytes()] * 9).status_code == 413
    many = ask(client, encoded(np.zeros((1500, 1500, 3), np.uint8), "PNG"))
    assert many.status_code == 413
    assert is_problem(many)
    assert "2,250,000 pixels" in many.json()["detail"]


def test_a_model_says_what_it_is(client, locator):
    answer = client.get("/v1/model").json()
    assert [model["id"] for model in answer["models"]] == ["town", "other"]
    [[south, west], [north, east]] = answer["models"][0]["bounds"]
    assert south < 38.9 < north
    assert west < -77.03 < east
    assert answer["limits"] == {"bytes": 4 * 2**20, "pixels": 2_000_000, "photos": 8}


def shape_of(value):
    """Names and nesting of a JSON value, without what is null."""
    if isinstance(value, dict):
        return {key: shape_of(each) for key, each in value.items() if each is not None}
    return [shape_of(value[0])] if isinstance(value, list) and value else type(value).__name__


def test_the_examples_of_the_manual_have_the_shape_of_answers(client):
    served = ask(client, encoded(picture(), exif=exif_of(38.9, -77.03))).json()["fixes"][0]
    assert served.keys() == examples.FIX.keys()
    model = examples.MODEL["content"]["application/json"]["example"]["models"][0]
    assert shape_of(client.get("/v1/model").json()["models"][0]) == shape_of(model)
    claim = ask(client, PHOTO.read_bytes(), path="/v1/probability", name="photo", lat=38.9, lon=-77.03).json()
    assert claim.keys() == examples.PROBABILITY["content"]["application/json"]["example"].keys()
    assert client.get("/openapi.json").json()["paths"]["/v1/locate"]["post"]["responses"]["200"]


def test_metrics_count_requests_and_no_path_that_a_client_made_up(client):
    client.get("/no/such/page")
    text = client.get("/metrics").text
    assert 'graticule_requests_total{method="POST",path="/v1/locate",status="200"}' in text
    assert "/no/such/page" not in text


@pytest.fixture
def game(locator, tmp_path):
    rows = []
    for i in range(7):
        photo = encoded(picture(seed=i), exif=exif_of(38.9 + i / 1000, -77.03, captured_at="2024:05:06 07:08:09"))
        (tmp_path / f"place-{i}.jpg").write_bytes(photo)
        rows.append({"path": f"place-{i}.jpg", "lat": 38.9 + i / 1000, "lon": -77.03})
    pl.DataFrame(rows).write_csv(tmp_path / "table.csv")
    play = Play(read_photos(tmp_path / "table.csv"), scale_km=3.5)
    with TestClient(create_app(Service([Model("town", locator)]), play=play), base_url="http://localhost") as client:
        yield client, play


def test_a_game_tells_the_truth_after_the_guess_alone(game):
    client, _ = game
    begun = client.post("/v1/play", json={"seed": 5, "rounds": 3}).json()
    assert begun["rounds"] == 3
    shown = client.get(f"/v1/play/{begun['id']}/0/photo")
    assert own_position(shown.content) is None
    assert b"Acme" not in shown.content
    assert "place-" not in str(shown.headers)
    assert not {"38.9", "-77.03"} & set(json.dumps(begun).split())
    guessed = client.post(f"/v1/play/{begun['id']}/0/guess", json={"lat": 38.9, "lon": -77.03}).json()
    assert guessed["truth"]["lon"] == -77.03
    again = client.post(f"/v1/play/{begun['id']}/0/guess", json=guessed["truth"]).json()
    assert (again["points_you"], again["error_km_you"]) == (5000, 0)
    assert guessed.keys() == examples.GUESS["content"]["application/json"]["example"].keys()


def test_the_test_set_is_asked_photo_by_photo_and_says_how_far_off_the_answer_is(game, locator):
    client, play = game
    assert client.get("/v1/model").json()["test_photos"] == 7
    answers = [client.post(f"/v1/test/{i}", json={"model": "town"}).json() for i in range(7)]
    assert sorted(answer["truth"]["lat"] for answer in answers) == pytest.approx(sorted(play.photos.lat))
    for answer, row in zip(answers, play.order, strict=True):
        alone = locator.locate(play.photos.paths()[row])
        assert (answer["fix"]["lat"], answer["fix"]["lon"]) == (round(alone.lat, 7), round(alone.lon, 7))
        off = great_circle_km(alone.lat, alone.lon, play.photos.lat[row], play.photos.lon[row])
        assert answer["error_km"] == round(float(off), 4)
    assert answers[0].keys() == examples.TEST["content"]["application/json"]["example"].keys()
    assert b"Acme" not in client.get("/v1/test/0/photo").content
    assert client.post("/v1/test/7", json={}).status_code == 404


def test_the_same_seed_deals_the_same_photos_and_a_made_up_game_none(game):
    client, play = game
    first, second, other = (client.post("/v1/play", json={"seed": seed}).json() for seed in (1, 1, 2))
    assert first["id"] == second["id"] != other["id"]
    assert play.rows(1, 5) != play.rows(2, 5)
    for path in (f"/v1/play/{first['id'][:-2]}xx/0/photo", "/v1/play/x/0/photo", f"/v1/play/{first['id']}/5/photo"):
        assert client.get(path).status_code == 404


@pytest.fixture(scope="module")
def running(locator):
    """A real server on a port of its own, with limits that are soon reached."""
    was, run.HEADERS_S = run.HEADERS_S, 1.0
    limits = Limits(bytes=2**20, seconds=1.0, waiting=4, batch=4, requests=16)
    real = run.server(create_app(Service([Model("town", locator)], limits)), limits)
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=real.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    deadline = time.monotonic() + 30
    while httpx.get(f"{url}/readyz").status_code != 200 and time.monotonic() < deadline:
        time.sleep(0.05)
    yield url
    real.should_exit = True
    thread.join(10)
    run.HEADERS_S = was
    assert not thread.is_alive()


def test_a_real_server_answers_many_clients_at_once_or_says_when_to_come_again(running, locator):
    photos = [encoded(picture(64, 48, seed=i)) for i in range(24)]
    alone = locator.locate(photos)

    async def all_at_once():
        async with httpx.AsyncClient(base_url=running, timeout=30) as client:
            return await asyncio.gather(*(client.post("/v1/locate", files={"photos": p}) for p in photos))

    answers = asyncio.run(all_at_once())
    assert {answer.status_code for answer in answers} <= {200, 503}
    assert all("retry-after" in answer.headers for answer in answers if answer.status_code == 503)
    served = [(a.json()["fixes"][0], fix) for a, fix in zip(answers, alone, strict=True) if a.status_code == 200]
    assert served
    for fix, expected in served:
        assert (fix["lat"], fix["lon"]) == pytest.approx((expected.lat, expected.lon), abs=1e-5)


def test_a_small_answer_does_not_wait_for_the_client_to_confirm_its_headers(running):
    with httpx.Client(base_url=running) as client:
        assert min(client.get("/healthz").elapsed.total_seconds() for _ in range(10)) < 0.03  # such a wait is 40 ms


def raw(url, data, then=b"", wait=0.0):
    """What the server says to bytes that no proper client sends."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as client:
        client.sendall(data)
        if wait:
            time.sleep(wait)
        if then:
            client.sendall(then)
        found = b""
        while chunk := client.recv(65536):
            found += chunk
            if b"\r\n\r\n" in found:
                return found
    return found


POST = b"POST /v1/locate HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"


def test_slow_senders_and_lying_lengths_are_answered_and_forgotten(running):
    assert b" 408 " in raw(running, POST + b"Content-Length: 100\r\n\r\n--x\r\n")  # never sends the rest
    assert b" 413 " in raw(running, POST + b"Content-Length: 99999999999\r\n\r\n--x")
    assert b" 422 " in raw(running, POST + b"Content-Length: 5\r\n\r\n--x\r\nand more than was said\r\n\r\n")
    assert b" 400 " in raw(running, POST + b"Content-Length: minus one\r\n\r\n")
    assert b" 400 " in raw(running, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")  # TLS
    chunked = POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"20000\r\n" + bytes(0x20000) + b"\r\n"
    assert b" 413 " in raw(running, chunked, (b"20000\r\n" + bytes(0x20000) + b"\r\n") * 8)
    assert httpx.get(f"{running}/healthz").status_code == 200


def test_who_never_says_what_is_asked_is_hung_up_on(running):
    host, port = running.removeprefix("http://").split(":")
    begun = time.monotonic()
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: local")
        assert client.recv(1000) == b""
    assert time.monotonic() - begun < 8


def test_a_client_that_goes_away_frees_its_slot(running):
    host, port = running.removeprefix("http://").split(":")
    for _ in range(40):  # more than there are slots
        with socket.create_connection((host, int(port)), timeout=5) as client:
            client.sendall(POST + b"Content-Length: 100\r\n\r\n--x")
    time.sleep(0.2)
    assert httpx.post(f"{running}/v1/locate", files={"photos": PHOTO.read_bytes()}).status_code == 200
