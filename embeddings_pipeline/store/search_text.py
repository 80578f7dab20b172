"""The chunks whose texts have a query's lexemes, ranked by BM25, as part of a search statement."""

from __future__ import annotations

from psycopg import Connection, sql
from psycopg.sql import Literal, Placeholder

from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.store import bm25, terms
from embeddings_pipeline.store.bm25 import Words
from embeddings_pipeline.store.postgres import Row
from embeddings_pipeline.store.published import Published

# of a long query, the words that tell most
_MAX_WORDS = 64
# a lexeme that is not among the frequent ones is counted, but not without end
_MAX_COUNT = 1000
# texts that are read to learn what score it takes to be among the best, at the least
LOOK = 500
# settings of the session: the planner does not know what it costs to read the lexemes of a text
SESSION = {"enable_seqscan": "off"}

# ts_rank of one lexeme is the sum of 1/i^2 over its places, divided by the sum over all i, which
# is pi^2/6; what is left out after the f-th is 1/(f + 1/2), near enough to be rounded
_FREQUENCY = sql.SQL(
    "round(1 / (pi() ^ 2 / 6 * (1 - ts_rank('{{1, 1, 1, 1}}', t.lexemes, {}))) - 0.5)"
)


def words(connection: Connection[Row], published: Published, query: str) -> Words:
    """The words of a query, the rarest first; those that the language passes over are left out.

    Raises ConfigurationError where the texts were not counted yet.
    """
    entity = published.on.source.entity
    if published.documents is None:
        raise ConfigurationError(
            f"entity {entity.name!r} has no index of its texts yet: run `embeddings-pipeline run"
            f" {entity.name}`"
        )
    found = connection.execute(
        published.on.fill(
            """
            select word, coalesce(l.documents, (
                select count(*) from (
                    select from {texts} where lexemes @@ word::tsquery limit {most}
                ) as found
            )) as documents
            from unnest(tsvector_to_array({said})) as lexeme
            cross join lateral (
                select '''' || replace(replace(lexeme, '\\', '\\\\'), '''', '''''') || '''' as word
            ) as quoted
            left join {lexemes} l using (lexeme)
            order by documents, word limit {words}
            """,
            said=terms.said(entity, Placeholder("query")),
            most=Literal(_MAX_COUNT),
            words=Literal(_MAX_WORDS),
        ),
        {"query": query},
    ).fetchall()
    total = published.documents
    return Words(
        [word for word, _ in found],
        [n for _, n in found],
        [bm25.idf(total, n) for _, n in found],
        total,
    )


def matching(
    published: Published,
    where: sql.Composable,
    words: int,
    chunks: int,
    *,
    of: int | None = None,
) -> sql.Composable:
    """(id, chunk, score) of the best chunks for the parameters of so many `Words`; with `of`, the
    best of so many that match, whichever come first."""
    return published.on.fill(
        """
        select {id}, chunk, {score} as score from (
            select {id}, chunk, {k1} * (1 - {b} + {b} * tokens / {average}) as length,
                -- a copy in memory, for all the words; the offset keeps it one
                setweight(lexemes, 'D') as lexemes
            from {texts} join {vectors} v using ({id}, chunk)
            where lexemes @@ %(match)s::tsquery and {where} limit {of} offset 0
        ) as t
        order by score desc limit {chunks}
        """,
        score=sql.SQL(" + ").join([sql.SQL("0::float8"), *map(_score, range(words))]),
        k1=Literal(bm25.K1),
        b=Literal(bm25.B),
        average=Literal(published.average_tokens),
        vectors=published.on.table(published.vector_set.table_name),
        where=where,
        of=Literal(of),
        chunks=Literal(chunks),
    )


def _score(word: int) -> sql.Composable:
    # f / (f + l) for a frequency f and a length l
    return sql.SQL("{idf}::float8 * (1 - t.length / ({frequency} + t.length))").format(
        idf=Placeholder(f"idf_{word}"),
        frequency=_FREQUENCY.format(sql.SQL("{}::tsquery").format(Placeholder(f"word_{word}"))),
    )


def floor(published: Published, where: sql.Composable, words: int, chunks: int) -> sql.Composed:
    """A statement: a score that so many chunks reach at the least, for the parameters of
    `matching`; null where that few match."""
    return sql.SQL(
        # parallel workers, which a statement of this kind does without, take long to start
        "with found as materialized ({found})"
        " select case when count(*) = {chunks} then min(score) end from found"
    ).format(
        found=matching(published, where, words, chunks, of=max(LOOK, 10 * chunks)),
        chunks=Literal(chunks),
    )
