"""The embedded Postgres: one server a data folder, which outlives the process that started it.

The folder holds `postgres` (the cluster), `server.json` (port and password, readable by its owner
only) and `server.lock`; `_host` says where the folder is when root starts the server.
"""

from __future__ import annotations

import json
import random
import secrets
import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from pydantic import SecretStr

from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.settings import Database
from embeddings_pipeline.store import _host, _postmaster

HOST = "127.0.0.1"
USER = "postgres"
DATABASE = "embeddings"
DAGSTER_DATABASE = "dagster"

# below the range from which systems take the ports of outgoing connections
PORTS = range(20_000, 30_000)
OPTIONS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "100",
    "shared_buffers": "256MB",
    "maintenance_work_mem": "512MB",
}
INITDB = (
    f"--username={USER}",
    "--auth=scram-sha-256",
    "--encoding=UTF8",
    # sorts the same on every platform
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--locale=C",
    # full-text search tells letters from other characters by this one
    f"--lc-ctype={'en_US.UTF-8' if sys.platform == 'darwin' else 'C.UTF-8'}",
)
SECONDS = 120  # to start, recovery after a crash included, or to stop


class _Access(NamedTuple):
    port: int
    password: str


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigurationError(
            f"embedded Postgres: {error}: set EMBEDDED_DATA_DIR to a folder that you can write to,"
            " or configure STAGING_DB_* and PGVECTOR_*"
        ) from error


@_explained()
def running(data_dir: Path) -> Database | None:
    """Where the server of this folder is, or None unless it accepts connections."""
    home = _host.home(data_dir)
    server = _postmaster.find(home / "postgres")
    if server is None or not server.ready:
        return None
    return Database(HOST, server.port, DATABASE, USER, SecretStr(_access(home).password))


@_explained()
def start(data_dir: Path) -> Database:
    """Start the server of this folder unless it runs, and say where it is.

    The first start makes the databases DATABASE, with pgvector, and DAGSTER_DATABASE. Raises
    ConfigurationError where the machine does not let it.
    """
    if database := running(data_dir):
        return database
    home = _host.make_home(data_dir)
    cluster = home / "postgres"
    with _host.locked(home / "server.lock") as lock:
        if not cluster.exists():
            _create(home, lock)
        # a starter that was killed leaves a server that is about to be ready
        _postmaster.wait(lambda: not _postmaster.is_changing(cluster), SECONDS)
        if _postmaster.find(cluster) is None:
            _postmaster.clear(cluster)
            _launch(home)
        if database := running(data_dir):
            return database
    raise ConfigurationError(f"embedded Postgres is not ready\n{_postmaster.log_tail(cluster)}")


@_explained()
def stop(data_dir: Path) -> bool:
    """Stop the server of this folder, ending its connections; whether one was running."""
    home = _host.home(data_dir)
    cluster = home / "postgres"
    if not cluster.exists():
        return False
    with _host.locked(home / "server.lock"):
        server = _postmaster.find(cluster)
        if server is None:
            return False
        server.process.send_signal(signal.SIGINT)
        if _postmaster.wait(lambda: _postmaster.find(cluster) is None, SECONDS):
            return True
    raise ConfigurationError(f"embedded Postgres does not stop\n{_postmaster.log_tail(cluster)}")


def _create(home: Path, lock: int) -> None:
    """Make the cluster beside its place and rename it, so that no half of one is ever seen."""
    new = home / "postgres.new"
    if new.exists():
        shutil.rmtree(new)
    new.mkdir(mode=0o700)
    password = secrets.token_urlsafe(24)
    _write_private(new / "password", password)
    for path in (new, new / "password"):
        _host.hand_over(path)
    data = str(new / "data")
    _host.run("initdb", *INITDB, f"--pwfile={new / 'password'}", f"--pgdata={data}", lock=lock)
    for database, statements in {
        "postgres": f"create database {DATABASE}\ncreate database {DAGSTER_DATABASE}\n",
        DATABASE: "create extension vector\n",
    }.items():
        options = ("--single", "-D", data, "-c", "exit_on_error=on", database)
        _host.run("postgres", *options, lock=lock, stdin=statements)
    _remember(home, _Access(_free_port(), password))
    (new / "data").rename(home / "postgres")
    shutil.rmtree(new)


def _launch(home: Path) -> None:
    cluster = home / "postgres"
    access = _access(home)
    if not _is_free(access.port):
        access = access._replace(port=_free_port())
        _remember(home, access)
    options = OPTIONS | {"port": str(access.port), "dynamic_shared_memory_type": _memory()}
    words = " ".join(f"-c {name}={value}" for name, value in options.items())
    where = ("-D", str(cluster), "-l", str(cluster / "server.log"))
    try:
        _host.run("pg_ctl", "start", "-w", "-t", str(SECONDS), *where, "-o", words)
    except ConfigurationError as error:
        if _is_free(access.port):
            raise ConfigurationError(f"{error}\n{_postmaster.log_tail(cluster)}") from error
        _launch(home)  # another process took the port in between


def _access(home: Path) -> _Access:
    path = home / "server.json"
    try:
        return _Access(**json.loads(path.read_text()))
    except (FileNotFoundError, ValueError, TypeError) as error:
        raise ConfigurationError(
            f"embedded Postgres: {path}, which holds its password, is missing or damaged: restore"
            f" it, or stop the server and remove {home / 'postgres'} to begin afresh"
        ) from error


def _remember(home: Path, access: _Access) -> None:
    new = home / "server.json.new"
    _write_private(new, json.dumps(access._asdict()))
    new.replace(home / "server.json")


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    path.touch(0o600)
    path.write_text(text)


def _free_port() -> int:
    return next(port for port in random.sample(PORTS, len(PORTS)) if _is_free(port))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _memory() -> str:
    """Containers often have 64 MiB of /dev/shm, too little for a parallel HNSW build."""
    shared = Path("/dev/shm")  # noqa: S108
    small = shared.exists() and shutil.disk_usage(shared).total < 1 << 30
    return "mmap" if small else "posix"
