"""The pipeline of a run, and how a run is stopped."""

from __future__ import annotations

import json
import signal
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from uuid import uuid4

import dagster as dg
import pytest

from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.entities.manifest import entity_of
from embeddings_pipeline.errors import ConfigurationError, Interrupted
from embeddings_pipeline.pipeline import Pipeline
from embeddings_pipeline.resources.run_context import RunContext, pipeline_resource
from embeddings_pipeline.settings import Settings
from embeddings_pipeline.sync.run_options import RunOptions


@pytest.fixture
def running(tmp_path: Path) -> RunContext:
    settings = Settings(_env_file=None, embedded_data_dir=tmp_path / "data")
    return RunContext(Pipeline(settings), lambda progress: None)


def run_options(running: RunContext) -> AbstractContextManager[RunOptions]:
    return running.options("run", ["00"], limit=None, force=False, max_cost_usd=None)


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


def test_settings_of_the_definitions_go_before_the_environment_and_secrets_are_read_in_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"pgvector_schema": "features", "openai_api_key": dg.EnvVar("KEY_OF_THE_TEAM")}
    definition = pipeline_resource(given, {"nodes": {}})
    monkeypatch.setenv("EMBEDDED_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("PGVECTOR_SCHEMA", "other")
    monkeypatch.setenv("KEY_OF_THE_TEAM", "sk-secret")
    configured = definition.configured({"batch_size": 7})
    with dg.build_resources({"embeddings": configured}) as resources:
        settings = resources.embeddings.pipeline.settings
    assert settings.embedding_batch_size == 7
    assert settings.pgvector_schema == "features"
    assert settings.openai_api_key.get_secret_value() == "sk-secret"
    # the pipeline is opened only when it is used
    assert not (tmp_path / "data").exists()


def of_run(running: RunContext, run_id: str, **partitions: Any) -> Entity:
    loaded = entity_of(node("loaded"), {"id": "id", **partitions})
    return running.entity(loaded, dg.DagsterRun("job", run_id=run_id))


def node(schema: str) -> dict[str, Any]:
    meta = {"embedding": {"id": "id"}}
    return {
        "resource_type": "model",
        "name": "stg_shoe",
        "schema": schema,
        "config": {"meta": meta},
    }


def test_a_step_reads_the_entity_that_the_dbt_build_of_its_run_built(tmp_path: Path) -> None:
    run_id = str(uuid4())
    running = RunContext(
        Pipeline(Settings(_env_file=None), {"nodes": {"shoe": node("now")}}),
        lambda progress: None,
        [tmp_path],
    )
    assert of_run(running, run_id).db_schema == "now"
    # dagster-dbt names the folder by op, run and a random number
    built = tmp_path / f"acme-{run_id[:7]}-1234567" / "manifest.json"
    built.parent.mkdir()
    built.write_text(json.dumps({"nodes": {"shoe": node("built")}}))
    assert of_run(running, run_id).db_schema == "built"
    assert of_run(running, str(uuid4())).db_schema == "now"


def test_a_step_refuses_partitions_that_are_declared_differently_by_now() -> None:
    running = RunContext(
        Pipeline(Settings(_env_file=None), {"nodes": {"shoe": node("now")}}), lambda progress: None
    )
    with pytest.raises(ConfigurationError, match="'shoe': its partitions are declared differently"):
        of_run(running, str(uuid4()), partitions={"count": 3})
