"""A stand-in for the Hugging Face hub on this machine: one dataset repository out of a folder."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0" * 40


@contextmanager
def serve(repo, folder, monkeypatch, cache):
    """Serve ``folder`` as the dataset ``repo``; yields the bytes sent of each file, as a dict that grows."""
    sent = {}

    class Hub(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_GET(self):
            path = unquote(urlsplit(self.path).path)
            api, files = f"/api/datasets/{repo}", f"/datasets/{repo}/resolve/"
            if path.startswith(files):
                return self.file(path.removeprefix(files).partition("/")[2])
            if path.startswith(f"{api}/tree/"):
                under = path.removeprefix(f"{api}/tree/").partition("/")[2]
                return self.json(self.tree(under, "recursive=true" in self.path.lower()))
            if path == api or path.startswith(f"{api}/revision/"):
                return self.json({"id": repo, "sha": COMMIT, "siblings": []})
            return self.refuse()

        do_HEAD = do_GET  # noqa: N815

        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.json([self.entry(folder / name) for name in asked["paths"] if (folder / name).exists()])

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
