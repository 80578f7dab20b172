"""Projection: the rows of a vector set are texts joined with the embedding cache on the hash.

Several runs may project at the same time, and a projection may be repeated. It is correct because
it locks the texts and compares their hashes. It needs no other lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import LiteralString, NamedTuple

from psycopg import sql
from psycopg.sql import Identifier, Literal

from embeddings_pipeline.entities.entity import RESERVED_COLUMNS
from embeddings_pipeline.store.connection import asynchronous_commit, columns_of
from embeddings_pipeline.store.tables import EntityTables
from embeddings_pipeline.store.vector_sets import VectorSet
from embeddings_pipeline.store.vectors.pending import chunk_states, states_of
from embeddings_pipeline.store.wire import text_array

# the vector of a text `t` in a set; no row where the cache lacks an entry
_PLAIN: LiteralString = (
    "select embedding::{storage} as embedding, version, run_id from {cache}"
    " where text_hash = t.text_hash"
)
# the weighted mean of the parts' vectors, normalized to length 1
_WEIGHTED: LiteralString = (
    "select l2_normalize(sum(c.embedding * array_fill(p.weight::real, array[{dimension}])::vector))"
    "::{storage} as embedding, min(c.version) as version, max(c.run_id) as run_id"
    " from unnest(t.part_hashes, t.weights) as p (text_hash, weight)"
    " join {cache} c using (text_hash) having count(*) = cardinality(t.part_hashes)"
)
# (chunks written, their tokens)
_PROJECT: LiteralString = """
    with states as materialized (
        select t.*, t.missing or t.outdated as stale, c.version >= t.floor as cached,
            c.embedding, c.version, c.run_id
        from ({states}) t
        left join lateral ({embedding}) as c on (t.missing or t.outdated) and {usable}
        where t.{id} = {chosen}
    ),
    ready as not materialized (
        select * from states
        where stale and embedding is not null and {id} not in (
            select {id} from states where stale and not quarantined and cached is not true
        )
    ),
    inserted as (
        insert into {vectors} ({id}, chunk, {columns})
        select {id}, chunk, {columns} from ready where not stored
        -- an order that separates equal texts: an HNSW graph built from hundreds of consecutive
        -- equal vectors does not find the other vectors
        order by hashtextextended({id}::text, chunk)
        returning {id}, chunk
    ),
    updated as (
        update {vectors} v set ({columns}, updated_at) = row({values}, clock_timestamp())
        from ready r
        where r.stored and v.{id} = r.{id} and v.chunk = r.chunk
            and (v.text_hash <> r.text_hash or v.version < r.version)
        returning v.{id}, v.chunk
    ),
    written as (select * from inserted union all select * from updated),
    -- chunks that the text of the row no longer has
    removed as (
        delete from {vectors} v
        -- an array makes the planner use the index, even while the set has few rows
        where v.{id} = any(array(
                select {id} from states where stored
                intersect select {id} from written
            ))
            and (v.{id}, v.chunk) not in (select {id}, chunk from written)
            and not exists (
                select from {texts} t where t.{id} = v.{id} and t.chunk = v.chunk
                    and t.text_hash = v.text_hash
            )
    )
    select count(*), coalesce(sum(s.tokens), 0)::bigint
    from written join states s using ({id}, chunk)
"""
# a weighted mean of length zero has no direction
_QUARANTINE_CANCELLED: LiteralString = """
    insert into {quarantine} as q (identity, text_hash, stage, error, attempts)
    select distinct {identity}, t.text_hash, 'encode', 'the weighted parts cancel one another',
        {never_again}
    from {states} s join {texts} t using ({id}, chunk)
    cross join lateral ({embedding}) as c
    where s.{id} = {chosen} and s.pending and c.version >= s.floor
        and vector_norm(c.embedding::vector) = 0
    on conflict (identity, text_hash) where stage = 'encode' do nothing
"""

# the share of written rows from which statistics are refreshed at once, not by autovacuum
_ANALYZE_SHARE = 0.1


class Projected(NamedTuple):
    """How many chunks a projection wrote, and how many tokens their texts have."""

    chunks: int = 0
    tokens: int = 0

    def plus(self, other: Projected) -> Projected:
        """The sum of both."""
        return Projected(self.chunks + other.chunks, self.tokens + other.tokens)


def project(tables: EntityTables, vector_set: VectorSet, ids: Sequence[str]) -> Projected:
    """Bring rows of a set up to date with their texts, in one transaction.

    A row is written as a whole, once each of its chunks has a usable cache entry or is
    quarantined, so that no reader sees half of a changed row. Current rows are not written.
    """
    names = _names(tables, vector_set)
    values = {"ids": text_array(ids)}
    with asynchronous_commit(tables.connection):
        # texts are locked in the order in which they are written, so that transactions do not
        # deadlock. Later statements of this transaction see the rows as they stay until its end,
        # and no other projection inserts the rows that are absent
        tables.execute(
            "select from {texts} t where t.{id} = {chosen} order by t.{id}, t.chunk"
            " for no key update",
            values,
            **names,
        )
        projected = Projected(
            *tables.one(_PROJECT, values, **names, **_columns(tables, vector_set))
        )
        if tables.source.entity.weights:
            tables.execute(
                _QUARANTINE_CANCELLED,
                values,
                states=states_of(tables.names, vector_set),
                never_again=Literal(1 << 30),
                **names,
            )
    return projected


def _names(tables: EntityTables, vector_set: VectorSet) -> dict[str, sql.Composable]:
    """The names and expressions in the statements of a projection."""
    names = {
        "cache": tables.table(vector_set.cache_table),
        "vectors": tables.table(vector_set.table_name),
        "storage": sql.SQL(vector_set.storage),
        "dimension": Literal(vector_set.dimension),
        "identity": Literal(vector_set.identity_number),
        "chosen": tables.fill("any(%(ids)s::text[]::{id_type}[])"),
    }
    embedding = _WEIGHTED if tables.source.entity.weights else _PLAIN
    return names | {"embedding": sql.SQL(embedding).format(**names)}


def _columns(tables: EntityTables, vector_set: VectorSet) -> dict[str, sql.Composable]:
    """The lists of columns in `_PROJECT`, and the query of the states.

    The copied columns are those that the texts table has now, which may differ from this run's
    declaration. They cannot change before the transaction ends.
    """
    weighted = bool(tables.source.entity.weights)
    present = columns_of(tables.connection, tables.schema, f"{tables.entity}_texts")
    copied = [c for c in present if c not in RESERVED_COLUMNS and c != tables.source.entity.id]
    written = ["text", "text_hash", "embedding", "version", "run_id", *copied]
    of_text = ["text", *copied, *(["weights"] if weighted else [])]
    return {
        "columns": sql.SQL(", ").join(map(Identifier, written)),
        "values": sql.SQL(", ").join(Identifier("r", column) for column in written),
        "usable": sql.SQL("vector_norm(c.embedding::vector) > 0" if weighted else "true"),
        "states": chunk_states(
            tables.names,
            vector_set,
            further=[
                sql.SQL("v.text_hash is not null as stored"),
                *(Identifier("t", column) for column in of_text),
            ],
        ),
    }


def remove_orphans(tables: EntityTables, vector_set: VectorSet) -> int:
    """Remove the rows of a set whose chunk has no text; returns how many. Runs leave none."""
    return tables.execute(
        "delete from {vectors} v where not exists (select from {texts} t"
        " where t.{id} = v.{id} and t.chunk = v.chunk and t.text_hash is not null)",
        vectors=tables.table(vector_set.table_name),
    ).rowcount


def may_have_orphans(tables: EntityTables, vector_set: VectorSet) -> bool:
    """Whether a set in which nothing is pending may have a row without a text."""
    (found,) = tables.one(
        """
        select (select count(*) from {vectors})
                <> (select count(*) from {texts} where text_hash is not null)
            or exists (select from {quarantine} where identity = {identity})
        """,
        identity=Literal(vector_set.identity_number),
        vectors=tables.table(vector_set.table_name),
    )
    return bool(found)


def analyze(tables: EntityTables, vector_set: VectorSet, written: int) -> None:
    """Refresh the planner's statistics of a set and of its cache, where `written` rows are more
    than a tenth of the set."""
    vectors = tables.table(vector_set.table_name)
    (due,) = tables.one(
        # reltuples is -1 for a table that was never analyzed
        "select {written} > {share} * reltuples from pg_class where oid = {name}::regclass",
        name=Literal(vectors.as_string(tables.connection)),
        written=Literal(written),
        share=Literal(_ANALYZE_SHARE),
    )
    if due:
        for table in (vectors, tables.table(vector_set.cache_table)):
            tables.execute("analyze {table}", table=table)


def vacuum(tables: EntityTables, vector_set: VectorSet) -> None:
    """Vacuum a set that has grown since its last vacuum. The query of pending rows then reads only
    the primary key, because the visibility map marks the pages as visible."""
    vectors = tables.table(vector_set.table_name)
    (due,) = tables.one(
        "select (1 - {share}) * pg_relation_size(oid) > relallvisible *"
        " current_setting('block_size')::int8 from pg_class where oid = {name}::regclass",
        name=Literal(vectors.as_string(tables.connection)),
        share=Literal(_ANALYZE_SHARE),
    )
    if due:
        tables.execute("vacuum (analyze) {vectors}", vectors=vectors)
