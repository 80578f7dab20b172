"""The `cache_candidates` table: hashes that a text has lost, whose entries may be of no use.

The transaction that drops a reference notes the hash; a later one deletes the entries that no text
of any entity refers to. So neither a kill nor two references that are dropped at the same moment
leave an entry behind.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timedelta

from psycopg import Connection, sql
from psycopg.sql import Identifier, Literal

from embeddings_pipeline.store.postgres import Row
from embeddings_pipeline.store.tables import EntityTables
from embeddings_pipeline.store.vectors import identities
from embeddings_pipeline.store.vectors.cache import exclude_writers
from embeddings_pipeline.store.vectors.wire import hash_array

# forgets the texts of these hashes in caches outside the database; False where it could not
Evict = Callable[[Collection[bytes]], bool]

_AT_ONCE = 10_000


def note(tables: EntityTables, dropped: sql.Composable, *, erased: bool = False) -> None:
    """Note hashes, given by a query of (text_hash, part_hashes): of weighted texts the parts."""
    tables.execute(
        """
        insert into {candidates} as k (entity, text_hash, erased)
        select distinct {entity}, h, {erased} from ({dropped}) as d,
            unnest(coalesce(d.part_hashes, array[d.text_hash])) as h
        where h is not null order by h
        on conflict (entity, text_hash) do update set since = excluded.since,
            erased = k.erased or excluded.erased
        """,
        candidates=tables.on.names["cache_candidates"],
        erased=Literal(erased),
        dropped=dropped,
    )


def collect(
    tables: EntityTables,
    evict: Evict,
    *,
    grace: timedelta = timedelta(),
    keep: Mapping[int, timedelta] | None = None,
    erased_only: bool = False,
) -> int:
    """Delete the cache entries, and failures, of the entity's candidates that no text refers to;
    returns how many erased hashes could not be evicted, which the next call tries again.

    Candidates younger than `grace` are left, since a row that moves to another partition is gone
    from one before the other has it; `keep` gives longer times for the identities with these
    numbers. What is erased is deleted whatever its age.
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
            order by text_hash limit {most}
            """,
            (after.hex(), grace),
            candidates=tables.on.names["cache_candidates"],
            erased_only=Literal(erased_only),
            most=Literal(_AT_ONCE),
        ).fetchall()
        if not found:
            return left
        after = found[-1][0].bytes
        due = {h.bytes: since for h, since, _, _ in found}
        unused = _unused(tables, [*due], referenced)
        waiting: set[bytes] = set()
        for identity in stored:
            least = (keep or {}).get(identity.number, timedelta())
            now = [
                h.bytes
                for h, _, erased, age in found
                if h.bytes in unused and (erased or age >= least)
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
    """Remove candidates, but for those that were noted again meanwhile."""
    tables.execute(
        "delete from {candidates} k using unnest(%s::uuid[], %s::timestamptz[]) as s (h, since)"
        " where k.entity = {entity} and k.text_hash = s.h and k.since = s.since",
        (hash_array([*settled]), [*settled.values()]),
        candidates=tables.on.names["cache_candidates"],
    )


def erased_left(tables: EntityTables) -> int:
    """How many hashes of erased texts caches have yet to forget."""
    (count,) = tables.one(
        "select count(*) from {candidates} where entity = {entity} and erased",
        candidates=tables.on.names["cache_candidates"],
    )
    return int(count)


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
    """Whether a text, or a weighted part, of any entity has the hash `h`."""
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
