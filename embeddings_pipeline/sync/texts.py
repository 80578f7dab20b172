"""Brings `<entity>_texts` up to date with the staging model. Never encodes.

What moved is found by content: fingerprints computed in staging, compared by digest a bucket of
them, then one by one. Timestamps are not trusted. Deletes come last, so that a pass that is
refused or killed has lost nothing.
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import asdict, dataclass

from embeddings_pipeline.encoders.image_files import ImageFiles
from embeddings_pipeline.errors import DeletesRefused
from embeddings_pipeline.store import (
    changes,
    entity_tables,
    erasures,
    heirs,
    locks,
    passes,
    staging,
    texts,
)
from embeddings_pipeline.store.ledger import Counts
from embeddings_pipeline.store.lost_connections import resumed
from embeddings_pipeline.store.postgres import Postgres
from embeddings_pipeline.store.statements import Statements
from embeddings_pipeline.sync.evict import Evict, evict_noted
from embeddings_pipeline.sync.rendering import refuse_bad_ids
from embeddings_pipeline.sync.request import Report, unheard
from embeddings_pipeline.sync.text_windows import Done, record, telling, write_rows

# ids sent to staging with one read: each read scans the model once
SLICE = 50_000
# rows deleted in one transaction
_WINDOW_ROWS = 2_000
# a share of rows written above which statistics are not left to autovacuum
_MUCH = 0.1


@dataclass(frozen=True)
class TextsResult:
    """What a pass did, in rows. `read` counts the rows that moved and were rendered, `reused` the
    chunks that got a vector of what another row said before."""

    new: int
    read: int
    deleted: int
    reused: int
    quarantined: int
    rekeyed: int
    seconds: float

    @property
    def counts(self) -> Counts:
        """Its share of the run's ledger row."""
        return Counts(
            read=self.read,
            pending=self.reused,  # they lacked a vector until they were given one
            reused=self.reused,
            deleted=self.deleted,
            quarantined=self.quarantined,
            seconds=self.seconds,
        )


def sync_texts(
    staged: Postgres,
    vectors: Postgres,
    on: Statements,
    run_id: str,
    images: ImageFiles,
    evict: Evict,
    *,
    allow_deletes: bool = False,
    force: bool = False,
    report: Report = unheard,
) -> TextsResult:
    """One pass over an entity: render what moved, delete what is gone, and let caches forget both.

    `report` is called after each window of rendered rows. `force` reads every image again: one that
    was replaced in its place shows in no fingerprint; and it hands no vector over, since all are to
    be made anew. Raises ConfigurationError for null or repeated ids, DeletesRefused (having deleted
    nothing but what was erased) where more than `max_delete_share` of the rows would go.
    """
    started = time.monotonic()
    done = Done()
    if force and on.source.entity.image:
        _unsettle(vectors, on)
    finished = False
    try:
        _pass_over(
            *(staged, vectors, on, run_id, images, done, report),
            allow_deletes=allow_deletes,
            force=force,
        )
        finished = True
    finally:
        result = TextsResult(**asdict(done), seconds=time.monotonic() - started)
        # what a pass did before it failed is stored
        if finished or any(asdict(done).values()):
            record(vectors, on, run_id, result.counts)
    evict_noted(vectors, on, evict)
    return result


@resumed
def _unsettle(vectors: Postgres, on: Statements) -> None:
    with vectors.connection() as target, locks.entity(target, on):
        entity_tables.ensure_entity(target, on.schema, on.source)
        passes.unsettle(target, on)


@resumed
def _pass_over(
    staged: Postgres,
    vectors: Postgres,
    on: Statements,
    run_id: str,
    images: ImageFiles,
    done: Done,
    report: Report,
    *,
    allow_deletes: bool,
    force: bool,
) -> None:
    with (
        staged.connection() as source,
        vectors.connection() as target,
        locks.entity(target, on),
    ):
        entity_tables.ensure_entity(target, on.schema, on.source)
        done.rekeyed += passes.rekey(target, on)
        if erased := erasures.stored(target, on):
            done.deleted += texts.delete(target, on, erased)
        buckets, stored = changes.digests(target, on)
        # a stream is closed before its connection goes back, whatever ends it
        with closing(staging.moved_rows(source, on.source, buckets, stored)) as rows:
            moved = changes.compare(target, on, buckets, stored, rows)
        done.new = max(done.new, moved.new)
        refuse_bad_ids(on, *changes.bad_ids(target))
        told = telling(report, on, done, done.read + moved.changed)
        heirs.keep_trimmed(target)
        for changed in changes.slices(target, "changed_rows", SLICE):
            write_rows(source, target, on, images, changed, done, told, keep_trimmed=not force)
        if not force:
            # before deletes may be refused: what was trimmed is gone with the session
            done.reused += heirs.hand_over(target, on, run_id)
        if not allow_deletes:
            _refuse_mass_deletes(on, moved)
        for ids in changes.slices(target, "gone_rows", _WINDOW_ROWS):
            done.deleted += texts.delete(target, on, ids)
        written = done.read + done.deleted + done.rekeyed
        passes.finish_pass(target, on, analyze=written > _MUCH * moved.stored)


def too_many_deletes(on: Statements, moved: changes.Moved) -> bool:
    """Whether more rows are gone than `max_delete_share` lets go without a word."""
    return moved.gone > on.source.entity.max_delete_share * moved.stored


def _refuse_mass_deletes(on: Statements, moved: changes.Moved) -> None:
    if too_many_deletes(on, moved):
        raise DeletesRefused(
            f"entity {on.source.entity.name!r}: {moved.gone:,} of {moved.stored:,} rows are gone"
            f" from staging, and max_delete_share is {on.source.entity.max_delete_share:.0%};"
            " nothing was deleted. If it is meant, run with --allow-deletes"
        )
