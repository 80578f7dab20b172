"""Runs of several entities: what one that fails leaves to the others, and what they may spend."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import SimpleNamespace
from typing import Any
from unittest.mock import create_autospec

import psycopg
import pytest

from embeddings_pipeline.cli.commands.run import Runner
from embeddings_pipeline.cli.dagster_jobs import Jobs
from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.errors import CostLimitReached, EmbeddingsError, Failures, Interrupted
from embeddings_pipeline.pipeline import Pipeline
from embeddings_pipeline.settings import Settings
from embeddings_pipeline.store.connection import Postgres
from embeddings_pipeline.sync.progress import ignore_progress
from embeddings_pipeline.sync.run_options import RunOptions


class Scripted(Pipeline):
    """A pipeline whose stages only note that they were called, and fail where they are told to."""

    def __init__(self, fail: Callable[[str, str], None] = lambda stage, entity: None) -> None:
        super().__init__(Settings(_env_file=None), {"nodes": {}, "sources": {}})
        # the real one would start a server in the folder of the checkout
        self.staging = create_autospec(Postgres, instance=True)
        self.calls: list[tuple[str, str]] = []
        self.limits: list[tuple[int | None, float | None]] = []
        self.counts: dict[str, dict[str, Any]] = {}
        self._fail = fail

    def chosen(self, names: Iterable[str] = ()) -> tuple[list[Entity], Failures]:
        made = [Entity(name=name, table=f"stg_{name}", db_schema="s", id="id") for name in names]
        return made, Failures()

    def _stage(self, stage: str, entity: Entity) -> Any:
        self.calls.append((stage, entity.name))
        self._fail(stage, entity.name)

    def sync_texts(self, entity: Entity, options: RunOptions) -> Any:
        return self._stage("texts", entity)

    def sync_vectors(self, entity: Entity, options: RunOptions) -> Any:
        self.limits.append((options.limit, options.max_cost_usd))
        return self._stage("vectors", entity)

    def sync_index(self, entity: Entity, *arguments: Any, **keys: Any) -> Any:
        return self._stage("index", entity)

    def publish(self, entity: Entity | str, **options: Any) -> Any:
        assert isinstance(entity, Entity)
        return self._stage("publish", entity)

    def check(self, entity: Entity | str) -> dict[str, Any]:
        return {}

    def status_of(self, entity: Entity) -> Any:
        return SimpleNamespace()

    def _status_now(self, entity: Entity) -> Any:
        return self.status_of(entity)

    def counts_of(self, entity: Entity, run_id: str) -> dict[str, Any]:
        return self.counts.get(entity.name, {"encoded": 1, "cost_usd": 0.0})

    def of(self, stage: str) -> Sequence[str]:
        return [entity for called, entity in self.calls if called == stage]


def failing(stage: str, entity: str, error: Exception) -> Callable[[str, str], None]:
    def fail(at: str, name: str) -> None:
        if (at, name) == (stage, entity):
            raise error

    return fail


def test_all_texts_come_before_the_first_vector() -> None:
    pipeline = Scripted()
    pipeline.run("event", "note")
    stages = [stage for stage, _ in pipeline.calls]
    assert stages == ["texts"] * 2 + ["vectors"] * 2 + ["index", "publish"] * 2


def test_a_limit_is_one_of_all_entities_together() -> None:
    pipeline = Scripted()
    pipeline.counts = {"event": {"encoded": 3, "cost_usd": 1.0}}
    pipeline.run("event", "note", limit=5, max_cost_usd=2.0)
    assert pipeline.limits == [(5, 2.0), (2, 1.0)]


def test_what_a_failed_entity_spent_is_not_left_for_the_next() -> None:
    pipeline = Scripted(failing("vectors", "note", CostLimitReached("note: costs too much")))
    pipeline.counts = {"note": {"cost_usd": 13.0}, "event": {"cost_usd": 0.0}}
    runs = pipeline.run("event", "note", "page", max_cost_usd=20.0, raise_errors=False)
    assert [dollars for _, dollars in pipeline.limits] == [20.0, 20.0, 7.0]
    assert [*runs.failures] == ["note"]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (psycopg.errors.DivisionByZero("division by zero"), "event: division by zero"),
        (RuntimeError("out of memory"), "event: RuntimeError: out of memory"),
    ],
)
def test_what_fails_in_one_entity_keeps_no_other_from_running(
    error: Exception, message: str
) -> None:
    pipeline = Scripted(failing("texts", "event", error))
    with pytest.raises(EmbeddingsError) as raised:
        pipeline.run("event", "note")
    assert str(raised.value) == message
    assert pipeline.of("vectors") == pipeline.of("publish") == ["note"]


@pytest.mark.parametrize("error", [CostLimitReached("at $1"), Interrupted("event: stopped")])
def test_an_entity_whose_run_ended_early_has_its_status(error: Exception) -> None:
    pipeline = Scripted(failing("vectors", "event", error))
    (run,) = pipeline.run("event", raise_errors=False)
    assert run.status == pipeline.status_of(run.entity)


@pytest.mark.parametrize("error", [Interrupted("event: stopped"), EmbeddingsError("it is wrong")])
def test_a_status_that_cannot_be_read_hides_no_error_and_stops_no_other_entity(
    error: EmbeddingsError,
) -> None:
    class Broken(Scripted):
        def _status_now(self, entity: Entity) -> Any:
            raise psycopg.errors.UndefinedColumn("a column is gone")

    pipeline = Broken(failing("texts", "event", error))
    runs = pipeline.run("event", "note", raise_errors=False)
    assert runs.failures.messages() == {"event": str(error)}
    stopped = isinstance(error, Interrupted)
    assert pipeline.of("publish") == ([] if stopped else ["note"])


def test_a_database_that_is_gone_ends_the_run() -> None:
    class Gone(Scripted):
        def counts_of(self, entity: Entity, run_id: str) -> dict[str, Any]:
            raise psycopg.OperationalError("the server is gone")

    pipeline = Gone(failing("texts", "event", psycopg.OperationalError("it went away")))
    runs = pipeline.run("event", "note", raise_errors=False)
    assert pipeline.of("texts") == ["event"]
    assert runs.failures.messages() == {"event": "it went away"}


def test_an_interrupted_run_begins_nothing_else() -> None:
    pipeline = Scripted(failing("vectors", "event", Interrupted("event: stopped")))
    runs = pipeline.run("event", "note", raise_errors=False)
    assert pipeline.of("vectors") == ["event"]
    assert runs.failures.messages() == {"event": "event: stopped"}


@pytest.mark.parametrize(
    ("stage", "begun"),
    [("vectors", ["texts", "vectors"]), ("index", ["texts", "vectors", "index"])],
)
def test_a_run_that_is_to_stop_begins_no_further_stage(stage: str, begun: list[str]) -> None:
    pipeline = Scripted()
    runs = pipeline.run(
        "event", stopped=lambda: (stage, "event") in pipeline.calls, raise_errors=False
    )
    assert [called for called, _ in pipeline.calls] == begun
    assert isinstance(runs.failures["event"], Interrupted)


class ScriptedRunner(Runner):
    """Runs a scripted pipeline, with jobs that do nothing."""

    pipeline = Scripted()
    _jobs = create_autospec(Jobs, instance=True)


def test_marts_that_fail_are_named_beside_the_entities(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise EmbeddingsError("dbt: mart: no such column")

    monkeypatch.setattr("embeddings_pipeline.cli.commands.run.build_marts", fail)
    runner = ScriptedRunner(Settings(_env_file=None, embedded_data_dir="/nowhere"), ignore_progress)
    runs = runner.run(["note"], {}, dbt=False, marts=True)
    assert [run.entity.name for run in runs] == ["note"]
    assert runs.failures.messages() == {"marts": "dbt: mart: no such column"}


def test_a_failure_names_its_entity_once() -> None:
    failures = Failures(
        note=EmbeddingsError("note: the next window would cost too much"),
        page=EmbeddingsError("entity 'page': all rows are gone"),
        event=EmbeddingsError("connection refused"),
    )
    with pytest.raises(EmbeddingsError) as raised:
        failures.raise_any()
    assert str(raised.value).splitlines() == [
        "note: the next window would cost too much",
        "entity 'page': all rows are gone",
        "event: connection refused",
    ]
