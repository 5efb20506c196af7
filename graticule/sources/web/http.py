"""Asking other people's servers: at a pace, with patience, and never for more than is wanted.

Nothing of an answer is repeated in an error: services echo tokens, and links are signed. Only the host is named.
"""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from graticule.errors import SourceError

AGAIN = frozenset({408, 425, 500, 502, 503, 504})
ATTEMPTS = 6  # of one request whose fault may pass; about 15 s in all
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0  # between attempts; twice as long each time, and by chance a little less
PATIENCE_S = 900.0  # the longest pause that a server may ask for before the run stops
MOST_JSON_BYTES = 64 * 2**20
TIMEOUT = aiohttp.ClientTimeout(total=300, sock_connect=20, sock_read=60)


class Verdict(Enum):
    """What a failing answer means: it stays so, it may pass, or the host wants to be left alone for a while."""

    FINAL = "final"
    AGAIN = "again"
    PAUSE = "pause"


Judge = Callable[[int, bytes], Verdict]


def judge_by_status(status: int, _body: bytes) -> Verdict:
    """What the status alone says (RFC 9110 and 6585)."""
    return Verdict.PAUSE if status == 429 else Verdict.AGAIN if status in AGAIN else Verdict.FINAL


class NotHadError(Exception):
    """One request failed for good.

    Attributes:
        reason: a short word for counting, see :data:`graticule.sources.web.download.REASONS`.
        lasting: asking another day would not help.
        again: asking at once might.
        status: the HTTP status of the answer; 0 where there was none.
        body: the beginning of a failing answer, to judge by; never shown.
    """

    def __init__(
        self,
        reason: str,
        detail: str,
        *,
        lasting: bool = False,
        again: bool = False,
        status: int = 0,
        body: bytes = b"",
    ) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail, self.lasting, self.again = reason, detail, lasting, again
        self.status, self.body = status, body


class RateLimiter:
    """The turns of one host: so many requests a second, and none while it asked for a pause."""

    def __init__(self, rate: float) -> None:
        self._gap_s = 1 / rate
        self._next = 0.0
        self._resumes = 0.0

    async def turn(self) -> None:
        """Wait for the next free turn; a pause that begins meanwhile makes everyone queue anew behind it."""
        clock = asyncio.get_running_loop().time
        while True:
            pause = self._resumes
            due = max(clock(), self._next, pause)
            self._next = due + self._gap_s
            if (wait := due - clock()) > 0:
                await asyncio.sleep(wait)
            if self._resumes <= max(pause, clock()):
                return

    def pause(self, seconds: float) -> None:
        self._resumes = max(self._resumes, asyncio.get_running_loop().time() + seconds)


class Client:
    """HTTP for one run: a pace for each host, attempts with growing waits, pauses that servers ask for.

    Args:
        rate: requests a second to one host.
        at_once: connections in all.
    """

    def __init__(self, *, rate: float, at_once: int) -> None:
        self._rate, self._at_once = rate, at_once
        self._hosts: dict[tuple[str, str], tuple[RateLimiter, str | None]] = {}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        from graticule import __version__

        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._at_once, ttl_dns_cache=300),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": f"graticule/{__version__}"},
            timeout=TIMEOUT,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session:
            await self._session.close()

    async def json(
        self,
        url: str,
        params: Mapping[str, str],
        *,
        headers: Mapping[str, str] | None = None,
        judge: Judge = judge_by_status,
    ) -> Any:
        """The answer of an API. It is not followed elsewhere, so ``headers`` reach this host alone.

        Args:
            judge: from status and body of a failing answer to what it means.

        Raises:
            NotHadError: a fault that lasts, or one that did not pass; ``status`` and ``body`` tell which.
        """
        host = _host(url)

        def check(body: bytes) -> None:
            try:
                json.loads(body)
            except ValueError as error:
                raise NotHadError("no answer", f"{host} answered with something else than JSON", again=True) from error

        body = await self._get(
            url, params=params, headers=headers, most=MOST_JSON_BYTES, follow=False, judge=judge, check=check
        )
        return json.loads(body)

    async def file(self, url: str, *, most: int, check: Callable[[bytes], None]) -> bytes:
        """The bytes behind a public link; no token goes there, whoever the server is.

        Args:
            most: the largest size in bytes; what announces more is not read at all.
            check: raises :class:`NotHadError` for bytes that are not what was wanted.
        """
        return await self._get(
            url, params=None, headers=None, most=most, follow=True, judge=judge_by_status, check=check
        )

    def _known(self, url: str, host: str) -> tuple[RateLimiter, str | None]:
        """The pace of a host and the proxy on the way to it (``HTTPS_PROXY``, ``NO_PROXY`` and such), looked up once.

        aiohttp's own ``trust_env`` looks at every request, in two threads, and reads passwords from ``~/.netrc``.
        """
        scheme = urlsplit(url).scheme
        if (scheme, host) not in self._hosts:
            proxy = None if proxy_bypass(host) else getproxies().get(scheme)
            self._hosts[scheme, host] = RateLimiter(self._rate), proxy
        return self._hosts[scheme, host]

    async def _get(
        self,
        url: str,
        *,
        params: Mapping[str, str] | None,
        headers: Mapping[str, str] | None,
        most: int,
        follow: bool,
        judge: Judge,
        check: Callable[[bytes], None],
    ) -> bytes:
        if self._session is None:
            raise RuntimeError("a Client is used inside `async with`")
        host = _host(url)
        pace, proxy = self._known(url, host)
        attempt, pauses, waited = 0, 0, 0.0
        while True:
            await pace.turn()
            asked_s, verdict = None, Verdict.AGAIN
            try:
                async with self._session.get(
                    url, params=params, headers=headers, allow_redirects=follow, proxy=proxy
                ) as answer:
                    if answer.status == 200:
                        body = await _read(answer, most, host)
                        check(body)
                        return body
                    asked_s = _retry_after(answer.headers.get("Retry-After"))
                    body = await _read(answer, 2**16, host, cut=True)
                    verdict = judge(answer.status, body)
                    if verdict is Verdict.AGAIN and asked_s is not None:
                        verdict = Verdict.PAUSE
                    failure = NotHadError(
                        "no answer", f"{host} answered with status {answer.status}", status=answer.status, body=body
                    )
            except NotHadError as refused:
                failure = refused
                verdict = Verdict.AGAIN if refused.again else Verdict.FINAL
            except aiohttp.InvalidURL as error:
                raise NotHadError("no answer", "the link is not a link", lasting=True) from error
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                # its text may hold the link
                failure = NotHadError("no answer", f"{host} broke off or did not answer ({type(error).__name__})")
            pauses += verdict is Verdict.PAUSE
            attempt += verdict is not Verdict.PAUSE
            wait = max(asked_s or 0.0, _backoff(attempt + pauses))
            if verdict is Verdict.PAUSE:
                waited += wait
                if max(wait, waited) > PATIENCE_S:
                    raise SourceError(
                        f"{host} asks for a pause of {max(wait, waited) / 60:.0f} minutes, so the run stops here. "
                        f"Run the same command later: what was fetched is kept"
                    ) from failure
                pace.pause(wait)  # all who ask this host wait, not only this one
            elif verdict is Verdict.FINAL or attempt >= ATTEMPTS:
                raise failure
            else:
                await asyncio.sleep(wait)


def run_alone(work: Coroutine[Any, Any, None]) -> None:
    """Run to the end; where a loop runs already, as in a notebook, in a thread of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work)
        return
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, work).result()


async def together(work: Iterable[Awaitable[None]]) -> None:
    """Run all at the same time; the first failure stops the others and is raised as it is."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until_done(queue: asyncio.Queue[Any], workers: Iterable[Awaitable[None]]) -> None:
    """Run workers that never end until all that was put into the queue is done; a failure is raised as it is."""
    tasks = [asyncio.ensure_future(one) for one in [queue.join(), *workers]]
    try:
        first, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in first:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2] or "a link without a host"


async def _read(answer: aiohttp.ClientResponse, most: int, host: str, *, cut: bool = False) -> bytes:
    """The body, or its beginning where ``cut``; stops as soon as there is too much."""
    announced = answer.content_length or 0
    parts, size = [], 0
    if announced <= most or cut:
        async for part in answer.content.iter_chunked(2**16):
            parts.append(part)
            size += len(part)
            if size > most:
                break
    if max(announced, size) > most and not cut:
        answer.close()
        raise NotHadError(
            "too large",
            f"{host} sends {max(announced, size) / 2**20:.0f} MiB or more, and {most // 2**20} MiB are allowed",
            lasting=True,
        )
    return b"".join(parts)[:most] if cut else b"".join(parts)


def _backoff(attempt: int) -> float:
    longest = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** max(attempt - 1, 0))
    return longest * random.uniform(0.5, 1)


def _retry_after(text: str | None) -> float | None:
    """Seconds of ``Retry-After`` (RFC 9110, section 10.2.3): a number, or a date; None for neither."""
    if not text:
        return None
    try:
        return max(0.0, float(int(text)))
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)  # "-0000" is UTC of an unknown place
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
