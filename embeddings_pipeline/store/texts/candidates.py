"""The `cache_candidates` table: hashes that a text has lost, whose cache entries may be unused."""

from __future__ import annotations

from psycopg import sql
from psycopg.sql import Literal

from embeddings_pipeline.store.tables import EntityTables


def note(tables: EntityTables, dropped: sql.Composable, *, erased: bool = False) -> None:
    """Note the hashes that a query of (text_hash, part_hashes) returns; for weighted texts, the
    hashes of the parts."""
    tables.execute(
        """
        insert into {candidates} as k (entity, text_hash, erased)
        select distinct {entity}, h, {erased} from ({dropped}) as d,
            unnest(coalesce(d.part_hashes, array[d.text_hash])) as h
        where h is not null order by h
        on conflict (entity, text_hash) do update set since = excluded.since,
            erased = k.erased or excluded.erased
        """,
        candidates=tables.names.identifiers["cache_candidates"],
        erased=Literal(erased),
        dropped=dropped,
    )


def count_erased(tables: EntityTables) -> int:
    """How many hashes of erased texts are still to be evicted from caches."""
    (count,) = tables.one(
        "select count(*) from {candidates} where entity = {entity} and erased",
        candidates=tables.names.identifiers["cache_candidates"],
    )
    return int(count)
