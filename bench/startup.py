"""How soon the command line answers and a bundle is open, as whole processes.

python -m bench.startup
"""

import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from bench.table import Row, print_table

GOAL = 0.4  # seconds
RUNS = 7
GOAL_LOAD = 1.6  # times the processor time of `import torch`
BUNDLE = Path(__file__).parents[1] / "tests" / "bundles" / "format-2"
LOAD = f"import graticule; graticule.load({str(BUNDLE)!r})"
HELP = [sys.executable, "-m", "graticule.cli", "--help"]


def child_processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def processor_seconds(code: str) -> float:
    """Processor time of a fresh interpreter that runs this code, seconds."""
    used = child_processor_seconds()
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    return child_processor_seconds() - used


def load_row() -> Row:
    """Opening a small bundle beside ``import torch``, turn by turn.

    Most of the rest is torch._dynamo. torchvision imports it (``ops/roi_align.py``), and so does timm (it decorates
    with ``torch.compiler.disable``), which imports torchvision too: no order of our own imports leaves it out.
    """
    codes = ("import torch", LOAD)
    processor_seconds(LOAD)  # reads the files into the system's cache
    turns = [[processor_seconds(code) for code in codes] for _ in range(RUNS)]
    torch, load = (median(seconds) for seconds in zip(*turns, strict=True))
    ratio = load / torch
    return Row(
        "graticule.load / import torch",
        f"{ratio:.2f} times ({load:.1f} s)",
        f"under {GOAL_LOAD} times",
        ratio < GOAL_LOAD,
    )


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
        load_row(),
    ]


if __name__ == "__main__":
    print_table(startup_rows())
