"""Much work in parts, made by this process or by Ray on many machines: whoever is killed, the same command goes on.

What a part becomes depends on its job and its own items alone, and not on who makes it.
"""

import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from graticule.choices import Engine
from graticule.errors import BadRecipeError, DeviceError
from graticule.files import remove_folder, write_json, write_parquet

if TYPE_CHECKING:
    import polars as pl

ABOUT, PART = "parts.json", 1024  # items a part
FAILURES = 5  # in a row, of which none brought a part, after which a job gives up

P = TypeVar("P")
R = TypeVar("R")
Make = Callable[[P], R]
Open = Callable[[int | None], Make[P, R]]  # given how many cores it has, where that is bounded


class Items(Protocol):
    """What a job is about, such as a list of paths; or a table that makes some paths at a time."""

    def __len__(self) -> int: ...
    def __getitem__(self, some: slice, /) -> Sequence[Any]: ...


class Job(Protocol):
    """What to make of items: it travels to other processes."""

    def about(self) -> dict[str, Any]:
        """What decides the rows of a part beside its items, as JSON."""

    def open(self, cores: int | None, /) -> "Make[Sequence[Any], pl.DataFrame]":
        """What is needed for all parts, once; then rows of some items. A column ``error`` tells the broken ones."""


@dataclass(frozen=True, slots=True)
class Folder:
    """Parts of a job in a folder: each a whole Parquet file or none.

    Attributes:
        path: where they lie, for all the machines alike.
        unit: what an item is called, in the plural.
    """

    path: Path
    job: Job
    items: Items
    part: int = PART
    unit: str = "photos"

    def __len__(self) -> int:
        return -(-len(self.items) // self.part)

    def file(self, number: int) -> Path:
        """Where a part lies."""
        return self.path / f"part-{number:06}.parquet"

    def cut(self, number: int) -> tuple[Path, Sequence[Any]]:
        """Where a part goes, and its items."""
        return self.file(number), self.items[number * self.part : (number + 1) * self.part]

    def make(
        self, engine: Engine = "here", *, cores: int = 1, gpu: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[int, int]:  # fmt: skip
        """Make all the parts that are not there yet; see :func:`each` for the settings.

        Args:
            progress: called with (items done now, items to do now).

        Returns:
            How many items were done now, and how many of them were broken: their rows say why.

        Raises:
            BadRecipeError: the folder holds parts of another job, or the engine is not installed.
            DeviceError: actors die again and again.
        """
        self._begin()
        todo = [number for number in range(len(self)) if not self.file(number).is_file()]
        total = sum(min(self.part, len(self.items) - number * self.part) for number in todo)
        done = broken = 0
        for count, failed in each(_Writing(self.job), todo, self.cut, engine, cores=cores, gpu=gpu):
            done, broken = done + count, broken + failed
            if progress:
                progress(done, total)
        return done, broken

    def read(self) -> "Iterator[pl.DataFrame]":
        """The parts in order; all must be there."""
        import polars as pl

        for number in range(len(self)):
            yield pl.read_parquet(self.file(number))

    def remove(self) -> None:
        """Delete the parts, once something was made of them."""
        remove_folder(self.path)

    def _begin(self) -> None:
        """Write down what the job is, or see that it is the same."""
        about = self.job.about() | {self.unit: self._digest(), f"{self.unit}_a_part": self.part}
        path = self.path / ABOUT
        if path.is_file():
            held = json.loads(path.read_text(encoding="utf-8"))
            if held != about:
                changed = ", ".join(sorted(name for name in about if held.get(name) != about[name]))
                raise BadRecipeError(
                    f"{self.path} holds parts of another job (other: {changed}); choose another folder, or remove "
                    f"this one"
                )
        elif self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise BadRecipeError(f"{self.path} is not empty and holds no parts; choose a new folder")
        else:
            write_json(path, about)

    def _digest(self) -> str:
        digest = hashlib.sha256()
        for number in range(len(self)):
            digest.update(("\n" if number else "").encode() + "\n".join(map(str, self.cut(number)[1])).encode())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class _Writing:
    """Makes a part and writes it; how many items it has, and how many of them are broken."""

    job: Job

    def __call__(self, cores: int | None) -> Make[tuple[Path, Sequence[Any]], tuple[int, int]]:
        rows_of = self.job.open(cores)

        def make(part: tuple[Path, Sequence[Any]]) -> tuple[int, int]:
            file, items = part
            frame = rows_of(items)
            write_parquet(file, frame)
            return len(items), int(frame["error"].count()) if "error" in frame.columns else 0

        return make


def each(
    open: Open[P, R], todo: Iterable[int], cut: Callable[[int], P], engine: Engine = "here", *, cores: int = 1,
    gpu: bool = False,
) -> Iterator[R]:  # fmt: skip
    """What is made of each part, in no order.

    Args:
        open: called once by each process; gives what makes a part.
        todo: numbers of parts.
        cut: the part of a number, which travels to who makes it.
        engine: ``here`` in this process; ``ray`` by actors on the cluster that ``RAY_ADDRESS`` names, else on this
            machine.
        cores: of ``ray``: of each actor.
        gpu: of ``ray``: one actor for each GPU, where there are any.

    Raises:
        BadRecipeError: the engine is not installed.
        DeviceError: actors die again and again.
    """
    waiting = list(todo)
    if engine == "ray":
        yield from _by_ray(open, waiting, cut, cores, gpu)
    elif waiting:
        make = open(None)
        for number in waiting:
            yield make(cut(number))


class _Maker(Generic[P, R]):
    """An actor: opens what it needs, and makes parts."""

    def ready(self, open: Open[P, R], cores: int, folder: str) -> None:
        """Open all; a relative path then means what it means to the command."""
        try:
            os.chdir(folder)
        except OSError as error:
            raise BadRecipeError(
                f"{platform.node()} has no folder {folder}; give the command in a folder that every machine has"
            ) from error
        self.made = open(cores)

    def make(self, part: P) -> R:
        return self.made(part)


def _by_ray(open: Open[P, R], waiting: list[int], cut: Callable[[int], P], cores: int, gpu: bool) -> Iterator[R]:
    """Parts by actors. One that dies, such as with its machine, leaves its part to the others, and is replaced."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        from ray.exceptions import RayActorError, RayTaskError
    except ModuleNotFoundError as error:
        raise BadRecipeError("--engine ray needs another package: pip install 'graticule[ray]'") from error
    if not waiting:
        return
    if not ray.is_initialized():
        # Without an address Ray would join whatever cluster somebody started on this machine.
        own = {"address": "local", "object_store_memory": 200_000_000}
        ray.init(log_to_driver=False, **({} if "RAY_ADDRESS" in os.environ else own))
    has = ray.cluster_resources()
    cards = int(has.get("GPU", 0)) if gpu else 0
    maker = ray.remote(_Maker).options(num_cpus=cores, num_gpus=1 if cards else 0)
    left, failures = len(waiting), 0
    busy: dict[Any, tuple[Any, int | None]] = {}  # what is awaited: of which actor, and its part; none: to be ready

    def start() -> None:
        actor = maker.remote()
        busy[actor.ready.remote(open, cores, os.getcwd())] = (actor, None)  # noqa: PTH109

    for _ in range(min(left, cards or max(1, int(has.get("CPU", 1)) // cores))):
        start()
    try:
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
            except RayTaskError as error:
                raise error.cause from None  # as if it had happened here
            if number is not None:
                failures, left = 0, left - 1
            if waiting:
                following = waiting.pop(0)
                busy[actor.make.remote(cut(following))] = (actor, following)
            if number is not None:
                yield found
    finally:
        for actor, _ in busy.values():
            ray.kill(actor)
