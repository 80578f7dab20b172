"""Connections that send nothing, or half a request, and many of them."""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from select import select

import httpx
import pytest

from embeddings_pipeline.service import server
from tests.support.published_shop import publish_shop
from tests.support.service_process import serving
from tests.support.waiting import until
from tests.support.world import World

HALF = b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "
WHOLE = b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
SEARCH = {"entity": "item", "query": "red boots", "mode": "text"}


@contextmanager
def connected(client: httpx.Client) -> Iterator[socket.socket]:
    port = client.base_url.port
    assert port is not None
    with socket.create_connection((client.base_url.host, port), timeout=30) as line:
        yield line


def is_closed(line: socket.socket) -> bool:
    """Whether the other side has closed the connection."""
    if not select([line], [], [], 0.05)[0]:
        return False
    try:
        return line.recv(4096) == b""
    except ConnectionError:
        return True


@pytest.fixture
def short_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.5)


@pytest.mark.usefixtures("short_deadline")
@pytest.mark.parametrize("begun", [b"", HALF, b"GET "])
def test_a_connection_that_waits_in_its_head_is_closed(client: httpx.Client, begun: bytes) -> None:
    with connected(client) as line:
        line.sendall(begun)
        until(lambda: is_closed(line), 30)


@pytest.mark.usefixtures("short_deadline")
def test_a_head_that_comes_drop_by_drop_is_given_up(client: httpx.Client) -> None:
    with connected(client) as line:
        line.sendall(HALF)

        def closed_after_a_drop() -> bool:
            try:
                line.sendall(b"x")
            except ConnectionError:
                return True
            return is_closed(line)

        until(closed_after_a_drop, 30)


@pytest.mark.parametrize(
    "begun",
    [
        HALF,
        WHOLE + HALF,
        b"GET /health/live?q=",
        b"POST /embed/text HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\nX-After: ",
    ],
)
def test_a_head_without_an_end_is_refused(client: httpx.Client, begun: bytes) -> None:
    with connected(client) as line:
        line.sendall(begun)
        sent = 0
        with suppress(ConnectionError):
            while sent < 50_000_000:
                sent += line.send(b"x" * 65_536)
        # the rest is what the system keeps for a connection
        assert sent < 20_000_000


@pytest.mark.usefixtures("short_deadline")
def test_the_head_of_a_later_request_has_the_same_deadline(client: httpx.Client) -> None:
    with connected(client) as line:
        line.sendall(WHOLE)
        assert line.recv(4096).startswith(b"HTTP/1.1 200")
        line.sendall(HALF)
        until(lambda: is_closed(line), 20)


@pytest.mark.usefixtures("short_deadline")
def test_a_request_may_take_longer_than_its_head(client: httpx.Client) -> None:
    content = b'{"text": "red boots"}'
    with connected(client) as line:
        line.sendall(
            b"POST /embed/text HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % len(content)
        )
        # longer than the deadline of a head
        assert not select([line], [], [], 1)[0]
        line.sendall(content)
        assert line.recv(4096).startswith(b"HTTP/1.1 200")


def test_an_answer_that_the_client_does_not_take_is_given_up(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "ANSWER_SECONDS", 0.5)
    size = len(client.get("/openapi.json").content)
    with connected(client) as line:
        # together larger than what the system keeps for a connection
        request = b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        line.sendall(request * (32_000_000 // size))
        until(lambda: is_reset(line), 30)


def is_reset(line: socket.socket) -> bool:
    """Whether the other side takes nothing more, with answers left to read."""
    try:
        line.send(b" ")
    except ConnectionError:
        return True
    return False


def test_past_the_most_connections_those_without_a_request_make_room(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "max_connections", lambda: 20)
    # none is closed for its age
    monkeypatch.setattr(server, "HEAD_SECONDS", 600)
    with ExitStack() as stack:
        lines = [stack.enter_context(connected(client)) for _ in range(30)]
        for line in lines:
            # its end, too, may be closed
            with suppress(ConnectionError):
                line.sendall(HALF)
        # one address has half of them; the oldest are gone, the newest are not all
        until(lambda: sum(map(is_closed, lines)) >= 20)
        assert not all(map(is_closed, lines[20:]))
        assert client.post("/search", json=SEARCH).status_code == 200


def test_a_connection_at_work_is_not_replaced(
    client: httpx.Client, shop: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "max_connections", lambda: 4)
    with connected(client) as working, ExitStack() as stack:
        # the service waits for the body
        working.sendall(
            b"POST /embed/text HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Content-Length: 15\r\n\r\n"
        )
        others = [stack.enter_context(connected(client)) for _ in range(6)]
        until(lambda: sum(map(is_closed, others)) >= 5)
        working.sendall(b'{"text": "red"}')
        assert working.recv(4096).startswith(b"HTTP/1.1 200")


def test_more_connections_than_files_leave_the_service_at_work(
    world: World, tmp_path: Path
) -> None:
    publish_shop(world)
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 2_000:
        pytest.skip("this process may not open as many files")
    with serving(world.database, tmp_path, files=1_024) as (process, url), ExitStack() as stack:
        address = (httpx.URL(url).host, httpx.URL(url).port or 0)
        for _ in range(1_100):
            line = stack.enter_context(socket.create_connection(address, timeout=30))
            with suppress(ConnectionError):
                line.sendall(HALF)
        for _ in range(5):
            search = httpx.post(f"{url}/search", json=SEARCH, timeout=30)
            assert search.status_code == 200
            assert httpx.get(f"{url}/stats", timeout=30).status_code == 200
        process.terminate()
        assert process.wait(60) == 0
        assert process.stderr
        assert "Too many open files" not in process.stderr.read()
