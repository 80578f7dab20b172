"""Title, url and image_url of a row stand beside its vectors, and change without a model."""

from __future__ import annotations

from typing import Any

import pytest

from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.errors import ConfigurationError
from tests.support.world import SCHEMA, World

SHOWN = {"title": "name", "url": "page", "image_url": "photo"}


@pytest.fixture
def shelf(world: World) -> World:
    world.table("id bigint, name varchar(20), page text, photo text, rank int")
    world.insert(
        (1, "lamp", "https://shop.example/1", "https://img.example/1.png", 7),
        (2, "hose", None, None, None),
    )
    return world


def declared(world: World, **keys: Any) -> Entity:
    return world.declare(template="{name}", **keys)


def shown(world: World) -> list[tuple[Any, ...]]:
    return world.sql(f"select id, title, url, image_url from {SCHEMA}.item_embeddings order by id")


def test_the_view_and_the_function_have_what_a_result_shows(shelf: World) -> None:
    shelf.run(declared(shelf, **SHOWN))
    rows = [
        (1, "lamp", "https://shop.example/1", "https://img.example/1.png"),
        (2, "hose", None, None),
    ]
    assert shown(shelf) == rows
    found = shelf.sql(
        "select f.id, f.title, f.url, f.image_url"
        f" from {SCHEMA}.item_embeddings e, {SCHEMA}.search_item(e.embedding, 1) f order by 1"
    )
    assert found == rows


def test_another_title_encodes_nothing(shelf: World) -> None:
    shelf.run(declared(shelf))
    first = shelf.run(declared(shelf, title="name"))
    assert (first["encoded"], first["reused"]) == (0, 0)
    shelf.run(declared(shelf, title="page", url="page"))
    assert shelf.plan(declared(shelf, title="rank")).why == {"title, url": 1.0}
    last = shelf.run(declared(shelf, title="rank"))
    assert last["encoded"] == 0
    assert shelf.sql(f"select id, title from {SCHEMA}.item_embeddings order by id") == [
        (1, "7"),
        (2, None),
    ]
    columns = shelf.sql(
        "select count(*) from information_schema.columns"
        " where table_name like 'item%' and column_name in ('url', 'image_url')"
    )
    assert columns == [(0,)]


def test_a_change_of_a_title_arrives_with_the_next_run(shelf: World) -> None:
    entity = declared(shelf, url="page")
    shelf.run(entity)
    shelf.sql("update staging.stg_item set page = 'https://shop.example/new' where id = 2")
    assert shelf.run(entity)["encoded"] == 0
    urls = shelf.sql(f"select url from {SCHEMA}.item_embeddings order by id")
    assert urls == [("https://shop.example/1",), ("https://shop.example/new",)]


def test_a_column_may_be_a_filter_and_a_title(shelf: World) -> None:
    shelf.sql("alter table staging.stg_item rename name to title")
    shelf.run(shelf.declare(template="{title}", title="title", filters=["title"]))
    assert shelf.sql(f"select title from {SCHEMA}.item_embeddings order by id") == [
        ("lamp",),
        ("hose",),
    ]


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"title": "name", "filters": ["title"]}, "title 'name': the filter 'title' has the same"),
        ({"id": "url", "url": "page"}, "id 'url': the name is reserved"),
        ({"filters": ["or"]}, "filters or: the word joins the filters of a search"),
    ],
)
def test_names_that_collide_are_refused(world: World, keys: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        world.declare(**keys)


def test_a_column_that_is_not_there_is_named_with_its_key(shelf: World) -> None:
    with pytest.raises(ConfigurationError, match="url column 'link' is not in stg_item"):
        shelf.run(declared(shelf, url="link"))
