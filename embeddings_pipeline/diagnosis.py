"""What keeps this installation from working: a check for each thing that a run or a search needs.

The checks read. They write nothing, call no provider, download nothing and start no server.
"""

from __future__ import annotations

import difflib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from typing import Any, Literal, TypeAlias
from urllib.parse import unquote, urlsplit

import psycopg
from psycopg import Connection
from psycopg.errors import InsufficientPrivilege
from pydantic import SecretStr

from embeddings_pipeline.database import Database
from embeddings_pipeline.dbt_command import executable, require_project
from embeddings_pipeline.encoders.cache.encoder import Cache
from embeddings_pipeline.encoders.catalogue import known_models
from embeddings_pipeline.encoders.openai.endpoint import endpoint_of
from embeddings_pipeline.encoders.openai.models import remote_model
from embeddings_pipeline.entities.manifest import (
    Declared,
    entities_of,
    load_manifest,
    manifest_path,
)
from embeddings_pipeline.errors import ConfigurationError, EmbeddingsError
from embeddings_pipeline.settings import (
    Settings,
    opentelemetry_exporter,
    project_dir,
    written_variables,
)
from embeddings_pipeline.store import declarations, inspection, vector_sets
from embeddings_pipeline.store.connection import (
    CONNECTIONS_OF_RUN,
    CONNECTIONS_OF_SERVICE,
    SESSIONS_OF_RUN,
    SESSIONS_OF_SERVICE,
    Postgres,
    Row,
    connection_limit,
    consistent_read,
    is_pooled,
    replica_lag,
)
from embeddings_pipeline.store.embedded import server as embedded
from embeddings_pipeline.store.index.build import graph_bytes, settings_of
from embeddings_pipeline.store.schema import (
    MINIMUM_SERVER,
    OLDEST_PGVECTOR,
    VERSION,
    is_too_old,
    stored_version,
)
from embeddings_pipeline.sync.run_metrics import opentelemetry_installed

Level = Literal["ok", "warning", "wrong"]

# the uses of a database
_BOTH, _STAGING, _VECTORS, _REPLICA = "staging and vectors", "staging", "vectors", "replica"
_MISSPELT = 0.85
_CLOCK_SECONDS = 5
# a longer transaction of another program may keep a run from changing a table
_HELD_SECONDS = 60
# a load writes up to 4 GB of WAL (max_wal_size of the embedded server) beside its rows
_LITTLE_DISK, _NO_DISK = 5 << 30, 512 << 20
# a shorter secret may be a common word of a message
_SHORTEST_SECRET = 8


@dataclass(frozen=True)
class Finding:
    """What a check found, and what to do about it. Only `wrong` keeps a run or a search from
    working."""

    level: Level
    found: str
    advice: str = ""
    check: str = ""


class Surroundings:
    """What the checks look at: the settings, the databases that answer, and the manifest."""

    def __init__(self, settings: Settings, clock: Callable[[], float]) -> None:
        self.settings = settings
        self.clock = clock
        self._exits = ExitStack()

    @cached_property
    def servers(self) -> Mapping[str, Database]:
        """The configured databases by their use, or the embedded server where it runs."""
        vectors = self.settings.vectors_database
        if vectors is None:
            running = embedded.running(self.settings.embedded_data_dir)
            return {_BOTH: running} if running else {}
        staging = None if self.settings.only_searches else self.settings.staging_database
        found = {_BOTH if staging == vectors else _VECTORS: vectors}
        if staging and staging != vectors:
            found = {_STAGING: staging, **found}
        replica = self.settings.search_database
        if replica and replica != vectors:
            found[_REPLICA] = replace(replica, fallback=None)
        return found

    @cached_property
    def _opened(self) -> Mapping[str, Postgres | Exception]:
        """The databases that answer, or why they do not, by use."""
        return {use: self._open(database) for use, database in self.servers.items()}

    def _open(self, database: Database) -> Postgres | Exception:
        postgres = Postgres(
            database, max_size=SESSIONS_OF_RUN, reads=True, patience=5, statement_seconds=30
        )
        self._exits.callback(postgres.close)
        try:
            with postgres.connection():
                return postgres
        except (EmbeddingsError, psycopg.Error) as error:
            return error

    def problem(self, use: str) -> Exception | None:
        """Why a database does not answer."""
        found = self._opened[use]
        return found if isinstance(found, Exception) else None

    def problem_of_runs(self, use: str) -> Exception | None:
        """Why a run does not get the sessions that it needs of a database that answers."""
        found = self._opened[use]
        if isinstance(found, Exception):
            return found
        try:
            found.require(SESSIONS_OF_RUN)
        except (EmbeddingsError, psycopg.Error) as error:
            return error
        return None

    def keeps_sessions(self, use: str) -> bool:
        """Whether a database that answers is reached without a pooler in transaction mode."""
        found = self._opened[use]
        return isinstance(found, Postgres) and found.keeps_sessions

    @contextmanager
    def reading(self, use: str) -> Iterator[Connection[Row]]:
        """A transaction that may only read."""
        found = self._opened[use]
        if isinstance(found, Exception):
            raise found
        with found.connection() as connection, consistent_read(connection):
            yield connection

    def answering(self, *uses: str) -> Iterator[str]:
        """Which of the databases answer."""
        for use in self.servers:
            if use in uses and self.problem(use) is None:
                yield use

    @cached_property
    def declared(self) -> Declared:
        """The declarations of the manifest that is there; none where it cannot be read."""
        try:
            return entities_of(load_manifest(manifest_path(self.settings)))
        except ConfigurationError:
            return Declared()

    @property
    def staging_models(self) -> list[tuple[str, str]]:
        """The schema and the table of each staging model that declares an entity."""
        return sorted({(e.db_schema, e.table) for e in self.declared.entities.values()})

    @cached_property
    def models(self) -> set[str]:
        """The models that entities use, and EMBEDDING_MODEL where one of them, or none, uses it."""
        entities = self.declared.entities.values()
        return {entity.model or self.settings.embedding_model for entity in entities} or {
            self.settings.embedding_model
        }

    def secrets(self) -> list[str]:
        """The passwords and keys of the settings, long enough to be told from other words. The
        longest come first, since one may be a part of another."""
        try:
            databases = list(self.servers.values())
        except ConfigurationError:
            # of a password that cannot be read no message knows
            databases = []
        values = [getattr(self.settings, name) for name in Settings.model_fields]
        values += [database.password for database in databases]
        known = {value.get_secret_value() for value in values if isinstance(value, SecretStr)}
        for password in [urlsplit(value).password or "" for value in known if "://" in value]:
            known |= {password, unquote(password)}
        for database in databases:
            known -= {database.user, database.name, database.host}
        return sorted((one for one in known if len(one) >= _SHORTEST_SECRET), key=len, reverse=True)

    def close(self) -> None:
        """Close the connections."""
        self._exits.close()


Check: TypeAlias = Callable[[Surroundings], Iterable[Finding]]


def _ok(found: str) -> Finding:
    return Finding("ok", found)


def _warning(found: str, advice: str) -> Finding:
    return Finding("warning", found, advice)


def _wrong(found: str, advice: str = "") -> Finding:
    return Finding("wrong", found, advice)


def _settings(around: Surroundings) -> Iterator[Finding]:
    file = project_dir() / ".env"
    source = str(file) if file.is_file() else f"the environment (there is no {file})"
    yield _ok(f"read from {source}")
    known = {name.upper() for name in Settings.model_fields}
    for name in sorted(written_variables() - known):
        for meant in difflib.get_close_matches(name, known, n=1, cutoff=_MISSPELT):
            yield _warning(f"{name} is not read", f"write {meant} if you mean that")
    if not around.settings.embedding_enabled:
        yield _warning("EMBEDDING_ENABLED is false: nothing is encoded", "set it to true to encode")


def _servers(around: Surroundings) -> Iterator[Finding]:
    if not around.servers:
        yield _warning(
            f"no embedded Postgres runs in {around.settings.embedded_data_dir}, so its tables are"
            " not checked",
            "`embeddings-pipeline db start` starts it; so do `run` and `plan`",
        )
    if around.settings.only_searches:
        yield _warning(
            "STAGING_DB_* is not set: searches only",
            "set the database of the staging models, also where it is the one of PGVECTOR_*",
        )
    for use in around.servers:
        problem = around.problem(use)
        if problem is None:
            yield _server(around, use)
        elif use == _REPLICA:
            yield _warning(f"{use}: {problem}", "searches read the primary meanwhile")
        else:
            yield _wrong(f"{use}: {problem}", "start the server, or correct its variables")


def _server(around: Surroundings, use: str) -> Finding:
    with around.reading(use) as connection:
        version = connection.info.server_version
        lag = replica_lag(connection)
        pooled = is_pooled(connection)
        read_only = inspection.begins_read_only(connection)
    behind = lag is not None
    pooler = "through a pooler in session mode" if pooled else "without a pooler"
    if not around.keeps_sessions(use):
        pooler = "through a pooler in transaction mode"
    kind = "primary" if lag is None else f"replica, {lag:,.1f} s behind"
    described = (
        f"{use}: Postgres {version // 10000}.{version % 10000}, {around.servers[use]},"
        f" {kind}, {pooler}"
    )
    if version < MINIMUM_SERVER:
        return _wrong(described, f"Postgres {MINIMUM_SERVER // 10000} is the oldest that works")
    if use == _REPLICA:
        if not behind:
            return _warning(
                f"{described}: PGVECTOR_REPLICA_URL is a primary", "name a replica, or unset it"
            )
        return _ok(described)
    if behind and use != _STAGING:
        return _warning(f"{described}: a replica: searches only", "name the primary for runs")
    if read_only and use != _STAGING:
        return _warning(
            f"{described}: default_transaction_read_only is on: searches only",
            "set it to off for the role of runs",
        )
    if not around.keeps_sessions(use):
        return _warning(
            f"{described}: searches only",
            "set pool_mode = session for this database, or connect to the server directly, for"
            " runs",
        )
    return _ok(described)


def _tables(around: Surroundings) -> Iterator[Finding]:
    schema = around.settings.pgvector_schema
    version = _stored_version(around)
    if version is None:
        return
    if version == "none":
        yield _ok(f"schema {schema!r} has no tables yet")
    elif version < VERSION:
        yield _warning(
            f"the tables in schema {schema!r} have version {version}, this program {VERSION}",
            "the next run migrates them: `embeddings-pipeline db migrate --dry-run` shows how",
        )
    else:
        yield _ok(f"the tables in schema {schema!r} have version {version}")


def _stored_version(around: Surroundings) -> int | Literal["none"] | None:
    """The version of the tables, or that there are none; None where they cannot be read."""
    try:
        for use in around.answering(_BOTH, _VECTORS):
            with around.reading(use) as connection:
                version = stored_version(connection, around.settings.pgvector_schema)
                return "none" if version is None else version
    except InsufficientPrivilege:
        # the check of the privileges says so
        pass
    return None


def _privileges(around: Surroundings) -> Iterator[Finding]:
    for use in around.answering(_BOTH, _VECTORS):
        with around.reading(use) as connection:
            yield _schema_privileges(connection, around.settings.pgvector_schema)
    for use in around.answering(_BOTH, _STAGING):
        with around.reading(use) as connection:
            yield from _staging_privileges(connection, around.staging_models)


def _schema_privileges(connection: Connection[Row], schema: str) -> Finding:
    exists, create, usage, create_schema, unread, foreign = inspection.schema_privileges(
        connection, schema
    )
    user = connection.info.user
    if not exists:
        missing = f"vectors: schema {schema!r} is not there yet, and user {user!r}"
        if create_schema:
            return _ok(f"{missing} may create it")
        return _wrong(
            f"{missing} may not create it",
            f'run `create schema "{schema}" authorization "{user}"` as the owner of the database',
        )
    if create and not foreign:
        return _ok(f"vectors: user {user!r} may write in schema {schema!r}")
    if not usage or unread:
        return _wrong(
            f"vectors: user {user!r} may not read schema {schema!r}",
            f'run `grant usage on schema "{schema}" to "{user}"` and'
            f' `grant select on all tables in schema "{schema}" to "{user}"`',
        )
    return _warning(
        f"vectors: user {user!r} may only read schema {schema!r}: searches work, runs do not",
        "run as the role that owns the schema and its tables",
    )


def _staging_privileges(
    connection: Connection[Row], models: Sequence[tuple[str, str]]
) -> Iterator[Finding]:
    if not models:
        return
    rows = inspection.table_privileges(connection, models)
    user = connection.info.user
    for schema, name, exists, readable, row_security in rows:
        if not exists:
            yield _warning(f"staging: {schema}.{name} is not there", "build it: `run` does")
        elif not readable:
            yield _wrong(
                f"staging: user {user!r} may not read {schema}.{name}",
                f'run `grant usage on schema "{schema}" to "{user}"` and'
                f' `grant select on "{schema}"."{name}" to "{user}"`',
            )
        elif row_security:
            yield _warning(
                f"staging: row-level security decides which rows of {schema}.{name} user {user!r}"
                " reads; to a run the others are deleted",
                f'give the role a policy for all rows, or `alter role "{user}" bypassrls`',
            )
    if all(row.exists and row.readable and not row.row_security for row in rows):
        yield _ok(f"staging: user {user!r} may read {_plural(len(rows), 'staging model')}")


def _connections(around: Surroundings) -> Iterator[Finding]:
    for use in around.answering(_BOTH, _VECTORS):
        if not around.keeps_sessions(use):
            # the check of the server says so, and clients of such a pooler hold no sessions
            continue
        with around.reading(use) as connection:
            limit, place = connection_limit(connection)
            server = inspection.server_connections(connection)
            schema = inspection.schema_privileges(connection, around.settings.pgvector_schema)
            pooled = is_pooled(connection)
        found = (
            f"{use}: a run needs {SESSIONS_OF_RUN} connections at a time and takes up to"
            f" {CONNECTIONS_OF_RUN}, the search service {SESSIONS_OF_SERVICE} and up to"
            f" {sum(CONNECTIONS_OF_SERVICE)}; the server has {server.most:,}, {server.used:,} in"
            " use"
        )
        if limit is not None:
            found += f"; {place} may have {limit:,}"
        runs = schema.create if schema.exists else schema.create_schema
        if runs and (problem := around.problem_of_runs(use)):
            yield _wrong(f"{use}: a run: {problem}")
        elif limit is not None and limit < SESSIONS_OF_SERVICE:
            yield _wrong(found, f"run `alter {place} connection limit N` as an administrator")
        elif not pooled and server.most - server.used < SESSIONS_OF_RUN:
            yield _warning(found, "end other sessions, or raise max_connections of the server")
        else:
            yield _ok(found)


def _locks(around: Surroundings) -> Iterator[Finding]:
    schema = around.settings.pgvector_schema
    for use in around.answering(_BOTH, _STAGING, _VECTORS):
        with around.reading(use) as connection:
            holders = inspection.table_holders(
                connection, schema, around.staging_models, _HELD_SECONDS
            )
        for holder in holders:
            found = f"{use}: process {holder.process}"
            if holder.user:
                found += f" of user {holder.user!r} ({holder.application})"
            found += f" holds {holder.tables}"
            if holder.seconds is not None:
                found += f" in a transaction of {holder.seconds:,.0f} s"
            if holder.waited_for:
                found += ", and others wait for it"
            yield _warning(
                found, f"let it end, or run `select pg_terminate_backend({holder.process})`"
            )
        if not holders:
            yield _ok(f"{use}: no transaction of another program holds a table for long")


def _extension(around: Surroundings) -> Iterator[Finding]:
    for use in around.answering(_BOTH, _VECTORS):
        with around.reading(use) as connection:
            installed, available, allowed = inspection.extension_state(connection)
            name = connection.info.dbname
        if installed is None and available is None:
            yield _wrong(f"the server of database {name!r} has no pgvector", "install pgvector")
        elif installed is None and allowed:
            yield _ok(f"vector {available} is not created yet in {name!r}: the first run does")
        elif installed is None:
            yield _wrong(
                f"vector {available} is not created in database {name!r}",
                "run `create extension vector` as a superuser",
            )
        elif is_too_old(installed):
            yield _wrong(
                f"vector {installed} in database {name!r}: {OLDEST_PGVECTOR} is the oldest that"
                " works",
                "upgrade pgvector and run `alter extension vector update` as a superuser",
            )
        else:
            yield _ok(f"vector {installed}")


def _index_memory(around: Surroundings) -> Iterator[Finding]:
    if _stored_version(around) != VERSION:
        return
    schema = around.settings.pgvector_schema
    for use in around.answering(_BOTH, _VECTORS):
        with around.reading(use) as connection:
            setting, work, shared = inspection.index_memory(connection)
            graphs = _graphs(connection, schema)
        if not graphs:
            yield _ok(f"maintenance_work_mem {setting}; no HNSW index is declared yet")
            continue
        wanted, name = max(graphs)
        # a build raises maintenance_work_mem by itself, to at most twice shared_buffers
        most = max(work, 2 * shared)
        raised = f", raised to {_size(most)} where needed" if most > work else ""
        found = (
            f"maintenance_work_mem {setting}{raised}; the largest graph, of {name}, takes about"
            f" {_size(wanted)}"
        )
        if wanted <= most:
            yield _ok(found)
        else:
            yield _warning(
                f"{found}: its build is many times slower",
                f"set maintenance_work_mem to {-(-wanted >> 20)}MB for this role, if the machine"
                " has that memory",
            )


def _graphs(connection: Connection[Row], schema: str) -> list[tuple[int, str]]:
    """The bytes that the HNSW graph of each entity's set takes in memory, and the set."""
    entities, _ = declarations.stored_entities(connection, schema)
    found = []
    for name, vector_set in vector_sets.served_sets(connection, schema).items():
        estimate = inspection.estimated_rows(connection, schema, vector_set.table_name)
        rows = max(estimate, vector_set.index_rows or 0)
        settings = vector_set.index_settings
        if settings is None and name in entities:
            settings = settings_of(entities[name].index, vector_set.metric, rows)
        if settings and settings["type"] == "hnsw":
            described = f"entity {name!r} ({vector_set.model}, {rows:,} rows)"
            found.append((graph_bytes(vector_set, settings, rows), described))
    return found


def _clock(around: Surroundings) -> Iterator[Finding]:
    for use in around.answering(_BOTH, _STAGING, _VECTORS):
        with around.reading(use) as connection:
            before = around.clock()
            server = inspection.clock(connection)
            ahead = server - (before + around.clock()) / 2
        side = "ahead of" if ahead > 0 else "behind"
        found = f"{use}: the server is {abs(ahead):,.1f} s {side} this machine"
        if abs(ahead) > _CLOCK_SECONDS:
            yield _warning(found, "synchronise both with NTP")
        else:
            yield _ok(found)


def _models(around: Surroundings) -> Iterator[Finding]:
    for model in known_models(around.settings, sorted(around.models)):
        if model.model not in around.models or remote_model(model.model):
            continue
        if model.at_hand:
            yield _ok(f"{model.model} in {model.where}")
        elif model.where == "only on the hub":
            yield _warning(
                f"{model.model!r} is not on this machine",
                "the first run downloads it; EMBEDDING_MODEL_PATHS names a folder instead",
            )
        else:
            yield _wrong(f"{model.model!r}: {model.where}")


def _provider(around: Surroundings) -> Iterator[Finding]:
    remote = sorted(model for model in around.models if remote_model(model))
    if not remote:
        return
    names = ", ".join(remote)
    if find_spec("openai") is None:
        yield _wrong(
            f"{names}: the package openai is not installed",
            "pip install 'embeddings-pipeline[openai]'",
        )
    try:
        endpoint = endpoint_of(around.settings)
    except ConfigurationError as error:
        yield _wrong(f"{names}: {error}")
        return
    key = "OPENAI_API_KEY is set" if endpoint.key else "no key"
    yield _ok(f"{names}: {key}, for {endpoint.host}, which was not called")


def _dbt(around: Surroundings) -> Iterator[Finding]:
    settings = around.settings
    path = manifest_path(settings)
    if settings.dbt_manifest is None:
        require_project(settings)
        yield _ok(f"the command {executable()}")
        if not path.is_file():
            yield _warning(
                f"no manifest yet of {settings.dbt_project_dir}",
                "`embeddings-pipeline plan` writes it",
            )
            return
    declared = entities_of(load_manifest(path))
    for error in declared.broken.values():
        yield _wrong(str(error), "correct the yml and run again")
    for warning in declared.warnings:
        yield _warning(warning, "correct the yml")
    count = f"{len(declared.entities)} {'entity' if len(declared.entities) == 1 else 'entities'}"
    yield _ok(f"{count} in {path}")


def _redis(around: Surroundings) -> Iterator[Finding]:
    if around.settings.embedding_redis_url is None:
        return
    with closing(Cache(around.settings)) as cache:
        server = cache.stats().server
    if server is None:
        yield _warning(
            "EMBEDDING_REDIS_URL does not answer: each process keeps its own vectors of queries",
            "start Redis, or correct its address, its password or its ACL (INFO, DBSIZE)",
        )
    else:
        yield _ok(f"{server.keys:,} keys, {_size(server.memory_bytes)}")


def _dagster(around: Surroundings) -> Iterator[Finding]:
    settings, folder = around.settings, around.settings.dagster_folder
    if find_spec("dagster") is None:
        yield _ok("not installed: runs are reported to no instance")
    elif settings.dagster_home and not folder.is_dir():
        yield _wrong(f"DAGSTER_HOME {str(folder)!r} is not a folder", "create it")
    elif (folder / "dagster.yaml").is_file():
        yield from _instance(settings, (folder / "dagster.yaml").read_text())
    elif settings.dagster_home:
        yield _warning(
            f"DAGSTER_HOME {folder} has no dagster.yaml: runs that encode have no limit",
            "copy the project's dagster.yaml there",
        )
    else:
        yield _ok(f"no instance yet: `dev`, `demo` and `run --dagster` make one in {folder}")


def _instance(settings: Settings, text: str) -> Iterator[Finding]:
    # a part of Dagster, and not needed without it
    import yaml

    folder = settings.dagster_folder
    try:
        config: Any = yaml.safe_load(text) or {}
        pools = (config.get("concurrency") or {}).get("pools") or {}
        limit, granularity = pools.get("default_limit"), pools.get("granularity")
    except (yaml.YAMLError, AttributeError):
        # the error would quote the file, which may hold a password
        yield _wrong(f"{folder / 'dagster.yaml'} is not a mapping in YAML", "correct it")
        return
    if settings.dagster_home and settings.dagster_postgres_url and "storage" not in config:
        yield _warning(
            f"{folder / 'dagster.yaml'} has no storage: DAGSTER_POSTGRES_URL is ignored",
            "add the lines in the head of the project's dagster.yaml",
        )
    if limit is None or granularity != "run":
        yield _warning(
            f"the instance in {folder} has no limit of runs in a pool",
            "set concurrency.pools: {granularity: run, default_limit: 1} in its dagster.yaml",
        )
    else:
        yield _ok(f"the instance in {folder}; in a pool {_plural(limit, 'run')} at a time")


def _disk(around: Surroundings) -> Iterator[Finding]:
    settings = around.settings
    if settings.vectors_database is not None:
        return
    free = embedded.free_bytes(settings.embedded_data_dir)
    found = f"{_size(free)} free for the embedded Postgres in {settings.embedded_data_dir}"
    advice = "free some space, or set EMBEDDED_DATA_DIR to a folder with more"
    if free < _NO_DISK:
        yield _wrong(found, advice)
    elif free < _LITTLE_DISK:
        yield _warning(found, advice)
    else:
        yield _ok(found)


def _run_metrics(around: Surroundings) -> Iterator[Finding]:
    if exporter := opentelemetry_exporter():
        if opentelemetry_installed():
            yield _ok(f"metrics of runs to OpenTelemetry ({', '.join(exporter)})")
        else:
            yield _warning(
                "OTEL_* variables are set, and the SDK of OpenTelemetry is not installed: runs send"
                " no metrics",
                "install embeddings-pipeline[otel]",
            )
    file = around.settings.run_metrics_file
    if file is None:
        return
    if file.parent.is_dir() and os.access(file.parent, os.W_OK):
        yield _ok(f"figures of runs in {file}")
    else:
        yield _wrong(
            f"RUN_METRICS_FILE: {file.parent} is no folder that this user may write to",
            "create it, or let this user write to it",
        )


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:,.0f} {unit}"
        count /= 1024
    return f"{count:,.1f} GiB"


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


CHECKS: tuple[tuple[str, Check], ...] = (
    ("settings", _settings),
    ("server", _servers),
    ("extension", _extension),
    ("privileges", _privileges),
    ("connections", _connections),
    ("locks", _locks),
    ("tables", _tables),
    ("index memory", _index_memory),
    ("clock", _clock),
    ("disk", _disk),
    ("dbt", _dbt),
    ("models", _models),
    ("provider", _provider),
    ("redis", _redis),
    ("dagster", _dagster),
    ("run metrics", _run_metrics),
)


def diagnose(
    *,
    checks: Iterable[tuple[str, Check]] = CHECKS,
    clock: Callable[[], float] = time.time,
) -> list[Finding]:
    """The findings of the checks, in their order. Settings that cannot be read are the only finding
    then. A check that raises is a `wrong` finding. Secrets of the settings are replaced."""
    try:
        settings = Settings.load()
    except ConfigurationError as error:
        return [replace(_wrong(str(error).removeprefix("settings: ")), check="settings")]
    with closing(Surroundings(settings, clock)) as around:
        findings = [
            replace(finding, check=name)
            for name, check in checks
            for finding in _run(check, around)
        ]
        secrets = around.secrets()
    return [
        replace(
            finding,
            found=_without(secrets, finding.found),
            advice=_without(secrets, finding.advice),
        )
        for finding in findings
    ]


def _run(check: Check, around: Surroundings) -> list[Finding]:
    findings: list[Finding] = []
    try:
        findings.extend(check(around))
    except Exception as error:
        expected = isinstance(error, EmbeddingsError)
        described = str(error) if expected else f"the check failed: {type(error).__name__}: {error}"
        findings.append(_wrong(described))
    return findings


def _without(secrets: Iterable[str], text: str) -> str:
    for secret in secrets:
        text = text.replace(secret, "…")
    return text
