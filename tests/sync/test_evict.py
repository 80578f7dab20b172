"""A cache in whole runs: it spares the model, and forgets what is replaced, deleted or erased."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import pytest

from embeddings_pipeline.encoders import breaker
from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.entities.serialise import text_hash
from embeddings_pipeline.store import erasures, evictions
from embeddings_pipeline.sync.checks import check
from embeddings_pipeline.sync.erase import erase
from embeddings_pipeline.sync.evict import evict_noted
from tests.encoders.remembering import encoders
from tests.redis_server import RedisServer
from tests.words import WORDS, WordsEncoder
from tests.world import SCHEMA, World

DELETED = f"delete from {SCHEMA}.item_vectors_1"


@pytest.fixture
def remembering(world: World, redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> World:
    """The world with a model that has a price, whose vectors Redis keeps."""
    monkeypatch.setattr(breaker, "_PAUSE_SECONDS", 0)
    world.encoders = encoders(redis)
    world.use(world.encoder)
    world.table("id bigint, name text, body text")
    world.insert((1, "Pump", "red"), (2, "Hose", "red"), (3, "Valve", None))
    return world


def documents(*texts: str) -> set[str]:
    return {f"ep:document:{text_hash(text).hex()}" for text in texts}


def erased(world: World, item: Entity, *ids: str) -> tuple[int, int]:
    return erase(world.postgres, world.on(item), ids, world.encoders.cache.evict)


def traces(world: World, item: Entity) -> int:
    with world.postgres.connection() as connection:
        return erasures.traces(connection, world.on(item))


class Gone(WordsEncoder):
    """A model that cannot be had."""

    @property
    def device(self) -> str:
        raise AssertionError("asked where it computes")

    @device.setter
    def device(self, value: str) -> None:
        pass

    def check(self) -> None:
        raise AssertionError("loaded")

    def encode_documents(self, texts: Sequence[str]) -> None:  # type: ignore[override]
        raise AssertionError("encoded")


def test_a_run_over_known_texts_asks_no_model_and_counts_what_it_saved(
    remembering: World, redis: RedisServer
) -> None:
    item = remembering.declare(include=["name"])
    first = remembering.run(item)
    assert (first["encoded"], first["cached"]) == (3, 0)
    assert redis.keys() == documents("name: Pump", "name: Hose", "name: Valve")

    remembering.sql(DELETED)
    remembering.use(Gone())
    again = remembering.run(item)
    assert (again["encoded"], again["cached"], again["tokens"]) == (3, 3, 0)
    assert (again["cost_usd"], again["saved_usd"]) == (0, first["cost_usd"])
    remembering.encoder = WordsEncoder()
    remembering.assert_vectors_are_of_their_texts()


def test_a_forced_run_believes_no_cache_and_renews_it(
    remembering: World, redis: RedisServer
) -> None:
    item = remembering.declare(include=["name"])
    remembering.run(item)
    redis.client.flushall()
    remembering.encoder.encoded.clear()
    counts = remembering.vectors(item, force=True).counts
    assert sorted(remembering.encoder.encoded) == ["name: Hose", "name: Pump", "name: Valve"]
    assert counts.cached == 0
    assert len(redis.keys()) == 3


def test_replaced_and_deleted_texts_are_forgotten_and_others_kept(
    remembering: World, redis: RedisServer
) -> None:
    item = remembering.declare(include=["name"])
    remembering.run(item)
    remembering.encoders.of(item).encode_query(["name: Pump", "name: Tap"])
    remembering.sql("update staging.stg_item set name = 'Tap' where id = 1")
    remembering.sql("delete from staging.stg_item where id = 2")
    remembering.texts(item)
    kept = {f"ep:query:{text_hash('name: Tap').hex()}"}
    assert redis.keys() == documents("name: Valve") | kept
    assert remembering.sql(f"select * from {SCHEMA}.evictions") == []


def test_chunks_that_are_no_more_are_forgotten(remembering: World, redis: RedisServer) -> None:
    remembering.sql("update staging.stg_item set body = repeat('Many a word. ', 30) where id = 3")
    item = remembering.declare(include=["body"], chunk={"tokens": 32})
    remembering.run(item)
    assert len(redis.keys()) > 3
    remembering.sql("update staging.stg_item set body = 'short' where id = 3")
    remembering.texts(item)
    assert redis.keys() == documents("body: red")


def test_an_erased_row_leaves_nothing_of_its_weighted_parts(
    remembering: World, redis: RedisServer
) -> None:
    item = remembering.declare(weights={"name": 3, "body": 1})
    remembering.run(item)
    assert redis.keys() == documents("Pump", "Hose", "Valve", "red")
    assert erased(remembering, item, "1") == (1, 0)
    assert redis.keys() == documents("Hose", "Valve")
    assert traces(remembering, item) == 0


def test_a_part_that_stays_in_a_changed_row_is_kept(remembering: World, redis: RedisServer) -> None:
    item = remembering.declare(weights={"name": 3, "body": 1})
    remembering.run(item)
    remembering.sql("update staging.stg_item set name = 'Tap' where id = 1")
    remembering.texts(item)
    assert redis.keys() == documents("Hose", "Valve", "red")


def test_a_row_erased_while_redis_is_down_is_forgotten_by_the_next_run(
    remembering: World, redis: RedisServer
) -> None:
    item = remembering.declare(include=["name"])
    remembering.run(item)
    redis.stop()
    assert erased(remembering, item, "1") == (1, 1)
    redis.start()
    assert documents("name: Pump") < redis.keys()
    assert traces(remembering, item) == 1
    assert not check(remembering.postgres, remembering.on(item))["erased"].passed

    remembering.run(item)
    assert redis.keys() == documents("name: Hose", "name: Valve")
    assert traces(remembering, item) == 0


def test_a_row_erased_while_the_model_runs_is_forgotten(
    remembering: World, redis: RedisServer
) -> None:
    item = remembering.declare(include=["name"])
    remembering.texts(item)

    def erase_one(texts: Sequence[str]) -> None:
        erased(remembering, item, "1")

    remembering.encoder.before = erase_one
    remembering.vectors(item)
    assert not documents("name: Pump") & redis.keys()
    assert traces(remembering, item) == 0


def test_a_run_killed_before_it_evicts_leaves_that_to_the_next(
    remembering: World, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = remembering.declare(include=["name"])
    remembering.run(item)
    remembering.sql("delete from staging.stg_item where id = 1")

    def killed(hashes: Collection[bytes]) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(remembering.encoders.cache, "evict", killed)
        with pytest.raises(KeyboardInterrupt):
            remembering.texts(item)
    assert documents("name: Pump") < redis.keys()
    remembering.texts(item)
    assert redis.keys() == documents("name: Hose", "name: Valve")


def test_redis_gone_in_the_middle_of_a_run_changes_nothing(
    remembering: World, redis: RedisServer
) -> None:
    item = remembering.declare(include=["name"])
    remembering.texts(item)
    remembering.encoder.before = lambda texts: redis.stop()
    assert remembering.run(item)["quarantined"] == 0
    remembering.assert_vectors_are_of_their_texts()
    assert remembering.encoders.cache.stats().errors > 0


def test_a_model_that_fails_on_everything_is_found_out_though_a_cache_knows_the_probe(
    remembering: World, redis: RedisServer
) -> None:
    item = remembering.declare(include=["name"])
    remembering.texts(item)
    remembering.encoders.of(item).encode_documents(["probe"])

    def fail(texts: Sequence[str]) -> None:
        raise OSError("the model is gone")

    remembering.encoder.before = fail
    with pytest.raises(OSError, match="the model is gone"):
        remembering.vectors(item)
    assert remembering.sql(f"select * from {SCHEMA}.quarantine") == []


def test_without_a_price_a_run_keeps_no_documents(world: World, redis: RedisServer) -> None:
    world.encoders = encoders(redis, embedding_prices={})
    world.use(world.encoder)
    world.table("id bigint, name text")
    world.insert((1, "Pump"))
    assert world.run(world.declare())["encoded"] == 1
    assert redis.keys() == set()
    assert world.encoders.usd_per_token(WORDS.model) == 0


def test_a_text_that_goes_again_while_it_is_evicted_is_evicted_again(world: World) -> None:
    world.table("id bigint, name text")
    world.run(world.declare(include=["name"]))
    on, gone = world.on(world.declare(include=["name"])), text_hash("pump")
    asked = []

    def evict(hashes: Collection[bytes]) -> bool:
        asked.append([*hashes])
        if len(asked) == 1:
            with world.postgres.connection() as other:
                evictions.note(other, on, hashes)
        return True

    with world.postgres.connection() as connection:
        evictions.note(connection, on, [gone])
    assert evict_noted(world.postgres, on, evict) == 0
    assert asked == [[gone], [gone]]
