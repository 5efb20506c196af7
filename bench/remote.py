"""Shards read from an S3 server on this machine against the same shards on its disk, and from one that goes wrong.

python -m bench.remote

Needs ``s3fs`` and ``moto[server]`` beside the package. Moto is written in Python and takes the cores of who asks it:
the ratio is a lower bound of what a real store gives. The second server goes wrong at one answer in three: it throttles
(503), breaks off in the middle, sends half and says that this is all, or sends a byte that is not the one it was given.
"""

import itertools
import logging
import os
import tempfile
import threading
from collections import Counter
from pathlib import Path
from statistics import median
from unittest import mock

import fsspec
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from bench.shards import Epochs, make_photos
from bench.table import Row, print_table
from graticule.photos import shards
from graticule.photos.images import content_hash, read_file
from graticule.photos.table import read_photos
from graticule.sources.pack import pack

FAULTS = ("throttled", "cut", "short", "false")
EVERY, PASSES = 3, 6  # of the server that goes wrong
TURNS = 2
KEYS = {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none", "AWS_DEFAULT_REGION": "us-east-1"}


class Faulty:
    """A server whose answers to GET go wrong in turns, while ``wrong``."""

    def __init__(self, app) -> None:
        self.app, self.wrong, self.asked, self.faults = app, False, itertools.count(1), itertools.cycle(FAULTS)
        self.given: Counter[str] = Counter()

    def __call__(self, environ, start):
        if not self.wrong or environ["REQUEST_METHOD"] != "GET" or next(self.asked) % EVERY:
            return self.app(environ, start)
        fault = next(self.faults)
        self.given[fault] += 1
        if fault == "throttled":
            start("503 Slow Down", [("Content-Type", "application/xml")])
            return [b"<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"]
        told = []
        body = b"".join(self.app(environ, lambda *given: told.append(given)))
        status, headers, *_ = told[0]
        middle = len(body) // 2
        sent = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :] if fault == "false" else body[:middle]
        length = len(body) if fault == "cut" else len(sent)
        others = [pair for pair in headers if pair[0].lower() not in ("content-length", "transfer-encoding")]
        start(status, [*others, ("Content-Length", str(length))])
        return [sent]


def remote_rows(turns: int = TURNS) -> list[Row]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # which names every request
    app = Faulty(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, app, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}"}
    with mock.patch.dict(os.environ, KEYS | address), tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "files").mkdir()
        here = pack(make_photos(Path(folder) / "files"), Path(folder) / "packed", shard_mb=16)
        store = fsspec.filesystem("s3")
        store.mkdir("photos")
        store.put(f"{here}/", "photos/town/", recursive=True)
        local, remote = read_photos(here), read_photos(Path("s3://photos/town"))
        loaders = [Epochs(photos, 2) for photos in (local, remote)]
        rates = [[loader.photos_per_second() for loader in loaders] for _ in range(turns + 1)][1:]
        ratio = median(there / near for near, there in rates)
        of_disk, of_store = (median(column) for column in zip(*rates, strict=True))
        app.wrong = True
        right = 0
        for _ in range(PASSES):
            shards._reader_of.cache_clear()
            right += sum(
                content_hash(read_file(path)) == digest
                for path, digest in zip(remote.paths(), remote.column("sha256"), strict=True)
            )
    server.shutdown()
    faults = ", ".join(f"{fault} {count}" for fault, count in app.given.items())
    what = f"{of_store:.0f} photos/s, {ratio:.2f} of the disk's {of_disk:.0f}"
    return [
        Row("shards from S3 (moto), 2 workers", what),
        Row(f"  one answer in {EVERY} wrong ({faults})", f"{right} of {PASSES * len(remote)} photos are the same bytes",
            "all of them", right == PASSES * len(remote)),
    ]  # fmt: skip


if __name__ == "__main__":
    print_table(remote_rows())
