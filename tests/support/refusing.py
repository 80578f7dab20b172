"""A server of Postgres' protocol that refuses each connection."""

from __future__ import annotations

import socketserver
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

from pydantic import SecretStr

from embeddings_pipeline.database import Database

# codes of the requests for encryption by TLS and by GSSAPI
_ENCRYPTION = (80877103, 80877104)


@contextmanager
def refusing(message: str, code: str = "XX000") -> Iterator[Database]:
    """A database whose server ends each connection with this FATAL error."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while (first := self.rfile.read(8)) and struct.unpack("!II", first)[1] in _ENCRYPTION:
                self.wfile.write(b"N")
            fields = f"SFATAL\0C{code}\0M{message}\0\0".encode()
            self.wfile.write(b"E" + struct.pack("!I", len(fields) + 4) + fields)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield Database("127.0.0.1", server.server_address[1], "x", "app", SecretStr("x"))
        finally:
            server.shutdown()
            thread.join()
