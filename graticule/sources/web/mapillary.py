"""Mapillary, API v4 (https://www.mapillary.com/developer/api-documentation): photos of a box, by id or sequence.

The token goes into the ``Authorization`` header of requests to the API's own host and nowhere else. Links to photos
are signed and expire, so they are asked for shortly before they are used.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from graticule.errors import SourceError
from graticule.sources.web.http import Client, NotHadError, Verdict, judge_by_status
from graticule.sources.web.service import LICENCE, Answer, Box, Query, Row, Search, not_as_documented, number, parts

API = "https://graph.mapillary.com"
LIMIT = 2000  # photos of one answer; documented
BOX_DEG2 = 0.01  # a box must be smaller; documented
SMALLEST_DEG2 = 1e-10  # about 1 m x 1 m: a full box that is not split any further
SMALLEST_FAILING_DEG2 = 1e-5  # about 300 m x 300 m: a box that fails here does not fail for its size
AT_ONE_QUESTION = 50  # ids of one question; their links make it long
FIELDS = (
    "id", "computed_geometry", "geometry", "captured_at", "computed_compass_angle", "compass_angle", "sequence",
    "camera_type", "creator",
)  # fmt: skip
BAD_TOKEN = 190  # error codes of the Graph API: access token invalid or expired
THROTTLED = frozenset({4, 17, 32, 613})  # too many calls by the app, user, page; calls within one hour
QUERY_TIMEOUT = 3404014  # subcode, seen in public reports of 2024
TOO_MUCH = b"reduce the amount of data"


@dataclass(frozen=True, slots=True)
class Mapillary:
    """The service; ``token`` is never shown.

    Attributes:
        size: width of the photos, of :data:`graticule.sources.web.service.SIZES`.
    """

    token: str = field(repr=False)
    size: str = "1024"
    api: str = API
    name: str = "mapillary"

    @classmethod
    def from_environment(cls, size: str) -> "Mapillary":
        """With the token of ``MAPILLARY_TOKEN``; ``GRATICULE_MAPILLARY_URL`` names another server.

        Raises:
            SourceError: there is no token.
        """
        token = os.environ.get("MAPILLARY_TOKEN", "").strip()
        if not token:
            raise SourceError(
                "photos of Mapillary need a token: make one, free of charge, at "
                "https://www.mapillary.com/dashboard/developers and set the environment variable MAPILLARY_TOKEN to it"
            )
        return cls(token, size, os.environ.get("GRATICULE_MAPILLARY_URL", API).rstrip("/"))

    def queries(self, search: Search) -> list[Query]:
        narrowed: Query = {}
        if search.since:
            narrowed["start_captured_at"] = f"{search.since}T00:00:00Z"
        if search.until:
            narrowed["end_captured_at"] = f"{search.until + timedelta(days=1)}T00:00:00Z"
        if search.pano is not None:
            narrowed["is_pano"] = str(search.pano).lower()
        boxes = [part for box in search.boxes() for part in parts(box, BOX_DEG2)]
        return [
            *({"bbox": _bbox(box), **narrowed} for box in boxes),
            *({"sequence_id": sequence} for sequence in search.sequences),
            *({"image_ids": ",".join(some)} for some in _dealt(search.ids)),
        ]

    async def answer(self, client: Client, query: Query) -> Answer:
        if sequence := query.get("sequence_id"):
            body = await self._ask(client, "image_ids", {"sequence_id": sequence})
            shown = [str(one["id"]) for one in _data(body)]
            more = [{"image_ids": ",".join(some)} for some in _dealt(shown)]
            return Answer([], more, "" if shown else f"Mapillary has no photos of the sequence {sequence}")
        box = query.get("bbox")
        try:
            body = await self._ask(client, "images", {**query, "fields": ",".join(FIELDS), "limit": str(LIMIT)})
            found = _data(body)
        except NotHadError as refused:
            ids = query.get("image_ids")
            if ids and (halves := _halves(ids.split(","), refused)) is not None:
                return Answer([], [{"image_ids": ",".join(half)} for half in halves])
            if not (box and (TOO_MUCH in refused.body or _may_pass(refused.body) or refused.status in (500, 504))):
                raise
            found = None
        if box and (found is None or len(found) >= LIMIT):  # there may be more than was given
            south, west, north, east = whole = _box(box)
            area = (north - south) * (east - west)
            if area > (SMALLEST_FAILING_DEG2 if found is None else SMALLEST_DEG2):
                return Answer([], [{**query, "bbox": _bbox(half)} for half in parts(whole, area * 0.75)])
            if found is None:
                raise NotHadError("no answer", "Mapillary does not answer for this box, small as it is")
            return Answer(
                [_row(one) for one in found], [], f"more than {LIMIT} photos at one spot; the rest is not told"
            )
        return Answer([_row(one) for one in found or []], [])

    async def links(self, client: Client, ids: Sequence[str]) -> dict[str, str]:
        links: dict[str, str] = {}
        waiting = _dealt(ids)
        while waiting:
            some, name = waiting.pop(), f"thumb_{self.size}_url"
            try:
                body = await self._ask(client, "images", {"image_ids": ",".join(some), "fields": f"id,{name}"})
            except NotHadError as refused:
                halves = _halves(some, refused)
                if halves is None:
                    raise
                waiting += halves
                continue
            links |= {str(one["id"]): str(one[name]) for one in _data(body) if one.get(name)}
        return links

    async def _ask(self, client: Client, what: str, params: Query) -> Any:
        try:
            return await client.json(
                f"{self.api}/{what}", params, headers={"Authorization": f"OAuth {self.token}"}, judge=_judge
            )
        except NotHadError as refused:
            if refused.status == 401 or _error_code(refused.body) == BAD_TOKEN:
                raise SourceError(
                    "Mapillary refuses the token in MAPILLARY_TOKEN; make another at "
                    "https://www.mapillary.com/dashboard/developers"
                ) from None
            raise


def _halves(ids: Sequence[str], refused: NotHadError) -> list[Sequence[str]] | None:
    """Two questions for one: an id that the service does not know may spoil it for the others.

    Of a single id nothing is left to ask; None where the failure is another.
    """
    if refused.status not in (400, 404):
        return None
    half = len(ids) // 2
    return [ids[:half], ids[half:]] if half else []


def _judge(status: int, body: bytes) -> Verdict:
    if TOO_MUCH in body:  # no fault that passes: the box has to be split
        return Verdict.FINAL
    if _error_code(body) in THROTTLED:
        return Verdict.PAUSE
    return Verdict.AGAIN if _may_pass(body) else judge_by_status(status, body)


def _may_pass(body: bytes) -> bool:
    """A search that took too long: status 400, and not called transient, though the same works when asked again."""
    error = _error(body)
    return error.get("is_transient") is True or error.get("error_subcode") == QUERY_TIMEOUT


def _error_code(body: bytes) -> int | None:
    code = _error(body).get("code")
    return code if isinstance(code, int) else None


def _error(body: bytes) -> dict[str, Any]:
    try:
        error = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return {}
    return error if isinstance(error, dict) else {}


def _data(body: Any) -> list[dict[str, Any]]:
    data = body.get("data") if isinstance(body, dict) else None
    if not isinstance(data, list) or not all(isinstance(one, dict) and "id" in one for one in data):
        raise not_as_documented("Mapillary", "there is no list of photos with ids")
    return data


def _row(photo: dict[str, Any]) -> Row:
    """A row of the table; where Mapillary has computed position and heading from the photos, those."""
    spots = (photo.get(name) for name in ("computed_geometry", "geometry"))
    found = (spot.get("coordinates") for spot in spots if isinstance(spot, dict))
    at = next((spot for spot in found if isinstance(spot, list) and len(spot) >= 2), [None, None])
    lon, lat = number(at[0]), number(at[1])
    heading = number(photo.get("computed_compass_angle"))
    heading = number(photo.get("compass_angle")) if heading is None else heading
    creator = photo["creator"] if isinstance(photo.get("creator"), dict) else {}
    sequence, camera = (
        value if isinstance(value := photo.get(name), str) else None for name in ("sequence", "camera_type")
    )
    id_ = str(photo["id"])
    return {
        "source": "mapillary",
        "orig_id": id_,
        "lat": lat,
        "lon": lon,
        "sequence": sequence,
        "captured_at": _moment(photo.get("captured_at")),
        "heading": None if heading is None else heading % 360,
        "camera_type": camera,
        "creator": str(creator["id"]) if creator.get("id") else None,
        "licence": LICENCE,
        "attribution": attribution(id_, str(creator["username"]) if creator.get("username") else None),
    }


def _moment(milliseconds: Any) -> str | None:
    """ISO 8601 in UTC of milliseconds since 1970; None for what is no time."""
    value = number(milliseconds)
    try:
        return None if value is None else datetime.fromtimestamp(value / 1000, UTC).isoformat()
    except (OverflowError, ValueError, OSError):
        return None


def attribution(id_: str, username: str | None = None) -> str:
    """Whom to thank, and the page of the photo, as the licence asks."""
    who = f"{username}, Mapillary" if username else "Mapillary contributor"
    return f"{who}, CC BY-SA 4.0, https://www.mapillary.com/app/?pKey={id_}"


def _dealt(ids: Sequence[str]) -> list[Sequence[str]]:
    return [ids[start : start + AT_ONE_QUESTION] for start in range(0, len(ids), AT_ONE_QUESTION)]


def _bbox(box: Box) -> str:
    """Mapillary's order: west, south, east, north. Ten decimals are a hundredth of a millimetre."""
    south, west, north, east = box
    return ",".join(f"{value:.10f}" for value in (west, south, east, north))


def _box(text: str) -> Box:
    west, south, east, north = (float(value) for value in text.split(","))
    return south, west, north, east
