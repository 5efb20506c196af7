"""Answers in parts: by this process and by Ray's actors on this machine; ``bench.kills`` kills the command.

python -m bench.parts [BUNDLE] [--photos 600]

Actors share this machine's cores: their pace tells what Ray costs here, and not what a cluster gives.
"""

import argparse
import os
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


def parts_rows(bundle: Path = TINY, count: int = 600) -> list[Row]:
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
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path, nargs="?", default=TINY)
    parser.add_argument("--photos", type=int, default=600)
    asked = parser.parse_args()
    print_table(parts_rows(asked.bundle, asked.photos))
