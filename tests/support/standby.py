"""A streaming replica of an embedded server, for tests."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import psycopg

from embeddings_pipeline.database import Database
from embeddings_pipeline.store.embedded import host
from tests.support.waiting import until


@contextmanager
def standby(primary: Database, folder: Path) -> Iterator[Database]:
    """The database as a replica shows it, whose files are below the folder."""
    folder.mkdir(mode=0o755)
    host.hand_over(folder)
    data = folder / "postgres"
    port = free_port()
    host.run(
        *("pg_basebackup", "--pgdata", str(data), "--write-recovery-conf", "--checkpoint=fast"),
        *("--dbname", replace(primary, name="postgres").url),
    )
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
    where = ("-D", str(data), "-l", str(folder / "log"))
    host.run("pg_ctl", "start", "-w", *where, "-o", options)
    try:
        yield replace(primary, host="127.0.0.1", port=port)
    finally:
        stop(folder)


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def stop(folder: Path) -> None:
    """End the replica in this folder, if it has not ended."""
    data = folder / "postgres"
    if (data / "postmaster.pid").exists():
        host.run("pg_ctl", "stop", "-m", "immediate", "-D", str(data), "-l", str(folder / "log"))


def caught_up(primary: Database, replica: Database) -> None:
    """Wait until the replica shows what the primary has committed."""
    with closing(psycopg.connect(primary.url)) as connection:
        row = connection.execute("select pg_current_wal_lsn()::text").fetchone()
    assert row

    def replayed() -> bool:
        with (
            suppress(psycopg.OperationalError),
            closing(psycopg.connect(replica.url)) as connection,
        ):
            found = connection.execute("select pg_last_wal_replay_lsn() >= %s::pg_lsn", row)
            return bool(found.fetchone() == (True,))
        return False

    until(replayed)
