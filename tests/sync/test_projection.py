"""A vector set holds the cached vectors of its texts, also when rows change during a projection."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from embeddings_pipeline.database import Database
from embeddings_pipeline.sync import encode, project
from embeddings_pipeline.sync.encode import Encoding
from tests.support.words import WORDS, WordsEncoder
from tests.support.world import SCHEMA, World, world_in
from tests.sync.conftest import wait_for


class Killed(BaseException):
    """Stands for the end of the process."""


def test_a_run_killed_between_encoding_and_projecting_encodes_nothing_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.table("id bigint, name text")
    world.insert(*[(n, f"thing {n}") for n in range(50)])
    item = world.declare()
    world.texts(item)

    def dies(*args: object, **kwargs: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(encode.Writer, "_project", dies)
        with pytest.raises(Killed):
            world.vectors(item)
    assert world.sql(f"select count(*) from {SCHEMA}.item_vectors_1") == [(0,)]
    assert world.sql(f"select count(*) from {SCHEMA}.embedding_cache_1") == [(50,)]

    world.encoder.encoded.clear()
    done = world.run(item)
    assert (done["encoded"], done["reused"]) == (0, 50)
    assert world.encoder.encoded == []
    world.assert_vectors_are_of_their_texts()


def test_a_filter_that_changes_while_a_set_is_projected_is_there_in_the_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(project, "WINDOW_ROWS", 10)
    world.table("id bigint, name text, stock int, color text")
    world.insert(*[(n, f"thing {n}", n, f"color {n}") for n in range(60)])
    before = world.declare(include=["name"], filters=["stock"])
    world.texts(before)
    after = world.declare(include=["name"], filters=["stock", "color"])
    windows: list[int] = []

    with ThreadPoolExecutor() as pool:

        def change(encoding: Encoding, projected: object) -> None:
            windows.append(1)
            if len(windows) == 2:
                # waits for the window at most; the next one finds a further column
                pool.submit(world.texts, after).result(60)

        monkeypatch.setattr(Encoding, "_note_projected", change)
        world.vectors(before)
    world.run(after)
    assert len(windows) > 3
    assert (
        world.sql(
            f"select id, stock, color from {SCHEMA}.item_embeddings"
            " except select id, stock, color from staging.stg_item"
        )
        == []
    )
    assert len(world.view()) == 60


def test_runs_of_two_partitions_with_the_same_texts_encode_each_once(
    world: World, database: Database
) -> None:
    world.table("id bigint, name text")
    # each text stands in many rows of either partition
    world.insert(*[(n, f"thing {n % 300}") for n in range(3_000)])
    item = world.declare(partitions={"count": 2})
    world.texts(item)
    keys = [key for (key,) in world.sql(f"select distinct partition_key from {SCHEMA}.item_texts")]
    assert len(keys) == 2
    encoded: list[str] = []

    def count(texts: Sequence[str]) -> None:
        encoded.extend(texts)

    with world_in(database, fresh=False) as other, ThreadPoolExecutor() as pool:
        runs = []
        for one, key in zip((world, other), keys, strict=True):
            encoder = WordsEncoder(WORDS, count)
            encoder.batch_texts = 20
            one.use(encoder)
            runs.append(pool.submit(one.vectors, item, keys=[key]))
        results = [run.result(60) for run in runs]
    assert sorted(encoded) == sorted(f"name: thing {n}" for n in range(300))
    assert sum(result.counts.encoded for result in results) == 300
    world.run(item)
    assert len(world.view()) == 3_000


@pytest.mark.parametrize("indexed", [True, False])
def test_a_live_set_whose_ids_all_change_is_replaced_without_encoding(
    world: World, indexed: bool
) -> None:
    world.table("id bigint, name text")
    world.insert(*[(n, f"thing {n}") for n in range(3_000)])
    kind = {"type": "hnsw"} if indexed else {"type": "none"}
    item = world.declare(index=kind, max_delete_share=1)
    world.run(item)
    world.encoder.encoded.clear()
    world.sql("update staging.stg_item set id = id + 100000")
    world.texts(item)
    # searches find every text under its old id, or already under its new one
    assert set(world.view().values()) == {f"name: thing {n}" for n in range(3_000)}
    done = world.run(item)
    assert done["encoded"] == 0
    assert world.encoder.encoded == []
    assert world.view() == {(str(n + 100_000), 0): f"name: thing {n}" for n in range(3_000)}
    assert [s.state for s in world.sets(item)] == ["live"]


def test_a_run_of_one_partition_waits_for_no_lock_of_another(world: World) -> None:
    world.table("id bigint, name text")
    world.insert(*[(n, f"thing {n}") for n in range(100)])
    item = world.declare(partitions={"count": 2})
    world.run(item)
    first, second = sorted(
        {key for (key,) in world.sql(f"select partition_key from {SCHEMA}.item_texts")}
    )
    world.sql("update staging.stg_item set name = name || ' again'")
    world.texts(item)
    with world.postgres.connection() as holds, holds.transaction():
        holds.execute(
            f"select from {SCHEMA}.item_texts where partition_key = %s for update",
            (first,),
        )
        assert world.vectors(item, keys=[second]).counts.encoded > 0
    wait_for(
        world,
        f"select count(*) = 0 from {SCHEMA}.item_chunks_1 where partition_key = '{second}'"
        " and pending",
    )
    assert world.vectors(item).counts.encoded > 0
