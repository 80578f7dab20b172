"""Says of one chunk what each vector set has of it, and what the next run does there and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import Connection

from embeddings_pipeline.encoders.cached import CachedEncoder
from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.entities.model import ModelIdentity
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.store import forcing, reuse, traces, vector_sets
from embeddings_pipeline.store.failures import MAX_ATTEMPTS
from embeddings_pipeline.store.postgres import Row
from embeddings_pipeline.store.statements import Statements
from embeddings_pipeline.store.texts import Text
from embeddings_pipeline.store.traces import Quarantined, StoredVector
from embeddings_pipeline.store.vector_sets import VectorSet
from embeddings_pipeline.sync.set_plans import sets_of_run


@dataclass(frozen=True)
class ChunkInSet:
    """One chunk's vector in one set, and what the next run does with it. A set that the run is yet
    to make has no number."""

    set_number: int | None
    state: str
    model: str
    revision: str
    vector: StoredVector | None
    next: str


@dataclass(frozen=True)
class ExplainedChunk:
    """One chunk as it would be rendered now; its `tokens` are those of the entity's model."""

    chunk: int
    text: str
    text_hash: str
    tokens: int
    truncated: bool
    sets: list[ChunkInSet]


@dataclass(frozen=True)
class KnownSet:
    """A set, stored or yet to be made, and why the next run leaves it alone, if it does."""

    stored: VectorSet | None
    identity: ModelIdentity
    left: str | None


def known_sets(connection: Connection[Row], on: Statements, encoders: Encoders) -> list[KnownSet]:
    """All sets of an entity, those last that the next run is to make."""
    filled = sets_of_run(connection, on, encoders)
    numbers = {found.number for found, _ in filled if found}
    known = []
    for stored in vector_sets.vector_sets(connection, on, ("live", "building", "retired")):
        left = None
        if stored.number not in numbers:
            left = "the set is retired" if stored.state == "retired" else "the set is given up"
        else:
            try:
                encoders.identical(stored.identity)
            except ConfigurationError as error:
                left = f"the set is frozen: {error}"
        known.append(KnownSet(stored, stored.identity, left))
    return known + [KnownSet(None, identity, None) for found, identity in filled if found is None]


def explain_chunk(
    connection: Connection[Row],
    on: Statements,
    text: Text,
    sets: Sequence[KnownSet],
    failures: Sequence[Quarantined],
    encoder: CachedEncoder,
) -> ExplainedChunk:
    """What is stored of a chunk that says this `text`, with the `failures` of its row."""
    images = on.source.entity.image is not None
    tokens = [0] if images else encoder.token_count.of(text.parts or [text.text or ""])
    return ExplainedChunk(
        chunk=text.chunk,
        text=text.text or "",
        text_hash=text.text_hash.hex() if text.text_hash else "",
        tokens=sum(tokens),
        truncated=max(tokens) > encoder.identity.max_tokens,
        sets=[_in_set(connection, on, text, known, failures) for known in sets],
    )


def _in_set(
    connection: Connection[Row],
    on: Statements,
    text: Text,
    known: KnownSet,
    failures: Sequence[Quarantined],
) -> ChunkInSet:
    stored = known.stored
    vector = traces.vectors(connection, on, stored, text.id).get(text.chunk) if stored else None
    failed = _left_alone(stored, text, failures) if stored else None
    if known.left:
        fate = f"do nothing: {known.left}"
    elif failed:
        fate = f"do nothing: it failed {failed.attempts} times, and `retry` was not asked"
    elif vector and vector.text_hash == text.text_hash:
        fate = "keep it: it is of this text"
    else:
        why = "its text changed" if vector else "it has none" if stored else "the set is new"
        fate = f"{_how(connection, on, text, known)}: {why}"
    return ChunkInSet(
        set_number=stored.number if stored else None,
        state=stored.state if stored else "new",
        model=known.identity.model,
        revision=known.identity.revision,
        vector=vector,
        next=fate,
    )


def _how(connection: Connection[Row], on: Statements, text: Text, known: KnownSet) -> str:
    stored = known.stored
    origins = (
        forcing.lenders(connection, on, stored, stored.force_since)
        if stored
        else vector_sets.same_model(connection, on, known.identity)
    )
    if text.text_hash and reuse.at_hand(connection, on, origins, [text.text_hash]):
        return "take over the vector of an equal text"
    return "encode it"


def _left_alone(
    vector_set: VectorSet, text: Text, failures: Sequence[Quarantined]
) -> Quarantined | None:
    """What `store.failures.left_alone` is in SQL, of a text that may not be stored yet."""
    of_text = (text.chunk, vector_set.number, text.text_hash)
    for failure in failures:
        same = (failure.chunk, failure.vector_set, failure.text_hash) == of_text
        if same and failure.attempts >= MAX_ATTEMPTS:
            return failure
    return None
