"""The one downloader: photos by link into a folder, politely, whole, and none twice.

A run may be killed at any moment. A photo that lies in the folder is whole and is not asked for again; what can
never be had is remembered in ``.fetch/refused.jsonl``; everything else is asked for again by the next run.
"""

import asyncio
import hashlib
import itertools
import json
import math
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from graticule.errors import BadPhotoError, SourceError
from graticule.files import write_bytes
from graticule.photos import images
from graticule.sources.ingest import Refusal
from graticule.sources.web.http import Client, NotHadError, run_alone, together

REASONS = (
    "gone",  # the service does not have it, or no longer gives it out
    "no answer",  # every attempt failed
    "not a photo",  # a page or a message where a photo should be
    "truncated",  # it ended early at every attempt
    "too large",  # as in graticule.photos.images, and refused before it was read
    "unreadable",  # as in graticule.photos.images
    "no id",  # the table does not say which photo of the service it is
)
PASSING = ("no answer", "not a photo", "truncated")  # of these; the next run asks again
FETCH_FOLDER = ".fetch"  # inside the dataset: what a run that goes on needs to know
FOLLOWING = 25  # photos whose links are asked for in one request
GIVE_UP_AFTER = 200  # photos in a row, without one success: then it is the network, not the photos
GONE = frozenset({403, 404, 410})  # of a link: expired, or the photo was taken back

Progress = Callable[[int, int, str], None]
Resolve = Callable[[Client, Sequence[str]], Awaitable[Mapping[str, str]]]
"""From a client and keys to a fresh link for each; a key that is missing from the answer is gone."""


class Wanted(NamedTuple):
    """A photo to fetch.

    Attributes:
        key: a name that stays the same over runs, of letters, digits, ``.``, ``_`` and ``-``.
        url: its link, or None where links expire and ``resolve`` gives a fresh one.
    """

    key: str
    url: str | None = None


def photo_path(key: str) -> str:
    """Where a photo lies, relative to the folder: ``images/<2 hex>/<key>.jpg``.

    The suffix says nothing of the format; readers go by the bytes.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", key):
        raise ValueError(f"the key {key!r} cannot be a file's name; keys are letters, digits, '.', '_' and '-'")
    return f"images/{hashlib.sha256(key.encode()).hexdigest()[:2]}/{key}.jpg"


def fetch(
    wanted: Iterable[Wanted],
    folder: Path,
    *,
    total: int,
    resolve: Resolve | None = None,
    rate: float = 20,
    at_once: int = 16,
    progress: Progress | None = None,
) -> list[Refusal]:
    """Fetch photos into ``folder/images``; those that are there already are not asked for.

    ``wanted`` is read as the work goes on, so memory does not grow with it. Every photo is checked before it
    takes its name: announced against received bytes, a photo's header, and that a JPEG has an end.

    Args:
        wanted: photos with keys of their own.
        total: how many those are, for the progress and to share them out.
        resolve: gives links for photos without one, and fresh links for expired ones.
        rate: requests a second to any one host; ``Retry-After`` of a host pauses all requests to it.
        at_once: photos under way at the same time.
        progress: called with (photos done, photos in all, what is said of speed).

    Returns:
        What could not be fetched, in this run or at all.

    Raises:
        SourceError: a host asks for a long pause, the token is refused, or nothing answers any more.
        WriteError: the disk is full or the folder cannot be written. Both leave a folder that the same call goes
            on with.
    """
    for left in (folder / "images").glob("*/.*.part"):  # of a killed run
        left.unlink(missing_ok=True)
    with Journal(folder / FETCH_FOLDER / "refused.jsonl") as refused:
        work = _Work(wanted, folder, total, resolve, refused, at_once, progress)
        run_alone(work.run(rate, at_once))
    return work.refusals


class Journal:
    """JSON values, one a line, each written at once; a line that a killed run left half-written is dropped."""

    def __init__(self, file: Path) -> None:
        self.entries: list[Any] = []
        whole = b""
        if file.exists():
            data = file.read_bytes()
            whole = data[: data.rfind(b"\n") + 1]
            self.entries = [json.loads(line) for line in whole.splitlines()]
        file.parent.mkdir(parents=True, exist_ok=True)
        self._file = file.open("ab")
        self._file.truncate(len(whole))

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, entry: Any) -> None:
        self._file.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
        self._file.flush()


class _Work:
    """One run: workers take a few photos each, ask for their links in one request, then fetch one after another."""

    def __init__(
        self,
        wanted: Iterable[Wanted],
        folder: Path,
        total: int,
        resolve: Resolve | None,
        journal: Journal,
        at_once: int,
        progress: Progress | None,
    ) -> None:
        self.refusals: list[Refusal] = []
        self._folder, self._total, self._resolve = folder, total, resolve
        self._journal, self._progress = journal, progress
        self._known = {key: Refusal(photo_path(key), reason, detail) for key, reason, detail in journal.entries}
        self._pending = self._not_there(wanted)
        self._following = max(1, min(FOLLOWING, math.ceil(total / at_once)))
        self._done = self._photos = self._bytes = self._failed_in_a_row = 0
        self._began = self._told = time.monotonic()

    async def run(self, rate: float, at_once: int) -> None:
        async with Client(rate=rate, at_once=at_once) as client:
            await together(self._worker(client) for _ in range(at_once))
        self._print(last=True)

    def _not_there(self, wanted: Iterable[Wanted]) -> Iterator[Wanted]:
        for one in wanted:
            if one.key in self._known:
                self.refusals.append(self._known[one.key])
                self._done += 1
            elif (self._folder / photo_path(one.key)).exists():
                self._done += 1
            else:
                yield one

    async def _worker(self, client: Client) -> None:
        while some := list(itertools.islice(self._pending, self._following)):
            links: dict[str, str] = {one.key: one.url for one in some if one.url}
            failure = None
            try:
                links |= await self._ask(client, [one.key for one in some if not one.url])
            except NotHadError as refused:
                failure = refused
            for one in some:
                try:
                    if failure and one.key not in links:
                        raise failure
                    await self._one(client, one.key, links.get(one.key))
                except NotHadError as refused:
                    self._refuse(one.key, refused)
                self._done += 1
                self._print()

    async def _ask(self, client: Client, keys: Sequence[str]) -> Mapping[str, str]:
        return await self._resolve(client, keys) if self._resolve and keys else {}

    async def _one(self, client: Client, key: str, link: str | None) -> None:
        if link is None:
            raise NotHadError("gone", "the service does not give it out: deleted, hidden, or never there", lasting=True)
        try:
            data = await client.file(link, most=images.MAX_BYTES, check=_check)
        except NotHadError as refused:
            if not self._resolve or (refused.status not in GONE and refused.reason != "not a photo"):
                raise
            fresh = (await self._ask(client, [key])).get(key)  # links expire
            if fresh is None:
                raise NotHadError("gone", "the service has taken it back", lasting=True) from refused
            data = await client.file(fresh, most=images.MAX_BYTES, check=_check)
        await asyncio.to_thread(write_bytes, self._folder / photo_path(key), data)
        self._photos += 1
        self._bytes += len(data)
        self._failed_in_a_row = 0

    def _refuse(self, key: str, refused: NotHadError) -> None:
        reason, detail = refused.reason, refused.detail
        if refused.status in (404, 410):
            reason, detail = "gone", f"the service no longer has it ({detail})"
        self.refusals.append(Refusal(photo_path(key), reason, detail))
        if refused.lasting or reason == "gone":
            self._journal.add([key, reason, detail])
            return
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= GIVE_UP_AFTER:
            raise SourceError(
                f"{self._failed_in_a_row} photos in a row could not be fetched; the last, {refused.detail}. See that "
                f"the network works, then run the same command again: what was fetched is kept"
            )

    def _print(self, last: bool = False) -> None:
        now = time.monotonic()
        if self._progress and (last or now - self._told > 0.1):
            self._told = now
            seconds = max(now - self._began, 1e-9)
            note = f"{self._photos / seconds:.0f} photos/s, {self._bytes / seconds / 1e6:.1f} MB/s"
            self._progress(self._done, self._total, note)


def _check(data: bytes) -> None:
    """Refuse what is no whole photo.

    A JPEG ends with the marker EOI (ITU-T T.81, B.1.1.3); one that does not is decoded to see if it is cut.
    """
    start = data[:512].lstrip()[:1]
    if not data or start in (b"<", b"{", b"["):
        raise NotHadError("not a photo", "a page or a message came instead of a photo")
    try:
        images.inspect(data)
        if not (data.startswith(b"\xff\xd8") and data.rstrip(b"\0\r\n")[-2:] == b"\xff\xd9"):
            images.decode(data, shortest_side=images.MIN_SIDE)
    except BadPhotoError as error:
        cut = error.reason == "truncated"
        raise NotHadError(error.reason, str(error), lasting=not cut, again=cut) from error
