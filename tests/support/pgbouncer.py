"""A PgBouncer before a database, for tests."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from embeddings_pipeline.database import Database
from tests.support.standby import free_port
from tests.support.waiting import until

# not on the PATH of users other than root
PROGRAM = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")


@contextmanager
def pgbouncer(database: Database, pool_mode: str, options: str = "") -> Iterator[Database]:
    """The database as it is reached through a PgBouncer in this mode. `options` are lines of its
    configuration."""
    if PROGRAM is None:
        pytest.skip("pgbouncer is not installed")
    port = free_port()
    folder = Path(tempfile.mkdtemp(prefix="ep-pgbouncer-"))
    folder.chmod(0o755)
    password = database.password.get_secret_value()
    (folder / "users.txt").write_text(f'"{database.user}" "{password}"\n')
    (folder / "pgbouncer.ini").write_text(
        f"""
        [databases]
        * = host={database.host} port={database.port}
        [pgbouncer]
        listen_addr = 127.0.0.1
        listen_port = {port}
        unix_socket_dir =
        auth_type = plain
        auth_file = {folder}/users.txt
        pool_mode = {pool_mode}
        default_pool_size = 8
        {options}
        """.replace("\n        ", "\n")
    )
    # PgBouncer refuses to run as root
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    process = subprocess.Popen(
        [PROGRAM, "-q", *user, str(folder / "pgbouncer.ini")], stderr=subprocess.DEVNULL
    )
    through = replace(database, host="127.0.0.1", port=port)

    def answers() -> bool:
        with suppress(psycopg.OperationalError):
            psycopg.connect(through.url).close()
            return True
        return False

    try:
        until(answers)
        yield through
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)
        shutil.rmtree(folder)
