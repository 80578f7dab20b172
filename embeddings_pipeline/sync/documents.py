"""Brings single rows up to date at once, without waiting for the next run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.errors import ConfigurationError, RunNeeded, Unavailable
from embeddings_pipeline.store import locks, rows, vector_sets
from embeddings_pipeline.store.connection import Postgres
from embeddings_pipeline.store.retry import resumed
from embeddings_pipeline.store.run_ledger import Counts
from embeddings_pipeline.store.tables import EntityTables, TableNames, open_tables
from embeddings_pipeline.store.texts import erasures, partition_keys
from embeddings_pipeline.sync.encode import encode_entity
from embeddings_pipeline.sync.erase import collect_erased
from embeddings_pipeline.sync.run_options import RunOptions
from embeddings_pipeline.sync.texts import PassCounts, record, write_rows

Status: TypeAlias = Literal["searchable", "without text", "quarantined", "refused"]


@dataclass(frozen=True)
class Outcome:
    """The outcome for a row, and the reason where searches cannot find it."""

    id: str
    status: Status
    reason: str | None = None


@dataclass(frozen=True)
class DocumentsResult:
    """The outcome for each id, in their order, and the counts."""

    outcomes: Sequence[Outcome]
    counts: Counts


def sync_documents(
    staged: Postgres,
    vectors: Postgres,
    names: TableNames,
    encoders: Encoders,
    options: RunOptions,
) -> DocumentsResult:
    """Read the rows `options.ids` from staging, and bring their texts and vectors up to date.

    Deletes nothing; only a run deletes rows. Raises RunNeeded where a run is needed first, Busy
    where runs hold the entity, and then its texts, for longer than `options.patience` in all,
    Unavailable where the model of the live set is not available, and as `encode_entity` does.
    """
    until = time.monotonic() + options.patience
    known, refused = _canonical(names, options.ids or ())
    refused |= _erased(vectors, names, [*known.values()])
    wanted = [row_id for row_id in dict.fromkeys(known.values()) if row_id not in refused]
    found = _texts(staged, vectors, names, encoders, options, wanted)
    refused |= _missing(staged, names, [row_id for row_id in wanted if row_id not in found])
    chosen = [row_id for row_id in wanted if row_id in found]
    left = replace(options, patience=max(0.0, until - time.monotonic()))
    counts = _vectors(vectors, names, encoders, left, chosen)
    outcome_of = _outcomes(vectors, names, chosen)
    outcomes = []
    for given in options.ids or ():
        row_id = known.get(given, given)
        why = refused.get(row_id)
        outcome = Outcome(given, "refused", why) if why else replace(outcome_of[row_id], id=given)
        outcomes.append(outcome)
    return DocumentsResult(outcomes, counts)


def _canonical(names: TableNames, ids: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Each valid id as the database prints it, and the error of each invalid id."""
    known, refused = {}, {}
    for given in ids:
        try:
            (known[given],) = names.source.canonical_ids([given])
        except ConfigurationError as error:
            refused[given] = str(error)
    return known, refused


def _erased(vectors: Postgres, names: TableNames, ids: Sequence[str]) -> dict[str, str]:
    with open_tables(vectors, names) as tables:
        erased = erasures.of_ids(tables, ids)
    return {row_id: f"it was erased on {when:%Y-%m-%d}" for row_id, when in erased.items()}


def _missing(staged: Postgres, names: TableNames, ids: Sequence[str]) -> dict[str, str]:
    if not ids:
        return {}
    entity = names.source.entity
    with open_tables(staged, names) as tables:
        present = rows.present(tables, ids)
    return {
        row_id: f"its row may not be embedded, as {entity.table} and the declaration say"
        if row_id in present
        else f"{entity.table} has no row with this {entity.id}"
        for row_id in ids
    }


def _texts(
    staged: Postgres,
    vectors: Postgres,
    names: TableNames,
    encoders: Encoders,
    options: RunOptions,
    ids: Sequence[str],
) -> set[str]:
    started = time.monotonic()
    done = PassCounts()
    found: set[str] = set()

    @resumed
    def write() -> None:
        with (
            open_tables(vectors, names) as tables,
            locks.entity(tables, options.patience),
            staged.connection() as source,
        ):
            # the wait for the run took a part of the time
            vectors.apply_deadlines(tables.connection)
            _refuse_without_run(tables)
            found.update(write_rows(source, tables, encoders.images, ids, done))

    write()
    collect_erased(vectors, names, encoders.cache.evict)
    seconds = time.monotonic() - started
    counts = Counts(read=done.read, quarantined=done.quarantined, seconds=seconds)
    record(vectors, names, options, counts)
    return found


def _refuse_without_run(tables: EntityTables) -> None:
    name = tables.entity
    why = None
    if not partition_keys.follow_definition(tables):
        why = "its declaration or its staging model is another than in the last run"
    elif vector_sets.live_set(tables) is None:
        why = "nothing is published yet"
    if why:
        raise RunNeeded(f"entity {name!r}: {why}: run `embeddings-pipeline run {name}` first")


def _vectors(
    vectors: Postgres,
    names: TableNames,
    encoders: Encoders,
    options: RunOptions,
    ids: Sequence[str],
) -> Counts:
    if not ids:
        return Counts()
    result = encode_entity(vectors, names, encoders, replace(options, ids=ids))
    if result.frozen:
        raise Unavailable(result.frozen)
    return result.counts


def _outcomes(vectors: Postgres, names: TableNames, ids: Sequence[str]) -> Mapping[str, Outcome]:
    with open_tables(vectors, names) as tables:
        empty = rows.without_text(tables, ids)
        live = vector_sets.live_set(tables)
        failed = rows.quarantined(tables, live, ids)
    outcome_of = {}
    for row_id in ids:
        status: Status = "searchable"
        if row_id in failed:
            status = "quarantined"
        elif row_id in empty:
            status = "without text"
        outcome_of[row_id] = Outcome(row_id, status, failed.get(row_id))
    return outcome_of
