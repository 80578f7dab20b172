"""Runs that are killed at random while another process writes, with a provider that counts."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from threading import Event, Thread

import psycopg
import pytest

from embeddings_pipeline.database import Database
from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.settings import Settings
from embeddings_pipeline.sync import encode, project
from tests.support import provider as misbehaving
from tests.support.provider import KEY, Provider
from tests.support.world import SCHEMA, World

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

MODEL = "openai:some/model"
KILLS = 12
CHANGES = (
    "update staging.stg_item set name = 'text ' || %(n)s where id %% 97 = %(n)s %% 97",
    "delete from staging.stg_item where id %% 89 = %(n)s %% 89",
    "update staging.stg_item set id = id + 100000 where id %% 83 = %(n)s %% 83 and id < 100000",
    "update staging.stg_item a set name = b.name from staging.stg_item b"
    " where a.id %% 79 = %(n)s %% 79 and b.id = a.id + 1",
    "insert into staging.stg_item select 1000000 + %(n)s * 100 + k, 'new ' || %(n)s || ' ' || k"
    " from generate_series(1, 20) k on conflict do nothing",
)
# a new process each time, which begins with the imports done
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload([__name__])


def run_until_killed(database: Database, url: str, told: Connection) -> None:
    """A run in windows of 50 rows, that tells each sign of progress."""
    encode._READ_AT_ONCE, project.WINDOW_ROWS = 50, 50
    world = World(database)
    world.encoders = encoders_of(world, url)
    told.send("started")
    world.run(declared(world), allow_deletes=True, report=lambda _: told.send("on"))


def encoders_of(world: World, url: str) -> Encoders:
    settings = Settings(
        _env_file=None,
        embedding_model=MODEL,
        embedding_batch_size=20,
        embedding_prices={MODEL: 0.02},
        openai_base_url=url,
        openai_api_key=KEY,
    )
    return Encoders(settings, lambda: world.postgres.transaction_in(SCHEMA))


def declared(world: World) -> Entity:
    return world.declare(template="{name}", model=MODEL, index={"type": "none"})


@contextmanager
def changing(world: World, chance: random.Random) -> Iterator[None]:
    """Another session changes rows all the while."""
    ended = Event()

    def change() -> None:
        with psycopg.connect(world.database.url, autocommit=True) as connection:
            for n in range(1_000_000):
                if ended.wait(0.05):
                    return
                connection.execute(chance.choice(CHANGES), {"n": n})

    thread = Thread(target=change)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_nothing_is_lost_and_no_stored_text_is_paid_twice(world: World) -> None:
    # other moments in each run of the tests
    chance = random.Random(random.random())
    world.table("id bigint primary key, name text")
    world.insert(*[(n, f"text {n}") for n in range(3_000)])
    with misbehaving.serving(dimension=16) as provider:
        stored: Counter[str] = Counter()
        with changing(world, chance):
            for _ in range(KILLS):
                kill_at_random(world, provider, chance)
                note_stored(world, provider, stored)
        world.encoders = encoders_of(world, provider.url)
        world.run(declared(world), allow_deletes=True)
        again = {text for text, billed in stored.items() if provider.billed[text] > billed}
        assert stored
        assert not again
        rows = world.sql("select id::text, name from staging.stg_item where name is not null")
        assert world.view() == {(row_id, 0): name for row_id, name in rows}
        for text, vector in world.sql(
            f"select text, embedding::text from {SCHEMA}.item_embeddings limit 500"
        ):
            wanted = misbehaving.vector_of(text, 16)
            found = [float(x) for x in vector.strip("[]").split(",")]
            assert abs(wanted - found).max() < 1e-5
        world.encoders.cleanup()


def note_stored(world: World, provider: Provider, stored: Counter[str]) -> None:
    """Of texts that have a vector now: how often each was billed until then. What was billed and
    not stored may be again."""
    if world.sql(f"select to_regclass('{SCHEMA}.embedding_cache_1') is null") == [(True,)]:
        return
    for (text,) in world.sql(
        f"select t.text from {SCHEMA}.item_texts t"
        f" join {SCHEMA}.embedding_cache_1 c using (text_hash)"
    ):
        stored.setdefault(text, provider.billed[text])


def kill_at_random(world: World, provider: Provider, chance: random.Random) -> None:
    """Start a run in a process of its own and kill it somewhere on its way."""
    tells, told = processes.Pipe(duplex=False)
    process = processes.Process(
        target=run_until_killed, args=(world.database, provider.url, told), daemon=True
    )
    process.start()
    told.close()
    with tells:
        for _ in range(chance.randrange(1, 12)):
            try:
                tells.recv()
            except EOFError:
                break
        time.sleep(chance.random() * 0.2)
        process.kill()
        process.join()
