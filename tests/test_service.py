"""Mapillary and KartaView as this machine's server speaks them: every photo of a place once, and no token anywhere."""

import asyncio
import json
from datetime import date

import numpy as np
import polars as pl
import pytest
from aiohttp import web
from services import TOKEN, Services, Shot, serving
from test_cli import graticule
from towns import QUARTERS, photo

from graticule.errors import BadRecipeError, BadTableError, SourceError, TooManyRefusedError
from graticule.geo import sphere
from graticule.photos.table import read_photos
from graticule.sources.web import http, mapillary
from graticule.sources.web.kartaview import KartaView
from graticule.sources.web.mapillary import Mapillary, _row
from graticule.sources.web.service import COLUMNS, Search, collect, find, parts

AROUND = (38.85, -77.1, 38.95, -76.95)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(http, "FIRST_WAIT_S", 0.01)
    monkeypatch.setenv("MAPILLARY_TOKEN", TOKEN)


def scattered(count, seed=0, data=True):
    """Photos of a dense town: half of them at one crossing."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        lat, lon = QUARTERS[i % 4] + rng.normal(0, 0.00002 if i % 2 else 0.02, 2)
        day = f"20{10 + i % 12}-06-01"
        yield Shot(i, lat, lon, f"drive-{i % 5}", photo(i % 4, rng) if data else b"", heading=i % 360, day=day,
                   pano=i % 10 == 0)  # fmt: skip


@pytest.fixture
def server(monkeypatch):
    with serving(Services(scattered(40))) as services:
        monkeypatch.setenv("GRATICULE_MAPILLARY_URL", services.api)
        monkeypatch.setenv("GRATICULE_KARTAVIEW_URL", services.api)
        yield services


def everything(folder):
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_boxes_are_split_until_under_the_limit_and_every_photo_is_found_once(tmp_path, monkeypatch):
    monkeypatch.setattr(mapillary, "LIMIT", 50)
    services = Services(scattered(1500, data=False))
    with serving(services):
        found, refused = find(
            Mapillary(TOKEN, api=services.api), Search(bbox=AROUND), tmp_path, rate=10_000, at_once=4
        )  # fmt: skip
    inside = {
        s.id for s in services.shots.values() if AROUND[0] <= s.lat <= AROUND[2] and AROUND[1] <= s.lon <= AROUND[3]
    }
    assert 1000 < len(inside) < 1500
    assert sorted(found["orig_id"]) == sorted(inside)
    assert refused == []


def test_more_photos_at_one_spot_than_are_told_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(mapillary, "LIMIT", 10)
    services = Services([Shot(i, 38.9, -77.0, "s", b"") for i in range(30)])
    with serving(services):
        service = Mapillary(TOKEN, api=services.api)
        found, refused = find(service, Search(bbox=(38.89, -77.01, 38.91, -76.99)), tmp_path, rate=10_000, at_once=4)
    assert found.height == 10
    assert refused
    assert "more than 10 photos at one spot" in refused[0].detail


def test_a_box_too_much_for_the_service_is_split_and_not_asked_again(server, tmp_path):
    told = {"error": {"code": 1, "message": "Please reduce the amount of data you're asking for, then retry"}}
    server.api_faults = [web.json_response(told, status=500)]
    service = Mapillary(TOKEN, api=server.api)
    found, _ = find(service, Search(bbox=(38.88, -77.05, 38.93, -77.0)), tmp_path, rate=10_000, at_once=1)
    assert found.height > 20
    assert server.asked["/images"] == 3  # the whole, then its halves


TIMEOUT = {"code": -2, "error_subcode": 3404014, "message": "Query Timeout", "is_transient": False}
TRANSIENT = {"code": 2, "message": "An unexpected error has occurred.", "is_transient": True}


@pytest.mark.parametrize("error", [TIMEOUT, TRANSIENT])
def test_a_search_that_took_too_long_is_asked_again(server, tmp_path, error):
    server.api_faults = [web.json_response({"error": error}, status=400)]
    collect(Mapillary(TOKEN, api=server.api), Search(bbox=AROUND), tmp_path, size="256", with_images=False)
    assert pl.read_parquet(tmp_path / "found.parquet").height == len(server.shots)
    assert len({str(query) for query in server.queries}) == len(server.queries) - 1  # one of them twice


def test_a_search_that_always_takes_too_long_is_split(server, tmp_path, monkeypatch):
    monkeypatch.setattr(http, "ATTEMPTS", 2)
    server.api_faults = [web.json_response({"error": TIMEOUT}, status=400) for _ in range(2)]
    collect(Mapillary(TOKEN, api=server.api), Search(bbox=AROUND), tmp_path, size="256", with_images=False, at_once=1)
    assert pl.read_parquet(tmp_path / "found.parquet").height == len(server.shots)
    assert len({query["bbox"] for query in server.queries}) > 1


WHOLE = {
    "id": "1", "computed_geometry": {"type": "Point", "coordinates": [2.0, 1.0]}, "captured_at": 1600000000000,
    "compass_angle": 10.0, "computed_compass_angle": 20.0, "sequence": "s", "camera_type": "perspective",
    "creator": {"username": "ada", "id": "9"}, "organization_id": 7,
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(WHOLE.keys() - {"id"}))
@pytest.mark.parametrize("value", ["left out", None, "text", 7, [], {}, 1e300, True])
def test_each_field_of_an_answer_may_be_missing_null_or_of_another_type(name, value):
    photo = {key: part for key, part in WHOLE.items() if key != name} | ({} if value == "left out" else {name: value})
    row = _row(photo)
    assert pl.DataFrame([row], schema=COLUMNS, strict=False).height == 1
    assert row["orig_id"] == "1"
    assert (row["lat"], row["lon"]) == ((1.0, 2.0) if name != "computed_geometry" else (None, None))


def test_a_service_that_is_throttled_by_its_own_code_is_waited_for(server, tmp_path):
    told = {"error": {"code": 4, "message": "Application request limit reached"}}
    server.api_faults = [web.json_response(told, status=400) for _ in range(8)]  # more than attempts
    service = Mapillary(TOKEN, api=server.api)
    assert find(service, Search(ids=tuple(server.shots)), tmp_path, rate=10_000, at_once=2)[0].height == 40


def test_an_id_that_spoils_a_question_for_links_costs_only_its_own_photo(server):
    ids = [*server.shots][:8]
    # the eight, the second half, its second half, its last: each asked about together with the one at fault
    server.api_faults = [web.json_response({"error": {"code": 100}}, status=400) for _ in range(4)]

    async def ask():
        async with http.Client(rate=10_000, at_once=1) as client:
            return await Mapillary(TOKEN, api=server.api).links(client, ids)

    assert sorted(asyncio.run(ask())) == sorted(ids[:-1])


@pytest.mark.parametrize("name", ["mapillary", "kartaview"])
def test_ids_and_sequences_that_the_service_does_not_know_are_refused(server, tmp_path, name):
    service = {"mapillary": Mapillary(TOKEN, api=server.api), "kartaview": KartaView(api=server.api)}[name]
    ids = (*[*server.shots][:30], "123")
    collect(service, Search(ids=ids), tmp_path / "a", size="1024", rate=10_000)
    refused = pl.read_parquet(tmp_path / "a/refused.parquet")
    assert refused["reason"].to_list() == ["gone"]
    assert refused["path"][0].endswith(f"/{name}-123.jpg")
    assert read_photos(tmp_path / "a").frame.height == 30
    drives = ("drive-0", "drive-1", "drive-2", "never")
    collect(service, Search(sequences=drives), tmp_path / "b", size="1024", rate=10_000)
    assert "no photos of the sequence never" in pl.read_parquet(tmp_path / "b/refused.parquet")["detail"][0]
    assert read_photos(tmp_path / "b").frame.height == 24


def test_parts_of_a_box_are_small_and_cover_it():
    box = (38.0, -77.5, 38.3, -77.0)
    small = parts(box, 0.01)
    areas = [(north - south) * (east - west) for south, west, north, east in small]
    assert max(areas) < 0.01
    assert sum(areas) == pytest.approx(0.15)


def test_a_box_over_the_180th_meridian_is_two_and_one_around_a_point_holds_the_circle():
    assert Search(bbox=(-18, 179, -17, -179)).boxes() == [(-18, 179, -17, 180.0), (-18, -180.0, -17, -179)]
    rng = np.random.default_rng(0)
    for center in ((38.9, -77.0), (-16.8, 179.99), (69.6, 18.9)):
        boxes = Search(center=center, radius_km=5).boxes()
        lat, lon = center[0] + rng.normal(0, 0.05, 2000), center[1] + rng.normal(0, 0.2, 2000)
        lon = (lon + 180) % 360 - 180
        near = sphere.great_circle_km(lat, lon, *center) <= 5
        held = np.any([(s <= lat) & (lat <= n) & (w <= lon) & (lon <= e) for s, w, n, e in boxes], axis=0)
        assert near.sum() > 20
        assert held[near].all()


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"bbox": (1, 2, 3, 4), "ids": ("1",)},
        {"bbox": (39, -77, 38, -76)},
        {"center": (38, -77), "radius_km": 0},
        {"ids": ("1",), "since": date(2021, 1, 2), "until": date(2021, 1, 1)},
    ],
)
def test_a_search_that_cannot_be_is_refused(wrong):
    with pytest.raises(BadRecipeError):
        Search(**wrong)


def test_mapillary_becomes_a_dataset_by_one_command_and_the_token_is_nowhere(server, tmp_path):
    gone = list(server.shots)[3]
    server.faults = {next(iter(server.shots)): [403], gone: [404] * 9, list(server.shots)[5]: [500]}
    done = graticule(
        "data", "mapillary", tmp_path / "set", "--bbox", "38.7,-77.2,39.1,-76.9", "--size", "2048", "--rate", 10000
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "39 photos in" in done.stdout
    assert "refused 1: 1 gone" in done.stdout
    photos = read_photos(tmp_path / "set")
    row = photos.frame.filter(orig_id=str(818314000000007)).row(0, named=True)
    shot = server.shots[row["orig_id"]]
    assert (row["lat"], row["lon"]) == (shot.lat, shot.lon)
    assert row["captured_at"] == shot.taken.isoformat()
    assert row["heading"] == pytest.approx((400 + shot.heading) % 360)
    facts = {name: row[name] for name in ("source", "sequence", "camera_type", "creator", "licence", "attribution")}
    assert facts == {
        "source": "mapillary", "sequence": shot.sequence, "camera_type": "perspective", "creator": "99",
        "licence": "CC-BY-SA-4.0",
        "attribution": f"ada, Mapillary, CC BY-SA 4.0, https://www.mapillary.com/app/?pKey={shot.id}",
    }  # fmt: skip
    assert photos.paths()[0].read_bytes() in {shot.data for shot in server.shots.values()}
    assert pl.read_parquet(tmp_path / "set/refused.parquet")["path"].str.contains(gone).to_list() == [True]
    about = json.loads((tmp_path / "set/dataset.json").read_text())
    assert (about["source"], about["size"], about["licence"]) == ("mapillary", "2048", "CC-BY-SA-4.0")
    written = everything(tmp_path / "set")
    for secret in (TOKEN, "signed="):
        assert secret.encode() not in written
        assert secret not in done.stdout + done.stderr
    assert server.tokens_at_photos == []
    assert not any(TOKEN in str(query) for query in server.queries)


def test_a_run_that_goes_on_asks_neither_for_answers_nor_for_photos_that_it_has(server, tmp_path, monkeypatch):
    monkeypatch.setattr(http, "PATIENCE_S", 0.5)
    server.faults = {list(server.shots)[-1]: [429]}
    search, service = Search(bbox=AROUND), Mapillary(TOKEN, api=server.api)
    with pytest.raises(SourceError, match="pause"):
        collect(service, search, tmp_path, size="1024", rate=10_000, at_once=1)
    written = everything(tmp_path / ".fetch")
    assert b"signed=" not in written
    assert TOKEN.encode() not in written
    whole, boxes = server.whole.copy(), sum("bbox" in query for query in server.queries)
    collect(service, search, tmp_path, size="1024", rate=10_000)
    assert sum("bbox" in query for query in server.queries) == boxes
    assert whole <= server.whole
    assert set(server.whole.values()) == {1}
    assert not (tmp_path / ".fetch/answers.jsonl").exists()  # another day's run looks for what is new
    collect(service, search, tmp_path, size="1024", rate=10_000)
    assert set(server.whole.values()) == {1}


def test_a_folder_holds_photos_of_one_source_and_size(server, tmp_path):
    service = Mapillary(TOKEN, api=server.api)
    collect(service, Search(bbox=AROUND), tmp_path, size="1024", rate=10_000)
    with pytest.raises(BadRecipeError, match="holds photos of mapillary of size 1024, not of mapillary of size 256"):
        collect(service, Search(bbox=AROUND), tmp_path, size="256")


@pytest.mark.parametrize("name", ["mapillary", "kartaview"])
def test_photos_are_found_by_id_sequence_day_kind_and_distance(server, tmp_path, name):
    ids = list(server.shots)
    (tmp_path / "ids.txt").write_text("\n".join(ids[:7]) + "\n\n" + ids[0] + "\n")

    def found(*arguments):
        done = graticule("data", name, tmp_path / "out", *arguments, "--no-images", "--rate", 10000)
        assert done.returncode == 0, done.stderr
        (tmp_path / "out/.fetch/answers.jsonl").unlink()
        return [server.shots[id_] for id_ in pl.read_parquet(tmp_path / "out/found.parquet")["orig_id"]]

    shots = list(server.shots.values())
    around = ("--bbox", "38.5,-77.5,39.5,-76.5")
    assert found("--ids", tmp_path / "ids.txt") == shots[:7]
    assert found("--sequence", "drive-2") == [s for s in shots if s.sequence == "drive-2"]
    assert found(*around, "--pano") == [s for s in shots if s.pano]
    assert found(*around, "--no-pano") == [s for s in shots if not s.pano]
    days = found(*around, "--since", "2012-06-01", "--until", "2014-06-01")
    assert days == [s for s in shots if 2012 <= s.taken.year <= 2014]
    near = found("--center", "38.9,-77.03", "--radius-km", 2)
    assert near == [s for s in shots if sphere.great_circle_km(s.lat, s.lon, 38.9, -77.03) <= 2]
    assert 5 < len(near) < 35
    assert len(found(*around, "--limit", 9)) == 9
    assert found(*around, "--limit", 9) == found(*around, "--limit", 9)


def test_kartaview_pages_and_becomes_a_dataset(server, tmp_path, monkeypatch):
    monkeypatch.setattr("graticule.sources.web.kartaview.A_PAGE", 7)
    done = graticule("data", "kartaview", tmp_path / "set", "--bbox", "38.5,-77.5,39.5,-76.5", "--rate", 10000)
    assert done.returncode == 0, done.stderr
    frame = read_photos(tmp_path / "set").frame
    assert sorted(frame["orig_id"]) == sorted(server.shots)
    row = frame.row(3, named=True)
    shot = server.shots[row["orig_id"]]
    assert (row["lat"], row["lon"], row["heading"]) == (shot.lat, shot.lon, shot.heading)
    assert row["captured_at"] == f"{shot.taken:%Y-%m-%dT%H:%M:%S}"
    assert (row["creator"], row["licence"]) == ("15617", "CC-BY-SA-4.0")
    assert row["attribution"].startswith("© Grab and KartaView Contributors, CC BY-SA 4.0, https://kartaview.org/")
    assert set(server.asked) >= {"/2.0/photo/"}
    assert "/images" not in server.asked


def test_a_wrong_token_and_none_are_sentences_without_it(server, tmp_path, monkeypatch):
    monkeypatch.setenv("MAPILLARY_TOKEN", "MLY|wrong|one")
    done = graticule("data", "mapillary", tmp_path / "set", "--bbox", "38.89,-77.05,38.91,-77.01")
    assert done.returncode == 1
    assert "refuses the token in MAPILLARY_TOKEN" in done.stderr
    assert "wrong|one" not in done.stderr
    assert "wrong" not in repr(Mapillary("MLY|wrong|one"))
    assert b"wrong|one" not in everything(tmp_path / "set")
    monkeypatch.delenv("MAPILLARY_TOKEN")
    done = graticule("data", "mapillary", tmp_path / "set", "--bbox", "38.89,-77.05,38.91,-77.01")
    assert "set the environment variable MAPILLARY_TOKEN" in done.stderr


def test_a_service_that_speaks_otherwise_than_documented_is_named(tmp_path):
    services = Services([])
    services.api_faults = [web.json_response(["odd"])]
    with serving(services), pytest.raises(SourceError, match="KartaView does not answer as documented"):
        find(KartaView(api=services.api), Search(ids=("1",)), tmp_path, rate=100, at_once=1)


def test_an_api_that_sends_elsewhere_does_not_take_the_token_along(server):
    elsewhere = f"http://localhost:{server.port}/photo/{next(iter(server.shots))}"
    server.api_faults = [web.Response(status=302, headers={"Location": elsewhere})]

    async def ask():
        async with http.Client(rate=100, at_once=1) as client:
            await client.json(f"{server.api}/images", {}, headers={"Authorization": f"OAuth {TOKEN}"})

    with pytest.raises(http.NotHadError, match="status 302"):
        asyncio.run(ask())
    assert server.whole.total() == 0


def test_nothing_there_and_nothing_had_are_errors_that_say_so(server, tmp_path):
    with pytest.raises(BadTableError, match="mapillary has no photos there; widen the search"):
        collect(Mapillary(TOKEN, api=server.api), Search(bbox=(1, 1, 1.1, 1.1)), tmp_path / "a", size="256")
    server.faults = {id_: [404] * 9 for id_ in server.shots}
    with pytest.raises(TooManyRefusedError, match="40 of 40 photos .* were refused: 40 gone.*No photo is left"):
        collect(Mapillary(TOKEN, api=server.api), Search(ids=(*server.shots,)), tmp_path / "b", size="256", rate=10_000)
    assert pl.read_parquet(tmp_path / "b/refused.parquet").height == 40
