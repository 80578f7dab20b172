"""The views that others read: each entity's published vectors, and the coverage of all."""

from __future__ import annotations

from psycopg import Connection, sql
from psycopg.errors import DependentObjectsStillExist
from psycopg.sql import Identifier

from embeddings_pipeline.entities.entity import RESERVED_COLUMNS
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.store.postgres import Row, columns_of

# for readers of a view or table, who hold back all that comes after in the meantime
_LOCK_TIMEOUT = "10s"
_FIXED = ("chunk", "text", "embedding", "model", "text_hash", "updated_at")


def wait_little(connection: Connection[Row]) -> None:
    """Let the statements of this transaction fail where they would wait for a long reader.

    They raise LockNotAvailable, and are for the next run to try again.
    """
    connection.execute(sql.SQL("set local lock_timeout = {}").format(sql.Literal(_LOCK_TIMEOUT)))


def replace_published(connection: Connection[Row], schema: str, entity: str) -> bool:
    """Point `<entity>_embeddings` at the live vector set; False where there is none.

    Columns keep their places, so that dependent views and grants survive. A view that is right
    is left alone: to replace it would wait for its readers, and hold up new ones meanwhile.
    """
    live = connection.execute(
        sql.SQL(
            "select s.table_name, s.model, e.definition->>'id' from {sets} s"
            " join {entities} e using (entity) where entity = %s and state = 'live'"
        ).format(sets=Identifier(schema, "vector_sets"), entities=Identifier(schema, "entities")),
        (entity,),
    ).fetchone()
    if live is None:
        return False
    table, model, id_column = live
    view = f"{entity}_embeddings"
    fixed = (id_column, *_FIXED)
    filters = [
        column
        for column in columns_of(connection, schema, table)
        if column not in RESERVED_COLUMNS and column != id_column
    ]
    present = list(columns_of(connection, schema, view))
    known = [column for column in present if column in filters]
    ordered = known + [column for column in filters if column not in known]
    if present == [*fixed, *ordered] and _reads(connection, schema, view, table):
        return True
    # the cast drops the dimension: `create or replace view` refuses a column of another type
    values = {
        "embedding": sql.SQL("embedding::vector"),
        "model": sql.Literal(model),
        "updated_at": sql.SQL("embedded_at"),
    }
    columns = sql.SQL(", ").join(
        sql.SQL("{} as {}").format(values.get(column, Identifier(column)), Identifier(column))
        for column in (*fixed, *ordered)
    )
    wait_little(connection)
    connection.execute(
        sql.SQL("create or replace view {} as select {} from {}").format(
            Identifier(schema, view), columns, Identifier(schema, table)
        )
    )
    return True


def _reads(connection: Connection[Row], schema: str, view: str, table: str) -> bool:
    """Whether the view reads this table."""
    return (
        connection.execute(
            """
            select from pg_rewrite r
            join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid
            where r.ev_class = to_regclass(format('%%I.%%I', %(schema)s::text, %(view)s::text))
                and d.refobjid = to_regclass(format('%%I.%%I', %(schema)s::text, %(table)s::text))
            """,
            {"schema": schema, "view": view, "table": table},
        ).fetchone()
        is not None
    )


def drop_published(connection: Connection[Row], schema: str, entity: str) -> None:
    """Drop the view, because a column of it goes. Raises ConfigurationError naming dependants."""
    view = Identifier(schema, f"{entity}_embeddings")
    try:
        with connection.transaction():
            connection.execute(sql.SQL("drop view if exists {}").format(view))
    except DependentObjectsStillExist as error:
        raise ConfigurationError(
            f"entity {entity!r}: a filter was removed or changed its type, but"
            f" {error.diag.message_detail}; drop what depends on it (dbt builds its models"
            " again), then run once more"
        ) from None


def replace_coverage(connection: Connection[Row], schema: str) -> None:
    """Make `entity_coverage` show every entity that has texts, one row each.

    To be called in a transaction: two entities at once take turns until its end.
    """
    connection.execute(
        "select pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"coverage/{schema}",)
    )
    rows = connection.execute(
        sql.SQL(
            "select e.entity, e.definition->>'id', s.table_name from {entities} e"
            " left join {sets} s on s.entity = e.entity and s.state = 'live' order by 1"
        ).format(entities=Identifier(schema, "entities"), sets=Identifier(schema, "vector_sets"))
    ).fetchall()
    if not rows:
        return
    selects = [_coverage_of(schema, *row) for row in rows]
    connection.execute(
        sql.SQL("create or replace view {} as {}").format(
            Identifier(schema, "entity_coverage"), sql.SQL(" union all ").join(selects)
        )
    )


def _coverage_of(schema: str, entity: str, id_column: str, table: str | None) -> sql.Composable:
    """A row of the coverage view. Without a live set every text is pending."""
    key = Identifier(id_column)
    vectors = (
        Identifier(schema, table)
        if table
        else sql.SQL(
            "(select {key}, chunk, text_hash, serialised_at as embedded_at from {texts}"
            " where false)"
        ).format(key=key, texts=Identifier(schema, f"{entity}_texts"))
    )
    return sql.SQL(
        """
        select
            {entity}::text as entity,
            count(*) as rows,
            count(*) filter (where pending = 0) as rows_with_vectors,
            coalesce(round(100.0 * count(*) filter (where pending = 0) / nullif(count(*), 0), 2),
                100) as coverage_percent,
            coalesce(sum(pending), 0)::bigint as pending,
            (select count(*) from {quarantine} where entity = {entity}) as quarantined,
            extract(epoch from now() - min(pending_since))::bigint as oldest_pending_seconds,
            coalesce(sum(recent), 0)::bigint as vectors_last_24h
        from (
            select
                t.{key},
                count(*) filter (where v.text_hash is distinct from t.text_hash) as pending,
                min(coalesce(t.source_changed_at, t.serialised_at))
                    filter (where v.text_hash is distinct from t.text_hash) as pending_since,
                count(*) filter (where v.embedded_at > now() - interval '24 hours') as recent
            from {texts} t
            left join {vectors} v on v.{key} = t.{key} and v.chunk = t.chunk
            where t.text_hash is not null
            group by t.{key}
        ) as by_row
        """
    ).format(
        entity=sql.Literal(entity),
        key=key,
        texts=Identifier(schema, f"{entity}_texts"),
        vectors=vectors,
        quarantine=Identifier(schema, "quarantine"),
    )
