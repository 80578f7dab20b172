"""Searches through a pooler whose sessions change with each transaction, and over a replica."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg

from embeddings_pipeline.store.connection import replica_lag
from embeddings_pipeline.store.embedded import server as embedded
from tests.search.conftest import Search
from tests.support.pgbouncer import pgbouncer
from tests.support.published_shop import publish_shop
from tests.support.standby import caught_up, standby
from tests.support.world import World, world_in


def test_a_pooler_in_transaction_mode_serves_searches_of_every_kind(
    world: World, opened: Callable[..., Search]
) -> None:
    world.table("id bigint, name text, stock int")
    world.insert(*[(n, f"thing {n % 7} of {n}", n) for n in range(300)])
    world.run(world.declare(template="{name}", filters=["stock"], index={"type": "hnsw"}))
    direct = opened()
    kinds: list[dict[str, Any]] = [
        {"query": "thing 3", "mode": mode, "top_k": 60, "filters": filters}
        for mode in ("dense", "text", "hybrid")
        for filters in ({}, {"stock": {"gte": 150}})
    ]
    wanted = [direct.ids(**kind) for kind in kinds]
    assert [len(ids) for ids in wanted[:2]] == [60, 60]
    with pgbouncer(world.database, "transaction") as through:
        pooled = opened(through)
        # more at once than the server has sessions for
        with ThreadPoolExecutor(12) as threads:
            found = [*threads.map(lambda kind: pooled.ids(**kind), kinds * 8)]
        assert found == wanted * 8
        assert pooled.similar("3", top_k=60) == direct.similar("3", top_k=60)
        pooled.searcher.close()
        # nothing of a search stays in a session, which others get afterwards
        with closing(psycopg.connect(through.url, autocommit=True)) as other:
            shown = [other.execute("show " + name).fetchone() for name in ("datestyle", "work_mem")]
        assert ("64MB",) not in shown


def test_searches_go_to_the_primary_while_the_replica_is_away(
    opened: Callable[..., Search], data_dir: Path
) -> None:
    primary = embedded.start(data_dir)
    with world_in(primary) as world:
        with standby(primary, data_dir / "replica") as replica:
            publish_shop(world)
            caught_up(primary, replica)
            both = replace(replica, fallback=(primary.host, primary.port))
            search = opened(both)
            before = search.ids("red boots")
            assert replica_lag_of(search) == 0
        # the replica has ended
        assert search.ids("red boots") == before
        assert replica_lag_of(search) is None
        search.searcher.close()


def replica_lag_of(search: Search) -> float | None:
    with search.searcher._database.connection() as connection:
        return replica_lag(connection)
