"""An entity's tables: names that fit, and types that the vectors' database must know."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from embeddings_pipeline.database import Database
from embeddings_pipeline.entities.fields import Source, bind
from embeddings_pipeline.entities.manifest import entity_of
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.store.connection import Postgres
from embeddings_pipeline.store.migrations import create_control_tables
from embeddings_pipeline.store.texts.text_tables import ensure_entity
from tests.support.world import SCHEMA, world_in


@pytest.fixture
def connection(database: Database) -> Iterator[psycopg.Connection]:
    with closing(Postgres(database)) as pool, pool.connection() as connection:
        create_control_tables(connection, SCHEMA)
        yield connection


def source_of(**columns: str) -> Source:
    filters = [name for name in columns if name not in ("id", "name")]
    node = {"name": "stg_item", "schema": "staging"}
    return bind(entity_of(node, {"id": "id", "include": ["name"], "filters": filters}), columns)


def test_no_name_of_the_longest_entity_is_cut(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut: list[str | None] = []

    def settle(postgres: Postgres, connection: psycopg.Connection, scope: str = "") -> None:
        connection.execute("set client_min_messages = 'notice'")
        connection.add_notice_handler(
            lambda notice: (
                cut.append(notice.message_primary) if notice.sqlstate == "42622" else None
            )
        )

    monkeypatch.setattr(Postgres, "_apply_settings", settle)
    name, last = "p" * 38, "_vectors_123456"
    with world_in(database) as world:
        world.table("id bigint, name text", name=f"stg_{name}")
        world.insert(*[(n, f"thing {n}") for n in range(20)], name=f"stg_{name}")
        world.run(world.declare(name, index={"m": 8}))
        # six digits for the number of a set
        world.sql(f"alter table {SCHEMA}.{name}_vectors_1 rename to {name}{last}")
        world.sql(f"alter view {SCHEMA}.{name}_chunks_1 rename to {name}_chunks_123456")
        world.sql(f"update {SCHEMA}.vector_sets set number = 123456, table_name = %s", name + last)
        world.run(world.declare(name, index={"m": 16}))
        assert cut == []
        world.sql(f"alter table {SCHEMA}.{name}{last} rename to {name}{last}_is_cut_now")
    assert cut


def test_an_id_of_another_type_is_refused(connection: psycopg.Connection) -> None:
    ensure_entity(connection, SCHEMA, source_of(id="integer", name="text"))
    ensure_entity(connection, SCHEMA, source_of(id="bigint", name="text"))
    with pytest.raises(
        ConfigurationError, match=r"its id was id \(bigint\) and is now id \(uuid\)"
    ):
        ensure_entity(connection, SCHEMA, source_of(id="uuid", name="text"))


@pytest.mark.parametrize("kind", ["citext", "elsewhere.mood", "elsewhere.mood[]"])
@pytest.mark.parametrize("known", [False, True])
def test_a_filter_of_a_type_that_is_not_there_is_named(
    connection: psycopg.Connection, kind: str, known: bool
) -> None:
    if known:
        ensure_entity(connection, SCHEMA, source_of(id="bigint", name="text"))
    source = source_of(id="bigint", name="text", feeling=kind)
    with pytest.raises(ConfigurationError, match=f"entity 'item'.*{kind.partition('.')[0]}.*cast"):
        ensure_entity(connection, SCHEMA, source)
    count = SQL("select count(*) from {}").format(Identifier(SCHEMA, "entities"))
    assert connection.execute(count).fetchone() == (int(known),)


def test_a_program_that_starts_does_not_wait_for_who_writes_the_shared_tables(
    database: Database, connection: psycopg.Connection
) -> None:
    with closing(Postgres(database)) as pool, pool.connection() as writer, writer.transaction():
        for table in ("vector_sets", "quarantine"):
            writer.execute(SQL("delete from {}").format(Identifier(SCHEMA, table)))
        connection.execute("set lock_timeout = '1ms'")
        create_control_tables(connection, SCHEMA)
