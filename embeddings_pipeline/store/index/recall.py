"""recall@10 of a vector index against exact search, and the lowest effort that reaches it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from psycopg import sql
from psycopg.sql import Literal
from psycopg.types.json import Jsonb

from embeddings_pipeline.store import filters
from embeddings_pipeline.store.connection import columns_of
from embeddings_pipeline.store.index.build import VectorIndex, better_compared
from embeddings_pipeline.store.tables import EntityTables, TableNames
from embeddings_pipeline.store.texts.texts import SAMPLED
from embeddings_pipeline.store.vector_sets import (
    EFFORT_SETTINGS,
    MAX_EF_SEARCH,
    OPERATORS,
    VectorSet,
)
from embeddings_pipeline.store.vectors import quality

# hnsw.ef_search or ivfflat.probes to try, in order
_EFFORTS: dict[str, Sequence[int | None]] = {
    "hnsw": (20, 40, 60, 80, 120, 160, 240, 320, 480, 640, MAX_EF_SEARCH),
    "ivfflat": (1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 300, 1000),
    "none": (None,),
}
# the recall is measured again when this share of the rows changed, or after a day, because vacuum,
# an upgrade or a person may have changed the index
_MEASURE_AGAIN = 0.1
_MEASURE_DAILY = timedelta(days=1)

# equal distances have no order, so that a hit is any vector as near as the exact tenth
_TIE = 1e-6


@dataclass(frozen=True)
class Level:
    """Measured searches with a filter that leaves this share of the rows; `column` is its filter
    column, if any.

    `recall_at_10` is the mean over the queries, with this `effort` (ef_search or probes); without
    one, rows are compared without the index, because that is as fast. The milliseconds are measured
    in the database, without planning and network, as the rows are searched and exactly.
    """

    share: float
    column: str | None
    queries: int
    effort: int | None
    recall_at_10: float
    p50_ms: float
    p95_ms: float
    exact_p50_ms: float


def is_due(tables: EntityTables, vector_set: VectorSet) -> bool:
    """Whether the last measurement of a set is outdated, or missing."""
    if vector_set.recall_check is None:
        return vector_set.index_settings is not None
    measured_at = datetime.fromisoformat(vector_set.recall_check["measured_at"])
    drift = VectorIndex(tables, vector_set).drift(measured_at)
    changed = drift.share(vector_set.recall_check["rows"])
    return changed > _MEASURE_AGAIN or drift.at - measured_at > _MEASURE_DAILY


def measure(tables: EntityTables, vector_set: VectorSet) -> None:
    """Measure the index of a set, without a filter and with filters of some shares, and store the
    result.

    Each share has the lowest effort whose recall reaches the declared target, or else the highest.
    An HNSW index of at most 1,000 chunks has the highest.
    """
    kind = (vector_set.index_settings or {"type": "none"})["type"]
    is_small = kind == "hnsw" and (vector_set.index_rows or 0) <= MAX_EF_SEARCH
    levels: list[Level] = []
    for chosen in sampled_filters(tables, vector_set):
        # all of a small set are read in a millisecond; with a lower effort, some queries missed
        # their nearest row
        efforts = (MAX_EF_SEARCH,) if is_small else _EFFORTS[kind]
        if levels and chosen.column is None:
            # no search has such a filter: it shows what the effort without a filter finds
            efforts = (levels[0].effort,)
        levels.append(_measure(tables, vector_set, chosen, kind, efforts))
    _record(tables, vector_set, levels)


def _measure(
    tables: EntityTables,
    vector_set: VectorSet,
    chosen: SampledFilter,
    kind: str,
    efforts: Sequence[int | None],
) -> Level:
    target = tables.source.entity.index.recall
    rows = vector_set.index_rows or 0
    exact = search(tables, vector_set, chosen, {"enable_indexscan": "off"})
    compared = _level(rows, chosen, None, exact, exact)
    level = compared
    for effort in efforts:
        if effort is not None:
            found = search(tables, vector_set, chosen, _through_index(kind, effort))
            level = _level(rows, chosen, effort, found, exact)
        if level.recall_at_10 >= target:
            break
    # a filter whose rows are compared as fast as they are found needs no index
    return compared if chosen.column and level.p50_ms >= level.exact_p50_ms else level


def _record(tables: EntityTables, vector_set: VectorSet, levels: Sequence[Level]) -> None:
    tables.execute(
        """
        update {vector_sets} set recall = %s, ef_search = %s, recall_check = jsonb_build_object(
            'measured_at', clock_timestamp(), 'rows', (select count(*) from {vectors}),
            'levels', %s::jsonb
        ) where entity = {entity} and number = %s
        """,
        (
            levels[0].recall_at_10,
            levels[0].effort,
            Jsonb([asdict(level) for level in levels]),
            vector_set.number,
        ),
        vectors=tables.table(vector_set.table_name),
    )
    recall = levels[0].recall_at_10
    quality.record(tables, vector_set.number, recall_at_10=recall)


def _through_index(kind: str, effort: int) -> dict[str, str]:
    # the settings of searches, from session.py and dense.py of store/search
    return {
        "enable_seqscan": "off",
        EFFORT_SETTINGS[kind]: str(effort),
        f"{kind}.iterative_scan": "relaxed_order",
    }


def _level(
    rows: int,
    chosen: SampledFilter,
    effort: int | None,
    found: Sequence[Searched],
    exact: Sequence[Searched],
) -> Level:
    answers = exact
    few = better_compared(round(chosen.share * rows), rows, K)
    if chosen.share == 1 or not few:
        # like a search, which continues exactly where the index finds too few rows
        answers = [
            near if len(near.distances) == len(far.distances) else far.after(near.milliseconds)
            for near, far in zip(found, exact, strict=True)
        ]
    hits = [
        (near.distances <= far.distances[-1] + _TIE).mean()
        for near, far in zip(answers, exact, strict=True)
        if len(far.distances)
    ]
    return Level(
        share=chosen.share,
        column=chosen.column,
        effort=effort,
        queries=len(exact),
        recall_at_10=float(np.mean(hits)) if hits else 1.0,
        **_quantiles(answers),
        exact_p50_ms=_quantiles(exact)["p50_ms"],
    )


def _quantiles(searched: Sequence[Searched]) -> dict[str, float]:
    milliseconds = [one.milliseconds for one in searched]
    p50, p95 = np.quantile(milliseconds or [0.0], (0.5, 0.95))
    return {"p50_ms": round(float(p50), 3), "p95_ms": round(float(p95), 3)}


K = 10

# queries for each filter, limited by the distances of the exact searches, about ten seconds
_MIN_QUERIES, _MAX_QUERIES, _DISTANCES = 10, 100, 20_000_000

_SIZES: dict[str, sql.Composable] = {
    "most": sql.Literal(_MAX_QUERIES),
    "least": sql.Literal(_MIN_QUERIES),
    "distances": sql.Literal(_DISTANCES),
    "k": sql.Literal(K),
}


@dataclass(frozen=True)
class Searched:
    """The distances of at most ten nearest vectors, ascending, and the time in the database,
    without planning and network."""

    distances: np.ndarray[tuple[int], np.dtype[np.float64]]
    milliseconds: float

    def after(self, milliseconds: float) -> Searched:
        """The same result, with the time of a search before it added."""
        return Searched(self.distances, self.milliseconds + milliseconds)


def search(
    tables: EntityTables,
    vector_set: VectorSet,
    chosen: SampledFilter,
    planner: dict[str, str],
) -> list[Searched]:
    """The nearest vectors to the mean of each two of a fixed sample of stored vectors.

    A query of a few words lies farther from the rows than they lie from one another, and an index
    finds fewer of its neighbours. Such means are found about as rarely; of the neighbours of stored
    vectors an effort finds 0.998 that finds 0.96 of those of queries (docs/performance.md).
    """
    with tables.connection.transaction():
        tables.connection.execute(
            "select set_config(name, value, true) from unnest(%s::text[], %s::text[]) s (name,"
            " value)",
            (list(planner), list(planner.values())),
        )
        return _searched(tables, vector_set, chosen)


def _searched(tables: EntityTables, vector_set: VectorSet, chosen: SampledFilter) -> list[Searched]:
    rows = tables.execute(
        """
        with queries as materialized (
            -- hashes have no order of meaning; the last vector has no other
            select avg(v.embedding) over (
                order by v.text_hash, {id}, chunk rows between current row and 1 following
            ) as embedding
            from (
                {sampled} limit (
                    select least({most}, greatest({least}, {distances} / (count(*) + 1)))
                    from {vectors}
                )
            ) as t join {vectors} v using ({id}, chunk)
        )
        select array(
            select distance from (
                select v.embedding {operator} q.embedding as distance from {vectors} v
                where {where} order by v.embedding {operator} q.embedding limit {k}
            -- the cosine of a zero vector is undefined
            ) as near where distance < 'infinity' order by distance
        ), extract(epoch from clock_timestamp() - began) * 1000
        from (select embedding, clock_timestamp() as began from queries offset 0) as q
        """,
        chosen.values,
        sampled=tables.fill(SAMPLED),
        vectors=tables.table(vector_set.table_name),
        operator=sql.SQL(OPERATORS[vector_set.metric]),
        where=chosen.condition,
        **_SIZES,
    ).fetchall()
    return [Searched(np.array(near, dtype=np.float64), float(ms)) for near, ms in rows]


SHARES = (1.0, 0.1, 0.01)
# a value represents a share if its own share is within a factor of three
_NEAR_SHARE = math.log(3)


@dataclass(frozen=True)
class SampledFilter:
    """A condition on a table `v` that about this share of the rows meets, and its parameters.
    `column` is its filter column; None where it is not on a filter column."""

    share: float
    column: str | None
    condition: sql.Composable
    values: Mapping[str, Any]


def sampled_filters(tables: EntityTables, vector_set: VectorSet) -> list[SampledFilter]:
    """A filter for each of SHARES; the first passes every row.

    Uses a value of a filter column that is about as frequent as the share. Such a filter is
    realistic: searches use it, it has an index, and its values correlate with the vectors. Without
    such a value it uses a hash of the id. No index helps with the hash, which makes it the hardest
    case for a vector index.
    """
    frequencies = _frequencies(tables, vector_set)
    return [
        SampledFilter(1.0, None, sql.SQL("true"), {}),
        *(
            _nearest(tables.names, share, frequencies) or _by_hash(tables.names, share)
            for share in SHARES[1:]
        ),
    ]


@dataclass(frozen=True)
class _Value:
    column: str
    kind: str
    value: str
    share: float


def _frequencies(tables: EntityTables, vector_set: VectorSet) -> list[_Value]:
    """Frequent values of the filter columns, from the planner's statistics."""
    types = columns_of(tables.connection, tables.schema, vector_set.table_name)
    rows = tables.connection.execute(
        """
        select attname, value, share from pg_stats cross join lateral (
            select value, share, false
            from unnest(most_common_vals::text::text[], most_common_freqs) as v (value, share)
            union all
            -- after the frequencies of the elements come three of other meanings
            select value, share, true
            from unnest(most_common_elems::text::text[], most_common_elem_freqs) as v (value, share)
            where value is not null
        ) as common (value, share, of_elements)
        where schemaname = %s and tablename = %s and attname = any(%s)
            -- filters on lists ask for elements
            and of_elements = (attname = any(%s))
        """,
        (
            *(tables.schema, vector_set.table_name, list(tables.source.entity.filters)),
            [column for column, kind in tables.source.filters.items() if kind.endswith("[]")],
        ),
    )
    return [_Value(column, types[column], value, share) for column, value, share in rows]


def _nearest(names: TableNames, share: float, values: list[_Value]) -> SampledFilter | None:
    def distance(value: _Value) -> float:
        return abs(math.log(value.share / share))

    best = min(values, key=distance, default=None)
    if best is None or distance(best) > _NEAR_SHARE:
        return None
    parsed = filters.parse({best.column: best.value}, {best.column: best.kind})
    condition = filters.where(parsed.predicates)
    return SampledFilter(best.share, best.column, condition, parsed.parameters())


def _by_hash(names: TableNames, share: float) -> SampledFilter:
    clause = names.fill(
        "mod(hashtext(v.{id}::text), {buckets}) = 0", buckets=Literal(round(1 / share))
    )
    return SampledFilter(share, None, clause, {})
