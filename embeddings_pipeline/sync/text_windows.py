"""Renders rows of staging and stores their texts, a window at a time: those that moved in a pass,
or those that a caller names."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial

from psycopg import Connection

from embeddings_pipeline.encoders.ahead import ahead
from embeddings_pipeline.encoders.image_files import ImageFiles
from embeddings_pipeline.store import ledger, staging, texts
from embeddings_pipeline.store.ledger import Counts
from embeddings_pipeline.store.lost_connections import resumed
from embeddings_pipeline.store.postgres import Postgres, Row
from embeddings_pipeline.store.statements import Statements
from embeddings_pipeline.sync.rendering import batches, rendered
from embeddings_pipeline.sync.request import Progress, Report


@dataclass
class Done:
    """What a pass has done so far, before and after a connection was lost."""

    new: int = 0
    read: int = 0
    deleted: int = 0
    reused: int = 0
    quarantined: int = 0
    rekeyed: int = 0


def write_rows(
    source: Connection[Row],
    target: Connection[Row],
    on: Statements,
    images: ImageFiles,
    ids: Sequence[str],
    done: Done,
    told: Callable[[], None] = lambda: None,
    *,
    keep_trimmed: bool = False,
) -> set[str]:
    """Render and store those of these rows that staging has; returns their ids. After each window
    it is `told`. `keep_trimmed` is as for `texts.write`."""
    found: set[str] = set()
    with closing(staging.read_rows(source, on.source, ids)) as rows:
        # no read of staging is held open while images are fetched for an hour
        held = iter([*rows]) if on.source.has_uris else rows
        render = partial(rendered, on=on, images=images)
        with closing(ahead(render, batches(held, on), threads=1, depth=1)) as windows:
            for window in windows:
                texts.write(target, on, window.texts, window.failures, keep_trimmed=keep_trimmed)
                done.read += window.rows
                done.quarantined += len(window.failures)
                found |= {text.id for text in window.texts}
                told()
    return found


def telling(report: Report, on: Statements, done: Done, due: int) -> Callable[[], None]:
    """Reports how many of the rows that are due are `done`, at the rate since now."""
    name, started = f"{on.source.entity.name} texts", time.monotonic()

    def tell() -> None:
        report(Progress(name, done.read, due, time.monotonic() - started, unit="rows"))

    return tell


@resumed
def record(database: Postgres, on: Statements, run_id: str, counts: Counts) -> None:
    """Add the counts to the ledger row of a run."""
    with database.connection() as connection:
        ledger.record(connection, on, run_id, counts)
