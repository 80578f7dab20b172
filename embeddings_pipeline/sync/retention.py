"""What the embedding caches and the ledger keep after a run, and for how long; and the end of a
migration that fills the caches."""

from __future__ import annotations

import time
from datetime import timedelta

from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.settings import Settings
from embeddings_pipeline.store import migrations, run_ledger
from embeddings_pipeline.store.connection import Postgres
from embeddings_pipeline.store.retry import resumed
from embeddings_pipeline.store.tables import TableNames, open_tables
from embeddings_pipeline.store.vectors import cache, identities
from embeddings_pipeline.store.vectors.cache import EmbeddingCache
from embeddings_pipeline.sync.progress import Progress
from embeddings_pipeline.sync.run_options import RunOptions


@resumed
def retain(database: Postgres, names: TableNames, encoders: Encoders, settings: Settings) -> None:
    """Delete the cache entries that the entity does not need any more, and shorten its ledger.

    An entry is deleted EMBEDDING_CACHE_GRACE seconds after its last text, because a row that moves
    between partitions of different runs leaves the old one before it appears in the new one.
    Entries of a paid model are kept for EMBEDDING_CACHE_TTL seconds, and so is the cache of a paid
    model that no set uses. With EMBEDDING_CACHE_KEEP=false no entry is kept.
    """
    ttl = timedelta(seconds=settings.embedding_cache_ttl)
    grace = timedelta(seconds=settings.embedding_cache_grace)
    with open_tables(database, names) as tables:
        stored = identities.all_of(tables.connection, names.schema)
        priced = {i.number: ttl for i in stored if encoders.usd_per_token(i.identity.model) > 0}
        cache.collect(tables, encoders.cache.evict, grace=grace, keep=priced)
        identities.clear_unused(tables.connection, names.schema, priced)
        if not settings.embedding_cache_keep:
            for identity in stored:
                EmbeddingCache(tables, identity).clear_idle()
        run_ledger.summarize(tables)


@resumed
def finish_migration(
    database: Postgres, names: TableNames, options: RunOptions, *, keep: bool
) -> None:
    """Copy vectors from before the caches existed into the caches, where that is not done yet."""
    started = time.monotonic()
    name = f"{names.source.entity.name}: cache of"
    for model, done in migrations.seed_caches(database, names.schema, keep=keep):
        seconds = time.monotonic() - started
        options.report(Progress(f"{name} {model}", done, migrations.WINDOWS, seconds, unit="parts"))
