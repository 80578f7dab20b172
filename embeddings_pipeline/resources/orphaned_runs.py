"""Runs whose process was killed, or went down with the machine."""

from __future__ import annotations

import dagster as dg
import psutil

from embeddings_pipeline.settings import Settings

_RUNNING = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]


def close_abandoned(settings: Settings, runs: dg.DagsterInstance) -> list[str]:
    """Mark them as failed; returns their ids.

    Dagster's default launcher does not notice, and such a run keeps its place in the pool for
    ever. Where runs are kept in a Postgres of their own, they may be another machine's.
    """
    if settings.dagster_postgres_url is not None:
        return []
    records = runs.get_run_records(dg.RunsFilter(statuses=_RUNNING))
    abandoned = [r for r in records if not _is_alive(runs, r)]
    for record in abandoned:
        runs.report_run_failed(record.dagster_run, "The process of this run is gone.")
    return [record.dagster_run.run_id for record in abandoned]


def _is_alive(runs: dg.DagsterInstance, record: dg.RunRecord) -> bool:
    started = runs.all_logs(record.dagster_run.run_id, dg.DagsterEventType.RUN_START)
    pids = [e.dagster_event.pid for e in started if e.dagster_event and e.dagster_event.pid]
    try:
        # a process that is younger than its run has the number of one that is gone
        return any(psutil.Process(pid).create_time() <= (record.start_time or 0) for pid in pids)
    except psutil.NoSuchProcess:
        return False
