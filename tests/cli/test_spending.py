"""What `run` may spend on several entities, and how it says that one of them failed."""

from __future__ import annotations

from typing import Any
from unittest.mock import create_autospec

import psycopg
import pytest

from embeddings_pipeline.cli import run
from embeddings_pipeline.cli.jobs import Jobs, Options
from embeddings_pipeline.errors import CostLimitReached, EmbeddingsError, Failures


def test_what_a_failed_entity_spent_is_off_the_purse_of_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[float | None] = []

    def entity(name: str, options: Options, run_id: str) -> list[str]:
        asked.append(options.max_cost_usd)
        raise CostLimitReached(f"{name}: the next window would cost too much")

    def counts(jobs: Jobs, name: str, run_id: str) -> dict[str, Any]:
        return {"cost_usd": 13.0} if name == "note" else {}

    jobs = create_autospec(Jobs, instance=True)
    jobs.entity.side_effect = entity
    monkeypatch.setattr(run, "_counts", counts)
    names = ["event", "note", "page"]

    failures = Failures()
    run.run_all(jobs, names, Options(max_cost_usd=20.0), failures, dbt=False, marts=False)

    assert asked == [20.0, 20.0, 7.0]
    assert [*failures] == names


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


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (psycopg.errors.DivisionByZero("division by zero"), "event: division by zero"),
        (RuntimeError("out of memory"), "event: RuntimeError: out of memory"),
    ],
)
def test_whatever_fails_one_entity_keeps_no_other_from_running(
    monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    ran: list[str] = []

    def entity(name: str, options: Options, run_id: str) -> list[str]:
        ran.append(name)
        if name == "event":
            raise error
        return []

    jobs = create_autospec(Jobs, instance=True)
    jobs.entity.side_effect = entity
    monkeypatch.setattr(run, "_counts", lambda *arguments: {})
    monkeypatch.setattr(run, "_outcome", lambda jobs, name, *arguments: name)
    failures = Failures()
    done = run.run_all(jobs, ["event", "note"], Options(), failures, dbt=False, marts=True)
    assert (ran, done) == (["event", "note"], ["note"])
    jobs.marts.assert_called_once()
    with pytest.raises(EmbeddingsError) as raised:
        failures.raise_any()
    assert str(raised.value) == said


def test_marts_that_fail_are_told_beside_the_entities(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = create_autospec(Jobs, instance=True)
    jobs.marts.side_effect = EmbeddingsError("dbt: mart: no such column")
    monkeypatch.setattr(run, "_counts", lambda *arguments: {})
    monkeypatch.setattr(run, "_outcome", lambda jobs, name, *arguments: name)
    failures = Failures(page=EmbeddingsError("gone"))
    done = run.run_all(jobs, ["note"], Options(), failures, dbt=False, marts=True)
    assert done == ["note"]
    assert failures.told() == {"page": "gone", "marts": "dbt: mart: no such column"}


def test_a_database_that_is_gone_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*arguments: object) -> None:
        raise psycopg.OperationalError("the server is gone")

    jobs = create_autospec(Jobs, instance=True)
    jobs.entity.side_effect = gone
    monkeypatch.setattr(run, "_counts", gone)
    failures = Failures()
    run.run_all(jobs, ["event", "note"], Options(), failures, dbt=False, marts=True)
    jobs.entity.assert_called_once()
    assert failures.told() == {"event": "the server is gone"}
