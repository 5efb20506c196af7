"""How soon the command line answers, as a whole process.

python -m bench.startup
"""

import resource
import subprocess
import sys
import time
from statistics import median

from bench.table import Row, print_table

GOAL = 0.4  # seconds
RUNS = 7
HELP = [sys.executable, "-m", "graticule.cli", "--help"]


def child_processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def startup_rows() -> list[Row]:
    """Wall and processor time of ``graticule --help``, and whether it imports torch."""
    subprocess.run(HELP, capture_output=True, check=True)  # reads the files into the system's cache
    wall, processor = [], []
    for _ in range(RUNS):
        began, used = time.perf_counter(), child_processor_seconds()
        subprocess.run(HELP, capture_output=True, check=True)
        wall.append(time.perf_counter() - began)
        processor.append(child_processor_seconds() - used)
    imports = subprocess.run(
        [sys.executable, "-X", "importtime", *HELP[1:]], capture_output=True, text=True, check=True
    ).stderr
    torch = any(line.split("|")[-1].strip() == "torch" for line in imports.splitlines())
    took = median(wall)
    return [
        Row("graticule --help", f"{took:.2f} s", f"under {GOAL} s", took < GOAL),
        Row("  of which busy (on a machine left alone)", f"{median(processor):.2f} s"),
        Row("  imports torch", "yes" if torch else "no", "no", not torch),
    ]


if __name__ == "__main__":
    print_table(startup_rows())
