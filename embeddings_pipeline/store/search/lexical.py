"""The chunks whose texts have a query's lexemes, ranked by BM25, as part of a search statement.

BM25: what the words of a query can add to a text's score, and so which texts can reach one.

A word that a text has adds `idf * f / (f + length)` for its frequency f. That is below idf, and
farther below where f is small: a text that lacks words, or says them once, cannot reach a score
that others have, and need not be read. It is the idea of WAND (Broder et al., CIKM 2003), put as a
tsquery, so that the index leaves such texts out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

from psycopg import Connection, sql
from psycopg.sql import Literal, Placeholder

from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.store.connection import Row
from embeddings_pipeline.store.search.published import Published
from embeddings_pipeline.store.texts import lexemes
from embeddings_pipeline.store.texts.lexemes import OFTEN

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
    entity = published.names.source.entity
    if published.documents is None:
        raise ConfigurationError(
            f"entity {entity.name!r} has no index of its texts yet: run `embeddings-pipeline run"
            f" {entity.name}`"
        )
    found = connection.execute(
        published.names.fill(
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
            said=lexemes.tsvector(entity, Placeholder("query")),
            most=Literal(_MAX_COUNT),
            words=Literal(_MAX_WORDS),
        ),
        {"query": query},
    ).fetchall()
    total = published.documents
    return Words(
        [word for word, _ in found],
        [n for _, n in found],
        [idf(total, n) for _, n in found],
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
    return published.names.fill(
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
        k1=Literal(K1),
        b=Literal(B),
        average=Literal(published.average_tokens),
        vectors=published.names.table(published.vector_set.table_name),
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


# Anserini's defaults (Lin et al., Pyserini, SIGIR 2021); BM25 itself is Robertson and Zaragoza's
# (The Probabilistic Relevance Framework, 2009), with the idf of Lucene, which is never negative
K1, B = 0.9, 0.4
# that of a text of no length, the least there is
_LENGTH = K1 * (1 - B)

# more words make a tsquery that takes longer than it saves: of the others all are taken as said
_WEIGHED = 7
# how often a word is said is told apart where there are few: about 250 combinations at the most
_TOLD_APART = {1: OFTEN, 2: OFTEN, 3: OFTEN, 4: OFTEN[::2], 5: OFTEN[:1]}
# of the texts that say a word n times, those that say it once more. A rough guess is enough, by
# which it is only chosen where to look first
_AGAIN = 0.4

# sums of floats in Postgres and here differ in their last digits
_NEARLY = 1 - 1e-9


class _Step(NamedTuple):
    """A word said this many times, but fewer than at the next step: it adds at most this share of
    its idf, in about this share of the texts that say it."""

    times: int
    most: float
    share: float


def idf(total: int, documents: int) -> float:
    """The inverse document frequency of a word that so many of all texts say."""
    return math.log(1 + (max(total - documents, 0) + 0.5) / (documents + 0.5))


@dataclass(frozen=True)
class Words:
    """Lexemes of a query as tsquery has them, the rarest first, each with the number of texts that
    say it and its idf; and the number of all texts."""

    words: Sequence[str]
    documents: Sequence[int]
    idf: Sequence[float]
    total: int

    def values(self, match: str) -> dict[str, Any]:
        """The parameters of a search among the texts that this tsquery finds."""
        return {
            "match": match,
            **{f"word_{n}": word for n, word in enumerate(self.words)},
            **{f"idf_{n}": weight for n, weight in enumerate(self.idf)},
        }

    def reaching(self, score: float) -> str:
        """A tsquery for every text that may reach the score, 0 for each with one of the words."""
        count = min(len(self.words), _WEIGHED)
        need = score * _NEARLY - sum(self.idf[count:])
        if need <= 0:
            return " | ".join(self.words)
        return _reaching(self.words[:count], self.idf[:count], need, _steps(count)) or ""

    def likely(self, texts: float) -> str:
        """A tsquery for those that may reach the highest score which so many texts, roughly, do."""
        count = min(len(self.words), _WEIGHED)
        sums = [(0.0, 1.0)]
        for weight, documents in zip(self.idf[:count], self.documents, strict=False):
            said = min(documents / max(self.total, 1), 1.0)
            levels = [(s.most * weight, s.share * said) for s in _steps(count)]
            sums = [
                (score + more, chance * by)
                for score, chance in sums
                for more, by in ((0.0, 1 - said), *levels)
            ]
        sums.sort(reverse=True)
        reached = accumulate(chance * self.total for _, chance in sums)
        score = next((s for (s, _), n in zip(sums, reached, strict=True) if n >= texts), 0.0)
        return self.reaching(score + sum(self.idf[count:]) if score else 0)


def _steps(words: int) -> list[_Step]:
    times = (1, *_TOLD_APART.get(words, ()))
    shares = [_AGAIN ** (n - 1) for n in times]
    return [
        _Step(n, (after - 1) / (after - 1 + _LENGTH), share - less)
        for (n, after), (share, less) in zip(pairwise(times), pairwise(shares), strict=True)
    ] + [_Step(times[-1], 1, shares[-1])]


def _reaching(
    words: Sequence[str], idf: Sequence[float], need: float, steps: Sequence[_Step]
) -> str | None:
    """The tsquery of `reaching`; "" where every text may, None where none may."""
    if need <= 0:
        return ""
    if sum(idf) < need:
        return None
    with_less = _reaching(words[1:], idf[1:], need, steps)
    found = [with_less] if with_less else []
    for step in steps:
        others = _reaching(words[1:], idf[1:], need - step.most * idf[0], steps)
        # who says it more often says it at least so often, too
        if others is not None and others != with_less:
            word = words[0] if step.times == 1 else f"{words[0][:-1]} {step.times}'"
            found.append(f"{word} & ({others})" if others else word)
        with_less = others
    return " | ".join(found)
