"""Refusals as problem details (RFC 9457): a sentence for people, a status for programs, never a stack trace."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi.responses import JSONResponse

TYPE = "application/problem+json"


class Refusal(Exception):  # noqa: N818  no error of ours: the client's request cannot be answered
    """A request that is not answered.

    Args:
        detail: what was found, what is valid, what to do.
        more: further members of the problem, such as the photos that cannot be read.
    """

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None, **more: Any) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers, self.more = status, detail, dict(headers or {}), more


def response(status: int, detail: str, headers: Mapping[str, str] | None = None, **more: Any) -> JSONResponse:
    """A problem as an answer."""
    problem = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail} | more
    return JSONResponse(problem, status, dict(headers or {}), TYPE)
