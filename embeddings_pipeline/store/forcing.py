"""The mark of a forced run: since when a vector counts as renewed. It outlives a run that was cut
short, so that the next forced one goes on."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from psycopg import Connection, sql

from embeddings_pipeline.store.postgres import Row
from embeddings_pipeline.store.statements import Statements
from embeddings_pipeline.store.vector_sets import Origin, VectorSet, same_model


def begin(
    connection: Connection[Row],
    on: Statements,
    vector_set: VectorSet,
    keys: Sequence[str] | None,
    *,
    anew: bool = False,
) -> datetime:
    """Since when vectors count as renewed: now, or, but for `anew`, since a run of the same
    partitions began that did not finish."""
    row = on.one(
        connection,
        """
        update {vector_sets} set
            force_since = case when force_keys is not distinct from {keys}::text[] and not {anew}
                then coalesce(force_since, clock_timestamp()) else clock_timestamp() end,
            force_keys = {keys}::text[]
        where entity = {entity} and number = {number}
        returning force_since
        """,
        keys=_scope(keys),
        anew=sql.Literal(anew),
        number=sql.Literal(vector_set.number),
    )
    since: datetime = row[0]
    return since


def since(
    connection: Connection[Row], on: Statements, vector_set: VectorSet, keys: Sequence[str] | None
) -> datetime:
    """What `begin` would give."""
    (mark,) = on.one(
        connection,
        "select coalesce(case when force_keys is not distinct from {keys}::text[]"
        " then force_since end, clock_timestamp())"
        " from {vector_sets} where entity = {entity} and number = {number}",
        keys=_scope(keys),
        number=sql.Literal(vector_set.number),
    )
    found: datetime = mark
    return found


def finish(connection: Connection[Row], on: Statements, keys: Sequence[str] | None) -> None:
    """Remove the marks of forced runs of these partitions, in all sets."""
    connection.execute(
        on.fill(
            "update {vector_sets} set force_since = null"
            " where entity = {entity} and force_keys is not distinct from {keys}::text[]",
            keys=_scope(keys),
        )
    )


def lenders(
    connection: Connection[Row], on: Statements, vector_set: VectorSet, since: datetime | None
) -> list[Origin]:
    """What a set may take vectors over from: all sets of its model. While a forced run `since` then
    is not finished, what that has renewed alone: a copy is not told from a vector made anew."""
    if since:
        return [renewed(on, vector_set, since)]
    return same_model(connection, on, vector_set.identity)


def renewed(on: Statements, vector_set: VectorSet, since: datetime) -> Origin:
    """The vectors of the set that were encoded since then."""
    entity = on.source.entity
    vectors = on.fill(
        "(select * from {vectors} where embedded_at >= {since} and reused_from is null)",
        vectors=on.table(vector_set.table_name),
        since=sql.Literal(since),
    )
    return Origin(entity.name, entity.id, vectors)


def _scope(keys: Sequence[str] | None) -> sql.Literal:
    return sql.Literal(None if keys is None else sorted(keys))
