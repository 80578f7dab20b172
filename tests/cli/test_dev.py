"""`dev`, started as a script starts it in the background."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.environment import only_settings
from tests.support.foreign import BIN
from tests.support.service_process import free_port
from tests.support.waiting import until

pytestmark = pytest.mark.long


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project without a dbt project: others build its models, of which there are none."""
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps({"nodes": {}}))
    only_settings(monkeypatch, DBT_MANIFEST=str(manifest), EMBEDDED_DATA_DIR=str(tmp_path / "data"))
    return tmp_path


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def dev(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        # a shell without job control has what it starts with `&` ignore SIGINT
        ["sh", "-c", f"trap '' INT; exec {BIN}/embeddings-pipeline dev --port {port}"],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    yield process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_sigterm_stops_it_with_all_its_processes(dev: subprocess.Popen[bytes], port: int) -> None:
    until(lambda: answers(port), seconds=240)
    started = psutil.Process(dev.pid).children(recursive=True)
    assert started
    dev.terminate()
    dev.wait(timeout=60)
    _, left = psutil.wait_procs(started, timeout=60)
    assert left == []
