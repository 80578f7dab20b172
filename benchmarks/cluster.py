"""A backfill on two Celery workers beside one: by an endpoint that takes 50 ms a request, and by
the real local model with one thread a worker.

Everything is a process of its own on this machine: Redis, the embedded Postgres with Dagster's runs
and the vectors, Dagster's daemon, the workers and the endpoint. Each worker encodes one half of the
rows. Its seconds are those in which it stored vectors, from the first to the last, so that starting
Dagster, importing and loading are left out.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import psycopg

from benchmarks.scratch import report
from embeddings_pipeline.settings import DEFAULT_MODEL
from embeddings_pipeline.store.embedded import server as embedded
from tests.support.cluster import Cluster, celery, cluster
from tests.support.declared import manifest_of
from tests.support.provider import serving
from tests.support.redis_server import RedisServer
from tests.support.waiting import until

_WORKERS = ("one", "two")
_REQUEST_SECONDS = 0.05
_DIMENSION = 384
# so few that the endpoint is what a worker waits for
_TEXTS_A_REQUEST, _REQUESTS = 8, 4
_TARGET = 1.8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=16_000)
    options = parser.parse_args()
    # Dagster warns of its own parts that are in beta
    warnings.simplefilter("ignore")
    with endpoint() as url:
        remote = {
            "OPENAI_BASE_URL": url,
            "EMBEDDING_BATCH_SIZE": str(_TEXTS_A_REQUEST),
            "EMBEDDING_REQUESTS_IN_FLIGHT": str(_REQUESTS),
        }
        compare("an endpoint", options.rows, "openai:bench", remote, target=_TARGET)
    compare("the local model", options.rows, DEFAULT_MODEL, {}, target=None)


def compare(
    what: str, rows: int, model: str, environment: dict[str, str], target: float | None
) -> None:
    """Print the throughput of one worker and of two."""
    one, two = (backfill(rows, model, environment, _WORKERS[:count]) for count in (1, 2))
    report(
        bench="cluster",
        encoder=what,
        rows=rows,
        one_worker_seconds=one,
        two_workers_seconds=two,
        ratio=one / two,
        **({"target": target} if target else {}),
    )


def backfill(rows: int, model: str, environment: dict[str, str], workers: tuple[str, ...]) -> float:
    """Encode all rows on these workers. Returns the seconds in which vectors were stored."""
    folder = Path(tempfile.mkdtemp(prefix="ep-bench-"))
    # the system user of an embedded server that root starts reaches its data through it
    folder.chmod(0o755)
    redis = RedisServer(folder)
    redis.start()
    try:
        vectors = embedded.start(folder / "data")
        runs = replace(vectors, name="runs")
        with closing(psycopg.connect(vectors.url, autocommit=True)) as connection:
            connection.execute("create database runs")
        with cluster(
            folder,
            vectors=vectors,
            runs=runs,
            launcher=celery(folder, redis, *workers),
            # a partition for each worker
            manifest=manifest_of("doc", id="id", model=model, partitions={"count": len(_WORKERS)}),
            rows=rows,
            environment=environment | {"HF_HUB_OFFLINE": "1"},
        ) as started:
            until(lambda: finished(started), seconds=600)
            return storing_seconds(started)
    finally:
        redis.close()
        embedded.stop(folder / "data")
        shutil.rmtree(folder)


def finished(started: Cluster) -> bool:
    """Whether the run of each partition has succeeded."""
    runs = started.runs()
    if failed := [run.run_id for run in runs if run.is_failure]:
        raise SystemExit(f"runs failed: {failed}")
    return sum(run.is_success for run in runs) == len(_WORKERS)


def storing_seconds(started: Cluster) -> float:
    """The time in which at least one run was storing vectors, from its first to its last."""
    seconds, until_then = 0.0, 0.0
    for first, last in started.sql(
        "select extract(epoch from min(encoded_at))::float8,"
        " extract(epoch from max(encoded_at))::float8"
        " from analytics_features.embedding_cache_1 group by run_id order by 1"
    ):
        seconds += max(last - max(first, until_then), 0)
        until_then = max(last, until_then)
    return seconds


@contextmanager
def endpoint() -> Iterator[str]:
    """The URL of an OpenAI-compatible endpoint in a process of its own."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs,))
    process.start()
    try:
        yield ours.recv()
    finally:
        process.terminate()
        process.join()


def serve(parent: Connection) -> None:
    """Answer each request after 50 ms, until this process ends."""
    with serving(dimension=_DIMENSION) as provider:
        provider.chance = lambda texts: time.sleep(_REQUEST_SECONDS)
        parent.send(provider.url)
        parent.recv()


if __name__ == "__main__":
    main()
