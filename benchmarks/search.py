"""Search through an index, beside exact search and beside the bare SQL statement.

The vectors are made up, but not noise, in which no index finds anything: points about 1,000 centres
in 32 dimensions, projected to 384 with a little noise, as embeddings lie near a surface of few
dimensions. What is compared takes turns, query by query, so that a busy machine slows down both.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import psycopg
from pgvector import Vector as PgVector
from pgvector.psycopg import register_vector

from benchmarks.made_up import MadeUpEncoder, made_up
from benchmarks.scratch import report, timed, world
from embeddings_pipeline.entities.model import Vectors
from embeddings_pipeline.pipeline import Pipeline
from embeddings_pipeline.search.requests import SearchRequest
from embeddings_pipeline.search.searcher import Searcher
from embeddings_pipeline.settings import Settings
from tests.support.world import SCHEMA, World

_K = 10
_SHELVES = 100
_RECALL = 0.99
_COLUMNS = "id, chunk, text, shelf, 1 - (embedding <=> %b) as score"
_BARE = f"select {_COLUMNS} from {SCHEMA}.item_vectors_1 order by embedding <=> %b limit {_K}"
_EXACT = f"select {_COLUMNS} from {SCHEMA}.item_vectors_1 order by 5 desc limit {_K}"


@dataclass(frozen=True)
class Setup:
    searcher: Searcher
    bare: psycopg.Connection
    documents: Vectors
    queries: Vectors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=200)
    options = parser.parse_args()
    documents, queries = made_up(options.rows, options.queries)
    with world() as scratch:
        load(scratch, documents, queries)
        with (
            Searcher(engine_of(scratch)) as searcher,
            psycopg.connect(scratch.database.url, autocommit=True) as bare,
        ):
            register_vector(bare)
            setup = Setup(searcher, bare, documents, queries)
            effort = sufficient_effort(scratch, setup)
            figures = {**ways(setup), **filtered(setup)}
    report(bench="search", rows=options.rows, ef_search=effort, **figures)


def load(scratch: World, documents: Vectors, queries: Vectors) -> None:
    scratch.use(MadeUpEncoder(documents, queries))
    scratch.table("id bigint, name text, shelf int")
    scratch.sql(
        f"insert into staging.stg_item select n, 'item ' || n, mod(n * 7919, {_SHELVES})"
        " from generate_series(0, %s) n",
        len(documents) - 1,
    )
    scratch.run(scratch.declare(template="{name}", filters=["shelf"]))


def engine_of(scratch: World) -> Pipeline:
    """As much of a pipeline as a search needs."""
    pipeline = SimpleNamespace(
        search_database=scratch.database,
        schema=SCHEMA,
        encoders=scratch.encoders,
        settings=Settings(_env_file=None),
        one_database=True,
    )
    return cast(Pipeline, pipeline)


def sufficient_effort(scratch: World, setup: Setup) -> int:
    """The least ef_search at which these queries reach the recall, stored for the pipeline, too."""
    for effort in (40, 60, 80, 120, 160, 320):
        setup.bare.execute(f"set hnsw.ef_search = {effort}")
        _, (found,) = interleaved([by_statement(setup, _BARE)], range(len(setup.queries)))
        if recall(setup, found) >= _RECALL:
            break
    scratch.sql(f"update {SCHEMA}.vector_sets set ef_search = {effort}")
    return effort


def ways(setup: Setup) -> dict[str, Any]:
    """Times and recall of the bare statement, the pipeline and exact search."""
    bare, pipeline = (by_statement(setup, _BARE), through(setup))
    exact = by_statement(setup, _EXACT)
    numbers = range(len(setup.queries))
    interleaved([bare, pipeline], numbers[:20])
    (bare_seconds, engine_seconds), (bare_found, engine_found) = interleaved(
        [bare, pipeline], numbers
    )
    (exact_seconds,), _ = interleaved([exact], numbers[:20])
    return {
        "recall_bare": recall(setup, bare_found),
        "recall_engine": recall(setup, engine_found),
        "bare_ms": bare_seconds * 1000,
        "engine_ms": engine_seconds * 1000,
        "exact_ms": exact_seconds * 1000,
        "exact_to_index": exact_seconds / bare_seconds,
        "exact_to_index_target": 30,
        "engine_to_bare": engine_seconds / bare_seconds,
        "engine_to_bare_target": 1.5,
    }


def filtered(setup: Setup) -> dict[str, Any]:
    """The same with a filter that one row in a hundred passes."""
    numbers = range(len(setup.queries))
    (seconds,), (found,) = interleaved([through(setup, filters={"shelf": 5})], numbers)
    return {
        "filtered_ms": seconds * 1000,
        "filtered_recall": recall(setup, found, shelf=5),
        "filtered_shortfall": sum(_K - len(ids) for ids in found),
    }


def through(setup: Setup, **request: Any) -> Callable[[int], list[int]]:
    """A search by the pipeline."""

    def search(number: int) -> list[int]:
        search_request = SearchRequest(entity="item", query=f"query {number}", top_k=_K, **request)
        return [int(hit.id) for hit in setup.searcher.search(search_request).results]

    return search


def by_statement(setup: Setup, query: str) -> Callable[[int], list[int]]:
    """A search by a statement alone, on a connection that is kept."""

    def search(number: int) -> list[int]:
        vector = PgVector(setup.queries[number])
        rows = setup.bare.execute(query.encode(), (vector,) * query.count("%b"))
        return [row[0] for row in rows.fetchall()]

    return search


def interleaved(
    searches: Sequence[Callable[[int], list[int]]], numbers: Sequence[int]
) -> tuple[list[float], list[list[list[int]]]]:
    """The median seconds of each search, and what it found for each query.

    They take turns at going first, which finds the pages of a query cold.
    """
    seconds: list[list[float]] = [[] for _ in searches]
    found: list[list[list[int]]] = [[] for _ in searches]
    for turn, number in enumerate(numbers):
        for place in range(len(searches)):
            which = (turn + place) % len(searches)
            took, ids = timed(partial(searches[which], number))
            seconds[which].append(took)
            found[which].append(ids)
    return [statistics.median(took) for took in seconds], found


def recall(setup: Setup, found: Sequence[Sequence[int]], shelf: int | None = None) -> float:
    """The mean share of the true nearest rows that were found."""
    matching = np.arange(len(setup.documents))
    if shelf is not None:
        matching = matching[matching * 7919 % _SHELVES == shelf]
    similar = setup.queries[: len(found)] @ setup.documents[matching].T
    nearest = matching[np.argsort(-similar, axis=1)[:, :_K]]
    return float(np.mean([len({*a} & {*b}) / _K for a, b in zip(found, nearest, strict=True)]))


if __name__ == "__main__":
    main()
