"""A dataset of a made-up city: drives through its streets, each under a light of its own.

It lets place recognition be learned, leaks be measured and everything be tested with no download. What a
model learns here says nothing of real photos; ``dataset.json`` and every file say that they are synthetic.
"""

import json
import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import simplejpeg

from graticule.errors import BadRecipeError
from graticule.files import atomic_folder
from graticule.geo import sphere
from graticule.photos import images
from graticule.photos.table import write_dataset
from graticule.sources.city import scene as scene
from graticule.sources.city.paint import Light, light_of
from graticule.sources.city.view import render

VERSION = 1  # of the pictures: raise it when the same settings give other ones
COMMENT = b"synthetic: a made-up city, rendered by graticule"
CHUNK = 16  # frames a worker takes at once; they follow each other, so they share blocks
SPEED_M_S = 8.0
WEATHER_OF = ("clear", "overcast", "rain", "cloudy", "clear", "fog", "cloudy", "clear")  # how often each is
M_PER_DEGREE = math.radians(sphere.EARTH_RADIUS_KM * 1000)


@dataclass(frozen=True, slots=True)
class Settings:
    """All that the pictures depend on."""

    frames: int
    drives: int
    size_km: float
    center: tuple[float, float]
    seed: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Drive:
    """When and under which sky a drive was."""

    starts: datetime
    weather: str
    light: Light


def make_city(
    out: Path,
    *,
    frames: int,
    drives: int,
    size_km: float = 2.0,
    center: tuple[float, float] = (38.9, -77.03),
    seed: int = 0,
    width: int = 256,
    height: int = 192,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Render a city from its streets and write a dataset with ``images/<drive>/<frame>.jpg``.

    The same settings give the same bytes, whatever the number of workers (and the same libraries: another
    version of NumPy or libjpeg may round differently). A folder that already holds this very city is left
    as it is; one with another made-up city is replaced.

    Args:
        frames: photos in all, dealt evenly to the drives.
        size_km: side of the square that holds all positions, in [0.1, 50].
        center: latitude in [-85, 85] and longitude of its middle, degrees.
        width, height: of a photo, pixels, in [32, 4096].
        workers: processes; one for each core by default. With more than one, a script that calls this needs
            the usual ``if __name__ == "__main__"``.
        progress: called with (frames done, frames in all).

    Returns:
        ``out``.

    Raises:
        BadRecipeError: a setting is impossible, or ``out`` holds something else.
        WriteError: ``out`` cannot be written.
    """
    settings = Settings(frames, drives, float(size_km), (float(center[0]), float(center[1])), seed, width, height)
    _check(settings)
    if workers is not None and workers < 1:
        raise BadRecipeError(f"{workers} workers cannot draw anything; give 1 or more, or leave it to the cores")
    if _is_there(out, settings):
        return out
    with atomic_folder(out) as aside:
        rows = _draw_all(aside, settings, workers or os.cpu_count() or 1, progress)
        write_dataset(aside, _photo_table(rows, settings), _nothing_refused(), _facts(settings))
    return out


def _check(settings: Settings) -> None:
    lat, lon = settings.center
    if settings.drives < 1 or settings.frames < settings.drives:
        raise BadRecipeError(
            f"{settings.frames} frames cannot make {settings.drives} drives; give at least one drive, "
            f"and at least as many frames as drives"
        )
    if not 0.1 <= settings.size_km <= 50:  # NaN fails too
        raise BadRecipeError(f"a city of {settings.size_km} km cannot be made; its side is 0.1 to 50 km")
    if not (abs(lat) <= 85 and abs(lon) <= 180):
        raise BadRecipeError(
            f"the centre lat={lat}, lon={lon} cannot be used; latitudes go from -85 to 85 here (nearer to a "
            f"pole, east and north have no use) and longitudes from -180 to 180 degrees"
        )
    if settings.seed < 0:
        raise BadRecipeError(f"the seed is {settings.seed}; give a whole number from 0 up")
    if not (32 <= settings.width <= 4096 and 32 <= settings.height <= 4096):
        raise BadRecipeError(
            f"photos of {settings.width} x {settings.height} pixels cannot be drawn; each side is 32 to 4096"
        )


def _is_there(out: Path, settings: Settings) -> bool:
    """Whether ``out`` holds this city already; refuses what must not be overwritten."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    try:
        facts = json.loads((out / "dataset.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none there, or not ours
        facts = {}
    if facts.get("source") != "city":
        raise BadRecipeError(
            f"{out} is there already and is not a synthetic city, so it is left alone; "
            f"choose another folder, or delete that one"
        )
    same: bool = facts.get("settings") == _facts(settings)["settings"]
    return same and sum(1 for _ in (out / "images").glob("*/*.jpg")) == settings.frames


def _facts(settings: Settings) -> dict[str, Any]:
    return {
        "source": "city",
        "synthetic": True,
        "settings": {**asdict(settings), "center": list(settings.center), "version": VERSION},
    }


def _nothing_refused() -> pl.DataFrame:
    return pl.DataFrame(schema=dict.fromkeys(("path", "reason", "detail"), pl.String))


@dataclass(frozen=True, slots=True)
class Drawn:
    """What is known of a frame only once it is drawn."""

    shot: scene.Shot
    path: str
    sha256: str
    dhash: int


@lru_cache(maxsize=1)
def _plan(settings: Settings) -> tuple[scene.City, list[list[scene.Shot]], list[Drive]]:
    """Everything but the pixels; each worker works it out anew rather than be sent it."""
    city = scene.plan_city(settings.seed, settings.size_km)
    each, more = divmod(settings.frames, settings.drives)
    walks = scene.plan_drives(city, [each + (drive < more) for drive in range(settings.drives)])
    return city, walks, _plan_light(settings)


def _plan_light(settings: Settings) -> list[Drive]:
    """A day, an hour and a sky for each drive, spread so that few drives already differ."""
    rng = np.random.default_rng([settings.seed, scene.LIGHT])
    count = settings.drives
    share = (rng.permutation(count) + rng.random(count)) / count
    hours = 7.5 + 14.5 * share  # from morning to 22 o'clock
    skies = [WEATHER_OF[n % len(WEATHER_OF)] for n in rng.permutation(count)]
    days = np.cumsum(rng.integers(5, 40, count))
    drives = []
    for hour, weather, day in zip(hours, skies, days, strict=True):
        starts = datetime(2023, 1, 1) + timedelta(days=int(day), seconds=int(3600 * hour))
        winter = 0.0 if settings.center[0] >= 0 else 0.5
        season = (starts.timetuple().tm_yday / 365.25 + winter) % 1
        drives.append(Drive(starts, weather, light_of(float(hour), weather, season, rng.uniform(0.9, 1.12))))
    return drives


def _draw_all(
    folder: Path, settings: Settings, workers: int, progress: Callable[[int, int], None] | None
) -> list[Drawn]:
    chunks = [
        (drive, range(start, min(start + CHUNK, len(walk))))
        for drive, walk in enumerate(_plan(settings)[1])
        for start in range(0, len(walk), CHUNK)
    ]
    rows: list[Drawn] = []
    if progress:  # workers take their time to start
        progress(0, settings.frames)
    for drawn in _each_chunk(folder, settings, chunks, min(workers, len(chunks))):
        rows += drawn
        if progress:
            progress(len(rows), settings.frames)
    return rows


def _each_chunk(
    folder: Path, settings: Settings, chunks: list[tuple[int, range]], workers: int
) -> Iterator[list[Drawn]]:
    """Draw chunks, in order. Few frames are drawn here: starting processes would take longer."""
    jobs = [(folder, settings, drive, numbers) for drive, numbers in chunks]
    if workers == 1 or settings.frames < 2 * CHUNK:
        yield from map(_draw_chunk, jobs)
        return
    spawn = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    with ProcessPoolExecutor(workers, mp_context=spawn) as pool:
        with _ctrl_c_ignored():  # which the workers inherit: only this process ends by it, in one line
            drawn = pool.map(_draw_chunk, jobs)
        yield from drawn


@contextmanager
def _ctrl_c_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # where signals are nobody's business
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _draw_chunk(job: tuple[Path, Settings, int, range]) -> list[Drawn]:
    folder, settings, drive, numbers = job
    city, walks, drives = _plan(settings)
    (folder / "images" / _name(drive)).mkdir(parents=True, exist_ok=True)
    drawn = []
    for shot in walks[drive][numbers.start : numbers.stop]:
        rng = np.random.default_rng([settings.seed, scene.SHOT, drive, shot.number])
        pixels = render(city, shot, drives[drive].light, rng, settings.width, settings.height)
        jpeg = simplejpeg.encode_jpeg(pixels, quality=int(rng.integers(80, 93)), colorsubsampling="420")
        data = _with_comment(jpeg, COMMENT)
        path = f"images/{_name(drive)}/{shot.number:05d}.jpg"
        (folder / path).write_bytes(data)
        as_read = simplejpeg.decode_jpeg(data)  # the hash that any reader of the file gets
        drawn.append(Drawn(shot, path, images.content_hash(data), images.difference_hash(as_read)))
    return drawn


def _with_comment(jpeg: bytes, text: bytes) -> bytes:
    """Put a comment segment after the start marker (ITU-T T.81, B.2.4.5)."""
    return jpeg[:2] + b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text + jpeg[2:]


def _name(drive: int) -> str:
    return f"drive-{drive:02d}"


def _photo_table(rows: list[Drawn], settings: Settings) -> pl.DataFrame:
    drives = _plan(settings)[2]
    shots = [row.shot for row in rows]
    lat, lon = _on_globe(np.array([s.x for s in shots]), np.array([s.y for s in shots]), settings.center)
    return pl.DataFrame({
        "path": [row.path for row in rows],
        "lat": lat,
        "lon": lon,
        "width": pl.Series([settings.width] * len(rows), dtype=pl.Int32),
        "height": pl.Series([settings.height] * len(rows), dtype=pl.Int32),
        "sha256": [row.sha256 for row in rows],
        "dhash": pl.Series([row.dhash for row in rows], dtype=pl.UInt64),
        "place": [shot.place for shot in shots],
        "sequence": [_name(shot.drive) for shot in shots],
        "captured_at": [
            drives[shot.drive].starts + timedelta(milliseconds=round(1000 * shot.along_m / SPEED_M_S))
            for shot in shots
        ],
        "heading": [shot.heading for shot in shots],
        "weather": [drives[shot.drive].weather for shot in shots],
    })  # fmt: skip


def _on_globe(x: scene.Floats, y: scene.Floats, center: tuple[float, float]) -> tuple[scene.Floats, scene.Floats]:
    """Metres east and north of the centre to degrees; good to a metre for as far as a city reaches."""
    lat = center[0] + y / M_PER_DEGREE
    lon = center[1] + x / (M_PER_DEGREE * np.cos(np.radians(lat)))
    return lat, (lon + 180) % 360 - 180
