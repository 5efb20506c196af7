"""KartaView, API 2.0 (https://doc.kartaview.org): photos of a box, by id or sequence. It asks for no token.

Every value comes as text. Links do not expire, so they are kept with the answers.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from graticule.sources.web.http import Client
from graticule.sources.web.service import LICENCE, Answer, Query, Row, Search, not_as_documented, number, parts

API = "https://api.openstreetcam.org"
A_PAGE = 150  # photos of one page
BOX_DEG2 = 0.01  # small boxes keep the service's own search short
LINKS = {  # of the photo with faces and plates blurred, in full and scaled down; the original is not given out
    "256": ("fileurlTh", "imageThUrl"),
    "1024": ("fileurlLTh", "imageLthUrl"),
    "2048": ("fileurlProc", "imageProcUrl"),
    "original": ("fileurlProc", "imageProcUrl"),
}
CAMERAS = {"PLANE": "perspective", "SPHERE": "spherical", "CYLINDER": "cylinder"}


@dataclass(frozen=True, slots=True)
class KartaView:
    """The service.

    Attributes:
        size: of :data:`graticule.sources.web.service.SIZES`; 2048 and original both are the largest that is given out.
    """

    size: str = "1024"
    api: str = API
    name: str = "kartaview"

    @classmethod
    def from_environment(cls, size: str) -> "KartaView":
        """``GRATICULE_KARTAVIEW_URL`` names another server."""
        return cls(size, os.environ.get("GRATICULE_KARTAVIEW_URL", API).rstrip("/"))

    def queries(self, search: Search) -> list[Query]:
        boxes = [part for box in search.boxes() for part in parts(box, BOX_DEG2)]
        corners = ({"nwLat": north, "nwLng": west, "seLat": south, "seLng": east} for south, west, north, east in boxes)
        return [
            *({name: f"{value:.10f}" for name, value in corner.items()} | {"page": "1"} for corner in corners),
            *({"sequenceId": sequence, "page": "1"} for sequence in search.sequences),
            *({"id": id_} for id_ in search.ids),
        ]

    async def answer(self, client: Client, query: Query) -> Answer:
        paged = {"itemsPerPage": str(A_PAGE), "orderBy": "id", "orderDirection": "asc"} if "page" in query else {}
        found, more = await self._ask(client, {**query, **paged, "join": "sequence"})
        rows = [row for one in found if (row := self._row(one))]
        if query.get("page") == "1" and "sequenceId" in query and not found:
            return Answer([], [], f"KartaView has no photos of the sequence {query['sequenceId']}")
        if not more or not found:
            return Answer(rows, [])
        return Answer(rows, [{**query, "page": str(int(query["page"]) + 1)}])

    async def links(self, client: Client, ids: Sequence[str]) -> dict[str, str]:
        links: dict[str, str] = {}
        for id_ in ids:
            found, _ = await self._ask(client, {"id": id_})
            links |= {str(one["id"]): link for one in found if (link := self._link(one))}
        return links

    async def _ask(self, client: Client, params: Query) -> tuple[list[dict[str, Any]], bool]:
        body = await client.json(f"{self.api}/2.0/photo/", params)
        result = body.get("result") if isinstance(body, dict) else None
        if not isinstance(result, dict):
            if isinstance(body, dict) and "status" in body:  # nothing found
                return [], False
            raise not_as_documented("KartaView", "there is neither a result nor a status")
        data = result.get("data") or []
        found = data if isinstance(data, list) else [data]
        if not all(isinstance(one, dict) and "id" in one for one in found):
            raise not_as_documented("KartaView", "there is no list of photos with ids")
        return found, bool(result.get("hasMoreData")) and "page" in params

    def _link(self, photo: dict[str, Any]) -> str | None:
        links = (photo.get(name) for name in LINKS[self.size])
        return next((str(link) for link in links if link and "{{" not in str(link)), None)

    def _row(self, photo: dict[str, Any]) -> Row | None:
        if photo.get("visibility") not in (None, "public") or photo.get("status") not in (None, "active"):
            return None
        drive = photo.get("sequence") if isinstance(photo.get("sequence"), dict) else {}
        user = photo.get("user") if isinstance(photo.get("user"), dict) else {}
        creator = (user or {}).get("id") or (drive or {}).get("userId")
        sequence = photo.get("sequenceId") or (drive or {}).get("id")
        heading = number(photo.get("heading"))
        camera = photo.get("projection")
        return {
            "source": "kartaview",
            "orig_id": str(photo["id"]),
            "lat": number(photo.get("lat")),  # as measured; matchLat would be the nearest street's
            "lon": number(photo.get("lng")),
            "sequence": str(sequence) if sequence else None,
            "captured_at": _moment(photo.get("shotDate")),
            "heading": None if heading is None else heading % 360,
            "camera_type": CAMERAS.get(str(camera), camera and str(camera).lower()),
            "creator": str(creator) if creator else None,
            "licence": LICENCE,
            "attribution": attribution(sequence and str(sequence), photo.get("sequenceIndex")),
            "url": self._link(photo),
        }


def attribution(sequence: str | None, index: Any = None) -> str:
    """Whom to thank, and the page of the photo, as the terms ask (https://kartaview.org/terms, 4)."""
    page = f", https://kartaview.org/details/{sequence}/{index or 0}/track-info" if sequence else ""
    return f"© Grab and KartaView Contributors, CC BY-SA 4.0{page}"


def _moment(text: Any) -> str | None:
    """``2016-03-23 09:33:51.000``, without a zone, as ISO 8601."""
    try:
        return datetime.fromisoformat(str(text)).isoformat()
    except ValueError:
        return None
