"""An entity checked against its staging model, and the key of the declaration that is at fault
where a statement on the model fails."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg
from psycopg import Connection, sql
from psycopg.errors import (
    ObjectNotInPrerequisiteState,
    RaiseException,
    UndefinedColumn,
    UndefinedFunction,
)
from psycopg.sql import Identifier

from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.entities.fields import Source, bind
from embeddings_pipeline.entities.partitions import DayPartitions
from embeddings_pipeline.errors import ConfigurationError, EmbeddingsError
from embeddings_pipeline.store.connection import Row, columns_of, trusted
from embeddings_pipeline.store.staging import columns as staged_columns

# errors of a statement, not of the server
_REFUSALS = (
    psycopg.ProgrammingError,
    psycopg.DataError,
    psycopg.NotSupportedError,
    ObjectNotInPrerequisiteState,
    RaiseException,
)


def staging_columns(connection: Connection[Row], schema: str, table: str) -> dict[str, str]:
    """Columns and types of a staging model. Raises ConfigurationError where it does not exist."""
    columns = columns_of(connection, schema, table)
    if not columns:
        raise ConfigurationError(
            f"there is no {schema}.{table} in {connection.info.dbname!r} on"
            f" {connection.info.host}: `dbt build` makes it, and so does `embeddings-pipeline run`"
            " without --no-dbt"
        )
    return columns


def source_of(connection: Connection[Row], entity: Entity) -> Source:
    """An entity checked against its staging model: its columns and its SQL expressions.

    Raises ConfigurationError with the key, its value and the message of Postgres.
    """
    try:
        columns = staging_columns(connection, entity.db_schema, entity.table)
    except ConfigurationError as error:
        raise ConfigurationError(f"entity {entity.name!r}: {error}") from None
    source = bind(entity, columns)
    parts = _parts(source)
    # one statement checks all parts; single parts are checked only after an error
    whole = _Part("", "", [e for part in parts for e in part.expressions], parts[-1].condition)
    if refusal := _refusal(connection, source, whole):
        raise _wrong(connection, source, parts, refusal)
    return source


@contextmanager
def naming_the_key(connection: Connection[Row], source: Source) -> Iterator[None]:
    """A block that reads the staging model by the expressions of the declaration. Raises
    ConfigurationError with the key whose expression fails on some row."""
    try:
        yield
    except _REFUSALS as error:
        raise _wrong(connection, source, _parts(source), error, rows=True) from error


@dataclass(frozen=True)
class _Part:
    """A key of a declaration, its value, and the SQL in which statements use it. `unfit` says why
    a type that lacks an operator is refused."""

    key: str
    value: str
    expressions: list[sql.Composable]
    condition: sql.Composable = field(default_factory=lambda: sql.SQL("true"))
    unfit: str | None = None


def _parts(source: Source) -> list[_Part]:
    """The parts of a declaration that become SQL, by key; the condition on rows comes last."""
    entity = source.entity
    parts = [
        _id_part(source),
        *(
            _Part("text column", column, [staged_columns.as_text(source, column)])
            for column in source.text_columns
        ),
        *(_filter_part(name, kind) for name, kind in source.filters.items()),
        *(
            _Part(key, column, [sql.SQL("{}::text").format(Identifier(column))])
            for key, column in entity.shown.items()
        ),
    ]
    if isinstance(entity.partitions, DayPartitions):
        key = staged_columns.partition_key(source)
        parts.append(_Part("partitions.column", entity.partitions.column, [key]))
    if entity.changed_at:
        changed = staged_columns.changed_at(entity.changed_at)
        parts.append(_Part("changed_at", entity.changed_at, [changed]))
    if entity.deleted:
        gone = sql.SQL("{} is true").format(Identifier(entity.deleted))
        parts.append(_Part("deleted", entity.deleted, [gone]))
    where = staged_columns.where(entity, escaped=False)
    return [*parts, _Part("where", entity.where or "", [], where)]


def _id_part(source: Source) -> _Part:
    """An id can be compared with ids that were stored, which no enum can."""
    compared = sql.SQL("{id}::text, {id} = any(array[]::{type}[])").format(
        id=Identifier(source.entity.id), type=trusted(source.id_type, escaped=False)
    )
    unfit = f"it cannot be compared with {source.id_type}: cast it in the staging model"
    return _Part("id", source.entity.id, [compared], unfit=unfit)


def _filter_part(name: str, kind: str) -> _Part:
    """A filter can be grouped: the operator = of some types, like box, compares something else."""
    grouped = sql.SQL("(select 1 from (values ({})) as f (f) group by f)").format(Identifier(name))
    other = "jsonb or text" if kind in ("json", "json[]") else "text"
    unfit = (
        f"values of type {kind} cannot be compared: cast it to {other} in the staging model, or"
        " leave it out of the filters"
    )
    return _Part("filters", name, [grouped], unfit=unfit)


def _refusal(
    connection: Connection[Row], source: Source, part: _Part, *, rows: bool = False
) -> psycopg.Error | None:
    """The error that Postgres raises for a part, or None; `rows` evaluates it in each row."""
    query = sql.SQL("select {expressions} from {relation} as source where {condition}").format(
        expressions=sql.SQL(", ").join(part.expressions),
        relation=staged_columns.relation(source),
        condition=part.condition,
    )
    read = "select count(read) from ({}) as read" if rows else "{} limit 0"
    try:
        connection.execute(sql.SQL(read).format(query))
    except _REFUSALS as error:
        return error
    return None


def _wrong(
    connection: Connection[Row],
    source: Source,
    parts: Sequence[_Part],
    error: psycopg.Error,
    *,
    rows: bool = False,
) -> EmbeddingsError:
    """The error of a staging model that the declaration does not fit; names the key at fault."""
    entity = source.entity
    name, schema, table = entity.name, entity.db_schema, entity.table
    if _refusal(connection, source, _Part("", "", []), rows=rows) is None:
        for part in parts:
            if refusal := _refusal(connection, source, part, rows=rows):
                lacks = isinstance(refusal, UndefinedFunction)
                why = part.unfit if lacks and part.unfit else _message(source, refusal)
                return ConfigurationError(
                    f"entity {name!r}: {part.key}: {json.dumps(part.value, ensure_ascii=False)}:"
                    f" {why}"
                )
    kind = EmbeddingsError if rows else ConfigurationError
    return kind(f"entity {name!r}: {schema}.{table} cannot be read: {_message(source, error)}")


def _message(source: Source, error: psycopg.Error) -> str:
    if isinstance(error, UndefinedColumn):
        return f"{error.diag.message_primary} (columns: {', '.join(source.columns)})"
    parts = [error.diag.message_primary or str(error).strip(), error.diag.message_hint]
    return ". ".join(part.rstrip(".") for part in parts if part)
