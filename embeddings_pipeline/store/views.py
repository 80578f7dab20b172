"""The published view of an entity's vectors, and the view `entity_coverage`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from psycopg import Connection, sql
from psycopg.errors import DependentObjectsStillExist
from psycopg.sql import Identifier

from embeddings_pipeline.entities.entity import RESERVED_COLUMNS
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.store import vector_sets
from embeddings_pipeline.store.connection import Row, columns_of, trusted
from embeddings_pipeline.store.vector_sets import VectorSet

# a statement that waits for a long reader blocks all later readers
LOCK_TIMEOUT = "10s"
_FIXED = ("chunk", "text", "embedding", "model", "text_hash", "updated_at")


class Grant(NamedTuple):
    """A privilege of a role; the role None is PUBLIC."""

    role: str | None
    privilege: str
    grantable: bool


def limit_lock_wait(connection: Connection[Row]) -> None:
    """Make the statements of this transaction raise LockNotAvailable, where they would wait for a
    long reader. The next run tries again.
    """
    connection.execute(sql.SQL("set local lock_timeout = {}").format(sql.Literal(LOCK_TIMEOUT)))


class PublishedView:
    """The view `<entity>_embeddings` of an entity."""

    def __init__(self, connection: Connection[Row], schema: str, entity: str) -> None:
        self._connection = connection
        self._schema = schema
        self._entity = entity
        self._name = f"{entity}_embeddings"
        self._view = Identifier(schema, self._name)

    def replace(self, *, again: bool = False) -> bool:
        """Make the view show the live vector set; False where there is none.

        Columns keep their positions, so that dependent views and grants survive. A current view is
        not replaced, unless `again` is true, because replacing it waits for its readers and blocks
        new ones.
        """
        live = self._connection.execute(
            sql.SQL(
                "select s.table_name, i.model, e.definition->>'id' from {sets} s"
                " join {identities} i on i.number = s.identity join {entities} e using (entity)"
                " where entity = %s and state = 'live'"
            ).format(
                sets=Identifier(self._schema, "vector_sets"),
                identities=Identifier(self._schema, "model_identities"),
                entities=Identifier(self._schema, "entities"),
            ),
            (self._entity,),
        ).fetchone()
        if live is None:
            return False
        table, model, id_column = live
        fixed = (id_column, *_FIXED)
        filters = [
            column
            for column in columns_of(self._connection, self._schema, table)
            if column not in RESERVED_COLUMNS and column != id_column
        ]
        present = list(columns_of(self._connection, self._schema, self._name))
        known = [column for column in present if column in filters]
        ordered = known + [column for column in filters if column not in known]
        right = present == [*fixed, *ordered] and self._reads(table)
        if right and not again:
            return True
        # the cast drops the dimension: `create or replace view` does not change the type of a
        # column
        values = {
            "embedding": sql.SQL("embedding::vector"),
            "model": sql.Literal(model),
            # the view has always shown the hash as bytea
            "text_hash": sql.SQL("uuid_send(text_hash)"),
        }
        columns = sql.SQL(", ").join(
            sql.SQL("{} as {}").format(values.get(column, Identifier(column)), Identifier(column))
            for column in (*fixed, *ordered)
        )
        limit_lock_wait(self._connection)
        self._connection.execute(
            sql.SQL("create or replace view {} as select {} from {}").format(
                self._view, columns, Identifier(self._schema, table)
            )
        )
        return True

    def drop(self) -> list[Grant]:
        """Drop the view, to remove a column; returns the grants on it.

        Raises ConfigurationError with the objects that depend on the view.
        """
        granted = self._connection.execute(
            """
            select r.rolname, a.privilege_type, a.is_grantable
            from pg_class c cross join aclexplode(c.relacl) a
            left join pg_roles r on r.oid = a.grantee
            where c.oid = to_regclass(format('%%I.%%I', %s::text, %s::text))
                and a.grantee <> c.relowner
            """,
            (self._schema, self._name),
        ).fetchall()
        try:
            with self._connection.transaction():
                self._connection.execute(sql.SQL("drop view if exists {}").format(self._view))
        except DependentObjectsStillExist as error:
            raise ConfigurationError(
                f"entity {self._entity!r}: a filter was removed or changed its type, but"
                f" {error.diag.message_detail}; drop the dependent objects (dbt builds its models"
                " again), then run once more"
            ) from None
        return [Grant(*row) for row in granted]

    def grant(self, grants: Sequence[Grant]) -> None:
        """Grant the privileges of the dropped view on the new one."""
        for role, privilege, grantable in grants:
            self._connection.execute(
                sql.SQL("grant {} on {} to {}{}").format(
                    trusted(privilege, escaped=False),
                    self._view,
                    Identifier(role) if role else sql.SQL("public"),
                    sql.SQL(" with grant option" if grantable else ""),
                )
            )

    def _reads(self, table: str) -> bool:
        """Whether the view reads this table."""
        row = self._connection.execute(
            """
            select from pg_rewrite r
            join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid
            where r.ev_class = to_regclass(format('%%I.%%I', %(schema)s::text, %(view)s::text))
                and d.refobjid = to_regclass(format('%%I.%%I', %(schema)s::text, %(table)s::text))
            """,
            {"schema": self._schema, "view": self._name, "table": table},
        ).fetchone()
        return row is not None


def replace_coverage(connection: Connection[Row], schema: str) -> None:
    """Create `entity_coverage` again, with a row for every entity that has texts, of its live set
    or else of the one that is built.

    Call it in a transaction: it holds a lock until the transaction ends.
    """
    connection.execute(
        "select pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"coverage/{schema}",)
    )
    rows = connection.execute(
        sql.SQL(
            "select e.entity, e.definition->>'id' from {entities} e"
            # an entity whose tables were dropped is left out
            " where to_regclass(format('%I.%I', {schema}::text, e.entity || '_texts')) is not null"
            " order by 1"
        ).format(
            schema=sql.Literal(schema),
            entities=Identifier(schema, "entities"),
        )
    ).fetchall()
    if not rows:
        return
    shown = vector_sets.served_sets(connection, schema)
    selects = [_coverage_of(schema, entity, key, shown.get(entity)) for entity, key in rows]
    connection.execute(
        sql.SQL("create or replace view {} as {}").format(
            Identifier(schema, "entity_coverage"), sql.SQL(" union all ").join(selects)
        )
    )


def _coverage_of(
    schema: str, entity: str, id_column: str, shown: VectorSet | None
) -> sql.Composable:
    """The query of one row of the coverage view. Without a set every text is pending."""
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
        states=Identifier(schema, shown.states_view) if shown else without_set,
        quarantine=Identifier(schema, "quarantine"),
        recent=sql.SQL(
            "(select count(*) from {} where updated_at > now() - interval '24 hours')"
        ).format(Identifier(schema, shown.table_name))
        if shown
        else sql.SQL("0::bigint"),
    )
