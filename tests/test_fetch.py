"""The downloader against a server that fails in every way: whole photos, each once, and a reason for the rest."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from services import TOKEN, Services, Shot, serving
from towns import QUARTERS, photo

from graticule.errors import SourceError, WriteError
from graticule.photos import images
from graticule.sources.web import download as fetching
from graticule.sources.web import http
from graticule.sources.web.download import Journal, Wanted, fetch, photo_path


def shots(count, seed=0):
    rng = np.random.default_rng(seed)
    return [Shot(i, *QUARTERS[i % 4], f"drive-{i % 6}", photo(i % 4, rng)) for i in range(count)]


@pytest.fixture
def quick(monkeypatch):
    """Waits between attempts are short."""
    monkeypatch.setattr(http, "FIRST_WAIT_S", 0.01)


@pytest.fixture
def server(quick):
    with serving(Services(shots(40))) as services:
        yield services


def wanted(server, ids=None):
    return [Wanted(id_, f"http://localhost:{server.port}/photo/{id_}") for id_ in ids or server.shots]


def run(server, folder, ids=None, **options):
    asked = wanted(server, ids)
    return fetch(asked, folder, total=len(asked), **{"rate": 10_000, "at_once": 8, **options})


def files(folder):
    return {path.stem: path.read_bytes() for path in (folder / "images").glob("*/*")}


def served(server):
    return {id_: shot.data for id_, shot in server.shots.items()}


def test_all_photos_come_whole_and_a_second_run_asks_for_none(server, tmp_path):
    told = []
    assert run(server, tmp_path, progress=lambda *said: told.append(said)) == []
    assert files(tmp_path) == served(server)
    assert told[-1][:2] == (40, 40)
    assert "photos/s" in told[-1][2]
    asked = server.asked.copy()
    assert run(server, tmp_path) == []
    assert server.asked == asked


def test_faults_that_pass_are_waited_out_and_no_photo_is_taken_twice(server, tmp_path):
    ids = list(server.shots)
    faults = [[500], [502, 500], [503], [429], ["breaks"], ["cut"], ["breaks", "cut", 500]]
    server.faults = dict(zip(ids, faults, strict=False))
    assert run(server, tmp_path) == []
    assert files(tmp_path) == served(server)
    assert set(server.whole.values()) == {1}


def test_a_pause_that_the_server_asks_for_is_kept_by_everyone(server, tmp_path):
    ids = list(server.shots)
    server.faults = {ids[10]: [429]}
    start = time.monotonic()
    assert run(server, tmp_path) == []
    assert time.monotonic() - start >= 1
    assert server.asked_while_throttled <= 7  # those under way when the pause began


def test_a_long_pause_stops_the_run_with_a_sentence_and_keeps_what_is_there(server, tmp_path, monkeypatch):
    monkeypatch.setattr(http, "PATIENCE_S", 0.5)
    server.faults = {list(server.shots)[-1]: [429]}
    with pytest.raises(SourceError, match="localhost:.* asks for a pause of .* minutes.*Run the same command later"):
        run(server, tmp_path, at_once=1)
    assert len(files(tmp_path)) == 39
    assert run(server, tmp_path) == []
    assert set(server.whole.values()) == {1}


def test_the_rate_is_kept(server, tmp_path):
    start = time.monotonic()
    run(server, tmp_path, rate=50, at_once=40)
    assert time.monotonic() - start >= 39 / 50


@pytest.mark.parametrize(
    ("fault", "reason", "again"),
    [
        (404, "gone", False),
        (410, "gone", False),
        (403, "no answer", True),
        (500, "no answer", True),
        ("page", "not a photo", True),
        ("message", "not a photo", True),
        ("text", "unreadable", False),
        ("cut", "truncated", True),
        ("breaks", "no answer", True),
        ("huge", "too large", False),
    ],
)
def test_what_cannot_be_had_is_refused_with_its_reason_and_asked_again_only_if_it_may_help(
    server, tmp_path, fault, reason, again
):
    bad = list(server.shots)[3]
    server.faults = {bad: [fault] * 20}
    refused = run(server, tmp_path)
    assert [(one.path, one.reason) for one in refused] == [(photo_path(bad), reason)]
    assert TOKEN not in refused[0].detail
    assert "http" not in refused[0].detail
    assert len(files(tmp_path)) == 39
    asked = server.asked[bad]
    assert run(server, tmp_path) == (refused if not again else run(server, tmp_path))
    assert (server.asked[bad] > asked) is again
    assert server.asked.total() - server.asked[bad] == 39


def test_a_file_too_large_without_saying_so_is_not_read_to_its_end(server, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_BYTES", 1000)
    assert {one.reason for one in run(server, tmp_path)} == {"too large"}


def test_an_expired_link_is_asked_for_anew_once(server, tmp_path):
    ids = list(server.shots)
    server.faults = {ids[0]: [403], ids[1]: ["page"], ids[2]: [403, 403, 403]}
    asked_for = []

    async def resolve(client, keys):
        asked_for.append(tuple(keys))
        return {key: f"http://localhost:{server.port}/photo/{key}" for key in keys if key != ids[5]}

    refused = fetch(
        [Wanted(id_) for id_ in ids], tmp_path, total=40, resolve=resolve, rate=10_000, at_once=2
    )  # fmt: skip
    assert {one.path: one.reason for one in refused} == {photo_path(ids[2]): "no answer", photo_path(ids[5]): "gone"}
    assert len(files(tmp_path)) == 38
    assert sorted(keys for keys in asked_for if len(keys) == 1) == [(ids[0],), (ids[1],), (ids[2],)]
    assert max(map(len, asked_for)) <= fetching.FOLLOWING


def test_a_network_that_is_down_stops_the_run_soon(tmp_path, quick, monkeypatch):
    monkeypatch.setattr(fetching, "GIVE_UP_AFTER", 20)
    gone = (Wanted(str(i), "http://127.0.0.1:9/x.jpg") for i in range(10**9))
    with pytest.raises(SourceError, match="20 photos in a row could not be fetched.*broke off or did not answer"):
        fetch(gone, tmp_path, total=10**9, rate=10_000, at_once=8)


def test_a_table_of_any_length_is_read_as_the_work_goes_on(server, tmp_path):
    taken = []

    def endless():
        for i in range(10**12):
            taken.append(i)
            yield Wanted(f"n{i}", f"http://localhost:{server.port}/photo/none")

    def stop(done, *_):
        if done > 100:
            raise StopAsyncIteration

    with pytest.raises(StopAsyncIteration):
        fetch(endless(), tmp_path, total=10**12, rate=10_000, at_once=4, progress=stop)
    assert len(taken) < 2000


def test_a_full_disk_stops_the_run_and_leaves_nothing_half_written(server, tmp_path, full_disk):
    with pytest.raises(WriteError, match="no space left"):
        run(server, tmp_path)
    assert files(tmp_path) == {}


def test_it_runs_in_a_notebook_where_a_loop_runs_already(server, tmp_path):
    async def cell():
        return run(server, tmp_path)

    assert asyncio.run(cell()) == []
    assert files(tmp_path) == served(server)


def test_a_key_that_could_leave_the_folder_is_refused():
    for key in ("../x", "a/b", ".hidden", ""):
        with pytest.raises(ValueError, match="cannot be a file's name"):
            photo_path(key)


def test_a_half_written_line_of_a_journal_is_dropped_and_the_next_is_whole(tmp_path):
    with Journal(tmp_path / "journal.jsonl") as journal:
        journal.add(["a", 1])
        journal.add(["b", 2])
    whole = (tmp_path / "journal.jsonl").read_bytes()
    for length in range(len(whole) + 1):
        (tmp_path / "journal.jsonl").write_bytes(whole[:length])
        with Journal(tmp_path / "journal.jsonl") as journal:
            known = journal.entries
            journal.add(["c", 3])
        lines = (tmp_path / "journal.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == [*[["a", 1], ["b", 2]][: len(known)], ["c", 3]]


KILLED = """
import sys
from pathlib import Path
from graticule.sources.web.download import Wanted, fetch
port, first, count = (int(x) for x in sys.argv[2:])
wanted = [Wanted(str(first + i), f"http://localhost:{port}/photo/{first + i}") for i in range(count)]
refused = fetch(wanted, Path(sys.argv[1]), total=count, rate=10_000, at_once=8)
print(len(refused))
"""


def test_a_killed_run_goes_on_to_the_same_bytes_and_fetches_no_whole_photo_again(tmp_path):
    services = Services(shots(200), slow_s=0.02)
    first = min(map(int, services.shots))
    gone = str(first + 5)
    services.faults = {gone: [404] * 9}
    with serving(services):
        command = [sys.executable, "-c", KILLED, str(tmp_path), str(services.port), str(first), "200"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while len(files(tmp_path)) < 60 and process.poll() is None:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        whole = {id_: data for id_, data in files(tmp_path).items() if id_.isdecimal()}
        assert 0 < len(whole) < 199
        assert whole.items() <= served(services).items()  # under its name a photo is whole
        asked_before = {id_: services.asked[id_] for id_ in whole}
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
    assert files(tmp_path) == {id_: data for id_, data in served(services).items() if id_ != gone}
    assert {id_: services.asked[id_] for id_ in whole} == asked_before
    assert services.asked[gone] == 1  # remembered over the kill
