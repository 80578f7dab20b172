"""Says of one row what is stored, where it comes from, and what the next run does with it."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import Connection

from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.store import planning, staging, traces, vector_sets
from embeddings_pipeline.store.failures import MAX_ATTEMPTS
from embeddings_pipeline.store.postgres import Postgres, Row
from embeddings_pipeline.store.quarantine import Failure
from embeddings_pipeline.store.staging import StagedRow
from embeddings_pipeline.store.statements import Statements
from embeddings_pipeline.store.texts import Text
from embeddings_pipeline.store.traces import Quarantined, StoredText, StoredVector
from embeddings_pipeline.store.vector_sets import VectorSet
from embeddings_pipeline.sync import rendering


@dataclass(frozen=True)
class ChunkInSet:
    """One chunk's vector in one set, and what the next run does with it."""

    set_number: int
    state: str
    model: str
    revision: str
    vector: StoredVector | None
    next: str


@dataclass(frozen=True)
class ExplainedChunk:
    """One chunk as it would be rendered now."""

    chunk: int
    text: str
    text_hash: str
    tokens: int
    truncated: bool
    sets: list[ChunkInSet]


@dataclass(frozen=True)
class Explanation:
    """A row. `next` is what the next run does with it as a whole."""

    entity: str
    id: str
    partition: str | None
    next: str
    chunks: list[ExplainedChunk]
    quarantine: list[Quarantined]


def explain(
    staged: Postgres, database: Postgres, on: Statements, encoders: Encoders, row_id: str
) -> Explanation:
    """Explain a row of staging or of the stored texts.

    Raises ConfigurationError where neither has the id.
    """
    (row_id,) = on.source.canonical_ids([row_id])
    with staged.connection() as source, database.connection() as target:
        on = Statements(on.schema, on.source)
        is_new = planning.without_tables(on, target)
        row = next(staging.read_rows(source, on.source, [row_id]), None)
        stored = [] if is_new else traces.texts(target, on, row_id)
        failures = traces.quarantine(target, on, row_id)
        erased = traces.erased_at(target, on, row_id)
        if row is None and not stored and erased is None:
            raise ConfigurationError(
                f"entity {on.source.entity.name!r} has no row with {on.source.entity.id}"
                f" {row_id!r}: it is not in {on.source.entity.table}, or not eligible"
            )
        window = rendering.rendered([row], on, encoders.images) if row else None
        sets = vector_sets.vector_sets(target, on, ("live", "building", "retired"))
        longest = encoders.of(on.source.entity).identity.max_tokens
        chunks = [
            _chunk(target, on, text, sets, failures, longest)
            for text in (window.texts if window else [])
            if text.text is not None and erased is None
        ]
        reason = (
            f"skip it: erased on {erased:%Y-%m-%d}"
            if erased
            else _next_for_row(row, stored, chunks, window.failures if window else [])
        )
        return Explanation(
            entity=on.source.entity.name,
            id=row_id,
            partition=window.texts[0].partition_key if window else None,
            next=reason,
            chunks=chunks,
            quarantine=failures,
        )


def _next_for_row(
    row: StagedRow | None,
    stored: list[StoredText],
    chunks: list[ExplainedChunk],
    failures: list[Failure],
) -> str:
    if row is None:
        return "delete it: it is gone from staging, or no longer eligible"
    if failures:
        if stored and stored[0].fingerprint == row.fingerprint:
            return (
                f"do nothing: it failed on it ({failures[0].error}), nothing changed since, and"
                " `retry` was not asked"
            )
        return f"fail on it: {failures[0].error}"
    if not stored:
        return "render it: it is new"
    if stored[0].fingerprint != row.fingerprint:
        same = [text.text_hash for text in stored] == [bytes.fromhex(c.text_hash) for c in chunks]
        what = "its text stays the same" if same else "its text differs"
        return f"render it: its columns or the declaration changed, {what}"
    if not chunks:
        return "do nothing: it has no text"
    return "not render it: nothing changed since the last pass"


def _chunk(
    target: Connection[Row],
    on: Statements,
    text: Text,
    sets: list[VectorSet],
    failures: list[Quarantined],
    longest: int,
) -> ExplainedChunk:
    in_sets = []
    for vector_set in sets:
        failed = _left_alone(vector_set, text, failures)
        vector = traces.vectors(target, on, vector_set, text.id).get(text.chunk)
        in_sets.append(
            ChunkInSet(
                set_number=vector_set.number,
                state=vector_set.state,
                model=vector_set.model,
                revision=vector_set.revision,
                vector=vector,
                next=_next_for_vector(vector_set, vector, text, failed),
            )
        )
    return ExplainedChunk(
        chunk=text.chunk,
        text=text.text or "",
        text_hash=text.text_hash.hex() if text.text_hash else "",
        tokens=text.tokens,
        truncated=max(text.part_tokens or [text.tokens]) > longest,
        sets=in_sets,
    )


def _left_alone(
    vector_set: VectorSet, text: Text, failures: list[Quarantined]
) -> Quarantined | None:
    """What `store.failures.left_alone` is in SQL, of a text that may not be stored yet."""
    of_text = (text.chunk, vector_set.number, text.text_hash)
    for failure in failures:
        same = (failure.chunk, failure.vector_set, failure.text_hash) == of_text
        if same and failure.attempts >= MAX_ATTEMPTS:
            return failure
    return None


def _next_for_vector(
    vector_set: VectorSet, vector: StoredVector | None, text: Text, failed: Quarantined | None
) -> str:
    if vector_set.state == "retired":
        return "do nothing: the set is retired"
    if failed:
        return f"do nothing: it failed {failed.attempts} times, and `retry` was not asked"
    if vector is None:
        return "encode it, or take over a vector of the same text: it has none"
    if vector.text_hash != text.text_hash:
        return "encode it, or take over a vector of the same text: its text changed"
    return "keep it: it is of this text"
