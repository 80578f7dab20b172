"""Filters that leave about a tenth and a hundredth of a vector set, to measure searches with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from psycopg import Connection, sql
from psycopg.sql import Literal

from embeddings_pipeline.store import search_filters
from embeddings_pipeline.store.postgres import Row, columns_of
from embeddings_pipeline.store.statements import Statements
from embeddings_pipeline.store.vectors.vector_set import VectorSet

SHARES = (1.0, 0.1, 0.01)
# a value stands for a share if its own is within a factor of three
_NEAR = math.log(3)


@dataclass(frozen=True)
class Sampled:
    """A condition on a table `v` that leaves about this share of the rows, and its parameters.
    `column` is the filter column that it is on; None for one that nobody can ask for."""

    share: float
    column: str | None
    condition: sql.Composable
    values: Mapping[str, Any]


def sampled(connection: Connection[Row], on: Statements, vector_set: VectorSet) -> list[Sampled]:
    """One for each of SHARES; the first leaves every row.

    Where a filter column has a value that is about as frequent, it is that: what people search
    with, by the index that the column has, and as like the vectors as its values are. Elsewhere
    it is a hash of the id, of which no index knows: the hardest for the scan of a vector index.
    """
    frequencies = _frequencies(connection, on, vector_set)
    return [
        Sampled(1.0, None, sql.SQL("true"), {}),
        *(_nearest(on, share, frequencies) or _by_hash(on, share) for share in SHARES[1:]),
    ]


@dataclass(frozen=True)
class _Value:
    column: str
    kind: str
    value: str
    share: float


def _frequencies(
    connection: Connection[Row], on: Statements, vector_set: VectorSet
) -> list[_Value]:
    """Frequent values of the filter columns, from the statistics that the planner has."""
    types = columns_of(connection, on.schema, vector_set.table_name)
    rows = connection.execute(
        "select attname, value, share from pg_stats cross join lateral"
        " unnest(most_common_vals::text::text[], most_common_freqs) as common (value, share)"
        " where schemaname = %s and tablename = %s and attname = any(%s)",
        (on.schema, vector_set.table_name, list(on.source.entity.filters)),
    )
    return [_Value(column, types[column], value, share) for column, value, share in rows]


def _nearest(on: Statements, share: float, values: list[_Value]) -> Sampled | None:
    def distance(value: _Value) -> float:
        return abs(math.log(value.share / share))

    best = min(values, key=distance, default=None)
    if best is None or distance(best) > _NEAR:
        return None
    wanted = {best.column: best.value}
    condition = search_filters.clause(search_filters.forms(wanted), {best.column: best.kind})
    return Sampled(best.share, best.column, condition, search_filters.values(wanted))


def _by_hash(on: Statements, share: float) -> Sampled:
    clause = on.fill(
        "mod(hashtext(v.{id}::text), {buckets}) = 0", buckets=Literal(round(1 / share))
    )
    return Sampled(share, None, clause, {})
