"""Dagster runs whose process was killed, or ended with the machine."""

from __future__ import annotations

import dagster as dg
import psutil

from embeddings_pipeline.settings import Settings

_RUNNING = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]


def close_orphaned_runs(settings: Settings, runs: dg.DagsterInstance) -> list[str]:
    """Mark runs without a process as failed; returns their ids.

    Dagster's default launcher does not notice them, and such a run keeps its place in the pool.
    With DAGSTER_POSTGRES_URL a run may belong to another machine, and none is closed.
    """
    if settings.dagster_postgres_url is not None:
        return []
    records = runs.get_run_records(dg.RunsFilter(statuses=_RUNNING))
    orphaned = [record for record in records if not _is_alive(runs, record)]
    for record in orphaned:
        runs.report_run_failed(record.dagster_run, "The process of this run is gone.")
    return [record.dagster_run.run_id for record in orphaned]


def _is_alive(runs: dg.DagsterInstance, record: dg.RunRecord) -> bool:
    started = runs.all_logs(record.dagster_run.run_id, dg.DagsterEventType.RUN_START)
    pids = [e.dagster_event.pid for e in started if e.dagster_event and e.dagster_event.pid]
    try:
        # a process younger than its run has reused the number
        return any(psutil.Process(pid).create_time() <= (record.start_time or 0) for pid in pids)
    except psutil.NoSuchProcess:
        return False
