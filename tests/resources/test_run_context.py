"""The pipeline of a run, and how a run is stopped."""

from __future__ import annotations

import signal
from contextlib import AbstractContextManager
from pathlib import Path

import dagster as dg
import pytest

from embeddings_pipeline.errors import Interrupted
from embeddings_pipeline.pipeline import Pipeline
from embeddings_pipeline.resources.run_context import PipelineResource, RunContext
from embeddings_pipeline.settings import Settings
from embeddings_pipeline.sync.run_options import RunOptions


@pytest.fixture
def running(tmp_path: Path) -> RunContext:
    settings = Settings(_env_file=None, embedded_data_dir=tmp_path / "data")
    return RunContext(Pipeline(settings), lambda progress: None)


def run_options(running: RunContext) -> AbstractContextManager[RunOptions]:
    return running.options("run", None, limit=None, force=False, max_cost_usd=None)


def work(running: RunContext, number: signal.Signals) -> None:
    """A run that gets a signal within a window."""
    with run_options(running) as options:
        assert not options.stopped()
        signal.raise_signal(number)
        if options.stopped():
            raise Interrupted("stopped after 1 of 2 chunks")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_window_in_flight_end(
    running: RunContext, number: signal.Signals
) -> None:
    former = signal.getsignal(number)
    with pytest.raises(dg.DagsterExecutionInterruptedError, match="1 of 2 chunks"):
        work(running, number)
    assert signal.getsignal(number) is former


def test_a_second_signal_interrupts_at_once(running: RunContext) -> None:
    with run_options(running) as options:
        signal.raise_signal(signal.SIGINT)
        assert options.stopped()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_the_pipeline_is_opened_only_when_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDDED_DATA_DIR", str(tmp_path / "data"))
    with dg.build_resources({"embeddings": PipelineResource(batch_size=7)}) as resources:
        assert resources.embeddings.pipeline.settings.embedding_batch_size == 7
    assert not (tmp_path / "data").exists()
