"""A backfill on two Celery workers over Redis, with Dagster's runs in Postgres, and one worker that
is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psycopg
import pytest

from embeddings_pipeline.pipeline import Pipeline
from tests.support.cluster import Cluster, celery, cluster
from tests.support.databases import Templates, copy_of
from tests.support.declared import manifest_of
from tests.support.redis_server import RedisServer
from tests.support.waiting import until

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.long,
    pytest.mark.timeout(900),
]

PARTITIONS, ROWS = 4, 3_200
MANIFEST = manifest_of("doc", id="id", partitions={"count": PARTITIONS})
CACHED = "from analytics_features.embedding_cache_1"
VECTORS = "analytics_features.doc_vectors_1"


@pytest.fixture
def workers(templates: Templates, redis: RedisServer, tmp_path: Path) -> Iterator[Cluster]:
    with (
        copy_of(templates.empty) as vectors,
        copy_of(templates.empty) as runs,
        cluster(
            tmp_path,
            vectors=vectors,
            runs=runs,
            launcher=celery(tmp_path, redis, "one", "two"),
            manifest=MANIFEST,
            rows=ROWS,
        ) as started,
    ):
        yield started


def test_a_backfill_goes_on_when_a_worker_is_killed_and_encodes_nothing_twice(
    workers: Cluster,
) -> None:
    def stored() -> dict[object, object]:
        try:
            return dict(workers.sql(f"select text_hash, encoded_at {CACHED}"))
        except psycopg.errors.UndefinedTable:
            return {}

    def unfinished() -> list[str]:
        """The runs that stored texts of which no vector can be searched yet."""
        return [
            run_id
            for (run_id,) in workers.sql(
                f"select distinct run_id {CACHED} where text_hash not in"
                f" (select text_hash from {VECTORS})"
            )
        ]

    until(lambda: len(stored()) > 0, seconds=240)
    # a run that is to be killed may not end before
    with psycopg.connect(workers.vectors.url) as blocking:
        blocking.execute(f"lock table {VECTORS} in share mode")
        until(unfinished)
        before = stored()
        run_id = unfinished()[0]
        os.kill(workers.process_of(run_id), signal.SIGKILL)
    until(lambda: workers.is_retried(run_id), seconds=240)
    wanted = workers.sql("select id, body from staging.stg_doc order by id")

    def partitions() -> set[str | None]:
        done = [run for run in workers.runs() if run.is_success]
        return {run.tags.get("dagster/asset_partition_range_start") for run in done}

    until(lambda: len(partitions()) == PARTITIONS, seconds=500)
    with Pipeline.open(manifest=MANIFEST) as pipeline:
        (run,) = pipeline.run("doc")
    assert run.counts["encoded"] == 0
    found = workers.sql("select id, text from analytics_features.doc_embeddings order by id")
    assert [(row_id, text.removeprefix("body: ")) for row_id, text in found] == wanted
    # Dagster noticed it and started another run
    failed = [run for run in workers.runs() if run.status is dg.DagsterRunStatus.FAILURE]
    assert [run.run_id for run in failed] == [run_id]
    after = stored()
    assert len(after) == ROWS
    assert before.items() <= after.items()
    assert min(workers.runs_of("one"), workers.runs_of("two")) > 1
