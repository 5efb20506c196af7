"""Training on a GPU, measured in one run of under ten minutes; without a GPU, the same path with small sizes.

python -m bench.gpu [--small] [--frames 20000] [--seconds 560] [--only speed-vit,resume] [--out FOLDER]

A synthetic city is drawn on this machine, and ``washington-dc`` (ViT-B/16, ConvNeXt-Base) and ``geovit`` train on it
with random weights: photos a second of the real training loop against the bare network on tensors that lie on the
device and against report B's own loop; what the check of memory says and what a step takes; bfloat16, TF32 and compiled
networks; a run that is killed and resumed; two processes that share the card.

Each part of ``PARTS`` runs in a process of its own within its seconds. A part that fails or is stopped leaves a row
that says why, and the others go on. Rows are kept in ``FOLDER/gpu.json`` after each part.
"""

import argparse
import json
import multiprocessing
import os
import platform
import signal
import sys
import tempfile
import time
from importlib.metadata import version
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

# So that asking for a GPU does not start CUDA, which no fork could use.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")

from bench.__main__ import processor
from bench.gpu_setup import Setup
from bench.table import Row, print_table

# Name, and at most how many seconds. The first ones need no photos and run while the city is drawn.
BESIDE = {"card": 60, "digits": 90, "memory": 120}
CITY = {"city": 150}
ON_PHOTOS = {
    "speed-vit": 120,
    "speed-geovit": 100,
    "speed-convnext": 120,
    "large": 120,
    "resume": 150,
    "ranks": 120,
    "compile-vit": 120,
    "compile-geovit": 120,
    "compile-convnext": 120,
}
PARTS = CITY | BESIDE | ON_PHOTOS


def run_part(name: str, setup: Setup) -> None:
    """What the process of a part does; it leads a group, so that its workers can be stopped with it."""
    os.setsid()
    from bench import gpu_parts

    try:
        gpu_parts.run(name, setup)
    except BaseException as error:  # noqa: BLE001 the reason is a row; what else there is to say goes to stderr
        import traceback

        traceback.print_exc()
        setup.emit(name, "failed", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


class Part:
    """A part that runs in a process of its own."""

    def __init__(self, name: str, seconds: float, setup: Setup, context: ForkServerContext) -> None:
        self.name, self.seconds, self.setup = name, seconds, setup
        self.began = time.monotonic()
        self.process: ForkServerProcess = context.Process(target=run_part, args=(name, setup), name=name)
        self.process.start()

    def finish(self, deadline: float) -> None:
        """Wait for it, no longer than it may take, and print its rows."""
        end = min(self.began + self.seconds, deadline)
        self.process.join(max(end - time.monotonic(), 0))
        if self.process.exitcode is None:
            self.setup.emit(self.name, "stopped", f"after {time.monotonic() - self.began:.0f} s")
            self._kill()
        elif self.process.exitcode:
            self.setup.emit(self.name, "died", f"exit code {self.process.exitcode}")
        took = time.monotonic() - self.began
        self.setup.emit(self.name, "seconds", f"{took:.0f} s", value=took)
        for found in self.setup.found(self.name):
            print(f"[{self.name}] {found['what']}: {found['measured']}", flush=True)

    def _kill(self) -> None:
        pid = self.process.pid
        try:
            if pid and os.getpgid(pid) == pid:
                os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.kill()
        self.process.join(10)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--small", action="store_true", help="tiny networks and few photos, to try the script on a CPU")
    parser.add_argument("--frames", type=int, help="photos of the city; 20000, or 192 with --small")
    parser.add_argument("--seconds", type=float, default=560, help="for everything together")
    parser.add_argument("--only", help=f"parts to run, with commas between; of {', '.join(PARTS)}")
    parser.add_argument("--out", type=Path, help="folder for gpu.json")
    asked = parser.parse_args()
    wanted = set(asked.only.split(",")) | {"city"} if asked.only else set(PARTS)
    if unknown := wanted - set(PARTS):
        parser.error(f"no part is called {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    deadline = time.monotonic() + asked.seconds
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bench.gpu_parts"])
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        setup = Setup(Path(folder), asked.small, asked.frames or (192 if asked.small else 20_000))

        def begin(name: str) -> Part:
            return Part(name, PARTS[name], setup, context)

        def finish(part: Part) -> None:
            part.finish(deadline)
            if asked.out:
                keep(setup, asked.out)

        city = begin("city") if wanted & set(ON_PHOTOS) else None
        for name in BESIDE:
            if name in wanted and time.monotonic() < deadline:
                finish(begin(name))
        if city:
            finish(city)
        for name in ON_PHOTOS:
            if name not in wanted:
                continue
            if deadline - time.monotonic() < 10:
                setup.emit(name, "left out", "no time was left")
            else:
                finish(begin(name))
        print()
        print_table(table(setup))
        if asked.out:
            keep(setup, asked.out)


def table(setup: Setup) -> list[Row]:
    rows = [
        Row(f"{processor()}, {os.cpu_count()} cores", f"torch {version('torch')}, Python {platform.python_version()}")
    ]
    for name in PARTS:
        found = setup.found(name)
        rows += [Row(name, "")] if found else []
        rows += [Row(f"  {row['what']}", row["measured"], row["goal"], row["met"]) for row in found]
    return rows


def keep(setup: Setup, out: Path) -> None:
    """Write all rows so far."""
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = [{"part": name} | row for name in PARTS for row in setup.found(name)]
    facts = {"processor": processor(), "cores": os.cpu_count(), "python": sys.version.split()[0]}
    packages = {name: version(name) for name in ("torch", "torchvision", "lightning", "timm", "numpy", "polars")}
    told = facts | packages | {"small": setup.small, "frames": setup.frames, "rows": rows}
    (out / "gpu.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
