"""A server that sends a byte now and then, so that no read of a client times out."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread


@contextmanager
def dripping(begin: bytes, more: bytes = b"$", pause: float = 0.3) -> Iterator[int]:
    """The port of a server that begins so and then sends a byte now and then."""
    ended = Event()

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.sendall(begin)
            while not ended.wait(pause):
                connection.sendall(more)

    def accept() -> None:
        with suppress(OSError):
            while True:
                Thread(target=serve, args=(server.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        Thread(target=accept, daemon=True).start()
        try:
            yield server.getsockname()[1]
        finally:
            ended.set()
            server.shutdown(socket.SHUT_RDWR)
