"""Fills one window of a set: takes over what is known, encodes the rest, writes it.

No transaction is open while a model runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from psycopg import Connection

from embeddings_pipeline.encoders.base import Vector
from embeddings_pipeline.encoders.cached import CachedEncoder
from embeddings_pipeline.errors import CostLimitReached, RowError
from embeddings_pipeline.store import evictions, forcing, quarantine, reuse, vectors
from embeddings_pipeline.store.ledger import Counts
from embeddings_pipeline.store.pending import Pending, settled
from embeddings_pipeline.store.postgres import Row
from embeddings_pipeline.store.statements import Statements
from embeddings_pipeline.store.vector_sets import Origin, VectorSet
from embeddings_pipeline.store.vectors import Encoded
from embeddings_pipeline.sync.encoding import encode_images, encode_pending, inputs, storable
from embeddings_pipeline.sync.request import Request
from embeddings_pipeline.sync.token_costs import usd
from embeddings_pipeline.sync.whole_rows import whole_rows


@dataclass
class Filling:
    """One run over one set: what it works with, and what it has done so far.

    Forced, it leaves alone what was written since `renew`. `moved` are vectors that were set aside;
    `full` says that the limit had no room for a row. `made` has, by the hash of their text, vectors
    that are not stored yet: they outlive a connection that is lost, after which windows differ.
    """

    on: Statements
    vector_set: VectorSet
    encoder: CachedEncoder
    request: Request
    usd_per_token: float
    renew: datetime | None = None
    origins: Sequence[Origin] = ()
    moved: Sequence[Origin] = ()
    full: bool = False
    counts: Counts = field(default_factory=Counts)
    made: dict[bytes, Vector | RowError] = field(default_factory=dict)
    device: str | None = None

    def find_origins(self, connection: Connection[Row]) -> None:
        """Find what can be taken over: vectors of the same model or, forced, the new ones."""
        since = self.renew or self.vector_set.force_since
        lenders = forcing.lenders(connection, self.on, self.vector_set, since)
        own = lenders[0].table if since else self.on.table(self.vector_set.table_name)
        self.moved = reuse.set_aside(connection, self.on, own)
        self.origins = [*self.moved, *lenders]

    def take_moved(self, connection: Connection[Row], window: list[Pending]) -> int:
        """Settle what a window has of texts that moved from row to row; returns how many chunks."""
        taken = self._take_over(connection, window, self.moved)
        settled(connection, self.on, taken)
        return len(taken)

    def fill(self, connection: Connection[Row], window: list[Pending]) -> int:
        """Settle a window; returns how many chunks of it were, the others being past the limit.

        Raises CostLimitReached, before it encodes anything, for a window that costs too much, and
        what ended the encoding, with what was made before that stored.
        """
        window = self._within_limit(connection, window)
        taken = self._take_over(connection, window, self.origins)
        left = [p for p in window if (p.id, p.chunk) not in taken]
        if left:
            wanted = {p.text_hash: p for p in left}
            stopped = self._encode([p for key, p in wanted.items() if key not in self.made])
            if stopped:
                unread = {p.id for p in left if p.text_hash not in self.made}
                left = [p for p in left if p.id not in unread]
            self._store(connection, left)
            if stopped:
                raise stopped
        return len(window)

    @property
    def limit_met(self) -> bool:
        """Whether no more texts are to be encoded."""
        limit = self.request.limit
        return self.full or (limit is not None and self.counts.encoded >= limit)

    def _take_over(
        self, connection: Connection[Row], window: list[Pending], origins: Sequence[Origin]
    ) -> set[tuple[str, int]]:
        taken = reuse.reuse(
            connection, self.on, self.vector_set, origins, window, self.request.run_id
        )
        spared = [p for p in window if (p.id, p.chunk) in taken]
        self.counts += Counts(reused=len(taken), saved_usd=self._saved(spared))
        return taken

    def _within_limit(self, connection: Connection[Row], window: list[Pending]) -> list[Pending]:
        limit = self.request.limit
        if limit is None:
            return window
        free = reuse.at_hand(connection, self.on, self.origins, {p.text_hash for p in window})
        # a run takes its first row however many chunks that has: it would else never be encoded
        begun = self.request.begun or self.counts.encoded > 0 or limit == 0
        chosen, full = whole_rows(window, free, limit - self.counts.encoded, begun=begun)
        self.full |= full
        return chosen

    def _encode(self, texts: Sequence[Pending]) -> Exception | None:
        """Add to `made`; returns what ended it before all texts were read, if something did."""
        if not texts:
            return None
        self._afford(inputs(texts))
        encode = encode_images if self.on.source.entity.image else encode_pending
        results, usage, stopped = encode(self.encoder, texts)
        self.made |= {
            p.text_hash: result
            for p, result in zip(texts, storable(results, self.vector_set), strict=True)
            if not (stopped and isinstance(result, RowError))
        }
        if usage.texts:
            # a model that was not asked is not loaded, nor is it asked where it would compute
            self.device = self.encoder.device
        self.counts += Counts(
            cached=usage.cached,
            truncated=usage.truncated,
            tokens=usage.tokens,
            cost_usd=usage.tokens * self.usd_per_token,
            saved_usd=usage.saved_tokens * self.usd_per_token,
            encode_seconds=usage.seconds,
        )
        return stopped

    def _store(self, connection: Connection[Row], left: list[Pending]) -> None:
        by_hash = {p.text_hash: p for p in left}
        good = {key: made for key in by_hash if not isinstance(made := self.made[key], RowError)}
        self._write(connection, left, by_hash, good)
        failed = [p for p in left if p.text_hash not in good]
        for pending in failed:
            error = str(self.made[pending.text_hash])
            quarantine.note_unencodable(connection, self.on, self.vector_set, pending, error)
        self.made = {key: made for key, made in self.made.items() if key not in by_hash}
        doubles = [p for p in left if p.text_hash in good and p is not by_hash[p.text_hash]]
        self.counts += Counts(
            encoded=len(good),
            reused=len(doubles),
            quarantined=len(failed),
            saved_usd=self._saved(doubles),
        )

    def _write(
        self,
        connection: Connection[Row],
        left: list[Pending],
        by_hash: dict[bytes, Pending],
        good: dict[bytes, Vector],
    ) -> None:
        encoded = [
            _encoded(self.on, p, by_hash[p.text_hash], good[p.text_hash])
            for p in left
            if p.text_hash in good
        ]
        written = vectors.write(connection, self.on, self.vector_set, encoded, self.request.run_id)
        if written < len(encoded):
            # a text was replaced or erased, and evicted, while the model ran: the cache that has
            # it since is told again. Which one it was is not asked; to evict more costs little
            hashes = evictions.hashes((p.text_hash, p.parts) for p in left)
            evictions.note(connection, self.on, hashes)

    def _saved(self, spared: Sequence[Pending]) -> float:
        """What it would have cost to encode these, too."""
        return usd(self.encoder, [text for p in spared for text in p.inputs], self.usd_per_token)

    def _afford(self, texts: Sequence[str]) -> None:
        if self.request.max_cost_usd is None:
            return
        spared = self.encoder.remembered(texts)
        asked = [text for text in texts if text not in spared]
        cost = usd(self.encoder, asked, self.usd_per_token)
        # what other sets and entities of the run cost is off the request's purse already
        left = self.request.max_cost_usd - self.counts.cost_usd
        if cost > left:
            raise CostLimitReached(
                f"{self.on.source.entity.name}: the next window would cost ${cost:.4f}, and"
                f" ${left:.4f} of the run's limit is left; what was encoded before is kept."
                " Raise --max-cost or EMBEDDING_MAX_COST_USD to go on"
            )


def _encoded(on: Statements, pending: Pending, first: Pending, vector: Vector) -> Encoded:
    same = (pending.id, pending.chunk) == (first.id, first.chunk)
    origin = None if same else f"{on.source.entity.name}/{first.id}/{first.chunk}"
    return Encoded(pending.id, pending.chunk, pending.text_hash, vector, origin)
