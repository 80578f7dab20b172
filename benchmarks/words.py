"""Searches by words in a large table, beside the same searches that read every text with a word.

A text is the descriptions of two packages, their sentences shuffled; the vectors are made up.
Queries are of words that few, some and most texts have, and of the beginnings of summaries (mixed).
What is compared takes turns, query by query, so that a busy machine slows down both.
"""

from __future__ import annotations

import random
import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import product
from typing import Any
from unittest.mock import patch

from psycopg.sql import SQL, Literal

from benchmarks.made_up import MadeUpEncoder, made_up
from benchmarks.scratch import arguments, packages, report, timed, world
from benchmarks.search import engine_of
from embeddings_pipeline.encoders.encoder import Encodings, Usage
from embeddings_pipeline.entities.model import Vectors
from embeddings_pipeline.search.requests import Mode, SearchRequest
from embeddings_pipeline.search.searcher import Searcher
from embeddings_pipeline.store.search import lexical
from tests.support.world import SCHEMA, World

_SHELVES = 100
_FILTERS: Mapping[str, dict[str, Any]] = {"": {}, "filtered_": {"shelf": 5}}
_MODES: tuple[Mode, ...] = ("text", "hybrid")
_PHRASES = ("library for the system", "tools package support", "the library", "package library use")


class OneVector(MadeUpEncoder):
    """The same vector for any query, because the encoder is not measured."""

    def encode_query(self, texts: Sequence[str]) -> Encodings:
        return Encodings(self._queries[[0] * len(texts)], Usage(texts=len(texts)))


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument(
        "--rows", type=int, default=200_000, help="at least 1,000: fewer have too few words"
    )
    parser.add_argument("--queries", type=int, default=28)
    options = parser.parse_args()
    rows = packages(options.data)
    with world() as scratch:
        load(scratch, rows, options.rows)
        chosen = queries(scratch, rows, options.queries)
        with Searcher(engine_of(scratch)) as searcher:
            figures = {
                f"{filtered}{mode}_{kind}": compared(searcher, chosen[kind], mode, filters)
                for (filtered, filters), mode, kind in product(_FILTERS.items(), _MODES, chosen)
            }
    report(
        bench="words",
        rows=options.rows,
        **figures,
        targets={"text_mixed": {"p50_ms": 30}, "text_common": {"worst_ms": 150}},
    )


def load(scratch: World, rows: Sequence[Mapping[str, str]], count: int) -> None:
    """Publish a number of texts. One goes through a run, which makes the tables; the others are put
    beside it, without a model."""
    documents, chosen = made_up(count, 1)
    scratch.use(OneVector(documents, chosen))
    scratch.table("id bigint, name text, shelf int")
    scratch.insert((0, "item 0", 0))
    item = scratch.declare(template="{name}", filters=["shelf"], index={"type": "none"})
    scratch.run(item)
    _fill(scratch, rows, documents)
    scratch.publish(scratch.declare(template="{name}", filters=["shelf"]))
    scratch.sql(f"vacuum analyze {SCHEMA}.item_texts, {SCHEMA}.item_vectors_1")


def _fill(scratch: World, rows: Sequence[Mapping[str, str]], documents: Vectors) -> None:
    draw = random.Random(0)
    with scratch.postgres.connection() as connection:
        connection.execute("create temporary table made (id bigint, text text, embedding text)")
        with connection.cursor().copy("copy made from stdin") as copy:
            for n, vector in enumerate(documents[1:], 1):
                numbers = ",".join(map("{:.5f}".format, vector))
                copy.write_row((n, _text(draw.sample(rows, 2), draw), f"[{numbers}]"))
        connection.execute(
            SQL(
                """
                insert into {schema}.item_texts
                    (id, chunk, partition_key, fingerprint, text, text_hash, tokens, shelf)
                select id, 0, '0', id, text, md5(text)::uuid,
                    -- about as many as the tokenizer would count
                    2 + 1.4 * cardinality(string_to_array(text, ' ')), mod(id * 7919, {shelves})
                from made;
                insert into {schema}.item_vectors_1
                    (id, chunk, text, text_hash, embedding, version, run_id, shelf)
                select id, 0, t.text, text_hash, embedding::vector, 1, 'made', shelf
                from made join {schema}.item_texts t using (id)
                """
            ).format(schema=SQL(SCHEMA), shelves=Literal(_SHELVES))
        )


def _text(rows: Sequence[Mapping[str, str]], draw: random.Random) -> str:
    together = " ".join(" ".join(row["description_long"].split()) for row in rows)
    sentences = re.split(r"(?<=[.:]) ", together.replace("\\", ""))
    draw.shuffle(sentences)
    return " ".join(sentences)


def queries(scratch: World, rows: Sequence[Mapping[str, str]], each: int) -> dict[str, list[str]]:
    """Queries of two to eight words of each kind, the same in each run."""
    draw = random.Random(1)
    counted = scratch.sql(
        f"select lexeme from {SCHEMA}.item_lexemes where lexeme ~ '^[a-z]+$'"
        " order by documents, lexeme"
    )
    lexemes = [lexeme for (lexeme,) in counted]
    # the rarest, the middle and the most frequent of the words that at least 100 texts have
    many = min(len(lexemes), 1000)
    words = {
        "rare": lexemes[:many],
        "middle": lexemes[-many : -many // 2],
        "common": lexemes[-60:],
    }
    lengths = [2 + n % 7 for n in range(each)]
    drawn = {
        kind: [" ".join(draw.sample(choice, length)) for length in lengths]
        for kind, choice in words.items()
    }
    mixed = [" ".join(draw.choice(rows)["description_short"].split()[:n]) for n in lengths]
    return {**drawn, "mixed": mixed, "common": [*_PHRASES, *drawn["common"]]}


def compared(
    searcher: Searcher, chosen: Sequence[str], mode: Mode, filters: dict[str, Any]
) -> dict[str, float | bool]:
    """Milliseconds of these searches, and of those that read all; whether both found the same."""

    def search(query: str) -> list[float]:
        request = SearchRequest(entity="item", query=query, mode=mode, filters=filters, top_k=10)
        return [round(hit.score, 9) for hit in searcher.search(request).results]

    def all_read(query: str) -> list[float]:
        with reading_all():
            return search(query)

    for warm in chosen[:2]:
        search(warm)
    seconds: dict[Callable[[str], list[float]], list[float]] = {search: [], all_read: []}
    same = True
    for turn, query in enumerate(chosen):
        found = []
        for way in (search, all_read) if turn % 2 else (all_read, search):
            took, scores = timed(partial(way, query))
            seconds[way].append(took * 1000)
            found.append(scores)
        same = same and found[0] == found[1]
    fast, full = seconds.values()
    return {
        "p50_ms": round(statistics.median(fast), 1),
        "p99_ms": round(statistics.quantiles(fast, n=100, method="inclusive")[-1], 1),
        "worst_ms": round(max(fast), 1),
        "all_read_p50_ms": round(statistics.median(full), 1),
        "all_read_worst_ms": round(max(full), 1),
        "same": same,
    }


@contextmanager
def reading_all() -> Iterator[None]:
    """Searches that do not ask first what score they need."""
    with patch.object(lexical, "MIN_LIKELY", 10**9):
        yield


if __name__ == "__main__":
    main()
