"""Runs without a process are closed; runs that go on are left alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from pydantic import SecretStr

from embeddings_pipeline.resources.orphaned_runs import close_orphaned_runs
from embeddings_pipeline.settings import Settings

KILLED = """
import os, signal
import dagster as dg

@dg.op
def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)

@dg.job
def killed() -> None:
    kill()

with dg.DagsterInstance.get() as runs:
    killed.execute_in_process(instance=runs)
"""


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """An instance with a run that was killed half-way."""
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    subprocess.run([sys.executable, "-c", KILLED], capture_output=True, check=False)
    with dg.DagsterInstance.get() as runs:
        (run,) = runs.get_runs()
        assert run.status is dg.DagsterRunStatus.STARTED
        yield runs


def statuses(runs: dg.DagsterInstance) -> dict[str, dg.DagsterRunStatus]:
    return {run.job_name: run.status for run in runs.get_runs()}


def test_a_run_whose_process_was_killed_is_marked_as_failed(runs: dg.DagsterInstance) -> None:
    assert len(close_orphaned_runs(Settings(_env_file=None), runs)) == 1
    assert statuses(runs) == {"killed": dg.DagsterRunStatus.FAILURE}
    assert close_orphaned_runs(Settings(_env_file=None), runs) == []


def test_a_run_that_goes_on_is_left_alone(runs: dg.DagsterInstance) -> None:
    during = []

    @dg.op
    def look() -> None:
        close_orphaned_runs(Settings(_env_file=None), runs)
        during.append(statuses(runs))

    @dg.job
    def looking() -> None:
        look()

    looking.execute_in_process(instance=runs)
    assert during == [
        {"looking": dg.DagsterRunStatus.STARTED, "killed": dg.DagsterRunStatus.FAILURE}
    ]


def test_runs_that_may_be_another_machines_are_left_alone(runs: dg.DagsterInstance) -> None:
    shared = Settings(_env_file=None, dagster_postgres_url=SecretStr("postgresql://db/dagster"))
    assert close_orphaned_runs(shared, runs) == []
    assert statuses(runs) == {"killed": dg.DagsterRunStatus.STARTED}
