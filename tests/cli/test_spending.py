"""What `run` may spend on several entities, and how it says that one of them failed."""

from __future__ import annotations

from typing import Any
from unittest.mock import create_autospec

import pytest

from embeddings_pipeline.cli import run
from embeddings_pipeline.cli.jobs import Jobs, Options
from embeddings_pipeline.errors import CostLimitReached, EmbeddingsError


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

    _, failures = run.run_all(jobs, names, Options(max_cost_usd=20.0), dbt=False, marts=False)

    assert asked == [20.0, 20.0, 7.0]
    assert [*failures] == names


def test_a_failure_names_its_entity_once() -> None:
    failures = {
        "note": EmbeddingsError("note: the next window would cost too much"),
        "page": EmbeddingsError("entity 'page': all rows are gone"),
        "event": EmbeddingsError("connection refused"),
    }
    with pytest.raises(EmbeddingsError) as raised:
        run.raise_failures(failures)
    assert str(raised.value).splitlines() == [
        "note: the next window would cost too much",
        "entity 'page': all rows are gone",
        "event: connection refused",
    ]
