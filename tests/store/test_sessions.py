"""Runs on databases that are set up as other teams set them up: limits of roles and servers,
extensions elsewhere, poolers."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.sql import SQL, Identifier
from pydantic import SecretStr

from embeddings_pipeline import pipeline as pipeline_module
from embeddings_pipeline.database import Database
from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.errors import ConfigurationError, ReadOnly, Unavailable
from embeddings_pipeline.pipeline import Pipeline
from embeddings_pipeline.settings import Settings
from embeddings_pipeline.store import connection as store_connection
from embeddings_pipeline.store.connection import NoConnection, Postgres
from embeddings_pipeline.store.embedded import host
from embeddings_pipeline.store.embedded import server as embedded
from embeddings_pipeline.sync.run_options import RunOptions
from tests.support.databases import needs_version
from tests.support.declared import write_manifest
from tests.support.pgbouncer import pgbouncer
from tests.support.refusing import refusing
from tests.support.roles import role_in
from tests.support.waiting import until
from tests.support.words import WORDS, WordsEncoder
from tests.support.world import SCHEMA, World, world_in

# the model takes longer than each of the limits below
MODEL_SECONDS = 0.5


@pytest.fixture
def owner(superuser: Database) -> Iterator[Database]:
    """The test's database through a role of its own, which owns it."""
    with role_in(superuser, f'alter database "{superuser.name}" owner to {{role}}') as owner:
        yield owner


def administer(database: Database, *statements: str) -> None:
    with closing(psycopg.connect(database.url, autocommit=True)) as admin:
        for statement in statements:
            admin.execute(statement)


def run_twice(world: World, **keys: Any) -> None:
    """A first run and a run after a change, with a model that takes its time. `keys` are those of
    the declaration."""
    world.encoder.before = lambda texts: time.sleep(MODEL_SECONDS)
    world.table("id bigint, name text, kind text")
    world.insert(*((n, f"thing {n}", "a") for n in range(5)))
    entity = world.declare(filters=["kind"], **keys)
    world.run(entity)
    world.sql("update staging.stg_item set name = 'other thing' where id = 1")
    assert world.run(entity)["encoded"] == 1
    assert len(world.view()) == 5


@pytest.mark.parametrize(
    "setting",
    [
        "statement_timeout = '300ms'",
        "lock_timeout = '1ms'",
        "idle_in_transaction_session_timeout = '300ms'",
        "idle_session_timeout = '300ms'",
        "transaction_timeout = '300ms'",
        "search_path = ''",
        "search_path = pg_catalog",
        "timezone = 'Asia/Tokyo'; datestyle = 'German'; client_encoding = 'latin1';"
        " standard_conforming_strings = off",
        "default_transaction_isolation = 'repeatable read'",
        "work_mem = '64kB'; enable_hashjoin = off",
        # statements without a cheap plan
        "enable_seqscan = off; enable_indexscan = off; enable_bitmapscan = off; enable_sort = off",
        "plan_cache_mode = force_generic_plan; max_parallel_workers_per_gather = 4;"
        " parallel_setup_cost = 0; parallel_tuple_cost = 0; min_parallel_table_scan_size = 0",
        "default_text_search_config = 'pg_catalog.german'; transform_null_equals = on;"
        " intervalstyle = 'iso_8601'; bytea_output = 'escape'; maintenance_work_mem = '1MB'",
    ],
)
def test_a_run_works_whatever_its_role_is_set_to(
    database: Database, owner: Database, setting: str
) -> None:
    if setting.startswith("transaction_timeout"):
        needs_version(database, 17)
    administer(database, *(f"alter role {owner.user} set {one}" for one in setting.split(";")))
    with world_in(owner) as world:
        run_twice(world)


RAW = "create table staging.raw (id bigint, name text)"
# tables `staging.raw`, to which rows are written, and `staging.stg_item`
KINDS = {
    "a partition": f"{RAW} partition by list (id);"
    " create table staging.stg_item partition of staging.raw default",
    "partitioned": "create table staging.stg_item (id bigint, name text) partition by list (id);"
    " create table staging.raw partition of staging.stg_item default",
    "materialized": f"{RAW};"
    " create materialized view staging.stg_item as select * from staging.raw",
    "a view with a barrier": f"{RAW}; create view staging.stg_item with (security_barrier)"
    " as select * from staging.raw",
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_staging_model_may_be_any_kind_of_table(world: World, kind: str) -> None:
    world.sql(KINDS[kind])
    entity = world.declare()
    for rows in ("(1, 'pump'), (2, 'hose')", "(1, 'tap'), (2, 'hose')"):
        world.sql(f"delete from staging.raw; insert into staging.raw values {rows}")
        if kind == "materialized":
            world.sql("refresh materialized view staging.stg_item")
        world.run(entity)
    assert world.view() == {("1", 0): "name: tap", ("2", 0): "name: hose"}


def test_ids_that_a_collation_takes_for_equal_stay_apart(world: World) -> None:
    if not world.sql("select 1 from pg_collation where collname = 'und-x-icu'"):
        pytest.skip("takes a server with ICU")
    world.sql(
        "create collation staging.any_case"
        " (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
    )
    world.table("id text collate staging.any_case, name text")
    world.insert(("a", "pump"), ("A", "hose"))
    entity = world.declare(partitions={"count": 2})
    world.run(entity)
    world.sql("""update staging.stg_item set name = 'tap' where id collate "C" = 'A'""")
    world.run(entity)
    assert world.view() == {("a", 0): "name: pump", ("A", 0): "name: tap"}


@pytest.mark.parametrize(
    "statement",
    [
        "alter database {name} set {setting}",
        "alter role {user} in database {name} set {setting}",
        None,
    ],
    ids=["database", "role in a database", "PGOPTIONS"],
)
def test_a_run_works_wherever_a_limit_is_set(
    database: Database, owner: Database, monkeypatch: pytest.MonkeyPatch, statement: str | None
) -> None:
    for setting in ("statement_timeout", "idle_session_timeout"):
        if statement:
            given = {"name": owner.name, "user": owner.user, "setting": f"{setting} = '300ms'"}
            administer(database, statement.format(**given))
    if statement is None:
        limits = "-c statement_timeout=300ms -c idle_session_timeout=300ms"
        monkeypatch.setenv("PGOPTIONS", limits)
    with world_in(owner) as world:
        run_twice(world)


@pytest.mark.parametrize("setting", ["quote_all_identifiers = on", "extra_float_digits = -15"])
def test_a_row_is_unchanged_whatever_the_role_that_reads_it_is_set_to(
    database: Database, owner: Database, setting: str
) -> None:
    with world_in(owner) as world:
        world.table("id bigint, name text, price float8, paid money")
        world.insert((1, "Pump", 0.1 + 0.2, "1.5"))
        world.run(world.declare(filters=["price", "paid"]))
    administer(database, f"alter role {owner.user} set {setting}")
    with world_in(owner, fresh=False) as world:
        assert world.texts(world.declare(filters=["price", "paid"])).read == 0


@pytest.mark.parametrize(
    ("since", "locale"),
    [
        (17, "locale_provider builtin builtin_locale 'C'"),
        (18, "locale_provider builtin builtin_locale 'PG_UNICODE_FAST'"),
        (15, "locale_provider libc locale 'C.utf8'"),
        (14, "encoding 'SQL_ASCII' locale 'C'"),
        (14, "encoding 'LATIN1' locale 'C'"),
    ],
)
def test_a_run_works_in_a_database_of_any_locale(
    superuser: Database, since: int, locale: str
) -> None:
    needs_version(superuser, since)
    other = replace(superuser, name=f"{superuser.name}_of_a_locale")
    names = {"name": Identifier(other.name), "locale": SQL(locale)}
    with closing(psycopg.connect(superuser.url, autocommit=True)) as admin:
        admin.execute(SQL("create database {name} template template0 {locale}").format(**names))
        try:
            with world_in(other) as world:
                run_twice(world)
        finally:
            admin.execute(SQL("drop database {} with (force)").format(names["name"]))


def test_a_run_works_on_an_older_server(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "POSTGRES_VERSION", 16)
    # which has no collations of its own
    known = tuple(option for option in embedded.INITDB if "builtin" not in option)
    monkeypatch.setattr(embedded, "INITDB", known)
    server = embedded.start(data_dir)
    with closing(psycopg.connect(server.url)) as connection:
        assert connection.info.server_version // 10_000 == 16
    with world_in(server) as world:
        run_twice(world)
    embedded.stop(data_dir)


@pytest.mark.parametrize(
    ("path", "keys"),
    [
        ("public", {}),
        ("pg_catalog", {}),
        # each has types, operators and operator classes of its own
        ("public", {"storage": "halfvec"}),
        ("public", {"metric": "l2"}),
        ("public", {"metric": "ip", "storage": "halfvec", "index": "ivfflat"}),
        ("public", {"index": "none", "weights": {"name": 2, "kind": 1}}),
    ],
    ids=str,
)
def test_the_extension_may_be_in_a_schema_that_the_role_does_not_search(
    database: Database, owner: Database, path: str, keys: dict[str, Any]
) -> None:
    administer(
        database,
        "create schema extensions",
        "alter extension vector set schema extensions",
        f"grant usage on schema extensions to {owner.user}",
        f"alter role {owner.user} set search_path = {path}",
    )
    with world_in(owner) as world:
        run_twice(world, **keys)


@pytest.mark.parametrize("where", ["extensions", "public"])
def test_a_table_that_is_named_like_a_type_of_the_extension_is_not_taken_for_it(
    database: Database, owner: Database, where: str
) -> None:
    administer(
        database,
        "create schema extensions",
        "create schema app",
        f"alter extension vector set schema {where}",
        f"grant usage on schema extensions, app to {owner.user}",
        "create table app.vector (x int)",
        "create table app.halfvec (x int)",
        f"alter role {owner.user} set search_path = app, public",
    )
    with world_in(owner) as world:
        run_twice(world, storage="halfvec")


@contextmanager
def piped(
    database: Database, folder: Path, encoder: WordsEncoder | None = None
) -> Iterator[Pipeline]:
    """A pipeline over one row of `staging.stg_item`."""
    with closing(psycopg.connect(database.url)) as connection:
        connection.execute("create schema staging")
        connection.execute("create table staging.stg_item as select 1 as id, 'pump' as name")
        connection.commit()
    settings = Settings(
        _env_file=None,
        dbt_manifest=write_manifest(folder / "manifest.json", include=["name"]),
        staging_db_url=SecretStr(database.url),
        pgvector_url=SecretStr(database.url),
        embedding_model=WORDS.model,
    )
    with closing(Pipeline(settings)) as pipeline:
        pipeline.encoders.add(encoder or WordsEncoder())
        yield pipeline


def run_pipeline(pipeline: Pipeline) -> None:
    """A run, a change, its plan, and a run again."""
    assert pipeline.run("item")[0].counts["encoded"] == 1
    with pipeline.staging.connection() as connection:
        connection.execute("update staging.stg_item set name = 'lamp'")
    assert pipeline.plan("item")[0].changed == 1
    assert pipeline.run("item")[0].counts["encoded"] == 1


@pytest.mark.parametrize("table", ["staging.stg_item", f"{SCHEMA}.item_texts"])
def test_the_status_says_that_another_transaction_locks_a_table(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    monkeypatch.setattr(pipeline_module, "_LOCK_SECONDS", 0.2)
    with piped(database, tmp_path) as pipeline:
        pipeline.run("item")
        with closing(psycopg.connect(database.url)) as migration:
            migration.execute(f"lock table {table} in access exclusive mode")
            (status,) = pipeline.status()
        assert "another transaction holds the same rows or tables" in str(status.problem)
        assert pipeline.status()[0].problem is None


def test_a_run_works_with_few_connections(
    database: Database, owner: Database, tmp_path: Path
) -> None:
    with piped(owner, tmp_path) as pipeline:
        administer(database, f"alter role {owner.user} connection limit 3")
        run_pipeline(pipeline)


@pytest.mark.parametrize("limit", ["role", "database"])
def test_a_run_is_told_of_a_limit_that_is_too_low_before_it_begins(
    database: Database, owner: Database, tmp_path: Path, limit: str
) -> None:
    encoder = WordsEncoder()
    with piped(owner, tmp_path, encoder) as pipeline:
        name = owner.user if limit == "role" else owner.name
        administer(database, f"alter {limit} {name} connection limit 2")
        with pytest.raises(
            ConfigurationError, match=rf"2 connections of {limit} {name} at a time.*needs 3"
        ):
            pipeline.run("item")
        assert not encoder.encoded


def test_a_run_is_told_of_a_privilege_that_it_lacks_before_it_begins(
    database: Database, owner: Database, tmp_path: Path
) -> None:
    encoder = WordsEncoder()
    with piped(owner, tmp_path, encoder) as pipeline:
        administer(database, f"revoke temporary on database {owner.name} from public, {owner.user}")
        for begin in (pipeline.plan, pipeline.run):
            with pytest.raises(ConfigurationError, match="grant temporary on database"):
                begin("item")
        assert not encoder.encoded


@pytest.mark.parametrize("size", [3, 8])
def test_a_pooler_in_session_mode_serves_a_run(
    database: Database, tmp_path: Path, size: int
) -> None:
    with (
        pgbouncer(database, "session", f"default_pool_size = {size}") as through,
        piped(through, tmp_path) as pipeline,
    ):
        run_pipeline(pipeline)


@pytest.mark.parametrize(
    ("size", "message"), [(1, "gives no second session"), (2, "gives user .* 2 of the 3 sessions")]
)
def test_a_pooler_with_too_few_sessions_is_said_to_have_too_few(
    database: Database, size: int, message: str
) -> None:
    with (
        pgbouncer(database, "session", f"default_pool_size = {size}") as through,
        closing(Postgres(through, patience=1)) as postgres,
        pytest.raises(NoConnection, match=f"{message}.*raise default_pool_size"),
    ):
        postgres.require(3)


def test_an_idle_connection_gives_its_session_to_other_clients_of_a_pooler(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_connection, "_POOLED_IDLE_SECONDS", 0.1)
    with (
        pgbouncer(database, "session", "default_pool_size = 3") as through,
        closing(Postgres(through)) as idle,
        closing(Postgres(through)) as run,
    ):
        with idle.connection(), idle.connection(), idle.connection():
            pass
        run.require(3)


def test_a_pooler_in_transaction_mode_is_refused_before_anything_is_written(
    database: Database,
) -> None:
    with (
        pgbouncer(database, "transaction") as through,
        pytest.raises(ReadOnly, match="set pool_mode = session"),
        world_in(through),
    ):
        raise AssertionError("connected")
    with closing(psycopg.connect(database.url)) as connection:
        found = connection.execute("select 1 from pg_namespace where nspname = %s", (SCHEMA,))
        assert found.fetchone() is None


def test_a_server_without_a_free_connection_is_waited_for_by_a_run(
    database: Database, owner: Database
) -> None:
    administer(database, f"alter role {owner.user} connection limit 1")
    with (
        closing(psycopg.connect(owner.url)),
        closing(Postgres(owner)) as postgres,
        pytest.raises(NoConnection, match="too many connections"),
        postgres.connection(),
    ):
        raise AssertionError("connected")


def test_a_database_that_is_closed_for_now_is_waited_for_by_a_run(
    database: Database, owner: Database
) -> None:
    elsewhere = replace(database, name="postgres")
    allow = f"alter database {database.name} allow_connections"
    administer(elsewhere, f"{allow} false")
    try:
        with (
            closing(Postgres(owner)) as postgres,
            pytest.raises(NoConnection, match="not currently accepting connections"),
            postgres.connection(),
        ):
            raise AssertionError("connected")
    finally:
        administer(elsewhere, f"{allow} true")


@pytest.mark.parametrize(
    "message",
    [
        "the database system is not yet accepting connections",
        "terminating connection due to administrator command",
        "remaining connection slots are reserved for roles with the SUPERUSER attribute",
        # PgBouncer
        "server login has been failing, try again later (server_login_retry)",
        "pgbouncer cannot connect to server",
        "query_wait_timeout",
        "no more connections allowed (max_client_conn)",
        # Supavisor, the proxies of RDS and of Neon, pgcat, Odyssey
        "MaxClientsInSessionMode: max clients reached - in Session mode max clients are limited to"
        " pool_size",
        "Max client connections reached",
        "Authentication query failed: Connection to database not available",
        "Timed-out waiting to acquire database connection",
        "Couldn't connect to compute node",
        "could not get connection from the pool - AllServersDown",
        "failed to connect to remote server db.example:5432",
    ],
)
def test_what_servers_and_poolers_say_when_they_take_no_connection_now_is_waited_for(
    message: str,
) -> None:
    with (
        refusing(message) as database,
        closing(Postgres(database)) as postgres,
        pytest.raises(NoConnection, match=re.escape(message)),
        postgres.connection(),
    ):
        raise AssertionError("connected")


@pytest.mark.parametrize(
    ("message", "code", "error"),
    [
        ("zu viele Verbindungen von Rolle »app«", "53300", NoConnection),
        ("die verbleibenden Verbindungen sind für Superuser reserviert", "53300", NoConnection),
        ("das Datenbanksystem startet", "57P03", NoConnection),
        ("Datenbank »x« akzeptiert gegenwärtig keine Verbindungen", "55000", NoConnection),
        ("データベースシステムは停止しています", "57P03", NoConnection),
        ("Passwort-Authentifizierung für Benutzer »app« fehlgeschlagen", "28P01", Unavailable),
        ("Datenbank »x« existiert nicht", "3D000", Unavailable),
    ],
)
def test_a_server_that_speaks_another_language_is_understood_by_its_codes(
    message: str, code: str, error: type[Exception]
) -> None:
    with (
        refusing(message, code) as database,
        closing(Postgres(database)) as postgres,
        pytest.raises(error, match=rf"{message} \(SQLSTATE {code}\)"),
        postgres.connection(),
    ):
        raise AssertionError("connected")


@pytest.mark.parametrize(
    "message",
    [
        'password authentication failed for user "app"',
        'database "x" does not exist',
        'no pg_hba.conf entry for host "10.0.0.1", user "app", database "x", no encryption',
        "Tenant or user not found",
        "no such user: app",
    ],
)
def test_a_refusal_for_good_is_not_waited_for(message: str) -> None:
    with (
        refusing(message) as database,
        closing(Postgres(database)) as postgres,
        pytest.raises(Unavailable, match=re.escape(message)),
        postgres.connection(),
    ):
        raise AssertionError("connected")


def test_a_server_whose_socket_is_gone_is_waited_for(tmp_path: Path) -> None:
    database = Database(str(tmp_path), 5432, "x", "app", SecretStr("x"))
    with (
        closing(Postgres(database)) as postgres,
        pytest.raises(NoConnection, match="No such file or directory"),
        postgres.connection(),
    ):
        raise AssertionError("connected")


@pytest.mark.parametrize(
    ("closed", "stage"),
    [
        ("role", lambda pipeline, item: pipeline.sync_texts(item, RunOptions("run"))),
        ("database", lambda pipeline, item: pipeline.sync_vectors(item, RunOptions("run"))),
        ("role", lambda pipeline, item: pipeline.sync_index(item)),
        ("database", lambda pipeline, item: pipeline.publish(item)),
    ],
    ids=["texts", "vectors", "index", "publish"],
)
def test_each_stage_waits_for_its_first_connection(
    database: Database,
    owner: Database,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    closed: str,
    stage: Callable[[Pipeline, Entity], object],
) -> None:
    with world_in(owner) as world:
        world.table("id bigint, name text")
        world.insert((1, "pump"))
        world.run(world.declare(include=["name"]))
    settings = Settings(
        _env_file=None,
        dbt_manifest=write_manifest(tmp_path / "manifest.json", include=["name"]),
        staging_db_url=SecretStr(owner.url),
        pgvector_url=SecretStr(owner.url),
        embedding_model=WORDS.model,
    )
    limit = f"alter {closed} {owner.user if closed == 'role' else owner.name} connection limit"
    with closing(Pipeline(settings)) as pipeline, ThreadPoolExecutor(1) as threads:
        pipeline.encoders.add(WordsEncoder())
        administer(database, f"{limit} 0")
        try:
            done = threads.submit(stage, pipeline, pipeline.entity("item"))
            until(lambda: done.done() or "too many connections" in caplog.text)
        finally:
            administer(database, f"{limit} -1")
        done.result(120)
    assert "too many connections" in caplog.text


def test_a_run_waits_for_a_server_that_is_stopped_when_it_begins(
    data_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = embedded.start(data_dir)
    with piped(server, tmp_path) as pipeline, ThreadPoolExecutor(1) as threads:
        embedded.stop(data_dir)
        try:
            done = threads.submit(pipeline.run, "item")
            until(lambda: done.done() or "Connection refused" in caplog.text)
        finally:
            embedded.start(data_dir)
        assert done.result(120)[0].counts["encoded"] == 1
