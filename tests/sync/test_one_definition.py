"""What is pending is the same number for everyone who asks."""

from __future__ import annotations

from collections.abc import Sequence

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
    """What each of them calls pending; nothing is changed by asking."""
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

    # one attempt of three: what is left alone for some hours is pending for nobody
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


def test_what_is_tried_again_is_encoded_and_pending_for_nobody(
    world: World, refuses: Refuses
) -> None:
    item = world.declare()
    world.run(item)
    refuses.mended = True
    world.sql(f"update {SCHEMA}.quarantine set last_seen = last_seen - interval '7 hours'")
    assert world.run(item)["encoded"] == 2
    assert set(told(world, item).values()) == {0}
    assert len(world.view()) == 10
