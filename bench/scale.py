"""Many rows on one machine: cells streamed from Parquet, the feature store, and the photo table at ten million rows.

python -m bench.scale [--points 10] [--rows 0.1 1] [--features 0.2]    # in millions

The goals' sizes are 100, 10 and 10. The checks begin where every photo has been decoded, and the evaluation answers by
chance: both are what the work takes beside the pictures. Of several sizes each row says what the time grew by.

Each part runs in a process of its own, which tells its time and the most memory that it held. Time is said on the clock
and of processors: on a machine that others use, the second is what to compare.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from bench.cells import peak_bytes, world
from bench.table import Row, print_table

CELLS_SECONDS, CELLS_GIB, TABLE_GIB = 90, 4, 8  # at 100 and 10 million rows
PART = 5_000_000  # points a file
TABLE = {
    "split": "data split", "audit": "data audit", "check": "data check --apply", "evaluate": "evaluate's table"
}  # fmt: skip


def write_points(folder: Path, count: int) -> None:
    folder.mkdir()
    for number, start in enumerate(range(0, count, PART)):
        lat, lon = world(min(PART, count - start), seed=number)
        pl.DataFrame({"lat": lat, "lon": lon}).write_parquet(folder / f"{number:03}.parquet")


def write_table(folder: Path, count: int) -> None:
    """A dataset of ``count`` photos that do not exist: places, drives, times."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    lat, lon = world(-(-count // 10))
    drive = np.repeat(np.arange(len(lat)), 10)[:count]
    along = np.tile(np.arange(10) * 2e-4, len(lat))[:count]
    frame = pl.DataFrame(
        {
            "path": pl.int_range(count, eager=True).cast(pl.String).str.zfill(9) + ".jpg",
            "lat": np.clip(lat[drive] + along, -90, 90),
            "lon": lon[drive],
            "sequence": pl.Series(drive).cast(pl.String),
            "captured_at": pl.Series(rng.integers(1.5e9, 1.7e9, count)).cast(pl.Int64) * 1_000_000,
        }
    ).with_columns(pl.col("captured_at").cast(pl.Datetime("us")).dt.strftime("%Y-%m-%dT%H:%M:%SZ"))
    frame.write_parquet(folder / "photos.parquet", row_group_size=2**20)
    pl.DataFrame(schema={"path": pl.String, "reason": pl.String, "detail": pl.String}).write_parquet(
        folder / "refused.parquet"
    )
    (folder / "dataset.json").write_text(json.dumps({"source": "bench", "synthetic": False, "evaluation_only": False}))


def cells(folder: Path) -> str:
    from graticule.partition.stream import fit_batches
    from graticule.photos.table import point_batches

    partition, total = fit_batches(point_batches(folder / "points"), split_above=1000, drop_below=50, max_level=18)
    return f"{total:,} points, {len(partition):,} cells"


def split(folder: Path) -> str:
    from graticule.photos.splits import make_split
    from graticule.photos.table import read_photos

    photos = read_photos(folder / "table")
    part = make_split(photos, "sequence", shares=(0.7, 0.1, 0.2), seed=0)
    return f"{len(photos):,} photos, {(part == 'test').mean():.1%} test"


def audit(folder: Path) -> str:
    from graticule.photos.leakage import audit as run
    from graticule.photos.table import read_photos

    photos = read_photos(folder / "table")
    test = np.random.default_rng(0).random(len(photos)) < 0.2
    return f"{len(photos):,} photos, held out: {run(photos.take(~test), photos.take(test)).held_out}"


def check(folder: Path) -> str:
    """``data check --apply`` of photos of which one in ten repeats the one before it but for two bits."""
    from dataclasses import fields

    from graticule.photos.measures import Measures
    from graticule.photos.quality import Limits, apply, judge
    from graticule.photos.table import read_photos

    photos, rng = read_photos(folder / "table"), np.random.default_rng(0)
    count = len(photos)
    dhash = rng.integers(0, 2**64, count, np.uint64)
    again = np.flatnonzero(rng.random(count) < 0.1)[1:]
    dhash[again] = dhash[again - 1] ^ np.uint64(0b1001)
    values = {field.name: rng.uniform(60, 200, count) for field in fields(Measures) if field.type is float}
    frame = pl.DataFrame(values | {"level": rng.uniform(0, 0.4, count), "white": rng.uniform(0, 0.3, count)})
    frame = frame.with_columns(
        pl.Series("dhash", dhash), pl.lit(80).alias("level_at"), pl.lit(False).alias("gpano"),
        pl.lit(None, pl.String).alias("error"),
    )  # fmt: skip
    return f"{count:,} photos, {apply(folder / 'table', judge(photos, frame, Limits())):,} marked"


def evaluate(folder: Path) -> str:
    from types import SimpleNamespace

    from graticule.evaluation.predictions import predict_rows, summary
    from graticule.geo.sphere import map_diagonal_km
    from graticule.inference.decode import Points
    from graticule.inference.locate import Predictions
    from graticule.partition import CellPartition
    from graticule.photos.table import read_photos

    photos, rng = read_photos(folder / "table"), np.random.default_rng(0)
    count = len(photos)
    cells = CellPartition.fit(photos.lat, photos.lon, split_above=count // 10, drop_below=1)

    def batches(asked, *, progress):
        for start in range(0, len(asked), 4096):
            index = np.arange(start, min(start + 4096, len(asked)))
            logits = np.log(rng.dirichlet(np.ones(len(cells)), len(index)))
            best = logits.argmax(axis=1)
            points = Points(cells.lat[best], cells.lon[best], np.ones(len(index)))
            yield Predictions(index, points, logits, None, {})

    bundle = SimpleNamespace(
        partition=cells, confidence=None, model=SimpleNamespace(head=SimpleNamespace(has_cells=True))
    )
    locator = SimpleNamespace(bundle=bundle, predict_batches=batches, sureness=lambda _: None)
    rows = predict_rows(locator, photos)
    found = summary(rows, map_diagonal_km(photos.lat, photos.lon))
    return f"{count:,} photos, {found['places']:,} places, top-1 {found['top1']:.1%}"


def store(folder: Path, count: int) -> str:
    """Adds rows of 1,280 numbers, opens them anew, and reads 10,000 of them in no order."""
    from graticule.model.store import FeatureStore

    rng = np.random.default_rng(0)
    names = [f"{word:016x}{i:048x}" for i, word in enumerate(rng.integers(0, 2**63, count).tolist())]
    block = rng.standard_normal((4096, 1280)).astype(np.float32)
    writing = FeatureStore(folder / "features")
    for start in range(0, count, 4096):
        some = names[start : start + 4096]
        writing.add("key", dict(zip(some, block[: len(some)], strict=True)))
    begun = time.perf_counter()
    held = FeatureStore(folder / "features").read("key")
    opened = time.perf_counter() - begun
    asked = rng.integers(0, count, 10_000)
    rows = held.find([names[i] for i in asked])
    begun = time.perf_counter()
    same = (held.take(rows) == block[asked % 4096]).all()
    return f"{count:,} rows opened in {opened:.2f} s, 10,000 read in {time.perf_counter() - begun:.2f} s, right: {same}"


def measured(part: str, folder: Path, *more: str) -> tuple[str, float, float, float]:
    """What a part says of itself, its seconds on the clock and of processors, and the most memory it held, GiB."""
    run = [sys.executable, "-m", "bench.scale", "--part", part, "--folder", str(folder), *more]
    said = json.loads(subprocess.run(run, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    return said["said"], said["wall"], said["processor"], said["gib"]


def growth(times: list[tuple[float, float]]) -> str:
    """How much more the last size took than the one before, beside n log n; nothing of a first size."""
    if len(times) < 2:
        return ""
    (n, before), (m, after) = times[-2:]
    return f", {after / before:.1f} times the last where n log n is {m * np.log(m) / (n * np.log(n)):.1f}"


def scale_rows(points: float = 10, rows: Sequence[float] = (0.1, 1), features: float = 0.2) -> list[Row]:
    found = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if points:
            write_points(folder / "points", int(points * 1e6))
            said, wall, processor, gib = measured("cells", folder)
            allowed = CELLS_SECONDS * points / 100
            goal = f"{allowed:.0f} s, {CELLS_GIB} GiB"
            what = f"{said}: {wall:.1f} s ({processor:.1f} s of processors), {gib:.2f} GiB"
            found.append(Row("cells, streamed", what, goal, wall <= allowed and gib <= CELLS_GIB))
        spent: dict[str, list[tuple[float, float]]] = {part: [] for part in TABLE}
        for size in rows:
            write_table(folder / "table", int(size * 1e6))
            for part, times in spent.items():
                said, wall, processor, gib = measured(part, folder)
                times.append((size * 1e6, processor))
                what = f"{said}: {wall:.1f} s ({processor:.1f} s of processors), {gib:.2f} GiB{growth(times)}"
                found.append(Row(TABLE[part], what, f"{TABLE_GIB} GiB", gib <= TABLE_GIB))
            shutil.rmtree(folder / "table")
        if features:
            said, _, _, gib = measured("store", folder, "--count", str(int(features * 1e6)))
            found.append(Row("feature store", f"{said}; {gib:.2f} GiB"))
    return found


def run_part(part: str, folder: Path, count: int) -> None:
    begun = time.perf_counter()
    parts = {"cells": cells, "split": split, "audit": audit, "check": check, "evaluate": evaluate}
    said = store(folder, count) if part == "store" else parts[part](folder)
    used = resource.getrusage(resource.RUSAGE_SELF)
    facts = {"said": said, "wall": time.perf_counter() - begun, "processor": used.ru_utime + used.ru_stime}
    print(json.dumps(facts | {"gib": peak_bytes() / 2**30}))  # ``ru_maxrss`` would begin with that of its parent


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=float, default=10)
    parser.add_argument("--rows", type=float, nargs="*", default=[0.1, 1])
    parser.add_argument("--features", type=float, default=0.2)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, default=0, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.part:
        run_part(asked.part, asked.folder, asked.count)
    else:
        print_table(scale_rows(asked.points, asked.rows, asked.features))
