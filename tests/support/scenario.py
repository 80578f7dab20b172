"""A short life of an entity that goes through all that runs do, step by step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.store.migrations import create_control_tables
from embeddings_pipeline.sync.encode import encode_entity
from embeddings_pipeline.sync.erase import erase
from embeddings_pipeline.sync.index import sync_index
from embeddings_pipeline.sync.publish import publish, rollback
from embeddings_pipeline.sync.retention import retain
from embeddings_pipeline.sync.run_options import RunOptions
from embeddings_pipeline.sync.texts import sync_texts
from tests.support.world import SCHEMA, World

LONG = " ".join(f"Sentence {n} of it." for n in range(9))
ROWS = (
    *((1, "pump", None, 5), (2, "hose", None, 5), (3, "pump", None, 5), (4, "long", LONG, 5)),
    *((5, None, None, 5), (6, "poison", None, 5), (7, "valve", None, 5)),
)
CHANGES = """
    update staging.stg_item set name = 'tap' where id = 1;
    update staging.stg_item set stock = 9 where id = 2;
    update staging.stg_item set body = 'short now' where id = 4;
    delete from staging.stg_item where id = 7;
    insert into staging.stg_item values (8, 'hose', null, 5)
"""

Act = Callable[[], object]


@dataclass(frozen=True)
class Step:
    """A call, and its preparation: a declaration, and changes in staging."""

    name: str
    call: Callable[[World, Entity], Act]
    declaration: dict[str, Any]
    changes: str = ""

    def prepare(self, world: World) -> Act:
        if self.changes:
            world.sql(self.changes)
        return self.again(world)

    def again(self, world: World) -> Act:
        """The call alone."""
        return self.call(world, world.declare(**self.declaration))


def pass_over(world: World, entity: Entity) -> Act:
    names = world.names_of(entity)
    databases = (world.postgres, world.postgres)
    return lambda: sync_texts(*databases, names, world.encoders, RunOptions("run"))


def encode(world: World, entity: Entity) -> Act:
    names = world.names_of(entity)
    return lambda: encode_entity(world.postgres, names, world.encoders, RunOptions("run"))


def clear(world: World, entity: Entity) -> Act:
    names = world.names_of(entity)
    return lambda: retain(world.postgres, names, world.encoders, world.settings)


def index(world: World, entity: Entity) -> Act:
    names = world.names_of(entity)
    return lambda: sync_index(world.postgres, names)


def flip(world: World, entity: Entity) -> Act:
    names = world.names_of(entity)
    return lambda: publish(world.postgres, names)


def flip_by_hand(world: World, entity: Entity) -> Act:
    names = world.names_of(entity)
    return lambda: publish(world.postgres, names, explicit=True)


def go_back(world: World, entity: Entity) -> Act:
    names = world.names_of(entity)

    # a person looks at the live set before a rollback, above all before a second one
    ((live,),) = world.sql(f"select number from {SCHEMA}.vector_sets where state = 'live'")
    return lambda: live == 2 and rollback(world.postgres, names)


def erase_two(world: World, entity: Entity) -> Act:
    names = world.names_of(entity)
    return lambda: erase(world.postgres, names, ["2", "6"], world.encoders.cache.evict)


FIRST = {
    **{"include": ["name", "body"], "filters": ["stock"], "chunk": {"tokens": 16}},
    "partitions": {"count": 2},
}
OTHER = {**FIRST, "filters": [], "partitions": {"count": 3}, "model": "fake/other"}
HALF = {**OTHER, "storage": "halfvec"}
SCENARIO = (
    Step("texts", pass_over, FIRST),
    Step("vectors", encode, FIRST),
    Step("caches after the first run", clear, FIRST),
    Step("index", index, FIRST),
    Step("publish", flip, FIRST),
    Step("texts of changed rows and another definition", pass_over, OTHER, CHANGES),
    Step("vectors of two models", encode, OTHER),
    Step("caches of two models", clear, OTHER),
    Step("two indexes", index, OTHER),
    Step("flip", flip, OTHER),
    Step("rollback", go_back, OTHER),
    Step("vectors after the rollback", encode, OTHER),
    Step("publish by hand", flip_by_hand, OTHER),
    Step("erase", erase_two, OTHER),
    Step("texts after erasing", pass_over, OTHER),
    Step("vectors in another storage", encode, HALF),
    Step("its index", index, HALF),
    Step("its flip", flip, HALF),
)


def begin(world: World) -> None:
    """Back to a database in which nothing has run yet."""
    world.sql(f"drop schema if exists {SCHEMA}, staging cascade")
    world.sql("create schema staging")
    with world.postgres.connection() as connection:
        create_control_tables(connection, SCHEMA)
    world.table("id bigint, name text, body text, stock int")
    world.insert(*ROWS)
