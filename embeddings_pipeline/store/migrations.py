"""Migrates the tables of an earlier version, without encoding anything again.

Definitions change in one transaction, under a lock. Afterwards the vectors of existing sets are
copied into embedding caches, in windows, which can be resumed.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, LiteralString

from psycopg import Connection, sql
from psycopg.errors import InsufficientPrivilege, ReadOnlySqlTransaction
from psycopg.sql import Identifier, Literal
from pydantic import ValidationError

from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.entities.fields import Source
from embeddings_pipeline.errors import ReadOnly
from embeddings_pipeline.store import schema, vector_sets, views
from embeddings_pipeline.store.connection import Postgres, Row, only
from embeddings_pipeline.store.tables import EntityTables, TableNames
from embeddings_pipeline.store.texts import text_tables
from embeddings_pipeline.store.vectors import cache, identities
from embeddings_pipeline.store.vectors.sets import create_states_view

# windows of the range of hashes, copied one after the other
WINDOWS = 64
# versions for vectors from before versions existed; vectors of an interrupted forced run get the
# second one, which is not below its floor
_FORMER, _RENEWED = 0, 1


@dataclass(frozen=True)
class Migration:
    """What a migration does to one table."""

    table: str
    rows: int
    what: str


def create_control_tables(connection: Connection[Row], name: str) -> None:
    """Create missing shared tables, and migrate tables of an earlier version.

    Raises ConfigurationError for a missing extension or privilege, and for tables that were created
    by a newer version or altered by hand.
    """
    try:
        with connection.transaction():
            # concurrent first runs would both try to create the extension, the schema or a table
            connection.execute("select pg_advisory_xact_lock(hashtextextended(%s, 0))", ("schema",))
            schema.check_server(connection, name)
            if needed(connection, name):
                migrate(connection, name)
            schema.create_missing(connection, name)
        schema.refuse_altered(connection, name)
        if table := schema.table_of_another_role(connection, name):
            raise _may_not_keep_tables(connection, name, f"must be owner of table {table}")
    except InsufficientPrivilege as error:
        why = error.diag.message_primary or "permission denied"
        raise _may_not_keep_tables(connection, name, why) from None
    except ReadOnlySqlTransaction:
        raise _is_read_only(connection) from None


def _is_read_only(connection: Connection[Row]) -> ReadOnly:
    user = connection.info.user
    read_only = f"database {connection.info.dbname!r} is read-only for user {user!r}"
    if only(connection.execute("select pg_is_in_recovery()"))[0]:
        return ReadOnly(
            f"{read_only}, a replica: it can be searched, and to write name the primary server in"
            " PGVECTOR_HOST or PGVECTOR_URL"
        )
    return ReadOnly(
        f"{read_only}, since default_transaction_read_only is on, as some providers set it when the"
        f' disk is full: it can be searched, and to write run `alter role "{user}" set'
        " default_transaction_read_only = off`"
    )


def _may_not_keep_tables(connection: Connection[Row], name: str, why: str) -> ReadOnly:
    user = connection.info.user
    return ReadOnly(
        f"user {user!r} may not keep tables in schema {name!r} ({why}): run"
        f' `grant create, usage on schema "{name}" to "{user}"`, or use the role that owns'
        " the tables"
    )


def needed(connection: Connection[Row], name: str) -> bool:
    """Whether the tables of the schema have an earlier version.

    Raises ConfigurationError where they have a later one.
    """
    version = schema.stored_version(connection, name)
    return version is not None and version < schema.VERSION


def planned(connection: Connection[Row], name: str) -> list[Migration]:
    """What `migrate` would do; empty where the tables have this version."""
    if not needed(connection, name):
        return []
    entities = _entities(connection, name)
    every = sum(len(sets) for _, _, sets in entities)
    version = schema.stored_version(connection, name) or 0
    steps = {
        3: Migration("vector_sets", every, "columns added and renamed"),
        4: Migration("quality_history", 0, "created"),
        5: Migration("entities", len(entities), "lexemes computed again by the next run"),
    }
    found = [step for later, step in steps.items() if later > version]
    if version != 0:
        return found
    for entity, _, sets in entities:
        tables = [(f"{entity}_texts", "rewritten with shorter hashes")]
        tables += [
            (
                table,
                "rewritten with shorter hashes, its indexes built again, then copied"
                " into an embedding cache",
            )
            for table in sets
        ]
        for table, what in tables:
            row = connection.execute(
                sql.SQL("select count(*) from {}").format(Identifier(name, table))
            ).fetchone()
            found.append(Migration(table, row[0] if row else 0, what))
    return found


def migrate(connection: Connection[Row], name: str) -> None:
    """Change the definitions of all tables to this version's. To be called in a transaction."""
    version = schema.stored_version(connection, name)
    if not version:
        _add_embedding_caches(connection, name)
        return
    for statement in (
        *_changes_since(version),
        "insert into {schema_version} (version) values ({version})",
    ):
        _execute(connection, name, statement, version=Literal(schema.VERSION))
    views.replace_coverage(connection, name)


# what each version after the first changed; new tables are created anyway
_CHANGES: dict[int, tuple[LiteralString, ...]] = {
    2: (
        "alter table {vector_sets} add if not exists query_prompt text not null default ''",
        "alter table {vector_sets} rename canary to recall_check",
    ),
    3: ("alter table {vector_sets} add text_weight double precision",),
    # quality_history
    4: (),
    # the next run computes the lexemes again; until then searches by words say so
    5: ("update {entities} set documents = null, counted_at = null",),
}


def _changes_since(version: int) -> list[LiteralString]:
    return [change for later, changes in _CHANGES.items() if later > version for change in changes]


def _add_embedding_caches(connection: Connection[Row], name: str) -> None:
    """Bring tables from before `schema_version` to this version."""
    connection.execute(
        sql.SQL("alter table {} rename to quarantine_of_version_0").format(
            Identifier(name, "quarantine")
        )
    )
    entities = _entities(connection, name)
    _stub(connection, name, "entity_coverage")
    for entity, _, _ in entities:
        _stub(connection, name, f"{entity}_embeddings")
    _separate_identities(connection, name)
    for statement in (
        *_changes_since(1),
        "alter table {entities} add passes jsonb not null default '{{}}'",
        "alter table {run_ledger} drop column if exists cached,"
        " add stages jsonb not null default '{{}}'",
    ):
        _execute(connection, name, statement)
    schema.create_missing(connection, name)
    _execute(connection, name, "select setval({versions}, {renewed})")
    for entity, id_column, sets in entities:
        _migrate_texts(connection, name, entity)
        for table in sets:
            _migrate_set(connection, name, entity, id_column, table)
    _move_shared_rows(connection, name)
    for entity, _, _ in entities:
        tables = EntityTables(connection, _as_stored(connection, name, entity))
        for vector_set in vector_sets.read(tables):
            create_states_view(tables, vector_set)
        text_tables.create_text_indexes(connection, name, tables.source.entity)
        views.PublishedView(connection, name, entity).replace(again=True)
    views.replace_coverage(connection, name)


def _move_shared_rows(connection: Connection[Row], name: str) -> None:
    """Move failures, erased hashes and unfinished forced runs to the tables that keep them now."""
    for statement in (
        """
        insert into {quarantine} (entity, id, chunk, stage, error, attempts, first_seen, last_seen)
        select entity, id, chunk, stage, error, attempts, first_seen, last_seen
        from {former_quarantine} where stage <> 'encode'
        """,
        """
        insert into {quarantine}
            (identity, text_hash, stage, error, attempts, first_seen, last_seen)
        select distinct on (s.identity, 2) s.identity, {short_hash}, 'encode', q.error, q.attempts,
            q.first_seen, q.last_seen
        from {former_quarantine} q
        join {vector_sets} s on s.entity = q.entity and s.number = q.vector_set
        where q.stage = 'encode' and q.text_hash is not null
        order by s.identity, 2, q.attempts desc
        """,
        """
        insert into {candidates} (entity, text_hash, since, erased)
        select distinct on (entity, 2) entity, {short_hash}, noted_at, true from {evictions}
        """,
        """
        insert into {renewals} (entity, vector_set, floor, partition_keys)
        select entity, number, {renewed}, force_keys from {vector_sets}
        where force_since is not null
        """,
        "alter table {vector_sets} drop force_since, drop force_keys",
        "drop table {evictions}, {former_quarantine}",
    ):
        _execute(connection, name, statement)


def seed_caches(
    database: Postgres, name: str, *, keep: bool
) -> Generator[tuple[str, int], None, None]:
    """Copy the vectors of migrated sets into the caches of their identities, where caches are kept.
    Yields the model and how many of its `WINDOWS` are done. Continues where it was stopped.

    Vectors of weighted texts are not copied: the vectors of their parts cannot be computed.
    """
    with database.connection() as connection:
        for stored in identities.all_of(connection, name):
            while True:
                with connection.transaction():
                    row = connection.execute(
                        sql.SQL(
                            "select seeded from {} where number = %s and seeded < %s for update"
                        ).format(Identifier(name, "model_identities")),
                        (stored.number, WINDOWS),
                    ).fetchone()
                    if row is None:
                        break
                    done = int(row[0])
                    if keep:
                        cache.seed(
                            connection,
                            name,
                            stored,
                            chosen="text_hash between %s::uuid and %s::uuid",
                            values=_window(done),
                        )
                    connection.execute(
                        sql.SQL("update {} set seeded = %s where number = %s").format(
                            Identifier(name, "model_identities")
                        ),
                        (done + 1 if keep else WINDOWS, stored.number),
                    )
                yield stored.identity.model, done + 1


def _window(number: int) -> tuple[str, str]:
    """The first and the last hash of a window."""
    size = (1 << 128) // WINDOWS
    return f"{number * size:032x}", f"{(number + 1) * size - 1:032x}"


def _entities(connection: Connection[Row], name: str) -> list[tuple[str, str, list[str]]]:
    """Each entity, its id column and the tables of its sets."""
    return connection.execute(
        sql.SQL(
            "select e.entity, e.definition->>'id', array(select s.table_name from {sets} s"
            " where s.entity = e.entity order by s.number) from {entities} e order by 1"
        ).format(entities=Identifier(name, "entities"), sets=Identifier(name, "vector_sets"))
    ).fetchall()


def _as_stored(connection: Connection[Row], name: str, entity: str) -> TableNames:
    """The names of the tables of an entity whose definition an earlier version wrote."""
    stored = connection.execute(
        sql.SQL("select definition, id_type from {} where entity = %s").format(
            Identifier(name, "entities")
        ),
        (entity,),
    )
    definition, id_type = only(stored)
    return TableNames(name, Source(_readable(definition), {}, id_type, (), {}))


def _readable(definition: dict[str, Any]) -> Entity:
    """The entity of a stored declaration, without the keys that this version cannot read. A
    migration needs the columns only, and the next run stores the declaration of the dbt project."""
    try:
        return Entity.model_validate(definition)
    except ValidationError as error:
        unreadable = {problem["loc"][0] for problem in error.errors()}
        return Entity.model_validate({k: v for k, v in definition.items() if k not in unreadable})


def _stub(connection: Connection[Row], name: str, view: str) -> None:
    """Replace a view by an empty one with the same columns, so that the tables it reads can be
    altered, and the views that read it stay."""
    columns = connection.execute(
        "select attname, format_type(atttypid, atttypmod) from pg_attribute"
        " where attrelid = to_regclass(format('%%I.%%I', %s::text, %s::text)) and attnum > 0"
        " order by attnum",
        (name, view),
    ).fetchall()
    if columns:
        connection.execute(
            sql.SQL("create or replace view {} as select {} where false").format(
                Identifier(name, view),
                sql.SQL(", ").join(
                    sql.SQL("null::{} as {}").format(sql.SQL(kind), Identifier(column))
                    for column, kind in columns
                ),
            )
        )


def _separate_identities(connection: Connection[Row], name: str) -> None:
    """Move the description of the model from each set to `model_identities`."""
    _execute(connection, name, "create table if not exists {model_identities} ({identity_columns})")
    for statement in (
        """
        insert into {model_identities}
            (number, provider, model, revision, dimension, max_tokens, normalized,
            document_prompt, cache_table, seeded)
        select n, provider, model, revision, dimension, max_tokens, normalized,
            '', 'embedding_cache_' || n, 0
        from (
            select *, row_number() over (
                order by provider, model, revision, dimension, max_tokens, normalized
            ) as n
            from (
                select distinct provider, model, revision, dimension, max_tokens, normalized
                from {vector_sets}
            ) as used
        ) as numbered
        """,
        "alter table {vector_sets} add identity int references {model_identities}",
        """
        update {vector_sets} s set identity = i.number from {model_identities} i
        where (i.provider, i.model, i.revision, i.dimension, i.max_tokens, i.normalized)
            = (s.provider, s.model, s.revision, s.dimension, s.max_tokens, s.normalized)
        """,
        """
        alter table {vector_sets} alter identity set not null,
            drop provider, drop model, drop revision, drop dimension, drop max_tokens,
            drop normalized
        """,
    ):
        _execute(connection, name, statement)
    for stored in identities.all_of(connection, name):
        identities.ensure(connection, name, stored.identity)


def _migrate_texts(connection: Connection[Row], name: str, entity: str) -> None:
    texts = f"{entity}_texts"
    for index in ("by_partition", "by_fingerprint", "by_term"):
        connection.execute(
            sql.SQL("drop index if exists {}").format(Identifier(name, f"{texts}_{index}"))
        )
    for statement in (
        "alter table {texts} rename terms to lexemes",
        "alter table {texts} add part_hashes uuid[], alter text_hash type uuid using {short_hash}",
        """
        update {texts} set part_hashes = array(
            select encode(substring(sha256(convert_to('[' || to_json(part)::text || ']', 'UTF8'))
                from 1 for 16), 'hex')::uuid
            from unnest(parts) with ordinality as p (part, n) order by n
        ) where parts is not null
        """,
    ):
        _execute(connection, name, statement, texts=Identifier(name, texts))


def _migrate_set(
    connection: Connection[Row], name: str, entity: str, id_column: str, table: str
) -> None:
    for index in ("by_hash", "by_origin"):
        connection.execute(
            sql.SQL("drop index if exists {}").format(Identifier(name, f"{table}_{index}"))
        )
    for statement in (
        "alter table {vectors} add version bigint not null default {former},"
        " alter text_hash type uuid using {short_hash},"
        " drop constraint {key}",
        "alter table {vectors} rename embedded_at to updated_at",
        """
        update {vectors} set version = {renewed} from {vector_sets} s
        where s.table_name = {table_name} and updated_at >= s.force_since and reused_from is null
        """,
        "alter table {vectors} drop reused_from, alter version drop default,"
        " add primary key ({id}, chunk) include (text_hash, version)",
    ):
        _execute(
            connection,
            name,
            statement,
            vectors=Identifier(name, table),
            key=Identifier(f"{table}_pkey"),
            id=Identifier(id_column),
            table_name=Literal(table),
        )


def _execute(
    connection: Connection[Row], name: str, statement: LiteralString, **names: sql.Composable
) -> None:
    shared: dict[str, sql.Composable] = {
        table: Identifier(name, table)
        for table in (
            "schema_version",
            "entities",
            "run_ledger",
            "vector_sets",
            "model_identities",
            "quarantine",
            "renewals",
            "evictions",
        )
    }
    connection.execute(
        sql.SQL(statement).format(
            **shared,
            candidates=Identifier(name, "cache_candidates"),
            former_quarantine=Identifier(name, "quarantine_of_version_0"),
            versions=Literal(Identifier(name, "embedding_versions").as_string(connection)),
            identity_columns=schema.columns_sql("model_identities", name),
            # the first 16 of the 32 bytes of a sha256
            short_hash=sql.SQL("encode(substring(text_hash from 1 for 16), 'hex')::uuid"),
            former=Literal(_FORMER),
            renewed=Literal(_RENEWED),
            **names,
        )
    )
