"""``python -m bench`` runs every benchmark and prints one table; ``python -m bench cells`` runs one of them."""

import argparse
import os
import platform
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

from bench.table import print_table

BENCHMARKS = (
    "cells", "decoding", "training", "loops", "shards", "fetching", "explaining", "serve", "startup", "together",
    "answering", "runtimes", "scale", "parts", "gallery", "neighbours",
)  # fmt: skip


def processor() -> str:
    """The processor's name, where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(BENCHMARKS)}; all if none is named")
    names = parser.parse_args().names or BENCHMARKS
    if unknown := set(names) - set(BENCHMARKS):
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    busy = os.getloadavg()[0]
    print(
        f"{os.cpu_count()} cores, {processor()}; torch {version('torch')}, numpy {version('numpy')}; "
        f"load average {busy:.1f} before the start",
        flush=True,
    )
    rows = []
    for name in names:
        rows += getattr(import_module(f"bench.{name}"), f"{name}_rows")()
    print_table(rows)


if __name__ == "__main__":
    main()
