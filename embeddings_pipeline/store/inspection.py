"""What a server, its extension and a role's privileges are. Reads the catalogue alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from psycopg import Connection
from psycopg.sql import Identifier

from embeddings_pipeline.store.connection import Row, only


class SchemaPrivileges(NamedTuple):
    """What this role may do with a schema. `unread` counts the tables that it may not read,
    `foreign` those that it does not own."""

    exists: bool
    create: bool
    usage: bool
    create_schema: bool
    unread: int
    foreign: int


class TablePrivilege(NamedTuple):
    """Whether a table or view is there, whether this role may read it, or columns of it, and
    whether row-level security applies to what it reads."""

    schema: str
    name: str
    exists: bool
    readable: bool
    row_security: bool


class ExtensionState(NamedTuple):
    """The version of pgvector that the database has, the one that the server offers, None for
    none, and whether this role may create it."""

    installed: str | None
    available: str | None
    allowed: bool


class ServerConnections(NamedTuple):
    """The connections that a server has for roles without privileges, and those in use."""

    most: int
    used: int


class TableHolder(NamedTuple):
    """A session that holds some tables, for how many seconds where this role may see that, and
    whether another session waits for it."""

    process: int
    user: str | None
    application: str | None
    seconds: float | None
    tables: str
    waited_for: bool


class IndexMemory(NamedTuple):
    """maintenance_work_mem as it is set, and in bytes; and shared_buffers in bytes."""

    setting: str
    work: int
    shared: int


def schema_privileges(connection: Connection[Row], schema: str) -> SchemaPrivileges:
    """The privileges of this role on a schema, which may not exist."""
    row = only(
        connection.execute(
            """
            select n.oid is not null, coalesce(has_schema_privilege(n.oid, 'create'), false),
                coalesce(has_schema_privilege(n.oid, 'usage'), false),
                has_database_privilege(current_database(), 'create'),
                (select count(*) from pg_class c where c.relnamespace = n.oid
                    and c.relkind in ('r', 'p', 'v') and not has_table_privilege(c.oid, 'select')),
                (select count(*) from pg_class c where c.relnamespace = n.oid
                    and c.relkind in ('r', 'p', 'v') and not pg_has_role(c.relowner, 'usage'))
            from (select) as one left join pg_namespace n on n.nspname = %s
            """,
            (schema,),
        )
    )
    return SchemaPrivileges(*row)


def table_privileges(
    connection: Connection[Row], places: Sequence[tuple[str, str]]
) -> list[TablePrivilege]:
    """The privileges of this role on tables and views, each given by its schema and name."""
    rows = connection.execute(
        """
        select schema, name, c.oid is not null,
            coalesce(has_schema_privilege(n.oid, 'usage')
                and has_any_column_privilege(c.oid, 'select'), false),
            coalesce(row_security_active(c.oid), false)
        from unnest(%s::text[], %s::text[]) as place (schema, name)
        left join pg_namespace n on n.nspname = schema
        left join pg_class c on c.relnamespace = n.oid and c.relname = name
        """,
        ([schema for schema, _ in places], [name for _, name in places]),
    )
    return [TablePrivilege(*row) for row in rows]


def begins_read_only(connection: Connection[Row]) -> bool:
    """Whether a setting of the role or the database makes its transactions read-only."""
    return bool(
        only(connection.execute("select current_setting('default_transaction_read_only')::bool"))[0]
    )


def extension_state(connection: Connection[Row]) -> ExtensionState:
    """The state of the extension vector."""
    row = only(
        connection.execute(
            """
            select (select extversion from pg_extension where extname = 'vector'),
                (select default_version from pg_available_extensions where name = 'vector'),
                (select rolsuper from pg_roles where rolname = current_user)
                    or has_database_privilege(current_database(), 'create') and exists (
                        select from pg_available_extension_versions
                        where name = 'vector' and trusted)
            """
        )
    )
    return ExtensionState(*row)


def server_connections(connection: Connection[Row]) -> ServerConnections:
    """The connections of the server, in all its databases."""
    row = only(
        connection.execute(
            """
            select current_setting('max_connections')::int
                - current_setting('superuser_reserved_connections')::int
                -- since Postgres 16
                - coalesce(current_setting('reserved_connections', true)::int, 0),
                (select sum(numbackends)::int from pg_stat_database)
            """
        )
    )
    return ServerConnections(*row)


def table_holders(
    connection: Connection[Row], schema: str, places: Sequence[tuple[str, str]], seconds: float
) -> list[TableHolder]:
    """The sessions that hold tables of a schema, or tables given by their schema and name: those
    for which others wait, and those of other programs in a transaction of more than `seconds`."""
    rows = connection.execute(
        """
        with tables as (
            select c.oid, format('%%I.%%I', nspname, relname) as name
            from pg_class c join pg_namespace n on n.oid = relnamespace
            where relkind in ('r', 'p', 'v', 'm') and (nspname = %s
                or (nspname, relname) in (select * from unnest(%s::name[], %s::name[])))
        ), waiting as (
            select distinct unnest(pg_blocking_pids(pid)) as pid from pg_locks where not granted
        )
        select l.pid, a.usename, a.application_name,
            extract(epoch from clock_timestamp() - a.xact_start)::float8 as seconds,
            string_agg(distinct t.name, ', '), w.pid is not null
        from pg_locks l
        join tables t on t.oid = l.relation
        left join pg_stat_activity a on a.pid = l.pid
        left join waiting w on w.pid = l.pid
        where l.granted and l.pid <> pg_backend_pid()
            and l.database = (select oid from pg_database where datname = current_database())
            and (w.pid is not null or (a.application_name <> current_setting('application_name')
                and a.xact_start < clock_timestamp() - make_interval(secs => %s)))
        group by l.pid, a.usename, a.application_name, a.xact_start, w.pid
        order by seconds desc nulls last
        """,
        (schema, [schema for schema, _ in places], [name for _, name in places], seconds),
    )
    return [TableHolder(*row) for row in rows]


def index_memory(connection: Connection[Row]) -> IndexMemory:
    """The memory that an index build may take."""
    row = only(
        connection.execute(
            "select current_setting('maintenance_work_mem'),"
            " pg_size_bytes(current_setting('maintenance_work_mem')),"
            " pg_size_bytes(current_setting('shared_buffers'))"
        )
    )
    return IndexMemory(*row)


def estimated_rows(connection: Connection[Row], schema: str, table: str) -> int:
    """The planner's estimate of a table's rows; 0 where there is no such table."""
    name = Identifier(schema, table).as_string(connection)
    (rows,) = only(
        connection.execute(
            "select coalesce(max(reltuples), 0)::bigint from pg_class where oid = to_regclass(%s)",
            (name,),
        )
    )
    return int(rows)


def clock(connection: Connection[Row]) -> float:
    """The time of the server, in seconds since 1970."""
    (now,) = only(connection.execute("select extract(epoch from clock_timestamp())::float8"))
    return float(now)
