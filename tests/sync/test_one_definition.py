"""The number of pending chunks is the same in plan, check, status and view."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.sync.checks import check
from embeddings_pipeline.sync.status import status
from tests.support.words import WORDS, WordsEncoder
from tests.support.world import SCHEMA, World


class Refuses:
    """A model that fails on texts that say `odd`, until it is mended."""

    mended = False

    def __call__(self, texts: Sequence[str]) -> None:
        if not self.mended and any("odd" in text for text in texts):
            raise ValueError("too odd")


def told(world: World, item: Entity) -> dict[str, int]:
    """The pending chunks by each of them. Changes nothing."""
    names = world.names_of(item)
    (coverage,) = world.sql(
        f"select sum(pending)::int from {SCHEMA}.entity_coverage where entity = 'item'"
    )
    check_of = check(world.postgres, names)["coverage"].metadata["pending"]
    return {
        "plan": sum(s.pending for s in world.plan(item).sets),
        "check": check_of,
        "status": status(world.postgres, SCHEMA, item).pending,
        "view": coverage[0],
    }


@pytest.fixture
def refuses(world: World) -> Refuses:
    model = Refuses()
    world.use(WordsEncoder(WORDS, model))
    world.table("id bigint, name text")
    world.insert(*[(n, f"thing {n}") for n in range(4)])
    world.run(world.declare())
    world.insert(*[(n, f"thing {n}") for n in range(4, 8)], (8, "odd one"), (9, "odd two"))
    return model


def test_before_and_after_a_text_failed_all_agree(world: World, refuses: Refuses) -> None:
    item = world.declare()
    world.texts(item)
    assert set(told(world, item).values()) == {6}
    world.vectors(item, limit=2)
    assert set(told(world, item).values()) == {4}

    # one attempt of three: a text that is not tried for some hours is pending for nobody
    world.run(item)
    assert set(told(world, item).values()) == {0}
    assert len(world.view()) == 8

    for attempt in (2, 3):
        world.sql(f"update {SCHEMA}.quarantine set last_seen = last_seen - interval '7 hours'")
        # until its time has come it is pending for everyone, and the next run tries it
        assert set(told(world, item).values()) == {2}
        world.run(item)
        assert world.sql(f"select distinct attempts from {SCHEMA}.quarantine") == [(attempt,)]
        assert set(told(world, item).values()) == {0}

    # after the third nobody waits for it
    world.sql(f"update {SCHEMA}.quarantine set last_seen = last_seen - interval '7 hours'")
    assert set(told(world, item).values()) == {0}


@pytest.mark.parametrize(
    "keys",
    [
        {"chunk": {"tokens": 40, "overlap": 5}},
        {"weights": {"name": 2}},
        {"partitions": {"count": 2}, "index": {"type": "none"}},
    ],
    ids=str,
)
def test_all_agree_for_each_kind_of_declaration(world: World, keys: dict[str, Any]) -> None:
    world.use(WordsEncoder(WORDS, Refuses()))
    world.table("id bigint, name text")
    world.insert(*[(n, f"thing {n}. " * 20) for n in range(4)])
    item = world.declare(**keys)
    world.run(item)
    world.sql("update staging.stg_item set name = 'odd ' || name where id = 1")
    world.texts(item)
    assert len(set(told(world, item).values()) - {0}) == 1
    world.vectors(item)
    assert set(told(world, item).values()) == {0}


def test_while_the_first_set_is_built_all_agree(world: World) -> None:
    world.table("id bigint, name text")
    world.insert(*[(n, f"thing {n}") for n in range(10)])
    item = world.declare()
    world.texts(item)
    world.vectors(item, limit=4)
    assert set(told(world, item).values()) == {6}
    assert world.sql(
        f"select rows, rows_with_vectors, vectors_last_24h from {SCHEMA}.entity_coverage"
    ) == [(10, 4, 4)]

    # another model takes the place of a set that was never live
    world.use(world.encoder.revised("r2"))
    world.vectors(item, limit=3)
    assert set(told(world, item).values()) == {7}
    world.run(world.declare(keep_sets=0))
    assert set(told(world, item).values()) == {0}


def test_a_text_that_is_retried_is_encoded_and_no_longer_pending(
    world: World, refuses: Refuses
) -> None:
    item = world.declare()
    world.run(item)
    refuses.mended = True
    world.sql(f"update {SCHEMA}.quarantine set last_seen = last_seen - interval '7 hours'")
    assert world.run(item)["encoded"] == 2
    assert set(told(world, item).values()) == {0}
    assert len(world.view()) == 10
