from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner, Result

from embeddings_pipeline.cli.db import app
from embeddings_pipeline.database import Database
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.settings import Settings
from embeddings_pipeline.store.embedded import server as embedded
from tests.store.test_migrations import DUMP


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data_dir: Path) -> None:
    for field in Settings.model_fields:
        monkeypatch.delenv(field.upper(), raising=False)
    monkeypatch.chdir(tmp_path)  # where no .env is
    monkeypatch.setenv("EMBEDDED_DATA_DIR", str(data_dir))


def db(command: str) -> Result:
    return CliRunner().invoke(app, [command])


def test_server_is_started_reached_by_its_url_and_stopped(data_dir: Path) -> None:
    started = db("start")
    database = embedded.running(data_dir)
    assert database is not None
    assert started.stdout == f"embeddings on 127.0.0.1:{database.port}\n"
    url = db("url").stdout.strip()
    assert url == database.url
    with psycopg.connect(url) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    assert db("stop").stdout == "stopped\n"
    assert db("stop").stdout == "was not running\n"
    assert embedded.running(data_dir) is None


@pytest.mark.parametrize("command", ["start", "stop", "url"])
def test_configured_database_is_refused(
    monkeypatch: pytest.MonkeyPatch, command: str, data_dir: Path
) -> None:
    monkeypatch.setenv("STAGING_DB_HOST", "db.example")
    monkeypatch.setenv("PGVECTOR_URL", "postgresql://me@db.example/x")
    result = db(command)
    assert isinstance(result.exception, ConfigurationError)
    assert "a database is configured (STAGING_DB_*/PGVECTOR_*)" in str(result.exception)
    assert embedded.running(data_dir) is None


def test_only_url_prints_the_password() -> None:
    printed = db("start").output + db("stop").output
    password = db("url").stdout.split(":")[2].split("@")[0]
    assert len(password) >= 32
    assert password not in printed


def test_tables_of_an_earlier_version_are_migrated(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(psycopg.connect(database.url, autocommit=True)) as connection:
        connection.execute(DUMP.read_text())
    monkeypatch.setenv("PGVECTOR_URL", database.url)
    monkeypatch.setenv("STAGING_DB_URL", database.url)

    foretold = CliRunner().invoke(app, ["migrate", "--dry-run"])
    assert "item_texts" in foretold.stdout
    assert "rewritten with shorter hashes" in foretold.stdout
    done = CliRunner().invoke(app, ["migrate"])
    assert done.stdout == foretold.stdout
    assert "cache of fake/words: 64 of 64 parts" in done.stderr
    again = CliRunner().invoke(app, ["migrate", "--dry-run"])
    assert (again.stdout, again.stderr) == ("", "the tables are of this version\n")
