"""Dagster as separate processes: its runs in Postgres, a daemon that launches them on workers of
Celery or on a cluster of Ray, and one entity, each of whose rows has a text of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import dagster as dg
import psutil
import psycopg
import pytest
import yaml
from dagster._core.storage.tags import AUTO_RETRY_RUN_ID_TAG

from embeddings_pipeline.database import Database
from tests.support import foreign
from tests.support.environment import only_settings
from tests.support.redis_server import PASSWORD, RedisServer

DEFINITIONS = """
    from pathlib import Path

    import dagster as dg

    from embeddings_pipeline import build_embedding_defs

    defs = dg.Definitions.merge(
        # a worker's process may start no others, as the default executor would for each step
        dg.Definitions(executor=dg.in_process_executor),
        build_embedding_defs(Path(__file__).with_name("manifest.json"), partitions_per_run=1),
    )
"""
INSTANCE = {
    "storage": {"postgres": {"postgres_url": {"env": "DAGSTER_POSTGRES_URL"}}},
    "run_monitoring": {"enabled": True, "poll_interval_seconds": 2},
    "run_retries": {"enabled": True, "max_retries": 2},
    "concurrency": {"pools": {"granularity": "run", "default_limit": 2}},
    "telemetry": {"enabled": False},
}


class Launcher(NamedTuple):
    """The run launcher of an instance, and the commands of its workers by their names."""

    config: Mapping[str, object]
    workers: Mapping[str, Sequence[str]]


def celery(folder: Path, redis: RedisServer, *workers: str) -> Launcher:
    """Celery workers of these names, which take runs from a Redis."""
    where = f"redis+socket://:{PASSWORD}@{redis.url.partition('@')[2]}"
    config = {"broker": where, "backend": where}
    (folder / "worker.yaml").write_text(yaml.safe_dump({"execution": {"config": config}}))
    command = ("dagster-celery", "worker", "start", "-A", "dagster_celery.app")
    options = ("-y", "worker.yaml", "--", "--concurrency", "1", "--loglevel", "info")
    return Launcher(
        {
            "module": "dagster_celery.launcher",
            "class": "CeleryRunLauncher",
            "config": {**config, "default_queue": "dagster"},
        },
        {name: (*command, "-n", name, *options) for name in workers},
    )


class Cluster:
    """Workers, a daemon and the databases."""

    def __init__(self, folder: Path, vectors: Database, instance: dg.DagsterInstance) -> None:
        self.folder = folder
        self.vectors = vectors
        self.instance = instance

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.vectors.url, autocommit=True) as connection:
            cursor = connection.execute(query)
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def process(self, name: str, *arguments: str) -> Iterator[None]:
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
            yield
        finally:
            ending = [*process.children(recursive=True), process]
            for one in ending:
                with suppress(psutil.NoSuchProcess):
                    one.terminate()
            _, left = psutil.wait_procs(ending, timeout=10)
            for one in left:
                one.kill()
            started.wait()
            # pytest shows it where a test fails
            sys.stdout.write(f"--- {name}\n{self.log(name)}\n")

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

    def is_retried(self, run_id: str) -> bool:
        """Whether Dagster has started another run in place of a run that failed.

        Its daemon never retries a run whose failure it reads an instant before the run's status
        says so (https://github.com/dagster-io/dagster/issues/33741), so this makes it read all
        failures again; those that it has retried it leaves alone.
        """
        run = self.instance.get_run_by_id(run_id)
        if run is None or run.status is not dg.DagsterRunStatus.FAILURE:
            return False
        cursor = f"EVENT_LOG_CONSUMER_CURSOR-{dg.DagsterEventType.RUN_FAILURE.value}"
        self.instance.daemon_cursor_storage.set_cursor_values({cursor: "0"})
        return AUTO_RETRY_RUN_ID_TAG in run.tags


@contextmanager
def cluster(
    folder: Path,
    *,
    vectors: Database,
    runs: Database,
    launcher: Launcher,
    manifest: dict[str, Any],
    rows: int,
    environment: dict[str, str] | None = None,
) -> Iterator[Cluster]:
    """The workers and the daemon, at work on a backfill of all partitions. `environment` is added
    to the environment of all processes, this one included."""
    foreign.write(
        folder,
        {
            "cluster.py": DEFINITIONS,
            "home/dagster.yaml": yaml.safe_dump({**INSTANCE, "run_launcher": launcher.config}),
        },
    )
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        variables = {
            "STAGING_DB_URL": vectors.url,
            "PGVECTOR_URL": vectors.url,
            "DAGSTER_POSTGRES_URL": runs.url.replace("postgresql:", "postgresql+psycopg2:"),
            "DAGSTER_HOME": str(folder / "home"),
            "PYTHONPATH": os.pathsep.join([str(folder), *sys.path]),
            "OMP_NUM_THREADS": "1",
        }
        only_settings(patch, **variables | (environment or {}))
        # where dagster-celery looks for the celery command
        patch.setenv("PATH", str(foreign.BIN), prepend=os.pathsep)
        patch.syspath_prepend(str(folder))
        instance = stack.enter_context(dg.DagsterInstance.get())
        cluster = Cluster(folder, vectors, instance)
        cluster.sql(
            "create schema staging; create table staging.stg_doc as"
            " select n as id, 'the report of day ' || n || ' on the garden' as body"
            f" from generate_series(1, {rows}) n"
        )
        for name, command in launcher.workers.items():
            stack.enter_context(cluster.process(name, *command))
        cluster.backfill("doc/texts", "doc/vectors")
        stack.enter_context(cluster.process("daemon", "dagster-daemon", "run", "-m", "cluster"))
        yield cluster
