"""Carries what `incoming_texts` says of rows over to their vectors, where no encoder is needed."""

from __future__ import annotations

from psycopg import Connection, sql
from psycopg.sql import Identifier

from embeddings_pipeline.store.postgres import Row
from embeddings_pipeline.store.statements import Statements


def trim(connection: Connection[Row], on: Statements, table: str, *, keep: bool) -> None:
    """Remove the vectors of chunks that the rows have no more, or `keep` them in `trimmed`."""
    trimming = on.fill(
        """
        delete from {vectors} v using (
            select {id}, max(chunk) filter (where text_hash is not null) as chunk
            from incoming_texts group by {id}
        ) as i
        where v.{id} = i.{id} and v.chunk > coalesce(i.chunk, -1)
        """,
        vectors=on.table(table),
    )
    if keep:
        trimming = on.fill(
            """
            with gone as ({trimming} returning v.*)
            insert into pg_temp.trimmed
            select {table}, text_hash, embedding, {entity} || '/' || {id} || '/' || chunk from gone
            where not exists (
                select from {erasures} e where e.entity = {entity} and e.id = gone.{id}::text
            ) and not exists (
                -- a forced run that is not finished has yet to make it anew
                select from {vector_sets} s where s.table_name = {table}
                    and s.force_since is not null
                    and (embedded_at < s.force_since or reused_from is not null)
            )
            """,
            trimming=trimming,
            table=sql.Literal(table),
        )
    connection.execute(trimming)


def update_filters(connection: Connection[Row], on: Statements, table: str) -> None:
    """Give the vectors the filter columns of their rows."""
    filters = on.source.filters
    connection.execute(
        on.fill(
            """
            update {vectors} v set ({names}) = row({values})
            from incoming_texts i
            where v.{id} = i.{id} and v.chunk = i.chunk
                and row({current}) is distinct from row({values})
            """,
            vectors=on.table(table),
            names=sql.SQL(", ").join(Identifier(c) for c in filters),
            values=sql.SQL(", ").join(Identifier("i", c) for c in filters),
            current=sql.SQL(", ").join(Identifier("v", c) for c in filters),
        )
    )
