"""Kills (-9) at random moments of training by two ranks, predicting in parts, packing and exporting.

python -m bench.kills [training predicting packing exporting] [--kills 50]

A command is killed and given again, over and over, and whenever it ended its files must be those of an undisturbed
run. Commands are forks of a process that has loaded the libraries: a kill falls into the work, and fifty cost minutes.
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
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import yaml

from bench.decoding import noisy_gradients
from bench.runtimes import TINY
from bench.table import Row, print_table
from graticule.config import parse_recipe

KILLS = 50
STOPS_WITHIN = 10  # seconds that a rank may take to notice that the other is gone, before it is ended too
LIBRARIES = [
    "lightning", "timm", "onnx", "onnxruntime", "graticule.cli", "graticule.sources.pack", "graticule.inference.parts",
    "graticule.model.exporting", "graticule.training.train",
]  # fmt: skip
RECIPE = {
    "cells": {"split_above": 30, "drop_below": 5},
    "split": {"by": "sequence", "val": 0.2, "test": 0.1},
    "image": {"height": 32, "width": 32},
    "encoder": {"name": "test_convnext", "weights": "none"},
    "train": {"epochs": 4, "batch_size": 32, "lr": 0.002, "precision": "float32", "workers": 0, "clip": 1.0},
}
Process = multiprocessing.process.BaseProcess


@dataclass(frozen=True)
class Deed:
    """A command that writes into a folder.

    Attributes:
        words: the command line, given the folder.
        files: what of the folder must be the same bytes at the end.
        ranks: processes that run the command together, of which the last is killed.
    """

    words: Callable[[Path], list[str]]
    files: str
    ranks: int = 1

    def start(self, folder: Path) -> list[Process]:
        """Its processes, started; what they say lies beside the folder."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        found = []
        for rank in range(self.ranks):
            told = {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            said = folder.with_suffix(f".{rank}.txt")
            given = (self.words(folder), told if self.ranks > 1 else {}, said)
            found.append(CONTEXT.Process(target=command, args=given))
            found[-1].start()
        return found

    def bytes_of(self, folder: Path) -> dict[str, bytes]:
        return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.glob(self.files))}


CONTEXT = multiprocessing.get_context("forkserver")


def command(words: list[str], environment: dict[str, str], said: Path) -> None:
    """``graticule`` with these words, in this process."""
    from graticule.cli import main

    os.setsid()
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


def ended(processes: list[Process], seconds: float | None = None) -> bool:
    """Whether all of them end well within so many seconds."""
    for process in processes:
        process.join(seconds)
    return all(process.exitcode == 0 for process in processes)


def killed(deed: Deed, folder: Path, kills: int, fresh: Callable[[Path], None]) -> Iterator[Row]:
    """Rows about one deed; ``fresh`` makes its folder ready to begin."""
    rng = random.Random(0)
    fresh(folder)
    begun = time.monotonic()
    if not ended(deed.start(folder)):
        raise RuntimeError(folder.with_suffix(".0.txt").read_text())
    seconds = time.monotonic() - begun
    expected = deed.bytes_of(folder)
    runs = left = stopped = fell = 0
    same, under_way = bool(expected), False
    while fell < kills or under_way:
        if not under_way:
            shutil.rmtree(folder, ignore_errors=True)
            fresh(folder)
        begun = time.monotonic()
        processes = deed.start(folder)
        if fell < kills:
            processes[-1].join(rng.uniform(0, 0.9 * seconds))
        else:
            ended(processes)
        under_way = any(process.exitcode != 0 for process in processes)
        if under_way and fell == kills:
            raise RuntimeError(folder.with_suffix(".0.txt").read_text())
        if under_way:
            fell += 1
            kill(processes[-1])
            for other in processes[:-1]:
                other.join(STOPS_WITHIN)
                stopped += other.exitcode == 1 and "has ended" in folder.with_suffix(".0.txt").read_text()
                kill(other)
            ended(processes)
        else:
            runs += 1
            seconds = min(seconds, time.monotonic() - begun)  # on a machine that others use, the longest tells least
            same &= deed.bytes_of(folder) == expected
            left += len([*folder.rglob(".*.part")])
    what = f"{fell} kills in {runs} runs of {seconds:.1f} s, {left} half-written files left; the same bytes: {same}"
    yield Row(folder.name, what, "the same bytes, none left", same and not left)
    if deed.ranks > 1:
        yield Row("  the other rank", f"{stopped} times it stopped with its sentence, else it was ended")


def kills_rows(names: list[str] | None = None, kills: int = KILLS) -> list[Row]:
    from graticule.sources.city.make import make_city

    os.environ |= {"OMP_NUM_THREADS": "1"}  # the last digits of an answer depend on how many cores worked on it
    CONTEXT.set_forkserver_preload(LIBRARIES)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        make_city(root / "city", frames=160, drives=10, size_km=0.3)
        (root / "recipe.yaml").write_text(yaml.safe_dump(parse_recipe(RECIPE).model_dump(mode="json")))
        (root / "photos").mkdir()
        for i, data in enumerate(noisy_gradients(40, 320, 240)):
            (root / f"photos/{i:03}.jpg").write_bytes(data)

        def train(out: Path) -> list[str]:
            return ["train", str(root / "recipe.yaml"), "--photos", str(root / "city"), "--out", str(out), "--devices",
                    "2", "--resume"]  # fmt: skip

        def predict(out: Path) -> list[str]:
            return ["predict", str(TINY), str(root / "photos"), "--engine", "here", "--part", "4", "--out", str(out)]

        def pack(out: Path) -> list[str]:
            return ["data", "pack", str(root / "city"), str(out), "--shard-mb", "0.1"]

        def nothing(_: Path) -> None: ...

        deeds: dict[str, tuple[Deed, Callable[[Path], None]]] = {
            "training": (Deed(train, "weights.safetensors", ranks=2), nothing),
            "predicting": (Deed(predict, "*.parquet"), nothing),
            "packing": (Deed(pack, "**/*.*"), nothing),
            "exporting": (
                Deed(lambda out: ["export", str(out), "--to", "onnx"], "**/*.*"),
                lambda out: shutil.copytree(TINY, out),  # type: ignore[arg-type, return-value]
            ),
        }
        rows = []
        for name in names or deeds:
            deed, fresh = deeds[name]
            rows += killed(deed, root / name, kills, fresh)
            print(rows[-1], flush=True)
        return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--kills", type=int, default=KILLS)
    asked = parser.parse_args()
    print_table(kills_rows(asked.names, asked.kills))
