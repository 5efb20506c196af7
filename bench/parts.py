"""Answers in parts: by this process, by Ray's actors on this machine, and after kills at random moments.

python -m bench.parts [BUNDLE] [--photos 600] [--kills 10]

The command is killed (-9, with whatever it started) at random moments and given again until it ends; the parts must be
the bytes of an undisturbed run. Actors share this machine's cores: their pace tells what Ray costs here, and not what a
cluster gives.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from bench.decoding import noisy_gradients
from bench.runtimes import TINY
from bench.table import Row, print_table

ONE_CORE = {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}  # the last digits depend on the number of cores


def command(bundle: Path, photos: Path, engine: str, out: Path) -> list[str]:
    return [
        sys.executable, "-m", "graticule.cli", "predict", str(bundle), str(photos),
        "--engine", engine, "--part", "25", "--out", str(out),
    ]  # fmt: skip


def whole(bundle: Path, photos: Path, engine: str, out: Path) -> float:
    begun = time.monotonic()
    subprocess.run(command(bundle, photos, engine, out), check=True, capture_output=True, env=os.environ | ONE_CORE)
    return time.monotonic() - begun


def parts_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.parquet")}


def parts_rows(bundle: Path = TINY, count: int = 600, kills: int = 10) -> list[Row]:
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "photos").mkdir()
        for i, data in enumerate(noisy_gradients(50, 640, 480) * -(-count // 50)):
            (folder / f"photos/{i:05}.jpg").write_bytes(data)
        there = len(list((folder / "photos").iterdir()))
        seconds = whole(bundle, folder / "photos", "here", folder / "here")
        expected = parts_of(folder / "here")
        rows = [Row(f"predict, {there} photos in {len(expected)} parts", f"{seconds:.1f} s, the start included")]
        if find_spec("ray"):
            by_ray = whole(bundle, folder / "photos", "ray", folder / "ray")
            same = parts_of(folder / "ray") == expected
            told = f"{by_ray:.1f} s; the same bytes: {same}"
            rows.append(Row(f"  by Ray, {os.cpu_count()} actors", told, "the same bytes", same))
        done = 0
        for _ in range(kills):
            run = subprocess.Popen(
                command(bundle, folder / "photos", "here", folder / "killed"),
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | ONE_CORE, start_new_session=True,
            )  # fmt: skip
            time.sleep(rng.uniform(0.3, 0.9) * seconds)
            done += run.poll() is None
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
        whole(bundle, folder / "photos", "here", folder / "killed")
        same = parts_of(folder / "killed") == expected
        rows.append(Row(f"  after {done} kills at random moments", f"the same bytes: {same}", "the same bytes", same))
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path, nargs="?", default=TINY)
    parser.add_argument("--photos", type=int, default=600)
    parser.add_argument("--kills", type=int, default=10)
    asked = parser.parse_args()
    print_table(parts_rows(asked.bundle, asked.photos, asked.kills))
