"""A server on this machine that speaks as Mapillary, KartaView and the hub do, and fails as they may.

The API is served at ``127.0.0.1`` and the photos at ``localhost``, two hosts as in the world, so that a token that
goes to the wrong one shows. ``python tests/services.py N FILE`` serves N photos until it is ended; its port is in FILE.
"""

import asyncio
import hashlib
import io
import sys
import threading
from collections import Counter
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

import numpy as np
from aiohttp import web
from PIL import Image

TOKEN = "MLY|4711|a-secret-that-nobody-may-see"


class Shot:
    """A photo that the server has; ids are as long as Mapillary's."""

    def __init__(self, number, lat, lon, sequence, data, heading=12.5, day="2021-06-01", pano=False):
        self.id = str(818314000000000 + number)
        self.lat, self.lon, self.sequence, self.data, self.heading = float(lat), float(lon), sequence, data, heading
        self.taken = datetime.fromisoformat(f"{day}T12:00:00+00:00")
        self.pano = pano


class Services:
    """What is served, what was asked, and which photos fail how.

    Attributes:
        faults: by id, what happens to the first requests for the photo, in order; then it is served.
        asked: how often each path was asked for; of photos, by id, and ``whole`` how often one was sent whole.
        tokens_at_photos: headers that had no business at the host of the photos.
    """

    def __init__(self, shots, tables=None, slow_s=0.0):
        self.shots = {shot.id: shot for shot in shots}
        self.tables = tables or {}
        self.slow_s = slow_s
        self.faults, self.asked, self.whole = {}, Counter(), Counter()
        self.queries, self.tokens_at_photos, self.api_faults = [], [], []
        self.links = Counter()
        self.throttled_until, self.asked_while_throttled = 0.0, 0
        self.port = 0

    @property
    def api(self):
        return f"http://127.0.0.1:{self.port}"

    def link(self, shot, size):
        self.links[shot.id] += 1
        return f"http://localhost:{self.port}/photo/{shot.id}?size={size}&signed={self.links[shot.id]}"

    def app(self):
        app = web.Application()
        app.router.add_get("/images", self.mapillary_images)
        app.router.add_get("/image_ids", self.mapillary_sequence)
        app.router.add_get("/2.0/photo/", self.kartaview_photos)
        app.router.add_get("/photo/{id}", self.photo)
        app.router.add_get("/datasets/NUS-UAL/global-streetscapes/resolve/main/data/{name}", self.table)
        return app

    def refusal(self, request):
        self.asked[request.path] += 1
        self.queries.append(dict(request.query))
        if self.api_faults:
            return self.api_faults.pop(0)
        if request.path.startswith("/image") and request.headers.get("Authorization") != f"OAuth {TOKEN}":
            told = {"message": f"Malformed access token {request.headers.get('Authorization')}", "code": 190}
            return web.json_response({"error": told}, status=401)
        return None

    async def mapillary_images(self, request):
        if refusal := self.refusal(request):
            return refusal
        asked = request.query
        if ids := asked.get("image_ids"):
            found = [self.shots[id_] for id_ in ids.split(",") if id_ in self.shots]
        else:
            west, south, east, north = map(float, asked["bbox"].split(","))
            if (north - south) * (east - west) >= 0.01:
                return web.json_response({"error": {"message": "the box is too large", "code": 100}}, status=400)
            found = [s for s in self.shots.values() if south <= s.lat <= north and west <= s.lon <= east]
            found = found[: int(asked["limit"])]
        return web.json_response({"data": [self.mapillary_photo(shot, asked["fields"]) for shot in found]})

    def mapillary_photo(self, shot, fields):
        known = {
            "id": shot.id,
            "computed_geometry": {"type": "Point", "coordinates": [shot.lon, shot.lat]},
            "captured_at": int(shot.taken.timestamp() * 1000),
            "compass_angle": 400.0 + shot.heading,
            "sequence": shot.sequence,
            "camera_type": "spherical" if shot.pano else "perspective",
            "creator": {"username": "ada", "id": "99"},
        }
        told = {"id": shot.id}
        for name in fields.split(","):
            if name.startswith("thumb_"):
                told[name] = self.link(shot, name.split("_")[1])
            elif name in known:
                told[name] = known[name]
        return told

    async def mapillary_sequence(self, request):
        if refusal := self.refusal(request):
            return refusal
        sequence = request.query["sequence_id"]
        return web.json_response({"data": [{"id": s.id} for s in self.shots.values() if s.sequence == sequence]})

    async def kartaview_photos(self, request):
        if refusal := self.refusal(request):
            return refusal
        asked = request.query
        if id_ := asked.get("id"):
            found = [self.shots[id_]] if id_ in self.shots else []
        elif sequence := asked.get("sequenceId"):
            found = [s for s in self.shots.values() if s.sequence == sequence]
        else:
            north, west, south, east = (float(asked[name]) for name in ("nwLat", "nwLng", "seLat", "seLng"))
            found = [s for s in self.shots.values() if south <= s.lat <= north and west <= s.lon <= east]
        page, length = int(asked.get("page", 1)), int(asked.get("itemsPerPage", 20))
        some = found[(page - 1) * length : page * length]
        if not some:
            return web.json_response({"status": {"apiCode": "601", "apiMessage": "empty"}, "result": None})
        result = {"data": [self.kartaview_photo(s) for s in some], "hasMoreData": page * length < len(found)}
        return web.json_response({"status": {"apiCode": "600"}, "result": result})

    def kartaview_photo(self, shot):
        link = f"http://localhost:{self.port}/photo/{shot.id}?size="
        return {
            "id": shot.id, "lat": str(shot.lat), "lng": str(shot.lon), "heading": str(shot.heading),
            "shotDate": f"{shot.taken:%Y-%m-%d %H:%M:%S}.000", "sequenceId": shot.sequence, "sequenceIndex": "7",
            "projection": "SPHERE" if shot.pano else "PLANE", "visibility": "public", "status": "active",
            "fileurl": f"http://localhost:{self.port}/{{{{sizeprefix}}}}/x.jpg", "fileurlTh": f"{link}th",
            "fileurlLTh": f"{link}lth", "fileurlProc": f"{link}proc", "sequence": {"userId": "15617"},
        }  # fmt: skip

    async def table(self, request):
        """As the hub serves a file: what it is in the headers, for HEAD alone too."""
        name = request.match_info["name"]
        self.asked[name] += request.method == "GET"
        if name not in self.tables:
            return web.Response(status=404, headers={"X-Error-Code": "EntryNotFound"})
        data = self.tables[name].encode()
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": "1" * 40}
        return web.Response(body=data, headers=headers)

    async def photo(self, request):
        id_ = request.match_info["id"]
        self.asked[id_] += 1
        self.tokens_at_photos += [request.headers["Authorization"]] if "Authorization" in request.headers else []
        now = asyncio.get_running_loop().time()
        self.asked_while_throttled += now < self.throttled_until
        if self.slow_s:
            await asyncio.sleep(self.slow_s)
        if id_ not in self.shots:
            return web.Response(status=404)
        fault = self.faults[id_].pop(0) if self.faults.get(id_) else None
        data = self.shots[id_].data
        if fault is None:
            self.whole[id_] += 1
            return web.Response(body=data, content_type="image/jpeg")
        if isinstance(fault, int):
            headers = {}
            if fault == 429:
                headers = {"Retry-After": "1"}
                self.throttled_until = now + 0.95
            if fault == 503:
                headers = {"Retry-After": format_datetime(datetime.now(UTC), usegmt=True)}
            return web.Response(status=fault, headers=headers, text=f"no: {TOKEN}")
        if fault == "page":
            return web.Response(text="<!doctype html><title>Log in</title>", content_type="image/jpeg")
        if fault == "message":
            return web.json_response({"error": "no"})
        if fault == "text":
            return web.Response(body=b"\xff\xd8\xff no photo at all \xff\xd9", content_type="image/jpeg")
        answer = web.StreamResponse(headers={"Content-Type": "image/jpeg"})
        announced = {"cut": len(data) // 2, "breaks": len(data), "huge": 10**10}[fault]
        answer.content_length = announced
        await answer.prepare(request)
        await answer.write(data[: len(data) // 2])
        if fault != "cut":
            request.transport.close()
        return answer


@contextmanager
def serving(services):
    """Serve in a thread of this process, so that a test sees what was asked."""
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(services.app())

    async def start():
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        services.port = runner.addresses[0][1]

    loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield services
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def city_of(shots):
    """The tables of Global Streetscapes of a city of the given photos, as CSV text, and a few photos elsewhere."""
    cities = ["simplemaps", "uuid,source,orig_id,city,city_ascii,city_id,country,iso2,iso3,admin_name,continent"]
    common = [
        "metadata",
        "uuid,source,orig_id,lat,lon,datetime_local,heading,projection_type,sequence_index,sequence_id",
    ]
    looks = ["contextual", "uuid,source,orig_id,glare,lighting_condition,pano_status,platform,quality,weather"]
    far = [Shot(900_000 + i, 48.7, 9.1, "elsewhere", b"") for i in range(5)]
    for i, shot in enumerate([*shots, *far]):
        key = f"{i:08x}-0000,Mapillary,{shot.id}"
        there = "Washington,Washington,1840006060,United States,US,USA,District of Columbia,North America"
        there = "Stuttgart,Stuttgart,1276171358,Germany,DE,DEU,Baden-Württemberg,Europe" if shot in far else there
        cities.append(f"{key},{there}")
        when = shot.taken.strftime("%Y-%m-%d %H:%M:%S+00:00")
        common.append(f"{key},{shot.lat!r},{shot.lon!r},{when},{shot.heading},perspective,{i},{shot.sequence}")
        looks.append(f"{key},no,day,False,driving surface,{'poor' if i % 10 == 9 else 'good'},clear")
    names = {"metadata": "metadata_common_attributes"}
    return {f"{names.get(name, name)}.csv": "\n".join(lines) + "\n" for name, *lines in (cities, common, looks)}


class Noise(Shot):
    """A photo of about 100 kB that is made when it is asked for: one of a few pictures, with a comment of its own."""

    def __init__(self, number, pictures):
        lat, lon = 38.8 + 0.0019 * (number % 100), -77.1 + 0.0019 * (number // 100)
        super().__init__(number, lat, lon, f"drive-{number // 100}", None)
        self.number, self.pictures = number, pictures

    @property
    def data(self):
        picture = self.pictures[self.number % len(self.pictures)]
        return picture[:2] + b"\xff\xfe\0\x0a" + self.number.to_bytes(8, "big") + picture[2:]

    @data.setter
    def data(self, value):
        """It is made, not given."""


def noise_photos(count, kinds=20):
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(kinds):
        small = Image.fromarray(rng.integers(0, 256, (96, 128, 3), dtype=np.uint8))
        file = io.BytesIO()
        small.resize((1024, 768), Image.Resampling.BICUBIC).save(file, "JPEG", quality=80)
        pictures.append(file.getvalue())
    return [Noise(i, pictures) for i in range(count)]


if __name__ == "__main__":
    served = Services(noise_photos(int(sys.argv[1])))

    async def until_ended():
        runner = web.AppRunner(served.app(), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        served.port = runner.addresses[0][1]
        Path(sys.argv[2]).write_text(str(served.port))
        await asyncio.Event().wait()

    asyncio.run(until_ended())
