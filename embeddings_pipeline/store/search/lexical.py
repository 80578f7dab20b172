"""Chunks whose texts have a query's lexemes, ranked by BM25, as part of a search statement.

A word adds its idf times its weight in the text, f / (f + length), to the score of a text in which
it occurs f times. The index knows in which texts a word reaches a weight (`lexemes.LEVELS`), so
that its weight in all others is bounded. A text whose bounds do not add up to the score of the best
texts is not read. This is the idea of WAND (Broder et al., CIKM 2003) with impact-ordered postings
(Anh and Moffat, SIGIR 2006), written as a tsquery.

No other module knows how texts are ranked: an index of an extension would have a `lookup`, a
`scored`, a `ranked` and a `best` of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, Self

from psycopg import sql
from psycopg.sql import Literal, Placeholder

from embeddings_pipeline.store.connection import Row
from embeddings_pipeline.store.search import counts
from embeddings_pipeline.store.search.published import Published
from embeddings_pipeline.store.texts import lexemes
from embeddings_pipeline.store.texts.lexemes import K1, LEVELS, REFERENCE_TOKENS, B

# a longer query is cut to its rarest words
_MAX_WORDS = 64
# the count of an infrequent lexeme stops here
_MAX_COUNT = 1000
# Texts that are likely to have the best among them: this many, or this many times as many as are
# wanted. With fewer, a second statement is needed more often; with more, the first reads too many
MIN_LIKELY, _LIKELY = 200, 4
# a statement reads at most this many times as many, since words may occur together more often than
# by chance; where they occur together less often, the next statement takes _GROWTH times as many
_MOST, _GROWTH = 5, 8
# leaving texts out pays where at least this many times as many have one of the words
_MIN_GAIN = 4
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


def scored(
    published: Published,
    where: sql.Composable,
    words: int,
    *,
    of: int | None = None,
    counted: Sequence[str] = (),
) -> sql.Composable:
    """(id, chunk, score, read) of the chunks that match, for the parameters of a number of `Words`,
    and the columns that are `counted`. With `of`, only the first `of` matches are ranked, and
    `read` is their number."""
    return published.names.fill(
        """
        select {id}, chunk, {score} as score, {read} as read {named} from (
            select {id}, chunk, {k1} * (1 - {b} + {b} * tokens / {average}) as length,
                -- a copy in memory for all words; the offset keeps the planner from inlining it
                setweight(lexemes, 'D') as lexemes {counted}
            from {texts} t join {vectors} v using ({id}, chunk)
            where lexemes @@ %(match)s::tsquery and {where} limit {of} offset 0
        ) as t
        """,
        score=sql.SQL(" + ").join([sql.SQL("0::float8"), *map(_score, range(words))]),
        # of all matches, nobody needs the number
        read=sql.SQL("null::bigint" if of is None else "count(*) over ()"),
        named=counts.columns("t", counts.names_of(counted)),
        # else Postgres computes with decimals
        k1=sql.SQL("{}::float8").format(Literal(K1)),
        b=sql.SQL("{}::float8").format(Literal(B)),
        average=sql.SQL("{}::float8").format(Literal(published.average_tokens)),
        counted=counts.columns("t", counted),
        vectors=published.vectors,
        where=where,
        of=Literal(of),
    )


def ranked(published: Published, scored: sql.Composable, chunks: int) -> sql.Composable:
    """The best chunks of `scored`: the query in parentheses, or its name in the statement."""
    return published.names.fill(
        "select {id}, chunk, score, read from {scored} as t"
        " order by score desc, {id}, chunk limit {chunks}",
        scored=scored,
        chunks=Literal(chunks),
    )


def best(
    words: Words, chunks: int, share: float, execute: Callable[[str, int | None], list[Row]]
) -> list[Row]:
    """The rows of a search statement with `ranked`, which is executed for a tsquery and the most
    texts to rank. `share` of the texts pass the filters.

    The first statement reads the texts that may reach a score which the best are likely to reach.
    If enough of them do reach it, they are the best. If enough are found, but some are below, the
    best reach the score of the last, and a second statement reads all texts that may reach that.
    """
    wanted = max(MIN_LIKELY, _LIKELY * chunks)
    texts = wanted / share
    while texts < sum(words.documents) / _MIN_GAIN:
        score = words.likely(texts)
        rows = execute(words.reaching(score), _MOST * wanted)
        _, seen, _, least, read = rows[0][:5]
        if seen[-1] == chunks:
            if least >= score and read < _MOST * wanted:
                return rows
            return execute(words.reaching(least), None)
        texts *= _GROWTH
    return execute(words.reaching(0), None)


def _score(word: int) -> sql.Composable:
    # f / (f + l) for a frequency f and a length l
    return sql.SQL("{idf}::float8 * (1 - t.length / ({frequency} + t.length))").format(
        idf=Placeholder(f"idf_{word}"),
        frequency=_FREQUENCY.format(sql.SQL("{}::tsquery").format(Placeholder(f"word_{word}"))),
    )


# the length term of an empty text, the smallest possible
_LENGTH = K1 * (1 - B)

# a tsquery of more words takes longer than it saves; other words are assumed to occur
_MAX_WEIGHTED_WORDS = 7
# Levels distinguished for a number of words. Each makes the tsquery longer: the index takes about
# half a millisecond for each word of it, among 200,000 texts
_DISTINGUISHED = {1: LEVELS, 2: LEVELS, 3: LEVELS, 4: LEVELS[:3:2], 5: LEVELS[2:3], 6: LEVELS[3:4]}
# The share of the texts with a word in which it reaches each level, in English prose. A rough
# estimate is enough, because it only decides which texts are read first
_SHARES = dict(zip((0.0, *LEVELS), (1, 0.2, 0.15, 0.07, 0.03, 0.007, 0.001), strict=True))

# sums of floats in Postgres and in Python differ in their last digits
_ROUNDING = 1 - 1e-9


class _Step(NamedTuple):
    """A word that reaches a level, but not the next one. Its lexeme ends with `suffix`; it adds at
    most `most` of its idf, in about `share` of the texts with the word."""

    suffix: str
    most: float
    share: float


def idf(total: int, documents: int) -> float:
    """The inverse document frequency of a word that occurs in `documents` of `total` texts."""
    return math.log(1 + (max(total - documents, 0) + 0.5) / (documents + 0.5))


@dataclass(frozen=True)
class Words:
    """Lexemes of a query, quoted for tsquery, the rarest first, each with its number of texts and
    its idf; and the number of all texts, with their average length in tokens."""

    words: Sequence[str]
    documents: Sequence[int]
    idf: Sequence[float]
    total: int
    average_tokens: float

    @classmethod
    def of(cls, rows: Sequence[tuple[str, int]], total: int, average_tokens: float) -> Self:
        """The words of `lookup`, among `total` texts of this average length."""
        words, documents = [word for word, _ in rows], [count for _, count in rows]
        weights = [idf(total, count) for count in documents]
        return cls(words, documents, weights, total, average_tokens)

    @property
    def texts(self) -> dict[str, int]:
        """Each lexeme, without quotes, with its number of texts."""
        plain = [word[1:-1].replace("''", "'").replace("\\\\", "\\") for word in self.words]
        return dict(zip(plain, self.documents, strict=True))

    def values(self, match: str) -> dict[str, Any]:
        """The parameters of a search among the texts that match this tsquery."""
        return {
            "match": match,
            "possible": sum(self.idf),
            **{f"word_{n}": word for n, word in enumerate(self.words)},
            **{f"idf_{n}": weight for n, weight in enumerate(self.idf)},
        }

    def found_in(self, texts: int) -> str | None:
        """The rarest word that at least this many texts have, as a tsquery; None where there is
        none. The index finds them sooner than the texts of all words."""
        counted = zip(self.words, self.documents, strict=True)
        return next((word for word, documents in counted if documents >= texts), None)

    def reaching(self, score: float) -> str:
        """A tsquery of all texts that may reach the score; 0 stands for all texts with a word."""
        count = min(len(self.words), _MAX_WEIGHTED_WORDS)
        need = score * _ROUNDING - sum(self.idf[count:])
        if need <= 0:
            return " | ".join(self.words)
        return _reaching(self.words[:count], self.idf[:count], need, self._steps(count)) or ""

    def likely(self, texts: float) -> float:
        """A score that roughly `texts` texts may reach; 0 where fewer have one of the words."""
        count = min(len(self.words), _MAX_WEIGHTED_WORDS)
        steps = self._steps(count)
        sums = [(0.0, 1.0)]
        for weight, documents in zip(self.idf[:count], self.documents, strict=False):
            frequency = min(documents / max(self.total, 1), 1.0)
            levels = [(s.most * weight, s.share * frequency) for s in steps]
            sums = [
                (score + more, chance * by)
                for score, chance in sums
                for more, by in ((0.0, 1 - frequency), *levels)
            ]
        sums.sort(reverse=True)
        reached = accumulate(chance * self.total for _, chance in sums)
        score = next((s for (s, _), n in zip(sums, reached, strict=True) if n >= texts), 0.0)
        return score + sum(self.idf[count:]) if score else 0

    def _steps(self, words: int) -> list[_Step]:
        levels = _DISTINGUISHED.get(words, ())
        shares = [_SHARES[level] for level in (0.0, *levels)]
        return [
            _Step(f" {level:.0%}"[:-1] if level else "", self._bound(after), share - less)
            for (level, after), (share, less) in zip(
                pairwise((0.0, *levels, 1.0)), pairwise((*shares, 0.0)), strict=True
            )
        ]

    def _bound(self, level: float) -> float:
        """The most that a word weighs in a text in which it does not reach the level.

        With the length of the text as it is for the average of `lexemes`, f (1 - level) / level is
        less than the length. For another average, the part of the length above its minimum is
        that many times as long; the weight is greatest where f is as small, or as large, as can be.
        """
        times = REFERENCE_TOKENS / self.average_tokens
        return max(level, level / (level + times * (1 - level)))


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
        # a text with a greater weight also matches the steps below
        if others is not None and others != alternatives:
            word = f"{words[0][:-1]}{step.suffix}'"
            found.append(f"{word} & ({others})" if others else word)
        alternatives = others
    return " | ".join(found)
