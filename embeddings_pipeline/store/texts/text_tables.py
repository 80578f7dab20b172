"""The table of texts of an entity, and the columns copied from its staging model in all tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, LiteralString

from psycopg import Connection, sql
from psycopg.errors import InvalidSchemaName, UndefinedObject
from psycopg.sql import Identifier

from embeddings_pipeline.entities.entity import RESERVED_COLUMNS, Entity
from embeddings_pipeline.entities.fields import Source
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.store import vector_sets, views
from embeddings_pipeline.store.connection import Row, columns_of, trusted
from embeddings_pipeline.store.tables import EntityTables
from embeddings_pipeline.store.texts import lexemes


def ensure_entity(connection: Connection[Row], schema: str, source: Source) -> None:
    """Create the entity's `texts`, or bring its copied columns up to date.

    Raises ConfigurationError as `refuse_other_id` does, or where the database lacks the type of a
    filter.
    """
    entity = source.entity
    known = refuse_other_id(connection, schema, source)
    with connection.transaction():
        _create_texts_and_copied(connection, schema, source)
        if not known:
            connection.execute(
                sql.SQL(
                    "insert into {} (entity, definition, definition_hash, id_type,"
                    " partition_scheme) values (%s, %s, '', %s, %s) on conflict do nothing"
                ).format(Identifier(schema, "entities")),
                (
                    entity.name,
                    entity.declaration(),
                    source.id_type,
                    entity.partitions.model_dump_json(),
                ),
            )


def refuse_other_id(connection: Connection[Row], schema: str, source: Source) -> bool:
    """Raise ConfigurationError where the id column or its type changed; returns whether the entity
    was ever run."""
    entity = source.entity
    known = connection.execute(
        sql.SQL("select id_type, definition->>'id' from {} where entity = %s").format(
            Identifier(schema, "entities")
        ),
        (entity.name,),
    ).fetchone()
    if known is not None and known != (source.id_type, entity.id):
        raise ConfigurationError(
            f"entity {entity.name!r}: its id was {known[1]} ({known[0]}) and is now"
            f" {entity.id} ({source.id_type}): give the new one an `entity:` of its own"
        )
    return known is not None


def exist(connection: Connection[Row], schema: str, entity: str) -> bool:
    """Whether the tables of the entity exist; its first run creates them."""
    row = connection.execute(
        sql.SQL("select from {} where entity = %s").format(Identifier(schema, "entities")),
        (entity,),
    ).fetchone()
    return row is not None


def followed(tables: EntityTables) -> tuple[dict[str, Any], str]:
    """The declaration that the texts of the entity follow, and its hash."""
    definition, definition_hash = tables.one(
        "select definition, definition_hash from {entities} where entity = {entity}"
    )
    return definition, definition_hash


def _create_texts_and_copied(connection: Connection[Row], schema: str, source: Source) -> None:
    try:
        _create_texts(connection, schema, source)
        _bring_copied_up_to_date(connection, schema, source)
        lexemes.ensure(connection, schema, source.entity)
    except (UndefinedObject, InvalidSchemaName) as error:
        raise ConfigurationError(
            f"entity {source.entity.name!r}: {error.diag.message_primary} in database"
            f" {connection.info.dbname!r}: cast the filter to a built-in type of Postgres in"
            " the staging model"
        ) from None


def copied_columns(source: Source) -> sql.Composable:
    """`, name type` for each copied column."""
    return sql.SQL("").join(
        sql.SQL(", {} {}").format(Identifier(name), trusted(kind))
        for name, (_, kind) in source.copied.items()
    )


def _create_texts(connection: Connection[Row], schema: str, source: Source) -> None:
    connection.execute(
        sql.SQL(
            """
            create table if not exists {table} (
                {id} {id_type} not null,
                chunk int not null,
                partition_key text not null,
                fingerprint bigint not null,
                text text,
                text_hash uuid,
                tokens int not null,
                parts text[],
                part_hashes uuid[],
                part_tokens int[],
                weights float8[],
                source_changed_at timestamptz,
                serialised_at timestamptz not null default now(),
                primary key ({id}, chunk)
                {copied}
            )
            """
        ).format(
            table=Identifier(schema, f"{source.entity.name}_texts"),
            id=Identifier(source.entity.id),
            id_type=trusted(source.id_type),
            copied=copied_columns(source),
        )
    )


def create_text_indexes(connection: Connection[Row], schema: str, entity: Entity) -> None:
    """Create the missing indexes of `texts`. The first pass creates them after it has filled the
    table, because building them in bulk is faster."""
    table = f"{entity.name}_texts"
    present = {
        name
        for (name,) in connection.execute(
            "select indexname from pg_indexes where schemaname = %s and tablename = %s",
            (schema, table),
        )
    }
    wanted: dict[str, LiteralString] = {
        # for pending chunks of a partition
        "by_partition": "(partition_key, {id}, chunk) include (text_hash, tokens)"
        " where text_hash is not null",
        # for changed rows of a partition
        "by_row": "(partition_key) include ({id}, fingerprint) where chunk = 0",
        "by_hash": "(text_hash) where text_hash is not null",
        "by_lexeme": "using gin (lexemes)",
    }
    if entity.weights:
        wanted["by_part"] = "using gin (part_hashes)"
    for suffix, definition in wanted.items():
        name = f"{table}_{suffix}"
        if name not in present:
            connection.execute(
                sql.SQL("create index if not exists {} on {} {}").format(
                    Identifier(name),
                    Identifier(schema, table),
                    sql.SQL(definition).format(id=Identifier(entity.id)),
                )
            )


def _bring_copied_up_to_date(connection: Connection[Row], schema: str, source: Source) -> None:
    name = source.entity.name
    tables = [f"{name}_texts", *vector_sets.table_names(connection, schema, name)]
    changes = [
        change for table in tables for change in _copied_changes(connection, schema, table, source)
    ]
    if changes:
        views.limit_lock_wait(connection)
    view = views.PublishedView(connection, schema, name)
    grants: list[views.Grant] = []
    # `create or replace view` neither removes a column nor gives `key` another meaning
    if any(statement is _DROP or column == views.KEY for statement, _, column in changes):
        grants = view.drop()
    types = _types(source)
    for statement, table, column in changes:
        connection.execute(
            sql.SQL(statement).format(
                table=Identifier(schema, table),
                column=Identifier(column),
                type=trusted(types.get(column, "")),
            )
        )
    if changes and view.replace():
        view.grant(grants)


_DROP = "alter table {table} drop column {column}"

_ADD = "alter table {table} add column {column} {type}"


def _types(source: Source) -> dict[str, str]:
    return {name: kind for name, (_, kind) in source.copied.items()}


def _copied_changes(
    connection: Connection[Row], schema: str, table: str, source: Source
) -> Iterator[tuple[LiteralString, str, str]]:
    present = {
        column: kind
        for column, kind in columns_of(connection, schema, table).items()
        if column not in RESERVED_COLUMNS and column != source.entity.id
    }
    types = _types(source)
    for column, kind in present.items():
        if types.get(column) != kind:
            yield _DROP, table, column
    for column, kind in types.items():
        if present.get(column) != kind:
            yield _ADD, table, column
