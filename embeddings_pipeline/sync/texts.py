"""Brings `<entity>_texts` up to date with the staging model. Never encodes.

What moved is found by content: fingerprints computed in staging, compared by digest a bucket of
them, then one by one. Timestamps are not trusted. Deletes come last, so that a pass that is
refused or killed has lost nothing, and after what moved to other rows was projected there, so that
searches find it all the while.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial

from psycopg import Connection

from embeddings_pipeline.encoders.ahead import prefetched
from embeddings_pipeline.encoders.image_files import ImageFiles
from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.errors import DeletesRefused
from embeddings_pipeline.store import changes, entity_tables, ledger, locks, staging
from embeddings_pipeline.store.ledger import Counts
from embeddings_pipeline.store.lost_connections import resumed
from embeddings_pipeline.store.postgres import Postgres, Row
from embeddings_pipeline.store.statements import Statements
from embeddings_pipeline.store.tables import EntityTables
from embeddings_pipeline.store.texts import erasures, partition_keys, quarantine, texts
from embeddings_pipeline.store.vectors import cache, pending
from embeddings_pipeline.store.vectors import sets as vector_sets
from embeddings_pipeline.store.vectors.pending import Scope
from embeddings_pipeline.sync.erase import collect_erased
from embeddings_pipeline.sync.progress import Progress
from embeddings_pipeline.sync.project import project_pending
from embeddings_pipeline.sync.rendering import batches, refuse_bad_ids, rendered
from embeddings_pipeline.sync.run_options import RunOptions
from embeddings_pipeline.sync.seeding import finish_migration

# ids sent to staging with one read: each read scans the model once
SLICE = 50_000
# rows deleted in one transaction
_WINDOW_ROWS = 2_000
# a share of rows written above which statistics are not left to autovacuum
_MUCH = 0.1


@dataclass(frozen=True)
class TextsResult:
    """What a pass did, in rows. `read` counts the rows that moved and were rendered, `reused` the
    chunks whose vector was in the cache already."""

    new: int
    read: int
    deleted: int
    reused: int
    quarantined: int
    rekeyed: int
    saved_usd: float
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
            saved_usd=self.saved_usd,
            seconds=self.seconds,
        )


@dataclass
class Done:
    """What a pass has done so far, before and after a connection was lost."""

    new: int = 0
    read: int = 0
    deleted: int = 0
    reused: int = 0
    quarantined: int = 0
    rekeyed: int = 0
    saved_usd: float = 0.0


def sync_texts(
    staged: Postgres,
    vectors: Postgres,
    on: Statements,
    encoders: Encoders,
    options: RunOptions,
    *,
    keep: bool = True,
) -> TextsResult:
    """One pass over the partitions that the run may touch: render what moved, project what of it
    the cache has, delete what is gone.

    A forced run reads every image again: one that was replaced in its place shows in no
    fingerprint. `keep` is False where caches are emptied after the run: then what moved is found in
    the sets. Raises ConfigurationError for null or repeated ids, DeletesRefused (having deleted
    nothing but what was erased) where more than `max_delete_share` of the rows would go.
    """
    started = time.monotonic()
    finish_migration(vectors, on, options, keep=keep)
    done = Done()
    if options.force and on.source.entity.image:
        _unsettle(vectors, on)
    finished = False
    try:
        _pass_over(staged, vectors, on, encoders, options, done, keep=keep)
        finished = True
    finally:
        result = TextsResult(**asdict(done), seconds=time.monotonic() - started)
        # what a pass did before it failed is stored
        if finished or any(asdict(done).values()):
            record(vectors, on, options, result.counts)
    collect_erased(vectors, on, encoders.cache.evict)
    return result


@resumed
def _unsettle(vectors: Postgres, on: Statements) -> None:
    with vectors.connection() as target, locks.entity(target, on):
        entity_tables.ensure_entity(target, on.schema, on.source)
        quarantine.unsettle(EntityTables(target, on))


@resumed
def _pass_over(
    staged: Postgres,
    vectors: Postgres,
    on: Statements,
    encoders: Encoders,
    options: RunOptions,
    done: Done,
    *,
    keep: bool,
) -> None:
    keys = options.partition_keys
    with (
        staged.connection() as source,
        vectors.connection() as target,
        locks.entity(target, on, options.patience),
    ):
        tables = EntityTables(target, on)
        entity_tables.ensure_entity(target, on.schema, on.source)
        if erased := erasures.stored(tables):
            done.deleted += texts.delete(tables, erased, erased=True)
        done.rekeyed += partition_keys.rekey(tables)
        moved = find_moved(source, tables, keys)
        done.new = max(done.new, moved.new)
        unfinished = partition_keys.begin_pass(tables, writes=bool(moved.changed or moved.gone))
        if moved.stored or keys is not None:
            entity_tables.create_text_indexes(target, on.schema, on.source.entity)
        tell = _teller(options, on, done, done.read + moved.changed)
        for ids, new in changes.changed_slices(tables, SLICE):
            write_rows(source, tables, encoders.images, ids, done, tell, new=new)
        entity_tables.create_text_indexes(target, on.schema, on.source.entity)
        if unfinished or moved.changed or moved.gone:
            _project(vectors, tables, encoders, options, moved, done, keep=keep)
        if not options.allow_deletes:
            _refuse_mass_deletes(on, moved)
        for ids in changes.gone_slices(tables, _WINDOW_ROWS):
            done.deleted += texts.delete(tables, ids)
        written = done.read + done.deleted + done.rekeyed
        partition_keys.finish_pass(tables, keys, analyze=written > _MUCH * moved.stored)


def find_moved(
    source: Connection[Row], tables: EntityTables, keys: Sequence[str] | None
) -> changes.Moved:
    """Compare these partitions, or all, with staging; fills `changed_rows` and `gone_rows`.

    Raises ConfigurationError for null or repeated ids.
    """
    buckets, stored = changes.digests(tables, keys)
    # a stream is closed before its connection goes back, whatever ends it
    with closing(staging.moved_rows(source, tables.source, buckets, stored, keys)) as rows:
        moved = changes.compare(tables, buckets, stored, rows, keys)
    refuse_bad_ids(tables.on, *changes.bad_ids(tables))
    if keys is None:
        return moved
    elsewhere = [
        row_id
        for ids in changes.gone_slices(tables, SLICE)
        for row_id in staging.eligible_ids(source, tables.source, ids)
    ]
    changes.keep_moved(tables, elsewhere)
    return changes.Moved(
        moved.new,
        moved.changed + len(elsewhere),
        moved.gone - len(elsewhere),
        moved.stored,
    )


def write_rows(
    source: Connection[Row],
    tables: EntityTables,
    images: ImageFiles,
    ids: Sequence[str],
    done: Done,
    tell: Callable[[], None] = lambda: None,
    *,
    new: bool = False,
) -> set[str]:
    """Render and store those of these rows that staging has; returns their ids. `new` says that
    none of them is stored."""
    found: set[str] = set()
    with closing(staging.read_rows(source, tables.source, ids)) as rows:
        # no read of staging is held open while images are fetched for an hour
        held = iter([*rows]) if tables.source.has_uris else rows
        render = partial(rendered, on=tables.on, images=images)
        windows = map(render, batches(held, tables.on))
        with closing(prefetched(windows, depth=2)) as ready:
            for window in ready:
                texts.write(tables, window.texts, window.failures, new=new)
                done.read += window.rows
                done.quarantined += len(window.failures)
                found |= {text.id for text in window.texts}
                tell()
    return found


def _project(
    vectors: Postgres,
    tables: EntityTables,
    encoders: Encoders,
    options: RunOptions,
    moved: changes.Moved,
    done: Done,
    *,
    keep: bool,
) -> None:
    """Give rows whose text came from another row, or was there before, its vector: their own rows
    are about to be deleted."""
    sets = vector_sets.maintained(vector_sets.vector_sets(tables.connection, tables.on))
    if options.force or not (moved.stored and sets):
        return
    everything = Scope(options.partition_keys)
    for vector_set in sets:
        backlog = pending.backlog(tables, vector_set, everything)
        if not keep and backlog.missing:
            wanted = pending.select_to_encode(tables, [vector_set], everything, backlog.missing)
            stored = vector_set.stored_identity
            if cache.EmbeddingCache(tables, stored).seed([bytes(h) for h in wanted.hashes]):
                backlog = pending.backlog(tables, vector_set, everything)
        if not backlog.to_project:
            continue
        if options.is_unrestricted and vector_sets.replace_where_much_is_missing(
            tables, vector_set, backlog.missing
        ):
            # the run of the vectors projects it, as a whole
            continue
        projected = project_pending(
            *(vectors, tables.on, vector_set, replace(everything, without_gone=True)),
            session=tables,
        )
        done.reused += projected.chunks
        done.saved_usd += projected.tokens * encoders.usd_per_token(vector_set.model)


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


def _teller(options: RunOptions, on: Statements, done: Done, due: int) -> Callable[[], None]:
    """Reports how many of the rows that are due are `done`, at the rate since now."""
    name, started = f"{on.source.entity.name} texts", time.monotonic()

    def tell() -> None:
        options.report(Progress(name, done.read, due, time.monotonic() - started, unit="rows"))

    return tell


@resumed
def record(database: Postgres, on: Statements, options: RunOptions, counts: Counts) -> None:
    """Add the counts to the ledger row of a run."""
    with database.connection() as connection:
        ledger.record(connection, on, options.run_id, "texts", counts, kind=options.kind)
