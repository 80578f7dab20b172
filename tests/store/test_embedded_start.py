"""Start and stop: one server a folder, which outlives its starter and keeps its data."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psutil
import psycopg
import pytest

from embeddings_pipeline.store.embedded import access
from embeddings_pipeline.store.embedded import server as embedded
from tests.support.embedded_server import START, connect, one, postmaster, start_elsewhere, write


def test_start_of_a_running_server_starts_nothing(made_dir: Path) -> None:
    first = embedded.start(made_dir)
    pid = postmaster(made_dir).pid
    assert embedded.start(made_dir) == first == embedded.running(made_dir)
    assert postmaster(made_dir).pid == pid


def test_nothing_runs_before_the_first_start(data_dir: Path) -> None:
    assert embedded.running(data_dir / "new") is None
    assert embedded.stop(data_dir / "new") is False
    assert not (data_dir / "new").exists()


def test_server_outlives_its_starter(made_dir: Path) -> None:
    starter = start_elsewhere(made_dir)
    url, errors = starter.communicate(timeout=60)
    assert (starter.returncode, errors) == (0, "")
    database = embedded.running(made_dir)
    assert database is not None
    assert database.url == url.strip()
    assert one(database, "select 1") == 1


def test_server_outlives_signals_to_its_starters_group(made_dir: Path) -> None:
    script = START + "sys.stdout.flush(); import time; time.sleep(1000)"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(made_dir)],
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as starter:
        assert starter.stdout is not None
        starter.stdout.readline()
        os.killpg(starter.pid, signal.SIGTERM)
    database = embedded.running(made_dir)
    assert database is not None
    assert one(database, "select 1") == 1


def test_four_concurrent_first_starts_give_one_server(data_dir: Path) -> None:
    starters = [start_elsewhere(data_dir) for _ in range(4)]
    results = [starter.communicate(timeout=120) for starter in starters]
    assert [starter.returncode for starter in starters] == [0] * 4, results
    assert len({url for url, _ in results}) == 1
    servers = [
        process
        for process in psutil.process_iter(["name", "cmdline"])
        if process.info["name"] == "postgres"
        and str(data_dir / "postgres") in (process.info["cmdline"] or [])
    ]
    assert [process.pid for process in servers] == [postmaster(data_dir).pid]


def test_threads_that_start_at_once_share_one_server(data_dir: Path) -> None:
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(embedded.start, [data_dir] * 4))
    assert len({database.url for database in found}) == 1


def test_stop_then_start_keeps_data_port_and_password(made_dir: Path) -> None:
    first = embedded.start(made_dir)
    write(first)
    assert embedded.stop(made_dir) is True
    assert embedded.running(made_dir) is None
    assert embedded.stop(made_dir) is False
    second = embedded.start(made_dir)
    assert second == first
    assert one(second, "select answer from kept") == 42


def test_stop_ends_open_connections(made_dir: Path) -> None:
    with closing(connect(embedded.start(made_dir))) as connection:
        assert embedded.stop(made_dir) is True
        with pytest.raises(psycopg.OperationalError):
            connection.execute("select 1")


def test_another_port_is_taken_when_its_own_is_not_free(made_dir: Path) -> None:
    first = embedded.start(made_dir)
    embedded.stop(made_dir)
    with socket.create_server((first.host, first.port)):
        second = embedded.start(made_dir)
    assert second.port != first.port
    assert second == replace(first, port=second.port)
    assert one(second, "select 1") == 1


def test_port_taken_at_the_last_moment_is_changed(
    made_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = embedded.start(made_dir)
    embedded.stop(made_dir)
    is_free, answers = access.is_free, [True]
    monkeypatch.setattr(access, "is_free", lambda port: answers.pop() if answers else is_free(port))
    with socket.create_server((first.host, first.port)):
        assert embedded.start(made_dir).port != first.port


def test_callers_secrets_and_settings_are_not_the_servers(
    made_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"OPENAI_API_KEY": "secret", "PGPORT": "1", "TZ": "Asia/Tokyo"}.items():
        monkeypatch.setenv(name, value)
    database = embedded.start(made_dir)
    assert one(database, "show timezone") == "UTC"
    environment = postmaster(made_dir).environ()
    assert "OPENAI_API_KEY" not in environment
