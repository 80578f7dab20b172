"""Fixtures of the store's tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from embeddings_pipeline.database import Database
from embeddings_pipeline.store.embedded import server as embedded
from tests.conftest import new_data_dir, remove_data_dir
from tests.support.roles import role_in


@pytest.fixture
def role(superuser: Database) -> Iterator[Database]:
    """The test's database as a role sees it that may do nothing but connect."""
    with role_in(superuser) as role:
        yield role


@pytest.fixture
def embedded_server(server: Database) -> Database:
    """The embedded server of the tests. Skips the test where TEST_DATABASE_URL replaces it."""
    if "TEST_DATABASE_URL" in os.environ:
        pytest.skip("takes the embedded server")
    return server


@pytest.fixture(scope="module")
def shared_dir() -> Iterator[Path]:
    """A folder with a server of the module's own; `made_dir` is the one to use."""
    folder = new_data_dir()
    embedded.start(folder)
    yield folder
    remove_data_dir(folder)


@pytest.fixture
def made_dir(shared_dir: Path) -> Path:
    """A folder whose cluster is made and stopped, for tests that leave it sound."""
    embedded.stop(shared_dir)
    return shared_dir
