"""A search follows publications, erasures and lost connections at once."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event
from typing import Any

import psycopg
import pytest
from psycopg_pool import ConnectionPool, PoolTimeout

from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.search import freshness
from embeddings_pipeline.search.requests import Mode
from embeddings_pipeline.store.search import published
from embeddings_pipeline.sync.erase import erase
from embeddings_pipeline.sync.publish import rollback
from tests.search.conftest import Search
from tests.support.shop import declared, shop
from tests.support.waiting import until
from tests.support.words import WordsEncoder
from tests.support.world import SCHEMA, World

__all__ = ["shop"]


def test_a_query_is_encoded_by_the_model_of_the_set_that_is_searched(
    shop: World, search: Search
) -> None:
    first = WordsEncoder()
    assert search.ids("blue lamp")[0] == "3"
    shop.use(shop.encoder.revised("r2"))
    shop.run(declared(shop))
    after = search.answer("blue lamp")
    assert (after.vector_set, after.results[0].id) == (2, "3")
    assert after.results[0].score == pytest.approx(1, abs=1e-3)

    shop.encoders.add(first)
    rollback(shop.postgres, shop.names_of(declared(shop)))

    back = search.answer("blue lamp")
    assert (back.vector_set, back.results[0].id) == (1, "3")
    assert back.results[0].score == pytest.approx(1, abs=1e-3)


def test_a_model_that_is_not_at_hand_is_no_reason_to_take_another(
    shop: World, search: Search
) -> None:
    shop.use(shop.encoder.revised("r2"))
    with pytest.raises(ConfigurationError, match="'fake/words'"):
        search.ids("lamp")
    assert search.ids("lamp", mode="text")


def test_a_set_that_was_dropped_since_is_not_missed(shop: World, search: Search) -> None:
    assert search.ids("blue lamp")[0] == "3"
    for revision in ("r2", "r3"):
        shop.use(shop.encoder.revised(revision))
        shop.run(declared(shop, keep_sets=0))
    assert search.answer("blue lamp").vector_set == 3
    assert search.similar("3")


@pytest.mark.parametrize("mode", ["dense", "text", "hybrid"])
def test_an_erased_row_is_not_found_and_leaves_no_word(
    shop: World, search: Search, mode: Mode
) -> None:
    assert "5" in search.ids("water pump", mode=mode)
    erase(shop.postgres, shop.names_of(declared(shop)), ["5"], shop.encoders.cache.evict)
    assert "5" not in search.ids("water pump", mode=mode)
    for table in ("item_texts", "item_lexemes"):
        assert shop.sql(f"select from {SCHEMA}.{table} t where t::text like '%%pump%%'") == []


def test_a_changed_text_is_found_by_its_words_at_once(shop: World, search: Search) -> None:
    shop.sql("update staging.stg_item set name = 'green kettle' where id = 5")
    shop.texts(declared(shop))
    assert search.ids("kettle", mode="text") == ["5"]
    assert search.ids("pump", mode="text") == []


def test_a_row_that_is_not_published_yet_is_not_found(shop: World, search: Search) -> None:
    shop.insert((6, "green kettle", "kettle", 1, True))
    shop.texts(declared(shop))
    assert search.ids("kettle", mode="text") == []
    assert "6" not in search.ids("kettle")


def test_coverage_and_lag_tell_of_what_waits(shop: World, opened: Callable[..., Search]) -> None:
    shop.insert((6, "green kettle", "kettle", 1, True))
    shop.texts(declared(shop))
    shop.sql(f"update {SCHEMA}.item_texts set serialised_at = now() - interval '1h' where id = 6")
    answer = opened().answer("kettle")
    assert answer.coverage == pytest.approx(83.33)
    assert answer.data_lag_seconds is not None
    assert 3600 <= answer.data_lag_seconds < 4000


def test_a_lost_connection_is_not_noticed(shop: World, search: Search) -> None:
    assert search.ids("blue lamp")[0] == "3"
    shop.sql(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where pid <> pg_backend_pid() and datname = current_database()"
    )
    assert search.ids("blue lamp")[0] == "3"


def test_a_connection_is_waited_for_once(
    shop: World, search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    search.ids("lamp")
    waits = []

    def in_vain(pool: ConnectionPool[Any]) -> None:
        waits.append(pool)
        raise PoolTimeout

    monkeypatch.setattr(ConnectionPool, "connection", in_vain)
    with pytest.raises(psycopg.OperationalError, match="connections to"):
        search.ids("lamp")
    assert len(waits) == 1


def test_a_server_that_is_away_is_an_error_of_the_database(shop: World, search: Search) -> None:
    search.ids("lamp")
    shop.sql(f"alter table {SCHEMA}.item_vectors_1 rename column text to words")
    with pytest.raises((psycopg.Error, ConfigurationError)):
        search.ids("lamp")


def test_a_search_does_not_wait_until_a_large_entity_is_counted(
    shop: World, search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(freshness, "PATIENCE_SECONDS", 0.05)
    counted = Event()

    def count(*_: Any) -> tuple[float, float]:
        assert counted.wait(30)
        return 100.0, 0.0

    monkeypatch.setattr(published, "coverage", count)
    answer = search.answer("blue lamp", top_k=1)
    assert [hit.id for hit in answer.results] == ["3"]
    assert (answer.coverage, answer.data_lag_seconds) == (None, None)
    counted.set()
    until(lambda: search.answer("blue lamp").coverage == 100)


def test_a_count_that_fails_fails_no_search(
    shop: World, search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    def count(*_: Any) -> tuple[float, float]:
        raise psycopg.errors.QueryCanceled

    monkeypatch.setattr(published, "coverage", count)
    assert search.answer("blue lamp").coverage is None
