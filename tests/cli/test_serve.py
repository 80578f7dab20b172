"""`embeddings-pipeline serve` as a process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psycopg
import pytest

from embeddings_pipeline.database import Database
from tests.support.published_shop import publish_shop
from tests.support.service_process import answers, command, environment, serving
from tests.support.waiting import until
from tests.support.world import World

pytestmark = pytest.mark.long


def refused(database: Database, tmp_path: Path, *options: str, **variables: str) -> str:
    """What `serve` says on standard error, where it ends with exit code 2."""
    done = subprocess.run(
        command("serve", *options),
        env=environment(database, **variables),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    return done.stderr


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_it_refuses_to_be_reached_by_others_without_keys(
    database: Database, tmp_path: Path, host: str
) -> None:
    assert "set SEARCH_API_KEYS" in refused(database, tmp_path, "--host", host)


def test_keys_that_cannot_be_read_are_an_error_without_them_in_it(
    database: Database, tmp_path: Path
) -> None:
    said = refused(database, tmp_path, SEARCH_API_KEYS="hunter2")
    assert "SEARCH_API_KEYS: entry 1" in said
    assert "hunter2" not in said


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_address_that_is_taken_is_an_error_that_says_what_to_do(
    database: Database, tmp_path: Path, workers: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        said = refused(database, tmp_path, "--port", port, "--workers", workers)
    assert said == (
        f"error: cannot listen on http://127.0.0.1:{port} (Address already in use): choose another"
        " address with --host and --port, or SEARCH_HOST and SEARCH_PORT\n"
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_it_answers_what_it_was_asked_before(
    world: World, tmp_path: Path, number: signal.Signals
) -> None:
    publish_shop(world)
    with (
        serving(world.database, tmp_path) as (process, url),
        psycopg.connect(world.database.url) as connection,
        ThreadPoolExecutor(1) as threads,
    ):
        # whoever searches waits for this
        connection.execute("lock table analytics_features.item_texts")
        search = {"entity": "item", "query": "boots", "mode": "text"}
        waiting = threads.submit(httpx.post, f"{url}/search", json=search, timeout=30)
        until(lambda: world.sql("select 1 from pg_locks where not granted"))
        process.send_signal(number)
        until(lambda: not answers(url))
        assert process.poll() is None
        connection.rollback()
        assert [hit["id"] for hit in waiting.result().json()["results"]] == ["4"]
        assert process.wait(30) == 0


def test_several_processes_count_together_and_are_replaced_when_they_die(
    world: World, tmp_path: Path
) -> None:
    publish_shop(world)
    search = {"entity": "item", "query": "boots", "mode": "text"}
    with serving(world.database, tmp_path, "--workers", "2", debug=True) as (process, url):
        until(lambda: len(workers(process)) == 2)
        for _ in range(6):
            # a connection of its own, which any of the processes may take
            assert httpx.post(f"{url}/search", json=search, timeout=60).status_code == 200
        counted = 'http_requests_total{operation="search",status="200"} 6.0'
        until(lambda: counted in httpx.get(f"{url}/metrics").text)
        first, _ = workers(process)
        os.kill(first, signal.SIGKILL)
        until(lambda: first not in workers(process) and len(workers(process)) == 2)
        assert httpx.post(f"{url}/search", json=search, timeout=60).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        # a log of the processes themselves, which --debug shows
        assert process.stderr
        assert "Started server process" in process.stderr.read()


def workers(process: subprocess.Popen[str]) -> list[int]:
    """The processes that serve; Python has one more, which looks after what they share."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [
        int(child)
        for child in children
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def test_behind_a_proxy_it_knows_its_own_path(world: World, tmp_path: Path) -> None:
    publish_shop(world)
    with serving(world.database, tmp_path, "--root-path", "/find/") as (_, url):
        document = httpx.get(f"{url}/openapi.json").json()
        assert document["servers"] == [{"url": "/find"}]
        assert httpx.get(f"{url}/").status_code == 200
        answer = httpx.get(f"{url}/search/item?q=boots&mode=text", timeout=60)
        assert [hit["id"] for hit in answer.json()["results"]] == ["4"]
