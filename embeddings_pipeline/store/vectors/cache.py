"""The embedding cache: the vector of each text that a model has read, by the text's hash.

It knows nothing of rows and sets. One table for each model identity.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import LiteralString, NamedTuple

from psycopg import Connection, sql
from psycopg.sql import Identifier, Literal

from embeddings_pipeline.store.postgres import Row, only
from embeddings_pipeline.store.tables import EntityTables
from embeddings_pipeline.store.vectors.identities import StoredIdentity
from embeddings_pipeline.store.vectors.wire import (
    Matrix,
    hash_array,
    hashes_of,
    vector_array,
    vector_oid,
)

# what a halfvec holds; beyond it a vector would be refused at projection, and with it its window
MAX_COMPONENT = 65_504.0


def next_version(connection: Connection[Row], schema: str) -> int:
    """A number above all versions that were drawn before. A text is encoded under the version
    that was drawn before its model was asked."""
    version = connection.execute(
        sql.SQL("select nextval({})").format(
            Literal(Identifier(schema, "embedding_versions").as_string(connection))
        )
    )
    return int(only(version)[0])


class Written(NamedTuple):
    """The hashes that were stored, and those that are to be tried again: their texts were
    locked."""

    stored: list[bytes]
    again: list[bytes]


class EmbeddingCache:
    """The cache of one model identity, as one entity writes and reads it."""

    def __init__(self, tables: EntityTables, stored: StoredIdentity) -> None:
        self._tables = tables
        self.stored = stored
        self._names: dict[str, sql.Composable] = {
            "cache": tables.table(stored.cache_table),
            "identity": Literal(stored.number),
            "has_hash": _has_hash(tables, sql.SQL("i.text_hash")),
        }

    def write(
        self, hashes: Sequence[bytes], vectors: Matrix, versions: Sequence[int], run_id: str
    ) -> Written:
        """Store vectors, shape (hashes, dimension), of texts that were encoded under these
        versions.

        A vector is stored only while a text of the entity has its hash, which the statement locks:
        nothing brings back what is erased meanwhile. A text that someone else has locked is not
        waited for, since two who wait for each other would deadlock. A hash that no text has any
        longer is left out. A newer entry is kept.
        """
        stored, again = self._tables.one(
            """
            with incoming as materialized (
                select *
                from unnest(%(hashes)s::uuid[], %(vectors)s::vector[], %(versions)s::int8[])
                    as i (text_hash, embedding, version)
            ),
            held as materialized (
                select i.text_hash from incoming i cross join lateral (
                    select from {texts} t where {has_hash} limit 1 for share skip locked
                ) as locked
            ),
            written as (
                insert into {cache} as c (text_hash, embedding, version, run_id)
                select text_hash, embedding, version, %(run_id)s from incoming
                where text_hash in (select text_hash from held)
                order by text_hash
                on conflict (text_hash) do update set embedding = excluded.embedding,
                    version = excluded.version, encoded_at = clock_timestamp(),
                    run_id = excluded.run_id
                where c.version < excluded.version
            ),
            recovered as (
                delete from {quarantine} q using held h
                where q.identity = {identity} and q.text_hash = h.text_hash
            )
            select coalesce((select array_agg(text_hash) from held), '{{}}'), coalesce((
                select array_agg(i.text_hash) from incoming i
                where i.text_hash not in (select text_hash from held)
                    and exists (select from {texts} t where {has_hash})
            ), '{{}}')
            """,
            {
                "hashes": hash_array(hashes),
                "vectors": vector_array(vectors, vector_oid(self._tables.connection)),
                "versions": list(versions),
                "run_id": run_id,
            },
            **self._names,
        )
        return Written(hashes_of(stored), hashes_of(again))

    def seed(self, hashes: Sequence[bytes]) -> int:
        """Copy from the vector sets of this identity, of any entity, what the cache lacks of these
        hashes; returns how many. May be called again at any time."""
        return seed(
            self._tables.connection,
            self._tables.schema,
            self.stored,
            "text_hash = any(%s::uuid[])",
            (hash_array(hashes),),
        )

    def clear_idle(self) -> int:
        """Remove the entries that no run which is at work has written; returns how many."""
        return self._tables.execute(
            "delete from {cache} where run_id not in"
            " (select run_id from {claims} where identity = {identity} and {live})",
            live=sql.SQL("leased_until > clock_timestamp()"),
            **self._names,
        ).rowcount


def seed(
    connection: Connection[Row],
    schema: str,
    stored: StoredIdentity,
    chosen: LiteralString,
    values: Sequence[object],
) -> int:
    """Copy into the cache of an identity the vectors, of all its sets, whose hashes are `chosen`
    by this condition and that it lacks; returns how many."""
    sets = connection.execute(
        sql.SQL("select table_name from {} where identity = %s order by 1").format(
            Identifier(schema, "vector_sets")
        ),
        (stored.number,),
    ).fetchall()
    copied = 0
    for (table,) in sets:
        copied += connection.execute(
            sql.SQL(
                """
                insert into {cache} (text_hash, embedding, version, encoded_at, run_id)
                select distinct on (text_hash) text_hash, embedding::vector, version, updated_at,
                    run_id
                from {source} where {chosen}
                order by text_hash, version desc
                on conflict (text_hash) do nothing
                """
            ).format(
                cache=Identifier(schema, stored.cache_table),
                source=Identifier(schema, table),
                chosen=sql.SQL(chosen),
            ),
            values,
        ).rowcount
    return copied


def _has_hash(tables: EntityTables, text_hash: sql.Composable) -> sql.Composable:
    """Whether the text `t` of an entity is, or has as a weighted part, what has this hash."""
    if tables.source.entity.weights:
        return sql.SQL("t.part_hashes @> array[{}]").format(text_hash)
    return sql.SQL("t.text_hash = {}").format(text_hash)
