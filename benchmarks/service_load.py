"""The searches of one client, alone and beside a client that sends batches as fast as it can.

The service is a process of its own, with the real model, over a few thousand rows. The aggressive
client is another process: 40 connections, each of which sends a batch of 256 long texts, and the
next one as soon as it is answered or refused. The normal client sends one search at a time, each
with words that were not searched before, and now and then asks for `/stats` and `/health/ready`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection

import httpx
import numpy as np

from benchmarks.scratch import report, world
from benchmarks.service import serving
from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.settings import DEFAULT_MODEL, Settings

_ROWS = 2_000
_CONNECTIONS, _TEXTS = 40, 256
_WORDS = ["garden", "hose", "lamp", "boots", "leather", "rain", "steel", "chair", "oak", "pine"]
# an answer that takes longer is an error
_PATIENCE_SECONDS = 30
_TARGET_TIMES, _TARGET_MS = 3, 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--port", type=int, default=8766)
    options = parser.parse_args()
    with world() as scratch:
        scratch.encoders = Encoders(Settings())
        scratch.table("id bigint, name text")
        scratch.insert(*((n, text_of(n, 12)) for n in range(_ROWS)))
        scratch.run(scratch.declare(model=DEFAULT_MODEL))
        with serving(scratch.database, options.port):
            normal_client(options.port, "before", 50)
            alone, alone_errors = normal_client(options.port, "alone", options.requests)
            with aggressive_client(options.port) as answers:
                beside, errors = normal_client(options.port, "beside", options.requests)
            after, after_errors = normal_client(options.port, "after", 50)
    report(
        bench="service_load",
        requests=options.requests,
        alone_p50_ms=percentile(alone, 50),
        alone_p99_ms=percentile(alone, 99),
        beside_p50_ms=percentile(beside, 50),
        beside_p99_ms=percentile(beside, 99),
        beside_p99_target_ms=max(_TARGET_TIMES * percentile(alone, 99), _TARGET_MS),
        after_p50_ms=percentile(after, 50),
        errors=alone_errors + errors + after_errors,
        errors_target=0,
        batches_by_status=answers,
    )


def text_of(number: int, words: int) -> str:
    """A text of so many words, another for each number."""
    return f"{number} " + " ".join(_WORDS[(number + n * n) % len(_WORDS)] for n in range(words))


def percentile(seconds: list[float], share: float) -> float:
    """A percentile in milliseconds; 0 without any."""
    return 1000 * float(np.percentile(seconds, share)) if seconds else 0.0


def normal_client(port: int, name: str, requests: int) -> tuple[list[float], int]:
    """The seconds of each search, and the number of errors. Ends after a tenth of errors."""
    seconds, errors = list[float](), 0
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=_PATIENCE_SECONDS) as client:
        for number in range(requests):
            search = {"entity": "item", "query": f"{name} {text_of(number, 4)}"}
            started = time.perf_counter()
            errors += not answered(client, "POST", "/search", search)
            seconds.append(time.perf_counter() - started)
            if number % 25 == 0:
                errors += not answered(client, "GET", "/stats")
                errors += not answered(client, "GET", "/health/ready")
            if errors > max(2, requests // 10):
                break
    return seconds, errors


def answered(client: httpx.Client, method: str, path: str, body: object = None) -> bool:
    """Whether the service gave the answer in time."""
    try:
        return client.request(method, path, json=body).status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def aggressive_client(port: int) -> Iterator[Counter[int]]:
    """A client that sends batches during the block. Yields the number of answers by status, which
    is complete after the block."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=send_batches, args=(port, theirs))
    process.start()
    answers = Counter[int]()
    try:
        ours.recv()
        yield answers
        ours.send("stop")
        answers.update(ours.recv())
    finally:
        process.terminate()
        process.join()


def send_batches(port: int, parent: Connection) -> None:
    """Send batches until the parent says stop; then send it the number of answers by status."""
    asyncio.run(_send_batches(port, parent))


async def _send_batches(port: int, parent: Connection) -> None:
    texts = [text_of(n, 300) for n in range(_TEXTS)]
    # without the cache, so that each batch is work
    body = json.dumps({"texts": texts, "use_cache": False}).encode()
    request = (
        b"POST /embed/batch HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    answers = Counter[int]()

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
        while True:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            answers[int(head.split(b" ", 2)[1])] += 1
            length = head.lower().split(b"content-length:")[1].split(b"\r\n")[0]
            await reader.readexactly(int(length))

    clients = [asyncio.create_task(client()) for _ in range(_CONNECTIONS)]
    await asyncio.sleep(2)
    parent.send("at work")
    while not parent.poll():
        await asyncio.sleep(0.1)
    for task in clients:
        task.cancel()
    parent.send(answers)


if __name__ == "__main__":
    main()
