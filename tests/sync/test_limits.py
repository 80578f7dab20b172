"""What a run may encode and spend holds for all sets that it fills."""

from __future__ import annotations

from dataclasses import replace

import pytest

from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.errors import CostLimitReached
from tests.support.words import WORDS, WordsEncoder
from tests.support.world import SCHEMA, World

PRICES = {"fake/words": 1_000_000, "fake/other": 1_000_000}


@pytest.fixture
def item(world: World) -> Entity:
    """20 rows, 5 without a vector in the live set; a set of another model is missing."""
    world.charge(PRICES)
    world.encoders.add(WordsEncoder(replace(WORDS, model="fake/other")))
    world.table("id bigint, name text")
    world.insert(*[(n, f"thing {n}") for n in range(20)])
    world.run(world.declare())
    world.sql("update staging.stg_item set name = 'changed ' || id where id < 5")
    item = world.declare(model="fake/other")
    world.texts(item)
    return item


def test_a_limit_holds_for_all_sets_of_a_run(world: World, item: Entity) -> None:
    world.vectors(item, limit=9)
    caches = [f"{SCHEMA}.embedding_cache_{number}" for number in (1, 2)]
    # 20 texts of the live set were encoded before
    assert [world.sql(f"select count(*) from {cache}") for cache in caches] == [[(25,)], [(4,)]]


def test_what_the_live_set_cost_is_not_spent_again_on_another(world: World, item: Entity) -> None:
    live, building = world.plan(item).sets
    assert 0 < live.cost_usd < building.cost_usd

    with pytest.raises(CostLimitReached, match="of the run's limit is left"):
        world.vectors(item, "stopped", max_cost_usd=building.cost_usd)

    ((cost,),) = world.sql(f"select cost_usd from {SCHEMA}.run_ledger where run_id = 'stopped'")
    # all of the live set, and of the other what there was left for
    assert live.cost_usd < cost <= building.cost_usd
    world.vectors(item, max_cost_usd=building.cost_usd)
