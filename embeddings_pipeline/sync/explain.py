"""Explains one row: what is stored, where it comes from, and what the next run does with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

from embeddings_pipeline.encoders.encoder import Encoder
from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.entities.model import ModelIdentity
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.store import planning, rows, vector_sets
from embeddings_pipeline.store.connection import Postgres
from embeddings_pipeline.store.retry import read_again
from embeddings_pipeline.store.rows import ChunkState, StoredText, StoredVector
from embeddings_pipeline.store.staging import reader
from embeddings_pipeline.store.staging.reader import StagedRow
from embeddings_pipeline.store.tables import EntityTables, TableNames, drop_noticed
from embeddings_pipeline.store.texts import erasures, quarantine, text_tables
from embeddings_pipeline.store.texts.quarantine import Entry, Failure
from embeddings_pipeline.store.texts.texts import Text
from embeddings_pipeline.store.vector_sets import VectorSet
from embeddings_pipeline.store.wire import encoding_of, stored_id
from embeddings_pipeline.sync import texts as text_pass
from embeddings_pipeline.sync.plan import sets_of_run

# the most rows with an equal text to list
_EQUAL = 5


@dataclass(frozen=True)
class ChunkInSet:
    """The vector of a chunk in one set, and what the next run does with it. A set that the run will
    create has no number."""

    set_number: int | None
    state: str
    model: str
    revision: str
    vector: StoredVector | None
    next: str


@dataclass(frozen=True)
class ExplainedChunk:
    """A chunk as it would be rendered now. `tokens` is the count of the entity's model. `equal`
    lists some other rows with an equal text, which share its vector."""

    chunk: int
    text: str
    text_hash: str
    tokens: int
    truncated: bool
    equal: list[str]
    sets: list[ChunkInSet]


@dataclass(frozen=True)
class Explanation:
    """An explained row. `next` is what the next run does with the row as a whole."""

    entity: str
    id: str
    partition: str | None
    next: str
    chunks: list[ExplainedChunk]
    quarantine: list[Entry]


@dataclass(frozen=True)
class _KnownSet:
    """A set, stored or yet to be created, and why the next run leaves it alone, if it does."""

    stored: VectorSet | None
    identity: ModelIdentity
    left: str | None


@read_again
def explain(
    staged: Postgres, database: Postgres, names: TableNames, encoders: Encoders, row_id: str
) -> Explanation:
    """Explain a row of the staging model or of the stored texts.

    Raises ConfigurationError where neither has the id.
    """
    (row_id,) = names.source.canonical_ids([row_id])
    entity = names.source.entity.name
    with (
        drop_noticed(entity),
        staged.connection() as source,
        database.connection() as target,
    ):
        tables = EntityTables(target, TableNames(names.schema, names.source))
        row_id = stored_id(row_id, encoding_of(target))
        text_tables.refuse_other_id(target, names.schema, names.source)
        is_new = planning.without_texts(tables)
        row = next(reader.read_rows(source, tables, [row_id]), None)
        stored = [] if is_new else rows.texts(tables, row_id)
        failures = [] if is_new else quarantine.of_row(tables, row_id)
        erased = erasures.of_ids(tables, [row_id]).get(row_id)
        if row is None and not stored and erased is None:
            raise ConfigurationError(
                f"entity {entity!r} has no row with {names.source.entity.id}"
                f" {row_id!r}: it is not in {names.source.entity.table}, or not eligible"
            )
        window = text_pass.rendered([row], tables.names, encoders.images) if row else None
        texts = [text for text in (window.texts if window else []) if text.text is not None]
        chunks = [] if erased else _chunks(tables, encoders, row_id, texts)
        reason = (
            f"skip it: erased on {erased:%Y-%m-%d}"
            if erased
            else _next_for_row(row, stored, chunks, window.failures if window else [])
        )
        return Explanation(
            entity=entity,
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


def _chunks(
    tables: EntityTables, encoders: Encoders, row_id: str, texts: Sequence[Text]
) -> list[ExplainedChunk]:
    """The chunks of a row as they are rendered now, with their states in each set."""
    planning.create(tables)
    planning.add(tables, texts)
    encoder = encoders.for_entity(tables.source.entity)
    known = _known_sets(tables, encoders)
    in_sets = [_in_set(tables, row_id, texts, one) for one in known]
    return [
        ExplainedChunk(
            chunk=text.chunk,
            text=text.text or "",
            text_hash=text.text_hash.hex() if text.text_hash else "",
            tokens=sum(tokens),
            truncated=max(tokens) > encoder.identity.max_tokens,
            equal=rows.equal_texts(tables, text.text_hash or b"", row_id, _EQUAL),
            sets=[of_chunk[text.chunk] for of_chunk in in_sets],
        )
        for text in texts
        for tokens in [_tokens(tables, text, encoder)]
    ]


def _tokens(tables: EntityTables, text: Text, encoder: Encoder) -> list[int]:
    """The tokens of a chunk, or of each of its parts, by the entity's model; 0 for an image."""
    if tables.source.entity.image:
        return [0]
    return encoder.token_count.of(text.parts or [text.text or ""])


def _known_sets(tables: EntityTables, encoders: Encoders) -> list[_KnownSet]:
    """All sets of an entity; sets that the next run will create come last."""
    maintained = sets_of_run(tables, encoders)
    numbers = {found.number for found, _ in maintained if found}
    sets = vector_sets.read(tables)

    def why_left(stored: VectorSet) -> str | None:
        if stored.number in numbers:
            try:
                encoders.for_identity(stored.identity)
            except ConfigurationError as error:
                return f"the set is frozen: {error}"
            return None
        if any(other.replaces(stored) for other in sets):
            return "another set is about to take its place"
        return "the set is retired" if stored.state == "retired" else "the set is given up"

    return [
        *(_KnownSet(stored, stored.identity, why_left(stored)) for stored in sets),
        *(_KnownSet(None, identity, None) for found, identity in maintained if not found),
    ]


def _in_set(
    tables: EntityTables, row_id: str, texts: Sequence[Text], known: _KnownSet
) -> dict[int, ChunkInSet]:
    """Each chunk of a row in one set."""
    stored = known.stored
    vectors = rows.vectors(tables, stored, row_id) if stored else {}
    states = rows.states(tables, stored, _rendered(tables))
    return {
        text.chunk: ChunkInSet(
            set_number=stored.number if stored else None,
            state=stored.state if stored else "new",
            model=known.identity.model,
            revision=known.identity.revision,
            vector=vectors.get(text.chunk),
            next=_next_for_chunk(
                tables, known, text, states[text.chunk], has_vector=text.chunk in vectors
            ),
        )
        for text in texts
    }


def _next_for_chunk(
    tables: EntityTables, known: _KnownSet, text: Text, state: ChunkState, *, has_vector: bool
) -> str:
    if known.left:
        return f"do nothing: {known.left}"
    if state.quarantined and (state.missing or state.outdated):
        return "do nothing yet: the model failed on it; `retry` lets the next run try it again"
    if not state.pending:
        return "keep it: it is up to date"
    if known.stored is None:
        return "encode it: the set is new"
    why = "it is to be encoded again"
    if not has_vector:
        why = "it has none"
    elif state.missing:
        why = "its text changed"
    hashes = text.part_hashes or ([text.text_hash] if text.text_hash else [])
    cached = rows.usable_in_cache(tables, known.stored, hashes, state.floor)
    return f"{'take it from the cache' if cached else 'encode it'}: {why}"


def _rendered(tables: EntityTables) -> sql.Composable:
    return tables.fill(
        "(select id as {id}, chunk, partition_key, text_hash, tokens, part_hashes, part_tokens,"
        " null::timestamptz as source_changed_at, null::timestamptz as serialised_at from rendered)"
    )
