"""The embedded Postgres: one server for each data folder. It outlives the process that starts it.

The folder holds `postgres` (the cluster), `server.json` (port and password, readable by its owner
only) and `server.lock`; `host` describes where the folder is when root starts the server.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import SecretStr

from embeddings_pipeline.database import Database
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.files import write_atomically
from embeddings_pipeline.store.embedded import access as access_file
from embeddings_pipeline.store.embedded import host, postmaster
from embeddings_pipeline.store.embedded.access import HOST

USER = "postgres"
DATABASE = "embeddings"
DAGSTER_DATABASE = "dagster"

OPTIONS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "100",
    "shared_buffers": "256MB",
    # a load of a few hundred thousand vectors needs no checkpoint, which would write pages twice
    "max_wal_size": "4GB",
    "wal_buffers": "64MB",
    "maintenance_work_mem": "512MB",
    # the default is eight on any machine
    "max_parallel_workers": str(os.cpu_count() or 1),
}
INITDB = (
    f"--username={USER}",
    "--auth=scram-sha-256",
    "--encoding=UTF8",
    # the same sort order on every platform
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--locale=C",
    # full-text search classifies characters by lc_ctype
    f"--lc-ctype={'en_US.UTF-8' if sys.platform == 'darwin' else 'C.UTF-8'}",
)
# for a start, with recovery after a crash, or for a stop
SECONDS = 120


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
    """The database of this folder's server; None where it does not accept connections."""
    home = host.home(data_dir)
    server = postmaster.find(home / "postgres")
    if server is None or not server.ready:
        return None
    return Database(HOST, server.port, DATABASE, USER, SecretStr(access_file.load(home).password))


def free_bytes(data_dir: Path) -> int:
    """The free bytes of the disk on which this folder's server has its data, or will have it."""
    folder = host.home(data_dir)
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


@_explained()
def start(data_dir: Path) -> Database:
    """Start the server of this folder where it does not run; returns its database.

    The first start creates the databases DATABASE, with pgvector, and DAGSTER_DATABASE. Raises
    ConfigurationError where the server cannot start.
    """
    if database := running(data_dir):
        return database
    home = host.make_home(data_dir)
    cluster = home / "postgres"
    with host.locked(home / "server.lock") as lock:
        if not cluster.exists():
            _create(home, lock)
        # a killed process may have started a server that is not ready yet
        postmaster.wait(lambda: not postmaster.is_changing(cluster), SECONDS)
        if postmaster.find(cluster) is None:
            postmaster.clear(cluster)
            _launch(home)
        if database := running(data_dir):
            return database
    raise ConfigurationError(f"embedded Postgres is not ready\n{postmaster.log_tail(cluster)}")


@_explained()
def stop(data_dir: Path) -> bool:
    """Stop the server of this folder and end its connections; returns whether it was running."""
    home = host.home(data_dir)
    cluster = home / "postgres"
    if not cluster.exists():
        return False
    with host.locked(home / "server.lock"):
        server = postmaster.find(cluster)
        if server is None:
            return False
        server.process.send_signal(signal.SIGINT)
        if postmaster.wait(lambda: postmaster.find(cluster) is None, SECONDS):
            return True
    raise ConfigurationError(f"embedded Postgres does not stop\n{postmaster.log_tail(cluster)}")


def _create(home: Path, lock: int) -> None:
    """Create the cluster under another name and rename it, so that it is always complete."""
    new = home / "postgres.new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700)
    try:
        access = access_file.new()
        write_atomically(new / "password", access.password, mode=0o600)
        for path in (new, new / "password"):
            host.hand_over(path)
        _initialise(new / "data", new / "password", lock)
        access_file.save(home, access)
        (new / "data").rename(home / "postgres")
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _initialise(data: Path, password: Path, lock: int) -> None:
    host.run("initdb", *INITDB, f"--pwfile={password}", f"--pgdata={data}", lock=lock)
    for database, statements in {
        "postgres": f"create database {DATABASE}\ncreate database {DAGSTER_DATABASE}\n",
        DATABASE: "create extension vector\n",
    }.items():
        options = ("--single", "-D", str(data), "-c", "exit_on_error=on", database)
        host.run("postgres", *options, lock=lock, stdin=statements)


def _launch(home: Path) -> None:
    cluster = home / "postgres"
    access = access_file.load(home).at_free_port()
    access_file.save(home, access)
    options = OPTIONS | {"port": str(access.port), "dynamic_shared_memory_type": _memory()}
    words = " ".join(f"-c {name}={value}" for name, value in options.items())
    where = ("-D", str(cluster), "-l", str(cluster / "server.log"))
    try:
        host.run("pg_ctl", "start", "-w", "-t", str(SECONDS), *where, "-o", words)
    except ConfigurationError as error:
        if access_file.is_free(access.port) or postmaster.find(cluster):
            raise ConfigurationError(f"{error}\n{postmaster.log_tail(cluster)}") from error
        # another process took the port in the meantime
        _launch(home)


def _memory() -> str:
    """The type of shared memory: containers often have 64 MiB of /dev/shm, too little for a
    parallel HNSW build."""
    shared = Path("/dev/shm")  # noqa: S108
    small = shared.exists() and shutil.disk_usage(shared).total < 1 << 30
    return "mmap" if small else "posix"
