"""The port and password of the embedded server, stored across restarts."""

from __future__ import annotations

import json
import random
import secrets
import socket
from pathlib import Path
from typing import NamedTuple

from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.files import write_atomically

HOST = "127.0.0.1"
# below the range of ports for outgoing connections
PORTS = range(20_000, 30_000)


class Access(NamedTuple):
    port: int
    password: str

    def at_free_port(self) -> Access:
        """This access, with another port where its own is not free."""
        return self if is_free(self.port) else self._replace(port=free_port())


def new() -> Access:
    return Access(free_port(), secrets.token_urlsafe(24))


def load(home: Path) -> Access:
    path = home / "server.json"
    try:
        return Access(**json.loads(path.read_text()))
    except (FileNotFoundError, ValueError, TypeError) as error:
        raise ConfigurationError(
            f"embedded Postgres: {path}, which holds its password, is missing or damaged: restore"
            f" it, or stop the server and remove {home / 'postgres'} to start again"
        ) from error


def save(home: Path, access: Access) -> None:
    write_atomically(home / "server.json", json.dumps(access._asdict()), mode=0o600)


def free_port() -> int:
    return next(port for port in random.sample(PORTS, len(PORTS)) if is_free(port))


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True
