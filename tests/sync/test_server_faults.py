"""The server is killed, full or refuses a write: the end is always the same."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from psycopg.errors import DiskFull, RaiseException

from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.store import retry
from embeddings_pipeline.store.connection import NoConnection, Postgres
from embeddings_pipeline.store.embedded import host, postmaster
from embeddings_pipeline.store.embedded import server as embedded
from embeddings_pipeline.sync import encode
from tests.support.world import SCHEMA, World, world_in
from tests.sync.conftest import ROWS, Stored, wait_for

pytestmark = pytest.mark.usefixtures("small_windows")

# the write of this row can be held up, or made to fail, in the middle of a window
HALF_WAY = "name: thing 50 of 1"
LOCK = 4711


@pytest.fixture
def own(data_dir: Path) -> Iterator[World]:
    """The same rows, not run yet, in a server of the test's own."""
    with world_in(embedded.start(data_dir)) as own:
        own.table("id bigint, name text")
        own.insert(*ROWS)
        yield own


def kill_and_start(data_dir: Path, kill: signal.Signals) -> None:
    server = postmaster.find(data_dir / "postgres")
    assert server
    server.process.send_signal(kill)
    psutil.wait_procs([server.process], timeout=30)
    again = embedded.start(data_dir)
    assert again.port == server.port


# a crash to recover from; and what an administrator in haste does
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGQUIT])
def test_a_run_goes_on_when_the_server_is_killed_while_the_model_runs(
    own: World, undisturbed: Stored, data_dir: Path, kill: signal.Signals
) -> None:
    batches = 0
    killed = False

    def kill_once(batch: Sequence[str]) -> None:
        nonlocal batches, killed
        batches += 1
        if batches == 3 and not killed:
            kill_and_start(data_dir, kill)
            killed = True

    own.encoder.before = kill_once
    item = own.declare()
    own.texts(item, "run")
    result = own.vectors(item, "run")
    own.publish(item)

    assert own.stored() == undisturbed
    # what the model made meanwhile is stored later
    assert len(own.encoder.encoded) == len(ROWS)
    # the run is one, in what it says of itself too
    assert result.keys == item.partitions.keys()
    assert (result.counts.pending, result.counts.encoded) == (len(ROWS), len(ROWS))
    assert own.sql(f"select read, jsonb_array_length(plan) from {SCHEMA}.run_ledger") == [
        (len(ROWS), 1)
    ]


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
        # what was encoded is in the cache, whether it was projected or not
        assert len(again.encoder.encoded) == (0 if table == "item_vectors_1" else len(ROWS))


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
            host.hand_over(tables)
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
    """Leave this number of KiB free beside the tables."""
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


def test_a_server_that_was_waited_for_in_vain_is_not_waited_for_again(
    own: World, data_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(retry, "_PATIENCE_SECONDS", 2)
    own.postgres = Postgres(own.database, patience=1)
    item = own.declare()
    own.texts(item)

    def stop(batch: Sequence[str]) -> None:
        embedded.stop(data_dir)

    own.encoder.before = stop
    with pytest.raises(NoConnection):
        own.vectors(item)
    said = [entry.getMessage() for entry in caplog.records if entry.name == retry.__name__]
    waited = {message.split(" in ")[0].rpartition(".")[2] for message in said}
    # the two threads of the stream, and nothing that comes after them
    assert waited <= {"write", "claim"}
    (lost,) = [entry for entry in caplog.records if entry.name == encode.__name__]
    assert lost.getMessage().startswith(
        "item: vectors encoded before the run failed are not stored"
    )
    assert "\n" not in lost.getMessage()
    assert not lost.exc_info
