"""Timed searches of a vector set with some of its own vectors, all in one statement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from psycopg import Connection, sql

from embeddings_pipeline.store.indexes import OPERATORS
from embeddings_pipeline.store.postgres import Row
from embeddings_pipeline.store.queries import SAMPLED
from embeddings_pipeline.store.sampled_filters import Sampled
from embeddings_pipeline.store.statements import Statements
from embeddings_pipeline.store.vectors.vector_set import VectorSet

K = 10

# queries for each filter: as many as compute so many distances exactly, about ten seconds' worth
_LEAST, _MOST, _DISTANCES = 10, 100, 20_000_000

_SIZES: dict[str, sql.Composable] = {
    "most": sql.Literal(_MOST),
    "least": sql.Literal(_LEAST),
    "distances": sql.Literal(_DISTANCES),
    "k": sql.Literal(K),
}


@dataclass(frozen=True)
class Searched:
    """The distances of the ten nearest, ascending, or of fewer; and how long the database took,
    without planning and the way to it."""

    distances: np.ndarray[tuple[int], np.dtype[np.float64]]
    milliseconds: float

    def after(self, milliseconds: float) -> Searched:
        """The same after another search that took so long."""
        return Searched(self.distances, self.milliseconds + milliseconds)


def search(
    connection: Connection[Row],
    on: Statements,
    vector_set: VectorSet,
    filters: Sequence[Sampled],
    planner: dict[str, str],
) -> list[list[Searched]]:
    """For each filter, what is nearest to each of a fixed sample of the stored vectors."""
    with connection.transaction():
        connection.execute(
            "select set_config(name, value, true) from unnest(%s::text[], %s::text[]) s (name,"
            " value)",
            (list(planner), list(planner.values())),
        )
        return [_searched(connection, on, vector_set, chosen) for chosen in filters]


def _searched(
    connection: Connection[Row], on: Statements, vector_set: VectorSet, chosen: Sampled
) -> list[Searched]:
    rows = connection.execute(
        on.fill(
            """
            with queries as materialized (
                select embedding from (
                    {sampled} limit (
                        select least({most}, greatest({least}, {distances} / (count(*) + 1)))
                        from {vectors}
                    )
                ) as t join {vectors} v using ({id}, chunk)
                -- the same order with any plan
                order by v.text_hash, {id}, chunk
            )
            select array(
                select distance from (
                    select v.embedding {operator} q.embedding as distance from {vectors} v
                    where {where} order by v.embedding {operator} q.embedding limit {k}
                ) as near order by distance
            ), extract(epoch from clock_timestamp() - began) * 1000
            from (select embedding, clock_timestamp() as began from queries offset 0) as q
            """,
            sampled=on.fill(SAMPLED),
            vectors=on.table(vector_set.table_name),
            operator=sql.SQL(OPERATORS[vector_set.metric]),
            where=chosen.condition,
            **_SIZES,
        ),
        chosen.values,
    ).fetchall()
    return [Searched(np.array(near, dtype=np.float64), float(ms)) for near, ms in rows]
