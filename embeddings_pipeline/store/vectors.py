"""The `<entity>_vectors_<n>` tables: vectors written, taken over and removed."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from uuid import UUID

import numpy as np
from psycopg import Connection, sql
from psycopg.sql import Identifier

from embeddings_pipeline.store.failures import entry_of, removal
from embeddings_pipeline.store.postgres import Row
from embeddings_pipeline.store.statements import Statements
from embeddings_pipeline.store.vector_sets import VectorSet


class Encoded(NamedTuple):
    """A vector to be stored: float32, shape (dimension,)."""

    id: str
    chunk: int
    text_hash: bytes
    embedding: np.ndarray[tuple[int], np.dtype[np.float32]]
    reused_from: str | None


def write(
    connection: Connection[Row],
    on: Statements,
    vector_set: VectorSet,
    encoded: Sequence[Encoded],
    run_id: str,
) -> int:
    """Store vectors in one transaction; returns how many found their text unchanged. What was in
    quarantine for want of them leaves it.

    A row that was changed, erased or deleted while the model ran gets none: the join on the
    text's hash, `for share`, holds off whoever wants to change it until the vector is in.
    """
    with connection.transaction():
        # a window is small: look its rows up, whatever the planner guesses of a new table
        connection.execute("set local enable_hashjoin = off; set local enable_mergejoin = off")
        _receive(connection, on, vector_set, encoded)
        source = on.fill(
            "{incoming} i join {texts} t on t.{id} = i.{id} and t.chunk = i.chunk"
            " and t.text_hash = i.text_hash",
            incoming=_incoming(vector_set),
        )
        return fill(
            *(connection, on, vector_set, source, run_id),
            embedding=sql.SQL("i.embedding"),
            reused_from=sql.SQL("i.reused_from"),
        )


def fill(
    connection: Connection[Row],
    on: Statements,
    vector_set: VectorSet,
    source: sql.Composable,
    run_id: str,
    *,
    embedding: sql.Composable,
    reused_from: sql.Composable,
) -> int:
    """Store what `filling` describes; returns how many got a vector."""
    filled = filling(on, vector_set, source, embedding=embedding, reused_from=reused_from)
    return connection.execute(
        on.fill("with {filled} select from written", filled=filled), (run_id,)
    ).rowcount


def count(connection: Connection[Row], on: Statements, vector_set: VectorSet) -> tuple[int, int]:
    """How many vectors the set has, and how many chunks should have one: all but those on
    whose text its model failed."""
    stored, wanted = on.one(
        connection,
        "select (select count(*) from {vectors}),"
        " (select count(*) from {texts} t where t.text_hash is not null"
        " and not exists (select from {quarantine} q where {failed}))",
        vectors=on.table(vector_set.table_name),
        failed=entry_of(on, vector_set, "t"),
    )
    return stored, wanted


def remove_orphans(connection: Connection[Row], on: Statements, vector_set: VectorSet) -> int:
    """Remove vectors without a text, if something else than a run left any."""
    return connection.execute(
        on.fill(
            "delete from {vectors} v where not exists (select from {texts} t"
            " where t.{id} = v.{id} and t.chunk = v.chunk and t.text_hash is not null)",
            vectors=on.table(vector_set.table_name),
        )
    ).rowcount


def analyze(connection: Connection[Row], on: Statements, vector_set: VectorSet) -> None:
    """Refresh the planner's statistics, and the visibility map that index scans need."""
    connection.execute(
        on.fill("vacuum (analyze) {vectors}", vectors=on.table(vector_set.table_name))
    )


def _receive(
    connection: Connection[Row],
    on: Statements,
    vector_set: VectorSet,
    encoded: Sequence[Encoded],
) -> None:
    connection.execute(
        on.fill(
            "create temporary table if not exists {incoming} ({id} {id_type}, chunk int,"
            " text_hash bytea, embedding {storage}({dimension}), reused_from text)"
            " on commit delete rows",
            incoming=_incoming(vector_set),
            storage=sql.SQL(vector_set.storage),
            dimension=sql.Literal(vector_set.dimension),
        )
    )
    parse = {"bigint": int, "uuid": UUID, "text": str}[on.source.id_type]
    copy_in = on.fill(
        "copy {incoming} from stdin with (format binary)", incoming=_incoming(vector_set)
    )
    with connection.cursor() as cursor, cursor.copy(copy_in) as copy:
        # a binary copy converts nothing: what is sent must have the columns' own types
        copy.set_types([on.source.id_type, "int4", "bytea", "bytea", "text"])
        for row, embedding in zip(encoded, _sent(encoded, vector_set), strict=True):
            copy.write_row((parse(row.id), row.chunk, row.text_hash, embedding, row.reused_from))


def _sent(encoded: Sequence[Encoded], vector_set: VectorSet) -> Iterator[bytes]:
    """The vectors as pgvector receives them, converted at once rather than number by number:
    the dimension and two empty bytes, then big-endian floats (vector_recv, halfvec_recv)."""
    kind = ">f4" if vector_set.storage == "vector" else ">f2"
    head = struct.pack(">HH", vector_set.dimension, 0)
    for row in encoded:
        yield head + row.embedding.astype(kind).tobytes()


def _incoming(vector_set: VectorSet) -> Identifier:
    # two sets that are filled in one session differ in dimension or storage
    return Identifier(f"incoming_{vector_set.number}")


def filling(
    on: Statements,
    vector_set: VectorSet,
    source: sql.Composable,
    *,
    embedding: sql.Composable,
    reused_from: sql.Composable,
) -> sql.Composable:
    """How every vector comes into a set, for a `with`: `written` gives the (id, chunk) that got
    one, and what was in quarantine for want of it leaves it.

    `source` is what follows `from`, with the texts as `t`; its one parameter is the run's id.
    """
    values: dict[str, sql.Composable] = {
        on.source.entity.id: Identifier("t", on.source.entity.id),
        "chunk": sql.SQL("t.chunk"),
        "text": sql.SQL("t.text"),
        "text_hash": sql.SQL("t.text_hash"),
        "embedding": sql.SQL("{}::{}").format(embedding, sql.SQL(vector_set.storage)),
        "run_id": sql.SQL("%s"),
        "reused_from": reused_from,
        "embedded_at": sql.SQL("clock_timestamp()"),
        **{column: Identifier("t", column) for column in on.source.filters},
    }
    assigned = [c for c in values if c not in (on.source.entity.id, "chunk")]
    return on.fill(
        """
        written as (
            insert into {vectors} as v ({columns})
            select {values} from {source} for share of t
            on conflict ({id}, chunk) do update set {assignments}
            returning v.{id}::text as id, v.chunk
        ),
        settled as ({removal})
        """,
        vectors=on.table(vector_set.table_name),
        columns=sql.SQL(", ").join(Identifier(column) for column in values),
        values=sql.SQL(", ").join(values.values()),
        source=source,
        assignments=sql.SQL(", ").join(
            sql.SQL("{c} = excluded.{c}").format(c=Identifier(c)) for c in assigned
        ),
        removal=removal(on, vector_set),
    )
