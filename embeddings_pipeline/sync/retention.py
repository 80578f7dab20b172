"""What the embedding caches keep after a run, and for how long."""

from __future__ import annotations

from datetime import timedelta

from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.settings import Settings
from embeddings_pipeline.store.lost_connections import resumed
from embeddings_pipeline.store.postgres import Postgres
from embeddings_pipeline.store.statements import Statements
from embeddings_pipeline.store.tables import EntityTables
from embeddings_pipeline.store.vectors import candidates, identities
from embeddings_pipeline.store.vectors.cache import EmbeddingCache


@resumed
def retain(database: Postgres, on: Statements, encoders: Encoders, settings: Settings) -> None:
    """Delete the cache entries that the entity needs no longer.

    That is EMBEDDING_CACHE_GRACE after the last text that needed them: where partitions run apart,
    a row that moves is gone from one before another has it. What a model with a price has encoded
    is kept for EMBEDDING_CACHE_TTL, and so is the cache of such a model that no set uses. With
    EMBEDDING_CACHE_KEEP=false nothing is kept.
    """
    ttl = timedelta(seconds=settings.embedding_cache_ttl)
    grace = timedelta(seconds=settings.embedding_cache_grace)
    with database.connection() as connection:
        tables = EntityTables(connection, on)
        stored = identities.all_of(connection, on.schema)
        priced = {i.number: ttl for i in stored if encoders.usd_per_token(i.identity.model) > 0}
        candidates.collect(tables, encoders.cache.evict, grace=grace, keep=priced)
        identities.clear_unused(connection, on.schema, priced)
        if not settings.embedding_cache_keep:
            for identity in stored:
                EmbeddingCache(tables, identity).clear_idle()
