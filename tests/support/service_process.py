"""`embeddings-pipeline serve` as a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from embeddings_pipeline.database import Database
from tests.support.waiting import until


def environment(database: Database, **more: str) -> dict[str, str]:
    return {
        **os.environ,
        "STAGING_DB_URL": database.url,
        "PGVECTOR_URL": database.url,
        "EMBEDDING_MODEL": "fake/words",
        **more,
    }


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def command(*arguments: str) -> list[str]:
    start = "from embeddings_pipeline.cli.main import main; main()"
    return [sys.executable, "-c", start, *arguments]


@contextmanager
def serving(
    database: Database, folder: Path, *options: str, files: int | None = None, debug: bool = False
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that serves, and its address. It may open at most `files` files."""
    all_commands = ["--debug"] if debug else []
    limit = ["sh", "-c", f'ulimit -n {files} && exec "$@"', "sh"] if files else []
    port = free_port()
    process = subprocess.Popen(
        [*limit, *command(*all_commands, "serve", "--port", str(port), *options)],
        env=environment(database),
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: answers(url) or process.poll() is not None)
        yield process, url
    finally:
        process.kill()
        process.communicate()


def answers(url: str) -> bool:
    with suppress(httpx.TransportError):
        return httpx.get(f"{url}/health/live").status_code == 200
    return False
