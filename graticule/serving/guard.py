"""The gate before the service: who may ask, how much and how fast, and what is written down of it. An ASGI wrapper.

Whatever it lets through has its whole body in memory, within the limits; what it refuses was not looked at.
"""

import asyncio
import ipaddress
import json
import math
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TextIO
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, Counter, Histogram

from graticule.serving import problems
from graticule.serving.keys import Keys, Rates
from graticule.serving.limits import Limits
from graticule.serving.problems import Refusal

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN = ("/healthz", "/readyz", "/openapi.json", "/", "/assets/")  # need no key; the page asks for one
RATED = "/v1/"


@dataclass(frozen=True)
class Door:
    """Who may come in.

    Attributes:
        hosts: names that this server goes by, besides ``localhost`` and addresses in digits: another name may be a
            web page's that was made to point here (DNS rebinding).
        origins: pages of other servers that may ask (CORS); none by default.
        keys: if given, whoever asks needs one.
        per_minute: requests of each key, or of each address where there are no keys; 0 is no limit.
        images: servers of map tiles that the page may show.
        audit: where each request is written down, as a line of JSON.
    """

    hosts: Sequence[str] = ()
    origins: Sequence[str] = ()
    keys: Keys | None = None
    per_minute: float = 0
    images: Sequence[str] = ()
    audit: TextIO | None = field(default=None, repr=False)


class Guard:
    """An ASGI application behind a door."""

    def __init__(self, app: App, door: Door, limits: Limits, registry: CollectorRegistry) -> None:
        self.app, self.door, self.limits = app, door, limits
        self.rates = Rates(door.per_minute)
        self.inside = self.held = 0  # requests, and bytes of theirs
        self.headers = security_headers(door.images)
        self.count = Counter(
            "graticule_requests", "Requests answered.", ["method", "path", "status"], registry=registry
        )
        self.seconds = Histogram(
            "graticule_request_seconds", "From the first byte asked to the last one sent.", ["path"], registry=registry,
            buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100),
        )  # fmt: skip
        self.photos = Counter("graticule_photos", "Photos uploaded.", registry=registry)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        begun, status, started = time.perf_counter(), 0, False
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        facts: dict[str, Any] = {"who": (scope.get("client") or ("-",))[0], "bytes": 0}
        origin = headers.get("origin")

        async def answered(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
                message["headers"] = [*message.get("headers", ()), *self._headers_for(scope["path"], origin)]
            await send(message)

        try:
            await self._let_in(scope, receive, answered, headers, facts)
        except Refusal as refusal:
            if not started:
                answer = problems.response(refusal.status, refusal.detail, refusal.headers, **refusal.more)
                await answer(scope, receive, answered)
        finally:
            self._write_down(scope, facts, status or 499, time.perf_counter() - begun)

    async def _let_in(
        self, scope: Scope, receive: Receive, send: Send, headers: dict[str, str], facts: dict[str, Any]
    ) -> None:
        self._check_names(headers)
        if headers.get("origin") in self.door.origins and scope["method"] == "OPTIONS":
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body"})
            return
        path = scope["path"]
        if self.door.keys and not (path in OPEN or path.startswith("/assets/")):
            kind, _, key = headers.get("authorization", "").partition(" ")
            name = self.door.keys.name_of(key.strip()) if kind.lower() == "bearer" else None
            if name is None:
                hint = {"WWW-Authenticate": "Bearer"}
                raise Refusal(401, "this server asks for a key: send the header Authorization: Bearer KEY", hint)
            facts["who"] = name
        if path.startswith(RATED) and (wait := self.rates.wait_s(facts["who"])):
            raise Refusal(
                429,
                f"more than {self.door.per_minute:g} requests a minute; wait {math.ceil(wait)} s",
                {"Retry-After": str(math.ceil(wait))},
            )
        if scope["method"] in ("GET", "HEAD"):
            await self.app(scope, receive, send)
            return
        if self.inside >= self.limits.requests:
            raise self._busy()
        self.inside += 1
        try:
            body = await self._body(receive, headers, facts)
            await self.app(scope, _replayed([body], receive), send)
        finally:
            self.inside -= 1
            self.held -= facts["bytes"]

    def _check_names(self, headers: dict[str, str]) -> None:
        """A page of another server must not use a visitor's local one, by its own name or by another."""
        host = headers.get("host", "")
        name = urlsplit(f"//{host}").hostname or ""
        if name != "localhost" and name not in self.door.hosts and not _is_address(name):
            raise Refusal(421, f"this server does not go by the name {name!r}; it is started with --allow-host {name}")
        origin = headers.get("origin")
        if origin is not None and origin not in self.door.origins and urlsplit(origin).netloc.lower() != host.lower():
            raise Refusal(
                403, f"a page of {origin!r} may not ask this server; it is started with --allow-origin for that"
            )

    async def _body(self, receive: Receive, headers: dict[str, str], facts: dict[str, Any]) -> bytes:
        most, length = self.limits.bytes, headers.get("content-length", "0")
        too_large = Refusal(413, f"a request may have {most:,} bytes, its photos together; send fewer or smaller ones")
        if length.isdecimal() and int(length) > most:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self.limits.seconds):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refusal(499, "the client went away")
                    chunk = message.get("body", b"")
                    body += chunk
                    facts["bytes"] += len(chunk)
                    self.held += len(chunk)
                    if len(body) > most:
                        raise too_large
                    if self.held > self.limits.memory:
                        raise self._busy()
                    more = message.get("more_body", False)
        except TimeoutError as error:
            raise Refusal(
                408, f"the request did not arrive within {self.limits.seconds:g} s", {"Connection": "close"}
            ) from error
        return bytes(body)

    def _busy(self) -> Refusal:
        return Refusal(503, "as many requests as fit are being answered; try again soon", {"Retry-After": "2"})

    def _headers_for(self, path: str, origin: str | None) -> list[tuple[bytes, bytes]]:
        headers = list(self.headers)
        if origin is not None and origin in self.door.origins:
            headers += [
                (b"access-control-allow-origin", origin.encode("latin-1")),
                (b"access-control-allow-methods", b"GET, POST"),
                (b"access-control-allow-headers", b"authorization, content-type"),
                (b"vary", b"Origin"),
            ]
        if path.startswith(RATED):
            headers.append((b"cache-control", b"no-store"))
        return headers

    def _write_down(self, scope: Scope, facts: dict[str, Any], status: int, seconds: float) -> None:
        path = getattr(scope.get("route"), "path", None) or "other"  # a path itself may be anything
        photos = scope.get("graticule.photos", 0)
        self.count.labels(scope["method"] if path != "other" else "other", path, str(status)).inc()
        self.seconds.labels(path).observe(seconds)
        self.photos.inc(photos)
        if self.door.audit:
            line = {
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "who": facts["who"],
                "method": scope["method"],
                "path": path,
                "status": status,
                "photos": photos,
                "bytes": facts["bytes"],
                "seconds": round(seconds, 3),
            }
            self.door.audit.write(json.dumps(line) + "\n")
            self.door.audit.flush()


def security_headers(images: Sequence[str] = ()) -> list[tuple[bytes, bytes]]:
    """What a browser is told: the page runs its own code alone, in no frame, and sends no address on.

    Args:
        images: origins of map tiles besides the server's own.
    """
    tiles = "".join(f" {origin}" for origin in images)
    policy = (
        "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; "
        f"img-src 'self' data: blob:{tiles}; connect-src 'self' blob:{tiles}; worker-src 'self' blob:; "
        "manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = {
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "permissions-policy": "camera=(), microphone=(), geolocation=(), payment=()",
    }
    return [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers.items()]


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _replayed(body: list[bytes], receive: Receive) -> Receive:
    """A body that has arrived, handed over once, and after it what the client does next: leave."""

    async def again() -> Message:
        if not body:
            return await receive()
        return {"type": "http.request", "body": body.pop(), "more_body": False}

    return again
