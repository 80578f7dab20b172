"""Fills a set window by window: takes over what is known, encodes the rest, writes it.

Reading and writing go on in the caller's thread while the model is at work in another. No
transaction is open meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from psycopg import Connection

from embeddings_pipeline.encoders.base import Usage, Vector
from embeddings_pipeline.encoders.cached import CachedEncoder
from embeddings_pipeline.errors import CostLimitReached, RowError
from embeddings_pipeline.store import evictions, vectors
from embeddings_pipeline.store.ledger import Counts
from embeddings_pipeline.store.pending import Pending
from embeddings_pipeline.store.postgres import Row
from embeddings_pipeline.store.statements import Statements
from embeddings_pipeline.store.vector_sets import Origin, VectorSet
from embeddings_pipeline.store.vectors import Encoded
from embeddings_pipeline.sync.encoding import Made, encode_images, encode_pending
from embeddings_pipeline.sync.request import Request


@dataclass
class Filling:
    """One run over one set: what it works with, and what it has done so far.

    `made` has, by the hash of their text, the vectors that are not stored yet.
    """

    on: Statements
    vector_set: VectorSet
    encoder: CachedEncoder
    request: Request
    usd_per_token: float
    origins: Sequence[Origin] = ()
    counts: Counts = field(default_factory=Counts)
    made: dict[bytes, Vector | RowError] = field(default_factory=dict)
    device: str | None = None

    def fill(
        self, connection: Connection[Row], windows: Iterator[list[Pending]]
    ) -> Generator[int, None, None]:
        """Gives, each time that something is stored, how many chunks were settled by it.

        Asked to stop, at its limit or before CostLimitReached, it stores what the model has begun.
        """
        flights: deque[_Flight] = deque()
        refused: CostLimitReached | None = None
        twins: list[Pending] = []
        with ThreadPoolExecutor(1, thread_name_prefix="encoder") as model, self._keeping(flights):
            for window in _and_one_more(windows):
                flight = flights[-1] if flights else None
                if self.request.stopped() or self._room(flight) == 0:
                    break
                try:
                    begun = self._begin(connection, [*twins, *window], flight)
                except CostLimitReached as error:
                    refused = error
                    break
                twins = begun.twins
                if begun.taken or begun.left:
                    begun.made = model.submit(self._encode, self._unmade(begun))
                    flights.append(begun)
                if flight:
                    yield self._land(connection, flights)
            while flights:
                yield self._land(connection, flights)
            if refused:
                raise refused

    @contextmanager
    def _keeping(self, flights: deque[_Flight]) -> Iterator[None]:
        """What the model makes outlives a lost connection: it is not made again."""
        try:
            yield
        finally:
            for flight in flights:
                with suppress(Exception):
                    self._receive(flight)

    def _room(self, flight: _Flight | None) -> int | None:
        """How many more texts may be encoded; None without a limit."""
        if self.request.limit is None:
            return None
        return max(
            self.request.limit - self.counts.encoded - len(flight.texts if flight else ()), 0
        )

    def _begin(
        self, connection: Connection[Row], window: list[Pending], flight: _Flight | None
    ) -> _Flight:
        """Take over what some set has; what the window before is encoding waits for the next."""
        encoding = flight.by_hash if flight else {}
        twins = [p for p in window if p.text_hash in encoding]
        window = [p for p in window if p.text_hash not in encoding]
        if (room := self._room(flight)) is not None:
            window = _within(window, room)
        reused = vectors.reuse(
            connection, self.on, self.vector_set, self.origins, window, self.request.run_id
        )
        taken = [p for p in window if (p.id, p.chunk) in reused]
        left = [p for p in window if (p.id, p.chunk) not in reused]
        begun = _Flight(len(taken), left, {p.text_hash: p for p in left}, twins)
        if left:
            self._afford(self.tokens_of(begun.texts) + self.tokens_of(encoding.values()))
        self.counts += Counts(
            reused=len(taken), saved_usd=self.tokens_of(taken) * self.usd_per_token
        )
        return begun

    def _unmade(self, flight: _Flight) -> list[Pending]:
        return [p for p in flight.texts if p.text_hash not in self.made]

    def _encode(self, texts: Sequence[Pending]) -> tuple[Made, Usage]:
        if not texts:
            return [], Usage()
        encode = encode_images if self.on.source.entity.image else encode_pending
        return encode(self.encoder, texts)

    def _land(self, connection: Connection[Row], flights: deque[_Flight]) -> int:
        """Wait for the model, and store what it made for the first of the windows."""
        flight = flights[0]
        self._receive(flight)
        good = {
            key: vector
            for key in flight.by_hash
            if not isinstance(vector := self.made[key], RowError)
        }
        if flight.left:
            self._write(connection, flight, good)
        failed = [p for p in flight.left if p.text_hash not in good]
        for pending in failed:
            error = str(self.made[pending.text_hash])
            vectors.quarantine(connection, self.on, pending, error)
        flights.popleft()
        for key in flight.by_hash:
            del self.made[key]
        doubles = [
            p for p in flight.left if p.text_hash in good and p is not flight.by_hash[p.text_hash]
        ]
        self.counts += Counts(
            encoded=len(good),
            reused=len(doubles),
            quarantined=len(failed),
            saved_usd=self.tokens_of(doubles) * self.usd_per_token,
        )
        return flight.taken + len(flight.left)

    def _receive(self, flight: _Flight) -> None:
        """Wait for the model, and count what it took."""
        if flight.made is None:
            return
        texts = self._unmade(flight)
        results, usage = flight.made.result()
        flight.made = None
        self.made |= {p.text_hash: made for p, made in zip(texts, results, strict=True)}
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

    def _write(
        self, connection: Connection[Row], flight: _Flight, good: dict[bytes, Vector]
    ) -> None:
        encoded = [
            _encoded(self.on, p, flight.by_hash[p.text_hash], good[p.text_hash])
            for p in flight.left
            if p.text_hash in good
        ]
        written = vectors.write(connection, self.on, self.vector_set, encoded, self.request.run_id)
        if written < len(encoded):
            # a text was replaced or erased, and evicted, while the model ran: the cache that has
            # it since is told again. Which one it was is not asked; to evict more costs little
            hashes = evictions.hashes((p.text_hash, p.parts) for p in flight.left)
            evictions.note(connection, self.on, hashes)

    def tokens_of(self, texts: Iterable[Pending]) -> int:
        """Tokens that the model would read of these texts."""
        return sum(min(p.tokens, self.vector_set.max_tokens) for p in texts)

    def _afford(self, tokens: int) -> None:
        limit = self.request.max_cost_usd
        cost = self.counts.cost_usd + tokens * self.usd_per_token
        if limit is not None and cost > limit:
            raise CostLimitReached(
                f"{self.on.source.entity.name}: the next window would take the run to"
                f" ${cost:.4f}, past its limit of ${limit:.4f}; what was encoded before is kept."
                " Raise --max-cost or EMBEDDING_MAX_COST_USD to go on"
            )


@dataclass
class _Flight:
    """A window on its way: chunks that were taken over, those that need a vector, by hash the
    first of each text, and those that wait for a vector which the window before will have."""

    taken: int
    left: list[Pending]
    by_hash: dict[bytes, Pending]
    twins: list[Pending]
    made: Future[tuple[Made, Usage]] | None = None

    @property
    def texts(self) -> list[Pending]:
        """The texts to encode, all different."""
        return [*self.by_hash.values()]


def _and_one_more(windows: Iterator[list[Pending]]) -> Iterator[list[Pending]]:
    """For what the last window left to wait."""
    yield from windows
    yield []


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
