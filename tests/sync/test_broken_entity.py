"""An entity that is declared wrongly, or whose staging model is not as declared, beside others that
are planned as ever."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from embeddings_pipeline.errors import ConfigurationError, EmbeddingsError, Failures
from embeddings_pipeline.pipeline import Pipeline
from embeddings_pipeline.settings import Settings
from tests.support.words import WORDS, WordsEncoder
from tests.support.world import World

COLUMNS = "id bigint, name text, price float8, is_removed boolean, made json, at timestamptz"
CHOICES = "(columns: id, name, price, is_removed, made, at)"
SHOP = {"id": "id", "include": ["name"]}


@pytest.fixture
def shop(world: World, tmp_path: Path) -> Iterator[Callable[..., Pipeline]]:
    """A pipeline over the entities `first`, `item` and `last`. `item` is declared with
    these keys."""
    for name in ("first", "item", "last"):
        world.table(COLUMNS, f"stg_{name}")
        world.insert((1, f"{name} one", 5, False, "{}", None), name=f"stg_{name}")
    settings = Settings(
        _env_file=None,
        staging_db_url=world.database.url,
        pgvector_url=world.database.url,
        dbt_project_dir=tmp_path,
        embedding_model=WORDS.model,
    )
    pipeline = Pipeline(settings)
    pipeline.encoders.add(WordsEncoder())

    def declared(**keys: Any) -> Pipeline:
        nodes = {
            f"model.shop.stg_{name}": {
                "name": f"stg_{name}",
                "resource_type": "model",
                "schema": "staging",
                "patch_path": f"shop://models/stg_{name}.yml",
                "config": {"meta": {"embedding": SHOP | (keys if name == "item" else {})}},
            }
            for name in ("first", "item", "last")
        }
        (tmp_path / "target").mkdir(exist_ok=True)
        (tmp_path / "target" / "manifest.json").write_text(json.dumps({"nodes": nodes}))
        return pipeline

    yield declared
    pipeline.close()


def planned(pipeline: Pipeline) -> tuple[dict[str, int], Failures]:
    """How many texts a run of each entity would encode, and why some have no plan."""
    planned = pipeline.plan(raise_errors=False)
    return {plan.entity: plan.sets[0].encode for plan in planned}, planned.failures


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (
            {"where": "pricee > 0"},
            f'entity \'item\': where: "pricee > 0": column "pricee" does not exist {CHOICES}',
        ),
        ({"where": "name > 0"}, 'where: "name > 0": operator does not exist: text > integer'),
        ({"where": "price"}, 'where: "price": argument of WHERE must be type boolean'),
        ({"where": "price >"}, 'where: "price >": syntax error at or near ")"'),
        ({"where": "price > 0 -- old"}, 'where: "price > 0 -- old": syntax error'),
        ({"where": "count(*) > 1"}, "aggregate functions are not allowed in WHERE"),
        ({"where": "dear(price)"}, "function dear(double precision) does not exist"),
        ({"where": "id in (select id from gone)"}, 'relation "gone" does not exist'),
        ({"filters": ["prize"]}, f"filters column 'prize' is not in stg_item {CHOICES}"),
        ({"filters": ["made"]}, 'filters: "made": values of type json cannot be compared'),
        ({"deleted": "removed"}, f"deleted column 'removed' is not in stg_item {CHOICES}"),
        ({"deleted": "name"}, "deleted 'name' is text, not boolean"),
        ({"changed_at": "name"}, "changed_at 'name' is text, not one of date"),
        (
            {"partitions": {"by": "day", "column": "day", "start": "2026-01-01"}},
            f"partitions.column column 'day' is not in stg_item {CHOICES}",
        ),
        (
            {"partitions": {"by": "day", "column": "name", "start": "2026-01-01"}},
            "partitions.column 'name' is text, not one of date",
        ),
        ({"include": ["title"]}, f"include column 'title' is not in stg_item {CHOICES}"),
        ({"colour": "red"}, "meta.embedding has no key 'colour' (keys: "),
        ({"limit": 0}, "meta.embedding.limit is 0: must be at least 1"),
    ],
    ids=str,
)
def test_a_wrong_declaration_is_told_and_the_others_are_planned(
    shop: Callable[..., Pipeline], keys: dict[str, Any], said: str
) -> None:
    of_others, failures = planned(shop(**keys))
    assert of_others == {"first": 1, "last": 1}
    message = failures.messages()["item"]
    assert message.startswith("model 'stg_item' (models/stg_item.yml)")
    assert said in message
    with pytest.raises(ConfigurationError, match="stg_item"):
        failures.raise_any()


@pytest.mark.parametrize("kind", ["staging.mood", "staging.moods"])
def test_an_id_of_an_enum_is_refused(
    shop: Callable[..., Pipeline], world: World, kind: str
) -> None:
    world.sql("create type staging.mood as enum ('sad', 'happy')")
    world.sql("create domain staging.moods as staging.mood")
    world.sql(f"alter table staging.stg_item add mood {kind} default 'sad'")
    of_others, failures = planned(shop(id="mood"))
    assert of_others == {"first": 1, "last": 1}
    said = 'id: "mood": it cannot be compared with text: cast it in the staging model'
    assert failures.messages()["item"].endswith(said)


def test_a_right_declaration_fails_nothing(shop: Callable[..., Pipeline]) -> None:
    keys = {"where": "price > 0 and name like '%o%'", "filters": ["price"], "changed_at": "at"}
    day = {"by": "day", "column": "at", "start": "2026-01-01"}
    of_all, failures = planned(shop(**keys, deleted="is_removed", partitions=day))
    assert (of_all, failures) == ({"first": 1, "item": 1, "last": 1}, {})


@pytest.mark.parametrize("drop", ["table staging.stg_item", "schema staging cascade"])
def test_a_staging_model_that_is_not_there_is_told(
    world: World, shop: Callable[..., Pipeline], drop: str
) -> None:
    pipeline = shop()
    world.sql(f"drop {drop}")
    of_others, failures = planned(pipeline)
    assert of_others == ({"first": 1, "last": 1} if "table" in drop else {})
    assert "entity 'item': there is no staging.stg_item in " in failures.messages()["item"]


def test_a_view_that_cannot_be_read_is_told(world: World, shop: Callable[..., Pipeline]) -> None:
    pipeline = shop()
    world.sql("drop table staging.stg_item")
    world.sql(
        "create view staging.stg_item as select id, 1 / (id - 1) as name from staging.stg_first"
    )
    of_others, failures = planned(pipeline)
    assert of_others == {"first": 1, "last": 1}
    assert failures.messages()["item"].endswith(
        "entity 'item': text column: \"name\": division by zero"
    )


def test_a_condition_that_fails_on_some_row_is_named(
    world: World, shop: Callable[..., Pipeline]
) -> None:
    of_others, failures = planned(shop(where="name::int > 0"))
    assert of_others == {"first": 1, "last": 1}
    assert failures.messages()["item"] == (
        'entity \'item\': where: "name::int > 0": invalid input syntax for type integer: "item one"'
    )
    world.sql("update staging.stg_item set name = '7'")
    assert planned(shop(where="name::int > 0")) == ({"first": 1, "item": 1, "last": 1}, {})


def test_a_plan_needs_nothing_of_the_former_declaration(
    world: World, shop: Callable[..., Pipeline]
) -> None:
    former = world.declare(include=["name"], where="price > 0")
    world.run(former)
    world.sql("alter table staging.stg_item drop price")
    of_all, failures = planned(shop(where="id > 0", include=["name", "id"]))
    assert (list(of_all), failures) == (["first", "item", "last"], {})


def test_an_entity_that_is_named_fails_alike(shop: Callable[..., Pipeline]) -> None:
    pipeline = shop(colour="red")
    with pytest.raises(ConfigurationError, match="has no key 'colour'"):
        pipeline.entity("item")
    entities, failures = pipeline.chosen(["last", "item"])
    assert ([e.name for e in entities], list(failures)) == (["last"], ["item"])
    with pytest.raises(ConfigurationError, match=r"'nosuch' \(entities: first, item, last\)"):
        pipeline.chosen(["last", "nosuch"])


def test_tables_that_somebody_dropped_keep_no_other_entity_from_a_run(world: World) -> None:
    for name in ("item", "other"):
        world.table("id bigint, name text", f"stg_{name}")
        world.insert((1, f"{name} one"), name=f"stg_{name}")
    world.run(world.declare())
    world.sql("drop table analytics_features.item_texts cascade")
    assert world.run(world.declare("other"))["encoded"] == 1


def test_failures_are_told_with_their_names_and_equal_ones_once() -> None:
    failures = Failures()
    for name in ("event", "note", "page"):
        with failures.of(name):
            raise (ConfigurationError if name == "page" else EmbeddingsError)(
                "entity 'page': wrong" if name == "page" else "the server is gone"
            )
    with pytest.raises(EmbeddingsError) as raised:
        failures.raise_any()
    assert not isinstance(raised.value, ConfigurationError)
    assert str(raised.value).splitlines() == [
        "event, note: the server is gone",
        "entity 'page': wrong",
    ]
