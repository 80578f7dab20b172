"""SQL that reads a staging model: its eligible rows, their fingerprints and values."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql
from psycopg.sql import Identifier, Literal

from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.entities.fields import BYTES, Source
from embeddings_pipeline.entities.partitions import DayPartitions, HashPartitions
from embeddings_pipeline.entities.rendering import MAX_IMAGE_BYTES
from embeddings_pipeline.store.connection import trusted


def relation(source: Source) -> sql.Composable:
    """The table or view of the staging model."""
    return Identifier(source.entity.db_schema, source.entity.table)


def eligible(
    source: Source, keys: Sequence[str] | None = None, *, escaped: bool = True
) -> sql.Composable:
    """The condition on rows that may be embedded, in these partitions or in all. `escaped` is for
    statements with parameters."""
    conditions: list[sql.Composable] = [sql.SQL("true")]
    if keys is not None:
        conditions.append(
            sql.SQL("{} = any({}::text[])").format(partition_key(source), sql.Literal(list(keys)))
        )
    if source.entity.deleted:
        conditions.append(sql.SQL("{} is not true").format(Identifier(source.entity.deleted)))
    conditions.append(where(source.entity, escaped=escaped))
    return sql.SQL(" and ").join(conditions)


def where(entity: Entity, *, escaped: bool = True) -> sql.Composable:
    """The `where` that an entity declares; true where it declares none."""
    # a statement without parameters has no placeholders to escape
    return sql.SQL("({})").format(trusted(entity.where or "true", escaped=escaped))


def row_digest(source: Source) -> sql.Composable:
    """The md5 of a row's id, as `entities.fields.stand_in` computes it."""
    return _digest(source, Identifier(source.entity.id))


def changed_at(column: str) -> sql.Composable:
    """When a row changed, as text; null for an infinite time."""
    return sql.SQL("case when isfinite({t}::timestamptz) then {t}::timestamptz::text end").format(
        t=Identifier(column)
    )


def fingerprint(source: Source) -> sql.Composable:
    """A 64-bit hash of the row's used columns, its id and the definition.

    The output function of a record quotes its fields, so that different rows have different texts.
    The hash is the one by which Postgres partitions tables, so that later versions of Postgres keep
    it. A changed hash would make a pass read every row again, but encode none.
    """
    entity = source.entity
    used = [entity.id, *source.text_columns, *(column for column, _ in source.copied.values())]
    if isinstance(entity.partitions, DayPartitions):
        used.append(entity.partitions.column)
    return sql.SQL('hashtextextended(row({}, {})::text collate "C", 0)').format(
        sql.SQL(", ").join(Identifier(column) for column in dict.fromkeys(used)),
        sql.Literal(source.definition_hash),
    )


def partition_key(source: Source) -> sql.Composable:
    """The partition of a row. A day in the future gives a partition that no run has."""
    partitions = source.entity.partitions
    if isinstance(partitions, DayPartitions):
        return sql.SQL("greatest({}, {}::date)::text").format(
            day(partitions, source), sql.Literal(partitions.start.isoformat())
        )
    return hash_key(source, partitions, Identifier(source.entity.id))


def hash_key(source: Source, partitions: HashPartitions, row_id: sql.Composable) -> sql.Composable:
    """The partition key of an id in SQL; the same as `HashPartitions.key_of` in Python."""
    return sql.SQL(
        "lpad(mod(('x' || left({digest}, 8))::bit(32)::bigint, {count})::text, {width}, '0')"
    ).format(
        digest=_digest(source, row_id),
        count=Literal(partitions.count),
        width=Literal(partitions.width),
    )


def _digest(source: Source, row_id: sql.Composable) -> sql.Composable:
    """The md5 of an id in UTF-8, in a database of any encoding."""
    if source.id_type != "text":
        return sql.SQL("md5(({})::text)").format(row_id)
    # a database of the encoding SQL_ASCII has bytes, which it does not convert
    return sql.SQL(
        "md5(convert_to(({})::text, case current_setting('server_encoding')"
        " when 'SQL_ASCII' then 'SQL_ASCII' else 'UTF8' end))"
    ).format(row_id)


def day(partitions: DayPartitions, source: Source) -> sql.Composable:
    """The day, in UTC, by which a row is partitioned."""
    column = Identifier(partitions.column)
    if source.columns[partitions.column] == "timestamp with time zone":
        return sql.SQL("({} at time zone 'UTC')::date").format(column)
    return sql.SQL("{}::date").format(column)


def as_text(source: Source, column: str) -> sql.Composable:
    """A value as text: a boolean as yes or no, an array as a list with commas, an image as base64,
    any other value as Postgres prints it. Of an image that is too large, the first bytes are
    read, enough to show that it is too large."""
    name, kind = Identifier(column), source.columns[column]
    if column == source.entity.image and kind == BYTES:
        return sql.SQL(
            "translate(encode(substring({} from 1 for {}), 'base64'), chr(10), '')"
        ).format(name, sql.Literal(MAX_IMAGE_BYTES + 1))
    if kind == "boolean":
        return sql.SQL("case {} when true then 'yes' when false then 'no' end").format(name)
    if kind.endswith("[]"):
        return sql.SQL("array_to_string({}, ', ')").format(name)
    return sql.SQL("{}::text").format(name)
