"""Which values the filter columns have, where these are few."""

from __future__ import annotations

from typing import Any

from psycopg import Connection, ProgrammingError, sql
from psycopg.errors import QueryCanceled
from psycopg.sql import Identifier

from embeddings_pipeline.store.postgres import Row
from embeddings_pipeline.store.published import Published


def facets(
    connection: Connection[Row], published: Published, column: str, most: int
) -> list[tuple[Any, int]] | None:
    """Values of a filter column as JSON has them, the most frequent first, and their numbers.

    None where there are more than `most`, where they cannot be compared, or where it takes long
    to count them.
    """
    try:
        rows = connection.execute(
            published.on.fill(
                "select to_jsonb({column}), count(*) from {vectors} where chunk = 0"
                " group by {column} order by 2 desc, {column} limit {limit}",
                column=Identifier(column),
                vectors=published.on.table(published.vector_set.table_name),
                limit=sql.Literal(most + 1),
            )
        ).fetchall()
    except (ProgrammingError, QueryCanceled):
        return None
    return rows if len(rows) <= most else None
