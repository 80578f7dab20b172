"""Fixtures for tests in which an exchange with the database goes wrong."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import tenacity

from embeddings_pipeline.store import pending
from embeddings_pipeline.sync import texts, vectors
from tests.faults import Exchanges


@pytest.fixture(scope="module")
def exchanges() -> Iterator[Exchanges]:
    """Stands between the driver and the server; runs go in windows of a few rows.

    To be asked for before a world, whose pool it changes.
    """
    exchanges = Exchanges()
    with pytest.MonkeyPatch.context() as patch:
        exchanges.install(patch)
        patch.setattr(texts, "SLICE", 5)
        patch.setattr(vectors, "_WINDOW_ROWS", 3)
        # each run tries again a text that no model takes
        patch.setattr(pending, "MAX_ATTEMPTS", 1_000)
        # a connection that was lost is taken anew at once
        patch.setattr(tenacity.nap, "time", SimpleNamespace(sleep=lambda seconds: None))
        yield exchanges
