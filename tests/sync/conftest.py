"""Fixtures for tests in which something goes wrong between a run and its database."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import tenacity

from embeddings_pipeline.store.embedded import postmaster
from embeddings_pipeline.store.staging import diff
from embeddings_pipeline.sync import encode, project, texts
from tests.support.databases import Templates
from tests.support.faults import Exchanges
from tests.support.words import WordsEncoder
from tests.support.world import World

ROWS = [(n, f"thing {n} of {n % 7}") for n in range(100)]

Stored = dict[str, list[tuple[Any, ...]]]


@pytest.fixture(scope="module")
def exchanges() -> Iterator[Exchanges]:
    """Stands between the driver and the server; runs go in windows of a few rows.

    To be asked for before a world, whose pool it changes.
    """
    exchanges = Exchanges()
    with pytest.MonkeyPatch.context() as patch:
        exchanges.install(patch)
        patch.setattr(diff, "SLICE", 5)
        patch.setattr(project, "WINDOW_ROWS", 3)
        patch.setattr(encode, "_READ_AT_ONCE", 3)
        # a lost connection is replaced at once
        patch.setattr(tenacity.nap, "time", SimpleNamespace(sleep=lambda seconds: None))
        yield exchanges


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs go in windows of a fifth of the rows."""
    monkeypatch.setattr(texts, "_WINDOW_ROWS", 20)
    monkeypatch.setattr(project, "WINDOW_ROWS", 20)
    monkeypatch.setattr(encode, "_READ_AT_ONCE", 20)
    monkeypatch.setattr(encode, "_WRITE_BATCH", 20)
    monkeypatch.setattr(WordsEncoder, "batch_texts", 20)


@pytest.fixture
def undisturbed(world: World, templates: Templates) -> Stored:
    """What a run of these rows stores."""
    templates.restore(world, store_rows)
    return world.stored()


def store_rows(world: World) -> None:
    world.table("id bigint, name text")
    world.insert(*ROWS)
    world.run(world.declare())


def wait_for(world: World, query: str) -> None:
    """Return once the query says true; fails where it does not in time."""
    assert postmaster.wait(lambda: world.sql(query) == [(True,)], 30)
