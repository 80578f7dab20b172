import json
import subprocess
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner, Result

from embeddings_pipeline.cli.commands.db import app
from embeddings_pipeline.database import Database
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.settings import Settings
from embeddings_pipeline.store.embedded import server as embedded
from tests.data.make_tables_before_schema_version import DUMP
from tests.support.environment import only_settings


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data_dir: Path) -> None:
    only_settings(monkeypatch, EMBEDDED_DATA_DIR=str(data_dir))
    monkeypatch.chdir(tmp_path)  # where no .env is


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


def in_a_shell(command: str) -> dict[str, str]:
    """The variables of a shell after a command."""
    script = f"{command}\npython3 -c 'import json, os; print(json.dumps(dict(os.environ)))'"
    done = subprocess.run(["sh", "-euc", script], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def test_env_gives_a_shell_the_embedded_database(
    monkeypatch: pytest.MonkeyPatch, data_dir: Path
) -> None:
    exported = CliRunner().invoke(app, ["env"]).stdout
    database = embedded.running(data_dir)
    assert database is not None
    variables = in_a_shell(exported)
    assert variables["STAGING_DB_PASSWORD"] == database.password.get_secret_value()
    assert json.loads(CliRunner().invoke(app, ["env", "--json"]).stdout).items() <= {
        *variables.items()
    }
    for line in exported.splitlines():
        name = line.removeprefix("export ").partition("=")[0]
        monkeypatch.setenv(name, variables[name])
    settings = Settings.load()
    assert settings.staging_database == settings.vectors_database == database
    # the server of these variables is the embedded one
    assert db("url").stdout.strip() == database.url
    assert db("stop").stdout == "stopped\n"


def test_env_gives_a_shell_the_parts_of_a_configured_url_whatever_is_in_them(
    monkeypatch: pytest.MonkeyPatch, data_dir: Path
) -> None:
    monkeypatch.setenv("STAGING_DB_URL", "postgresql://me:it%27s%20%24HOME%60@db.example:6432/x")
    monkeypatch.setenv("PGVECTOR_URL", "postgresql://me@vectors.example/y")
    monkeypatch.setenv("PGVECTOR_SCHEMA", "my features")
    variables = in_a_shell(CliRunner().invoke(app, ["env"]).stdout)
    assert variables["STAGING_DB_PASSWORD"] == "it's $HOME`"
    assert variables["STAGING_DB_PORT"] == "6432"
    assert variables["PGVECTOR_HOST"] == "vectors.example"
    assert variables["PGVECTOR_SCHEMA"] == "my features"
    assert embedded.running(data_dir) is None
