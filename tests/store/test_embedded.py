"""A started server: its ways in, its databases, its text, its secrets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import create_engine

from embeddings_pipeline.database import Database
from embeddings_pipeline.store.embedded import server as embedded
from tests.support.embedded_server import one


def test_started_server_accepts_its_password_and_refuses_any_other(
    embedded_server: Database,
) -> None:
    assert one(embedded_server, "select 1") == 1
    for password in (None, "", "postgres"):
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(
                host=embedded_server.host,
                port=embedded_server.port,
                user=embedded_server.user,
                dbname=embedded_server.name,
                password=password,
                passfile="/dev/null",
            )


def test_every_way_in_asks_for_a_password(embedded_server: Database) -> None:
    methods = "select array_agg(distinct auth_method) from pg_hba_file_rules"
    assert one(embedded_server, methods) == ["scram-sha-256"]


def test_server_listens_on_loopback_alone(embedded_server: Database) -> None:
    assert one(embedded_server, "select current_setting('listen_addresses')") == "127.0.0.1"
    assert one(embedded_server, "select current_setting('unix_socket_directories')") == ""


def test_both_databases_are_made_with_pgvector_in_the_first(embedded_server: Database) -> None:
    assert one(embedded_server, "select '[1,2,3]'::vector <-> '[1,2,4]'") == 1
    dagster = replace(embedded_server, name=embedded.DAGSTER_DATABASE)
    assert one(dagster, "select current_database()") == "dagster"


def test_text_is_utf8_and_sorts_the_same_on_every_machine(embedded_server: Database) -> None:
    assert one(embedded_server, "select current_setting('server_encoding')") == "UTF8"
    assert one(embedded_server, "select array(select unnest('{b,a,B,é}'::text[]) order by 1)") == [
        *("B", "a", "b", "é")
    ]
    words = one(embedded_server, "select tsvector_to_array(to_tsvector('simple', '“Été”, naïve'))")
    assert words == ["naïve", "été"]


def test_sqlalchemy_reaches_it_through_psycopg2(embedded_server: Database) -> None:
    engine = create_engine(embedded_server.url.replace("postgresql://", "postgresql+psycopg2://"))
    with engine.connect() as connection:
        assert connection.exec_driver_sql("select 1").scalar() == 1
    engine.dispose()


def test_secrets_are_for_their_owner_alone(data_dir: Path) -> None:
    database = embedded.start(data_dir)
    assert (data_dir / "server.json").stat().st_mode & 0o777 == 0o600
    assert (data_dir / "postgres").stat().st_mode & 0o777 == 0o700
    assert len(database.password.get_secret_value()) >= 32
    holders = [
        path.name
        for path in data_dir.rglob("*")
        if path.is_file() and database.password.get_secret_value().encode() in path.read_bytes()
    ]
    assert holders == ["server.json"]
