"""The texts that a set lacks and no vector is at hand for: chosen once, summed up and sampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from psycopg import Connection, sql
from psycopg.sql import Identifier

from embeddings_pipeline.store.postgres import Row
from embeddings_pipeline.store.statements import Statements
from embeddings_pipeline.store.vector_sets import Origin


@dataclass(frozen=True)
class Terms:
    """On what terms a set is filled.

    A text costs no more than `max_tokens`, which is what the model reads of it, or of each of its
    parts. Rows of the partitions `first` come before the others. Past the `limit` goes no row but
    the first of a run that has not `begun` to encode. Forced, vectors that were not written since
    `renew` are encoded again. Where texts are `remembered`, a part that a window before had costs
    nothing in the next.
    """

    max_tokens: int
    origins: Sequence[Origin] = ()
    first: Sequence[str] = ()
    limit: int | None = None
    begun: bool = False
    renew: datetime | None = None
    remembered: bool = False


class Sampled(NamedTuple):
    """What a model is given for a text: that itself or its weighted parts, with their tokens."""

    texts: list[str]
    tokens: list[int]


def choose(connection: Connection[Row], on: Statements, table: str, terms: Terms) -> None:
    """Fill the temporary table `to_encode` from one of (id, chunk, text_hash, tokens, n,
    in_window): equal texts once. `within` are those of whole rows that the limit has room for, or
    of the first row."""
    connection.execute("drop table if exists to_encode")
    known = [
        on.fill(
            "exists (select from {table} o where o.text_hash = l.text_hash)", table=origin.table
        )
        for origin in terms.origins
    ]
    connection.execute(
        sql.SQL(
            """
            create temporary table to_encode as
            with firsts as (
                select distinct on (text_hash) * from {lacking}
                where n is not null order by text_hash, n, chunk
            )
            select *,
                coalesce(
                    count(*) over (order by n) <= {limit} or {takes_first} and n = min(n) over (),
                    true
                ) as within
            from firsts l where not ({at_hand})
            """
        ).format(
            lacking=Identifier("pg_temp", table),
            at_hand=sql.SQL(" or ").join(known) if known else sql.SQL("false"),
            limit=sql.Literal(terms.limit),
            takes_first=sql.Literal(bool(terms.limit) and not terms.begun),
        )
    )


def sampled_ids(connection: Connection[Row], most: int) -> dict[bytes, str]:
    """The hashes of so many texts `within`, at random and always the same, and a row of each."""
    rows = connection.execute(
        "select text_hash, id::text from to_encode where within order by text_hash limit %s",
        (most,),
    )
    return dict(rows.fetchall())


def sampled(connection: Connection[Row], on: Statements, most: int) -> list[Sampled]:
    """So many of the texts `within`, at random and always the same, as they are stored."""
    rows = connection.execute(
        on.fill(
            """
            select coalesce(t.parts, array[t.text]), coalesce(t.part_tokens, array[t.tokens])
            from (
                select * from to_encode where within order by text_hash limit %s
            ) as e
            join {texts} t on t.{id} = e.id and t.chunk = e.chunk and t.text_hash = e.text_hash
            """
        ),
        (most,),
    )
    return [Sampled(*row) for row in rows]
