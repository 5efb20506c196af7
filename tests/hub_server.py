"""A stand-in for the Hugging Face hub on this machine: one repository out of a folder; a model can be put in."""

import base64
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0" * 40


@contextmanager
def serve(repo, folder, monkeypatch, cache, kind="dataset", cut=()):
    """Serve ``folder`` as the dataset or model ``repo``; yields the bytes sent of each file, as a dict that grows.

    ``cut``: of a file's name, after how many bytes the line breaks, once.
    """
    cut = dict(cut)
    sent = {}

    api = f"/api/{kind}s/{repo}"

    class Hub(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # head and body are two writes, the second of which else waits 40 ms

        def log_message(self, *_):
            pass

        def do_GET(self):
            path = unquote(urlsplit(self.path).path)
            files = f"/datasets/{repo}/resolve/" if kind == "dataset" else f"/{repo}/resolve/"
            if path.startswith(files):
                return self.file(path.removeprefix(files).partition("/")[2])
            if path.startswith(f"{api}/tree/"):
                under = path.removeprefix(f"{api}/tree/").partition("/")[2]
                return self.json(self.tree(under, "recursive=true" in self.path.lower()))
            if path == api or path.startswith(f"{api}/revision/"):
                names = [{"rfilename": entry["path"]} for entry in self.tree("", True) if entry["type"] == "file"]
                return self.json({"id": repo, "sha": COMMIT, "siblings": names})
            return self.refuse()

        do_HEAD = do_GET  # noqa: N815

        def do_POST(self):
            body = self.body_sent()
            path = urlsplit(self.path).path
            if "/commit/" in path:
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        (folder / line["value"]["path"]).write_bytes(base64.b64decode(line["value"]["content"]))
                return self.json({"commitOid": COMMIT, "commitUrl": f"{endpoint}/{repo}/commit/{COMMIT}"})
            asked = json.loads(body)
            if path == "/api/repos/create":
                if (
                    f"{asked.get('organization', '')}/{asked['name']}".strip("/") != repo
                    or "Authorization" not in self.headers
                ):
                    return self.refuse()
                return self.json({"url": f"{endpoint}/{repo}"})
            if path == "/api/validate-yaml":
                return self.json({"errors": [], "warnings": []})
            if "/preupload/" in path:
                modes = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked["files"]]
                return self.json({"files": modes})
            return self.json([self.entry(folder / name) for name in asked["paths"] if (folder / name).exists()])

        def body_sent(self):
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers["Content-Length"]))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def tree(self, under, recursive):
            found = (folder / under).rglob("*") if recursive else (folder / under).iterdir()
            return [self.entry(path) for path in sorted(found)]

        def entry(self, path):
            size = path.stat().st_size if path.is_file() else 0
            kind = "file" if path.is_file() else "directory"
            return {"type": kind, "oid": "1" * 40, "size": size, "path": path.relative_to(folder).as_posix()}

        def file(self, name):
            if not (folder / name).is_file():
                return self.refuse()
            data = (folder / name).read_bytes()
            first, last = 0, len(data) - 1
            if asked := self.headers.get("Range"):
                first, last = (int(end or last) for end in asked.removeprefix("bytes=").split("-"))
                last = min(last, len(data) - 1)
            self.send_response(206 if asked else 200)
            self.send_header("ETag", f'"{len(data):040}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
            return self.body(data[first : last + 1], name)

        def json(self, value):
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.body(json.dumps(value).encode())

        def refuse(self):
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.body(b"{}")

        def body(self, data, name=None):
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                if name in cut:
                    data, self.close_connection = data[: cut.pop(name)], True
                if name:
                    sent[name] = sent.get(name, 0) + len(data)
                self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    # HF_ENDPOINT and HF_HOME are read once, when huggingface_hub is first imported
    constants = "huggingface_hub.constants"
    monkeypatch.setattr(f"{constants}.ENDPOINT", endpoint)
    monkeypatch.setattr(
        f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(f"{constants}.HF_HUB_CACHE", str(cache))
    try:
        yield sent
    finally:
        server.shutdown()
        server.server_close()
