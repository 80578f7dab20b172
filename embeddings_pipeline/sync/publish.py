"""Decides whether a vector set may replace the live one, and which set the published view shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from psycopg.errors import LockNotAvailable

from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.store import locks, vector_sets, views
from embeddings_pipeline.store.connection import Postgres
from embeddings_pipeline.store.retry import read_again, resumed
from embeddings_pipeline.store.tables import EntityTables, TableNames, open_tables
from embeddings_pipeline.store.vector_sets import VectorSet, building_set, live_set
from embeddings_pipeline.store.vectors import coverage
from embeddings_pipeline.store.vectors.coverage import PartitionCoverage
from embeddings_pipeline.store.vectors.sets import (
    drop_set,
    hold_publishing,
    publishing_held,
    retire,
    set_state,
)
from embeddings_pipeline.store.views import PublishedView
from embeddings_pipeline.sync.quality.retrieval import GoldenQueries


@dataclass(frozen=True)
class PublishResult:
    """The live set after the call, if any, and why another set is not live."""

    live: VectorSet | None
    flipped: bool
    reasons: list[str]

    @property
    def summary(self) -> str:
        """The result as one sentence."""
        if self.live is None:
            return "nothing is published yet: " + "; ".join(self.reasons)
        shown = f"set {self.live.number} ({self.live.model}) is live"
        return "; ".join([shown + (" since now" if self.flipped else ""), *self.reasons])


def publish(
    database: Postgres,
    names: TableNames,
    *,
    explicit: bool = False,
    golden: GoldenQueries | None = None,
) -> PublishResult:
    """Publish the building set, where nothing prevents it; the result has the reasons otherwise.

    `explicit` publishes even where `publish` is manual, or after a rollback. A set that is ready is
    measured by the golden queries first, before the lock of the entity is taken. Searches and marts
    see the old set until the transaction of the switch is committed.
    """
    quality: dict[int, list[str]] | None = None
    if golden and golden.declared.severity == "error":
        quality = {}
        if ready := _ready(database, names, explicit=explicit):
            result = golden.measure(ready)
            quality[ready.number] = [] if result.passed else [result.description]
    return _publish(database, names, quality, explicit=explicit)


def waiting(tables: EntityTables) -> list[str]:
    """Why the building set is not published; empty where there is none."""
    building = building_set(tables)
    if building is None:
        return []
    reasons = _reasons(tables, building, live_set(tables), explicit=False)
    return _of_set(building, reasons or ["the next run publishes it"])


@read_again
@resumed
def _ready(database: Postgres, names: TableNames, *, explicit: bool) -> VectorSet | None:
    """The building set, where at most its quality prevents that it is published."""
    with open_tables(database, names) as tables:
        building = building_set(tables)
        if building and not _reasons(tables, building, live_set(tables), explicit=explicit):
            return building
        return None


@resumed
def _publish(
    database: Postgres,
    names: TableNames,
    quality: Mapping[int, list[str]] | None,
    *,
    explicit: bool,
) -> PublishResult:
    """`quality` has the reasons against each set that was measured; None asks for no measure."""
    with open_tables(database, names) as tables, locks.entity(tables):
        live, building = live_set(tables), building_set(tables)
        if building is None:
            with tables.connection.transaction():
                _view(tables).replace()
            # a run that was killed after the switch leaves surplus sets
            _drop_surplus(tables)
            return PublishResult(live, False, [])
        reasons = _reasons(tables, building, live, explicit=explicit)
        if quality is not None and not reasons:
            # another run may have made the set ready meanwhile
            unmeasured = ["its golden queries are not measured yet: the next run measures them"]
            reasons = quality.get(building.number, unmeasured)
        if reasons:
            if live is not None:
                with tables.connection.transaction():
                    _view(tables).replace()
            return PublishResult(live, False, _of_set(building, reasons))
        with tables.connection.transaction():
            _flip(tables, live, building)
            hold_publishing(tables, held=False)
        _drop_surplus(tables)
        return PublishResult(live_set(tables), True, [])


def rollback(database: Postgres, names: TableNames) -> tuple[PublishResult, int]:
    """Publish the set that was live before; also returns how many chunks are pending in it.

    Holds automatic publishing until an explicit publish. Raises ConfigurationError where no earlier
    set is kept.
    """
    # a retry of a completed rollback whose reply was lost must not switch again
    return _roll_back_from(database, names, _live_number(database, names))


@resumed
def _live_number(database: Postgres, names: TableNames) -> int | None:
    with open_tables(database, names) as tables:
        live = live_set(tables)
        return live.number if live else None


@resumed
def _roll_back_from(
    database: Postgres, names: TableNames, number: int | None
) -> tuple[PublishResult, int]:
    with open_tables(database, names) as tables, locks.entity(tables):
        live = live_set(tables)
        if live and live.number != number:
            return PublishResult(live, True, []), _pending(tables, live)
        former = max(
            (s for s in vector_sets.read(tables, ("retired", "building")) if s.published_at),
            key=lambda s: (s.published_at, s.number),
            default=None,
        )
        if former is None:
            raise ConfigurationError(
                f"entity {tables.entity!r} has no earlier set to go back to (keep_sets is"
                f" {tables.source.entity.keep_sets})"
            )
        behind = _pending(tables, former)
        with tables.connection.transaction():
            _flip(tables, live, former)
            hold_publishing(tables, held=True)
        return PublishResult(live_set(tables), True, []), behind


def _pending(tables: EntityTables, vector_set: VectorSet) -> int:
    return sum(partition.pending for partition in coverage.coverage(tables, vector_set))


def _view(tables: EntityTables) -> PublishedView:
    return PublishedView(tables.connection, tables.schema, tables.entity)


def _reasons(
    tables: EntityTables, building: VectorSet, live: VectorSet | None, *, explicit: bool
) -> list[str]:
    reasons = readiness_problems(tables, building, live)
    return reasons if explicit else reasons + _manual_reasons(tables)


def _of_set(building: VectorSet, reasons: Sequence[str]) -> list[str]:
    return [f"set {building.number}: {reason}" for reason in reasons]


def _manual_reasons(tables: EntityTables) -> list[str]:
    name = tables.entity
    if publishing_held(tables):
        return [f"held since a rollback: run `embeddings-pipeline publish {name}`"]
    if tables.source.entity.publish == "manual":
        return [f"publish is manual: run `embeddings-pipeline publish {name}`"]
    return []


def _flip(tables: EntityTables, live: VectorSet | None, to: VectorSet) -> None:
    if live is not None:
        retire(tables, live, superseded=to.replaces(live))
    set_state(tables, to.number, "live")
    _view(tables).replace()
    views.replace_coverage(tables.connection, tables.schema)


def _drop_surplus(tables: EntityTables) -> None:
    """Drop the retired sets beyond `keep_sets`, first sets that were never published, then the
    oldest. Also drop sets that a newer set of the same identity and storage has replaced."""
    live = live_set(tables)
    retired = vector_sets.read(tables, ("retired",))
    superseded = [s for s in retired if live and s.is_like(live)]
    retired = [s for s in retired if s not in superseded]
    newest_first = sorted(
        retired, key=lambda s: (s.published_at is not None, s.published_at, s.number), reverse=True
    )
    for vector_set in [*superseded, *newest_first[tables.source.entity.keep_sets :]]:
        # a set that is being read is dropped by a later publish
        with suppress(LockNotAvailable):
            drop_set(tables, vector_set)


def readiness_problems(
    tables: EntityTables, vector_set: VectorSet, live: VectorSet | None
) -> list[str]:
    """The reasons why a set may not replace the live one; empty where it may."""
    covered = coverage.coverage(tables, vector_set)
    missing = sum(partition.missing for partition in covered)
    orphans = coverage.orphans(tables, vector_set)
    target = tables.source.entity.index.recall
    reasons = []
    if missing:
        reasons.append(f"{missing:,} chunks are pending")
    else:
        reasons += _failed_on(tables, vector_set, live, covered)
    if orphans:
        reasons.append(f"{orphans:,} vectors have no row")
    if vector_set.recall is None:
        reasons.append("its index is not built")
    elif vector_set.recall < target:
        reasons.append(f"the index has recall@10 {vector_set.recall:.3f}, below {target}")
    return reasons


def _failed_on(
    tables: EntityTables,
    vector_set: VectorSet,
    live: VectorSet | None,
    covered: Sequence[PartitionCoverage],
) -> list[str]:
    """The reasons why a set without pending chunks shows too few rows: its model failed on
    others."""
    if not any(partition.quarantined for partition in covered):
        return []
    entity = tables.source.entity
    if not any(partition.vectors for partition in covered):
        rows = sum(partition.rows for partition in covered)
        return [
            f"its model failed on all {rows:,} rows: `embeddings-pipeline explain {entity.name} ID`"
            f" shows the error, `embeddings-pipeline retry {entity.name}` lets a run try again"
        ]
    if live is None:
        return []
    shown, lost = coverage.shown_and_lost(tables, live, vector_set)
    if lost <= entity.max_delete_share * shown:
        return []
    return [
        f"{lost:,} of the {shown:,} rows that set {live.number} shows have no vector in it, and"
        f" max_delete_share is {entity.max_delete_share:.0%}: `embeddings-pipeline retry"
        f" {entity.name}` lets a run try them again; if that is intended, raise"
        " max_delete_share"
    ]
