"""The HTTP server: limits of connections and of the time that a request's head may take."""

from __future__ import annotations

import asyncio
import resource
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.types import ASGIApp

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol as HTTPProtocol
else:
    # by httptools where it is installed, else by h11
    from uvicorn.protocols.http.auto import AutoHTTPProtocol as HTTPProtocol

# time for the request line and all headers, in any number of pieces
HEAD_SECONDS = 10.0
# bytes of a request's line and headers, and of what follows its body
_HEAD_BYTES = 65_536
# h11 has this limit itself, and calls no such method
_HEADS_HAVE_NO_LIMIT = hasattr(HTTPProtocol, "on_body")
# time for the client to take a part of an answer
ANSWER_SECONDS = 60.0
_KEEP_ALIVE_SECONDS = 30
GRACE_SECONDS = 30
# open files to request, where the system allows as many
_FILES = 4096
# connections accepted at once; fewer than the files kept free for the database and the page
_BACKLOG = 64


class BoundedProtocol(HTTPProtocol):
    """uvicorn's protocol of one connection, with a deadline and a limit for the head of each
    request, and a deadline for a client to take each part of an answer.

    Past the most connections, in all and of one address, a new connection replaces the one that
    has been without a request for longest, and is refused where all are at work.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._deadline: asyncio.TimerHandle | None = None
        self._answer_deadline: asyncio.TimerHandle | None = None
        self._idle_since = 0.0
        # received since the last part of a body, or the end of a request
        self._head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin a connection, or refuse it."""
        super().connection_made(transport)
        # writing is paused as long as the client has not taken all of what was written
        transport.set_write_buffer_limits(0)
        self._idle_since = self.loop.time()
        self._expect_head()
        every = [
            c
            for c in self.connections
            if isinstance(c, BoundedProtocol) and not c.transport.is_closing()
        ]
        mine = [c for c in every if c._address == self._address]
        most = max_connections()
        # one address leaves half of the connections to others
        for connections, limit in ((mine, most // 2), (every, most)):
            if len(connections) > limit:
                self._replace(connections)

    def data_received(self, data: bytes) -> None:
        """Read a part of a request."""
        before = self.cycle
        self._head_bytes += len(data)
        super().data_received(data)
        too_large = _HEADS_HAVE_NO_LIMIT and self._head_bytes > _HEAD_BYTES
        if too_large and not self.transport.is_closing():
            self.send_400_response("The head of the request is too large.")
        if self.cycle is not before:
            self._cancel_deadline()
        elif self._is_idle:
            self._expect_head()

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        self._head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Take the end of a request."""
        self._head_bytes = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request of the connection."""
        self._idle_since = self.loop.time()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Give the client time to take what was written."""
        super().pause_writing()
        self._answer_deadline = self.loop.call_later(ANSWER_SECONDS, self._end)

    def resume_writing(self) -> None:
        """Go on with the answer, or wait for the next request."""
        super().resume_writing()
        self._cancel_answer_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the connection."""
        self._cancel_deadline()
        self._cancel_answer_deadline()
        super().connection_lost(exc)

    @property
    def _address(self) -> str | None:
        return self.client[0] if self.client else None

    @property
    def _is_idle(self) -> bool:
        """Whether no request of the connection is at work."""
        return self.cycle is None or self.cycle.response_complete

    def _expect_head(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_SECONDS, self._end)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _cancel_answer_deadline(self) -> None:
        if self._answer_deadline is not None:
            self._answer_deadline.cancel()
            self._answer_deadline = None

    def _replace(self, connections: list[BoundedProtocol]) -> None:
        # this one is idle, too, and the newest
        idle = [c for c in connections if c._is_idle]
        min(idle, key=lambda c: c._idle_since)._end()

    def _end(self) -> None:
        # not close(): it waits for a peer that does not read
        self.transport.abort()


def max_connections() -> int:
    """Return the most connections at the same time: three quarters of the files that the process
    may open."""
    return _limited(resource.getrlimit(resource.RLIMIT_NOFILE)[0]) * 3 // 4


def _limited(files: int) -> int:
    return _FILES if files == resource.RLIM_INFINITY else min(files, _FILES)


def server(app: ASGIApp, host: str, port: int, *, root_path: str = "") -> uvicorn.Server:
    """Return a server of the app. Raises the limit of open files where that is allowed."""
    return uvicorn.Server(uvicorn.Config(app, **_options(host, port, root_path)))


def run_processes(app: str, host: str, port: int, *, workers: int, root_path: str = "") -> None:
    """Serve in processes of their own that share a port, until a signal; one that dies is started
    again. `app` is the module and the function that makes the app, as `module:function`."""
    uvicorn.run(app, factory=True, workers=workers, **_options(host, port, root_path))


def _options(host: str, port: int, root_path: str) -> dict[str, Any]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _limited(soft) < _limited(hard):
        resource.setrlimit(resource.RLIMIT_NOFILE, (_limited(hard), hard))
    return {
        "host": host,
        "port": port,
        "root_path": root_path,
        "http": BoundedProtocol,
        "ws": "none",
        "backlog": _BACKLOG,
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "timeout_keep_alive": _KEEP_ALIVE_SECONDS,
        "timeout_graceful_shutdown": GRACE_SECONDS,
    }
