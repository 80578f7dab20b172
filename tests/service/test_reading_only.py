"""Searches only read: a role that may select serves them, and so does a replica."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx
import psycopg
import pytest
from pydantic import SecretStr

from embeddings_pipeline.database import Database
from embeddings_pipeline.store.embedded import server as embedded
from tests.support.answers import assert_problem
from tests.support.pgbouncer import pgbouncer
from tests.support.published_shop import publish_shop
from tests.support.roles import role_in
from tests.support.serving import served
from tests.support.standby import caught_up, standby, stop
from tests.support.world import SCHEMA, World, world_in

SEARCH = {"entity": "item", "query": "red boots", "top_k": 2, "columns": ["name"]}


@pytest.fixture
def reader(shop: World, superuser: Database) -> Iterator[Database]:
    """The shop's database through a role that may only select."""
    grants = [
        f"grant {privilege} {schema} to {{role}}"
        for schema in (SCHEMA, "staging")
        for privilege in ("usage on schema", "select on all tables in schema")
    ]
    with role_in(shop.database, *grants) as reader:
        yield reader


def url_of(database: Database) -> SecretStr:
    return SecretStr(database.url)


def assert_all_is_read(client: httpx.Client) -> None:
    """Each call that reads answers as it does over the primary and its owner."""
    answer = client.post("/search", json=SEARCH).raise_for_status().json()
    assert [(hit["id"], hit["fields"]["name"]) for hit in answer["results"]] == [
        ("4", "red boots of leather"),
        ("1", "red shoe"),
    ]
    for mode in ("dense", "text"):
        assert client.post("/search", json=SEARCH | {"mode": mode}).json()["results"]
    assert client.get("/similar/item/1").raise_for_status().json()["results"]
    assert client.get("/entities").raise_for_status().json()["entities"][0]["filters"]
    assert client.get("/stats").raise_for_status().json()["entities"][0]["coverage"] == 100
    assert client.get("/health/ready").status_code == 200
    assert client.get("/metrics").status_code == 200


def test_a_role_that_may_only_select_serves_searches(shop: World, reader: Database) -> None:
    with served(reader, shop.encoder) as client:
        assert_all_is_read(client)


def test_a_role_of_two_connections_serves_searches(shop: World, reader: Database) -> None:
    shop.sql(f'alter role "{reader.user}" connection limit 2')
    with served(reader, shop.encoder) as client, ThreadPoolExecutor(6) as threads:
        for _ in threads.map(lambda _: assert_all_is_read(client), range(6)):
            pass


def test_a_role_without_a_free_connection_is_said_to_have_none(
    shop: World, reader: Database, caplog: pytest.LogCaptureFixture
) -> None:
    shop.sql(f'alter role "{reader.user}" connection limit 1')
    with psycopg.connect(reader.url), served(reader, shop.encoder) as client:
        answer = client.post("/search", json=SEARCH)
        assert "the database takes no connection now" in assert_problem(answer, 503)
    assert "alter role … connection limit N" in caplog.text


def test_a_role_that_may_only_select_is_told_that_documents_cannot_be_written(
    shop: World, reader: Database
) -> None:
    with served(reader, shop.encoder) as client:
        answer = client.post("/entities/item/documents", json={"ids": ["1"]})
        assert "may not keep tables" in assert_problem(answer, 501)


def test_searches_need_no_database_of_the_staging_models(shop: World) -> None:
    columns = {"columns": SEARCH["columns"]}
    search = {key: value for key, value in SEARCH.items() if key not in columns}
    with served(shop.database, shop.encoder, staging_db_url=None) as client:
        assert client.get("/health/ready").status_code == 200
        found = client.post("/search", json=search).raise_for_status().json()
        assert [hit["id"] for hit in found["results"]] == ["4", "1"]
        (entity,) = client.get("/entities").raise_for_status().json()["entities"]
        assert list(entity["fields"]) == ["category", "price"]
        assert client.get("/stats").json()["entities"][0]["coverage"] == 100
        asked = client.post("/search", json=search | columns)
        assert "set STAGING_DB_* if it is there" in assert_problem(asked, 422)
        written = client.post("/entities/item/documents", json={"ids": ["1"]})
        assert "STAGING_DB_* is not configured" in assert_problem(written, 501)


def test_a_role_without_privileges_is_no_fault_of_the_caller(shop: World, reader: Database) -> None:
    shop.sql(f'revoke usage on schema {SCHEMA} from "{reader.user}"')
    with served(reader, shop.encoder) as client:
        assert_problem(client.post("/search", json=SEARCH), 503)


def test_a_service_over_a_database_without_tables_writes_none(database: Database) -> None:
    with served(database) as client:
        assert_problem(client.post("/search", json=SEARCH), 409)
        parts = client.get("/health/ready").json()["parts"]
        assert [part["ready"] for part in parts] == [True, False]
    with closing(psycopg.connect(database.url)) as connection:
        found = connection.execute("select 1 from pg_namespace where nspname = %s", (SCHEMA,))
        assert found.fetchone() is None


def test_a_replica_serves_searches(data_dir: Path) -> None:
    primary = embedded.start(data_dir)
    with world_in(primary) as world, standby(primary, data_dir / "replica") as replica:
        publish_shop(world)
        caught_up(primary, replica)
        with served(replica, world.encoder) as client:
            assert_all_is_read(client)
            answer = client.post("/entities/item/documents", json={"ids": ["1"]})
            assert "read-only" in assert_problem(answer, 501)


def test_a_service_reads_the_replica_and_writes_to_the_primary(data_dir: Path) -> None:
    primary = embedded.start(data_dir)
    with world_in(primary) as world:
        publish_shop(world)
        with standby(primary, data_dir / "replica") as replica:
            caught_up(primary, replica)
            with served(primary, world.encoder, pgvector_replica_url=url_of(replica)) as client:
                assert_all_is_read(client)
                (part,) = [
                    part
                    for part in client.get("/health/ready").json()["parts"]
                    if part["part"] == "database"
                ]
                assert "a replica, 0.0 seconds behind" in part["detail"]
                assert client.get("/stats").json()["replica_lag_seconds"] == 0
                assert "replica_lag_seconds 0.0" in client.get("/metrics").text
                world.sql("update staging.stg_item set name = 'red boots of felt' where id = 4")
                client.post("/entities/item/documents", json={"ids": ["4"]}).raise_for_status()
                caught_up(primary, replica)
                answer = client.post("/search", json=SEARCH).json()
                assert answer["results"][0]["fields"]["name"] == "red boots of felt"
                # the replica ends while the service is at work
                stop(data_dir / "replica")
                answer = client.post("/search", json=SEARCH).raise_for_status().json()
                assert answer["results"][0]["fields"]["name"] == "red boots of felt"


def test_a_pooler_in_transaction_mode_serves_all_that_reads(shop: World) -> None:
    with (
        pgbouncer(shop.database, "transaction") as through,
        served(through, shop.encoder) as client,
    ):
        assert_all_is_read(client)
        answer = client.post("/entities/item/documents", json={"ids": ["1"]})
        assert "pool_mode = session" in assert_problem(answer, 501)


def test_a_pooler_in_statement_mode_is_refused_in_words(
    shop: World, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        pgbouncer(shop.database, "statement") as through,
        served(through, shop.encoder) as client,
    ):
        assert_problem(client.post("/search", json=SEARCH), 503)
    assert "set pool_mode = transaction or session" in caplog.text


def test_a_pooler_with_one_session_for_all_serves_all_that_reads(shop: World) -> None:
    with (
        pgbouncer(shop.database, "transaction", "default_pool_size = 1") as through,
        served(through, shop.encoder) as client,
        ThreadPoolExecutor(6) as threads,
    ):
        for _ in threads.map(lambda _: assert_all_is_read(client), range(6)):
            pass
