"""Chunks whose texts have a query's lexemes, ranked by BM25, as part of a search statement.

A word adds `idf * f / (f + length)` to the score of a text in which its frequency is f. The term is
always below idf, and the smaller f, the smaller the term. So a text that lacks words, or has them
only once, cannot reach the score of the best texts and need not be read. This is the idea of WAND
(Broder et al., CIKM 2003), written as a tsquery, so that the index excludes such texts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, Self

from psycopg import sql
from psycopg.sql import Literal, Placeholder

from embeddings_pipeline.store.search.published import Published
from embeddings_pipeline.store.texts import lexemes
from embeddings_pipeline.store.texts.lexemes import OFTEN

# a longer query is cut to its rarest words
_MAX_WORDS = 64
# the count of an infrequent lexeme stops here
_MAX_COUNT = 1000
# texts read at least to estimate the score of the best
MIN_SAMPLE = 500
# session settings: the planner underestimates the cost of reading the lexemes of a text
SESSION = {"enable_seqscan": "off"}

# ts_rank of one lexeme is the sum of 1/i^2 over its f positions, divided by the sum over all i,
# pi^2/6; the rest of the sum after f is close enough to 1/(f + 1/2) to be rounded
_FREQUENCY = sql.SQL(
    "round(1 / (pi() ^ 2 / 6 * (1 - ts_rank('{{1, 1, 1, 1}}', t.lexemes, {}))) - 0.5)"
)


def lookup(published: Published) -> sql.Composed:
    """A statement that returns (lexeme quoted for tsquery, number of texts with it) for the
    parameter `query`: its rarest words first, without the stop words of the language."""
    return published.names.fill(
        """
        select word, coalesce(l.documents, (
            select count(*) from (
                select from {texts} where lexemes @@ word::tsquery limit {most}
            ) as found
        )) as documents
        from unnest(tsvector_to_array({tsvector})) as lexeme
        cross join lateral (
            select {quoted} as word
        ) as quoted
        left join {lexemes} l using (lexeme)
        order by documents, word limit {words}
        """,
        tsvector=lexemes.tsvector(published.names.source.entity, Placeholder("query")),
        quoted=sql.SQL(lexemes.QUOTED),
        most=Literal(_MAX_COUNT),
        words=Literal(_MAX_WORDS),
    )


def matching(
    published: Published,
    where: sql.Composable,
    words: int,
    chunks: int,
    *,
    of: int | None = None,
) -> sql.Composable:
    """(id, chunk, score) of the best chunks, for the parameters of a number of `Words`. With `of`,
    only the first `of` matches are ranked."""
    return published.names.fill(
        """
        select {id}, chunk, {score} as score from (
            select {id}, chunk, {k1} * (1 - {b} + {b} * tokens / {average}) as length,
                -- a copy in memory for all words; the offset keeps the planner from inlining it
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
        vectors=published.vectors,
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
    """A statement that returns a score which at least `chunks` chunks reach, for the parameters of
    `matching`; null where fewer chunks match."""
    return sql.SQL(
        # a materialized statement uses no parallel workers, which take long to start
        "with found as materialized ({found})"
        " select case when count(*) = {chunks} then min(score) end from found"
    ).format(
        found=matching(published, where, words, chunks, of=max(MIN_SAMPLE, 10 * chunks)),
        chunks=Literal(chunks),
    )


# Anserini's defaults (Lin et al., Pyserini, SIGIR 2021); BM25 itself is Robertson and Zaragoza's
# (The Probabilistic Relevance Framework, 2009), with the idf of Lucene, which is never negative
K1, B = 0.9, 0.4
# the length term of an empty text, the smallest possible
_LENGTH = K1 * (1 - B)

# a tsquery of more words takes longer than it saves; other words are assumed to occur
_MAX_WEIGHTED_WORDS = 7
# frequencies distinguished for a number of words: at most about 250 combinations
_REPEATS = {1: OFTEN, 2: OFTEN, 3: OFTEN, 4: OFTEN[::2], 5: OFTEN[:1]}
# the estimated share of texts with n occurrences of a word that have another one. A rough estimate
# is enough, because it only decides which texts are read first
_REPEAT_SHARE = 0.4

# sums of floats in Postgres and in Python differ in their last digits
_ROUNDING = 1 - 1e-9


class _Step(NamedTuple):
    """A word that occurs at least `times` times, but less often than at the next step. It adds at
    most `most` of its idf, in about `share` of the texts with the word."""

    times: int
    most: float
    share: float


def idf(total: int, documents: int) -> float:
    """The inverse document frequency of a word that occurs in `documents` of `total` texts."""
    return math.log(1 + (max(total - documents, 0) + 0.5) / (documents + 0.5))


@dataclass(frozen=True)
class Words:
    """Lexemes of a query, quoted for tsquery, the rarest first, each with its number of texts and
    its idf; and the number of all texts."""

    words: Sequence[str]
    documents: Sequence[int]
    idf: Sequence[float]
    total: int

    @classmethod
    def of(cls, rows: Sequence[tuple[str, int]], total: int) -> Self:
        """The words of `lookup`, among `total` texts."""
        words, documents = [word for word, _ in rows], [count for _, count in rows]
        return cls(words, documents, [idf(total, count) for count in documents], total)

    @property
    def texts(self) -> dict[str, int]:
        """Each lexeme, without quotes, with its number of texts."""
        plain = [word[1:-1].replace("''", "'").replace("\\\\", "\\") for word in self.words]
        return dict(zip(plain, self.documents, strict=True))

    def values(self, match: str) -> dict[str, Any]:
        """The parameters of a search among the texts that match this tsquery."""
        return {
            "match": match,
            **{f"word_{n}": word for n, word in enumerate(self.words)},
            **{f"idf_{n}": weight for n, weight in enumerate(self.idf)},
        }

    def reaching(self, score: float) -> str:
        """A tsquery of all texts that may reach the score; 0 stands for all texts with a word."""
        count = min(len(self.words), _MAX_WEIGHTED_WORDS)
        need = score * _ROUNDING - sum(self.idf[count:])
        if need <= 0:
            return " | ".join(self.words)
        return _reaching(self.words[:count], self.idf[:count], need, _steps(count)) or ""

    def likely(self, texts: float) -> str:
        """A tsquery of the texts that may reach the score of roughly the best `texts` texts."""
        count = min(len(self.words), _MAX_WEIGHTED_WORDS)
        sums = [(0.0, 1.0)]
        for weight, documents in zip(self.idf[:count], self.documents, strict=False):
            frequency = min(documents / max(self.total, 1), 1.0)
            levels = [(s.most * weight, s.share * frequency) for s in _steps(count)]
            sums = [
                (score + more, chance * by)
                for score, chance in sums
                for more, by in ((0.0, 1 - frequency), *levels)
            ]
        sums.sort(reverse=True)
        reached = accumulate(chance * self.total for _, chance in sums)
        score = next((s for (s, _), n in zip(sums, reached, strict=True) if n >= texts), 0.0)
        return self.reaching(score + sum(self.idf[count:]) if score else 0)


def _steps(words: int) -> list[_Step]:
    times = (1, *_REPEATS.get(words, ()))
    shares = [_REPEAT_SHARE ** (n - 1) for n in times]
    return [
        _Step(n, (after - 1) / (after - 1 + _LENGTH), share - less)
        for (n, after), (share, less) in zip(pairwise(times), pairwise(shares), strict=True)
    ] + [_Step(times[-1], 1, shares[-1])]


def _reaching(
    words: Sequence[str], idf: Sequence[float], need: float, steps: Sequence[_Step]
) -> str | None:
    """The tsquery of `reaching`; "" where every text may reach the score, None where none may."""
    if need <= 0:
        return ""
    if sum(idf) < need:
        return None
    alternatives = _reaching(words[1:], idf[1:], need, steps)
    found = [alternatives] if alternatives else []
    for step in steps:
        others = _reaching(words[1:], idf[1:], need - step.most * idf[0], steps)
        # a text with more occurrences also matches the steps below
        if others is not None and others != alternatives:
            word = words[0] if step.times == 1 else f"{words[0][:-1]} {step.times}'"
            found.append(f"{word} & ({others})" if others else word)
        alternatives = others
    return " | ".join(found)
