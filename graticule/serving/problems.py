"""Refusals as problem details (RFC 9457): a sentence for people, a status for programs, never a stack trace."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

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
    title = "Client Closed Request" if status == 499 else HTTPStatus(status).phrase
    problem = {"type": "about:blank", "title": title, "status": status, "detail": detail} | more
    return JSONResponse(problem, status, dict(headers or {}), TYPE)


def of_field(error: Mapping[str, Any]) -> str:
    """What pydantic found wrong with one field, as a sentence."""
    name = ".".join(str(part) for part in error["loc"][1:]) or "the body"
    if error["type"] != "missing":
        return f"{name}: {error['msg']}"
    how = f"send the photo as {name}=@FILE" if name in ("photo", "photos") else "GET /openapi.json says what it takes"
    return f"the field {name} is missing: {how}"


def of_http(method: str, path: str, error: HTTPException) -> str:
    """What the framework refuses, as a sentence."""
    if error.status_code == 404 and error.detail == "Not Found":
        return f"there is nothing at {path[:80]}; GET /openapi.json lists the addresses"
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        return f"{path[:80]} does not take {method}; ask it with {allowed}"
    return str(error.detail)


def _documented(status: int, detail: str) -> dict[str, Any]:
    example = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    schema = {
        "type": "object",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
        },
    }
    return {"content": {TYPE: {"schema": schema, "example": example}}}


DOCUMENTED: dict[int | str, dict[str, Any]] = {
    status: _documented(status, detail) | {"description": HTTPStatus(status).phrase}
    for status, detail in (
        (400, "Invalid multipart data."),
        (401, "this server asks for a key: send the header Authorization: Bearer KEY"),
        (
            403,
            "a page of 'http://elsewhere.example' may not ask this server; it is started with --allow-origin for that",
        ),
        (404, "there is no such game, or the server was started anew; begin another"),
        (408, "the request did not arrive within 60 s"),
        (413, "a photo has 100,000,000 pixels; at most 50,000,000 are read: scale it down first"),
        (421, "this server does not go by the name 'elsewhere'; it is started with --allow-host elsewhere"),
        (422, "claim takes LAT,LON in degrees, such as 38.9,-77.03; found 'here'"),
        (429, "more than 60 requests a minute; wait 3 s"),
        (503, "too many photos wait already; try again soon"),
    )
}
ANYWHERE = {status: about for status, about in DOCUMENTED.items() if status != 404}
MISSING: dict[int | str, dict[str, Any]] = {404: DOCUMENTED[404]}
