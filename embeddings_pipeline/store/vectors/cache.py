"""The embedding cache: the vector of each text that a model has read, by the text's hash.

It knows nothing of rows and sets. One table for each model identity.

An entry must not outlive the last text that has its hash. Whoever writes holds the table in ROW
EXCLUSIVE mode from before it looks for a text until its entry is committed; whoever deletes what no
text refers to takes it in SHARE ROW EXCLUSIVE mode first (`exclude_writers`). So a text that is
erased while its vector is on its way is either seen to be gone by the writer, or its entry by the
collector.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import LiteralString

from psycopg import Connection, sql
from psycopg.sql import Identifier, Literal

from embeddings_pipeline.store.postgres import Row, only
from embeddings_pipeline.store.tables import EntityTables
from embeddings_pipeline.store.vectors.identities import StoredIdentity
from embeddings_pipeline.store.vectors.wire import (
    Matrix,
    hash_array,
    number_array,
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


def exclude_writers(connection: Connection[Row], cache: sql.Composable) -> None:
    """Wait for the writers of a cache, and hold off others until the transaction ends."""
    connection.execute(sql.SQL("lock table {} in share row exclusive mode").format(cache))


def _announce_write(connection: Connection[Row], cache: sql.Composable) -> None:
    # a statement of its own: the next one's snapshot is from after it
    connection.execute(sql.SQL("lock table {} in row exclusive mode").format(cache))


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
    ) -> list[bytes]:
        """Store vectors, shape (hashes, dimension), of texts that were encoded under these
        versions; returns the hashes that were stored. Runs in a transaction of the caller.

        A vector is stored only while a text of the entity has its hash: nothing brings back what
        is erased meanwhile. A newer entry is kept.
        """
        _announce_write(self._tables.connection, self._names["cache"])
        (places,) = self._tables.one(
            """
            with incoming as materialized (
                select i.text_hash, i.embedding, i.version, i.place
                from unnest(%(hashes)s::uuid[], %(vectors)s::vector[], %(versions)s::int8[])
                    with ordinality as i (text_hash, embedding, version, place)
                where exists (select from {texts} t where {has_hash})
            ),
            written as (
                insert into {cache} as c (text_hash, embedding, version, run_id)
                select text_hash, embedding, version, %(run_id)s from incoming
                -- in one order, so that two writers do not deadlock
                order by text_hash
                on conflict (text_hash) do update set embedding = excluded.embedding,
                    version = excluded.version, encoded_at = clock_timestamp(),
                    run_id = excluded.run_id
                where c.version < excluded.version
            ),
            recovered as (
                delete from {quarantine} q using incoming i
                where q.identity = {identity} and q.text_hash = i.text_hash
            )
            select coalesce(array_agg(place::int4), '{{}}') from incoming
            """,
            {
                "hashes": hash_array(hashes),
                "vectors": vector_array(vectors, vector_oid(self._tables.connection)),
                "versions": number_array(versions),
                "run_id": run_id,
            },
            **self._names,
        )
        return [hashes[place - 1] for place in places]

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
    cache = Identifier(schema, stored.cache_table)
    for (table,) in sets:
        with connection.transaction():
            _announce_write(connection, cache)
            copied += connection.execute(
                sql.SQL(
                    """
                    insert into {cache} (text_hash, embedding, version, encoded_at, run_id)
                    select distinct on (text_hash) text_hash, embedding::vector, version,
                        updated_at, run_id
                    from {source} where {chosen}
                    order by text_hash, version desc
                    on conflict (text_hash) do nothing
                    """
                ).format(cache=cache, source=Identifier(schema, table), chosen=sql.SQL(chosen)),
                values,
            ).rowcount
    return copied


def _has_hash(tables: EntityTables, text_hash: sql.Composable) -> sql.Composable:
    """Whether the text `t` of an entity is, or has as a weighted part, what has this hash."""
    if tables.source.entity.weights:
        return sql.SQL("t.part_hashes @> array[{}]").format(text_hash)
    return sql.SQL("t.text_hash = {}").format(text_hash)
