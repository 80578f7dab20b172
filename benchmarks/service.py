"""The search service under many clients at once, beside the model alone: a loop that encodes one
query at a time, and batches of as many queries as there are clients.

The service is a process of its own, with the real model, over a few thousand rows. The clients are
connections of this process that are kept alive; each sends its next request when it has an answer.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from urllib.request import urlopen

import httpx

from benchmarks.scratch import arguments, packages, report, timed, world
from embeddings_pipeline.database import Database
from embeddings_pipeline.encoders.local.download import find_or_download
from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.settings import DEFAULT_MODEL, Settings

_CLIENTS = 32
_ROWS = 2_000


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--requests", type=int, default=1_500)
    parser.add_argument("--port", type=int, default=8765)
    options = parser.parse_args()
    rows = [(r["package"], r["description_short"]) for r in packages(options.data)[:_ROWS]]
    numbers = count()
    with world() as scratch:
        scratch.encoders = Encoders(Settings())
        scratch.table("id text, name text")
        scratch.insert(*rows)
        scratch.run(scratch.declare(model=DEFAULT_MODEL))
        ours = scratch.encoders.get(DEFAULT_MODEL)

        def fresh() -> str:
            return f"{rows[next(numbers) % _ROWS][1]} number {next(numbers)}"

        loops = {
            "ours": rate(lambda: ours.encode_query([fresh()]), options.requests // 5),
            "default": rate(default_encode(fresh), options.requests // 5),
        }
        with serving(scratch.database, options.port):
            asyncio.run(load(options.port, [fresh() for _ in range(200)]))
            queries = [fresh() for _ in range(options.requests)]
            seconds, latencies = asyncio.run(load(options.port, queries))
            # the service is idle
            batches = [queries[n : n + _CLIENTS] for n in range(0, len(queries), _CLIENTS)]
            in_batches, _ = timed(lambda: [ours.encode_query(batch) for batch in batches])
            alone = asyncio.run(load(options.port, [fresh() for _ in range(100)], clients=1))[1]
            again = asyncio.run(load(options.port, ["the same words"] * 100, clients=1))[1]
            medians = medians_in_turn(options.port, fresh)
    served = len(queries) / seconds
    report(
        bench="service",
        clients=_CLIENTS,
        requests=len(queries),
        requests_per_second=served,
        times_a_loop_of_ours=served / loops["ours"],
        times_a_loop_of_the_default=served / loops["default"],
        target=5,
        batches_per_second=len(queries) / in_batches,
        share_of_batches=in_batches / seconds,
        share_target=0.8,
        median_ms=1000 * statistics.median(latencies),
        alone_ms=1000 * statistics.median(alone),
        cached_ms=1000 * statistics.median(again),
        cached_share=statistics.median(again) / statistics.median(alone),
        cached_target=0.1,
        **{f"{path[1:].replace('/', '_')}_ms": 1000 * s for path, s in medians.items()},
        v1_times_embed=medians["/v1/embeddings"] / medians["/embed/text"],
        mcp_times_search=medians["/mcp"] / medians["/search"],
        v1_and_mcp_target=1.2,
    )


def rate(work: Callable[[], object], times: int) -> float:
    """How often a second it is done."""
    work()
    seconds, _ = timed(lambda: [work() for _ in range(times)])
    return times / seconds


def default_encode(fresh: Callable[[], str]) -> Callable[[], object]:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(find_or_download(DEFAULT_MODEL, Settings())), device="cpu")
    return lambda: model.encode(fresh())


@contextmanager
def serving(database: Database, port: int) -> Iterator[None]:
    """The service as a process, once it is ready."""
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name("embeddings-pipeline")), "serve", "--port", str(port)],
        env={**os.environ, "STAGING_DB_URL": database.url, "PGVECTOR_URL": database.url},
        stderr=subprocess.DEVNULL,
    )
    try:
        ask_until_ready(f"http://127.0.0.1:{port}/health/ready")
        yield
    finally:
        process.terminate()
        process.wait(30)


def ask_until_ready(url: str) -> None:
    for _ in range(300):
        try:
            with urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"{url} does not answer")


def medians_in_turn(port: int, fresh: Callable[[], str], rounds: int = 200) -> dict[str, float]:
    """The median seconds of each kind of call, asked in turn over one connection."""

    def search() -> dict[str, object]:
        return {"entity": "item", "query": fresh()}

    def mcp() -> dict[str, object]:
        called = {"name": "search", "arguments": search()}
        return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": called}

    calls: dict[str, Callable[[], dict[str, object]]] = {
        "/embed/text": lambda: {"text": fresh()},
        "/v1/embeddings": lambda: {"model": DEFAULT_MODEL, "input": fresh()},
        "/search": search,
        "/mcp": mcp,
    }
    latencies: dict[str, list[float]] = {path: [] for path in calls}
    with httpx.Client(
        base_url=f"http://127.0.0.1:{port}", headers={"Accept": "application/json"}
    ) as client:
        for _ in range(rounds):
            for path, body_of in calls.items():
                started = time.perf_counter()
                client.post(path, json=body_of()).raise_for_status()
                latencies[path].append(time.perf_counter() - started)
    return {path: statistics.median(seconds) for path, seconds in latencies.items()}


async def load(
    port: int, queries: Sequence[str], clients: int = _CLIENTS
) -> tuple[float, list[float]]:
    """Seconds for all queries, and those of each; any answer but 200 ends the program."""
    waiting, latencies = iter(queries), list[float]()

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for query in waiting:
            body = json.dumps({"entity": "item", "query": query, "mode": "dense"}).encode()
            started = time.perf_counter()
            writer.write(
                b"POST /search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
            )
            head = await reader.readuntil(b"\r\n\r\n")
            if b" 200 " not in head.split(b"\r\n", 1)[0]:
                raise SystemExit(f"the service answered {head!r}")
            length = head.lower().split(b"content-length:")[1].split(b"\r\n")[0]
            await reader.readexactly(int(length))
            latencies.append(time.perf_counter() - started)
        writer.close()

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return time.perf_counter() - started, latencies


if __name__ == "__main__":
    main()
