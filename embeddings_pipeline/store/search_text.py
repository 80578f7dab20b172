"""The chunks whose texts have a query's lexemes, ranked by BM25, as part of a search statement."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import Connection, sql
from psycopg.sql import Literal

from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.store.postgres import Row
from embeddings_pipeline.store.published import Published

# Anserini's defaults (Lin et al., Pyserini, SIGIR 2021); BM25 itself is Robertson and Zaragoza's
# (The Probabilistic Relevance Framework, 2009), with the idf of Lucene, which is never negative
_K1, _B = 0.9, 0.4

# of a long query, the words that tell most
_MAX_WORDS = 64
# a lexeme that is not among the frequent ones is counted, but not without end
_MAX_COUNT = 1000

# ts_rank of one lexeme is the sum of 1/i^2 over its places, divided by the sum over all i, which
# is pi^2/6; what is left out after the f-th is 1/(f + 1/2), near enough to be rounded
_FREQUENCY = sql.SQL(
    "round(1 / (pi() ^ 2 / 6 * (1 - ts_rank('{1, 1, 1, 1}', t.terms, w.word))) - 0.5)"
)


@dataclass(frozen=True)
class Words:
    """Lexemes of a query as tsquery has them, each with its inverse document frequency."""

    words: Sequence[str]
    idf: Sequence[float]

    def values(self) -> dict[str, Any]:
        """The parameters of `matching`."""
        return {"any": " | ".join(self.words), "words": [*self.words], "idf": [*self.idf]}


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
                    select from {texts} where terms @@ word::tsquery limit {most}
                ) as found
            )) as documents
            from unnest(tsvector_to_array(to_tsvector({language}::regconfig, %(query)s))) as lexeme
            cross join lateral (
                select '''' || replace(replace(lexeme, '\\', '\\\\'), '''', '''''') || '''' as word
            ) as quoted
            left join {lexemes} l using (lexeme)
            order by documents, word limit {words}
            """,
            language=Literal(f"pg_catalog.{entity.language}"),
            most=Literal(_MAX_COUNT),
            words=Literal(_MAX_WORDS),
        ),
        {"query": query},
    ).fetchall()
    total = published.documents
    return Words(
        [word for word, _ in found],
        [math.log(1 + (max(total - n, 0) + 0.5) / (n + 0.5)) for _, n in found],
    )


def matching(published: Published, where: sql.Composable, chunks: int) -> sql.Composable:
    """(id, chunk, score) of the best chunks for the parameters of `Words.values`."""
    return published.on.fill(
        """
        select v.{id}, v.chunk, s.score from (
            select t.{id}, t.chunk, (
                -- f / (f + l) for a frequency f and a length l
                select sum(w.idf * (1 - t.length / ({frequency} + t.length)))
                from unnest(%(words)s::tsquery[], %(idf)s::float8[]) as w (word, idf)
            ) as score
            from (
                select {id}, chunk, {k1} * (1 - {b} + {b} * tokens / {average}) as length,
                    -- a copy in memory, for all the words; the offset keeps it one
                    setweight(terms, 'D') as terms
                from {texts} where terms @@ %(any)s::tsquery offset 0
            ) as t
        ) as s
        join {vectors} v using ({id}, chunk)
        where {where} order by s.score desc limit {chunks}
        """,
        frequency=_FREQUENCY,
        k1=Literal(_K1),
        b=Literal(_B),
        average=Literal(published.average_tokens),
        vectors=published.on.table(published.vector_set.table_name),
        where=where,
        chunks=Literal(chunks),
    )
