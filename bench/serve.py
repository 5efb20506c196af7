"""How the service holds under load: clients at once against one call of the model at a time, memory, hostile uploads.

python -m bench.serve [REQUESTS]

The server is a process of its own and so are its clients; all share the machine. The network is EfficientNet-Lite0
with random weights on 224 pixels; ten thousand requests go to the tiny bundle that the tests keep. Turns alternate, so
that a busy moment of the machine slows all alike, and ratios are of medians over turns.
"""

import asyncio
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import httpx
import numpy as np
import psutil
import torch

from bench.decoding import noisy_gradients
from bench.hostile import hostile
from bench.table import Row, print_table

CLIENTS = (1, 8, 32)
GOAL, GOAL_TAIL, GOAL_MEMORY = 1.5, 3.0, 1.1
PHOTOS, TURNS = 64, 3
REQUESTS = 10_000
HOSTILE = 500
KEPT = Path(__file__).parents[1] / "tests" / "bundles" / "format-3"
RECIPE = {
    "cells": {"split_above": 20, "drop_below": 1},
    "encoder": {"name": "tf_efficientnet_lite0", "weights": "none"},
}


def make_locator(kept: bool):
    """The tiny bundle, or a network as large as those that are used, whose weights are random."""
    from graticule.config import parse_recipe
    from graticule.inference.locate import Locator, load
    from graticule.model.bundle import Bundle
    from graticule.model.geolocator import build_geolocator
    from graticule.model.preprocess import Preprocess
    from graticule.partition import CellPartition

    if kept:
        return load(KEPT)
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    where = rng.uniform(-60, 60, 500), rng.uniform(-180, 180, 500)
    partition, recipe = CellPartition.fit(*where, split_above=20, drop_below=1), parse_recipe(RECIPE)
    model = build_geolocator(recipe, len(partition))
    preprocess = Preprocess("squash", 224, 224, 224, model.encoder.mean, model.encoder.std)
    return Locator(Bundle(model, partition, preprocess, recipe), device="cpu")


def serve(port: int, kept: bool) -> None:
    """What the server's process does."""
    from graticule.inference.cores import keep_memory
    from graticule.serving.app import create_app
    from graticule.serving.limits import Limits
    from graticule.serving.run import run
    from graticule.serving.service import Model, Service, batch_of

    limits = Limits(seconds=10 if kept else 60, pixels=4_000_000)
    memory_is_kept, locator = keep_memory(), make_locator(kept)
    if memory_is_kept:  # as for any bundle that is served
        locator.at_once = batch_of(locator, limits.batch)
    run(create_app(Service([Model("bench", locator)], limits)), "127.0.0.1", port, limits, lambda _: None)


@contextmanager
def server(kept: bool) -> Iterator[tuple[str, psutil.Process]]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    code = f"from bench.serve import serve; serve({port}, {kept})"
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"GOMP_SPINCOUNT": "1000"})
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            time.sleep(0.1)
            try:
                if httpx.get(f"{url}/readyz").status_code == 200:
                    break
            except httpx.TransportError:
                continue
        yield url, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(30)


async def load(url: str, photos: Sequence[bytes], clients: int) -> tuple[float, list[float], int]:
    """Seconds in all, seconds of each answer, and how many were no answer."""
    waiting, times, failed = list(enumerate(photos)), [], 0

    async def client(session: httpx.AsyncClient) -> None:
        nonlocal failed
        while waiting:
            _, photo = waiting.pop()
            begun = time.perf_counter()
            answer = await session.post(f"{url}/v1/locate", files={"photos": ("a.jpg", photo)})
            times.append(time.perf_counter() - begun)
            failed += answer.status_code != 200

    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(timeout=120, limits=limits) as session:
        begun = time.perf_counter()
        await asyncio.gather(*(client(session) for _ in range(clients)))
        return time.perf_counter() - begun, times, failed


def load_rows(photos: int = PHOTOS, turns: int = TURNS) -> list[Row]:
    """Throughput and waiting times for some clients at once, against one call of the model after the other."""
    files = noisy_gradients(8, 640, 480) * (photos // 8)
    locator = make_locator(kept=False)
    locator.locate(files[0])
    alone: list[float] = []
    busy: dict[int, list[float]] = {clients: [] for clients in (0, *CLIENTS)}
    seconds: dict[int, list[float]] = {clients: [] for clients in CLIENTS}
    waits: dict[int, list[float]] = {clients: [] for clients in CLIENTS}
    failed = 0
    with server(kept=False) as (url, process):
        for _ in range(turns):
            begun, used = time.perf_counter(), time.process_time()
            for photo in files:
                locator.locate(photo)
            alone.append((time.perf_counter() - begun) / len(files))
            busy[0].append((time.process_time() - used) / len(files))
            for clients in CLIENTS:
                used = sum(process.cpu_times()[:2])
                took, each, wrong = asyncio.run(load(url, files, clients))
                busy[clients].append((sum(process.cpu_times()[:2]) - used) / len(files))
                seconds[clients].append(took / len(files))
                waits[clients] += each
                failed += wrong
    rows = [Row("service: one model call at a time", f"{1 / median(alone):.1f} photos/s")]
    for clients in CLIENTS:
        p50, p99 = np.quantile(waits[clients], [0.5, 0.99])
        ratio = median(one / many for one, many in zip(alone, seconds[clients], strict=True))
        last = clients == CLIENTS[-1]
        rows.append(
            Row(
                f"  {clients} clients: photos/s against that",
                f"{ratio:.2f} times",
                f"at least {GOAL}" if last else "",
                ratio >= GOAL if last else None,
            )
        )
        rows.append(
            Row(
                f"  {clients} clients: p50, p99",
                f"{1000 * p50:.0f}, {1000 * p99:.0f} ms; {p99 / p50:.1f} times",
                f"under {GOAL_TAIL:g} times" if last else "",
                p99 < GOAL_TAIL * p50 if last else None,
            )
        )
    one, *many = (1000 * median(each) for each in busy.values())
    processor = f"{one:.0f} -> {', '.join(f'{each:.0f}' for each in many)} ms"
    return [
        *rows,
        Row("  processor time a photo (on a machine left alone it decides)", processor),
        Row("  answers that failed", str(failed), "0", failed == 0),
    ]


def memory_rows(requests: int = REQUESTS, uploads: int = HOSTILE) -> list[Row]:
    """Whether memory stays flat over many requests, and what hostile uploads do."""
    files = noisy_gradients(8, 160, 120)
    with server(kept=True) as (url, process):

        def resident() -> float:
            return process.memory_info().rss / 2**20

        asyncio.run(load(url, files * (requests // 40), 16))  # a fifth of them first: pools and caches fill
        before = resident()
        _, _, failed = asyncio.run(load(url, files * (requests // 10), 16))
        ratio, after = resident() / before, resident()
        statuses = asyncio.run(attack(url, files[0], uploads))
        slow = in_background(lambda: slow_senders(url, 20))
        alive = httpx.post(f"{url}/v1/locate", files={"photos": files[0]}, timeout=60).status_code == 200
        slow.join()
        alive = alive and httpx.get(f"{url}/healthz").status_code == 200
        hurt = resident() / after
    fine = {200, 408, 413, 422}
    odd = sum(status not in fine for status in statuses)
    said = ", ".join(f"{statuses.count(status)} x {status}" for status in sorted(set(statuses)))
    return [
        Row(f"memory over {requests:,} requests", f"{ratio:.3f} times", f"under {GOAL_MEMORY}", ratio < GOAL_MEMORY),
        Row("  answers that failed", str(failed), "0", failed == 0),
        Row(f"{len(statuses)} hostile uploads", said, "no 5xx", odd == 0),
        Row("  alive afterwards, beside slow senders", "yes" if alive else "no", "yes", alive),
        Row("  memory after them", f"{hurt:.3f} times"),
    ]


async def attack(url: str, photo: bytes, count: int) -> list[int]:
    """Statuses of hostile uploads, some at a time."""
    at_once = asyncio.Semaphore(8)
    async with httpx.AsyncClient(timeout=60) as session:

        async def one(data: bytes) -> int:
            async with at_once:
                return (await session.post(f"{url}/v1/locate", files={"photos": ("a.jpg", data)})).status_code

        return await asyncio.gather(*(one(data) for _, data in hostile(photo, count)))


def slow_senders(url: str, count: int) -> None:
    """Clients that promise a photo and do not send it."""
    host, port = url.removeprefix("http://").split(":")
    head = b"POST /v1/locate HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    open_ = [socket.create_connection((host, int(port))) for _ in range(count)]
    for client in open_:
        client.sendall(head + b"Content-Length: 1000\r\n\r\n--x")
    for client in open_:
        client.settimeout(30)
        assert b" 408 " in client.recv(4096)  # noqa: S101
        client.close()


def in_background(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def serve_rows() -> list[Row]:
    return [*load_rows(), *memory_rows()]


if __name__ == "__main__":
    print_table([*load_rows(), *memory_rows(int(sys.argv[1]) if sys.argv[1:] else REQUESTS)])
