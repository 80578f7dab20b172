"""The embedding cache: the vector of each encoded text, by the hash of the text.

Each model identity has one cache table. The cache knows neither rows nor sets.

An entry must not outlive the last text with its hash. A writer locks the table in ROW EXCLUSIVE
mode before it looks for the text, and keeps the lock until its entry is committed. A collector
locks the table in SHARE ROW EXCLUSIVE mode before it deletes entries (`exclude_writers`). When a
text is erased while its vector is being computed, either the writer sees that the text is gone, or
the collector sees the entry.

The `cache_candidates` table lists hashes that a text has lost, whose entries may be unused. The
transaction that drops a reference notes the hash, and a later transaction deletes the entries to
which no text of any entity refers. So no entry is left behind by a kill, or by two transactions
that drop references at the same moment.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import LiteralString

import numpy as np
from psycopg import Connection, sql
from psycopg.errors import UniqueViolation
from psycopg.sql import Identifier, Literal

from embeddings_pipeline.store.connection import Row, only
from embeddings_pipeline.store.tables import EntityTables, SetDropped, drop_noticed
from embeddings_pipeline.store.vector_sets import StoredIdentity
from embeddings_pipeline.store.vectors import identities
from embeddings_pipeline.store.wire import (
    Column,
    Matrix,
    hash_array,
    hash_elements,
    vector_elements,
    write_rows,
)

# the largest component of a halfvec: the projection of a larger one would fail, and with it the
# whole window
MAX_COMPONENT = 65_504.0

_COLUMNS = sql.SQL("text_hash, embedding, version, run_id")


def next_version(connection: Connection[Row], schema: str) -> int:
    """A number above all earlier versions. A text is encoded under a version that was drawn before
    the model was called."""
    version = connection.execute(
        sql.SQL("select nextval({})").format(
            Literal(Identifier(schema, "embedding_versions").as_string(connection))
        )
    )
    return int(only(version)[0])


def exclude_writers(connection: Connection[Row], cache: sql.Composable) -> None:
    """Wait for the writers of a cache, and block new ones until the transaction ends."""
    connection.execute(sql.SQL("lock table {} in share row exclusive mode").format(cache))


def _announce_write(connection: Connection[Row], cache: sql.Composable) -> None:
    # a separate statement, so that the snapshot of the next one is taken after the lock
    connection.execute(sql.SQL("lock table {} in row exclusive mode").format(cache))


class EmbeddingCache:
    """The cache of one model identity, used by one entity."""

    def __init__(self, tables: EntityTables, stored: StoredIdentity) -> None:
        self._tables = tables
        self.stored = stored
        self._names: dict[str, sql.Composable] = {
            "cache": tables.table(stored.cache_table),
            "identity": Literal(stored.number),
            "has_hash": _has_hash(tables, sql.SQL("h")),
        }

    def write(
        self, hashes: Sequence[bytes], vectors: Matrix, versions: Sequence[int], run_id: str
    ) -> list[bytes]:
        """Store vectors, shape (hashes, dimension), with the versions of their claims; returns the
        hashes that were stored. Runs in the caller's transaction.

        A vector is stored only while a text of the entity has its hash, so that an erased text
        does not come back. A newer entry is kept.
        """
        _announce_write(self._tables.connection, self._names["cache"])
        gone = {
            h.bytes
            for (h,) in self._tables.execute(
                "select h from unnest(%s::uuid[]) as h"
                " where not exists (select from {texts} t where {has_hash})",
                (hash_array(hashes),),
                **self._names,
            )
        }
        # in one order, so that two writers do not deadlock
        places = sorted(
            (place for place, text_hash in enumerate(hashes) if text_hash not in gone),
            key=hashes.__getitem__,
        )
        if not places:
            return []
        stored = [hashes[place] for place in places]
        columns = (
            hash_elements(stored),
            vector_elements(vectors[places]),
            np.asarray(versions, ">i8")[places],
            np.full(len(stored), run_id.encode()),
        )
        known = _present(self._tables, self._tables.table(self.stored.cache_table), stored)
        if known or not self._insert(columns):
            self._upsert(columns)
        self._tables.execute(
            "delete from {quarantine} where identity = {identity} and text_hash = any(%s::uuid[])",
            (hash_array(stored),),
            **self._names,
        )
        return stored

    def _insert(self, columns: Sequence[Column]) -> bool:
        """Insert new entries; False where another run has written one of them meanwhile."""
        try:
            with self._tables.connection.transaction():
                self._copy(self._names["cache"], columns)
        except UniqueViolation:
            return False
        return True

    def _upsert(self, columns: Sequence[Column]) -> None:
        incoming = Identifier(f"incoming_{self.stored.cache_table}")
        self._tables.execute(
            "create temporary table if not exists {incoming} (like {cache} including defaults)"
            " on commit delete rows",
            incoming=incoming,
            **self._names,
        )
        self._copy(incoming, columns)
        self._tables.execute(
            """
            insert into {cache} as c ({columns}) select {columns} from {incoming}
            order by text_hash
            on conflict (text_hash) do update set embedding = excluded.embedding,
                version = excluded.version, encoded_at = clock_timestamp(),
                run_id = excluded.run_id
            where c.version < excluded.version
            """,
            columns=_COLUMNS,
            incoming=incoming,
            **self._names,
        )

    def _copy(self, table: sql.Composable, columns: Sequence[Column]) -> None:
        query = sql.SQL("copy {} ({}) from stdin (format binary)").format(table, _COLUMNS)
        with self._tables.connection.cursor() as cursor, cursor.copy(query) as copy:
            write_rows(copy, *columns)

    def seed(self, hashes: Sequence[bytes]) -> int:
        """Copy vectors with these hashes from the sets of this identity, of any entity, where the
        cache has no entry; returns how many were copied. May be repeated at any time."""
        return seed(
            self._tables.connection,
            self._tables.schema,
            self.stored,
            "text_hash = any(%s::uuid[])",
            (hash_array(hashes),),
        )

    def clear_idle(self) -> int:
        """Remove the entries that were not written by a running run; returns how many."""
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
    """Copy vectors that meet the condition `chosen` from all sets of an identity into its cache,
    where the cache has no entry; returns how many were copied."""
    sets = connection.execute(
        sql.SQL("select entity, table_name from {} where identity = %s order by 2").format(
            Identifier(schema, "vector_sets")
        ),
        (stored.number,),
    ).fetchall()
    copied = 0
    cache = Identifier(schema, stored.cache_table)
    for entity, table in sets:
        # a set that another run drops meanwhile has nothing to copy
        with suppress(SetDropped), drop_noticed(entity), connection.transaction():
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
    """Whether the text `t`, or one of its weighted parts, has this hash."""
    if tables.source.entity.weights:
        return sql.SQL("t.part_hashes @> array[{}]").format(text_hash)
    return sql.SQL("t.text_hash = {}").format(text_hash)


# deletes these hashes from caches outside the database; False where that failed
Evict = Callable[[Collection[bytes]], bool]

_CANDIDATES_AT_ONCE = 10_000


def collect(
    tables: EntityTables,
    evict: Evict,
    *,
    grace: timedelta = timedelta(),
    keep: Mapping[int, timedelta] | None = None,
    erased_only: bool = False,
) -> int:
    """Delete the cache entries and failures of the entity's candidates to which no text refers;
    returns how many erased hashes could not be evicted. The next call tries those again.

    Candidates younger than `grace` are kept, because a row that moves between partitions leaves the
    old one before it appears in the new one. `keep` gives a longer time for some identities, by
    number. Erased hashes are deleted at any age.
    """
    stored = identities.all_of(tables.connection, tables.schema)
    referenced = _is_referenced(tables.connection, tables.schema)
    after = bytes(16)
    left = 0
    while True:
        found = tables.execute(
            """
            select text_hash, since, erased, clock_timestamp() - since from {candidates}
            where entity = {entity} and text_hash > %s::uuid
                and (erased or (not {erased_only} and since <= clock_timestamp() - %s))
            order by text_hash limit {limit}
            """,
            (after.hex(), grace),
            candidates=tables.names.identifiers["cache_candidates"],
            erased_only=Literal(erased_only),
            limit=Literal(_CANDIDATES_AT_ONCE),
        ).fetchall()
        if not found:
            return left
        after = found[-1][0].bytes
        due = {h.bytes: since for h, since, _, _ in found}
        unused = _unused(tables, [*due], referenced)
        waiting: set[bytes] = set()
        for identity in stored:
            min_age = (keep or {}).get(identity.number, timedelta())
            now = [
                h.bytes
                for h, _, erased, age in found
                if h.bytes in unused and (erased or age >= min_age)
            ]
            later = unused.difference(now)
            cache = tables.table(identity.cache_table)
            _delete(tables, cache, now, referenced)
            waiting |= _present(tables, cache, later)
        gone = unused - waiting
        tables.execute(
            "delete from {quarantine} q where q.text_hash = any(%s::uuid[]) and q.stage = 'encode'",
            (hash_array(sorted(gone)),),
        )
        if gone and not evict(gone):
            waiting |= gone
            left += sum(1 for h, _, erased, _ in found if erased and h.bytes in gone)
        _settle(tables, {h: since for h, since in due.items() if h not in waiting})


def _settle(tables: EntityTables, settled: Mapping[bytes, datetime]) -> None:
    """Remove candidates that were not noted again meanwhile."""
    tables.execute(
        "delete from {candidates} k using unnest(%s::uuid[], %s::timestamptz[]) as s (h, since)"
        " where k.entity = {entity} and k.text_hash = s.h and k.since = s.since",
        (hash_array([*settled]), [*settled.values()]),
        candidates=tables.names.identifiers["cache_candidates"],
    )


def _unused(tables: EntityTables, hashes: list[bytes], referenced: sql.Composable) -> set[bytes]:
    rows = tables.execute(
        "select h from unnest(%s::uuid[]) as h where not ({referenced})",
        (hash_array(hashes),),
        referenced=referenced,
    )
    return {h.bytes for (h,) in rows}


def _delete(
    tables: EntityTables, cache: Identifier, hashes: list[bytes], referenced: sql.Composable
) -> None:
    if not hashes:
        return
    with tables.connection.transaction():
        exclude_writers(tables.connection, cache)
        tables.execute(
            """
            delete from {cache} c using unnest(%s::uuid[]) as h
            where c.text_hash = h and not ({referenced})
            """,
            (hash_array(hashes),),
            cache=cache,
            referenced=referenced,
        )


def _present(tables: EntityTables, cache: Identifier, hashes: Collection[bytes]) -> set[bytes]:
    if not hashes:
        return set()
    rows = tables.execute(
        "select text_hash from {cache} where text_hash = any(%s::uuid[])",
        (hash_array(sorted(hashes)),),
        cache=cache,
    )
    return {h.bytes for (h,) in rows}


def _is_referenced(connection: Connection[Row], schema: str) -> sql.Composable:
    """Whether a text or a weighted part of any entity has the hash `h`."""
    rows = connection.execute(
        sql.SQL(
            "select entity, definition ? 'weights' from {} where to_regclass("
            "format('%%I.%%I', {}::text, entity || '_texts')) is not null"
        ).format(Identifier(schema, "entities"), Literal(schema)),
        (),
    )
    conditions: list[sql.Composable] = [sql.SQL("false")]
    for entity, weighted in rows:
        texts = Identifier(schema, f"{entity}_texts")
        conditions.append(sql.SQL("exists (select from {} t where t.text_hash = h)").format(texts))
        if weighted:
            conditions.append(
                sql.SQL("exists (select from {} t where t.part_hashes @> array[h])").format(texts)
            )
    return sql.SQL(" or ").join(conditions)
