"""Where the Dagster instance of the commands keeps runs and events."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import psycopg
import pytest
from pydantic import SecretStr

from embeddings_pipeline.cli import dagster_instance
from embeddings_pipeline.database import Database
from embeddings_pipeline.settings import Settings

# Dagster's storages warn of SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of a folder of their own; what `prepare` sets in the environment is undone."""
    for name in ("DAGSTER_HOME", "DAGSTER_POSTGRES_URL"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return Settings(_env_file=None, embedded_data_dir=tmp_path)


def report_an_event() -> str:
    with dg.DagsterInstance.get() as found:
        found.report_runless_asset_event(dg.AssetMaterialization("note"))
        return found.event_log_storage.__class__.__name__


def test_runs_and_events_are_in_files_unless_a_server_is_named(
    settings: Settings, tmp_path: Path
) -> None:
    home = dagster_instance.prepare(settings)
    assert home == tmp_path / "dagster"
    assert "Sqlite" in report_an_event()
    assert [*home.rglob("*.db")]


@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
def test_runs_and_events_are_in_the_postgres_that_is_named(
    settings: Settings, database: Database, scheme: str
) -> None:
    url = database.url.replace("postgresql://", f"{scheme}://")
    home = dagster_instance.prepare(
        settings.model_copy(update={"dagster_postgres_url": SecretStr(url)})
    )
    assert report_an_event() == "PostgresEventLogStorage"
    with psycopg.connect(database.url) as connection:
        events = connection.execute("select asset_key from event_logs").fetchall()
    assert events == [('["note"]',)]
    # the password stays in the environment
    assert database.password.get_secret_value() not in (home / "dagster.yaml").read_text()


def test_the_pool_of_runs_that_encode_is_limited_before_the_first_of_them(
    settings: Settings,
) -> None:
    with dagster_instance.opened(settings) as runs:
        (limit,) = runs.event_log_storage.get_pool_limits()
    assert (limit.name, limit.limit) == ("encoder", 1)
