"""Filter columns stand beside the vectors and in the view: they change, come and go."""

from __future__ import annotations

import pytest

from embeddings_pipeline.errors import ConfigurationError
from tests.support.world import SCHEMA, World


def test_a_filter_that_changes_is_updated_without_encoding(world: World) -> None:
    world.table("id bigint, name text, stock int")
    world.insert((1, "Pump", 3), (2, "Hose", 0))
    item = world.declare(include=["name"], filters=["stock"])
    world.run(item)

    world.sql("update staging.stg_item set stock = 9 where id = 2")
    counts = world.run(item)

    assert counts["encoded"] == 0
    rows = world.sql(f"select id, stock from {SCHEMA}.item_embeddings order by id")
    assert rows == [(1, 3), (2, 9)]


def test_a_filter_can_come_change_its_type_and_go(world: World) -> None:
    world.table("id bigint, name text, stock int")
    world.insert((1, "Pump", 3))
    world.run(world.declare(include=["name"]))
    world.run(world.declare(include=["name"], filters=["stock"]))
    assert world.sql(f"select stock from {SCHEMA}.item_embeddings") == [(3,)]

    world.sql("alter table staging.stg_item alter stock type text")
    world.run(world.declare(include=["name"], filters=["stock"]))
    assert world.sql(f"select stock from {SCHEMA}.item_embeddings") == [("3",)]

    world.run(world.declare(include=["name"]))
    assert world.encoder.encoded == ["name: Pump"]
    with pytest.raises(Exception, match="stock"):
        world.sql(f"select stock from {SCHEMA}.item_embeddings")


def test_a_filter_that_others_read_cannot_go_unnoticed(world: World) -> None:
    world.table("id bigint, name text, stock int")
    world.insert((1, "Pump", 3))
    world.run(world.declare(filters=["stock"]))
    world.sql(f"create view staging.mart as select id, stock from {SCHEMA}.item_embeddings")

    with pytest.raises(ConfigurationError, match=r"staging\.mart"):
        world.run(world.declare())
    assert world.sql("select * from staging.mart") == [(1, 3)]


def test_who_may_read_the_view_may_do_so_after_a_filter_went(world: World) -> None:
    world.table("id bigint, name text, stock int")
    world.insert((1, "Pump", 3))
    world.run(world.declare(include=["name"], filters=["stock"]))
    view = f"{SCHEMA}.item_embeddings"
    world.sql(f"grant select on {view} to pg_monitor with grant option")
    world.sql(f"grant select, update on {view} to public")
    query = f"select relacl::text from pg_class where oid = '{view}'::regclass"
    granted = world.sql(query)

    world.run(world.declare(include=["name"]))
    assert world.sql(query) == granted
