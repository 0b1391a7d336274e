"""Servers on this machine that speak the protocols of Hugging Face and of Ollama's registry, with faults on demand."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import urlsplit


class ModelServer:
    """Both sites at once, and plain files; what it holds and how it fails can be set at any time.

    files: "owner/repo/path" → bytes. cuts: how many more answers are cut off, each after `cut_after` bytes.
    ranges, lengths: whether it goes on from where one asks, and says how long files are. seconds_per_chunk: how slow
    it is. token: what repositories named private/… ask for. commit: what main is. sent: bytes that went out, by digest;
    tokens: those that came, by kind of path.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.hashes: dict[str, str] = {}  # announced instead of the true ones
        self.cuts, self.cut_after = 0, 100_000
        self.failures = 0  # answers of 503 to come
        self.seconds_per_chunk = 0.0
        self.ranges = self.lengths = True
        self.token, self.commit = "secret", "c0ffee"
        self.sent: Counter[str] = Counter()
        self.tokens: dict[str, set[str | None]] = {"api": set(), "resolve": set(), "cdn": set()}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._cdn = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._cdn.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.cdn = f"http://127.0.0.1:{self._cdn.server_port}"

    def digest(self, name: str) -> str:
        return self.hashes.get(name) or hashlib.sha256(self.files[name]).hexdigest()

    def __enter__(self) -> ModelServer:
        for server in (self._server, self._cdn):
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in (self._server, self._cdn):
            server.shutdown()
            server.server_close()


def _handler(site: ModelServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:  # noqa: N802
            path = urlsplit(self.path).path
            if site.failures > 0:
                site.failures -= 1
                self.answer(503)
            elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)", path):
                self.repository(match[1])
            elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
                self.resolve(match[1], f"{match[1]}/{match[2]}")
            elif match := re.fullmatch(r"/v2/([^/]+/[^/]+)/manifests/(.+)", path):
                self.manifest(f"{match[1]}/{match[2]}")
            elif match := re.fullmatch(r"/v2/[^/]+/[^/]+/blobs/sha256:([0-9a-f]{64})", path):
                names = [name for name in site.files if site.digest(name) == match[1]]
                self.answer(307, Location=f"{site.cdn}/cdn/{names[0]}") if names else self.answer(404)
            elif match := re.fullmatch(r"/(cdn|files)/(.+)", path):
                site.tokens["cdn"].add(self.headers["Authorization"])
                self.file(match[2])
            else:
                self.answer(404)

        do_HEAD = do_GET  # noqa: N815

        def repository(self, repo: str) -> None:
            site.tokens["api"].add(self.headers["Authorization"])
            if repo.startswith("private/") and self.headers["Authorization"] != f"Bearer {site.token}":
                self.answer(401, b'{"error": "Repository not found"}', **{"X-Error-Code": "RepoNotFound"})
                return
            names = [name for name in site.files if name.startswith(f"{repo}/")]
            if not names:
                self.answer(404, b'{"error": "Repository not found"}', **{"X-Error-Code": "RepoNotFound"})
                return
            siblings = [
                {
                    "rfilename": name.removeprefix(f"{repo}/"),
                    "size": len(site.files[name]),
                    "blobId": "0",
                    "lfs": {"sha256": site.digest(name), "size": len(site.files[name]), "pointerSize": 135},
                }
                for name in names
            ]
            facts = {"id": repo, "modelId": repo, "sha": site.commit, "siblings": siblings}
            self.answer(200, json.dumps(facts).encode())

        def resolve(self, repo: str, name: str) -> None:
            site.tokens["resolve"].add(self.headers["Authorization"])
            if name not in site.files:
                self.answer(404, **{"X-Error-Code": "EntryNotFound"})
                return
            if repo.startswith("gated/"):
                self.answer(403, **{"X-Error-Code": "GatedRepo"})
                return
            facts = {"X-Repo-Commit": site.commit, "X-Linked-Etag": f'"{site.digest(name)}"'}
            size = {"X-Linked-Size": str(len(site.files[name]))}
            self.answer(302, Location=f"{site.cdn}/cdn/{name}", **facts, **size)

        def manifest(self, name: str) -> None:
            if name not in site.files:
                self.answer(404, b'{"errors": [{"code": "MANIFEST_UNKNOWN"}]}')
                return
            layers = [
                {"mediaType": "application/vnd.ollama.image.license", "digest": "sha256:" + "0" * 64, "size": 9},
                {
                    "mediaType": "application/vnd.ollama.image.model",
                    "digest": f"sha256:{site.digest(name)}",
                    "size": len(site.files[name]),
                },
            ]
            self.answer(200, json.dumps({"schemaVersion": 2, "config": {}, "layers": layers}).encode())

        def file(self, name: str) -> None:
            if name not in site.files:
                self.answer(404)
                return
            data, start = site.files[name], 0
            etag = f'"{hashlib.sha256(data).hexdigest()[:20]}"'
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            if wanted and site.ranges and self.headers.get("If-Range", etag) == etag:
                start = int(wanted[1])
                if start >= len(data):
                    self.answer(416)
                    return
            self.send_response(206 if start else 200)
            if site.lengths:
                self.send_header("Content-Length", str(len(data) - start))
            else:
                self.send_header("Connection", "close")
            self.send_header("ETag", etag)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.end_headers()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 14)
            end = len(data)
            if site.cuts > 0:
                site.cuts, end = site.cuts - 1, min(end, start + site.cut_after)
            for at in range(start, end, 1 << 14):
                chunk = data[at : min(at + (1 << 14), end)]
                self.wfile.write(chunk)
                site.sent[name] += len(chunk)
                time.sleep(site.seconds_per_chunk)
            if end < len(data) or not site.lengths:
                self.close_connection = True

        def answer(self, code: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(code)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def handle(self) -> None:
            try:
                super().handle()
            except ConnectionError:  # the other end was killed
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    return Handler
