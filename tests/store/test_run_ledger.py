"""The ledger of runs keeps what they did, in fewer rows after a while."""

from __future__ import annotations

from embeddings_pipeline.store import run_ledger
from embeddings_pipeline.store.run_ledger import Counts, Kind
from embeddings_pipeline.store.tables import open_tables
from tests.support.world import SCHEMA, World


def record(world: World, kind: Kind, run_id: str, days_ago: int, counts: Counts) -> None:
    """A row of a run of some days ago."""
    names = world.names_of(world.declare())
    with open_tables(world.postgres, names) as tables:
        run_ledger.record(tables, run_id, "texts", counts, kind=kind)
    world.sql(
        f"update {SCHEMA}.run_ledger set started_at = current_date - {days_ago} + time '12:00',"
        f" finished_at = current_date - {days_ago} + time '12:01' where run_id = '{run_id}'"
    )


def sums(world: World) -> list[tuple[object, ...]]:
    return world.sql(
        f"select kind, sum(encoded), sum(cost_usd), sum(saved_usd) from {SCHEMA}.run_ledger"
        " group by kind order by kind"
    )


def test_old_rows_of_a_day_become_one_with_their_sums(world: World) -> None:
    world.table("id bigint, name text")
    world.insert((1, "pump"))
    entity = world.declare()
    world.run(entity)
    for n in range(5):
        record(world, "documents", f"call {n}", 3, Counts(encoded=n, cost_usd=0.5))
        record(world, "run", f"run {n}", 100, Counts(encoded=n, saved_usd=2.0))
    # these are too young, or alone in their day
    kept: set[tuple[Kind, str, int]] = {
        ("documents", "young", 7),
        ("run", "ninety", 8),
        ("run", "alone", 9),
    }
    for (kind, run_id, encoded), days in zip(sorted(kept), (1, 200, 90), strict=True):
        record(world, kind, run_id, days, Counts(encoded=encoded))
    before = sums(world)
    # the second time there is nothing left to put together
    for _ in range(2):
        world.retain(entity)
        rows = world.sql(f"select kind, run_id, encoded from {SCHEMA}.run_ledger where encoded > 1")
        assert {row for row in rows if " of " not in row[1]} == kept
        assert sorted((kind, n) for kind, run_id, n in rows if " of " in run_id) == [
            ("documents", 10),
            ("run", 10),
        ]
        assert sums(world) == before
