"""Rows that are searchable as soon as they are named."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psycopg
import pytest

from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.service import documents as asked
from embeddings_pipeline.store import locks
from embeddings_pipeline.store.connection import only
from embeddings_pipeline.store.tables import EntityTables, open_tables
from embeddings_pipeline.sync import documents
from embeddings_pipeline.sync.encode import encode_entity
from embeddings_pipeline.sync.erase import erase
from embeddings_pipeline.sync.texts import write_rows
from tests.support.answers import assert_problem
from tests.support.serving import served
from tests.support.waiting import until
from tests.support.words import WordsEncoder
from tests.support.world import SCHEMA, World


def item(world: World, **keys: Any) -> Entity:
    return world.declare(
        include=["name"], filters=["category", "price"], deleted="is_removed", **keys
    )


def sync(client: httpx.Client, *ids: str | int) -> dict[str, Any]:
    answer = client.post("/entities/item/documents", json={"ids": ids})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def statuses(answer: dict[str, Any]) -> list[str]:
    return [document["status"] for document in answer["documents"]]


def found(client: httpx.Client, query: str) -> Sequence[str]:
    answer = client.post("/search", json={"entity": "item", "query": query, "top_k": 1}).json()
    return [hit["id"] for hit in answer["results"]]


def test_a_new_row_is_found_at_once_and_the_next_run_finds_it_done(
    client: httpx.Client, shop: World
) -> None:
    shop.insert((6, "purple umbrella", "rain", 12.0, False))
    assert found(client, "purple umbrella") != ["6"]
    answer = sync(client, 6)
    assert (statuses(answer), answer["encoded"]) == (["searchable"], 1)
    assert found(client, "purple umbrella") == ["6"]
    counts = shop.run(item(shop))
    assert (counts["read"], counts["encoded"], counts["reused"]) == (0, 0, 0)


def test_a_call_for_documents_is_not_the_last_run(client: httpx.Client, shop: World) -> None:
    sync(client, "77")
    (state,) = client.get("/stats").json()["entities"]
    assert [run["read"] for run in state["runs"]] == [5]
    assert state["last_run"]["read"] == 5


def test_a_changed_row_is_found_as_it_is_now(client: httpx.Client, shop: World) -> None:
    shop.sql("update staging.stg_item set name = 'purple umbrella', category = 'x' where id = 2")
    assert statuses(sync(client, "2")) == ["searchable"]
    answer = client.post("/search", json={"entity": "item", "query": "purple umbrella"}).json()
    best = answer["results"][0]
    assert (best["id"], best["fields"]["category"]) == ("2", "x")
    shop.assert_vectors_are_of_their_texts()
    assert shop.run(item(shop))["read"] == 0


def test_a_row_that_did_not_change_is_not_encoded_again(client: httpx.Client) -> None:
    answer = sync(client, "1", "2")
    assert (statuses(answer), answer["encoded"]) == (["searchable"] * 2, 0)


def test_each_refused_id_comes_with_its_reason(client: httpx.Client, shop: World) -> None:
    shop.insert((6, "gone thing", "x", 1.0, True), (7, "erased thing", "x", 1.0, False))
    erase(shop.postgres, shop.names_of(item(shop)), ["7"], shop.encoders.cache.evict)
    answer = sync(client, "99", "6", "7", "abc", "1")
    reasons = {document["id"]: document["reason"] for document in answer["documents"]}
    assert statuses(answer) == ["refused"] * 4 + ["searchable"]
    assert "no row" in reasons["99"]
    assert "may not be embedded" in reasons["6"]
    assert "erased on" in reasons["7"]
    assert "not a bigint" in reasons["abc"]
    assert reasons["1"] is None
    stored = shop.sql(f"select id from {SCHEMA}.item_texts where id in (6, 7, 99)")
    assert stored == []


def test_an_id_may_come_twice_and_in_other_forms(client: httpx.Client) -> None:
    answer = sync(client, "1", "01", 1)
    assert [document["id"] for document in answer["documents"]] == ["1", "01", "1"]
    assert statuses(answer) == ["searchable"] * 3


def test_a_row_without_text_is_none_that_can_be_found(client: httpx.Client, shop: World) -> None:
    shop.insert((6, None, "x", 1.0, False))
    assert statuses(sync(client, 6)) == ["without text"]


def test_a_row_that_fails_is_quarantined_and_stops_no_other(shop: World) -> None:
    with served(shop.database, Choosy()) as client:
        shop.insert((6, "poison", "x", 1.0, False), (7, "purple umbrella", "x", 1.0, False))
        answer = sync(client, 6, 7)
        assert statuses(answer) == ["quarantined", "searchable"]
        assert "does not like poison" in answer["documents"][0]["reason"]
        assert found(client, "purple umbrella") == ["7"]


class Choosy(WordsEncoder):
    """Takes every text but one."""

    def encode_documents(self, texts: Sequence[str]) -> Any:
        from dataclasses import replace

        made = super().encode_documents(texts)
        bad = {i: "the model does not like poison" for i, t in enumerate(texts) if "poison" in t}
        return replace(made, failures=bad)


def test_another_declaration_waits_for_a_run(client: httpx.Client, shop: World) -> None:
    shop.sql("alter table staging.stg_item alter column price type numeric")
    answer = client.post("/entities/item/documents", json={"ids": ["1"]})
    assert "another than in the last run" in assert_problem(answer, 409)


def test_a_run_at_work_is_waited_for_a_little_only(
    client: httpx.Client, shop: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asked, "PATIENCE_SECONDS", 0)
    names = shop.names_of(item(shop))
    with open_tables(shop.postgres, names) as tables, locks.entity(tables):
        answer = client.post("/entities/item/documents", json={"ids": ["1"]})
        assert "another run is at work" in assert_problem(answer, 503)
        assert answer.headers["retry-after"]
    assert statuses(sync(client, 1)) == ["searchable"]


@pytest.mark.parametrize(
    "lock",
    [
        f"update {SCHEMA}.item_texts set text = text where id = 1",
        f"update {SCHEMA}.item_vectors_1 set text = text where id = 1",
        "lock table staging.stg_item in access exclusive mode",
    ],
    ids=["texts", "vectors", "staging"],
)
def test_a_lock_of_another_transaction_is_waited_for_a_little_only(
    client: httpx.Client, shop: World, monkeypatch: pytest.MonkeyPatch, lock: str
) -> None:
    monkeypatch.setattr(asked, "PATIENCE_SECONDS", 1)
    shop.sql("update staging.stg_item set name = 'purple umbrella' where id = 1")
    with psycopg.connect(shop.database.url) as connection:
        connection.execute(lock.encode())
        # what a call may take in all is longer
        answer = client.post("/entities/item/documents", json={"ids": ["1"]}, timeout=50)
        assert "another transaction holds the same rows" in assert_problem(answer, 503)
        assert answer.headers["retry-after"]
    assert statuses(sync(client, 1)) == ["searchable"]
    assert found(client, "purple umbrella") == ["1"]


def test_calls_that_wait_for_a_run_keep_the_deadline_however_many_they_are(
    shop: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asked, "PATIENCE_SECONDS", 5)
    names = shop.names_of(item(shop))
    with served(shop.database) as client, ThreadPoolExecutor(30) as threads:

        def answer(row_id: int) -> httpx.Response:
            # far more than the deadline, far less than if the calls waited one after another
            path = "/entities/item/documents"
            return client.post(path, json={"ids": [row_id]}, timeout=60)

        with open_tables(shop.postgres, names) as tables, locks.entity(tables):
            for refused in threads.map(answer, range(30)):
                assert_problem(refused, 503)
                assert refused.headers["retry-after"]
        assert answer(1).status_code == 200


def test_a_call_waits_once_for_the_rows_and_for_their_texts(
    shop: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[float] = []

    def noted(*arguments: Any) -> Any:
        given.append(arguments[-1].patience)
        return encode_entity(*arguments)

    def noted_write(source: Any, tables: EntityTables, *arguments: Any) -> Any:
        for connection in (source, tables.connection):
            (timeout,) = only(
                connection.execute(
                    "select setting::int from pg_settings where name = 'lock_timeout'"
                )
            )
            given.append(timeout / 1000)
        return write_rows(source, tables, *arguments)

    monkeypatch.setattr(documents, "encode_entity", noted)
    monkeypatch.setattr(documents, "write_rows", noted_write)
    names = shop.names_of(item(shop))
    with served(shop.database) as client, ThreadPoolExecutor(1) as threads:
        with open_tables(shop.postgres, names) as tables, locks.entity(tables):
            holder = tables.connection.info.backend_pid
            answer = threads.submit(sync, client, 1)
            until(
                lambda: shop.sql(
                    "select pid from pg_stat_activity where pid <> %s"
                    " and query like 'select pg_try_advisory_lock%%'",
                    holder,
                )
            )
            # the call goes on polling the lock for a while
            time.sleep(1)
            assert not answer.done()
        assert statuses(answer.result()) == ["searchable"]
    assert len(given) == 3
    assert all(0 < seconds < asked.PATIENCE_SECONDS - 0.5 for seconds in given)


def test_texts_of_a_replaced_model_are_brought_to_both_sets(shop: World) -> None:
    newer = WordsEncoder().revised("r2")
    shop.use(newer)
    shop.insert((6, "a b", "x", 1.0, False))
    shop.texts(item(shop))
    # a second set is begun, and not yet published
    shop.vectors(item(shop), limit=1)
    shop.insert((7, "purple umbrella", "x", 1.0, False))
    with psycopg.connect(shop.database.url) as connection:
        before = connection.execute(f"select count(*) from {SCHEMA}.vector_sets").fetchone()
    assert before == (2,)
    with served(shop.database, newer) as client:
        answer = client.post("/entities/item/documents", json={"ids": ["7"]})
        # the live set is of weights that are no more: its rows cannot be found by this
        assert_problem(answer, 503)
    (stored,) = shop.sql(f"select count(*) from {SCHEMA}.item_vectors_2 where id = 7")
    assert stored == (1,)
