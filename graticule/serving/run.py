"""The server itself: uvicorn, which listens, waits for slow clients only so long, and ends what it began."""

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from graticule.serving.guard import Guard
from graticule.serving.limits import Limits

HEADERS_S = 15.0  # for the first line and the headers of a request
CONNECTIONS_A_REQUEST = 8  # that may be open for each request that is answered at once


class Impatient(H11Protocol):
    """HTTP/1.1 that hangs up on who takes too long to say what is asked; uvicorn itself waits for ever."""

    _hurry: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        # asyncio does so for sockets that say they are TCP, and those of socket.create_server do not; the body of an
        # answer then waits 40 ms for the client to confirm its headers.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._hurry = self.loop.call_later(HEADERS_S, self._give_up)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        asking = self.cycle is None or self.cycle.response_complete
        if not asking and self._hurry:
            self._hurry.cancel()
            self._hurry = None
        elif asking and self._hurry is None:
            self._hurry = self.loop.call_later(HEADERS_S, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._hurry:
            self._hurry.cancel()
        super().connection_lost(exc)

    def _give_up(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


def server(application: Guard, limits: Limits) -> uvicorn.Server:
    """A server that is ready to run; it says nothing of requests, and ends when those it has are answered."""
    config = uvicorn.Config(
        application,
        http=Impatient,
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=CONNECTIONS_A_REQUEST * limits.requests,
        timeout_graceful_shutdown=int(limits.seconds) + 1,
    )
    return uvicorn.Server(config)


def run(application: Guard, host: str, port: int, limits: Limits, say: Callable[[str], None]) -> None:
    """Serve until a signal ends it.

    Args:
        port: 0 takes a free one.
        say: is told the address.
    """
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # it would tell of each broken upload
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family, backlog=512) as listening:
        shown = f"[{host}]" if ":" in host else host
        say(f"http://{shown}:{listening.getsockname()[1]}")
        server(application, limits).run(sockets=[listening])
