"""What goes on beside the model while a run encodes: reading texts ahead, writing vectors."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from threading import Event, Lock, Thread
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

import psycopg

from embeddings_pipeline.encoders.ahead import ahead
from embeddings_pipeline.encoders.base import StreamingEncoder, Vector
from embeddings_pipeline.encoders.image_files import pinned
from embeddings_pipeline.errors import Interrupted, RowError
from embeddings_pipeline.store.vectors.claims import RENEW_SECONDS, Claim
from embeddings_pipeline.store.vectors.pending import Selected
from embeddings_pipeline.sync.isolation import Outcome
from embeddings_pipeline.sync.token_costs import dollars

if TYPE_CHECKING:
    from embeddings_pipeline.sync.encode import Encoding

logger = logging.getLogger(__name__)

# texts that are claimed and read at once, and how often ahead of the encoder
_READ, _READ_AHEAD = 2_000, 2
# vectors are written when there are so many of them or so much time has gone by, those of a model
# that costs something at once; a kill loses no more. Where the database is behind, more go into
# one statement, and at twice as many the encoder waits for it
_WRITE, _WRITE_SECONDS, _WRITE_MOST = 1_000, 0.5, 4_000
# hashes that wait for their projection before writes wait for it
_UNPROJECTED = 20_000


class Place(NamedTuple):
    """A text in the stream: its hash and what the model is given, its claim, what it may cost."""

    text_hash: bytes
    text: str
    claim: Claim
    dollars: float


class Feed:
    """The texts that an encoder reads, claimed and fetched ahead of it. `places` has those that it
    has not answered for, by their place in the stream."""

    def __init__(self, encoding: Encoding, encoder: StreamingEncoder, selected: Selected) -> None:
        self.places: dict[int, Place] = {}
        self._encoding = encoding
        self._encoder = encoder
        self._selected = selected
        self._windows = ahead(
            self._read, range(0, len(selected), _READ), threads=1, depth=_READ_AHEAD
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        # a thread of the encoder may still wait in it for the database
        with suppress(ValueError):
            self._windows.close()

    def __iter__(self) -> Iterator[str]:
        images = self._encoding.on.source.entity.image is not None
        number = 0
        for claim, read in self._windows:
            texts = [pinned(text, text_hash) if images else text for text_hash, text in read]
            costs = dollars(self._encoder, texts, self._encoding.usd_per_token)
            for (text_hash, _), text, cost in zip(read, texts, costs, strict=True):
                if self._encoding.options.stopped():
                    # what the model has begun comes out of its stream, and nothing beyond
                    raise Interrupted("stopped")
                if not self._encoding.reserve(cost):
                    return
                self.places[number] = Place(text_hash, text, claim, cost)
                yield text
                number += 1

    def _read(self, first: int) -> tuple[Claim, list[tuple[bytes, str]]]:
        part = slice(first, first + _READ)
        hashes = [bytes(text_hash) for text_hash in self._selected.hashes[part]]
        return self._encoding.claim(hashes, self._selected.floors[part].tolist())


class Writer:
    """Writes to the cache what the encoder gives, and projects what is written, in two threads of
    its own. Whoever hands over more than these can write waits for them."""

    def __init__(self, encoding: Encoding) -> None:
        self._encoding = encoding
        self._at_once = encoding.usd_per_token > 0
        self._vectors: dict[bytes, tuple[Vector, int]] = {}
        self._errors: dict[bytes, tuple[str, int]] = {}
        self._written_at = time.monotonic()
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._write: Future[None] | None = None
        self._projecting = ThreadPoolExecutor(1, thread_name_prefix="project")
        self._projection: Future[None] | None = None
        self._unprojected: list[bytes] = []
        self._lock = Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None or isinstance(error, Exception):
                self._write_rest()
        except Exception:
            if error is None:
                raise
            logger.warning("what was encoded before the run failed is not stored", exc_info=True)
        finally:
            self._writing.shutdown(cancel_futures=True)
            self._projecting.shutdown(cancel_futures=True)

    def put(self, places: Sequence[Place], outcomes: Sequence[Outcome]) -> None:
        """Take over what became of some texts."""
        for place, outcome in zip(places, outcomes, strict=True):
            if isinstance(outcome, RowError):
                self._errors[place.text_hash] = (str(outcome), place.claim.version)
            else:
                self._vectors[place.text_hash] = (outcome, place.claim.version)
        waiting = len(self._vectors) + len(self._errors)
        many = waiting >= _WRITE
        late = time.monotonic() - self._written_at >= _WRITE_SECONDS
        idle = self._write is None or self._write.done()
        if self._at_once or waiting >= _WRITE_MOST or (many and late) or (idle and (many or late)):
            self._submit()

    def _submit(self) -> None:
        if self._write:
            self._write.result()
        vectors, errors = self._vectors, self._errors
        self._vectors, self._errors = {}, {}
        self._written_at = time.monotonic()
        self._write = self._writing.submit(self._store, vectors, errors)

    def _write_rest(self) -> None:
        self._submit()
        if self._write:
            self._write.result()
        if self._projection:
            self._projection.result()
        self._project()

    def _store(
        self, vectors: dict[bytes, tuple[Vector, int]], errors: dict[bytes, tuple[str, int]]
    ) -> None:
        if not vectors and not errors:
            return
        stored = self._encoding.write(vectors, errors)
        with self._lock:
            # a row may have waited for nothing but the failure of one of its chunks
            self._unprojected += [*stored, *errors]
            waiting = len(self._unprojected)
        if self._projection is None or self._projection.done():
            if self._projection:
                self._projection.result()
            self._projection = self._projecting.submit(self._project)
        elif waiting > _UNPROJECTED:
            self._projection.result()

    def _project(self) -> None:
        while True:
            with self._lock:
                hashes, self._unprojected = self._unprojected, []
            if not hashes:
                return
            self._encoding.project(hashes)


class Heartbeat:
    """Calls `beat` every few seconds for a block of work, in a thread of its own, however long the
    model takes."""

    def __init__(self, beat: Callable[[], None]) -> None:
        self._beat = beat
        self._ended = Event()
        self._thread = Thread(target=self._run, name="claims", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(RENEW_SECONDS):
            try:
                self._beat()
            except psycopg.Error:
                # the reads and writes wait for the database; a claim may end meanwhile
                logger.debug("claims were not renewed", exc_info=True)
