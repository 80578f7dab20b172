"""Where Dagster keeps its runs, by what the environment says."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster_postgres import DagsterPostgresStorage

from embeddings_pipeline.cli import jobs
from embeddings_pipeline.cli.instance import prepare
from embeddings_pipeline.database import Database
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.resources.storage import Storage
from embeddings_pipeline.settings import Settings
from embeddings_pipeline.store.embedded import server as embedded


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for field in Settings.model_fields:
        monkeypatch.delenv(field.upper(), raising=False)
    monkeypatch.chdir(tmp_path)  # where no .env is
    monkeypatch.setenv("EMBEDDED_DATA_DIR", str(tmp_path / "data"))


def test_runs_are_kept_in_the_postgres_that_the_environment_names(
    server: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", server.url)
    storage = Storage.from_config_value(None, {})
    assert isinstance(storage, DagsterPostgresStorage)
    assert storage.postgres_url == server.url.replace("postgresql:", "postgresql+psycopg2:")


def test_a_configured_database_gets_no_tables_of_dagster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAGING_DB_HOST", "warehouse.example")
    monkeypatch.setenv("PGVECTOR_HOST", "warehouse.example")
    storage = Storage.from_config_value(None, {})
    assert isinstance(storage, DagsterSqliteStorage)
    assert (tmp_path / "data" / "dagster" / "storage").is_dir()


def test_with_nothing_configured_runs_are_kept_in_the_embedded_server(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDDED_DATA_DIR", str(data_dir))
    monkeypatch.setenv("DAGSTER_HOME", "")
    home = prepare(Settings.load())
    assert home == data_dir / "dagster"
    with dg.DagsterInstance.get() as runs:
        assert runs.get_runs() == []
        assert runs.get_concurrency_config().pool_config.default_pool_limit == 1
    assert embedded.running(data_dir) is not None


def test_a_home_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", "/nonsuch")
    with pytest.raises(ConfigurationError, match="DAGSTER_HOME '/nonsuch' is not a folder"):
        prepare(Settings.load())


def test_a_run_goes_on_when_the_server_that_keeps_its_events_was_restarted(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDDED_DATA_DIR", str(data_dir))
    monkeypatch.setenv("DAGSTER_HOME", "")
    prepare(Settings.load())

    @dg.op
    def restart() -> None:
        embedded.stop(data_dir)
        embedded.start(data_dir)

    @dg.job
    def restarting() -> None:
        restart()

    with dg.DagsterInstance.get() as runs:
        jobs.keep_connections(runs)
        assert restarting.execute_in_process(instance=runs).success
