"""A host of images on this machine, that can be asked to misbehave."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread


class Host(ThreadingHTTPServer):
    """Has these files by path; leads from others elsewhere; sends some without end, or nothing.

    `asked` is the paths of all requests, `hung_up` those of dripping answers that nobody reads.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = files
        self.redirects: dict[str, str] = {}
        self.endless: set[str] = set()
        self.silent: set[str] = set()
        # these send a byte now and then, from the head on or from the body on
        self.dripping_head: set[str] = set()
        self.dripping_body: set[str] = set()
        self.headers: dict[str, str] = {}
        self.asked: list[str] = []
        self.hung_up: list[str] = []
        self.closing = Event()
        self.name = f"127.0.0.1:{self.server_port}"
        self.url = f"http://{self.name}"


class _Handler(BaseHTTPRequestHandler):
    server: Host

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        path = self.path.partition("?")[0]
        if path in self.server.silent:
            self.server.closing.wait()
        elif path in self.server.dripping_head | self.server.dripping_body:
            if path in self.server.dripping_body:
                self._send(200, {"Content-Length": "1000000"})
            else:
                self.wfile.write(b"HTTP/1.1 200 OK\r\nX-More: ")
            with suppress(OSError):
                while not self.server.closing.wait(0.02):
                    self.wfile.write(b"x")
            self.server.hung_up.append(path)
        elif path in self.server.endless:
            self._send(200, {"Content-Type": "image/png"})
            # until the client has had enough
            with suppress(OSError):
                while not self.server.closing.is_set():
                    self.wfile.write(bytes(1 << 12))
        elif path in self.server.redirects:
            self._send(302, {"Location": self.server.redirects[path], "Content-Length": "0"})
        elif path in self.server.files:
            self._file(self.server.files[path])
        else:
            self._send(404, {"Content-Length": "0"})

    def _file(self, body: bytes) -> None:
        wanted = self.headers.get("Range", "")
        length = {"Content-Length": str(len(body))}
        if wanted:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            body = body[int(first) : int(last) + 1]
            length = {"Content-Length": str(len(body))}
        self._send(206 if wanted else 200, length | self.server.headers)
        with suppress(OSError):
            self.wfile.write(body)

    def _send(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


@contextmanager
def hosting(files: dict[str, bytes]) -> Iterator[Host]:
    with Host(files) as host:
        thread = Thread(target=host.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield host
        finally:
            host.closing.set()
            host.shutdown()
            thread.join()
