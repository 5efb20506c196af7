"""Kills (-9) at random moments of training by two ranks, predicting in parts, packing, exporting, and of work by Ray.

python -m bench.kills [training predicting packing exporting ray checking-by-ray packing-by-ray counting-by-ray]
                      [--kills 50]

A command is killed and given again, over and over, and whenever it ended its files must be those of an undisturbed
run. Of two ranks either is killed, and the other must end by itself; by Ray the command, an actor or a whole node, on a
cluster of two nodes of this machine. Commands are forks of a process that has loaded the libraries: a kill falls into
the work, and fifty cost minutes.
"""

import argparse
import multiprocessing
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from statistics import median

import polars as pl
import psutil
import yaml

from bench.cells import world
from bench.decoding import noisy_gradients
from bench.runtimes import TINY
from bench.table import Row, print_table
from graticule.config import parse_recipe

KILLS = 50
PATIENCE = 10  # seconds that a rank waits here for one that never comes; ten minutes outside the bench
LIBRARIES = [
    "lightning", "timm", "onnx", "onnxruntime", "ray", "graticule.cli", "graticule.sources.pack",
    "graticule.inference.parts", "graticule.model.exporting", "graticule.training.train",
]  # fmt: skip
RECIPE = {
    "cells": {"split_above": 30, "drop_below": 5},
    "split": {"by": "sequence", "val": 0.2, "test": 0.1},
    "image": {"height": 32, "width": 32},
    "encoder": {"name": "test_convnext", "weights": "none"},
    "train": {"epochs": 4, "batch_size": 32, "lr": 0.002, "precision": "float32", "workers": 0, "clip": 1.0},
}
Process = multiprocessing.process.BaseProcess


@dataclass
class Deed:
    """A command that writes into a folder.

    Attributes:
        words: the command line, given the folder.
        files: what of the folder must be the same bytes at the end.
        fresh: makes the folder ready to begin.
        ranks: processes that run the command together.
        environment: what they are told beside it.
        hit: what was killed, and how often.
        alone: how many seconds the other rank took to end by itself, after each kill.
    """

    words: Callable[[Path], list[str]]
    files: str
    fresh: Callable[[Path], object] = lambda folder: None
    ranks: int = 1
    environment: dict[str, str] = field(default_factory=dict)
    hit: Counter[str] = field(default_factory=Counter)
    alone: list[float] = field(default_factory=list)

    def start(self, folder: Path) -> list[Process]:
        """Its processes, started; what they say lies beside the folder."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        found = []
        for rank in range(self.ranks):
            told = {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            environment = self.environment | (told if self.ranks > 1 else {})
            given = (self.words(folder), environment, self.said(folder, rank))
            found.append(CONTEXT.Process(target=command, args=given))
            found[-1].start()
        return found

    def said(self, folder: Path, rank: int = 0) -> Path:
        return folder.with_suffix(f".{rank}.txt")

    def strike(self, folder: Path, processes: list[Process], rng: random.Random) -> None:
        """Kill one of the processes that live; the others are waited for."""
        victim = rng.choice([rank for rank, process in enumerate(processes) if process.exitcode is None])
        others = [rank for rank, process in enumerate(processes) if process.exitcode is None and rank != victim]
        self.hit[f"rank {victim}" if others else "alone"] += 1
        kill(processes[victim])
        begun = time.monotonic()
        for rank in others:
            processes[rank].join(5 * PATIENCE)  # it tries to reach a first one that is gone two or three times
            stopped = processes[rank].exitcode == 1 and "has ended or never came" in self.said(folder, rank).read_text()
            if stopped or processes[rank].exitcode == 0:
                self.alone.append(time.monotonic() - begun)
            else:
                self.hit["then hung"] += 1
                kill(processes[rank])

    def bytes_of(self, folder: Path) -> dict[str, bytes]:
        return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.glob(self.files))}


class RayDeed(Deed):
    """A command on a cluster of Ray: it is killed, or an actor, or a node, which another replaces."""

    def __enter__(self) -> "RayDeed":
        from ray.cluster_utils import Cluster

        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # before the cluster starts
        own = {"object_store_memory": 80_000_000}
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False} | own)
        self.nodes = [self.cluster.add_node(num_cpus=1, **own) for _ in range(2)]
        self.environment = {"RAY_ADDRESS": self.cluster.address}  # forks have that of their server, not ours
        return self

    def __exit__(self, *_: object) -> None:
        self.cluster.shutdown()

    def strike(self, folder: Path, processes: list[Process], rng: random.Random) -> None:
        actors = [one for one in psutil.Process().children(recursive=True) if name_of(one).startswith("ray::_Maker")]
        what = rng.choice(["command", "node", *(["actor"] if actors else [])])
        self.hit[what] += 1
        if what == "command":
            kill(processes[0])
        elif what == "actor":
            rng.choice(actors).kill()
        else:
            self.cluster.remove_node(self.nodes.pop(rng.randrange(2)), allow_graceful=False)
            self.nodes.append(self.cluster.add_node(num_cpus=1, object_store_memory=80_000_000))


CONTEXT = multiprocessing.get_context("forkserver")


def command(words: list[str], environment: dict[str, str], said: Path) -> None:
    """``graticule`` with these words, in this process."""
    from graticule.cli import main
    from graticule.training import devices

    os.setsid()
    devices.PATIENCE = timedelta(seconds=PATIENCE)
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.update(environment)
    sys.argv = ["graticule", *words]
    main()


def kill(process: Process) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # and whatever it started
    process.kill()
    process.join()


def name_of(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def whole(deed: Deed, folder: Path) -> float:
    """Seconds of an undisturbed run.

    Raises:
        RuntimeError: it did not end well.
    """
    begun = time.monotonic()
    processes = deed.start(folder)
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise RuntimeError(deed.said(folder).read_text())
    return time.monotonic() - begun


def killed(deed: Deed, folder: Path, kills: int) -> Iterator[Row]:
    """Rows about one deed."""
    rng = random.Random(0)
    warm = CONTEXT.Process(target=int)  # once the libraries are there
    warm.start()
    warm.join()
    deed.fresh(folder)
    seconds = whole(deed, folder)
    expected = deed.bytes_of(folder)
    runs = left = fell = 0
    same, under_way = bool(expected), False
    while fell < kills or under_way:
        if not under_way:
            shutil.rmtree(folder, ignore_errors=True)
            deed.fresh(folder)
        begun, before = time.monotonic(), fell
        processes = deed.start(folder)
        while fell < kills:
            processes[0].join(rng.uniform(0, 0.9 * seconds))
            if processes[0].exitcode is not None:
                break
            deed.strike(folder, processes, rng)
            fell += 1
            print(f"{folder.name}: {fell} of {kills} kills", file=sys.stderr, flush=True)
        for process in processes:
            process.join()
        under_way = processes[0].exitcode != 0
        if under_way and fell == kills and processes[0].exitcode != -signal.SIGKILL and not deed.alone:
            raise RuntimeError(deed.said(folder).read_text())
        if not under_way:
            if fell == before:  # on a machine that others use, the longest tells least
                seconds = min(seconds, time.monotonic() - begun)
            runs += 1
            same &= deed.bytes_of(folder) == expected
            left += len([*folder.rglob(".*.part")])
    hit = ", ".join(f"{name} {count}" for name, count in sorted(deed.hit.items()))
    what = f"{fell} kills{f' ({hit})' if len(deed.hit) > 1 else ''} in {runs} runs of {seconds:.1f} s"
    what = f"{what}, {left} half-written files left"
    yield Row(folder.name, f"{what}; the same bytes: {same}", "the same bytes, none left", same and not left)
    if deed.alone:
        what = f"{median(deed.alone):.1f} s in the median, {max(deed.alone):.1f} s at most"
        met = "then hung" not in deed.hit
        yield Row("  the other rank ended by itself", f"{len(deed.alone)} times, after {what}", "each time", met)


def kills_rows(names: list[str] | None = None, kills: int = KILLS) -> list[Row]:
    from graticule.sources.city.make import make_city

    os.environ |= {"OMP_NUM_THREADS": "1"}  # the last digits of an answer depend on how many cores worked on it
    CONTEXT.set_forkserver_preload(LIBRARIES)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        make_city(root / "city", frames=160, drives=10, size_km=0.3)
        (root / "recipe.yaml").write_text(yaml.safe_dump(parse_recipe(RECIPE).model_dump(mode="json")))
        for name, number in {"photos": 40, "many": 320}.items():
            (root / name).mkdir()
            for i, data in enumerate(noisy_gradients(40, 320, 240) * (number // 40)):
                (root / f"{name}/{i:03}.jpg").write_bytes(data)
        (root / "points").mkdir()
        for i in range(30):
            points = pl.DataFrame(dict(zip(("lat", "lon"), world(20_000, i), strict=True)))
            points.write_parquet(root / f"points/{i:02}.parquet")

        def train(out: Path) -> list[str]:
            return ["train", str(root / "recipe.yaml"), "--photos", str(root / "city"), "--out", str(out), "--devices",
                    "2", "--resume"]  # fmt: skip

        def predict(out: Path) -> list[str]:
            return ["predict", str(TINY), str(root / "photos"), "--engine", "here", "--part", "4", "--out", str(out)]

        def by_ray(out: Path) -> list[str]:
            return ["predict", str(TINY), str(root / "many"), "--engine", "ray", "--part", "6", "--out", str(out)]

        def pack(out: Path) -> list[str]:
            return ["data", "pack", str(root / "city"), str(out), "--shard-mb", "0.1"]

        def check(out: Path) -> list[str]:
            return ["data", "check", str(root / "city"), "--out", str(out), "--engine", "ray", "--part", "8"]

        def count(out: Path) -> list[str]:
            return ["cells", str(root / "points"), "--out", str(out / "cells.parquet"), "--engine", "ray"]

        def export(out: Path) -> list[str]:
            return ["export", str(out), "--to", "onnx"]

        deeds = {
            "training": Deed(train, "weights.safetensors", ranks=2),
            "predicting": Deed(predict, "*.parquet"),
            "packing": Deed(pack, "**/*.*"),
            "exporting": Deed(export, "**/*.*", lambda out: shutil.copytree(TINY, out)),
            "ray": RayDeed(by_ray, "*.parquet"),
            "checking-by-ray": RayDeed(check, "**/*.*"),
            "packing-by-ray": RayDeed(lambda out: [*pack(out), "--engine", "ray"], "**/*.*"),
            "counting-by-ray": RayDeed(count, "**/*.*"),
        }
        rows = []
        for name in names or deeds:
            deed = deeds[name]
            with deed if isinstance(deed, RayDeed) else nullcontext():
                for row in killed(deed, root / name, kills):
                    rows.append(row)
                    print(row, flush=True)
        return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--kills", type=int, default=KILLS)
    asked = parser.parse_args()
    print_table(kills_rows(asked.names, asked.kills))
