"""Who may ask the service, how often, and what is written down of it; the line of questions."""

import asyncio
import io
import json
import threading

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.requests import Request

from graticule.errors import BadTableError
from graticule.serving import keys
from graticule.serving.guard import Door, Guard
from graticule.serving.limits import Limits
from graticule.serving.queue import Batches, FullError


def make_app(release=None):
    app = FastAPI()

    @app.post("/v1/locate")
    async def locate(request: Request):
        if release:
            await release.wait()
        return {"bytes": len(await request.body())}

    @app.get("/v1/model")
    def model():
        return {}

    return app


def guarded(door=None, limits=None, release=None):
    return Guard(make_app(release), door or Door(), limits or Limits(), CollectorRegistry())


def asked(guard, method="POST", path="/v1/locate", base="http://127.0.0.1:8017", **more):
    async def one():
        transport = httpx.ASGITransport(guard)
        async with httpx.AsyncClient(transport=transport, base_url=base) as client:
            return await client.request(method, path, **more)

    return asyncio.run(one())


@pytest.mark.parametrize("base", ["http://localhost:8017", "http://127.0.0.1", "http://[::1]:8017", "http://10.0.0.7"])
def test_this_machine_and_addresses_in_digits_may_ask(base):
    assert asked(guarded(), base=base).status_code == 200


def test_a_name_that_was_made_to_point_here_is_refused_unless_it_is_ours():
    assert asked(guarded(), base="http://rebound.example").status_code == 421
    assert asked(guarded(Door(hosts=["maps.example"])), base="http://maps.example").status_code == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:9999", "https://127.0.0.1.evil.example"]
)
def test_a_page_of_another_server_may_not_ask(origin):
    answer = asked(guarded(), headers={"Origin": origin})
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers


def test_the_servers_own_page_may_ask_and_another_where_it_was_allowed():
    assert asked(guarded(), headers={"Origin": "http://127.0.0.1:8017"}).status_code == 200
    guard, origin = guarded(Door(origins=["https://maps.example"])), {"Origin": "https://maps.example"}
    assert asked(guard, headers=origin).headers["access-control-allow-origin"] == "https://maps.example"
    assert asked(guard, "OPTIONS", headers=origin).status_code == 204
    assert "access-control-allow-origin" not in asked(guard).headers


def test_every_answer_has_a_strict_policy_even_a_refusal():
    for answer in (asked(guarded()), asked(guarded(), base="http://no.example"), asked(guarded(), path="/none")):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_key_is_asked_for_and_only_its_hash_is_kept(tmp_path):
    file = tmp_path / "keys"
    key, other = keys.add_key(file, "anna"), keys.add_key(file, "ben")
    assert key not in file.read_text()
    known = keys.read_keys(file)
    assert (known.name_of(key), known.name_of(other), known.name_of(key + "x")) == ("anna", "ben", None)
    with pytest.raises(BadTableError, match="has a key"):
        keys.add_key(file, "anna")
    guard = guarded(Door(keys=known))
    assert asked(guard).status_code == 401
    assert asked(guard, headers={"Authorization": f"Basic {key}"}).status_code == 401
    assert asked(guard, headers={"Authorization": f"Bearer {key}"}).status_code == 200
    assert asked(guard, "GET", "/healthz").status_code == 404  # not asked for a key


def test_a_file_of_keys_that_is_none_is_refused(tmp_path):
    (tmp_path / "keys").write_text("anna 12\n")
    with pytest.raises(BadTableError, match="line 1"):
        keys.read_keys(tmp_path / "keys")
    with pytest.raises(BadTableError, match="--new-key"):
        keys.read_keys(tmp_path / "none")


def test_each_asker_has_a_rate_and_is_told_when_to_come_again():
    guard = guarded(Door(per_minute=2))
    assert [asked(guard).status_code for _ in range(3)] == [200, 200, 429]
    assert int(asked(guard).headers["retry-after"]) > 0


def test_a_bucket_fills_with_time_and_the_oldest_is_forgotten(monkeypatch):
    clock = [0.0]
    rates = keys.Rates(60, now=lambda: clock[0])
    assert [rates.wait_s("a") for _ in range(61)][-1] == pytest.approx(1)
    clock[0] = 2.0
    assert [rates.wait_s("a") for _ in range(3)] == [0, 0, pytest.approx(1)]
    monkeypatch.setattr(keys, "MOST_ASKERS", 3)
    for name in "bcde":
        rates.wait_s(name)
    assert len(rates._buckets) == 3


def test_the_audit_tells_who_asked_and_nothing_of_the_photo():
    audit = io.StringIO()
    asked(guarded(Door(audit=audit)), files={"photos": ("holiday.jpg", b"secret")}, params={"q": "hidden"})
    line = json.loads(audit.getvalue())
    assert line["path"] == "/v1/locate"
    assert line["status"] == 200
    assert line.keys() == {"time", "who", "method", "path", "status", "photos", "bytes", "seconds"}
    assert not any(word in audit.getvalue() for word in ("holiday", "secret", "hidden"))


def test_bodies_are_bounded_one_by_one_and_together():
    assert asked(guarded(limits=Limits(bytes=10)), content=b"x" * 11).status_code == 413
    assert asked(guarded(limits=Limits(bytes=10)), content=b"x" * 10).json() == {"bytes": 10}
    full = asked(guarded(limits=Limits(memory=5)), content=b"x" * 10)
    assert full.status_code == 503
    assert "retry-after" in full.headers


def test_a_request_more_than_fits_is_told_to_come_again_and_what_fits_is_answered():
    async def run():
        release = asyncio.Event()
        guard = guarded(limits=Limits(requests=2), release=release)
        transport = httpx.ASGITransport(guard)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            first = [asyncio.create_task(client.post("/v1/locate", content=b"1")) for _ in range(2)]
            while guard.inside < 2:
                await asyncio.sleep(0)
            third = await client.post("/v1/locate", content=b"1")
            release.set()
            return [(await each).status_code for each in first], third, guard.inside, guard.held

    first, third, inside, held = asyncio.run(run())
    assert (first, third.status_code, third.headers["retry-after"]) == ([200, 200], 503, "2")
    assert (inside, held) == (0, 0)


class Slow:
    """Answers a question with twice its number, when it may."""

    def __init__(self):
        self.may, self.begun, self.batches = threading.Event(), threading.Event(), []

    def __call__(self, key, questions, busy):
        self.batches.append((key, list(questions)))
        self.begun.set()
        self.may.wait(10)
        if 13 in questions:
            raise ValueError("thirteen")
        return [2 * question for question in questions]


async def begun(slow):
    while not slow.begun.is_set():
        await asyncio.sleep(0.001)


def test_questions_that_come_meanwhile_share_a_batch_and_each_gets_its_own_answer():
    async def run():
        slow = Slow()
        line = Batches(slow, size=lambda _: 1, most=3, waiting=10)
        first = asyncio.create_task(line.ask("a", 1))
        await begun(slow)
        others = [asyncio.create_task(line.ask(key, n)) for key, n in [("a", 2), ("a", 3), ("b", 4), ("b", 5)]]
        await asyncio.sleep(0.01)
        slow.may.set()
        answers = await asyncio.gather(first, *others)
        await asyncio.to_thread(line.close)
        return answers, slow.batches

    answers, batches = asyncio.run(run())
    assert answers == [2, 4, 6, 8, 10]
    assert batches == [("a", [1]), ("a", [2, 3]), ("b", [4, 5])]


def test_a_full_line_takes_no_more_and_who_leaves_makes_room():
    async def run():
        slow = Slow()
        line = Batches(slow, size=lambda _: 1, most=1, waiting=2)
        tasks = [asyncio.create_task(line.ask("a", 1))]
        await begun(slow)
        tasks += [asyncio.create_task(line.ask("a", n)) for n in (2, 3)]
        await asyncio.sleep(0.01)
        with pytest.raises(FullError):
            await line.ask("a", 4)
        tasks[1].cancel()
        await asyncio.sleep(0.01)
        tasks.append(asyncio.create_task(line.ask("a", 5)))
        await asyncio.sleep(0.01)
        slow.may.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(line.close)
        return found, slow.batches

    found, batches = asyncio.run(run())
    assert [found[0], found[2], found[3]] == [2, 6, 10]
    assert isinstance(found[1], asyncio.CancelledError)
    assert [questions for _, questions in batches] == [[1], [3], [5]]


def test_one_bad_question_spoils_no_other_of_its_batch_and_the_thread_lives_on():
    async def run():
        slow = Slow()
        line = Batches(slow, size=lambda _: 1, most=4, waiting=10)
        first = asyncio.create_task(line.ask("a", 1))
        await begun(slow)
        rest = [asyncio.create_task(line.ask("a", n)) for n in (2, 13, 3)]
        await asyncio.sleep(0.01)
        slow.may.set()
        found = await asyncio.gather(first, *rest, return_exceptions=True)
        found.append(await line.ask("a", 7))
        await asyncio.to_thread(line.close)
        return found

    found = asyncio.run(run())
    assert [*found[:2], *found[3:]] == [2, 4, 6, 14]
    assert isinstance(found[2], ValueError)


def test_a_line_that_closes_answers_what_it_has_and_takes_nothing_new():
    async def run():
        slow = Slow()
        line = Batches(slow, size=lambda _: 1, most=1, waiting=10)
        tasks = [asyncio.create_task(line.ask("a", n)) for n in (1, 2, 3)]
        await begun(slow)
        closing = asyncio.create_task(asyncio.to_thread(line.close))
        slow.may.set()
        await closing
        with pytest.raises(FullError):
            await line.ask("a", 4)
        return await asyncio.gather(*tasks)

    assert asyncio.run(run()) == [2, 4, 6]
