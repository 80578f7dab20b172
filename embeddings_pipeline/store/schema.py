"""What all entities share in a database, in this version: extension, schema and tables."""

from __future__ import annotations

import re

from psycopg import Connection, sql
from psycopg.errors import FeatureNotSupported, InsufficientPrivilege, UndefinedFile
from psycopg.sql import Identifier

from embeddings_pipeline.errors import ConfigurationError, RunNeeded, Unavailable
from embeddings_pipeline.store.connection import Row, columns_of, only
from embeddings_pipeline.store.texts import lexemes

MINIMUM_SERVER = 140000
# the first version with hnsw.iterative_scan
OLDEST_PGVECTOR = "0.8"
# the version of all tables; `migrations` updates older ones
VERSION = 5

_TABLES = {
    "schema_version": """
        version int not null,
        migrated_at timestamptz not null default clock_timestamp()
    """,
    "entities": """
        entity text primary key,
        definition jsonb not null,
        definition_hash text not null,
        id_type text not null,
        partition_scheme text not null,
        passes jsonb not null default '{}',
        publish_held boolean not null default false,
        last_pass_at timestamptz,
        documents bigint,
        average_tokens double precision,
        counted_at timestamptz
    """,
    "model_identities": """
        number int primary key,
        provider text not null,
        model text not null,
        revision text not null,
        dimension int not null,
        max_tokens int not null,
        normalized boolean not null,
        document_prompt text not null,
        cache_table text not null unique,
        unused_since timestamptz,
        -- parts of its sets that a migration has copied into its cache, of 64
        seeded int not null default 64,
        unique (provider, model, revision, dimension, max_tokens, normalized, document_prompt)
    """,
    "vector_sets": """
        entity text not null references {schema}.entities on delete cascade,
        number int not null,
        identity int not null references {schema}.model_identities,
        storage text not null,
        query_prompt text not null default '',
        metric text not null,
        table_name text not null,
        state text not null check (state in ('building', 'live', 'retired')),
        created_at timestamptz not null default now(),
        published_at timestamptz,
        index_settings jsonb,
        index_rows bigint,
        recall double precision,
        ef_search int,
        indexed_at timestamptz,
        recall_check jsonb,
        text_weight double precision,
        primary key (entity, number)
    """,
    "retrieval_checks": """
        entity text not null,
        vector_set int not null,
        measured_at timestamptz not null default clock_timestamp(),
        rows bigint not null,
        -- the golden queries, and nDCG@10 and recall@10 of each
        golden_hash text not null,
        scores jsonb not null,
        primary key (entity, vector_set),
        foreign key (entity, vector_set)
            references {schema}.vector_sets (entity, number) on delete cascade
    """,
    "cache_candidates": """
        entity text not null,
        text_hash uuid not null,
        since timestamptz not null default clock_timestamp(),
        erased boolean not null,
        primary key (entity, text_hash)
    """,
    "renewals": """
        entity text not null,
        vector_set int not null,
        floor bigint not null,
        partition_keys text[],
        primary key (entity, vector_set, floor)
    """,
    "claims": """
        identity int not null references {schema}.model_identities,
        run_id text not null,
        version bigint not null,
        hashes uuid[] not null,
        leased_until timestamptz not null,
        pid int not null,
        primary key (identity, run_id, version)
    """,
    "quarantine": """
        entity text,
        id text,
        chunk int,
        identity int references {schema}.model_identities,
        text_hash uuid,
        stage text not null check (stage in ('partition', 'render', 'encode')),
        error text not null,
        attempts int not null default 1,
        first_seen timestamptz not null default clock_timestamp(),
        last_seen timestamptz not null default clock_timestamp(),
        check ((stage = 'encode') = (identity is not null and text_hash is not null)),
        check ((stage = 'encode') = (entity is null and id is null and chunk is null))
    """,
    "erasures": """
        entity text not null,
        id text not null,
        erased_at timestamptz not null default now(),
        primary key (entity, id)
    """,
    "run_ledger": """
        entity text not null,
        run_id text not null,
        kind text not null,
        partition_keys text[] not null default '{}',
        model text,
        device text,
        started_at timestamptz not null default clock_timestamp(),
        finished_at timestamptz,
        plan jsonb,
        read bigint not null default 0,
        pending bigint not null default 0,
        encoded bigint not null default 0,
        reused bigint not null default 0,
        deleted bigint not null default 0,
        quarantined bigint not null default 0,
        truncated bigint not null default 0,
        tokens bigint not null default 0,
        cost_usd numeric not null default 0,
        saved_usd numeric not null default 0,
        seconds double precision not null default 0,
        encode_seconds double precision not null default 0,
        -- seconds by stage: texts, encode, index
        stages jsonb not null default '{}',
        primary key (entity, run_id)
    """,
    "quality_history": """
        entity text not null,
        measured_at timestamptz not null default clock_timestamp(),
        vector_set int not null,
        -- each measurement has one of the two
        recall_at_10 double precision,
        ndcg_at_10 double precision,
        primary key (entity, measured_at)
    """,
}
_UNIQUE_INDEXES = {
    "vector_sets_one_live": "{schema}.vector_sets (entity) where state = 'live'",
    "quarantine_of_rows": "{schema}.quarantine (entity, id, chunk) where stage <> 'encode'",
    "quarantine_of_texts": "{schema}.quarantine (identity, text_hash) where stage = 'encode'",
}


def check_server(connection: Connection[Row], schema: str) -> None:
    """Check the version of Postgres; create the extension vector and the schema where they are
    missing.

    Raises ConfigurationError with the command to run where that fails.
    """
    version = connection.info.server_version
    if version < MINIMUM_SERVER:
        raise ConfigurationError(
            f"the server of database {connection.info.dbname!r} is Postgres {version // 10000};"
            f" {MINIMUM_SERVER // 10000} is the oldest that works"
        )
    _ensure_extension(connection)
    _ensure_schema(connection, schema)


def is_too_old(pgvector: str) -> bool:
    """Whether a version of pgvector is older than the oldest that works."""
    found, oldest = ([int(p) for p in v.split(".")[:2]] for v in (pgvector, OLDEST_PGVECTOR))
    return found < oldest


def _ensure_extension(connection: Connection[Row]) -> None:
    found = connection.execute(
        "select e.extversion, n.nspname, has_schema_privilege(n.oid, 'usage')"
        " from pg_extension e join pg_namespace n on n.oid = e.extnamespace"
        " where e.extname = 'vector'"
    ).fetchone()
    if found is None:
        try:
            connection.execute("create extension vector")
        except (InsufficientPrivilege, FeatureNotSupported, UndefinedFile) as error:
            raise ConfigurationError(
                f"database {connection.info.dbname!r} lacks the extension vector"
                f" ({error.diag.message_primary}): install pgvector on the server and run"
                " `create extension vector` as a superuser"
            ) from None
    elif is_too_old(found[0]):
        raise ConfigurationError(
            f"pgvector is {found[0]}; {OLDEST_PGVECTOR} is the oldest that works: upgrade it"
            " and run `alter extension vector update` as a superuser"
        )
    elif not found[2]:
        user, schema = connection.info.user, found[1]
        raise ConfigurationError(
            f"user {user!r} may not use schema {schema!r}, which holds the extension vector: run"
            f' `grant usage on schema "{schema}" to "{user}"` as its owner'
        )


def _ensure_schema(connection: Connection[Row], schema: str) -> None:
    # `create schema if not exists` needs the privilege even where the schema exists
    if connection.execute("select 1 from pg_namespace where nspname = %s", (schema,)).fetchone():
        return
    user, database = connection.info.user, connection.info.dbname
    try:
        connection.execute(sql.SQL("create schema {}").format(Identifier(schema)))
    except InsufficientPrivilege:
        raise ConfigurationError(
            f"user {user!r} may not create schema {schema!r} in database {database!r}: run"
            f' `create schema "{schema}" authorization "{user}"` as its owner'
        ) from None


def create_missing(connection: Connection[Row], schema: str) -> None:
    """Create missing shared tables, indexes, sequences and functions."""
    statements = [
        sql.SQL("create table if not exists {} ({})").format(
            Identifier(schema, table), columns_sql(table, schema)
        )
        for table in _TABLES
    ]
    # `create index if not exists` waits for all who write the table before it finds the index
    indexes = {Identifier(schema, name).as_string(connection): name for name in _UNIQUE_INDEXES}
    missing = connection.execute(
        "select name from unnest(%s::text[]) as name where to_regclass(name) is null", ([*indexes],)
    )
    statements += [
        sql.SQL("create unique index if not exists {} on {}").format(
            Identifier(indexes[name]),
            sql.SQL(_UNIQUE_INDEXES[indexes[name]]).format(schema=Identifier(schema)),
        )
        for (name,) in missing
    ]
    statements += [
        sql.SQL("create sequence if not exists {}.embedding_versions").format(Identifier(schema)),
        sql.SQL("insert into {0} (version) select {1} where not exists (select from {0})").format(
            Identifier(schema, "schema_version"), sql.Literal(VERSION)
        ),
    ]
    # at once: a database in another place takes its time for each
    connection.execute(sql.SQL("; ").join(statements))
    lexemes.create_function(connection, schema)


def table_of_another_role(connection: Connection[Row], schema: str) -> str | None:
    """A shared table that the role does not own, and may thus not change in a migration; None where
    it owns all."""
    row = connection.execute(
        "select relname from pg_class where relnamespace = to_regnamespace(quote_ident(%s))"
        " and relname = any(%s) and not pg_has_role(relowner, 'usage') order by relname limit 1",
        (schema, [*_TABLES]),
    ).fetchone()
    return row[0] if row else None


def stored_version(connection: Connection[Row], schema: str) -> int | None:
    """The version of the tables; None where there are none. Raises ConfigurationError for tables
    that a later version made."""
    version: int | None = 0 if columns_of(connection, schema, "entities") else None
    if columns_of(connection, schema, "schema_version"):
        (version,) = only(
            connection.execute(
                sql.SQL("select max(version) from {}").format(Identifier(schema, "schema_version"))
            )
        )
    if version is not None and version > VERSION:
        raise ConfigurationError(
            f"the tables in schema {schema!r} have version {version}, and this program knows"
            f" version {VERSION}: install the version of embeddings-pipeline that made them, or a"
            " later one"
        )
    return version


def refuse_unreadable(connection: Connection[Row], schema: str) -> None:
    """Raise an error where searches cannot read the tables: RunNeeded where they are missing or of
    an earlier version, Unavailable where the role lacks a privilege. Writes nothing."""
    try:
        version = stored_version(connection, schema)
    except InsufficientPrivilege as error:
        user = connection.info.user
        raise Unavailable(
            f"user {user!r} may not read schema {schema!r} ({error.diag.message_primary}): run"
            f' `grant usage on schema "{schema}" to "{user}"` and'
            f' `grant select on all tables in schema "{schema}" to "{user}"`'
        ) from None
    if version is None:
        raise RunNeeded(f"schema {schema!r} has no tables yet: run `embeddings-pipeline run` first")
    if version < VERSION:
        raise RunNeeded(
            f"the tables in schema {schema!r} are of an earlier version: run"
            " `embeddings-pipeline db migrate` first"
        )


def refuse_altered(connection: Connection[Row], schema: str) -> None:
    """Raise ConfigurationError where the columns of a shared table differ from this version."""
    stored: dict[str, list[str]] = dict(
        connection.execute(
            "select relname, array_agg(attname::text) from pg_attribute a"
            " join pg_class c on c.oid = a.attrelid"
            " where relnamespace = to_regnamespace(quote_ident(%s)) and relname = any(%s)"
            " and attnum > 0 and not attisdropped group by relname",
            (schema, [*_TABLES]),
        ).fetchall()
    )
    for table, columns in _TABLES.items():
        wanted = set(re.findall(r"^\s{8}(\w+) (?!\()", columns, re.MULTILINE)) - _CONSTRAINT_WORDS
        present = set(stored.get(table, []))
        if present != wanted:
            lacks = ", ".join(sorted(wanted - present))
            extra = ", ".join(sorted(present - wanted))
            raise ConfigurationError(
                f"table {schema}.{table} differs from this version:"
                + (f" it lacks {lacks}" if lacks else "")
                + (" and" if lacks and extra else "")
                + (f" it has the extra columns {extra}" if extra else "")
                + ": undo the manual changes, or restore the schema from a backup"
            )


_CONSTRAINT_WORDS = {"primary", "unique", "check", "foreign"}


def columns_sql(table: str, schema: str) -> sql.Composable:
    """The column definitions of a shared table."""
    # `format` would take a default of '{}' for a placeholder
    parts = _TABLES[table].split("{schema}")
    separated = [sql.SQL(part) for part in parts]
    return sql.Composed([piece for part in separated for piece in (Identifier(schema), part)][1:])
