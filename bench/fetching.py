"""Fetching 10,000 photos from a server on this machine, in a process of its own, and taking them into a dataset.

Run alone with ``python -m bench.fetching``. The server shares the cores with the client: on two cores, both work.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.cells import peak_bytes
from bench.table import Row, print_table

FEW, MANY = 1_000, 10_000
GOAL_RATE = 200  # photos a second
GOAL_GROWTH_MIB = 32  # of the peak memory from FEW photos to MANY
SERVER = Path(__file__).parents[1] / "tests" / "services.py"


def fetched(count: int) -> dict[str, float]:
    """What a fresh process measures while it fetches so many photos."""
    with tempfile.TemporaryDirectory() as folder:
        port = Path(folder) / "port"
        server = subprocess.Popen([sys.executable, str(SERVER), str(count), str(port)])
        try:
            while not (port.exists() and port.read_text()):
                time.sleep(0.05)
            code = f"from bench.fetching import fetch_all; fetch_all({port.read_text()}, {count}, {folder + '/set'!r})"
            command = [sys.executable, "-c", code]
            return dict(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
        finally:
            server.terminate()
            server.wait()


def fetch_all(port: int, count: int, folder: str) -> None:
    """Find, fetch and take in as ``graticule data mapillary`` does, and print the times and the peak memory."""
    sys.path.insert(0, str(SERVER.parent))
    import polars as pl
    from services import TOKEN

    from graticule.sources.ingest import ingest
    from graticule.sources.web.download import Wanted, fetch, photo_path
    from graticule.sources.web.mapillary import Mapillary
    from graticule.sources.web.service import Search, find

    service, out = Mapillary(TOKEN, api=f"http://127.0.0.1:{port}"), Path(folder)
    times = [time.perf_counter()]
    found, _ = find(service, Search(bbox=(38.7, -77.2, 39.1, -76.8)), out, rate=100_000, at_once=16)
    times.append(time.perf_counter())
    processor = time.process_time()
    refused = fetch(
        (Wanted(id_) for id_ in found["orig_id"]), out, total=count, resolve=service.links, rate=100_000, at_once=16
    )
    times.append(time.perf_counter())
    processor, peak = time.process_time() - processor, peak_bytes()
    if refused or found.height != count:
        raise RuntimeError(f"{found.height} of {count} photos found, {len(refused)} refused")
    size = sum(file.stat().st_size for file in (out / "images").glob("*/*.jpg"))
    paths = [photo_path(id_) for id_ in found["orig_id"]]
    start = time.perf_counter()
    ingest(found.with_columns(path=pl.Series(paths)), out, out, source="mapillary")
    taken = time.perf_counter() - start
    find_s, fetch_s = times[1] - times[0], times[2] - times[1]
    seconds = {"find_s": find_s, "fetch_s": fetch_s, "processor_s": processor, "admit_s": taken}
    print(json.dumps({**seconds, "peak": peak, "bytes": size}))


def fetching_rows() -> list[Row]:
    few, many = fetched(FEW), fetched(MANY)
    rate, mb_s = MANY / many["fetch_s"], many["bytes"] / many["fetch_s"] / 1e6
    growth = (many["peak"] - few["peak"]) / 2**20
    kb = many["bytes"] / MANY / 1000
    return [
        Row(
            f"fetch {MANY:,} photos of {kb:.0f} kB, server beside",
            f"{rate:.0f} photos/s, {mb_s:.0f} MB/s",
            f"at least {GOAL_RATE} photos/s",
            rate >= GOAL_RATE,
        ),
        Row("  the client's part of the processor", f"{many['processor_s'] / MANY * 1000:.2f} ms a photo"),
        Row("  finding them first, in boxes", f"{many['find_s']:.1f} s"),
        Row("  taking them in afterwards", f"{many['admit_s']:.1f} s, {MANY / many['admit_s']:.0f} photos/s"),
        Row(
            f"  more peak memory than for {FEW:,}",
            f"{growth:.0f} MiB (of {many['peak'] / 2**20:.0f})",
            f"under {GOAL_GROWTH_MIB} MiB",
            growth < GOAL_GROWTH_MIB,
        ),
    ]


if __name__ == "__main__":
    print_table(fetching_rows())
