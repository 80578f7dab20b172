"""Roles of the database server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

import psycopg
from psycopg.sql import SQL, Identifier
from pydantic import SecretStr

from embeddings_pipeline.database import Database


@contextmanager
def role_in(database: Database, *statements: str) -> Iterator[Database]:
    """The database through a role of its own, which may connect and do what the statements grant;
    `{role}` in them is its name."""
    role = replace(database, user=f"role_of_{database.name}", password=SecretStr("secret"))
    name = Identifier(role.user)
    with closing(psycopg.connect(database.url, autocommit=True)) as admin:
        # tests that were killed left it on a server that outlives them
        admin.execute(SQL("drop role if exists {}").format(name))
        admin.execute(SQL("create role {} login password 'secret'").format(name))
        try:
            for statement in statements:
                admin.execute(SQL(statement).format(role=name))
            yield role
        finally:
            admin.execute(SQL("reassign owned by {} to current_user").format(name))
            admin.execute(SQL("drop owned by {} cascade").format(name))
            admin.execute(SQL("drop role {}").format(name))
