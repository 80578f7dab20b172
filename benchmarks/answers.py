"""What a total, facets and highlights add to a search, in a table of real packages.

The texts and filter columns are those of the packages; the vectors are made up. Each way of asking
takes turns with the plain search, query by query, so that a busy machine slows down both.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from benchmarks.made_up import made_up
from benchmarks.scratch import arguments, packages, report, timed, world
from benchmarks.search import engine_of
from benchmarks.words import OneVector
from embeddings_pipeline.encoders.encoder import Encodings, Usage
from embeddings_pipeline.search.requests import Mode, SearchRequest
from embeddings_pipeline.search.searcher import Searcher
from tests.support.world import World

_FILTERS: Mapping[str, dict[str, Any]] = {
    "": {},
    "filtered_": {"section": "python"},
    "narrow_": {"section": "fonts"},
}
_MODES: tuple[Mode, ...] = ("dense", "text", "hybrid")
_FACETS = ("section", "priority", "multi_arch")
_EXTRAS: Mapping[str, dict[str, Any]] = {
    "total": {"total": True},
    "facets": {"facets": _FACETS},
    "highlight": {"highlight": True},
}


class Numbered(OneVector):
    """A vector for each document in its turn."""

    _made = 0

    def encode_documents(self, texts: Sequence[str]) -> Encodings:
        first, self._made = self._made, self._made + len(texts)
        return Encodings(self._documents[first : self._made], Usage(texts=len(texts)))


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--queries", type=int, default=40)
    options = parser.parse_args()
    rows = packages(options.data)[: options.rows]
    draw = random.Random(1)
    queries = [
        " ".join(draw.choice(rows)["description_short"].split()[: 1 + n % 4])
        for n in range(options.queries)
    ]
    with world() as scratch:
        load(scratch, rows)
        with Searcher(engine_of(scratch)) as searcher:
            figures = {
                f"{filtered}{mode}": compared(searcher, queries, mode=mode, filters=filters)
                for filtered, filters in _FILTERS.items()
                for mode in _MODES
            }
    report(bench="answers", rows=len(rows), **figures, target="facets and totals at most 1.5")


def load(scratch: World, rows: Sequence[Mapping[str, str]]) -> None:
    """Publish the packages."""
    scratch.use(Numbered(*made_up(len(rows), 1)))
    scratch.table("id bigint, name text, section text, priority text, multi_arch text")
    scratch.insert(
        *(
            (n, row["description_long"], row["section"], row["priority"], row["multi_arch"])
            for n, row in enumerate(rows)
        )
    )
    scratch.run(scratch.declare(template="{name}", filters=list(_FACETS)))


def compared(searcher: Searcher, queries: Sequence[str], **keys: Any) -> dict[str, float]:
    """The median milliseconds of the plain search, how many times as long each extra takes, and the
    milliseconds of the first search with facets: the counts of a filter are kept for seconds."""

    def search(**extra: Any) -> Callable[[str], object]:
        return lambda query: searcher.search(
            SearchRequest(entity="item", query=query, top_k=10, **keys, **extra)
        )

    ways = {"plain": search(), **{name: search(**extra) for name, extra in _EXTRAS.items()}}
    ways["plain"](queries[0])
    first, _ = timed(lambda: ways["facets"](queries[0]))
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn, query in enumerate(queries):
        for place in range(len(ways)):
            name = list(ways)[(turn + place) % len(ways)]
            took, _ = timed(partial(ways[name], query))
            seconds[name].append(took)
    median = {name: statistics.median(took) for name, took in seconds.items()}
    ratios = {name: round(median[name] / median["plain"], 2) for name in _EXTRAS}
    return {
        "ms": round(1000 * median["plain"], 2),
        **ratios,
        "first_facets_ms": round(1000 * first, 2),
    }


if __name__ == "__main__":
    main()
