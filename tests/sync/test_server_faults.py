"""The server is killed, full, refuses a write or serves two runs: the end is always the same."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import psutil
import psycopg
import pytest
from psycopg.errors import DiskFull, LockNotAvailable, QueryCanceled, RaiseException

from embeddings_pipeline.database import Database
from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.store import _host, _postmaster, embedded, index_build, views
from embeddings_pipeline.sync import rendering, texts, vectors
from tests.words import WORDS, WordsEncoder
from tests.world import SCHEMA, World, world_in

ROWS = [(n, f"thing {n} of {n % 7}") for n in range(100)]
# the write of this row can be held up, or made to fail, in the middle of a window
HALF_WAY = "name: thing 50 of 1"
LOCK = 4711

Stored = dict[str, list[tuple[Any, ...]]]

# a process that waits for a word, runs the entity and prints each text that it encodes
_SCHEDULER = """
import sys
from pydantic import SecretStr
from embeddings_pipeline.database import Database
from embeddings_pipeline.sync import vectors
from tests.world import World
vectors._WINDOW_ROWS = 20
host, port, name, user, password = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
world = World(Database(host, int(port), name, user, SecretStr(password)), fresh=False)
world.run(world.declare())
print("\\n".join(world.encoder.encoded))
world.postgres.close()
"""


@pytest.fixture(autouse=True)
def _small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "_WINDOW_ROWS", 20)
    monkeypatch.setattr(rendering, "_WINDOW_ROWS", 20)
    monkeypatch.setattr(vectors, "_WINDOW_ROWS", 20)


@pytest.fixture
def undisturbed(world: World) -> Stored:
    """What a run of these rows stores."""
    world.table("id bigint, name text")
    world.insert(*ROWS)
    world.run(world.declare())
    return world.stored()


@pytest.fixture
def own(data_dir: Path) -> Iterator[World]:
    """The same rows, not run yet, in a server of the test's own."""
    with world_in(embedded.start(data_dir)) as own:
        own.table("id bigint, name text")
        own.insert(*ROWS)
        yield own


def kill_and_start(data_dir: Path, kill: signal.Signals) -> None:
    server = _postmaster.find(data_dir / "postgres")
    assert server
    server.process.send_signal(kill)
    psutil.wait_procs([server.process], timeout=30)
    again = embedded.start(data_dir)
    assert again.port == server.port


def wait_for(world: World, query: str) -> None:
    assert _postmaster.wait(lambda: world.sql(query) == [(True,)], 30)


# a crash to recover from; and what an administrator in haste does
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGQUIT])
def test_a_run_goes_on_when_the_server_is_killed_while_the_model_runs(
    own: World, undisturbed: Stored, data_dir: Path, kill: signal.Signals
) -> None:
    batches = 0
    unlocked: list[tuple[str]] = []
    killed = False

    def kill_once(batch: Sequence[str]) -> None:
        nonlocal batches, killed
        batches += 1
        unlocked.extend(own.sql(partitions_without_lock(batch)))
        if batches == 3 and not killed:
            kill_and_start(data_dir, kill)
            killed = True

    own.encoder.before = kill_once
    item = own.declare()
    own.texts(item, "run")
    result = own.vectors(item, "run")
    own.publish(item)

    assert own.stored() == undisturbed
    # what the model made meanwhile is stored later, and with locks that were taken again
    assert len(own.encoder.encoded) == len(ROWS)
    assert unlocked == []
    # the run is one, in what it says of itself too
    assert result.keys == item.partitions.keys()
    assert (result.counts.pending, result.counts.encoded) == (len(ROWS), len(ROWS))
    assert own.sql(f"select read, jsonb_array_length(plan) from {SCHEMA}.run_ledger") == [
        (len(ROWS), 1)
    ]


def partitions_without_lock(batch: Sequence[str]) -> str:
    """Keys of the texts in a batch whose partition no session holds."""
    listed = ", ".join(f"'{text}'" for text in batch)
    return (
        f"select distinct partition_key from {SCHEMA}.item_texts where text in ({listed})"
        " and hashtextextended(format('%s/item_vectors_1/%s', '" + SCHEMA + "', partition_key), 0)"
        " not in (select (classid::bigint << 32) + objid::bigint from pg_locks"
        " where locktype = 'advisory' and granted)"
    )


# the driver's word on a cursor that it could not close
@pytest.mark.filterwarnings("ignore:.*ServerCursor.* was deleted while still open:ResourceWarning")
@pytest.mark.parametrize("table", ["item_texts", "item_vectors_1"])
def test_a_run_goes_on_when_the_server_is_killed_while_a_window_is_written(
    own: World, undisturbed: Stored, data_dir: Path, table: str
) -> None:
    item = with_tables(own)
    trigger(own, table, f"perform pg_advisory_xact_lock({LOCK})")
    with ThreadPoolExecutor(1) as threads, closing(holder(own)):
        run = threads.submit(own.run, item)
        wait_for(own, f"select exists (select from pg_locks where objid = {LOCK} and not granted)")
        kill_and_start(data_dir, signal.SIGKILL)
        counts = run.result(60)
    assert own.stored() == undisturbed
    assert (counts["read"], counts["encoded"]) == (len(ROWS), len(ROWS))
    # while the filter holds: what the retries remember of the cursor is freed by the collector
    gc.collect()


def with_tables(world: World) -> Entity:
    """The entity, with its tables, which are empty."""
    nothing = world.declare(where="id < 0")
    world.texts(nothing)
    world.vectors(nothing)
    return world.declare()


def trigger(world: World, table: str, action: str) -> None:
    world.sql(
        f"create or replace function staging.half_way() returns trigger language plpgsql as $$"
        f" begin if new.text = '{HALF_WAY}' then {action}; end if; return new; end $$"
    )
    world.sql(
        f"create trigger half_way before insert or update on {SCHEMA}.{table}"
        " for each row execute function staging.half_way()"
    )


def holder(world: World) -> psycopg.Connection[Any]:
    """A session that has the lock for which the trigger waits."""
    connection = psycopg.connect(world.database.url, autocommit=True)
    connection.execute("select pg_advisory_lock(%s)", (LOCK,))
    return connection


@pytest.mark.parametrize("table", ["item_texts", "item_vectors_1"])
def test_of_a_window_that_fails_half_way_nothing_stays_and_of_those_before_it_all(
    world: World, undisturbed: Stored, table: str
) -> None:
    with afresh(world) as again:
        item = with_tables(again)
        trigger(again, table, "raise exception 'half way'")
        with pytest.raises(RaiseException, match="half way"):
            again.run(item)
        kept = again.sql(f"select text from {SCHEMA}.{table} order by id")
        assert len(kept) % 20 == 0
        assert (HALF_WAY,) not in kept
        assert again.sql(f"select * from {SCHEMA}.quarantine") == []
        again.encoder.encoded.clear()

        again.sql(f"drop trigger half_way on {SCHEMA}.{table}")
        again.run(item)

        assert again.stored() == undisturbed
        encoded_before = len(kept) if table == "item_vectors_1" else 0
        assert len(again.encoder.encoded) == len(ROWS) - encoded_before


@contextmanager
def afresh(world: World) -> Iterator[World]:
    """The same staging, in which nothing has run yet."""
    world.sql(f"drop schema {SCHEMA} cascade")
    with world_in(world.database, fresh=False) as again:
        yield again


def test_on_a_full_disk_a_run_stops_without_loss_and_goes_on_once_there_is_space(
    own: World, undisturbed: Stored
) -> None:
    full_at: dict[str, int] = {}
    with small_disk(own, kilobytes=4096) as disk, world_in(own.database, fresh=False) as world:
        item = world.declare()
        for step in (world.texts, world.vectors, world.publish):
            # each time it finds room for a little more than what there is
            for free in range(4, 512, 4):
                fill(disk, free)
                kept = rows(world)
                try:
                    step(item)
                    break
                except DiskFull:
                    full_at[step.__name__] = full_at.get(step.__name__, 0) + 1
                assert rows(world) >= kept
                assert world.sql(f"select * from {SCHEMA}.quarantine") == []
        assert world.stored() == undisturbed
        assert set(full_at) == {"texts", "vectors", "publish"}
        # a window that could not be stored is encoded again, a stored one never
        assert len(world.encoder.encoded) <= len(ROWS) + 20 * full_at["vectors"]


@contextmanager
def small_disk(world: World, kilobytes: int) -> Iterator[Path]:
    """A small file system, on which new tables of the world's database are made."""
    with temporary_folder() as folder:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
        if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("a full disk needs the right to mount a small file system")
        try:
            tables = folder / "tables"
            tables.mkdir(mode=0o700)
            _host.hand_over(tables)
            world.sql(f"drop schema {SCHEMA} cascade")
            world.sql(f"create tablespace small location '{tables}'")
            world.sql(f"alter database {world.database.name} set default_tablespace = small")
            yield folder
            world.sql(f"drop schema {SCHEMA} cascade")
            world.sql("drop tablespace small")
        finally:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ep-") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def fill(disk: Path, free: int) -> None:
    """Leave so many KiB free beside the tables."""
    ballast = disk / "ballast"
    ballast.unlink(missing_ok=True)
    there = os.statvfs(disk)
    ballast.write_bytes(bytes(max(there.f_bavail * there.f_frsize - free * 1024, 0)))


def rows(world: World) -> tuple[int, int]:
    """Texts and vectors that are stored."""
    counts = [0, 0]
    for place, table in enumerate(("item_texts", "item_vectors_1")):
        if world.sql("select to_regclass(%s) is not null", f"{SCHEMA}.{table}") == [(True,)]:
            ((counts[place],),) = world.sql(f"select count(*) from {SCHEMA}.{table}")
    return counts[0], counts[1]


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
        # both models are at work on the same window, of which one row changes meanwhile
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


def test_a_run_that_flips_nothing_waits_for_no_reader_of_the_view(
    world: World, undisturbed: Stored
) -> None:
    with closing(psycopg.connect(world.database.url)) as reader:
        reader.execute(f"select count(*) from {SCHEMA}.item_embeddings")
        world.sql("update staging.stg_item set name = 'changed' where id = 1")
        world.run(world.declare())
        # the reader's own transaction is as it was
        assert reader.info.transaction_status.name == "INTRANS"
    assert world.view()["1", 0] == "name: changed"


def test_a_search_waits_for_no_index_that_takes_the_place_of_another(
    world: World, undisturbed: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_build, "_LOCK_TIMEOUT", "2s")
    with (
        ThreadPoolExecutor(1) as threads,
        closing(psycopg.connect(world.database.url)) as reader,
    ):
        # a backup, say, that read the table and goes on with others
        reader.execute(f"select count(*) from {SCHEMA}.item_vectors_1")
        run = threads.submit(world.run, world.declare(index={"m": 24}))
        wait_for(
            world,
            "select exists (select from pg_stat_activity where wait_event_type = 'Lock'"
            " and query like 'drop index%')",
        )
        with closing(psycopg.connect(world.database.url, options="-c statement_timeout=2s")) as c:
            c.execute(f"select id from {SCHEMA}.item_vectors_1 order by embedding <=> embedding")
        # nor does the run wait for long
        run.result(30)
    world.run(world.declare(index={"m": 24}))
    assert indexes(world) == [("item_vectors_1_index", 24, True)]


def indexes(world: World) -> list[tuple[Any, ...]]:
    """Name, links and validity of each vector index."""
    return world.sql(
        "select c.relname, substring(reloptions::text from 'm=(\\d+)')::int, indisvalid"
        " from pg_index join pg_class c on c.oid = indexrelid join pg_am a on a.oid = c.relam"
        " where amname = 'hnsw' order by 1"
    )


def test_an_index_that_was_left_unfinished_is_dropped_even_if_it_is_wanted_no_more(
    world: World, undisturbed: Stored
) -> None:
    with (
        ThreadPoolExecutor(1) as threads,
        closing(psycopg.connect(world.database.url)) as writer,
    ):
        # an index that is built beside writers waits for them
        writer.execute(f"update {SCHEMA}.item_vectors_1 set run_id = 'other' where id = 1")
        run = threads.submit(world.publish, world.declare(index={"m": 24}))
        wait_for(
            world,
            "select exists (select from pg_stat_activity where wait_event_type = 'Lock'"
            " and query like 'create index%')",
        )
        world.sql(
            "select pg_cancel_backend(pid) from pg_stat_activity where query like 'create index%'"
        )
        with pytest.raises(QueryCanceled):
            run.result(30)
    assert [name for name, _, valid in indexes(world) if not valid] == ["item_vectors_1_index_new"]

    world.run(world.declare())
    assert indexes(world) == [("item_vectors_1_index", 16, True)]


def test_a_set_that_someone_reads_is_dropped_by_a_later_run(
    world: World, undisturbed: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "_LOCK_TIMEOUT", "1s")
    world.use(world.encoder.revised("r2"))
    item = world.declare(keep_sets=0)
    with (
        ThreadPoolExecutor(1) as threads,
        closing(psycopg.connect(world.database.url)) as reader,
    ):
        reader.execute(f"select count(*) from {SCHEMA}.item_vectors_1")
        threads.submit(world.run, item).result(30)
        assert [(s.number, s.state) for s in world.sets(item)] == [(1, "retired"), (2, "live")]
    world.run(item)
    assert [(s.number, s.state) for s in world.sets(item)] == [(2, "live")]


def test_a_change_of_filters_does_not_wait_for_ever_for_a_reader(
    world: World, undisturbed: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "_LOCK_TIMEOUT", "1s")
    item = world.declare(filters=["name"])
    with (
        ThreadPoolExecutor(1) as threads,
        closing(psycopg.connect(world.database.url)) as reader,
    ):
        reader.execute(f"select count(*) from {SCHEMA}.item_embeddings")
        with pytest.raises(LockNotAvailable):
            threads.submit(world.run, item).result(30)
    world.run(item)
    assert world.sql(f"select id, name from {SCHEMA}.item_embeddings order by 1") == ROWS


def test_a_set_that_lends_vectors_may_be_dropped_while_they_are_wanted(
    world: World, undisturbed: Stored
) -> None:
    world.table("id bigint, name text", name="stg_other")
    world.insert(*[(n, f"{name} here" if n % 2 else name) for n, name in ROWS], name="stg_other")
    other = world.declare("other")
    world.texts(other)
    world.encoders.add(WordsEncoder(replace(WORDS, model="fake/two")))
    drops: list[bool] = []

    def drop_once(batch: Sequence[str]) -> None:
        if not drops:
            drops.append(True)
            world.run(world.declare(model="fake/two", keep_sets=0))

    world.encoder.before = drop_once
    result = world.vectors(other)

    # the window begun before found vectors to take over, the others did not
    assert 0 < result.counts.reused < 20
    assert result.counts.reused + result.counts.encoded == len(ROWS)
    world.publish(other)
    world.assert_vectors_are_of_their_texts("other")
