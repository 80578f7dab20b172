"""Whatever happened before, a run does what its plan said."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.store.migrations import create_control_tables
from tests.support.statements import statement
from tests.support.words import WORDS, WordsEncoder
from tests.support.world import SCHEMA, World

MODELS = ("fake/words", "fake/other")
IDS = st.integers(0, 9)
NAMES = st.sampled_from(["pump", "hose", "valve", "tap", None])
DAYS = st.sampled_from(["2026-01-01", "2026-01-02", "2026-01-03"])

CHANGES = st.one_of(
    statement("delete from staging.stg_item where id = {}", IDS),
    statement(
        "delete from staging.stg_item where id = {0};"
        " insert into staging.stg_item values ({0}, {1}, {2})",
        *(IDS, NAMES, DAYS),
    ),
    statement("update staging.stg_item set name = {} where id = {}", NAMES, IDS),
    statement("update staging.stg_item set day = {} where id = {}", DAYS, IDS),
    statement(
        "delete from staging.stg_item where id = {0};"
        " update staging.stg_item set id = {0} where id = {1}",
        *(IDS, IDS),
    ),
    statement(
        "update staging.stg_item a set name = b.name from staging.stg_item b"
        " where (a.id, b.id) in (({0}, {1}), ({1}, {0}))",
        *(IDS, IDS),
    ),
    statement("update staging.stg_other set name = {} where id = {}", NAMES, IDS),
)
EDITS: dict[str, list[Any]] = {
    "template": ["{name}", "a {name}"],
    "partitions": [
        {"count": 1},
        {"count": 4},
        {"by": "day", "column": "day", "start": "2026-01-01"},
    ],
    "model": list(MODELS),
    "storage": ["vector", "halfvec"],
}
RUNS = st.fixed_dictionaries(
    {},
    optional={
        "limit": st.integers(1, 4),
        "force": st.just(True),
        "keys": st.integers(0, 3),
    },
)
# changes, edits of the declaration, and what the run is asked for
STEPS = st.tuples(
    st.lists(CHANGES, max_size=3),
    st.dictionaries(st.sampled_from(list(EDITS)), st.integers(0, 2), max_size=1),
    RUNS,
)


def begin(world: World) -> None:
    world.sql(f"drop schema if exists {SCHEMA}, staging cascade")
    world.sql("create schema staging")
    with world.postgres.connection() as connection:
        create_control_tables(connection, SCHEMA)
    for name in ("stg_item", "stg_other"):
        world.table("id bigint, name text, day date", name)
    world.insert(*[(n, f"thing {n % 3}", "2026-01-01") for n in range(6)])
    world.insert(*[(n, f"thing {n}", "2026-01-02") for n in range(4)], name="stg_other")


def planned(world: World, *entities: Entity, **options: Any) -> list[dict[str, int]]:
    return [
        {
            "deleted": plan.deleted,
            "pending": sum(s.pending for s in plan.sets),
            "encode": sum(s.encode for s in plan.sets),
            "reused": sum(s.reusable for s in plan.sets),
            "tokens": sum(s.tokens for s in plan.sets),
        }
        for plan in world.plans(*entities, **options)
    ]


def done(world: World, *entities: Entity, **options: Any) -> list[dict[str, int]]:
    read = [world.texts(entity, allow_deletes=True, **options).counts for entity in entities]
    found = []
    for entity, texts in zip(entities, read, strict=True):
        vectors = world.vectors(entity, **options).counts
        if "limit" in options:
            # one for all entities of a run
            options["limit"] -= vectors.encoded
        counts = texts + vectors
        found.append(
            {
                "deleted": counts.deleted,
                "pending": counts.pending,
                "encode": counts.encoded,
                "reused": counts.reused,
                "tokens": counts.tokens,
            }
        )
    return found


@pytest.mark.long
def test_a_run_does_what_its_plan_said(world: World) -> None:
    for name in MODELS:
        world.encoders.add(WordsEncoder(replace(WORDS, model=name)))

    @given(steps=st.lists(STEPS, min_size=1, max_size=5))
    @settings(
        max_examples=15,
        deadline=None,
        phases=[Phase.explicit, Phase.reuse, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def live(steps: list[tuple[list[str], dict[str, int], dict[str, Any]]]) -> None:
        begin(world)
        keys: dict[str, Any] = {"template": "{name}", "model": MODELS[0]}
        for number, (changes, edits, asked) in enumerate(steps):
            for change in changes:
                world.sql(change)
            keys |= {key: EDITS[key][value % len(EDITS[key])] for key, value in edits.items()}
            item = world.declare(**keys)
            other = world.declare("other", template="{name}", model=MODELS[0])
            options = dict(asked)
            entities = [item, other]
            if "keys" in options:
                present = (
                    world.sql(f"select distinct partition_key from {SCHEMA}.item_texts")
                    if (number)
                    else []
                )
                known = sorted(key for (key,) in present)
                if not known or "partitions" in edits:
                    del options["keys"]
                else:
                    options["keys"] = [known[options["keys"] % len(known)]]
                    entities = [item]
            told = planned(world, *entities, **options)
            assert done(world, *entities, **options) == told, (number, steps)
            for entity in entities:
                world.publish(entity)
                world.retain(entity)

    live()
