"""Model changes: a set is built beside the live one, then the view flips to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.pipeline import EntityRun
from embeddings_pipeline.sync.publish import publish, rollback
from embeddings_pipeline.sync.run_options import RunOptions
from tests.support.databases import Templates
from tests.support.words import WORDS, WordsEncoder
from tests.support.world import SCHEMA, World

FIRST = {("1", 0): "name: Pump", ("2", 0): "name: Hose"}


@pytest.fixture
def published(world: World, templates: Templates) -> World:
    templates.restore(world, publish_two_rows)
    return world


def publish_two_rows(world: World) -> None:
    world.table("id bigint, name text")
    world.insert((1, "Pump"), (2, "Hose"))
    world.run(world.declare())


def model_of(world: World) -> str:
    ((revision,),) = world.sql(
        f"select distinct revision from {SCHEMA}.vector_sets join {SCHEMA}.model_identities i"
        " on i.number = identity where state = 'live'"
    )
    return str(revision)


def change_the_model(world: World) -> None:
    world.use(world.encoder.revised("r2"))


def test_a_new_model_is_built_beside_the_live_one_and_flips_when_it_is_whole(
    published: World,
) -> None:
    published.sql(f"create view staging.mart as select id from {SCHEMA}.item_embeddings")
    published.sql(f"grant select on {SCHEMA}.item_embeddings to public")
    change_the_model(published)
    item = published.declare()
    published.vectors(item, limit=1)
    result = published.publish(item)
    assert result.reasons[0] == "set 2: 1 chunks are pending"
    assert (model_of(published), published.view()) == ("r1", FIRST)

    published.run(item)

    assert (model_of(published), published.view()) == ("r2", FIRST)
    published.assert_vectors_are_of_their_texts()
    assert published.sql("select * from staging.mart order by 1") == [(1,), (2,)]
    assert published.sql(
        "select has_table_privilege('public', %s, 'select')", f"{SCHEMA}.item_embeddings"
    ) == [(True,)]


def test_while_a_set_is_built_the_live_one_is_kept_up_to_date(published: World) -> None:
    other = WordsEncoder(replace(published.encoder.identity, model="fake/other"))
    published.encoders.add(other)
    item = published.declare(model="fake/other")
    published.vectors(item, limit=1)
    published.sql("update staging.stg_item set name = 'Valve' where id = 1")
    published.texts(item)
    published.vectors(item, limit=1)
    assert published.view() == {("1", 0): "name: Valve", ("2", 0): "name: Hose"}
    assert [s.state for s in published.sets(item)] == ["live", "building"]


def test_a_live_model_that_cannot_be_loaded_is_frozen_and_the_new_one_goes_on(
    published: World,
) -> None:
    change_the_model(published)
    item = published.declare()
    result = published.vectors(item)
    assert result.frozen is not None
    assert result.frozen.startswith("set 1 is frozen: model 'fake/words'")
    assert result.counts.encoded == 2
    assert EntityRun(item, RunOptions(run_id="r1"), vectors=result).warnings == [result.frozen]


def test_a_rollback_flips_back_and_nothing_flips_until_a_person_says_so(published: World) -> None:
    change_the_model(published)
    item = published.declare()
    published.run(item)
    published.insert((3, "Valve"))
    published.run(item)

    result, behind = rollback(published.postgres, published.names_of(item))

    assert (behind, model_of(published), published.view()) == (1, "r1", FIRST)
    assert result.flipped
    published.vectors(item)
    held = published.publish(item)
    assert not held.flipped
    assert "held since a rollback" in held.summary
    assert published.publish(item, explicit=True).flipped
    assert model_of(published) == "r2"


def test_after_a_rollback_the_live_model_keeps_its_cache(published: World) -> None:
    published.encoders.add(WordsEncoder(replace(WORDS, model="fake/other")))
    other = published.declare(model="fake/other")
    published.run(other)
    rollback(published.postgres, published.names_of(other))
    # vectors that are encoded for it from now on stay
    published.insert((3, "Valve"))
    item = published.declare()
    published.texts(item)
    published.vectors(item)
    published.retain(item)
    live = next(s for s in published.sets(item) if s.state == "live")
    assert live.model == "fake/words"
    assert published.sql(f"select count(*) from {SCHEMA}.{live.cache_table}") == [(1,)]


def test_a_manual_entity_waits_for_a_person(world: World) -> None:
    world.table("id bigint, name text")
    world.insert((1, "Pump"))
    item = world.declare(publish="manual")
    world.texts(item)
    world.vectors(item)
    assert "publish is manual" in world.publish(item).summary
    assert world.publish(item, explicit=True).flipped


def test_retired_sets_beyond_keep_sets_are_dropped(published: World) -> None:
    item = published.declare(keep_sets=1)
    for revision in ("r2", "r3", "r4"):
        published.use(published.encoder.revised(revision))
        published.run(item)
    assert [(s.number, s.state) for s in published.sets(item)] == [(3, "retired"), (4, "live")]
    tables = published.sql(
        "select count(*) from pg_tables where tablename like 'item\\_vectors\\_%'"
    )
    assert tables == [(2,)]


def test_nothing_to_go_back_to_is_an_error(published: World) -> None:
    with pytest.raises(ConfigurationError, match="no earlier set"):
        rollback(published.postgres, published.names_of(published.declare()))


def test_a_change_of_storage_alone_is_filled_without_encoding(published: World) -> None:
    published.encoder.encoded.clear()
    counts = published.run(published.declare(storage="halfvec"))
    assert (counts["encoded"], counts["reused"]) == (0, 2)
    assert published.encoder.encoded == []
    (live,) = [s for s in published.sets(published.declare()) if s.state == "live"]
    assert (live.number, live.storage) == (2, "halfvec")


def test_a_change_of_metric_alone_is_a_new_index_of_the_same_set(published: World) -> None:
    published.run(published.declare(metric="l2"))
    (only,) = published.sets(published.declare())
    assert only.index_settings is not None
    assert (only.metric, only.index_settings["metric"]) == ("l2", "l2")
    ((definition,),) = published.sql(
        "select indexdef from pg_indexes where indexname = 'item_vectors_1_index'"
    )
    assert "vector_l2_ops" in definition


@pytest.mark.parametrize("kind", ["hnsw", "ivfflat", "none"])
def test_each_kind_of_index_is_built_and_measured(world: World, kind: str) -> None:
    world.table("id bigint, name text")
    world.insert(*[(n, f"thing {n} of {n % 7}") for n in range(300)])
    item = world.declare(index={"type": kind})
    world.run(item)
    (live,) = world.sets(item)
    assert live.recall is not None
    assert live.recall >= 0.99
    methods = world.sql(
        "select amname from pg_index i join pg_class c on c.oid = i.indexrelid"
        " join pg_am a on a.oid = c.relam where c.relname = 'item_vectors_1_index'"
    )
    assert methods == ([] if kind == "none" else [(kind,)])


def test_an_index_that_misses_its_recall_is_not_published(world: World) -> None:
    world.table("id bigint, name text")
    world.insert(*[(n, f"thing {n}") for n in range(50)])
    item = world.declare()
    world.texts(item)
    world.vectors(item)
    world.publish(item)
    world.use(world.encoder.revised("r2"))
    world.vectors(item)
    world.publish(world.declare(publish="manual"))
    world.sql(f"update {SCHEMA}.vector_sets set recall = 0.5 where number = 2")
    result = publish(world.postgres, world.names_of(item))
    assert "recall@10 0.500, below 0.99" in result.summary


def test_many_equal_vectors_still_reach_the_recall(world: World) -> None:
    world.table("id bigint, name text")
    world.insert(*[(n, f"thing {n % 5}") for n in range(2_000)])
    item = world.declare()
    world.run(item)
    assert world.sets(item)[0].recall == 1.0


def test_weighted_fields_have_the_normalised_weighted_mean(world: World) -> None:
    world.table("id bigint, name text, brand text")
    world.insert((1, "red shoe", "Acme"), (2, "blue lamp", "Acme"), (3, "hat", None))
    item = world.declare(weights={"name": 3, "brand": 1})
    counts = world.run(item)

    # equal fields are encoded once
    assert sorted(world.encoder.encoded) == ["Acme", "blue lamp", "hat", "red shoe"]
    # each distinct part is an entry of the cache
    assert (counts["encoded"], counts["reused"]) == (4, 0)
    shoe, brand = world.encoder.encode_query(["red shoe", "Acme"]).vectors
    mean = 3 * shoe + brand
    ((vector,),) = world.sql(f"select embedding::text from {SCHEMA}.item_embeddings where id = 1")
    found: Sequence[float] = [float(x) for x in vector.strip("[]").split(",")]
    norm = float((mean @ mean) ** 0.5)
    assert max(abs(a / norm - b) for a, b in zip(mean, found, strict=True)) < 1e-5


def test_vectors_of_the_same_model_and_text_are_taken_over_between_entities(world: World) -> None:
    for name in ("shoe", "lamp"):
        world.table("id bigint, name text", name=f"stg_{name}")
        world.insert((1, "shared"), (2, name), name=f"stg_{name}")
        world.run(world.declare(name))
    assert sorted(world.encoder.encoded) == ["name: lamp", "name: shared", "name: shoe"]


def test_a_model_that_reads_longer_texts_takes_nothing_over(world: World) -> None:
    world.table("id bigint, name text")
    world.insert(*[(n, f"thing {n}") for n in range(5)])
    world.run(world.declare())
    longer = WordsEncoder(replace(WORDS, max_tokens=512))
    world.use(longer)
    (*_, planned) = world.plan(world.declare()).sets
    world.run(world.declare())
    assert len(longer.encoded) == planned.encode == 5
