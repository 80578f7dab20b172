"""Where few rows pass a filter, a search compares them all; else it goes through the index."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from embeddings_pipeline.store.connection import Postgres
from embeddings_pipeline.store.search import published, session
from embeddings_pipeline.store.search.published_search import PublishedSearch, RowQuery
from tests.support.world import SCHEMA, World

ROWS = 4000


def uses_index(world: World, **query: Any) -> bool:
    """Whether a search for ten rows scans the vector index."""
    vector = world.encoder.encode_query(["thing"]).vectors[0]
    pool = Postgres(world.database, prepare=session.prepare, settings=session.SETTINGS)
    with closing(pool), pool.connection() as connection:

        def scans() -> int:
            connection.execute("select pg_stat_force_next_flush()")
            row = connection.execute(
                "select idx_scan from pg_stat_user_indexes"
                " where indexrelname = 'item_vectors_1_index'"
            ).fetchone()
            assert row is not None
            return int(row[0])

        before = scans()
        search = PublishedSearch(connection, published.read(connection, SCHEMA, "item"))
        assert len(search.find(RowQuery(rows=10, vector=vector, **query)).hits) == 10
        return scans() > before


def test_a_hybrid_search_compares_more_rows_than_a_search_for_ten_neighbours(world: World) -> None:
    world.table("id bigint, name text, shelf int")
    world.insert(*((n, f"thing {n}", n % 10) for n in range(ROWS)))
    world.run(world.declare(template="{name}", filters=["shelf"]))
    # what was measured on this machine decides nothing
    world.sql(f"update {SCHEMA}.vector_sets set ef_search = 40, recall_check = null")
    few, some, most = ({"shelf": {"lt": n}} for n in (1, 4, 9))
    by_words = {"query": "thing"}

    # of m of n rows, all are compared where m^2 <= 10 n for each neighbour that is wanted:
    # 632 of 4,000 rows for ten neighbours, and 2,000 for the hundred of a hybrid search
    assert not uses_index(world, filters=few)
    assert not uses_index(world, filters=few, **by_words)
    assert uses_index(world, filters=some)
    assert not uses_index(world, filters=some, **by_words)
    assert uses_index(world, filters=most)
    assert uses_index(world, filters=most, **by_words)

    assert uses_index(world)
    assert uses_index(world, **by_words)
    assert not uses_index(world, exact=True)
    assert not uses_index(world, exact=True, **by_words)
