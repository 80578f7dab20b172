"""Plans of several entities, which run one after the other and lend each other vectors."""

from __future__ import annotations

import pytest

from embeddings_pipeline.entities.entity import Entity
from tests.support.world import SCHEMA, World


@pytest.fixture
def two(world: World) -> World:
    for name in ("stg_item", "stg_other"):
        world.table("id bigint, name text", name)
    world.insert(*[(n, f"thing {n}") for n in range(5)])
    world.insert(*[(n, f"thing {n}") for n in range(3, 9)], name="stg_other")
    return world


def planned_and_done(world: World, *entities: Entity) -> list[tuple[int, int]]:
    """What each encodes and takes over, as planned, checked against the runs that follow."""
    planned = [(p.sets[0].encode, p.sets[0].reusable) for p in world.plans(*entities)]
    # the texts of all come first, and unused cache entries are deleted last
    read = [world.texts(entity).counts for entity in entities]
    done = [r + world.vectors(e).counts for r, e in zip(read, entities, strict=True)]
    assert [(d.encoded, d.reused) for d in done] == planned
    return planned


def test_what_one_entity_will_have_encoded_is_planned_as_taken_over_by_the_next(two: World) -> None:
    item = two.declare(include=["name"])
    other = two.declare("other", include=["name"])
    assert planned_and_done(two, item, other) == [(5, 0), (4, 2)]


def test_what_one_entity_no_longer_says_is_planned_as_known_to_the_next(two: World) -> None:
    item = two.declare(include=["name"], max_delete_share=1, chunk={"tokens": 16})
    long = " ".join(f"Sentence {n} of it." for n in range(9))
    two.sql("update staging.stg_item set name = %s where id = 4", long)
    two.run(item)
    ((trimmed,),) = two.sql(f"select text from {SCHEMA}.item_texts where id = 4 and chunk = 1")
    two.sql("truncate staging.stg_other")
    said = ["name: thing 0", "name: thing 1", trimmed, "name: thing 2"]
    two.insert(*enumerate(said), name="stg_other")
    two.sql("update staging.stg_item set name = 'other' where id = 0")
    two.sql("delete from staging.stg_item where id = 1")
    two.sql("update staging.stg_item set name = 'short' where id = 4")
    other = two.declare("other", template="{name}")
    assert planned_and_done(two, item, other) == [(2, 0), (0, 4)]


def test_entities_with_ids_of_another_type_are_planned_together(two: World) -> None:
    two.sql("alter table staging.stg_other alter column id type text")
    item = two.declare(include=["name"])
    other = two.declare("other", include=["name"])
    assert planned_and_done(two, item, other) == [(5, 0), (4, 2)]
