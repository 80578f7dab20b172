"""Two runs at once store what one after the other would, and share the work."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event

import pytest

from embeddings_pipeline.database import Database
from tests.support.world import SCHEMA, World, world_in
from tests.sync.conftest import ROWS, Stored

pytestmark = pytest.mark.usefixtures("small_windows")

# a process that waits for a word, runs the entity and prints each text that it encodes
_SCHEDULER = """
import sys
from pydantic import SecretStr
from embeddings_pipeline.database import Database
from embeddings_pipeline.sync import encode
from tests.support.world import world_in
encode._READ_AT_ONCE = encode._WRITE_BATCH = 20
host, port, name, user, password = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
database = Database(host, int(port), name, user, SecretStr(password))
with world_in(database, fresh=False) as world:
    world.run(world.declare())
    print("\\n".join(world.encoder.encoded))
"""


def test_two_schedulers_that_start_at_once_encode_each_text_once(
    world: World, undisturbed: Stored
) -> None:
    # even the tables of the project are not there yet
    world.sql(f"drop schema {SCHEMA} cascade")
    with scheduler(world.database) as one, scheduler(world.database) as two:
        for process in (one, two):
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
        encoded = []
        for process in (one, two):
            assert process.stdin
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in (one, two):
            out, _ = process.communicate(timeout=60)
            assert process.returncode == 0
            encoded += out.split("\n")[:-1]
    assert sorted(text for text in encoded if text) == sorted(f"name: {name}" for _, name in ROWS)
    assert world.stored() == undisturbed


@contextmanager
def scheduler(database: Database) -> Iterator[subprocess.Popen[str]]:
    where = (database.host, str(database.port), database.name, database.user)
    with subprocess.Popen(
        [sys.executable, "-c", _SCHEDULER, *where, database.password.get_secret_value()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_run_that_lost_its_locks_to_another_stores_nothing_stale(
    world: World, database: Database
) -> None:
    world.table("id bigint, name text")
    world.insert(*ROWS)
    item = world.declare()
    world.texts(item)
    with world_in(database, fresh=False) as other, ThreadPoolExecutor(2) as threads:
        world.encoder.before, other.encoder.before = Held(), Held()
        first = threads.submit(world.vectors, item)
        world.encoder.before.reached()
        # its session, idle while the model runs, is ended, and with it go the locks
        other.sql(
            "select pg_terminate_backend(pid) from pg_stat_activity where pid in"
            " (select pid from pg_locks where locktype = 'advisory')"
        )
        second = threads.submit(other.vectors, item)
        other.encoder.before.reached()
        # both models work on the same window, and one row changes meanwhile
        ((changed,),) = other.sql(
            f"select id from {SCHEMA}.item_texts where text = '{world.encoder.before.batch[0]}'"
        )
        other.sql(f"update staging.stg_item set name = 'changed' where id = {changed}")
        other.texts(item)
        world.encoder.before.go.set()
        other.encoder.before.go.set()
        first.result(60)
        second.result(60)
        other.run(item)
    expected = {("name: changed" if n == changed else f"name: {name}") for n, name in ROWS}
    assert set(world.view().values()) == expected
    world.assert_vectors_are_of_their_texts()
    # the window in flight is all that was encoded twice
    encoded = world.encoder.encoded + other.encoder.encoded
    assert len(encoded) <= len(ROWS) + 20 + 1


class Held:
    """A model that waits in its first batch until it is let go."""

    def __init__(self) -> None:
        self.batch: Sequence[str] = ()
        self.running, self.go = Event(), Event()

    def __call__(self, batch: Sequence[str]) -> None:
        self.batch = self.batch or batch
        self.running.set()
        assert self.go.wait(30)

    def reached(self) -> None:
        assert self.running.wait(30)
