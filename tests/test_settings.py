import json
import os
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from psycopg.sql import SQL, Identifier, Literal
from pydantic import SecretStr
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url

from embeddings_pipeline.database import Database
from embeddings_pipeline.errors import ConfigurationError, ReadOnly
from embeddings_pipeline.settings import Settings, user_cache_dir
from tests.support.environment import only_settings

SPECIAL = "p@ss:w/o?r#d% '\"[]&=é"


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    only_settings(monkeypatch)
    monkeypatch.chdir(tmp_path)  # where no .env is


def both(monkeypatch: pytest.MonkeyPatch, **more: str) -> None:
    variables = {"STAGING_DB_HOST": "staging.example", "PGVECTOR_HOST": "vectors.example"} | more
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("host", ["127.0.0.1", "db.example", "::1", "/var/run/postgresql"])
def test_url_of_any_host_is_read_back_by_libpq(host: str) -> None:
    database = Database(host, 5433, "my db/1", "an@admin", SecretStr(SPECIAL))
    assert conninfo_to_dict(database.url) == {
        "host": host,
        "port": "5433",
        "dbname": "my db/1",
        "user": "an@admin",
        "password": SPECIAL,
    }


@pytest.mark.parametrize("host", ["127.0.0.1", "db.example", "::1"])
def test_url_of_a_network_host_is_read_back_by_sqlalchemy(host: str) -> None:
    url = make_url(Database(host, 5433, "vectors", "an@admin", SecretStr(SPECIAL)).url)
    found = (url.host, url.port, url.database, url.username, url.password)
    assert found == (host, 5433, "vectors", "an@admin", SPECIAL)


def test_url_without_a_password_has_none() -> None:
    url = Database("db", 5432, "x", "me", SecretStr("")).url
    assert url == "postgresql://me@db:5432/x"


def test_special_characters_in_a_password_connect_with_psycopg_and_psycopg2(
    superuser: Database,
) -> None:
    role = f"special_{superuser.name}"
    with psycopg.connect(superuser.url, autocommit=True) as connection:
        connection.execute(
            SQL("create role {} login password {}").format(Identifier(role), Literal(SPECIAL))
        )
        try:
            url = Database(
                superuser.host, superuser.port, superuser.name, role, SecretStr(SPECIAL)
            ).url
            with psycopg.connect(url) as own:
                assert own.execute("select current_user").fetchone() == (role,)
            engine = create_engine(url.replace("postgresql://", "postgresql+psycopg2://"))
            with engine.connect() as own:
                assert own.exec_driver_sql("select current_user").scalar() == role
            engine.dispose()
        finally:
            connection.execute(SQL("drop role {}").format(Identifier(role)))


def test_nothing_configured_means_the_embedded_server() -> None:
    settings = Settings.load()
    assert (settings.staging_database, settings.vectors_database) == (None, None)


def test_both_databases_are_read_from_their_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    both(monkeypatch, STAGING_DB_PORT="6000", PGVECTOR_DATABASE="v", PGVECTOR_PASSWORD="secret")
    settings = Settings.load()
    assert str(settings.staging_database) == "postgres on staging.example:6000"
    assert settings.vectors_database == Database(
        "vectors.example", 5432, "v", "postgres", SecretStr("secret")
    )


def test_urls_are_read_as_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    both(monkeypatch, PGVECTOR_URL="postgresql://me:p%40ss@other:6001/v")
    database = Settings.load().vectors_database
    assert database == Database("other", 6001, "v", "me", SecretStr("p@ss"))


DATABASE = [("HOST", "db"), ("URL", "postgresql://me@db/x")]


@pytest.mark.parametrize(("variable", "value"), DATABASE)
def test_staging_models_without_a_database_for_the_vectors_are_an_error(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(f"STAGING_DB_{variable}", value)
    with pytest.raises(ConfigurationError, match=r"STAGING_DB_\* is configured but PGVECTOR_\* "):
        Settings.load()


@pytest.mark.parametrize(("variable", "value"), DATABASE)
def test_without_a_database_for_the_staging_models_only_its_use_is_an_error(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(f"PGVECTOR_{variable}", value)
    settings = Settings.load()
    assert settings.vectors_database is not None
    assert settings.one_database is False
    with pytest.raises(ReadOnly, match=r"STAGING_DB_\* is not configured"):
        _ = settings.staging_database


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("STAGING_DB_PORT", "many"),
        ("PGVECTOR_PORT", "70000"),
        ("EMBEDDING_BATCH_SIZE", "0"),
        ("EMBEDDING_DEVICE", "gpu"),
        ("EMBEDDING_PARTITIONS_PER_RUN", "some"),
        ("EMBEDDING_ENABLED", "perhaps"),
    ],
)
def test_a_wrong_value_is_named_with_its_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError, match=f"{variable} is '{value}'"):
        Settings.load()


@pytest.mark.parametrize(
    "variable", ["EMBEDDING_PRICES", "SEARCH_CORS_ORIGINS", "SEARCH_RERANKERS"]
)
def test_what_is_not_json_is_named_with_its_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "{bad")
    with pytest.raises(ConfigurationError, match=f"settings: {variable}: not JSON"):
        Settings.load()


def test_other_sites_are_named_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEARCH_CORS_ORIGINS", '["*"]')
    with pytest.raises(ConfigurationError, match=r"SEARCH_CORS_ORIGINS.*name each origin"):
        Settings.load()


@pytest.mark.parametrize(
    "origin",
    ["https://shop.example/", "https://Shop.example", "shop.example", "https://shop.example/find"],
)
def test_an_origin_that_no_browser_sends_is_refused(
    monkeypatch: pytest.MonkeyPatch, origin: str
) -> None:
    monkeypatch.setenv("SEARCH_CORS_ORIGINS", json.dumps(["http://127.0.0.1:8080", origin]))
    with pytest.raises(ConfigurationError, match=f": '{origin}' is no origin: write scheme://host"):
        Settings.load()


@pytest.mark.parametrize("price", ["-0.1", "NaN", "Infinity"])
def test_a_price_that_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch, price: str) -> None:
    monkeypatch.setenv("EMBEDDING_PRICES", f'{{"m": {price}}}')
    with pytest.raises(ConfigurationError, match="EMBEDDING_PRICES_M is"):
        Settings.load()


def test_every_wrong_value_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    both(monkeypatch, STAGING_DB_PORT="many", EMBEDDING_BATCH_SIZE="0")
    with pytest.raises(ConfigurationError) as error:
        Settings.load()
    assert "STAGING_DB_PORT" in str(error.value)
    assert "EMBEDDING_BATCH_SIZE" in str(error.value)


def test_a_url_may_say_how_the_connection_is_encrypted(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "postgresql://me:secret@db:6543/x?sslmode=verify-full&sslrootcert=/etc/ca%20of%20ours.pem"
    both(monkeypatch, PGVECTOR_URL=url)
    database = Settings.load().vectors_database
    assert database is not None
    parts = conninfo_to_dict(database.url)
    assert (parts["host"], parts["port"]) == ("db", "6543")
    assert (parts["sslmode"], parts["sslrootcert"]) == ("verify-full", "/etc/ca of ours.pem")


def test_searches_read_a_replica_and_then_the_primary(monkeypatch: pytest.MonkeyPatch) -> None:
    replica = "postgresql://reader:secret@replica/x"
    both(monkeypatch, PGVECTOR_URL="postgresql://me@db:6543/x", PGVECTOR_REPLICA_URL=replica)
    settings = Settings.load()
    assert str(settings.vectors_database) == "x on db:6543"
    assert settings.search_database is not None
    parts = conninfo_to_dict(settings.search_database.url)
    assert (parts["host"], parts["port"], parts["user"]) == ("replica,db", "5432,6543", "reader")


def test_a_replica_needs_the_database_where_runs_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGVECTOR_REPLICA_URL", "postgresql://reader@replica/x")
    with pytest.raises(ConfigurationError, match="PGVECTOR_REPLICA_URL is set but PGVECTOR_"):
        Settings.load()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("mysql://me:hunter2@db/x", "not a connection URL"),
        ("postgresql://me:hunter2@[::1/x", "not a connection URL"),
        ("postgresql://me:hunter2@db:abc/x", "port 'abc'"),
        ("postgresql://me:hunter2@a:1,b:2/x", "names several servers: name one"),
        ("postgresql://me:hunter2@a,b/x", "names several servers: name one"),
        ("postgresql://me:hunter2@/x?service=hunter2", "write what the service file says"),
        ("postgresql://me:hunter2@db/x?options=-c%20a", "options cannot be in the URL"),
        ("postgresql://me:hunter2@db/x?pgbouncer=true", "pgbouncer cannot be in the URL"),
        ("postgresql://me:hunter2@db/x?schema=hunter2", "schema cannot be in the URL"),
    ],
)
def test_a_wrong_url_is_named_without_its_password(
    monkeypatch: pytest.MonkeyPatch, url: str, reason: str
) -> None:
    both(monkeypatch, PGVECTOR_URL=url)
    with pytest.raises(ConfigurationError) as error:
        Settings.load()
    assert "PGVECTOR_URL" in str(error.value)
    assert reason in str(error.value)
    assert "hunter2" not in str(error.value)
    assert error.value.__suppress_context__ or error.value.__context__ is None


def test_passwords_are_absent_from_what_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    both(monkeypatch, STAGING_DB_URL="postgresql://me:hunter2@db/x", PGVECTOR_PASSWORD="hunter2")
    settings = Settings.load()
    printed = [repr(settings), str(settings)]
    for database in (settings.staging_database, settings.vectors_database):
        printed += [repr(database), str(database)]
    assert "hunter2" not in " ".join(printed)


def test_a_password_is_absent_from_the_error_about_another_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    both(monkeypatch, PGVECTOR_PASSWORD="hunter2", STAGING_DB_PORT="many")
    with pytest.raises(ConfigurationError) as error:
        Settings.load()
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    "url",
    ["https://me:secret@host/v1", "https://host/v1?api-key=secret", "https://host/v1#secret"],
)
def test_a_base_url_holds_no_credentials_and_is_not_quoted(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    with pytest.raises(ConfigurationError, match="OPENAI_BASE_URL") as error:
        Settings.load()
    assert "secret" not in str(error.value)


def test_the_key_of_a_provider_may_end_in_a_newline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", " sk-secret\r\n")
    key = Settings.load().openai_api_key
    assert key is not None
    assert key.get_secret_value() == "sk-secret"


@pytest.mark.parametrize(
    "key", ["sk-secret\nsk-other", "sk secret", "sk-secret\x7f", "sk-sécret", " "]
)
def test_a_key_that_no_header_can_hold_is_refused_without_being_told(
    monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(ConfigurationError, match=r"OPENAI_API_KEY: .*printable ASCII") as error:
        Settings.load()
    assert "cret" not in str(error.value)


def test_the_key_of_a_provider_is_absent_from_what_is_printed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    assert "sk-secret" not in repr(Settings.load()) + str(Settings.load())


def test_empty_variables_count_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    both(monkeypatch, STAGING_DB_HOST="", PGVECTOR_HOST="", EMBEDDING_BATCH_SIZE="")
    settings = Settings.load()
    assert settings.staging_database is None
    assert settings.embedding_batch_size == Settings.model_fields["embedding_batch_size"].default


def test_an_env_file_is_read(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("EMBEDDING_BATCH_SIZE=8\nUNRELATED=1\n")
    assert Settings.load().embedding_batch_size == 8


def touch(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()


@pytest.mark.parametrize(
    ("marker", "dbt_project"),
    [
        ("shop/dbt_project/dbt_project.yml", "shop/dbt_project"),
        ("shop/workspace.yaml", "shop/dbt_project"),
        ("shop/dbt_project.yml", "shop"),
    ],
)
@pytest.mark.parametrize("folder", ["shop", "shop/dbt_project", "shop/dbt_project/models/staging"])
def test_the_project_is_the_nearest_folder_with_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, marker: str, dbt_project: str, folder: str
) -> None:
    touch(tmp_path / "workspace.yaml")
    touch(tmp_path / marker)
    (tmp_path / "shop" / ".env").write_text("EMBEDDING_BATCH_SIZE=8")
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(tmp_path / folder)
    settings = Settings.load()
    assert settings.embedded_data_dir == tmp_path / "shop" / ".data"
    assert settings.dbt_project_dir == tmp_path / dbt_project
    assert settings.embedding_batch_size == 8


def test_without_a_project_data_goes_to_the_working_directory(tmp_path: Path) -> None:
    assert Settings.load().embedded_data_dir == tmp_path / ".data"
    assert Settings.load().dbt_project_dir == tmp_path / "dbt_project"


def test_caches_of_a_user_without_a_home_are_not_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/me")
    assert user_cache_dir() == Path("/home/me/.cache/embeddings-pipeline")
    monkeypatch.delenv("HOME")
    # a number without an account, as containers are started with
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)
    assert user_cache_dir() == Path("/~/.cache/embeddings-pipeline")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache_dir() == tmp_path / "embeddings-pipeline"


def test_a_relative_path_starts_at_the_folder_of_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path / "workspace.yaml")
    (tmp_path / ".env").write_text("DBT_PROJECT_DIR=../dbt\nEMBEDDED_DATA_DIR=~/data\n")
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    monkeypatch.setenv("HOME", "/home/me")
    assert Settings.load().dbt_project_dir == tmp_path / ".." / "dbt"
    assert Settings.load().embedded_data_dir == Path("/home/me/data")
