"""Brings `<entity>_texts` up to date with the staging model. Never encodes.

What moved is found by content: fingerprints computed in staging, compared by digest a bucket of
them, then one by one. Timestamps are not trusted. Deletes come last, so that a pass that is
refused or killed has lost nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import chain

from psycopg import Connection

from embeddings_pipeline.entities import chunking
from embeddings_pipeline.entities.partitions import DayPartitions
from embeddings_pipeline.entities.serialise import Rendered, render
from embeddings_pipeline.errors import ConfigurationError, DeletesRefused, RowError
from embeddings_pipeline.store import (
    changes,
    entity_tables,
    erasures,
    ledger,
    locks,
    passes,
    staging,
    texts,
)
from embeddings_pipeline.store.ledger import Counts
from embeddings_pipeline.store.passes import UNSETTLED
from embeddings_pipeline.store.postgres import Postgres, Row, resumed
from embeddings_pipeline.store.staging import StagedRow
from embeddings_pipeline.store.statements import Statements
from embeddings_pipeline.store.texts import Failure, Text

# ids sent to staging with one read: each read scans the model once
SLICE = 50_000
# a window of writes ends with whichever comes first
_WINDOW_ROWS = 2_000
_WINDOW_BYTES = 8 << 20
# a share of rows written above which statistics are not left to autovacuum
_MUCH = 0.1


@dataclass(frozen=True)
class TextsResult:
    """What a pass did, in rows. `read` counts the rows that moved and were rendered."""

    new: int
    read: int
    deleted: int
    quarantined: int
    rekeyed: int
    seconds: float

    @property
    def counts(self) -> Counts:
        """Its share of the run's ledger row."""
        return Counts(
            read=self.read,
            deleted=self.deleted,
            quarantined=self.quarantined,
            seconds=self.seconds,
        )


def sync_texts(
    staged: Postgres,
    vectors: Postgres,
    on: Statements,
    run_id: str,
    *,
    allow_deletes: bool = False,
) -> TextsResult:
    """One pass over an entity: render what moved, delete what is gone.

    Raises ConfigurationError for null or repeated ids, DeletesRefused (having deleted nothing)
    where more than `max_delete_share` of the rows would go.
    """
    started = time.monotonic()
    done = _Done()
    _pass_over(staged, vectors, on, done, allow_deletes=allow_deletes)
    result = TextsResult(**asdict(done), seconds=time.monotonic() - started)
    _record(vectors, on, run_id, result)
    return result


@dataclass
class _Done:
    """What a pass has done so far, before and after a connection was lost."""

    new: int = 0
    read: int = 0
    deleted: int = 0
    quarantined: int = 0
    rekeyed: int = 0


@resumed
def _pass_over(
    staged: Postgres, vectors: Postgres, on: Statements, done: _Done, *, allow_deletes: bool
) -> None:
    with (
        staged.connection() as source,
        vectors.connection() as target,
        locks.entity(target, on),
    ):
        entity_tables.ensure_entity(target, on.schema, on.source)
        done.rekeyed += passes.rekey(target, on)
        if erased := erasures.stored(target, on):
            done.deleted += texts.delete(target, on, erased)
        buckets, stored = changes.digests(target, on)
        # a stream is closed before its connection goes back, whatever ends it
        with closing(staging.moved_rows(source, on.source, buckets, stored)) as rows:
            moved = changes.compare(target, on, buckets, rows)
        done.new = max(done.new, moved.new)
        refuse_bad_ids(on, *changes.bad_ids(target))
        _write_changed(source, target, on, done)
        if not allow_deletes:
            _refuse_mass_deletes(on, moved)
        for ids in changes.slices(target, "gone_rows", _WINDOW_ROWS):
            done.deleted += texts.delete(target, on, ids)
        written = done.read + done.deleted + done.rekeyed
        passes.finish_pass(target, on, analyze=written > _MUCH * moved.stored)


def _write_changed(
    source: Connection[Row], target: Connection[Row], on: Statements, done: _Done
) -> None:
    for ids in changes.slices(target, "changed_rows", SLICE):
        with closing(staging.read_rows(source, on.source, ids)) as rows:
            for batch in batches(rows, on):
                window = rendered(batch, on)
                texts.write(target, on, window.texts, window.failures)
                done.read += len(batch)
                done.quarantined += len(window.failures)


@resumed
def _record(database: Postgres, on: Statements, run_id: str, result: TextsResult) -> None:
    with database.connection() as connection:
        ledger.record(connection, on, run_id, result.counts)


@dataclass(frozen=True)
class Window:
    """The chunks of some whole rows, and those rows that failed."""

    texts: list[Text]
    failures: list[Failure]


def batches(rows: Iterator[StagedRow], on: Statements) -> Iterator[list[StagedRow]]:
    """Cut a stream of rows into windows, bounded in rows and bytes.

    Raises ConfigurationError for an id that comes twice.
    """
    seen: set[str] = set()
    batch: list[StagedRow] = []
    size = 0
    for row in rows:
        if row.id in seen:
            refuse_bad_ids(on, 0, [row.id])
        seen.add(row.id)
        batch.append(row)
        size += sum(len(value or "") for value in row.values.values())
        if len(batch) == _WINDOW_ROWS or size > _WINDOW_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def rendered(rows: Sequence[StagedRow], on: Statements, *, count: bool = True) -> Window:
    """The texts of a window of rows; without `count` their tokens are left at 0."""
    done: list[tuple[StagedRow, str, int, list[Rendered | None]]] = []
    failures: list[Failure] = []
    for row in rows:
        try:
            key = _partition_key(row, on)
        except RowError as error:
            failures.append(Failure(row.id, "partition", str(error)))
            # looked at again by each pass, until its day has come
            done.append((row, "", UNSETTLED, [None]))
            continue
        try:
            done.append((row, key, row.fingerprint, _pieces(row, on)))
        except RowError as error:
            failures.append(Failure(row.id, "render", str(error)))
            done.append((row, key, row.fingerprint, [None]))
    pieces_with_text = [piece for *_, pieces in done for piece in pieces if piece]
    tokens = iter(_count(pieces_with_text) if count else [0] * len(pieces_with_text))
    written = [
        _text(row, key, fingerprint, chunk, piece, next(tokens) if piece else 0)
        for row, key, fingerprint, pieces in done
        for chunk, piece in enumerate(pieces)
    ]
    return Window(written, failures)


def _pieces(row: StagedRow, on: Statements) -> list[Rendered | None]:
    """The chunks of a row, at least one; a row without text has one that is None."""
    entity = on.source.entity
    rendered = render(entity, on.source.text_columns, row.values)
    if rendered is None or entity.chunk is None:
        return [rendered]
    return [Rendered(piece) for piece in chunking.split(rendered.text, entity.chunk)]


def _count(rendered: list[Rendered]) -> list[int]:
    """Tokens that the model reads: those of the parts, where fields have weights."""
    parts = [piece.parts or (piece.text,) for piece in rendered]
    counts = iter(chunking.count_tokens(list(chain.from_iterable(parts))))
    return [sum(next(counts) for _ in group) for group in parts]


def _partition_key(row: StagedRow, on: Statements) -> str:
    partitions = on.source.entity.partitions
    if isinstance(partitions, DayPartitions):
        return partitions.key_of(row.day)
    return partitions.key_of(row.id)


def _text(
    row: StagedRow, key: str, fingerprint: int, chunk: int, piece: Rendered | None, tokens: int
) -> Text:
    return Text(
        id=row.id,
        chunk=chunk,
        partition_key=key,
        fingerprint=fingerprint,
        text=piece.text if piece else None,
        parts=list(piece.parts) if piece and piece.parts else None,
        weights=list(piece.weights) if piece and piece.weights else None,
        text_hash=piece.text_hash if piece else None,
        tokens=tokens,
        source_changed_at=row.changed_at,
        filters=row.filters,
    )


def refuse_bad_ids(on: Statements, nulls: int, repeated: list[str]) -> None:
    """Raise ConfigurationError where a row has no id or ids repeat."""
    entity = on.source.entity
    where = f"entity {entity.name!r}: {entity.db_schema}.{entity.table}"
    if nulls:
        raise ConfigurationError(
            f"{where} has {nulls} rows whose {entity.id} is null: an id must be unique and not"
            " null; correct the staging model"
        )
    if repeated:
        raise ConfigurationError(
            f"{where} has {entity.id} more than once, among them"
            f" {', '.join(repr(row_id) for row_id in repeated)}: an id must be unique; correct"
            " the staging model"
        )


def too_many_deletes(on: Statements, moved: changes.Moved) -> bool:
    """Whether more rows are gone than `max_delete_share` lets go without a word."""
    return moved.gone > on.source.entity.max_delete_share * moved.stored


def _refuse_mass_deletes(on: Statements, moved: changes.Moved) -> None:
    if too_many_deletes(on, moved):
        raise DeletesRefused(
            f"entity {on.source.entity.name!r}: {moved.gone:,} of {moved.stored:,} rows are gone"
            f" from staging, and max_delete_share is {on.source.entity.max_delete_share:.0%};"
            " nothing was deleted. If it is meant, run with --allow-deletes"
        )
