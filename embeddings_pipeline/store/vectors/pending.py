"""What is pending in a vector set. All callers use this one definition.

A chunk is *missing* in a set if its row of the set is absent or has another hash. It is *outdated*
if its version is below the floor of a renewal that covers it. It is *quarantined* if the model
failed on its text and must not be called again yet. It is *pending* if it is missing or outdated,
and not quarantined. A pending chunk is encoded if the embedding cache has no
usable entry of its text; otherwise it is only projected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

import numpy as np
from psycopg import sql
from psycopg.sql import Literal

from embeddings_pipeline.entities.rendering import HASH_BYTES
from embeddings_pipeline.store.tables import EntityTables, TableNames
from embeddings_pipeline.store.texts.quarantine import NOT_TO_BE_TRIED
from embeddings_pipeline.store.vector_sets import VectorSet
from embeddings_pipeline.store.wire import fixed_rows, hash_array


@dataclass(frozen=True)
class Scope:
    """The chunks that a run covers: those of the partitions `keys` and the rows `ids`; None means
    all. The partitions `first` come before the others. `without_gone` excludes the rows of the
    session's temporary table `gone_rows`."""

    keys: Sequence[str] | None = None
    ids: Sequence[str] | None = None
    first: Sequence[str] = ()
    without_gone: bool = False

    def condition(self, names: TableNames) -> sql.Composable:
        """The scope as a condition on the chunks `s`."""
        conditions: list[sql.Composable] = [sql.SQL("true")]
        if self.keys is not None:
            conditions.append(
                sql.SQL("s.partition_key = any({}::text[])").format(Literal(list(self.keys)))
            )
        if self.ids is not None:
            ids = Literal(list(self.ids))
            conditions.append(names.fill("s.{id} = any({ids}::{id_type}[])", ids=ids))
        if self.without_gone:
            conditions.append(names.fill("s.{id} not in (select id from gone_rows)"))
        return sql.SQL(" and ").join(conditions)


def chunk_states(
    names: TableNames,
    vector_set: VectorSet | None,
    *,
    identity: int | None = None,
    texts: sql.Composable | None = None,
    renewal: sql.Composable | None = None,
    further: Sequence[sql.Composable] = (),
) -> sql.Composable:
    """A query of each chunk that has a text, and its state in a set.

    Its columns are the id, chunk, partition_key, text_hash, tokens, part_hashes, part_tokens,
    changed_at (when its text changed), floor (the lowest sufficient version), missing, outdated,
    quarantined and pending. Without a set every chunk is missing, and a chunk is quarantined if the
    `identity` failed on it. A plan passes the `texts` as the next pass will leave them, and the
    `renewal` that a forced run would begin. `further` columns are taken from the text `t` and its
    row `v` of the set.
    """
    number = Literal(vector_set.number if vector_set else None)
    floors = names.fill(
        "select floor, partition_keys from {renewals}"
        " where entity = {entity} and vector_set = {number}",
        number=number,
    )
    if renewal is not None:
        floors = sql.SQL("{} union all {}").format(floors, renewal)
    failed = names.fill(
        "select q.text_hash from {quarantine} q"
        " where q.identity = {identity} and {not_to_be_tried}",
        identity=Literal(vector_set.identity_number if vector_set else identity),
        not_to_be_tried=NOT_TO_BE_TRIED,
    )
    floor = sql.SQL(
        "coalesce(greatest("
        "(select max(r.floor) from ({}) as r where r.partition_keys is null), p.floor), 0)"
    ).format(floors)
    conditions = {
        "missing": sql.SQL("v.text_hash is distinct from t.text_hash"),
        "outdated": sql.SQL("coalesce(v.version < {}, false)").format(floor),
        "quarantined": sql.SQL(
            "(t.text_hash in ({failed}) or coalesce(t.part_hashes && array({failed}), false))"
        ).format(failed=failed),
    }
    return names.fill(
        """
        select t.{id}, t.chunk, t.partition_key, t.text_hash, t.tokens, t.part_hashes,
            t.part_tokens, coalesce(t.source_changed_at, t.serialised_at) as changed_at,
            {floor} as floor, {missing} as missing, {outdated} as outdated,
            {quarantined} as quarantined,
            ({missing} or {outdated}) and not {quarantined} as pending {further}
        from {texts_now} t
        left join {vectors} v on v.{id} = t.{id} and v.chunk = t.chunk
        left join (
            select key, max(r.floor) as floor from ({floors}) as r, unnest(r.partition_keys) as key
            group by key
        ) as p on p.key = t.partition_key
        where t.text_hash is not null
        """,
        texts_now=texts or names.identifiers["texts"],
        vectors=names.table(vector_set.table_name)
        if vector_set
        else names.fill(
            "(select {id}, chunk, text_hash, 0::bigint as version from {texts} where false)"
        ),
        floors=floors,
        floor=floor,
        further=sql.SQL("").join(sql.SQL(", {}").format(column) for column in further),
        **conditions,
    )


def states_of(names: TableNames, vector_set: VectorSet | None) -> sql.Composable:
    """The states of an entity's chunks in a set: the view that `chunk_states` defines."""
    if vector_set is None:
        return sql.SQL("({})").format(chunk_states(names, None))
    return names.table(vector_set.states_view)


@dataclass(frozen=True)
class Selected:
    """Hashes to encode, in the order of a run. Each array has shape (n,): hashes of 16 bytes, the
    tokens of each text as counted when it was rendered, and the lowest sufficient version."""

    hashes: np.ndarray[Any, np.dtype[np.void]]
    tokens: np.ndarray[Any, np.dtype[np.int32]]
    floors: np.ndarray[Any, np.dtype[np.int64]]

    def __len__(self) -> int:
        return len(self.hashes)


def missing_hashes(
    names: TableNames,
    states: Sequence[sql.Composable],
    cache: sql.Composable,
    scope: Scope,
    limit: int | None,
) -> sql.Composable:
    """A query of the texts to encode: pending chunks of some sets of one identity need them, and
    `cache` has no usable entry. Each text is returned once.

    Its columns are n (the order), text_hash, tokens, floor and place (the position of the first set
    that needs the text). For weighted texts, it returns the parts. The order is by set, then by
    partition, id and chunk.
    """
    chunks = [
        sql.SQL("select *, {} as place from {} as s where s.pending and {}").format(
            Literal(place), state, scope.condition(names)
        )
        for place, state in enumerate(states)
    ]
    whole = sql.SQL("s.text_hash, s.tokens, 1 as part from ({}) as s")
    parts = sql.SQL(
        "h.text_hash, h.tokens, h.part from ({}) as s"
        " cross join unnest(s.part_hashes, s.part_tokens)"
        " with ordinality as h (text_hash, tokens, part)"
    )
    texts = (parts if names.source.entity.weights else whole).format(
        sql.SQL(" union all ").join(chunks)
    )
    return names.fill(
        """
        select min(n) as n, text_hash, max(tokens) as tokens, max(floor) as floor,
            min(place) as place
        from (
            select row_number() over (
                order by place, partition_key <> all({first}::text[]), partition_key, {id}, chunk,
                    part
            ) as n, text_hash, tokens, floor, place
            from (
                select s.place, s.partition_key, s.{id}, s.chunk, s.floor, {texts_to_read}
            ) as wanted
        ) as w
        where not exists (
            select from {cache} c where c.text_hash = w.text_hash and c.version >= w.floor
        )
        group by text_hash order by n limit {limit}
        """,
        first=Literal(list(scope.first)),
        texts_to_read=texts,
        cache=cache,
        limit=Literal(limit),
    )


def select_missing(
    tables: EntityTables, sets: Sequence[VectorSet], scope: Scope, limit: int
) -> Selected:
    """At most `limit` texts to encode for these sets, all of one identity."""
    query = tables.fill(
        "copy (select text_hash, tokens, floor from ({missing_hashes}) as e order by n)"
        " to stdout (format binary)",
        missing_hashes=missing_hashes(
            tables.names,
            [states_of(tables.names, vector_set) for vector_set in sets],
            tables.table(sets[0].cache_table),
            scope,
            limit,
        ),
    )
    columns = [("text_hash", f"V{HASH_BYTES}"), ("tokens", ">i4"), ("floor", ">i8")]
    with tables.connection.cursor() as cursor, cursor.copy(query) as copy:
        rows = fixed_rows(copy, columns)
    return Selected(
        rows["text_hash"], rows["tokens"].astype(np.int32), rows["floor"].astype(np.int64)
    )


@dataclass(frozen=True)
class Backlog:
    """What is pending in a set: chunks by partition, how many of them are missing, and how many of
    them already have a cache entry."""

    pending: dict[str, int]
    missing: int
    to_project: int

    @property
    def chunks(self) -> int:
        """All pending chunks."""
        return sum(self.pending.values())


# whether the cache has the entry of a chunk; for a weighted text only the first part is checked
# here, and the projection checks all parts
_CACHED: LiteralString = (
    "exists (select from {cache} c where c.version >= s.floor"
    " and c.text_hash = coalesce(s.part_hashes[1], s.text_hash))"
)


def backlog(tables: EntityTables, vector_set: VectorSet, scope: Scope) -> Backlog:
    """What is pending in a set now."""
    rows = tables.execute(
        """
        select partition_key, count(*), count(*) filter (where missing),
            count(*) filter (where {cached})
        from {states} s where s.pending and {scope} group by 1 order by 1
        """,
        cached=tables.fill(_CACHED, cache=tables.table(vector_set.cache_table)),
        states=states_of(tables.names, vector_set),
        scope=scope.condition(tables.names),
    ).fetchall()
    return Backlog(
        {key: count for key, count, *_ in rows},
        sum(missing for _, _, missing, _ in rows),
        sum(cached for *_, cached in rows),
    )


def ids_waiting_for(tables: EntityTables, scope: Scope, hashes: Sequence[bytes]) -> list[str]:
    """The ids, in order, of rows with one of these hashes."""
    return [
        row_id
        for (row_id,) in tables.execute(
            """
            select i.{id}::text from (
                select distinct s.{id} from {texts} s where {has_hash} and {scope}
            ) as i order by i.{id}
            """,
            (hash_array(hashes),),
            has_hash=sql.SQL("s.part_hashes && %s::uuid[]")
            if tables.source.entity.weights
            else sql.SQL("s.text_hash = any(%s::uuid[])"),
            scope=scope.condition(tables.names),
        )
    ]


def ids_to_project(
    tables: EntityTables,
    vector_set: VectorSet,
    scope: Scope,
    *,
    after: str | None = None,
    limit: int,
) -> list[str]:
    """The ids after `after`, in order, of rows with a pending chunk whose entry is in the cache."""
    return [
        row_id
        for (row_id,) in tables.execute(
            """
            select i.{id}::text from (
                select distinct s.{id} from {states} s
                where s.pending and {scope} and {cached} and {beyond}
                order by 1 limit {limit}
            ) as i order by i.{id}
            """,
            states=states_of(tables.names, vector_set),
            scope=scope.condition(tables.names),
            cached=tables.fill(_CACHED, cache=tables.table(vector_set.cache_table)),
            beyond=sql.SQL("true")
            if after is None
            else tables.fill("s.{id} > {after}::{id_type}", after=Literal(after)),
            limit=Literal(limit),
        )
    ]
