"""Brings the vectors of one set up to date with the texts. Never reads staging.

A vector is current when its own row's text_hash is that of its text. Work goes in windows, each
a transaction of its own that is open only while vectors are written, never while a model runs:
killed at any point, a run loses at most the window in flight.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from psycopg import Connection

from embeddings_pipeline.encoders.base import Vector
from embeddings_pipeline.encoders.cached import CachedEncoder
from embeddings_pipeline.errors import CostLimitReached, Interrupted, RowError
from embeddings_pipeline.store import evictions, ledger, locks, planning, vector_sets, vectors
from embeddings_pipeline.store.ledger import Counts
from embeddings_pipeline.store.pending import Backlog, Pending, find_pending, read_window
from embeddings_pipeline.store.postgres import Postgres, Row, resumed
from embeddings_pipeline.store.statements import Statements
from embeddings_pipeline.store.vector_sets import Origin, VectorSet
from embeddings_pipeline.store.vectors import Encoded
from embeddings_pipeline.sync.encoding import encode_pending
from embeddings_pipeline.sync.request import Progress, Request

_WINDOW_ROWS = 1_000
_WINDOW_TOKENS = 32_000
# a share of rows written above which statistics are not left to autovacuum
_MUCH = 0.1


@dataclass(frozen=True)
class VectorsResult:
    """What a run did to one set. `keys` are the partitions in which something was pending."""

    keys: list[str]
    counts: Counts
    device: str | None


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
    partitions for longer than `request.patience`; CostLimitReached before a
    window that would cost more than `request.max_cost_usd` lets it; and whatever the encoder
    raises where it fails on everything, having quarantined nothing.
    """
    work = _Work(on, vector_set, encoder, request, usd_per_token)
    started = time.monotonic()
    try:
        _work_off(database, work)
    finally:
        work.counts += Counts(seconds=time.monotonic() - started)
        _record(database, work)
    return VectorsResult(work.keys, work.counts, work.device)


@resumed
def _work_off(database: Postgres, work: _Work) -> None:
    with database.connection() as connection:
        on, vector_set = work.on, work.vector_set
        backlog = work.look(connection)
        # what a lost connection leaves over is a part of what there was
        work.keys = sorted({*work.keys, *backlog.keys})
        if backlog.chunks:
            with locks.partitions(
                connection, on, vector_set.table_name, backlog.keys, work.request.patience
            ) as waited:
                if not work.request.force:
                    work.origins = vector_sets.same_model(connection, on, vector_set.identity)
                # whoever held them has done some of it
                work.drain(connection, work.look(connection) if waited else backlog)
        if work.request.ids is not None:
            # what counts whole tables is for runs that take all rows
            return
        stored, wanted = vectors.count(connection, on, vector_set)
        if stored != wanted:
            # with as many vectors as texts and none pending there can be none too many
            vectors.remove_orphans(connection, on, vector_set)
        if work.counts.encoded + work.counts.reused > _MUCH * stored:
            vectors.analyze(connection, on, vector_set)


@resumed
def _record(database: Postgres, work: _Work) -> None:
    with database.connection() as connection:
        ledger.record(
            connection,
            work.on,
            work.request.run_id,
            work.counts,
            keys=work.keys,
            model=work.vector_set.model,
            device=work.device,
        )


@dataclass
class _Work:
    """One run over one set: what it works with, and what it has done so far."""

    on: Statements
    vector_set: VectorSet
    encoder: CachedEncoder
    request: Request
    usd_per_token: float
    origins: Sequence[Origin] = ()
    keys: list[str] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    planned: bool = False
    device: str | None = None

    def look(self, connection: Connection[Row]) -> Backlog:
        """What is pending in the partitions that were asked for."""
        return find_pending(
            connection,
            self.on,
            self.vector_set,
            self.request.keys,
            self.request.ids,
            max_rows=_WINDOW_ROWS,
            max_tokens=_WINDOW_TOKENS,
            force=self.request.force,
        )

    def drain(self, connection: Connection[Row], backlog: Backlog) -> None:
        """Go through the windows, in order, until they end, the limit is met or a stop is asked."""
        request = self.request
        # what a lost connection leaves over was counted before it
        self.counts = replace(self.counts, pending=max(self.counts.pending, backlog.chunks))
        if not self.planned:
            self._plan(connection)
            self.planned = True
        started, done = time.monotonic(), 0
        for number in range(1, backlog.windows + 1):
            if request.stopped():
                raise Interrupted(
                    f"{self.on.source.entity.name}: stopped after {done:,} of"
                    f" {backlog.chunks:,} chunks; run again to go on"
                )
            window = read_window(connection, self.on, number)
            if request.limit is not None:
                window = _within(window, request.limit - self.counts.encoded)
                if not window:
                    break
            self._fill(connection, window)
            done += len(window)
            request.report(
                Progress(
                    self.on.source.entity.name, done, backlog.chunks, time.monotonic() - started
                )
            )

    def _plan(self, connection: Connection[Row]) -> None:
        """Note in the ledger what is about to be done, beside which the counts will stand."""
        model = self.vector_set.model
        work = planning.lacking(
            connection, self.on, "pending_rows", self.origins, self.vector_set.max_tokens
        )
        rate = planning.throughput(connection, self.on, model)
        ledger.record_plan(
            connection,
            self.on,
            self.request.run_id,
            {
                "rows": work.rows,
                "encode": work.encode,
                "tokens": work.tokens,
                "seconds": work.tokens / rate if rate else None,
                "cost_usd": work.tokens * self.usd_per_token,
            },
        )

    def _afford(self, tokens: int) -> None:
        limit = self.request.max_cost_usd
        cost = self.counts.cost_usd + tokens * self.usd_per_token
        if limit is not None and cost > limit:
            raise CostLimitReached(
                f"{self.on.source.entity.name}: the next window would take the run to"
                f" ${cost:.4f}, past its limit of ${limit:.4f}; {self.counts.encoded:,} texts"
                " were encoded and are kept. Raise --max-cost or EMBEDDING_MAX_COST_USD to go on"
            )

    def _fill(self, connection: Connection[Row], window: list[Pending]) -> None:
        reused = vectors.reuse(
            connection, self.on, self.vector_set, self.origins, window, self.request.run_id
        )
        taken = [p for p in window if (p.id, p.chunk) in reused]
        self.counts += Counts(reused=len(taken), saved_usd=self._read(taken) * self.usd_per_token)
        left = [pending for pending in window if (pending.id, pending.chunk) not in reused]
        if not left:
            return
        by_hash = {pending.text_hash: pending for pending in left}
        self._afford(self._read(by_hash.values()))
        vectors_made, usage = encode_pending(self.encoder, [*by_hash.values()])
        if usage.texts:
            # a model that was not asked is not loaded, nor is it asked where it would compute
            self.device = self.encoder.device
        made = dict(zip(by_hash, vectors_made, strict=True))
        good = {key: vector for key, vector in made.items() if not isinstance(vector, RowError)}
        encoded = [
            _encoded(self.on, p, by_hash[p.text_hash], good[p.text_hash])
            for p in left
            if p.text_hash in good
        ]
        written = vectors.write(connection, self.on, self.vector_set, encoded, self.request.run_id)
        if written < len(encoded):
            # a text was replaced or erased, and evicted, while the model ran: the cache that has
            # it since is told again. Which one it was is not asked; to evict more costs little
            evictions.note(
                connection, self.on, evictions.hashes((p.text_hash, p.parts) for p in left)
            )
        failed = [p for p in left if p.text_hash not in good]
        for pending in failed:
            vectors.quarantine(connection, self.on, pending, str(made[pending.text_hash]))
        doubles = [p for p in left if p.text_hash in good and p is not by_hash[p.text_hash]]
        spared = usage.saved_tokens + self._read(doubles)
        self.counts += Counts(
            encoded=len(good),
            cached=usage.cached,
            reused=len(doubles),
            quarantined=len(failed),
            truncated=usage.truncated,
            tokens=usage.tokens,
            cost_usd=usage.tokens * self.usd_per_token,
            saved_usd=spared * self.usd_per_token,
            encode_seconds=usage.seconds,
        )

    def _read(self, texts: Iterable[Pending]) -> int:
        """Tokens that the model would read of these texts."""
        return sum(min(p.tokens, self.vector_set.max_tokens) for p in texts)


def _encoded(on: Statements, pending: Pending, first: Pending, vector: Vector) -> Encoded:
    same = (pending.id, pending.chunk) == (first.id, first.chunk)
    origin = None if same else f"{on.source.entity.name}/{first.id}/{first.chunk}"
    return Encoded(pending.id, pending.chunk, pending.text_hash, vector, origin)


def _within(window: list[Pending], limit: int) -> list[Pending]:
    """The first whole rows of a window that have no more than `limit` chunks."""
    if len(window) <= limit:
        return window
    cut = max(limit, 0)
    while 0 < cut < len(window) and window[cut].id == window[cut - 1].id:
        cut -= 1
    return window[:cut]
