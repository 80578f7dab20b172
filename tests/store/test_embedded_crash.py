"""A server or its starter is killed, or leaves files behind: the next start is sound."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest

from embeddings_pipeline.database import Database
from embeddings_pipeline.store.embedded import postmaster as postmasters
from embeddings_pipeline.store.embedded import server as embedded
from tests.support.embedded_server import connect, kill, one, postmaster, start_elsewhere, write


@contextmanager
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "1000"])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_data_survives_kill_9_of_the_postmaster_with_a_query_running(made_dir: Path) -> None:
    first = embedded.start(made_dir)
    write(first)
    with closing(connect(first)) as busy, ThreadPoolExecutor(1) as threads:
        query = threads.submit(busy.execute, "select pg_sleep(1000)")
        assert postmasters.wait(
            lambda: (
                one(first, "select count(*) from pg_stat_activity where wait_event = 'PgSleep'")
                == 1
            ),
            10,
        )
        kill([postmaster(made_dir)])
        second = embedded.start(made_dir)
        assert one(second, "select answer from kept") == 42
        assert second == first
        with pytest.raises(psycopg.OperationalError):
            query.result()


def test_backends_that_ignore_the_death_of_their_postmaster_are_ended(
    made_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postmasters, "SECONDS_FOR_ORPHANS", 0.3)
    first = embedded.start(made_dir)
    write(first)
    with closing(connect(first)) as connection:
        backend = psutil.Process(connection.info.backend_pid)
        backend.suspend()
        kill([postmaster(made_dir)])
        second = embedded.start(made_dir)
        assert not backend.is_running() or backend.status() == psutil.STATUS_ZOMBIE
    assert one(second, "select answer from kept") == 42


def test_data_survives_kill_9_of_every_process(made_dir: Path) -> None:
    first = embedded.start(made_dir)
    write(first)
    server = postmaster(made_dir)
    kill([server, *server.children(recursive=True)])
    assert embedded.running(made_dir) is None
    assert one(embedded.start(made_dir), "select answer from kept") == 42


@pytest.mark.parametrize("status", ["ready", "starting"])
def test_stale_file_that_names_another_process_is_no_server(made_dir: Path, status: str) -> None:
    first = embedded.start(made_dir)
    write(first)
    server = postmaster(made_dir)
    pid_file = made_dir / "postgres" / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    kill([server, *server.children(recursive=True)])
    with sleeper() as other:
        pid_file.write_text("\n".join([str(other.pid), *lines[1:7], status]) + "\n")
        assert embedded.running(made_dir) is None
        assert embedded.stop(made_dir) is False
        assert one(embedded.start(made_dir), "select answer from kept") == 42
        assert other.poll() is None


def test_server_of_another_folder_is_not_taken_for_its_own(
    made_dir: Path, embedded_server: Database
) -> None:
    pid = one(embedded_server, "select pg_backend_pid()")
    other = psutil.Process(
        int(str(one(embedded_server, "select pg_read_file('postmaster.pid', 0, 9)")).split()[0])
    )
    assert pid != other.pid
    (made_dir / "postgres" / "postmaster.pid").write_text(
        f"{other.pid}\n\n0\n{embedded_server.port}\n"
    )
    assert embedded.running(made_dir) is None
    assert one(embedded.start(made_dir), "select 1") == 1
    assert one(embedded_server, "select 1") == 1


@pytest.mark.parametrize("content", ["", "garbage", "12345", "-7\n\n\n\n\n"])
def test_a_damaged_postmaster_file_is_no_server(made_dir: Path, content: str) -> None:
    (made_dir / "postgres" / "postmaster.pid").write_text(content)
    assert embedded.running(made_dir) is None
    assert one(embedded.start(made_dir), "select 1") == 1


@pytest.mark.parametrize("victims", ["starter alone", "starter and initdb"])
def test_first_start_killed_half_way_leaves_nothing_broken(data_dir: Path, victims: str) -> None:
    starter = start_elsewhere(data_dir)
    with starter:
        half_made = data_dir / "postgres.new" / "data" / "base"
        assert postmasters.wait(half_made.exists, 60)
        if victims == "starter alone":
            starter.kill()
        else:
            os.killpg(starter.pid, signal.SIGKILL)
    assert not (data_dir / "postgres").exists()
    database = embedded.start(data_dir)
    assert one(database, "select '[1]'::vector(1)") == "[1]"
    assert not (data_dir / "postgres.new").exists()


def test_start_waits_for_a_server_whose_starter_was_killed(made_dir: Path) -> None:
    pid_file = made_dir / "postgres" / "postmaster.pid"
    with start_elsewhere(made_dir) as starter:
        assert postmasters.wait(pid_file.exists, 60)
        os.killpg(starter.pid, signal.SIGKILL)
    assert one(embedded.start(made_dir), "select 1") == 1
