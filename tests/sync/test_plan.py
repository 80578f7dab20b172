"""A plan says what the next run then does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from embeddings_pipeline.errors import ConfigurationError, CostLimitReached
from embeddings_pipeline.sync import project
from embeddings_pipeline.sync.explain import explain
from embeddings_pipeline.sync.plan import Plan
from tests.support.words import WordsEncoder
from tests.support.world import SCHEMA, World, plan_and_run

pytestmark = pytest.mark.long


def summary(planned: Plan) -> tuple[int, int, int, int, int]:
    return (
        planned.new,
        planned.changed,
        planned.deleted,
        planned.moved_partition,
        planned.unchanged,
    )


def reasons(planned: Plan) -> dict[str, float]:
    return {reason: share for reason, share in planned.why.items() if share}


@pytest.fixture
def things(world: World) -> World:
    world.table("id bigint, name text, stock int")
    world.insert(*[(n, f"thing {n % 150}", n) for n in range(200)])
    return world


def test_the_plan_of_a_first_run_is_what_the_run_does(things: World) -> None:
    planned = plan_and_run(things, things.declare(include=["name"]))
    assert summary(planned) == (200, 0, 0, 0, 0)
    assert (planned.sets[0].encode, planned.sets[0].reusable) == (150, 50)


def test_the_plan_of_a_daily_run_counts_each_kind_of_change(things: World) -> None:
    item = things.declare(include=["name"], filters=["stock"])
    things.run(item)
    things.sql("update staging.stg_item set name = 'changed ' || id where id in (1, 2)")
    things.sql("update staging.stg_item set name = 'thing 9' where id = 3")
    things.sql("update staging.stg_item set stock = -1 where id in (10, 11)")
    things.sql("delete from staging.stg_item where id in (20, 21, 22)")
    things.insert((900, "new", 1))

    planned = plan_and_run(things, item)

    assert summary(planned) == (1, 5, 3, 0, 192)
    # of five changed rows two have only another stock
    assert reasons(planned) == {"content": 0.6, "columns": 0.4}
    assert summary(plan_and_run(things, item)) == (0, 0, 0, 0, 198)


def test_a_changed_template_is_told_from_changed_content(things: World) -> None:
    things.run(things.declare(include=["name"]))
    things.sql("update staging.stg_item set name = 'changed ' || id where id < 50")

    planned = plan_and_run(things, things.declare(template="A {name}"))

    assert (planned.changed, planned.unchanged) == (200, 0)
    assert reasons(planned) == {"content": 0.25, "include, template": 0.75}


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"filters": ["stock"]}, "filters"),
        ({"chunk": {"tokens": 16}}, "chunk"),
        ({"partitions": {"by": "day", "column": "made", "start": "2026-01-01"}}, "partitions"),
        ({"changed_at": "made"}, "changed_at"),
        ({"filters": ["stock"], "chunk": {"tokens": 16}}, "chunk, filters"),
        ({"include": None, "weights": {"name": 1}}, "include, weights"),
    ],
    ids=str,
)
def test_the_keys_that_changed_are_the_reason(
    things: World, keys: dict[str, Any], why: str
) -> None:
    things.sql("alter table staging.stg_item add made date default '2026-01-05'")
    things.run(things.declare(include=["name"]))
    planned = things.plan(things.declare(**{"include": ["name"]} | keys))
    assert reasons(planned) == {why: 1.0}


def test_a_renamed_column_is_a_change_of_the_declaration(things: World) -> None:
    things.run(things.declare(include=["name"]))
    things.sql("alter table staging.stg_item rename column name to title")

    planned = plan_and_run(things, things.declare(include=["title"]))

    assert planned.changed == 200
    assert reasons(planned) == {"include": 1.0}


def test_a_model_that_moved_is_not_compared_with_its_old_table(things: World) -> None:
    things.run(things.declare(include=["name"]))
    things.sql("create table staging.moved as table staging.stg_item")
    things.sql("alter table staging.stg_item alter column id type text")
    moved = things.declare(include=["name"], filters=["stock"])
    moved = moved.model_copy(update={"table": "moved"})

    planned = plan_and_run(things, moved)

    assert reasons(planned) == {"filters": 1.0}


def test_another_type_of_a_column_is_the_reason(things: World) -> None:
    item = things.declare(include=["name", "stock"])
    things.run(item)
    things.sql("alter table staging.stg_item alter column stock type numeric(9, 2)")

    planned = plan_and_run(things, item)

    assert reasons(planned) == {"types of columns": 1.0}


def test_a_definition_that_an_earlier_version_wrote_is_no_obstacle(things: World) -> None:
    things.run(things.declare(include=["name"]))
    things.sql(f"update {SCHEMA}.entities set definition = definition - 'name'")

    planned = plan_and_run(things, things.declare(template="A {name}"))

    assert planned.changed == 200
    assert reasons(planned) == {"declaration": 1.0}


def test_a_new_model_is_the_reason_of_what_it_costs(things: World) -> None:
    item = things.declare(include=["name"])
    things.run(item)
    things.use(things.encoder.revised("r2"))
    planned = things.plan(item)
    assert reasons(planned) == {"model": 1.0}
    assert [(s.number, s.encode) for s in planned.sets] == [(1, 0), (None, 150)]
    assert things.run(item)["encoded"] == 150


@pytest.mark.parametrize(
    ("keys", "changed", "why"),
    [
        ({"storage": "halfvec"}, {}, "storage"),
        ({}, {"dimension": 32}, "dimension"),
        ({"storage": "halfvec"}, {"dimension": 32}, "dimension, storage"),
        ({"storage": "halfvec"}, {"revision": "r2"}, "model"),
    ],
)
def test_the_keys_for_which_a_set_is_replaced_are_its_reason(
    things: World, keys: dict[str, Any], changed: dict[str, Any], why: str
) -> None:
    things.run(things.declare(include=["name"]))
    things.use(WordsEncoder(replace(things.encoder.identity, **changed)))
    assert reasons(things.plan(things.declare(include=["name"], **keys))) == {why: 1.0}


def test_rows_that_a_run_before_left_over_are_not_laid_to_a_model(things: World) -> None:
    item = things.declare(include=["name"])
    things.texts(item)
    assert reasons(things.plan(item)) == {"unfinished": 1.0}
    things.vectors(item, limit=100)
    assert reasons(plan_and_run(things, item)) == {"unfinished": 1.0}
    assert reasons(things.plan(item)) == {}


def test_a_live_set_whose_model_cannot_be_had_is_planned_to_be_left(things: World) -> None:
    item = things.declare(include=["name"])
    things.run(item)
    things.use(things.encoder.revised("r2"))
    things.sql("update staging.stg_item set name = 'changed ' || id where id < 50")

    planned = things.plan(item)

    live, building = planned.sets
    assert (live.pending, live.encode, live.tokens, live.cost_usd) == (0, 0, 0, 0)
    assert "fake/words" in (live.frozen or "")
    assert building.frozen is None
    assert building.encode == things.run(item)["encoded"]


@pytest.mark.parametrize(
    "request_of_run", [{"keys": ["00", "03"]}, {"limit": 70}, {"force": True}, {"limit": 0}]
)
def test_the_plan_of_a_run_of_some_rows_is_what_that_run_does(
    things: World, request_of_run: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(project, "WINDOW_ROWS", 30)
    item = things.declare(include=["name"])
    things.run(item)
    things.sql("update staging.stg_item set name = 'changed ' || id % 90 where id < 160")
    (planned,) = things.plan(item, **request_of_run).sets
    things.texts(item)
    done = things.vectors(item, **request_of_run).counts
    assert (planned.encode, planned.tokens) == (done.encoded, done.tokens)
    assert planned.pending == done.pending
    assert request_of_run == {"limit": 0} or done.encoded


def test_a_forced_run_is_the_reason_of_what_it_does_again(things: World) -> None:
    item = things.declare(include=["name"])
    things.run(item)
    assert reasons(things.plan(item, force=True)) == {"forced": 1.0}


def test_an_id_of_another_type_is_refused_by_a_plan_and_an_explanation(things: World) -> None:
    things.run(things.declare(include=["name"]))
    things.sql("alter table staging.stg_item alter column id type text")
    item = things.declare(include=["name"])
    with pytest.raises(ConfigurationError, match=r"its id was id \(bigint\)"):
        things.plan(item)
    with pytest.raises(ConfigurationError, match=r"its id was id \(bigint\)"):
        explain(things.postgres, things.postgres, things.names_of(item), things.encoders, "1")


def test_a_new_partition_scheme_is_counted_as_moves(things: World) -> None:
    things.sql("update staging.stg_item set name = repeat('Some words. ', 20) where id < 50")
    chunked = {"include": ["name"], "chunk": {"tokens": 16}}
    things.run(things.declare(**chunked))
    item = things.declare(**chunked, partitions={"count": 2})
    planned = things.plan(item)
    assert planned.moved_partition == things.texts(item).rekeyed


def test_a_plan_writes_nothing(world: World) -> None:
    world.table("id bigint, name text")
    world.insert((1, "Pump"))
    before = tables(world)
    world.plan(world.declare())
    assert tables(world) == before
    assert world.encoder.encoded == []


def tables(world: World) -> dict[str, int]:
    names = world.sql(f"select tablename from pg_tables where schemaname = '{SCHEMA}'")
    return {name: world.sql(f"select count(*) from {SCHEMA}.{name}")[0][0] for (name,) in names}


def test_deletes_that_would_be_refused_are_foretold(things: World) -> None:
    item = things.declare(include=["name"])
    things.run(item)
    things.sql("delete from staging.stg_item where id >= 20")
    assert things.plan(item).deletes_refused
    assert not things.plan(things.declare(include=["name"], max_delete_share=1)).deletes_refused


def test_a_row_that_goes_before_it_had_a_vector_is_not_projected(things: World) -> None:
    item = things.declare(include=["name"])
    things.texts(item)
    things.vectors(item, limit=2)
    # the cache has what rows of this one wait for
    other = things.declare("other", include=["name"])
    things.sql("create view staging.stg_other as select * from staging.stg_item")
    things.texts(other)
    things.vectors(other)
    things.sql("delete from staging.stg_item where id > 10")
    planned = things.plan(item, allow_deletes=True)
    counts = things.texts(item, allow_deletes=True).counts + things.vectors(item).counts
    assert counts.reused == planned.sets[0].reusable


def test_tokens_of_many_texts_are_estimated_within_two_percent(world: World) -> None:
    world.table("id bigint, name text")
    world.sql(
        "insert into staging.stg_item select n, repeat('word ', 1 + n % 17) || n"
        " from generate_series(1, 6000) n"
    )
    item = world.declare(template="{name}")
    planned = world.plan(item)
    world.texts(item)
    ((tokens,),) = world.sql(f"select sum(tokens) from {SCHEMA}.item_texts")
    assert planned.tokens_estimated
    assert planned.sets[0].encode == 6_000
    assert planned.sets[0].tokens == pytest.approx(tokens, rel=0.02)


def test_a_priced_model_has_a_cost_and_a_limit_stops_before_it(things: World) -> None:
    things.charge({"fake/words": 1_000_000})
    item = things.declare(include=["name"])
    planned = things.plan(item)
    assert planned.cost_usd == planned.sets[0].tokens
    things.texts(item)

    with pytest.raises(CostLimitReached, match="of the run's limit is left"):
        things.vectors(item, "bounded", max_cost_usd=planned.cost_usd - 1)
    ((cost, plans),) = things.sql(
        f"select cost_usd, plan from {SCHEMA}.run_ledger where run_id = 'bounded'"
    )
    assert 0 < cost <= planned.cost_usd - 1
    assert [p["cost_usd"] for p in plans] == [planned.cost_usd]

    things.vectors(item, "paid", max_cost_usd=planned.cost_usd - float(cost))
    ((rest,),) = things.sql(f"select cost_usd from {SCHEMA}.run_ledger where run_id = 'paid'")
    assert cost + rest == planned.cost_usd


def test_seconds_come_from_what_the_ledger_saw(things: World) -> None:
    item = things.declare(include=["name"])
    assert things.plan(item).sets[0].seconds is None
    things.run(item)
    things.sql(
        f"update {SCHEMA}.run_ledger set tokens = 1000, encode_seconds = 10 where encoded > 0"
    )
    things.sql("update staging.stg_item set name = 'changed ' || id where id < 10")
    (live,) = things.plan(item).sets
    assert live.seconds == pytest.approx(live.tokens / 100)


@pytest.mark.parametrize(
    ("change", "storage", "seconds"),
    [
        # 200 rows are compared
        (None, "vector", 2.0),
        # ten rows are rendered
        ("stock = -1", "vector", 2.0 + 0.5),
        # beside the time of the model a start, and ten projections
        ("name = 'again ' || id", "vector", 2.0 + 0.5 + 1.0 + 0.2),
        # a whole set is projected and indexed
        (None, "halfvec", 2.0 + 4.0 + 6.0),
    ],
    ids=["nothing", "filter", "text", "storage"],
)
def test_the_seconds_of_a_plan_have_every_stage_in_them(
    things: World, change: str | None, storage: str, seconds: float
) -> None:
    keys: dict[str, Any] = {"include": ["name"], "filters": ["stock"]}
    things.run(things.declare(**keys))
    things.sql("update staging.stg_item set name = 'changed ' || id where id < 10")
    things.run(things.declare(**keys))
    things.run(things.declare(**keys))
    for read, stages in (
        (200, '{"texts": 12.5, "encode": 15.2, "index": 6}'),
        (10, '{"texts": 2, "encode": 11}'),
        (0, '{"texts": 2}'),
    ):
        things.sql(
            f"update {SCHEMA}.run_ledger set stages = %s::jsonb, tokens = 1000,"
            " encode_seconds = 10 where read = %s",
            stages,
            read,
        )
    if change:
        things.sql(f"update staging.stg_item set {change} where id < 10")
    planned = things.plan(things.declare(**keys, storage=storage))
    model = sum(part.seconds or 0.0 for part in planned.sets if part.encode)
    assert bool(model) == (change is not None and "name" in change)
    assert planned.seconds == pytest.approx(seconds + model)
