"""The words of an entity's texts that are nearest to a word that none of them has.

The index of lexemes finds a lexeme at once but lists none, so the words that are one letter away
are made and looked up, as in Norvig's corrector (https://norvig.com/spell-correct.html). Those
that are two letters away are too many: they are sought in some texts that have a word which begins
alike.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence

from psycopg import sql
from psycopg.sql import Literal

from embeddings_pipeline.store.tables import EntityTables
from embeddings_pipeline.store.texts import lexemes

# letters of a word of which two may be swapped, that may have any one typo, and two; a longer word
# is left as it is. Nearer to one another are too many words that are right
_SWAPPED, _ONE, _TWO, _LONGEST = 4, 5, 8, 24
# first letters that a word shares with the right one, which has one typo (as in Lucene's
# DirectSpellChecker) or two
_SHARED, _SHARED_BY_TWO = 1, 3
# words of a query that are put right
_MAX_WORDS = 3
# texts whose letters are those of the entity, and texts in which words with two typos are sought
_SAMPLE = 200
# characters of each of these texts, and letters: some scripts have thousands
_READ, _MAX_LETTERS = 5_000, 64
# texts that are counted of a word that is not among the frequent ones
_MAX_COUNT = 100

_WORD = re.compile(r"[^\W\d_]+")


def suggestion(tables: EntityTables, query: str, absent: Sequence[str]) -> str | None:
    """The query with the nearest words in place of those that no text has; None where none is near.
    `absent` are the lexemes of the query that no text has."""
    given = dict.fromkeys(word.lower() for word in _WORD.findall(query))
    missing = _missing(tables, [w for w in given if _SWAPPED <= len(w) <= _LONGEST], absent)
    if missing and query.lower().endswith(missing[-1]) and _texts(tables, f"'{missing[-1]}':*", 1):
        # it is still being typed
        missing.pop()
    near = {word: _nearest(tables, word) for word in missing[:_MAX_WORDS]}
    better = _WORD.sub(lambda word: near.get(word[0].lower()) or word[0], query)
    return None if better == query else better


def _missing(tables: EntityTables, given: Sequence[str], absent: Sequence[str]) -> list[str]:
    """Those of the words whose lexemes are all absent."""
    rows = tables.execute(
        """
        select word from unnest(%(words)s::text[]) with ordinality as w (word, place)
        cross join lateral (select {tsvector} as lexemes) as l
        where length(lexemes) > 0 and tsvector_to_array(lexemes) <@ %(absent)s::text[]
        order by place
        """,
        {"words": list(given), "absent": list(absent)},
        tsvector=lexemes.tsvector(tables.source.entity, sql.SQL("word")),
    )
    return [word for (word,) in rows]


def _nearest(tables: EntityTables, word: str) -> str | None:
    """The word of the texts that is nearest to this one: one letter away or, for a long word, two;
    then the one in the most texts. None where none is near."""
    known: dict[str, dict[str, int]] = {}
    for given, lexeme, texts in _known(tables, sorted(set(_one_away(tables, word)))):
        known.setdefault(lexeme, {})[given] = texts
    if known:
        # of the forms of one lexeme, some are no words
        lexeme = max(known, key=lambda one: (max(known[one].values()), one))
        return _most_frequent(_texts(tables, lexeme, _SAMPLE), {*known[lexeme]})
    if len(word) < _TWO:
        return None
    begin = word[:_SHARED_BY_TWO]
    texts_alike = _texts(tables, f"'{begin}':*", _SAMPLE)
    near = {
        found
        for text in texts_alike
        for found in _words(text)
        if found.startswith(begin) and distance(word, found) <= 2
    }
    return _most_frequent(texts_alike, near) if near else None


def _most_frequent(texts: Sequence[str], choices: set[str]) -> str:
    counts = Counter(word for text in texts for word in _words(text) & choices)
    return max(choices, key=lambda word: (counts[word], word))


def _words(text: str) -> set[str]:
    return {word.lower() for word in _WORD.findall(text)}


def _known(tables: EntityTables, given: Sequence[str]) -> list[tuple[str, str, int]]:
    """Those of the words that some text has, each with its lexeme, quoted for tsquery, and the
    number of texts."""
    return tables.execute(
        """
        select given, word, texts from unnest(%(given)s::text[]) as given
        cross join lateral unnest(tsvector_to_array({tsvector})) as lexeme
        cross join lateral (select {quoted} as word) as quoted
        left join {lexemes} f using (lexeme)
        cross join lateral (select coalesce(f.documents, (
            select count(*) from (
                select from {texts} where lexemes @@ word::tsquery limit {most}
            ) as found
        )) as texts) as counted
        where texts > 0
        """,
        {"given": list(given)},
        tsvector=lexemes.tsvector(tables.source.entity, sql.SQL("given")),
        quoted=sql.SQL(lexemes.QUOTED),
        most=Literal(_MAX_COUNT),
    ).fetchall()


def _texts(tables: EntityTables, match: str, most: int) -> list[str]:
    """The beginnings of at most `most` texts that match this tsquery."""
    rows = tables.execute(
        "select left(text, {read}) from {texts} where lexemes @@ %s::tsquery limit {most}",
        (match,),
        read=Literal(_READ),
        most=Literal(most),
    )
    return [text for (text,) in rows]


def _letters(tables: EntityTables, word: str) -> set[str]:
    """The letters of the word's scripts that are the most frequent in some texts."""
    rows = tables.execute(
        "select array_to_string(tsvector_to_array(lexemes), '') from {texts} limit {sample}",
        sample=Literal(_SAMPLE),
    )
    scripts = {_script(letter) for letter in word}
    counts = Counter(letter for (joined,) in rows for letter in joined or "")
    ours = [one for one, _ in counts.most_common() if one.isalpha() and _script(one) in scripts]
    return {*ours[:_MAX_LETTERS], *word}


def _script(letter: str) -> str:
    return unicodedata.name(letter, "").partition(" ")[0]


def _one_away(tables: EntityTables, word: str) -> Iterator[str]:
    letters = _letters(tables, word) if len(word) >= _ONE else set()
    for at in range(_SHARED, len(word) + 1):
        before, after = word[:at], word[at:]
        yield from (before + letter + after for letter in letters)
        if after and letters:
            yield before + after[1:]
            yield from (before + letter + after[1:] for letter in letters)
        if len(after) > 1:
            yield before + after[1] + after[0] + after[2:]


def distance(one: str, other: str) -> int:
    """The number of letters to add, leave out, replace or swap with the next one that makes one
    word of the other: the optimal string alignment distance."""
    last: list[int] = []
    row: list[int] = [*range(len(other) + 1)]
    for i, letter in enumerate(one, 1):
        above, row = row, [i]
        for j, another in enumerate(other, 1):
            least = min(above[j] + 1, row[-1] + 1, above[j - 1] + (letter != another))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == another:
                least = min(least, last[j - 2] + 1)
            row.append(least)
        last = above
    return row[-1]
