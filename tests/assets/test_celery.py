"""A backfill on two Celery workers over Redis, with Dagster's runs in Postgres, and one worker that
is killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import psycopg
import pytest

from embeddings_pipeline.database import Database
from embeddings_pipeline.pipeline import Pipeline
from embeddings_pipeline.settings import Settings
from tests.support import foreign
from tests.support.notes import scratch_database
from tests.support.redis_server import PASSWORD, RedisServer
from tests.support.waiting import until

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.long,
    pytest.mark.timeout(900),
]

PARTITIONS, ROWS = 8, 6_400
MANIFEST = {
    "nodes": {
        "model.acme.stg_doc": {
            "unique_id": "model.acme.stg_doc",
            "resource_type": "model",
            "name": "stg_doc",
            "schema": "staging",
            "config": {
                "meta": {"embedding": {"id": "id", "partitions": {"count": PARTITIONS}}},
            },
        }
    }
}
FILES = {
    "cluster.py": """
        from pathlib import Path

        import dagster as dg

        from embeddings_pipeline import build_embedding_defs

        defs = dg.Definitions.merge(
            # a worker's process may start no others, as the default executor would for each step
            dg.Definitions(executor=dg.in_process_executor),
            build_embedding_defs(
                Path(__file__).with_name("manifest.json"), partitions_per_run=1
            ),
        )
    """,
    "home/dagster.yaml": """
        storage:
          postgres:
            postgres_url: {{env: DAGSTER_POSTGRES_URL}}
        run_launcher:
          module: dagster_celery.launcher
          class: CeleryRunLauncher
          config: {{broker: "{redis}", backend: "{redis}", default_queue: dagster}}
        run_monitoring: {{enabled: true, poll_interval_seconds: 2}}
        run_retries: {{enabled: true, max_retries: 2}}
        concurrency:
          pools: {{granularity: run, default_limit: 2}}
        telemetry: {{enabled: false}}
    """,
    "worker.yaml": """
        execution:
          config: {{broker: "{redis}", backend: "{redis}"}}
    """,
}


class Cluster:
    """Two workers, a daemon and the databases."""

    def __init__(self, folder: Path, vectors: Database, instance: dg.DagsterInstance) -> None:
        self.folder = folder
        self.vectors = vectors
        self.instance = instance
        self.workers: list[psutil.Process] = []

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.vectors.url, autocommit=True) as connection:
            cursor = connection.execute(query)
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def process(self, name: str, *arguments: str) -> Iterator[psutil.Process]:
        """A process and all that it starts, until the end of the block; its output is a file."""
        with (self.folder / f"{name}.log").open("w") as log:
            started = subprocess.Popen(
                [str(foreign.BIN / arguments[0]), *arguments[1:]],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        process = psutil.Process(started.pid)
        try:
            yield process
        finally:
            ending = [*process.children(recursive=True), process]
            for one in ending:
                with suppress(psutil.NoSuchProcess):
                    one.terminate()
            _, left = psutil.wait_procs(ending, timeout=10)
            for one in left:
                one.kill()
            started.wait()

    def backfill(self, *assets: str) -> None:
        """Ask for all partitions of these assets, as the button in the UI does."""
        from dagster._core.execution.backfill import PartitionBackfill
        from dagster._core.test_utils import create_test_daemon_workspace_context
        from dagster._core.workspace.load_target import ModuleTarget

        target = ModuleTarget("cluster", None, str(self.folder), "cluster")
        with create_test_daemon_workspace_context(target, self.instance) as workspace:
            graph = workspace.create_request_context().asset_graph
            self.instance.add_backfill(
                PartitionBackfill.from_asset_partitions(
                    backfill_id="all",
                    asset_graph=graph,
                    partition_names=None,
                    asset_selection=[dg.AssetKey.from_user_string(asset) for asset in assets],
                    backfill_timestamp=time.time(),
                    tags={},
                    dynamic_partitions_store=self.instance,
                    all_partitions=True,
                    title=None,
                    description=None,
                    run_config=None,
                )
            )

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def runs_of(self, worker: str) -> int:
        """How many runs a worker has taken."""
        return self.log(worker).count("] received")

    def process_of(self, run_id: str) -> int:
        """The id of the process that executes a run, as Dagster logs it."""
        found = [re.search(r"pid: (\d+)", e.message) for e in self.instance.all_logs(run_id)]
        return int(next(match[1] for match in found if match))

    def runs(self) -> list[dg.DagsterRun]:
        return [*self.instance.get_runs()]


@pytest.fixture
def cluster(
    server: Database, redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Cluster]:
    where = f"redis+socket://:{PASSWORD}@{redis.url.partition('@')[2]}"
    foreign.write(tmp_path, {name: text.format(redis=where) for name, text in FILES.items()})
    (tmp_path / "manifest.json").write_text(json.dumps(MANIFEST))
    for field in Settings.model_fields:
        monkeypatch.delenv(field.upper(), raising=False)
    with ExitStack() as stack:
        vectors = stack.enter_context(scratch_database(server, "celery_vectors"))
        runs = stack.enter_context(scratch_database(server, "celery_runs"))
        for name, value in {
            "STAGING_DB_URL": vectors.url,
            "PGVECTOR_URL": vectors.url,
            "DAGSTER_POSTGRES_URL": runs.url.replace("postgresql:", "postgresql+psycopg2:"),
            "DAGSTER_HOME": str(tmp_path / "home"),
            "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]),
            "OMP_NUM_THREADS": "1",
        }.items():
            monkeypatch.setenv(name, value)
        # where dagster-celery looks for the celery command
        monkeypatch.setenv("PATH", str(foreign.BIN), prepend=os.pathsep)
        monkeypatch.syspath_prepend(str(tmp_path))
        instance = stack.enter_context(dg.DagsterInstance.get())
        cluster = Cluster(tmp_path, vectors, instance)
        cluster.sql(
            "create schema staging; create table staging.stg_doc as"
            " select n as id, 'the report of day ' || n || ' on the garden' as body"
            f" from generate_series(1, {ROWS}) n"
        )
        for name in ("one", "two"):
            worker = cluster.process(
                name,
                *("dagster-celery", "worker", "start", "-A", "dagster_celery.app", "-n", name),
                *("-y", "worker.yaml", "--", "--concurrency", "1", "--loglevel", "info"),
            )
            cluster.workers.append(stack.enter_context(worker))
        cluster.backfill("doc/texts", "doc/vectors")
        stack.enter_context(cluster.process("daemon", "dagster-daemon", "run", "-m", "cluster"))
        yield cluster


CACHED = "from analytics_features.embedding_cache_1"


def test_a_backfill_goes_on_when_a_worker_is_killed_and_encodes_nothing_twice(
    cluster: Cluster,
) -> None:
    def stored() -> dict[object, object]:
        try:
            return dict(cluster.sql(f"select text_hash, encoded_at {CACHED}"))
        except psycopg.errors.UndefinedTable:
            return {}

    until(lambda: len(stored()) > 0, seconds=240)
    before = stored()
    ((run_id,),) = cluster.sql(f"select run_id {CACHED} order by encoded_at desc limit 1")
    os.kill(cluster.process_of(run_id), signal.SIGKILL)
    wanted = cluster.sql("select id, body from staging.stg_doc order by id")

    def partitions() -> set[str | None]:
        done = [run for run in cluster.runs() if run.is_success]
        return {run.tags.get("dagster/asset_partition_range_start") for run in done}

    until(lambda: len(partitions()) == PARTITIONS, seconds=500)
    with Pipeline.open(manifest=MANIFEST) as pipeline:
        (run,) = pipeline.run("doc")
    assert run.counts["encoded"] == 0
    found = cluster.sql("select id, text from analytics_features.doc_embeddings order by id")
    assert [(row_id, text.removeprefix("body: ")) for row_id, text in found] == wanted
    # Dagster noticed it and started another run
    failed = [run for run in cluster.runs() if run.status is dg.DagsterRunStatus.FAILURE]
    assert [run.run_id for run in failed] == [run_id]
    after = stored()
    assert len(after) == ROWS
    assert before.items() <= after.items()
    assert min(cluster.runs_of("one"), cluster.runs_of("two")) > 1
