"""Looks into an embedded server, writes to it, kills it, and starts one elsewhere."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path

import psutil
import psycopg

from embeddings_pipeline.database import Database
from embeddings_pipeline.store.embedded import postmaster as postmasters

START = """
import sys
from pathlib import Path
from embeddings_pipeline.store.embedded import server as embedded
print(embedded.start(Path(sys.argv[1])).url)
"""


def connect(database: Database) -> psycopg.Connection:
    return psycopg.connect(database.url, autocommit=True)


def one(database: Database, query: str) -> object:
    with closing(connect(database)) as connection:
        row = connection.execute(query).fetchone()
    assert row is not None
    return row[0]


def write(database: Database) -> None:
    with closing(connect(database)) as connection:
        connection.execute("drop table if exists kept")
        connection.execute("create table kept as select 42 as answer")


def postmaster(data_dir: Path) -> psutil.Process:
    server = postmasters.find(data_dir / "postgres")
    assert server is not None
    return server.process


def kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        # some end with their postmaster
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=10)


def start_elsewhere(data_dir: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", START, str(data_dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
