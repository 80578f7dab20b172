"""What embedding caches keep and forget: of changed, moved, deleted and erased rows."""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psycopg
import pytest
from psycopg.sql import Composed, Literal

from embeddings_pipeline.encoders.cache.encoder import CachedEncoder
from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.entities.rendering import text_hash
from embeddings_pipeline.store.tables import EntityTables
from embeddings_pipeline.store.texts import candidates, erasures
from embeddings_pipeline.store.vectors import cache
from embeddings_pipeline.store.vectors.sets import ensure_set
from embeddings_pipeline.sync.checks import check
from embeddings_pipeline.sync.erase import Erased, erase
from tests.support.redis_server import RedisServer
from tests.support.remembering import encoders
from tests.support.world import SCHEMA, World
from tests.sync.conftest import wait_for

THREE_WRITTEN = f"select count(*) = 3 from {SCHEMA}.embedding_cache_1"


@pytest.fixture
def things(world: World) -> World:
    world.table("id bigint, name text, body text")
    world.insert((1, "Pump", "red"), (2, "Hose", "red"), (3, "Valve", None))
    return world


def item(world: World, **keys: object) -> Entity:
    return world.declare(include=["name"], max_delete_share=1, **keys)


def cached(world: World, number: int = 1) -> int:
    ((count,),) = world.sql(f"select count(*) from {SCHEMA}.embedding_cache_{number}")
    return int(count)


def noted(world: World) -> int:
    ((count,),) = world.sql(f"select count(*) from {SCHEMA}.cache_candidates")
    return int(count)


def has(world: World, text: str) -> bool:
    return bool(
        world.sql(
            f"select 1 from {SCHEMA}.embedding_cache_1 where text_hash = %s::uuid",
            text_hash(text).hex(),
        )
    )


def erased(world: World, entity: Entity, *ids: str) -> Erased:
    return erase(world.postgres, world.names_of(entity), ids, world.encoders.cache.evict)


def traces(world: World, entity: Entity) -> int:
    with world.postgres.connection() as connection:
        return erasures.count_remains(world.tables(connection, entity))


def test_a_run_of_all_partitions_forgets_at_its_end_what_no_text_says(things: World) -> None:
    things.run(item(things))
    assert cached(things) == 3
    things.sql("update staging.stg_item set name = 'Tap' where id = 1")
    things.sql("delete from staging.stg_item where id = 2")
    things.run(item(things))
    assert (has(things, "name: Tap"), has(things, "name: Valve"), cached(things)) == (True, True, 2)
    assert noted(things) == 0


def test_a_text_that_another_row_has_is_kept(things: World) -> None:
    things.insert((4, "Pump", None))
    things.run(item(things))
    things.sql("delete from staging.stg_item where id = 4")
    things.run(item(things))
    assert has(things, "name: Pump")
    assert noted(things) == 0


def test_a_text_that_another_entity_has_is_kept(things: World) -> None:
    things.table("id bigint, name text", name="stg_other")
    things.insert((1, "Pump"), name="stg_other")
    things.run(item(things))
    things.run(things.declare("other"))
    things.sql("delete from staging.stg_item where id = 1")
    things.run(item(things))
    assert has(things, "name: Pump")


def test_a_weighted_part_that_a_text_still_has_is_kept(things: World) -> None:
    weighted = things.declare(weights={"name": 3, "body": 1}, max_delete_share=1)
    things.run(weighted)
    things.sql("delete from staging.stg_item where id = 1")
    things.run(weighted)
    assert (has(things, "red"), has(things, "Pump")) == (True, False)


def test_partitions_that_run_apart_keep_for_a_while_what_a_row_may_bring_along(
    things: World,
) -> None:
    things.sql("alter table staging.stg_item add day date default '2026-01-01'")
    event = item(
        things, partitions={"by": "day", "column": "day", "start": "2026-01-01"}, exclude=[]
    )
    things.run(event)
    things.encoder.encoded.clear()
    things.sql("delete from staging.stg_item where id = 1")
    things.texts(event, keys=["2026-01-01"])
    things.retain(event, grace=86_400)
    assert has(things, "name: Pump")
    # it comes back under another id, in another partition
    things.sql("insert into staging.stg_item values (7, 'Pump', null, '2026-01-02')")
    things.texts(event, keys=["2026-01-02"])
    things.vectors(event, keys=["2026-01-02"])
    assert things.encoder.encoded == []
    # what nobody took for a day goes
    things.sql("delete from staging.stg_item where id = 7")
    things.texts(event, keys=["2026-01-02"])
    things.sql(f"update {SCHEMA}.cache_candidates set since = since - interval '25 hours'")
    things.retain(event, grace=86_400)
    assert not has(things, "name: Pump")


def test_a_model_with_a_price_keeps_what_it_was_paid_for(things: World) -> None:
    things.charge({"fake/words": 1})
    things.run(item(things))
    things.sql("delete from staging.stg_item where id = 1")
    things.run(item(things))
    assert has(things, "name: Pump")
    things.sql(f"update {SCHEMA}.cache_candidates set since = since - interval '31 days'")
    things.run(item(things))
    assert not has(things, "name: Pump")
    assert noted(things) == 0


def test_a_model_that_no_set_builds_on_loses_its_cache(things: World) -> None:
    things.run(item(things))
    things.use(things.encoder.revised("r2"))
    things.run(item(things))
    things.retain(item(things))
    assert (cached(things, 1), cached(things, 2)) == (0, 3)


def test_a_cache_that_a_set_begins_to_use_is_not_cleared(things: World) -> None:
    former = things.encoder
    things.run(item(things))
    things.use(former.revised("r2"))
    things.run(item(things))
    things.sql(
        f"insert into {SCHEMA}.embedding_cache_1 (text_hash, embedding, version, run_id)"
        f" select text_hash, embedding, version, run_id from {SCHEMA}.item_vectors_1"
    )
    with ThreadPoolExecutor(1) as threads, things.postgres.connection() as connection:
        with connection.transaction():
            ensure_set(things.tables(connection, item(things)), former.identity)
            cleared = threads.submit(things.retain, item(things))
            wait_for(things, "select exists (select from pg_locks where not granted)")
        cleared.result(60)
    assert cached(things, 1) == 3


def test_the_last_two_references_dropped_at_one_moment_leave_no_entry(things: World) -> None:
    things.table("id bigint, name text", name="stg_other")
    things.insert((1, "Pump"), name="stg_other")
    other = things.declare("other", max_delete_share=1)
    things.run(item(things))
    things.run(other)
    with closing(psycopg.connect(things.database.url)) as first:
        # neither sees that the other drops the text, too
        one, two = (EntityTables(first, things.names_of(e)) for e in (item(things), other))
        with first.transaction():
            one.execute("delete from {texts} where {id} = 1")
            candidates.note(one, _pump(one))
            with things.postgres.connection() as second:
                there = EntityTables(second, two.names)
                with second.transaction():
                    there.execute("delete from {texts} where {id} = 1")
                    candidates.note(there, _pump(there))
    things.retain(item(things))
    things.retain(other)
    assert not has(things, "name: Pump")
    assert noted(things) == 0


def _pump(tables: EntityTables) -> Composed:
    return tables.fill(
        "select {h}::uuid as text_hash, null::uuid[] as part_hashes",
        h=Literal(text_hash("name: Pump").hex()),
    )


def test_a_text_that_is_dropped_again_while_it_is_collected_is_collected_again(
    things: World,
) -> None:
    things.run(item(things))
    asked: list[list[bytes]] = []

    def evict(hashes: Collection[bytes]) -> bool:
        asked.append([*hashes])
        if len(asked) == 1:
            with things.postgres.connection() as other:
                tables = things.tables(other, item(things))
                candidates.note(tables, _pump(tables))
        return True

    with things.postgres.connection() as connection:
        tables = things.tables(connection, item(things))
        tables.execute("delete from {texts} where {id} = 1")
        candidates.note(tables, _pump(tables))
        cache.collect(tables, evict)
        assert noted(things) == 1
        cache.collect(tables, evict)
    assert asked == [[text_hash("name: Pump")]] * 2
    assert noted(things) == 0


def test_an_erased_row_leaves_nothing_at_once(things: World) -> None:
    weighted = things.declare(weights={"name": 3, "body": 1})
    things.run(weighted)
    assert erased(things, weighted, "1") == (1, 0)
    assert [has(things, text) for text in ("Pump", "Hose", "red")] == [False, True, True]
    assert traces(things, weighted) == 0
    assert noted(things) == 0


def test_an_erased_row_leaves_nothing_of_a_model_with_a_price(things: World) -> None:
    things.charge({"fake/words": 1})
    things.run(item(things))
    erased(things, item(things), "1")
    assert not has(things, "name: Pump")


def test_a_row_with_the_text_of_an_erased_one_keeps_its_vector(things: World) -> None:
    things.table("id bigint, name text", name="stg_other")
    things.insert((1, "Pump"), name="stg_other")
    other = things.declare("other")
    things.run(item(things))
    things.run(other)
    erased(things, item(things), "1")
    assert has(things, "name: Pump")
    assert things.view("other") == {("1", 0): "name: Pump"}
    assert things.run(other)["encoded"] == 0


def test_a_text_erased_while_a_run_encodes_it_stays_erased(things: World) -> None:
    things.texts(item(things))
    things.encoder.before = lambda texts: void(erased(things, item(things), "1"))
    things.vectors(item(things))
    assert not has(things, "name: Pump")
    assert traces(things, item(things)) == 0
    assert things.sql(f"select id from {SCHEMA}.item_vectors_1 order by 1") == [(2,), (3,)]


def test_a_vector_is_stored_also_while_somebody_holds_its_text(things: World) -> None:
    things.texts(item(things))
    things.vectors(item(things), limit=0)
    with ThreadPoolExecutor(1) as threads, closing(psycopg.connect(things.database.url)) as other:
        other.execute(f"update {SCHEMA}.item_texts set tokens = tokens where id = 1")
        run = threads.submit(things.vectors, item(things))
        wait_for(things, THREE_WRITTEN)
        other.commit()
        assert run.result(60).counts.encoded == 3
    assert len(things.encoder.encoded) == 3
    assert has(things, "name: Pump")


def test_a_vector_that_comes_while_its_text_is_deleted_is_collected(things: World) -> None:
    things.texts(item(things))
    things.vectors(item(things), limit=0)
    with ThreadPoolExecutor(1) as threads, closing(psycopg.connect(things.database.url)) as other:
        other.execute(
            f"insert into {SCHEMA}.cache_candidates (entity, text_hash, erased)"
            f" select 'item', text_hash, true from {SCHEMA}.item_texts where id = 1"
        )
        other.execute(f"delete from {SCHEMA}.item_texts where id = 1")
        run = threads.submit(things.vectors, item(things))
        wait_for(things, THREE_WRITTEN)
        other.commit()
        run.result(60)
    things.retain(item(things))
    assert not has(things, "name: Pump")


def test_who_deletes_entries_waits_for_who_writes_them(things: World) -> None:
    things.run(item(things))
    cache = f"{SCHEMA}.embedding_cache_1"
    with ThreadPoolExecutor(1) as threads, closing(psycopg.connect(things.database.url)) as other:
        # a writer that found the text
        other.execute(f"lock table {cache} in row exclusive mode")
        things.sql("delete from staging.stg_item where id = 1")
        things.texts(item(things), allow_deletes=True)
        collected = threads.submit(things.retain, item(things))
        wait_for(
            things,
            "select exists (select from pg_locks where not granted"
            f" and relation = '{cache}'::regclass)",
        )
        assert has(things, "name: Pump")
        other.commit()
        collected.result(60)
    assert not has(things, "name: Pump")


def void(value: object) -> None:
    """A result that is not needed."""


class TestWithoutKeeping:
    """EMBEDDING_CACHE_KEEP=false: sets alone keep vectors."""

    @pytest.fixture
    def sparing(self, things: World) -> World:
        things.keep = False
        things.run(item(things))
        assert cached(things) == 0
        things.encoder.encoded.clear()
        return things

    def test_a_change_of_storage_encodes_nothing(self, sparing: World) -> None:
        planned = sparing.plan(item(sparing, storage="halfvec"))
        counts = sparing.run(item(sparing, storage="halfvec"))
        assert (counts["encoded"], counts["reused"]) == (0, 3)
        assert [s.encode for s in planned.sets] == [0, 0]
        assert sparing.encoder.encoded == []
        assert cached(sparing) == 0

    def test_rows_under_new_ids_encode_nothing(self, sparing: World) -> None:
        sparing.sql("update staging.stg_item set id = id + 100")
        planned = sparing.plan(item(sparing))
        counts = sparing.run(item(sparing))
        assert (counts["encoded"], sum(s.encode for s in planned.sets)) == (0, 0)
        assert sparing.encoder.encoded == []
        assert {row_id for row_id, _ in sparing.view()} == {"101", "102", "103"}
        sparing.assert_vectors_are_of_their_texts()

    def test_texts_that_rows_swap_encode_nothing(self, sparing: World) -> None:
        sparing.sql(
            "update staging.stg_item set name = case id when 1 then 'Hose' else 'Pump' end"
            " where id < 3"
        )
        sparing.run(item(sparing))
        assert sparing.encoder.encoded == []
        sparing.assert_vectors_are_of_their_texts()


class TestRedis:
    """What /embed calls are remembered for goes with the texts, too."""

    @pytest.fixture
    def remembering(self, things: World, redis: RedisServer) -> World:
        """Documents and queries that somebody asked for, of texts that an entity has."""
        things.encoders = encoders(redis)
        things.use(things.encoder)
        things.run(item(things))
        encoder = CachedEncoder(things.encoder, things.encoders.cache)
        encoder.encode_documents(["name: Pump", "name: Hose"])
        encoder.encode_query(["name: Pump"])
        return things

    def test_a_run_keeps_no_documents_in_redis(self, things: World, redis: RedisServer) -> None:
        things.encoders = encoders(redis)
        things.use(things.encoder)
        assert things.run(item(things))["encoded"] == 3
        assert redis.keys() == set()

    def test_what_is_erased_is_forgotten(self, remembering: World, redis: RedisServer) -> None:
        assert len(redis.keys()) == 3
        assert erased(remembering, item(remembering), "1") == (1, 0)
        assert redis.keys() == {f"ep:document:{text_hash('name: Hose').hex()}"}

    def test_a_row_erased_while_redis_is_down_is_forgotten_by_the_next_run(
        self, remembering: World, redis: RedisServer
    ) -> None:
        redis.stop()
        assert erased(remembering, item(remembering), "1") == (1, 1)
        redis.start()
        assert traces(remembering, item(remembering)) == 1
        names = remembering.names_of(item(remembering))
        assert not check(remembering.postgres, names)["erased"].passed

        # a run of another process, which knows nothing of the Redis that was down
        remembering.encoders = encoders(redis)
        remembering.use(remembering.encoder)
        remembering.run(item(remembering))
        assert f"ep:document:{text_hash('name: Pump').hex()}" not in set(redis.keys())
        assert traces(remembering, item(remembering)) == 0
