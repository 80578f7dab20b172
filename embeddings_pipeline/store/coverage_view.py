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
            " left join {sets} s on s.entity = e.entity and s.state = 'live'"
            # one whose tables somebody dropped keeps no other out of the view
            " where to_regclass(format('%I.%I', {schema}::text, e.entity || '_texts')) is not null"
            " order by 1"
        ).format(
            schema=sql.Literal(schema),
            entities=Identifier(schema, "entities"),
            sets=Identifier(schema, "vector_sets"),
        )
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
    without_set = sql.SQL(
        "(select {key}, true as missing, false as outdated, false as quarantined, true as pending,"
        " coalesce(source_changed_at, serialised_at) as changed_at from {texts}"
        " where text_hash is not null)"
    ).format(key=key, texts=Identifier(schema, f"{entity}_texts"))
    return sql.SQL(
        """
        select
            {entity}::text as entity,
            count(*) as rows,
            count(*) filter (where missing = 0) as rows_with_vectors,
            coalesce(round(100.0 * count(*) filter (where missing = 0) / nullif(count(*), 0), 2),
                100) as coverage_percent,
            coalesce(sum(pending), 0)::bigint as pending,
            coalesce(sum(quarantined), 0)::bigint
                + (select count(*) from {quarantine} where entity = {entity}) as quarantined,
            extract(epoch from now() - min(pending_since))::bigint as oldest_pending_seconds,
            {recent} as vectors_last_24h
        from (
            select
                s.{key},
                count(*) filter (where s.missing) as missing,
                count(*) filter (where s.pending) as pending,
                count(*) filter (where s.quarantined and (s.missing or s.outdated)) as quarantined,
                min(s.changed_at) filter (where s.pending) as pending_since
            from {states} s
            group by s.{key}
        ) as by_row
        """
    ).format(
        entity=sql.Literal(entity),
        key=key,
        states=Identifier(schema, f"{entity}_chunks_{number}") if number else without_set,
        quarantine=Identifier(schema, "quarantine"),
        recent=sql.SQL(
            "(select count(*) from {} where updated_at > now() - interval '24 hours')"
        ).format(Identifier(schema, table))
        if table
        else sql.SQL("0::bigint"),
    )
