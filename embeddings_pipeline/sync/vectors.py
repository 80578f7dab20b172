"""Brings the vectors of one set up to date with the texts. Never reads staging.

A vector is current when its own row's text_hash is that of its text. Work goes in windows: what a
model made of one is written in a transaction of its own, and none is open while the model runs.
Killed at any point, a run loses at most what was encoded for the window in flight.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

from psycopg import Connection

from embeddings_pipeline.encoders.cached import CachedEncoder
from embeddings_pipeline.errors import Interrupted
from embeddings_pipeline.store import forcing, ledger, locks, reuse, vectors
from embeddings_pipeline.store.ledger import Counts
from embeddings_pipeline.store.lost_connections import resumed
from embeddings_pipeline.store.pending import Backlog, find_pending, read_window
from embeddings_pipeline.store.postgres import Postgres, Row
from embeddings_pipeline.store.statements import Statements
from embeddings_pipeline.store.vector_sets import VectorSet
from embeddings_pipeline.sync.filling import Filling
from embeddings_pipeline.sync.request import Progress, Request
from embeddings_pipeline.sync.run_plan import record_plan

_WINDOW_ROWS = 1_000
WINDOW_TOKENS = 32_000
# images have no tokens, take longer, and may be texts of a megabyte
_WINDOW_IMAGES = 100
# a share of rows written above which statistics are not left to autovacuum
_MUCH = 0.1


@dataclass(frozen=True)
class VectorsResult:
    """What a run did to one set. `keys` are the partitions in which something was pending;
    `finished` is False where the limit left some of it."""

    keys: list[str]
    counts: Counts
    device: str | None
    finished: bool


def sync_vectors(
    database: Postgres,
    on: Statements,
    vector_set: VectorSet,
    encoder: CachedEncoder,
    request: Request,
    *,
    usd_per_token: float = 0.0,
) -> VectorsResult:
    """Fill or renew what is pending in a set, from sets that have a vector of an equal text first.

    Raises Interrupted between two windows once `request.stopped()`; Busy where others hold the
    partitions for longer than `request.patience`; CostLimitReached before a window that would
    cost more than `request.max_cost_usd` lets it; and whatever the encoder raises where it fails
    on everything, having quarantined nothing.
    """
    work = _Work(Filling(on, vector_set, encoder, request, usd_per_token))
    started = time.monotonic()
    try:
        _work_off(database, work)
    finally:
        work.filling.counts += Counts(seconds=time.monotonic() - started)
        _record(database, work)
    return VectorsResult(work.keys, work.filling.counts, work.filling.device, work.finished)


@dataclass
class _Work:
    """What is done so far, also before a connection was lost."""

    filling: Filling
    keys: list[str] = field(default_factory=list)
    planned: bool = False
    finished: bool = True


@resumed
def _work_off(database: Postgres, work: _Work) -> None:
    with database.connection() as connection:
        filling = work.filling
        on, vector_set = filling.on, filling.vector_set
        if filling.request.force and not filling.renew:
            filling.renew = forcing.begin(connection, on, vector_set, filling.request.keys)
        backlog = _look(connection, filling)
        # what a lost connection leaves over is a part of what there was
        work.keys = sorted({*work.keys, *backlog.keys})
        if backlog.chunks:
            with locks.partitions(
                connection, on, vector_set.table_name, backlog.keys, filling.request.patience
            ) as waited:
                if waited:
                    # whoever held them has done some of it
                    _begin_after_others(connection, work)
                    backlog = _look(connection, filling)
                filling.find_origins(connection)
                work.finished = _drain(connection, work, backlog)
        if filling.request.ids is not None:
            # what counts whole tables is for runs that take all rows
            return
        stored, wanted = vectors.count(connection, on, vector_set)
        if stored != wanted:
            # with as many vectors as texts and none pending there can be none too many
            vectors.remove_orphans(connection, on, vector_set)
        if filling.counts.encoded + filling.counts.reused > _MUCH * stored:
            vectors.analyze(connection, on, vector_set)


def _begin_after_others(connection: Connection[Row], work: _Work) -> None:
    """Have a forced run that begins with this one count from now: another that went on beside it
    has copied vectors from before, unless it knew of an earlier mark."""
    filling = work.filling
    is_first = filling.vector_set.force_since != filling.renew
    if filling.renew and is_first and not work.planned:
        filling.renew = forcing.begin(
            connection, filling.on, filling.vector_set, filling.request.keys, anew=True
        )


def _look(connection: Connection[Row], filling: Filling) -> Backlog:
    """What is pending in the partitions that were asked for."""
    return find_pending(
        connection,
        filling.on,
        filling.vector_set,
        filling.request.keys,
        filling.request.ids,
        besides=filling.request.besides,
        max_rows=window_rows(filling.on),
        max_tokens=WINDOW_TOKENS,
        renew=filling.renew,
    )


def window_rows(on: Statements) -> int:
    """The most rows of a window."""
    return _WINDOW_IMAGES if on.source.entity.image else _WINDOW_ROWS


def _drain(connection: Connection[Row], work: _Work, backlog: Backlog) -> bool:
    """Settle what moved, then go through the windows, in order, until a stop is asked, they end or,
    which gives False, the limit is met."""
    filling = work.filling
    request, name = filling.request, filling.on.source.entity.name
    # what a lost connection leaves over was counted before it
    pending = max(filling.counts.pending, backlog.chunks)
    filling.counts = replace(filling.counts, pending=pending)
    if not work.planned:
        record_plan(connection, filling)
        work.planned = True
    started, done = time.monotonic(), 0
    # what was set aside ends with the session: it is settled before a model takes its time
    moved = reuse.windows_of_moved(connection) if filling.moved else []
    steps = [(filling.take_moved, number) for number in moved]
    steps += [(filling.fill, number) for number in range(1, backlog.windows + 1)]
    for settle, number in steps:
        if filling.limit_met and settle == filling.fill:
            return False
        if request.stopped():
            again = "run again with `force`" if request.force else "run again"
            raise Interrupted(
                f"{name}: stopped after {done:,} of {backlog.chunks:,} chunks; {again} to go on"
            )
        done += settle(connection, read_window(connection, filling.on, number))
        seconds = time.monotonic() - started
        request.report(Progress(name, done, backlog.chunks, seconds, filling.counts))
    return not filling.full


@resumed
def _record(database: Postgres, work: _Work) -> None:
    filling = work.filling
    with database.connection() as connection:
        ledger.record(
            connection,
            filling.on,
            filling.request.run_id,
            filling.counts,
            keys=work.keys,
            model=filling.vector_set.model,
            device=filling.device,
        )
