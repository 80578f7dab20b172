"""`embeddings-pipeline doctor`: what it finds, its exit code, and that it changes nothing."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr
from typer.testing import CliRunner, Result

from embeddings_pipeline import diagnosis
from embeddings_pipeline.cli.main import app
from embeddings_pipeline.database import Database
from embeddings_pipeline.diagnosis import Finding, diagnose
from embeddings_pipeline.settings import DEFAULT_MODEL
from embeddings_pipeline.store.embedded import server as embedded
from tests.support.databases import Templates
from tests.support.declared import write_manifest
from tests.support.environment import only_settings
from tests.support.pgbouncer import pgbouncer
from tests.support.redis_server import RedisServer
from tests.support.roles import role_in
from tests.support.standby import standby
from tests.support.waiting import until
from tests.support.words import WordsEncoder
from tests.support.world import SCHEMA, World

PASSWORD = "open-sesame-0123"


def manifest(path: Path, **keys: Any) -> Path:
    return write_manifest(path, **{"include": ["name"], **keys})


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a manifest, and no other settings."""
    only_settings(monkeypatch, DBT_MANIFEST=str(manifest(tmp_path / "manifest.json")))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def configured(database: Database, monkeypatch: pytest.MonkeyPatch) -> Database:
    """The databases of the settings."""
    monkeypatch.setenv("STAGING_DB_URL", database.url)
    monkeypatch.setenv("PGVECTOR_URL", database.url)
    return database


@pytest.fixture
def published(world: World, templates: Templates, configured: Database) -> World:
    """Two items with vectors."""
    templates.restore(world, publish_two_items)
    return world


def publish_two_items(world: World) -> None:
    world.table("id bigint, name text")
    world.insert((1, "pump"), (2, "hose"))
    world.run(world.declare(include=["name"]))


@pytest.fixture
def role(superuser: Database) -> Iterator[Callable[..., Database]]:
    """Makes a role with these grants; returns the database as that role reaches it."""
    with ExitStack() as made:
        yield lambda *grants: made.enter_context(role_in(superuser, *grants))


def use(monkeypatch: pytest.MonkeyPatch, database: Database) -> None:
    monkeypatch.setenv("STAGING_DB_URL", database.url)
    monkeypatch.setenv("PGVECTOR_URL", database.url)


def doctor(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["doctor", *arguments])


def found(check: str, **options: Any) -> list[Finding]:
    return [finding for finding in diagnose(**options) if finding.check == check]


def only(check: str, **options: Any) -> Finding:
    (finding,) = found(check, **options)
    return finding


def setting(database: Database, name: str) -> str:
    """A setting of the server, which may be anybody's."""
    with closing(psycopg.connect(database.url)) as connection:
        row = connection.execute("select current_setting(%s)", (name,)).fetchone()
    assert row is not None
    return str(row[0])


def tree(folder: Path) -> set[tuple[str, int]]:
    return {(str(path), path.stat().st_mtime_ns) for path in folder.rglob("*")}


def test_each_check_is_one_line_and_a_right_setup_exits_with_0(published: World) -> None:
    result = doctor()
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert {line.split()[0] for line in lines} <= {"ok", "warning"}
    for check in ("settings", "server", "tables", "privileges", "extension", "index memory"):
        assert any(line.startswith(f"ok       {check}: ") for line in lines), result.stdout
    document = json.loads(doctor("--json").stdout)
    assert [line.split()[0] for line in lines] == [c["level"] for c in document["checks"]]
    assert document["wrong"] == 0


def test_nothing_is_written_and_no_server_is_started(
    configured: Database, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDDED_DATA_DIR", str(project / "data"))
    before = tree(project)
    assert doctor().exit_code == 0
    assert tree(project) == before
    with closing(psycopg.connect(configured.url)) as connection:
        row = connection.execute("select to_regnamespace(%s) is null", (SCHEMA,)).fetchone()
    assert row == (True,)
    assert only("tables").found == f"schema '{SCHEMA}' has no tables yet"


def test_an_embedded_server_that_does_not_run_is_told_and_not_started(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDDED_DATA_DIR", str(data_dir))
    result = doctor()
    assert result.exit_code == 0
    server = only("server")
    assert server.level == "warning"
    assert "no embedded Postgres runs" in server.found
    assert embedded.running(data_dir) is None
    assert list(data_dir.iterdir()) == []


@pytest.mark.parametrize(
    ("free", "level"), [(100 << 30, "ok"), (3 << 30, "warning"), (100 << 20, "wrong")]
)
def test_free_disk_of_the_embedded_server(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, free: int, level: str
) -> None:
    monkeypatch.setenv("EMBEDDED_DATA_DIR", str(data_dir))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free, total=free))
    assert only("disk").level == level


def test_wrong_settings_are_one_line_and_exit_code_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGVECTOR_PORT", "many")
    monkeypatch.setenv("STAGING_DB_URL", f"postgresql://me:{PASSWORD}@db.example/x")
    result = doctor()
    assert result.exit_code == 2
    (line,) = result.stdout.splitlines()
    assert line.startswith("wrong    settings: PGVECTOR_PORT is 'many'")
    assert PASSWORD not in result.output


def test_a_misspelt_variable_is_a_warning(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / ".env").write_text("EMBEDDING_MODLE=x\n")
    levels = {finding.found: finding.level for finding in found("settings")}
    assert levels["EMBEDDING_MODLE is not read"] == "warning"


def test_a_check_that_raises_is_a_wrong_line_and_the_others_go_on() -> None:
    def fail(surroundings: object) -> Iterator[Finding]:
        raise ZeroDivisionError("by\nzero")

    first, second = diagnose(checks=(("odd", fail), ("dbt", dict(diagnosis.CHECKS)["dbt"])))
    assert (first.check, first.level) == ("odd", "wrong")
    assert first.found == "the check failed: ZeroDivisionError: by\nzero"
    assert second.check == "dbt"


def test_a_server_that_does_not_answer_is_wrong_and_its_password_is_not_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use(monkeypatch, Database("127.0.0.1", 1, "shop", "me", SecretStr(PASSWORD)))
    result = doctor()
    assert result.exit_code == 2
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("wrong")]
    assert "server: staging and vectors: cannot connect to shop on 127.0.0.1:1 as 'me'" in line
    for output in (result.output, doctor("--json").output):
        assert PASSWORD not in output


def test_a_secret_in_a_message_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    def leak(surroundings: object) -> Iterator[Finding]:
        raise ValueError(f"bad key {PASSWORD}")

    monkeypatch.setenv("OPENAI_API_KEY", PASSWORD)
    (finding,) = diagnose(checks=(("leak", leak),))
    assert finding.found == "the check failed: ValueError: bad key …"


def test_the_connections_that_there_are_and_those_that_are_needed(configured: Database) -> None:
    finding = only("connections")
    assert finding.level == "ok"
    assert "a run needs 3 connections at a time and takes up to 8" in finding.found
    names = ("max_connections", "superuser_reserved_connections")
    most, reserved = (int(setting(configured, name)) for name in names)
    assert f"the search service 2 and up to 16; the server has {most - reserved}, " in finding.found


def test_a_role_with_too_few_connections_for_a_run_is_wrong(
    configured: Database, role: Callable[..., Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = role(
        "alter role {role} connection limit 2",
        f"grant create on database {configured.name} to {{role}}",
    )
    use(monkeypatch, few)
    finding = only("connections")
    assert finding.level == "wrong"
    assert f"2 connections of role {few.user} at a time, and this needs 3" in finding.found


def test_a_role_that_only_reads_needs_two_connections(
    published: World, role: Callable[..., Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = role(f"grant usage on schema {SCHEMA} to {{role}}")
    sessions = "select 1 from pg_stat_activity where usename = %s"
    for limit, level in ((2, "ok"), (1, "wrong")):
        # a session counts until the server has noticed that its client is gone
        until(lambda: not published.sql(sessions, reader.user))
        published.sql(f"alter role {reader.user} connection limit {limit}")
        use(monkeypatch, reader)
        finding = only("connections")
        assert finding.level == level
        assert finding.found.endswith(f"role {reader.user} may have {limit}")


@pytest.mark.parametrize(("size", "level"), [(3, "ok"), (2, "wrong")])
def test_a_pooler_that_has_too_few_sessions_for_a_run_is_wrong(
    configured: Database, monkeypatch: pytest.MonkeyPatch, size: int, level: str
) -> None:
    with pgbouncer(configured, "session", f"default_pool_size = {size}") as through:
        use(monkeypatch, through)
        finding = only("connections")
    assert finding.level == level
    assert ("raise default_pool_size" in finding.found) == (level == "wrong")


def test_who_holds_a_table_is_a_warning(published: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert only("locks").level == "ok"
    url = published.database.url
    with closing(psycopg.connect(url, application_name="bi")) as reader:
        reader.execute(f"select count(*) from {SCHEMA}.item_embeddings")
        assert only("locks").level == "ok"
        monkeypatch.setattr(diagnosis, "_HELD_SECONDS", 0)
        finding = only("locks")
        assert finding.level == "warning"
        process = reader.info.backend_pid
        user = published.database.user
        assert f"process {process} of user {user!r} (bi) holds {SCHEMA}." in finding.found
        assert f"pg_terminate_backend({process})" in finding.advice


def test_who_keeps_a_run_waiting_is_a_warning(published: World) -> None:
    with (
        closing(psycopg.connect(published.database.url)) as migration,
        ThreadPoolExecutor(1) as threads,
    ):
        migration.execute("lock table staging.stg_item in access exclusive mode")
        waits = threads.submit(published.sql, "select count(*) from staging.stg_item")
        until(lambda: only("locks").level == "warning")
        assert only("locks").found.endswith(", and others wait for it")
        migration.rollback()
        assert waits.result(60) == [(2,)]


def test_without_a_database_of_staging_models_the_vectors_are_checked(
    published: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STAGING_DB_URL")
    warned, server = found("server")
    assert (warned.level, "STAGING_DB_* is not set" in warned.found) == ("warning", True)
    assert (server.level, server.found.startswith("vectors: Postgres")) == ("ok", True)
    assert only("tables").level == "ok"


def test_version_and_kind_of_the_server(configured: Database) -> None:
    finding = only("server")
    assert finding.level == "ok"
    version = int(setting(configured, "server_version_num"))
    assert f"staging and vectors: Postgres {version // 10_000}." in finding.found
    assert "primary" in finding.found
    assert "without a pooler" in finding.found


@pytest.mark.parametrize(
    ("mode", "level", "told"),
    [("session", "ok", "pooler in session mode"), ("transaction", "warning", "transaction mode")],
)
def test_mode_of_a_pooler(
    configured: Database, monkeypatch: pytest.MonkeyPatch, mode: str, level: str, told: str
) -> None:
    with pgbouncer(configured, mode) as through:
        use(monkeypatch, through)
        finding = only("server")
    assert (finding.level, told in finding.found) == (level, True), finding


@pytest.mark.long
def test_a_replica_is_told_from_a_primary(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    primary = embedded.start(data_dir)
    use(monkeypatch, primary)
    with standby(primary, data_dir / "replica") as replica:
        monkeypatch.setenv("PGVECTOR_REPLICA_URL", replica.url)
        _, second = found("server")
        assert (second.level, "replica: Postgres 18" in second.found) == ("ok", True), second
        assert "s behind" in second.found
        use(monkeypatch, replica)
        first, _ = found("server")
        assert (first.level, "a replica: searches only" in first.found) == ("warning", True)
    monkeypatch.setenv("PGVECTOR_REPLICA_URL", primary.url)
    use(monkeypatch, primary)
    _, second = found("server")
    assert (second.level, "is a primary" in second.found) == ("warning", True), second


def test_a_role_that_may_only_read_is_told_that_it_may_search(
    published: World, role: Callable[..., Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    grants = [
        f"grant usage on schema {SCHEMA}, staging to {{role}}",
        f"grant select on all tables in schema {SCHEMA}, staging to {{role}}",
    ]
    use(monkeypatch, role(*grants))
    reader, staging = found("privileges")
    assert (reader.level, "may only read" in reader.found) == ("warning", True), reader
    assert staging.level == "ok"
    assert doctor().exit_code == 0


def test_a_role_that_may_read_some_columns_of_a_staging_model_may_read_it(
    published: World, role: Callable[..., Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    grants = ["grant usage on schema staging", "grant select (id, name) on staging.stg_item"]
    use(monkeypatch, role(*(f"{grant} to {{role}}" for grant in grants)))
    assert found("privileges")[-1].level == "ok"


def test_row_level_security_of_a_staging_model_is_a_warning(
    published: World, role: Callable[..., Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    published.sql("alter table staging.stg_item enable row level security")
    grants = ["grant usage on schema staging", "grant select on staging.stg_item"]
    reader = role(*(f"{grant} to {{role}}" for grant in grants))
    use(monkeypatch, reader)
    finding = found("privileges")[-1]
    assert finding.level == "warning"
    assert f"which rows of staging.stg_item user '{reader.user}' reads" in finding.found


def test_a_role_that_is_set_to_read_only_is_told_that_runs_do_not_work(
    published: World, role: Callable[..., Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, role("alter role {role} set default_transaction_read_only = on"))
    finding = only("server")
    assert finding.level == "warning"
    assert "default_transaction_read_only is on: searches only" in finding.found


def test_a_role_without_privileges_is_told_what_to_grant(
    published: World, role: Callable[..., Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = role()
    use(monkeypatch, stranger)
    vectors, staging = found("privileges")
    assert vectors.level == staging.level == "wrong"
    assert f'grant usage on schema "{SCHEMA}" to "{stranger.user}"' in vectors.advice
    assert f'grant select on "staging"."stg_item" to "{stranger.user}"' in staging.advice
    assert doctor().exit_code == 2


def test_a_role_that_may_not_create_the_schema_is_told_how(
    configured: Database, role: Callable[..., Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = role()
    use(monkeypatch, stranger)
    finding = found("privileges")[0]
    assert finding.level == "wrong"
    assert f'create schema "{SCHEMA}" authorization "{stranger.user}"' in finding.advice


def test_a_staging_model_that_is_not_built_is_a_warning(configured: Database) -> None:
    finding = found("privileges")[-1]
    assert finding.level == "warning"
    assert "staging.stg_item is not there" in finding.found


def test_the_extension_and_its_version(
    configured: Database, role: Callable[..., Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert only("extension").found.startswith("vector 0.8")
    with closing(psycopg.connect(configured.url, autocommit=True)) as connection:
        connection.execute("drop extension vector")
    missing = only("extension")
    assert (missing.level, "not created yet" in missing.found) == ("ok", True), missing
    use(monkeypatch, role())
    finding = only("extension")
    assert (finding.level, "create extension vector" in finding.advice) == ("wrong", True)


def test_tables_of_another_version(published: World) -> None:
    assert only("tables").level == "ok"
    published.sql(f"update {SCHEMA}.schema_version set version = 1")
    assert (only("tables").level, "db migrate" in only("tables").advice) == ("warning", True)
    published.sql(f"update {SCHEMA}.schema_version set version = 99")
    assert only("tables").level == "wrong"


def test_memory_of_a_build_is_compared_with_the_largest_index(published: World) -> None:
    fits = only("index memory")
    assert fits.level == "ok"
    memory = setting(published.database, "maintenance_work_mem")
    assert f"maintenance_work_mem {memory}" in fits.found
    published.sql(f"update {SCHEMA}.vector_sets set index_rows = 40000000")
    finding = only("index memory")
    assert finding.level == "warning"
    assert "'item'" in finding.found
    assert "GiB" in finding.found
    assert "maintenance_work_mem" in finding.advice


def test_clock_of_this_machine_is_compared_with_the_server_s(configured: Database) -> None:
    assert only("clock").level == "ok"
    late = only("clock", clock=lambda: time.time() - 90)
    assert late.level == "warning"
    assert "90.0 s ahead of this machine" in late.found


def test_a_model_that_is_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    finding = only("models")
    assert (finding.level, DEFAULT_MODEL in finding.found) == ("ok", True)


def test_a_model_that_would_be_downloaded_is_a_warning(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDDING_MODEL_CACHE_DIR", str(project / "cache"))
    monkeypatch.setenv("EMBEDDING_MODEL", "nobody/nothing")
    finding = only("models")
    assert finding.level == "warning"
    assert "'nobody/nothing' is not on this machine" in finding.found
    assert not (project / "cache").exists()


def test_a_folder_without_a_model_is_wrong(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDDING_MODEL_PATH", str(project))
    assert only("models").level == "wrong"


def test_a_key_of_a_provider_is_told_and_not_shown(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found("provider") == []
    manifest(project / "manifest.json", model="text-embedding-3-small")
    missing = only("provider")
    assert (missing.level, "OPENAI_API_KEY is not set" in missing.found) == ("wrong", True)
    monkeypatch.setenv("OPENAI_API_KEY", PASSWORD)
    present = only("provider")
    assert (present.level, "api.openai.com" in present.found) == ("ok", True)
    assert PASSWORD not in doctor().output


def test_the_dbt_command_and_its_manifest(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "1 entity" in only("dbt").found
    manifest(project / "manifest.json", nonsense=1)
    (finding,) = [f for f in found("dbt") if f.level == "wrong"]
    assert "no key 'nonsense'" in finding.found
    monkeypatch.setenv("DBT_MANIFEST", str(project / "nowhere.json"))
    assert only("dbt").level == "wrong"
    monkeypatch.delenv("DBT_MANIFEST")
    assert "holds no dbt project" in only("dbt").found
    (project / "dbt_project").mkdir()
    (project / "dbt_project" / "dbt_project.yml").write_text("name: shop\n")
    command, written = found("dbt")
    assert (command.level, written.level) == ("ok", "warning")
    assert "no manifest yet" in written.found


def test_redis_that_answers_and_redis_that_does_not(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found("redis") == []
    monkeypatch.setenv("EMBEDDING_REDIS_URL", redis.url)
    assert only("redis").level == "ok"
    monkeypatch.setenv("EMBEDDING_REDIS_URL", f"redis://:{PASSWORD}@127.0.0.1:1/0")
    assert only("redis").level == "warning"
    assert PASSWORD not in doctor().output


def test_the_instance_of_dagster(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert only("dagster").found.startswith("no instance yet")
    home = project / "home"
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    assert only("dagster").level == "wrong"
    home.mkdir()
    assert (only("dagster").level, "dagster.yaml" in only("dagster").found) == ("warning", True)
    template = Path(diagnosis.__file__).parent / "templates" / "project" / "dagster.yaml"
    shutil.copy(template, home)
    finding = only("dagster")
    assert (finding.level, "1 run at a time" in finding.found) == ("ok", True), finding
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    assert (only("dagster").level, "no limit" in only("dagster").found) == ("warning", True)
    (home / "dagster.yaml").write_text(f"storage: [{PASSWORD}\n")
    assert only("dagster").level == "wrong"
    assert PASSWORD not in doctor().output


def test_a_fake_model_of_a_test_is_not_needed_for_the_memory(published: World) -> None:
    # the sets of an entity are read as they are stored, whatever the manifest declares now
    assert WordsEncoder().identity.model in only("index memory").found


def test_the_folder_of_the_run_metrics(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found("run metrics") == []
    monkeypatch.setenv("RUN_METRICS_FILE", str(project / "runs.prom"))
    assert only("run metrics").level == "ok"
    monkeypatch.setenv("RUN_METRICS_FILE", str(project / "nowhere" / "runs.prom"))
    assert (only("run metrics").level, "create" in only("run metrics").advice) == ("wrong", True)


def test_the_sdk_of_opentelemetry_where_its_variables_are_set(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")
    assert only("run metrics").level == "ok"
    # as where it is not installed
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk", None)
    assert only("run metrics").level == "warning"
    assert "embeddings-pipeline[otel]" in only("run metrics").advice
