"""Filters are judged by what their types can do: equality, order, containment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.store.index import recall
from embeddings_pipeline.store.search import published
from embeddings_pipeline.store.search.published_search import PublishedSearch
from embeddings_pipeline.store.staging.source import source_of
from tests.search.conftest import Search, opened
from tests.support.world import SCHEMA, World

__all__ = ["opened"]


@pytest.mark.parametrize(
    ("kind", "cast"),
    [
        ("json", "jsonb or text"),
        ("json[]", "jsonb or text"),
        ("point", "text"),
        # equal are boxes of the same area, and paths of the same number of points
        ("box", "text"),
        ("path", "text"),
        ("jsonpath", "text"),
        ("staging.pair", "text"),
    ],
)
def test_a_filter_without_equality_is_refused_at_declaration(
    world: World, kind: str, cast: str
) -> None:
    world.sql("create type staging.pair as (a int, b json)")
    world.table(f"id bigint, name text, odd {kind}")
    item = world.declare(include=["name"], filters=["odd"])
    with world.postgres.connection() as connection, pytest.raises(ConfigurationError) as refused:
        source_of(connection, item)
    assert str(refused.value) == (
        f"""entity 'item': filters: "odd": values of type {kind} cannot be compared: cast it to"""
        f" {cast} in the staging model, or leave it out of the filters"
    )


@pytest.mark.parametrize(
    "kind",
    [
        *("jsonb", "xid", "tsvector", "inet", "int4range", "interval", "money", "text[]"),
        *("staging.mood", "staging.mood[]", "staging.pair", "jsonb[]", "vector(2)", "uuid[]"),
    ],
)
def test_a_filter_with_equality_is_taken(world: World, kind: str) -> None:
    world.sql("create type staging.mood as enum ('sad', 'happy')")
    world.sql("create type staging.pair as (a int, b text)")
    world.table(f"id bigint, name text, odd {kind}")
    world.insert((1, "Pump", None))
    item = world.declare(include=["name"], filters=["odd"])
    with world.postgres.connection() as connection:
        source_of(connection, item)
    world.run(item)


def test_an_order_that_a_type_lacks_is_an_error_of_the_request(
    world: World, opened: Callable[..., Search]
) -> None:
    world.table("id bigint, name text, odd xid")
    world.insert((1, "Pump", "7"), (2, "Hose", "8"))
    world.run(world.declare(include=["name"], filters=["odd"]))
    search = opened()
    assert search.ids("pump", filters={"odd": 7}) == ["1"]
    with pytest.raises(ConfigurationError, match="type xid cannot be compared by >"):
        search.ids("pump", filters={"odd": {"gt": 7}})


def test_an_enum_is_a_text_in_the_view_and_compared_as_one(
    world: World, opened: Callable[..., Search]
) -> None:
    world.sql("create type staging.mood as enum ('sad', 'happy')")
    world.table("id bigint, name text, mood staging.mood, moods staging.mood[]")
    world.insert((1, "Pump", "sad", "{sad,happy}"), (2, "Hose", "happy", "{}"))
    world.run(world.declare(include=["name"], filters=["mood", "moods"]))
    types = "select pg_typeof(mood)::text, pg_typeof(moods)::text"
    assert world.sql(f"{types} from {SCHEMA}.item_embeddings limit 1") == [("text", "text[]")]
    search = opened()
    assert search.ids("pump", filters={"mood": "sad"}) == ["1"]
    assert search.ids("pump", filters={"moods": "happy"}) == ["1"]
    assert search.ids("pump", filters={"mood": "unheard of"}) == []


def publish_tagged(world: World, kind: str, *tags: str | None) -> None:
    world.table(f"id bigint, name text, tags {kind}")
    world.insert(*[(n, f"thing {n}", tagged) for n, tagged in enumerate(tags)])
    world.run(world.declare(include=["name"], filters=["tags"]))


def test_a_list_is_searched_for_its_elements(world: World, opened: Callable[..., Search]) -> None:
    tags = ("{red,blue}", "{red}", "{}", None, '{"a,b",NULL}')
    publish_tagged(world, "text[]", *tags)
    search = opened()
    wanted: list[tuple[Any, set[str]]] = [
        ("red", {"0", "1"}),
        ({"has": "red"}, {"0", "1"}),
        (["blue", "a,b"], {"0", "4"}),
        ({"has_any": ["blue", "a,b"]}, {"0", "4"}),
        ({"has_all": ["blue", "red"]}, {"0"}),
        ({"has": "red", "has_any": ["blue", "x"]}, {"0"}),
        (["blue", None], {"0", "3"}),
        (None, {"3"}),
        ({"has": "{red}"}, set()),
    ]
    for filters, ids in wanted:
        for mode in ("dense", "text", "hybrid"):
            found = search.ids("thing", mode=mode, filters={"tags": filters})
            assert set(found) == ids, (filters, mode)
    answer = search.answer("thing", filters={"tags": {"has_all": ["blue"]}})
    assert answer.results[0].fields == {"tags": ["red", "blue"]}
    with pytest.raises(ConfigurationError, match="filter 'tags' has lists: ask for has"):
        search.ids("thing", filters={"tags": {"gte": "a"}})


def test_a_value_that_is_no_element_is_named(world: World, opened: Callable[..., Search]) -> None:
    publish_tagged(world, "integer[]", "{1,2}", "{3}")
    assert opened().ids("thing", filters={"tags": 3}) == ["1"]
    with pytest.raises(ConfigurationError, match="filter 'tags': 'x' is not an integer"):
        opened().ids("thing", filters={"tags": {"has_any": [1, "x"]}})


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        *(("text[]", "gin"), ("integer[]", "gin"), ("numeric(8,2)[]", "gin")),
        *(("character varying(9)[]", "gin"), ("timestamp(3) with time zone", "btree")),
        *(("character varying(9)", "hash"), ("numeric(8,2)", "btree"), ("character(3)", "hash")),
        *(("xid[]", None), ("jsonb", None)),
    ],
)
def test_a_filter_has_the_index_of_its_type(world: World, kind: str, method: str | None) -> None:
    publish_tagged(world, kind, None, None)
    found = world.sql(
        "select am.amname from pg_index i join pg_class c on c.oid = i.indexrelid"
        " join pg_am am on am.oid = c.relam join pg_attribute a on a.attrelid = i.indrelid"
        f" and a.attnum = any(i.indkey) where i.indrelid = '{SCHEMA}.item_vectors_1'::regclass"
        " and a.attname = 'tags'"
    )
    assert found == ([(method,)] if method else [])


def test_a_long_list_is_no_long_value_of_an_index(world: World) -> None:
    world.table("id bigint, name text, tags numeric(8,2)[]")
    world.sql("insert into staging.stg_item values (1, 'Pump', null)")
    item = world.declare(include=["name"], filters=["tags"])
    world.run(item)
    world.sql(
        "update staging.stg_item set tags = array(select random() from generate_series(1, 9999))"
    )
    world.run(item)
    assert world.sql(f"select cardinality(tags) from {SCHEMA}.item_embeddings") == [(9999,)]


def test_numbers_of_an_answer_are_not_rounded(world: World, opened: Callable[..., Search]) -> None:
    exact = ["0.1", "1", "9007199254740992", "1e300"]
    rounded = ["0.1234567890123456789", "9007199254740993", "1" * 4400, "1" + "0" * 400]
    numbers = [*exact, "NaN", *rounded]
    world.table("id bigint, name text, price numeric")
    world.insert(*[(n, f"thing {n}", number) for n, number in enumerate(numbers)])
    world.run(world.declare(include=["name"], filters=["price"]))
    search = opened()
    found = {
        hit.id: hit.fields["price"] for hit in search.answer("thing", columns=("price",)).results
    }
    shown = [found[str(n)] for n in range(len(numbers))]
    assert shown == [0.1, 1, 9007199254740992, 10**300, "NaN", *rounded]
    for n, number in enumerate(shown):
        # a filter takes 1,024 characters
        if len(numbers[n]) <= 1024:
            assert search.ids("thing", filters={"price": number}) == [str(n)]


def test_every_id_that_is_stored_has_similar_rows(
    world: World, opened: Callable[..., Search]
) -> None:
    world.table("id text, name text")
    ids = ["", "a\nb", "../x?y#z%41", "\x1b[2J", "é" * 1300, "x" * 2600]
    world.insert(*[(row_id, f"thing {n}") for n, row_id in enumerate(ids)])
    world.run(world.declare(include=["name"]))
    for row_id in ids:
        assert set(opened().similar(row_id, top_k=9)) == {*ids} - {row_id}


def test_the_values_of_a_list_are_those_of_its_elements(world: World) -> None:
    publish_tagged(world, "text[]", "{red,blue,red}", "{red}", "{}", None, "{NULL}")
    with world.postgres.connection() as connection:
        shown = published.read(connection, SCHEMA, "item")
        search = PublishedSearch(connection, shown)
        assert search.facets("tags", 9) == [("red", 2), ("blue", 1)]
        assert search.facets("tags", 1) is None


def test_a_histogram_of_a_large_set_is_made_from_a_sample(world: World) -> None:
    world.table("id bigint, name text, price int")
    world.insert(*[(n, f"thing {n}", n) for n in range(2_000)])
    world.run(world.declare(include=["name"], filters=["price"]))
    world.sql(f"analyze {SCHEMA}.item_vectors_1")
    with world.postgres.connection() as connection:
        search = PublishedSearch(connection, published.read(connection, SCHEMA, "item"))
        whole = search.histogram("price", 10, 2_000)
        part = search.histogram("price", 10, 400)
    assert whole is not None
    assert part is not None
    assert sum(whole.rows) == 2_000
    assert 0 < sum(part.rows) < 1_500


def test_a_column_without_facets_does_not_end_the_transaction_of_the_others(world: World) -> None:
    world.table("id bigint, name text, place point, price int")
    world.insert((1, "pump", "(0,0)", 3), (2, "hose", "(1,1)", 4))
    world.run(world.declare(include=["name"], filters=["place", "price"]))
    with world.postgres.connection() as connection, connection.transaction():
        search = PublishedSearch(connection, published.read(connection, SCHEMA, "item"))
        assert search.facets("place", 9) is None
        assert search.facets("price", 9) == [(3, 1), (4, 1)]


def test_recall_is_measured_with_elements_of_lists(world: World) -> None:
    world.table("id bigint, name text, tags text[]")
    world.insert(*[(n, f"thing {n}", ["all", str(n % 10)]) for n in range(400)])
    item = world.declare(include=["name"], filters=["tags"])
    world.run(item)
    world.sql(f"analyze {SCHEMA}.item_vectors_1")
    with world.postgres.connection() as connection:
        tables = world.tables(connection, item)
        (shown,) = world.sets(item)
        some = recall.sampled_filters(tables, shown)[1]
        (found,) = tables.one(
            "select count(*) from {vectors} v where {where}",
            some.values,
            vectors=tables.table(shown.table_name),
            where=some.condition,
        )
    assert (some.column, found) == ("tags", 40)
