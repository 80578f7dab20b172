"""Runs without a process are closed; runs that go on are left alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.storage.tags import CODE_LOCATION_TAG, GRPC_INFO_TAG

from embeddings_pipeline.resources.orphaned_runs import close_orphaned_runs, is_of_location

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
    assert len(close_orphaned_runs(runs, lambda run: True)) == 1
    assert statuses(runs) == {"killed": dg.DagsterRunStatus.FAILURE}
    assert close_orphaned_runs(runs, lambda run: True) == []


def test_a_run_that_goes_on_is_left_alone(runs: dg.DagsterInstance) -> None:
    during = []

    @dg.op
    def look() -> None:
        close_orphaned_runs(runs, lambda run: True)
        during.append(statuses(runs))

    @dg.job
    def looking() -> None:
        look()

    looking.execute_in_process(instance=runs)
    assert during == [
        {"looking": dg.DagsterRunStatus.STARTED, "killed": dg.DagsterRunStatus.FAILURE}
    ]


def test_runs_of_another_machine_are_left_alone(runs: dg.DagsterInstance) -> None:
    assert close_orphaned_runs(runs, lambda run: False) == []
    assert statuses(runs) == {"killed": dg.DagsterRunStatus.STARTED}


@pytest.mark.parametrize(
    ("tags", "here"),
    [
        ({CODE_LOCATION_TAG: "shop", GRPC_INFO_TAG: "{}"}, True),
        ({CODE_LOCATION_TAG: "elsewhere", GRPC_INFO_TAG: "{}"}, False),
        # of a worker of Celery, a pod, or a command
        ({CODE_LOCATION_TAG: "shop"}, False),
        ({}, False),
    ],
)
def test_a_code_location_has_the_runs_that_its_server_started(
    tags: dict[str, str], here: bool
) -> None:
    run = dg.DagsterRun("any_embeddings", tags=tags)
    assert is_of_location(run, "shop") is here
