"""Finishes a migration before a run needs what it copies."""

from __future__ import annotations

import time

from embeddings_pipeline.store import migrations
from embeddings_pipeline.store.lost_connections import resumed
from embeddings_pipeline.store.postgres import Postgres
from embeddings_pipeline.store.statements import Statements
from embeddings_pipeline.sync.progress import Progress
from embeddings_pipeline.sync.run_options import RunOptions


@resumed
def finish_migration(
    database: Postgres, on: Statements, options: RunOptions, *, keep: bool
) -> None:
    """Copy into the caches what vector sets had before there were caches; nothing where that is
    done."""
    started = time.monotonic()
    name = f"{on.source.entity.name}: cache of"
    for model, done in migrations.seed_caches(database, on.schema, keep=keep):
        seconds = time.monotonic() - started
        options.report(Progress(f"{name} {model}", done, migrations.WINDOWS, seconds, unit="parts"))
