"""Dagster runs whose process was killed, or ended with the machine."""

from __future__ import annotations

from collections.abc import Callable

import dagster as dg
import psutil

_RUNNING = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]


def close_orphaned_runs(
    instance: dg.DagsterInstance, is_here: Callable[[dg.DagsterRun], bool]
) -> list[str]:
    """Mark runs without a process as failed; returns their ids.

    Dagster's default launcher does not notice them, and such a run keeps its place in the pool.
    `is_here` is whether a run belongs to this machine, where its process would be.
    """
    records = instance.get_run_records(dg.RunsFilter(statuses=_RUNNING))
    orphaned = [r for r in records if is_here(r.dagster_run) and not _is_alive(instance, r)]
    for record in orphaned:
        instance.report_run_failed(record.dagster_run, "The process of this run is gone.")
    return [record.dagster_run.run_id for record in orphaned]


def is_of_location(run: dg.DagsterRun, location: str | None) -> bool:
    """Whether the server of this code location started the process of the run, which is on the
    machine of that server. Runs of other launchers have the location's name, but no address."""
    return run.tags.get("dagster/code_location") == location and ".dagster/grpc_info" in run.tags


def _is_alive(instance: dg.DagsterInstance, record: dg.RunRecord) -> bool:
    started = instance.all_logs(record.dagster_run.run_id, dg.DagsterEventType.RUN_START)
    pids = [e.dagster_event.pid for e in started if e.dagster_event and e.dagster_event.pid]
    try:
        # a process younger than its run has reused the number
        return any(psutil.Process(pid).create_time() <= (record.start_time or 0) for pid in pids)
    except psutil.NoSuchProcess:
        return False
