"""Drops the tables of an entity that is empty."""

from __future__ import annotations

from psycopg.errors import DependentObjectsStillExist

from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.store import vector_sets, views
from embeddings_pipeline.store.tables import EntityTables


def objects(tables: EntityTables) -> list[str]:
    """The view, the function and the tables of the entity, by name."""
    name = tables.entity
    sets = [s.table_name for s in vector_sets.read(tables)]
    return [f"{name}_embeddings", f"search_{name}", *sets, f"{name}_texts", f"{name}_lexemes"]


def require_empty(tables: EntityTables) -> None:
    """Raise ConfigurationError where the entity has rows."""
    (rows,) = tables.one("select count(*) from {texts} where chunk = 0")
    if rows:
        raise ConfigurationError(
            f"entity {tables.entity!r} has {rows:,} rows: empty it first, by a run of it with"
            ' `where: "false"` (docs/dbt.md)'
        )


def drop(tables: EntityTables) -> None:
    """Drop them in one transaction, with all that is known of the sets. Its erased ids stay so,
    and its runs stay in the ledger.

    Raises ConfigurationError where the entity has rows, or where objects of others depend on its
    own, and LockNotAvailable where a long query reads them. Nothing is dropped then.
    """
    name = tables.entity
    try:
        with tables.connection.transaction():
            views.limit_lock_wait(tables.connection)
            tables.execute("lock table {texts} in access exclusive mode")
            require_empty(tables)
            sets = vector_sets.read(tables)
            tables.execute("delete from {entities} where entity = {entity}")
            tables.execute("delete from {renewals} where entity = {entity}")
            tables.execute("delete from {quality_history} where entity = {entity}")
            views.replace_coverage(tables.connection, tables.schema)
            views.SearchFunction(tables.connection, tables.schema, name).drop()
            for view in (f"{name}_embeddings", *(s.states_view for s in sets)):
                tables.execute("drop view if exists {view}", view=tables.table(view))
            for vector_set in sets:
                tables.execute("drop table {set}", set=tables.table(vector_set.table_name))
            tables.execute("drop table {texts}, {lexemes}")
    except DependentObjectsStillExist as error:
        raise ConfigurationError(
            f"entity {name!r}: nothing was dropped, because {error.diag.message_detail}: drop the"
            " dependent objects first"
        ) from None
