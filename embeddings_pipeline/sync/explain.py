"""Says of one row what is stored, where it comes from, and what the next run does with it."""

from __future__ import annotations

from dataclasses import dataclass

from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.store import entity_tables, planning, staging, traces
from embeddings_pipeline.store.postgres import Postgres
from embeddings_pipeline.store.quarantine import Failure
from embeddings_pipeline.store.staging import StagedRow
from embeddings_pipeline.store.statements import Statements
from embeddings_pipeline.store.traces import Quarantined, StoredText
from embeddings_pipeline.sync import rendering
from embeddings_pipeline.sync.explain_chunk import ExplainedChunk, explain_chunk, known_sets


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
        entity_tables.refuse_other_id(target, on.schema, on.source)
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
        sets = known_sets(target, on, encoders)
        encoder = encoders.of(on.source.entity)
        chunks = [
            explain_chunk(target, on, text, sets, failures, encoder)
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
