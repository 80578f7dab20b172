"""Maintains the vector index of each set: builds it when nothing is missing, and again after
many changes."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from embeddings_pipeline.entities.entity import Index
from embeddings_pipeline.store import locks, run_ledger, vector_sets
from embeddings_pipeline.store.connection import Postgres
from embeddings_pipeline.store.index import build, filter_indexes, progress, recall
from embeddings_pipeline.store.index.build import IndexDrift, VectorIndex
from embeddings_pipeline.store.index.progress import Phase
from embeddings_pipeline.store.retry import resumed
from embeddings_pipeline.store.run_ledger import Counts
from embeddings_pipeline.store.tables import EntityTables, SetDropped, TableNames, open_tables
from embeddings_pipeline.store.texts import lexemes
from embeddings_pipeline.store.vector_sets import VectorSet
from embeddings_pipeline.store.vectors import coverage, projection
from embeddings_pipeline.sync.progress import Progress, Report, ignore_progress

# an index waits while chunks are missing
Action: TypeAlias = Literal["built", "kept", "waiting"]


@dataclass(frozen=True)
class IndexResult:
    """The index of a set, over `rows` vectors, and the reason for a build. `size_bytes` is None
    without an index."""

    vector_set: VectorSet
    action: Action
    why: str
    rows: int
    size_bytes: int | None
    seconds: float


@dataclass(frozen=True)
class _Due:
    settings: dict[str, Any]
    why: str


def sync_index(
    database: Postgres,
    names: TableNames,
    *,
    run_id: str | None = None,
    rebuild: bool = False,
    report: Report = ignore_progress,
) -> list[IndexResult]:
    """Build the index of each maintained set where that is due, or always with `rebuild`. Also
    count the lexemes of the texts, for the ranking of full-text search. Adds the time to the ledger
    row of the run `run_id`."""
    results = []
    for vector_set in _counted(database, names):
        # a build that goes on over another connection keeps its time
        started = time.monotonic()
        # a set that another run dropped meanwhile needs no index
        with suppress(SetDropped):
            results.append(
                _sync_one(database, names, vector_set, started, rebuild=rebuild, report=report)
            )
    built = sum(result.seconds for result in results if result.action == "built")
    if run_id is not None and built:
        _record(database, names, run_id, built)
    return results


@resumed
def _counted(database: Postgres, names: TableNames) -> list[VectorSet]:
    """Count the lexemes; returns the maintained sets."""
    with open_tables(database, names) as tables:
        lexemes.refresh_counts(tables)
        return vector_sets.maintained(vector_sets.read(tables))


@resumed
def _record(database: Postgres, names: TableNames, run_id: str, seconds: float) -> None:
    with open_tables(database, names) as tables:
        run_ledger.record(tables, run_id, "index", Counts(seconds=seconds))


@resumed
def _sync_one(
    database: Postgres,
    names: TableNames,
    vector_set: VectorSet,
    started: float,
    *,
    rebuild: bool,
    report: Report,
) -> IndexResult:
    with (
        open_tables(database, names) as tables,
        locks.index(tables, vector_set.table_name),
    ):
        projection.vacuum(tables, vector_set)
        vector_set = vector_sets.read_one(tables, vector_set.number)
        drift = VectorIndex(tables, vector_set).drift(vector_set.indexed_at)
        watch = progress.watched(
            database, tables.connection.info.backend_pid, _reporter(names, vector_set, report)
        )
        due = _due(tables, vector_set, drift, rebuild=rebuild)
        action, why = _bring_up_to_date(tables, vector_set, due, drift, watch)
        return IndexResult(
            vector_sets.read_one(tables, vector_set.number),
            action,
            why,
            drift.rows,
            VectorIndex(tables, vector_set).size(),
            time.monotonic() - started,
        )


def _bring_up_to_date(
    tables: EntityTables,
    vector_set: VectorSet,
    due: _Due | None,
    drift: IndexDrift,
    watch: AbstractContextManager[None],
) -> tuple[Action, str]:
    """Build what is due; returns the action and why."""
    if due and any(p.missing for p in coverage.coverage(tables, vector_set)):
        return "waiting", due.why
    filter_indexes.ensure(tables, vector_set)
    if due:
        with watch:
            _build(tables, vector_set, due.settings, drift)
        return "built", due.why
    VectorIndex(tables, vector_set).remove_leftovers()
    if vector_set.recall is None:
        recall.measure(tables, vector_set)
        return "built", "the last build was stopped before it was measured"
    return "kept", ""


def _due(
    tables: EntityTables,
    vector_set: VectorSet,
    drift: IndexDrift,
    *,
    rebuild: bool,
) -> _Due | None:
    """The index to build, and why; None where the present one is good enough."""
    index = tables.source.entity.index
    declared = _declared(tables.names, vector_set, drift)
    present = vector_set.index_settings
    share = drift.share(vector_set.index_rows or 0)
    if rebuild:
        return _Due(declared, "a rebuild was requested")
    if present is None:
        return _Due(declared, "there was none")
    if not _same(present["declared"], declared, index):
        return _Due(declared, "another one is declared")
    if index.type != "none" and VectorIndex(tables, vector_set).size() is None:
        return _Due(declared, "it is gone")
    if share > index.rebuild:
        return _Due(declared, f"{share:.0%} of the rows changed")
    stronger = _stronger(tables.names, vector_set)
    return _Due(stronger, f"recall@10 is {vector_set.recall:.3f}") if stronger else None


def _declared(names: TableNames, vector_set: VectorSet, drift: IndexDrift) -> dict[str, Any]:
    settings = build.settings_of(names.source.entity.index, vector_set.metric, drift.rows)
    return {**settings, "declared": settings}


def _same(former: dict[str, Any], declared: dict[str, Any], index: Index) -> bool:
    wanted = declared["declared"]
    if index.type == "ivfflat" and index.lists is None:
        # the default number of lists follows the rows, and must not cause a build after each insert
        return {**former, "lists": 0} == {**wanted, "lists": 0}
    return bool(former == wanted)


def _stronger(names: TableNames, vector_set: VectorSet) -> dict[str, Any] | None:
    """A stronger index, where the measured recall is below the target."""
    if vector_set.recall is None or vector_set.recall >= names.source.entity.index.recall:
        return None
    return build.stronger(vector_set.index_settings or {})


def _build(
    tables: EntityTables,
    vector_set: VectorSet,
    settings: dict[str, Any] | None,
    drift: IndexDrift,
) -> None:
    """Build and measure an index, with more links as long as its recall is below the target."""
    while settings is not None:
        VectorIndex(tables, vector_set).build(settings, drift)
        vector_set = vector_sets.read_one(tables, vector_set.number)
        recall.measure(tables, vector_set)
        vector_set = vector_sets.read_one(tables, vector_set.number)
        settings = _stronger(tables.names, vector_set)


def _reporter(names: TableNames, vector_set: VectorSet, report: Report) -> Callable[[Phase], None]:
    started = time.monotonic()
    what = f"{names.source.entity.name}, index of set {vector_set.number}"

    def report_rows(phase: Phase) -> None:
        seconds = time.monotonic() - started
        label = f"{what}, {phase.name}"
        report(Progress(label, phase.done, phase.total, seconds, unit=phase.unit))

    return report_rows
