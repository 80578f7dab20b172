"""Fixtures of the store's tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import psycopg
import pytest
from psycopg.sql import SQL, Identifier
from pydantic import SecretStr

from embeddings_pipeline.database import Database


@pytest.fixture
def role(database: Database) -> Iterator[Database]:
    """The test's database as a role sees it that may do nothing but connect."""
    role = replace(database, user=f"role_of_{database.name}", password=SecretStr("secret"))
    name = Identifier(role.user)
    with closing(psycopg.connect(database.url, autocommit=True)) as admin:
        admin.execute(SQL("create role {} login password 'secret'").format(name))
        yield role
        admin.execute(SQL("drop owned by {} cascade").format(name))
        admin.execute(SQL("drop role {}").format(name))
