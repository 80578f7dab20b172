"""Two deployments in one database: each has a PGVECTOR_SCHEMA of its own, and an entity of the same
name over the same staging model."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from threading import Barrier
from typing import Any

import pytest

from embeddings_pipeline.pipeline import Pipeline
from embeddings_pipeline.settings import Settings
from embeddings_pipeline.store import locks
from embeddings_pipeline.store.tables import open_tables
from embeddings_pipeline.sync.erase import erase
from tests.support.declared import manifest_of
from tests.support.words import WordsEncoder
from tests.support.world import World

ROWS = {n: f"garden hose {n}" for n in range(1, 41)}


class Deployment:
    """A pipeline on a schema, with a model that counts what it encodes."""

    def __init__(self, world: World, schema: str, **keys: Any) -> None:
        url = world.database.url
        settings = Settings(
            _env_file=None,
            staging_db_url=url,
            pgvector_url=url,
            pgvector_schema=schema,
            embedding_model="fake/words",
            embedding_cache_grace=0,
        )
        self.schema = schema
        self.encoder = WordsEncoder()
        self.pipeline = Pipeline(settings, manifest_of("item", id="id", **keys))
        self.pipeline.encoders.add(self.encoder)
        self._world = world

    def run(self) -> dict[str, Any]:
        (run,) = self.pipeline.run("item")
        return dict(run.counts)

    def ids(self, table: str) -> set[int]:
        return {n for (n,) in self._world.sql(f"select id from {self.schema}.{table}")}

    def texts(self) -> dict[int, str]:
        return dict(self._world.sql(f"select id, text from {self.schema}.item_embeddings"))

    def cached(self) -> int:
        ((count,),) = self._world.sql(f"select count(*) from {self.schema}.embedding_cache_1")
        return int(count)


@pytest.fixture
def deployments(world: World) -> Iterator[tuple[Deployment, Deployment]]:
    """One shows the name alone, the other also the category."""
    world.table("id bigint, name text, category text")
    world.insert(*((n, name, "garden") for n, name in ROWS.items()))
    one = Deployment(world, "one", include=["name"])
    two = Deployment(world, "two", template="{name}, {category}", filters=["category"])
    with one.pipeline, two.pipeline:
        yield one, two


def test_runs_at_the_same_time_leave_each_its_own_view(
    deployments: tuple[Deployment, Deployment],
) -> None:
    one, two = deployments
    # each model waits for the other: neither run may wait for what the other one holds
    both = Barrier(2)
    for deployment in deployments:
        deployment.encoder.before = lambda texts: (both.wait(60), None)[1]
    with ThreadPoolExecutor(2) as threads:
        counts = list(threads.map(Deployment.run, deployments, timeout=120))
    assert [run["encoded"] for run in counts] == [len(ROWS)] * 2
    assert one.texts() == {n: f"name: {name}" for n, name in ROWS.items()}
    assert two.texts() == {n: f"{name}, garden" for n, name in ROWS.items()}


def test_locks_of_one_are_not_in_the_way_of_the_other(
    deployments: tuple[Deployment, Deployment],
) -> None:
    one, two = deployments
    one.run()
    names = one.pipeline.names_of("item")
    # the locks are released before the end of the thread is waited for
    with ThreadPoolExecutor(1) as threads, ExitStack() as held:
        tables = held.enter_context(open_tables(one.pipeline.vectors, names))
        held.enter_context(locks.entity(tables))
        held.enter_context(locks.index(tables, "item_vectors_1"))
        assert threads.submit(two.run).result(60)["encoded"] == len(ROWS)


def test_claims_of_one_keep_no_text_from_the_other(world: World) -> None:
    world.table("id bigint, name text")
    world.insert(*ROWS.items())
    one, two = (Deployment(world, schema) for schema in ("one", "two"))
    encoded = []
    # the same texts, while a run of the other deployment has claimed them
    one.encoder.before = lambda texts: encoded.append(two.run()["encoded"])
    with one.pipeline, two.pipeline:
        assert one.run()["encoded"] == len(ROWS)
        assert encoded == [len(ROWS)]
        assert one.texts() == two.texts()


def test_an_erasure_in_one_leaves_the_row_in_the_other(world: World) -> None:
    world.table("id bigint, name text")
    world.insert(*ROWS.items())
    one, two = (Deployment(world, schema) for schema in ("one", "two"))
    with one.pipeline, two.pipeline:
        one.run()
        two.run()
        pipeline = one.pipeline
        names = pipeline.names_of("item")
        erased = erase(pipeline.vectors, names, ["7"], pipeline.encoders.cache.evict)
        assert erased == (1, 0)
        for deployment, ids in ((one, {*ROWS} - {7}), (two, {*ROWS})):
            assert deployment.run()["encoded"] == 0
            for table in ("item_texts", "item_vectors_1", "item_embeddings"):
                assert deployment.ids(table) == ids
            assert deployment.cached() == len(ids)
