"""A hub of models on this machine, as far as a download needs one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread

import pytest
from huggingface_hub import constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Has one repository, `some/model`, with these files; those `broken` cannot be had, those
    `held` not before it ends, and those `dripping` come byte by byte for as long.

    `asked` is the paths of all requests.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        # a test may change them
        self.files = dict(files)
        self.asked: list[str] = []
        self.broken: set[str] = set()
        self.held: set[str] = set()
        self.dripping: set[str] = set()
        self.ending = Event()
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        repository = "/api/models/some/model"
        if self.path.startswith(f"{repository}/tree/"):
            self._answer(json.dumps(self._tree()).encode())
        elif self.path.startswith(repository):
            info = {"id": "some/model", "sha": COMMIT, "siblings": self._siblings()}
            self._answer(json.dumps(info).encode())
        elif self.path.startswith("/some/model/resolve/"):
            path = self.path.split("/", 5)[5]
            if path in self.server.held and self.command == "GET":
                self.server.ending.wait(30)
                return
            if path in self.server.dripping and self.command == "GET":
                self._drip(self.server.files[path])
                return
            self._answer(self.server.files[path], 404 if path in self.server.broken else 200)
        else:
            self._answer(b"{}", 401, {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET  # noqa: N815

    def _siblings(self) -> list[dict[str, object]]:
        return [
            {"rfilename": path, "size": len(content)} for path, content in self.server.files.items()
        ]

    def _tree(self) -> list[dict[str, object]]:
        return [
            {"type": "file", "path": path, "size": len(content), "oid": _oid(content)}
            for path, content in self.server.files.items()
        ]

    def _drip(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        for part in body:
            if self.server.ending.wait(0.1):
                return
            self.wfile.write(bytes([part]))

    def _answer(
        self, body: bytes, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        more = {"ETag": f'"{_oid(body)}"', "X-Repo-Commit": COMMIT, **(headers or {})}
        for name, value in {"Content-Length": str(len(body)), **more}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def _oid(content: bytes) -> str:
    # git's id of a blob
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def serving(files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The hub that the client of this process asks."""
    with Hub(files) as hub:
        use(hub.url, monkeypatch)
        thread = Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield hub
        finally:
            hub.ending.set()
            hub.shutdown()
            thread.join()


def use(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the client, which reads its variables only once, ask this address."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
