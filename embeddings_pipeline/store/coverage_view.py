"""The view that tells how much of each entity has vectors."""

from __future__ import annotations

from psycopg import Connection, sql
from psycopg.sql import Identifier

from embeddings_pipeline.store.postgres import Row


def replace_coverage(connection: Connection[Row], schema: str) -> None:
    """Make `entity_coverage` show every entity that has texts, one row each.

    To be called in a transaction: two entities at once take turns until its end.
    """
    connection.execute(
        "select pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"coverage/{schema}",)
    )
    rows = connection.execute(
        sql.SQL(
            "select e.entity, e.definition->>'id', s.table_name, s.number from {entities} e"
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


def _coverage_of(
    schema: str, entity: str, id_column: str, table: str | None, number: int | None
) -> sql.Composable:
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
            (select count(*) from {quarantine} where entity = {entity}
                and vector_set in (0, {number})) as quarantined,
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
        number=sql.Literal(number or 0),
    )
