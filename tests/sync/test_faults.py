"""Runs that are killed, raced, interrupted or refused, and the tables after the next run."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from threading import Event, Thread

import pytest

from embeddings_pipeline.database import Database
from embeddings_pipeline.entities.model import Vector
from embeddings_pipeline.errors import Interrupted
from tests.support.streaming import stream_in_batches
from tests.support.words import WordsEncoder, refuses
from tests.support.world import SCHEMA, World, world_in

# a process that runs the entity and says so before each batch that it encodes
_RUNNER = """
import sys
from pydantic import SecretStr
from embeddings_pipeline.database import Database
from tests.support.world import World
from embeddings_pipeline.sync import encode
encode._WRITE_BATCH = encode._READ_AT_ONCE = 50
host, port, name, user, password = sys.argv[1:]
world = World(Database(host, int(port), name, user, SecretStr(password)))
world.encoder.batch_texts = 50
world.encoder.before = lambda texts: print(len(texts), flush=True)
print("started", flush=True)
world.run(world.declare())
print("finished", flush=True)
"""


class Held:
    """An encoder's model that waits, once it runs, until it is let go."""

    def __init__(self) -> None:
        self.running, self.go = Event(), Event()

    def __call__(self, texts: Sequence[str]) -> None:
        self.running.set()
        assert self.go.wait(30)


def while_the_model_runs(world: World, change: str) -> None:
    """Run the vectors of a changed row, and change it again while the model is at work."""
    held = Held()
    world.encoder.before = held
    item = world.declare()
    thread = Thread(target=world.vectors, args=(item,))
    thread.start()
    assert held.running.wait(30)
    world.sql(change)
    world.texts(item, allow_deletes=True)
    held.go.set()
    thread.join(30)
    world.encoder.before = lambda texts: None


@pytest.fixture
def changed(world: World) -> World:
    """Two published rows; one has a new text without a vector yet."""
    world.table("id bigint, name text")
    world.insert((1, "Pump"), (2, "Hose"))
    world.run(world.declare())
    world.sql("update staging.stg_item set name = 'Pump again' where id = 1")
    world.texts(world.declare())
    return world


def test_a_row_updated_while_the_model_runs_never_keeps_the_old_texts_vector(
    changed: World,
) -> None:
    while_the_model_runs(changed, "update staging.stg_item set name = 'Valve' where id = 1")
    # the vector that was made is of no row's text now: the run goes on with the text that is
    assert changed.encoder.encoded[-2:] == ["name: Pump again", "name: Valve"]
    assert changed.view() == {("1", 0): "name: Valve", ("2", 0): "name: Hose"}
    changed.assert_vectors_are_of_their_texts()


def test_a_row_deleted_while_the_model_runs_stays_deleted(changed: World) -> None:
    while_the_model_runs(changed, "delete from staging.stg_item where id = 1")
    assert changed.view() == {("2", 0): "name: Hose"}
    assert changed.sql(f"select id from {SCHEMA}.item_vectors_1") == [(2,)]


def test_no_transaction_is_open_while_the_model_runs(changed: World) -> None:
    states: list[tuple[str, ...]] = []

    def look(texts: Sequence[str]) -> None:
        states.extend(
            changed.sql(
                "select state from pg_stat_activity where datname = current_database()"
                " and pid <> pg_backend_pid() and state <> 'idle'"
                " and backend_type = 'client backend'"
            )
        )

    changed.encoder.before = look
    changed.vectors(changed.declare())
    # other threads may read and write meanwhile
    assert {state for (state,) in states} <= {"active"}
    assert changed.encoder.encoded[-1] == "name: Pump again"


def test_ten_kills_lose_at_most_the_window_in_flight(world: World) -> None:
    rows = [(n, f"thing {n} of {n % 13}") for n in range(1_500)]
    world.table("id bigint, name text")
    world.insert(*rows)
    chance = random.Random(4)
    for _ in range(10):
        kill_at_random(world.database, chance)
    stored = world.sql(stored_hashes())
    world.encoder.encoded.clear()
    world.run(world.declare())

    again = set(world.encoder.encoded) & {text for (text,) in stored}
    assert not again
    assert world.view() == {(str(n), 0): f"name: {name}" for n, name in rows}
    world.assert_vectors_are_of_their_texts()


def stored_hashes() -> str:
    return f"select text from {SCHEMA}.item_vectors_1"


def kill_at_random(database: Database, chance: random.Random) -> None:
    """Start a run in a process of its own and kill it somewhere in its way."""
    where = (database.host, str(database.port), database.name, database.user)
    process = subprocess.Popen(
        [sys.executable, "-c", _RUNNER, *where, database.password.get_secret_value()],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert process.stdout
    for _ in range(chance.randrange(0, 6)):
        if not process.stdout.readline():
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


def test_a_run_that_is_asked_to_stop_keeps_what_it_has_encoded(world: World) -> None:
    world.table("id bigint, name text")
    world.insert(*[(n, f"thing {n}") for n in range(2_500)])
    item = world.declare()
    world.texts(item)

    with pytest.raises(Interrupted, match="stopped after 1,000 of 2,500 chunks; run again to go"):
        world.vectors(item, stopped=lambda: len(world.encoder.encoded) >= 1_000)
    world.run(item)

    assert len(world.encoder.encoded) == len(set(world.encoder.encoded)) == 2_500


def test_a_run_that_is_asked_to_stop_does_not_encode_what_was_read_ahead(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.table("id bigint, name text")
    world.insert(*[(n, f"thing {n}") for n in range(300)])
    item = world.declare()
    world.texts(item)
    encoder = world.encoder
    monkeypatch.setattr(
        encoder,
        "encode_stream",
        lambda texts: stream_in_batches(encoder.encode_documents, [*texts], 100),
    )

    with pytest.raises(Interrupted, match="stopped after 100 of 300 chunks"):
        world.vectors(item, stopped=lambda: len(encoder.encoded) >= 100)
    world.run(item)

    assert len(encoder.encoded) == len(set(encoder.encoded)) == 300


def test_a_limit_leaves_the_rest_for_the_next_run(world: World) -> None:
    world.table("id bigint, name text")
    world.insert(*[(n, f"thing {n}") for n in range(30)])
    item = world.declare()
    world.texts(item)
    assert world.vectors(item, limit=12).counts.encoded == 12
    assert world.vectors(item).counts.encoded == 18


def test_a_bad_text_goes_to_quarantine_and_the_good_ones_are_encoded(world: World) -> None:
    world.table("id bigint, name text")
    world.insert(*[(n, f"thing {n}") for n in range(100)], (100, "poison"))
    world.encoder.before = refuses("poison")
    item = world.declare()
    counts = world.run(item)

    assert (counts["encoded"], counts["quarantined"]) == (100, 1)
    assert world.sql(f"select stage, error, attempts from {SCHEMA}.quarantine") == [
        ("encode", "ValueError: cannot take this", 1)
    ]
    for _ in range(4):
        world.sql(f"update {SCHEMA}.quarantine set last_seen = last_seen - interval '1 day'")
        world.vectors(item)
    assert world.sql(f"select attempts from {SCHEMA}.quarantine") == [(3,)]

    world.sql("update staging.stg_item set name = 'cured' where id = 100")
    world.run(item)
    assert world.sql(f"select * from {SCHEMA}.quarantine") == []
    assert len(world.view()) == 101


def test_a_vector_without_a_text_goes_even_while_another_text_is_in_quarantine(
    world: World,
) -> None:
    world.table("id bigint, name text")
    world.insert((1, "Pump"), (2, "poison"))
    world.encoder.before = refuses("poison")
    item = world.declare()
    world.run(item)
    # one vector too many and one too few
    world.sql(
        f"insert into {SCHEMA}.item_vectors_1 (id, chunk, text, text_hash, embedding, version,"
        " run_id) select 3, 0, text, text_hash, embedding, version, run_id"
        f" from {SCHEMA}.item_vectors_1"
    )
    world.run(item)
    assert world.view() == {("1", 0): "name: Pump"}


def test_an_encoder_that_fails_on_everything_quarantines_nothing(world: World) -> None:
    world.table("id bigint, name text")
    world.insert(*[(n, f"thing {n}") for n in range(20)])

    def fail(texts: Sequence[str]) -> None:
        raise RuntimeError("the model is broken")

    world.encoder.before = fail
    item = world.declare()
    world.texts(item)
    with pytest.raises(RuntimeError, match="the model is broken"):
        world.vectors(item)
    assert world.sql(f"select * from {SCHEMA}.quarantine") == []


@pytest.mark.parametrize("bad", [float("nan"), 0.0])
def test_a_vector_that_is_no_direction_goes_to_quarantine(world: World, bad: float) -> None:
    class Odd(WordsEncoder):
        def _vector(self, text: str) -> Vector:
            return super()._vector(text) * (bad if "odd" in text else 1)

    world.use(Odd())
    world.table("id bigint, name text")
    world.insert((1, "odd"), (2, "even"))
    world.run(world.declare())
    assert world.view() == {("2", 0): "name: even"}
    assert world.sql(f"select stage from {SCHEMA}.quarantine") == [("encode",)]


def test_two_runs_at_once_encode_each_text_once(world: World, database: Database) -> None:
    world.table("id bigint, name text")
    world.insert(*[(n, f"thing {n}") for n in range(2_000)])
    item = world.declare()
    with world_in(database, fresh=False) as other:
        threads = [Thread(target=w.run, args=(item,)) for w in (world, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        encoded = world.encoder.encoded + other.encoder.encoded
    assert sorted(encoded) == sorted(f"name: thing {n}" for n in range(2_000))
    assert len(world.view()) == 2_000


def test_a_run_whose_connections_are_cut_takes_new_ones_and_goes_on(world: World) -> None:
    world.table("id bigint, name text")
    world.insert(*[(n, f"thing {n}" + n % 7 * " more") for n in range(2_500)])
    item = world.declare()
    world.texts(item)

    def disconnect(texts: Sequence[str]) -> None:
        if len(world.encoder.encoded) > 1_000:
            world.encoder.before = lambda texts: None
            world.sql(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = current_database() and pid <> pg_backend_pid()"
            )

    world.encoder.before = disconnect
    counts = world.run(item)

    assert (counts["pending"], counts["encoded"]) == (2_500, 2_500)
    assert len(world.encoder.encoded) == len(set(world.encoder.encoded)) == 2_500
    assert len(world.view()) == 2_500
