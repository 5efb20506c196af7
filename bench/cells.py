"""Cells at scale: growing a partition against the reports' way, its memory, and photos assigned per second.

Run alone with ``python -m bench.cells``. Times are processor seconds of one core, the best of a few runs.
"""

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import s2geometry

from bench.table import Row, print_table
from graticule.partition import CellPartition

SPLIT_ABOVE, DROP_BELOW, MAX_LEVEL = 1000, 50, 18  # the command line's example
SIZES = (1_000_000, 3_000_000, 10_000_000)
SAMPLE = 20_000  # points for the reports' way, which takes the same time for each
GOAL_TIMES, GOAL_BYTES, GOAL_RATE = 40, 100, 5  # times faster, bytes a point, million photos a second
TOLERANCE = 1.1  # of a time that is set beside n log n


def world(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Positions of n photos: 3,000 towns, few of them large, each 1 to 300 km wide."""
    rng = np.random.default_rng(seed)
    towns = 3000
    town_lat, town_lon = np.degrees(np.arcsin(rng.uniform(-0.6, 0.95, towns))), rng.uniform(-180, 180, towns)
    share = rng.pareto(1.1, towns) + 0.05
    town = rng.choice(towns, n, p=share / share.sum()).astype(np.int32)
    width = (10 ** rng.uniform(-2, 0.5, towns))[town]
    lat = rng.standard_normal(n)
    lat *= width
    lat += town_lat[town]
    lon = rng.standard_normal(n)
    lon *= width
    lon += town_lon[town]
    return np.clip(lat, -90, 90, out=lat), np.clip(lon, -180, 180, out=lon)


def fit(lat: np.ndarray, lon: np.ndarray) -> CellPartition:
    return CellPartition.fit(lat, lon, split_above=SPLIT_ABOVE, drop_below=DROP_BELOW, max_level=MAX_LEVEL)


def the_reports_way(lat: np.ndarray, lon: np.ndarray) -> dict[int, int]:
    """Report A's partition with s2geometry: a loop over the points that counts every level."""
    counts: Counter[int] = Counter()
    for point in zip(lat.tolist(), lon.tolist(), strict=True):
        leaf = s2geometry.S2CellId(s2geometry.S2LatLng.FromDegrees(*point))
        for level in range(MAX_LEVEL + 1):
            counts[leaf.parent(level).id()] += 1
    return {cell: photos for cell, photos in counts.items() if DROP_BELOW <= photos <= SPLIT_ABOVE}


def seconds(work, *arguments, runs: int = 1) -> float:
    times = []
    for _ in range(runs):
        start = time.process_time()
        work(*arguments)
        times.append(time.process_time() - start)
    return min(times)


def bytes_a_point(n: int) -> float:
    """Growth of the largest memory of a fresh process by n points and their partition, a point."""
    code = f"from bench.cells import peak_growth; print(peak_growth({n}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout) / n


def peak_growth(n: int) -> int:
    """Bytes by which the peak of this process grows; the points are made in parts, which adds little."""
    fit(*world(10_000))  # whatever is loaded on first use
    before = peak_bytes()
    lat, lon = np.empty(n), np.empty(n)
    for start in range(0, n, 100_000):
        some = slice(start, start + 100_000)
        lat[some], lon[some] = world(len(lat[some]), seed=start)
    fit(lat, lon)
    return peak_bytes() - before


def peak_bytes() -> int:
    """Linux's high-water mark of this process; ``ru_maxrss`` would begin with that of its parent."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def partition_rows() -> list[Row]:
    """Growing cells from 1, 3 and 10 million points."""
    lat, lon = world(SIZES[-1])
    reports_way = seconds(the_reports_way, lat[:SAMPLE], lon[:SAMPLE], runs=2) / SAMPLE
    rows = [Row(f"the reports' way, {SAMPLE:,} points", f"{reports_way * 1e6:.1f} µs a point")]
    per_point = {}
    for n in SIZES:
        per_point[n] = seconds(fit, lat[:n], lon[:n], runs=3 if n < SIZES[-1] else 2) / n
        ratio = reports_way / per_point[n]
        what = f"partition of {n // 1_000_000} million points"
        measured = f"{per_point[n] * 1e6:.2f} µs a point, {ratio:.0f} times faster"
        rows.append(Row(what, measured, f"at least {GOAL_TIMES} times", ratio >= GOAL_TIMES))
    small, large = SIZES[0], SIZES[-1]
    growth = per_point[large] * large / (per_point[small] * small)
    n_log_n = large * np.log(large) / (small * np.log(small))
    rows.append(
        Row(
            "time for 10 times the points",
            f"{growth:.1f} times",
            f"n log n, {n_log_n:.1f}, or a tenth more",
            growth < n_log_n * TOLERANCE,
        )
    )
    memory = bytes_a_point(large)
    what = f"peak memory, {large // 1_000_000} million points"
    rows.append(Row(what, f"{memory:.0f} bytes a point", f"under {GOAL_BYTES}", memory < GOAL_BYTES))
    return rows


def assign_rows() -> list[Row]:
    """Cells of one million points, in a partition of about 3,000 cells all over the world."""
    lat, lon = world(1_000_000)
    partition = CellPartition.fit(lat, lon, split_above=800, drop_below=100)
    rate = len(lat) / seconds(partition.assign, lat, lon, runs=7) / 1e6
    what = f"assign to {len(partition):,} cells, one core"
    return [Row(what, f"{rate:.1f} million points a second", f"at least {GOAL_RATE}", rate >= GOAL_RATE)]


def cells_rows() -> list[Row]:
    return partition_rows() + assign_rows()


if __name__ == "__main__":
    print_table(cells_rows())
