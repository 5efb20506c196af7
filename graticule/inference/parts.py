"""Millions of photos in parts: each a whole Parquet file or none, so that a job goes on wherever it was stopped.

A part depends on its photos, the bundle and the settings alone, and not on who makes it: this process, or actors of Ray
on many machines that share the folder.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from graticule.choices import Answer, Engine, Precision, Runtime
from graticule.errors import BadRecipeError, DeviceError
from graticule.files import write_json, write_parquet
from graticule.inference.batch import answer_table, feature_table
from graticule.inference.locate import Locator, load
from graticule.model.index import INDEX, read_index
from graticule.model.loading import Progress, silent

ABOUT, PART = "parts.json", 1024  # photos a part
FAILURES = 5  # in a row, of which none brought a part, after which a job gives up

Made = Callable[
    [int, Sequence[Path]], tuple[int, int]
]  # number and photos of a part to their count and the broken ones


@dataclass(frozen=True, slots=True)
class Job:
    """What to make of each photo.

    Attributes:
        bundle: where it lies, for all the machines alike.
        kind: rows of :func:`answer_table` or of :func:`feature_table`.
        top: likely cells of an answer.
    """

    bundle: str
    kind: Literal["answers", "features"]
    out: str
    precision: Precision = "float32"
    runtime: Runtime | None = None
    top: int = 1
    max_error_km: float | None = None
    min_probability: float = 0.5
    answer: Answer | None = None

    def open(self) -> Locator:
        """The bundle, opened once for all parts."""
        return load(self.bundle, precision=self.precision, runtime=self.runtime, answer=self.answer)

    def file(self, number: int) -> Path:
        """Where a part lies."""
        return Path(self.out) / f"part-{number:06}.parquet"

    def make(self, locator: Locator, number: int, photos: Sequence[Path]) -> tuple[int, int]:
        """Write a part; how many photos it has, and how many of them could not be read."""
        if self.kind == "features":
            frame = feature_table(locator, photos)
        else:
            frame = answer_table(
                locator,
                photos,
                top=self.top,
                max_error_km=self.max_error_km,
                min_probability=self.min_probability,
            )
        write_parquet(self.file(number), frame)
        return len(frame), int(frame["error"].count())


def run(
    job: Job, photos: Sequence[Path], engine: Engine = "here", *, part: int = PART, cores: int = 1,
    progress: Progress = silent,
) -> tuple[int, int]:  # fmt: skip
    """Make all the parts that are not there yet.

    Args:
        engine: ``here`` in this process; ``ray`` by actors on the cluster that ``RAY_ADDRESS`` names, else on this
            machine.
        cores: of ``ray``: of each actor. The last digits of an answer depend on how many cores worked on it.

    Returns:
        How many photos were asked now, and how many of them could not be read: their rows say why.

    Raises:
        BadRecipeError: the folder holds parts of another job, or the engine is not installed.
        DeviceError: actors die again and again.
    """
    todo = _begin(job, photos, part)
    of = {number: photos[number * part : (number + 1) * part] for number in todo}
    made = _here(job, of) if engine == "here" else _by_ray(job, of, cores)
    done = broken = 0
    for count, failed in made:
        done, broken = done + count, broken + failed
        progress(done, sum(map(len, of.values())), "photos")
    return done, broken


def _begin(job: Job, photos: Sequence[Path], part: int) -> list[int]:
    """Write down what the job is, or see that it is the same; the numbers of the parts to make."""
    digest = hashlib.sha256("\n".join(str(photo) for photo in photos).encode()).hexdigest()
    own = {name: value for name, value in asdict(job).items() if name not in ("bundle", "out")}
    about = own | {"bundle": read_index(Path(job.bundle))["sha256"][INDEX], "photos": digest, "photos_a_part": part}
    path = Path(job.out) / ABOUT
    if path.is_file():
        held = json.loads(path.read_text(encoding="utf-8"))
        if held != about:
            changed = ", ".join(sorted(name for name in about if held.get(name) != about[name]))
            raise BadRecipeError(
                f"{job.out} holds parts of another job (other: {changed}); choose another folder, or remove this one"
            )
    elif Path(job.out).exists() and (not Path(job.out).is_dir() or any(Path(job.out).iterdir())):
        raise BadRecipeError(f"{job.out} is not empty and holds no parts; choose a new folder")
    else:
        write_json(path, about)
    return [number for number in range(-(-len(photos) // part)) if not job.file(number).is_file()]


def _here(job: Job, parts: Mapping[int, Sequence[Path]]) -> Iterator[tuple[int, int]]:
    if parts:
        locator = job.open()
        for number, photos in parts.items():
            yield job.make(locator, number, photos)


class _Maker:
    """An actor: opens the bundle when it starts, and makes parts."""

    def __init__(self, job: Job, cores: int) -> None:
        import torch

        torch.set_num_threads(cores)
        self.job, self.locator = job, job.open()

    def ready(self) -> None:
        """Answers once the bundle is open."""

    def make(self, number: int, photos: Sequence[Path]) -> tuple[int, int]:
        return self.job.make(self.locator, number, photos)


def _by_ray(job: Job, parts: Mapping[int, Sequence[Path]], cores: int) -> Iterator[tuple[int, int]]:
    """Parts by actors. One that dies, such as with its machine, leaves its part to the others, and is replaced."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        from ray.exceptions import RayActorError
    except ModuleNotFoundError as error:
        raise BadRecipeError("--engine ray needs another package: pip install 'graticule[ray]'") from error
    if not parts:
        return
    if not ray.is_initialized():
        known = "RAY_ADDRESS" in os.environ
        ray.init(log_to_driver=False, **({} if known else {"object_store_memory": 200_000_000}))
    has = ray.cluster_resources()
    cards = int(has.get("GPU", 0)) if job.runtime is None else 0
    maker = ray.remote(_Maker).options(num_cpus=cores, num_gpus=1 if cards else 0)
    waiting, failures = list(parts), 0
    busy: dict[Any, tuple[Any, int | None]] = {}  # what is awaited: of which actor, and its part; none: to be ready

    def start() -> None:
        actor = maker.remote(job, cores)
        busy[actor.ready.remote()] = (actor, None)

    for _ in range(min(len(waiting), cards or max(1, int(has.get("CPU", 1)) // cores))):
        start()
    left = len(parts)
    while left:
        [ready], _ = ray.wait(list(busy), num_returns=1)
        actor, number = busy.pop(ready)
        try:
            found = ray.get(ready)
        except RayActorError as error:
            waiting += [] if number is None else [number]
            failures += 1
            if failures > FAILURES:
                raise DeviceError(f"{failures} processes of Ray died one after the other: {error}") from error
            start()  # waits for room, and for nothing else
            continue
        if number is not None:
            failures, left = 0, left - 1
        if waiting:
            following = waiting.pop(0)
            busy[actor.make.remote(following, list(parts[following]))] = (actor, following)
        if number is not None:
            yield found
    for actor, _ in busy.values():
        ray.kill(actor)
