"""Columns of a staging model may have any name that Postgres takes."""

from __future__ import annotations

import pytest
from psycopg.sql import SQL, Identifier

from tests.support.world import SCHEMA, World

NAMES = ["last", "n", "t", "select", "entity", 'a"b', "with space", "{id}", "a.b", "ИД", "Id"]


@pytest.mark.parametrize("n", range(len(NAMES)))
def test_an_id_a_text_and_a_filter_may_have_any_name(world: World, n: int) -> None:
    # each name in each place
    names = dict(zip(("id", "text", "filter"), (NAMES[n:] + NAMES[:n]), strict=False))
    columns = {kind: Identifier(column) for kind, column in names.items()}
    with world.postgres.connection() as connection:
        connection.execute(
            SQL("create table staging.stg_item ({id} bigint, {text} text, {filter} int)").format(
                **columns
            )
        )
    world.insert((1, "Pump", 1), (2, "Hose", 2), (3, "Pump", 3))
    item = world.declare(
        id=names["id"], include=[names["text"]], filters=[names["filter"]], chunk={"tokens": 16}
    )
    world.run(item)
    with world.postgres.connection() as connection:
        connection.execute("delete from staging.stg_item where ctid = '(0,1)'")
        connection.execute(
            SQL("update staging.stg_item set {text} = 'Boot', {filter} = 9 where {id} = 2").format(
                **columns
            )
        )
    world.run(item)

    with world.postgres.connection() as connection:
        query = SQL("select {id}, {filter} from {view} order by 1").format(
            **columns, view=Identifier(SCHEMA, "item_embeddings")
        )
        assert connection.execute(query).fetchall() == [(2, 9), (3, 3)]
