"""Encodes what vector sets wait for, in one stream, and projects it as it comes.

Hashes are selected, their texts read and claimed, the model asked, and what it gives written to the
embedding cache and projected into the sets, all at the same time. Each written batch is final. No
session has to live while the model works: every read and write takes a connection of its own, and
is done again where that is lost.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from threading import Event, Lock, Thread
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
import psycopg

from embeddings_pipeline.encoders.encoder import EncodedBatch, Encodings, StreamingEncoder, Usage
from embeddings_pipeline.encoders.images import sources
from embeddings_pipeline.encoders.images.sources import pinned
from embeddings_pipeline.encoders.prefetch import prefetch
from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.entities.model import Vector
from embeddings_pipeline.errors import (
    Busy,
    ConfigurationError,
    CostLimitReached,
    EmbeddingsError,
    Interrupted,
    RowError,
)
from embeddings_pipeline.store import run_ledger
from embeddings_pipeline.store.connection import Postgres
from embeddings_pipeline.store.retry import resumed
from embeddings_pipeline.store.run_ledger import Counts
from embeddings_pipeline.store.tables import TableNames, open_tables
from embeddings_pipeline.store.texts import quarantine, texts
from embeddings_pipeline.store.vectors import pending, projection, renewals
from embeddings_pipeline.store.vectors import sets as vector_sets
from embeddings_pipeline.store.vectors.cache import MAX_COMPONENT, EmbeddingCache
from embeddings_pipeline.store.vectors.claims import RENEW_SECONDS, Claim, Claims
from embeddings_pipeline.store.vectors.pending import Backlog, Selected
from embeddings_pipeline.store.vectors.projection import Projected
from embeddings_pipeline.store.vectors.vector_set import VectorSet
from embeddings_pipeline.sync.plan import dollars, record_plan
from embeddings_pipeline.sync.progress import Progress
from embeddings_pipeline.sync.project import project_pending
from embeddings_pipeline.sync.retention import finish_migration
from embeddings_pipeline.sync.run_options import RunOptions

# hashes that are selected at once
_SLAB = 500_000
_REPORT_SECONDS = 0.2
_POLL_SECONDS = 0.2
# chunks written below which statistics are left to autovacuum
_FEW = 1_000


@dataclass(frozen=True)
class EncodeResult:
    """What a run did to the sets of an entity. `keys` are the partitions in which something was
    pending; `frozen` says of a live set why it was left as it is; `finished` whether nothing that
    the run looked at is pending any longer."""

    sets: Sequence[VectorSet]
    keys: Sequence[str]
    counts: Counts
    by_model: Mapping[str, Counts]
    devices: Sequence[str]
    frozen: str | None
    finished: bool


def encode_entity(
    database: Postgres,
    names: TableNames,
    encoders: Encoders,
    options: RunOptions,
    *,
    keep: bool = True,
) -> EncodeResult:
    """Bring the sets of an entity up to date with its texts: the live one, and one that is built
    beside it.

    Raises Interrupted once `options.stopped()`; Busy where other runs hold the texts for longer
    than `options.patience`; CostLimitReached before a text that would cost more than the run may;
    ConfigurationError where the entity's own model cannot be had, or where what a model costs is
    limited but not known; and whatever a model raises that fails on everything, which quarantines
    nothing. A live set of another model that cannot be loaded any longer is only projected.
    `keep` is False where the caches are emptied after the run.
    """
    name = names.source.entity.name
    try:
        return _encode_entity(database, names, encoders, options, keep=keep)
    except EmbeddingsError as error:
        if isinstance(error, Interrupted) or not options.stopped():
            raise
        # whoever waited for a provider gave up when the stop was asked for
        raise Interrupted(f"{name}: stopped, {error}") from error


def prepare_sets(
    database: Postgres, names: TableNames, encoders: Encoders, options: RunOptions
) -> list[VectorSet]:
    """The sets that the run maintains, one of them with the entity's own model, and with the floors
    of a forced run recorded. Rows that are chosen by ids go into the sets that there are."""
    identity = (
        None if options.ids is not None else encoders.for_entity(names.source.entity).identity
    )

    @resumed
    def prepare() -> list[VectorSet]:
        with open_tables(database, names) as tables:
            if identity is not None:
                vector_sets.ensure_set(tables, identity)
            sets = vector_sets.maintained(vector_sets.vector_sets(tables))
            if options.force:
                renewals.begin(tables, sets, options.partition_keys)
            return sets

    return prepare()


def _encode_entity(
    database: Postgres, names: TableNames, encoders: Encoders, options: RunOptions, *, keep: bool
) -> EncodeResult:
    started = time.monotonic()
    finish_migration(database, names, options, keep=keep)
    sets = prepare_sets(database, names, encoders, options)
    backlogs = [_backlog(database, names, s, options) for s in sets]
    if sets and options.is_unrestricted and not options.force:
        replacement = _replacement(database, names, sets[0], backlogs[0])
        if replacement:
            sets[0], backlogs[0] = replacement, _backlog(database, names, replacement, options)
    done: list[Encoding] = []
    frozen = None
    try:
        for identity_number in dict.fromkeys(s.identity_number for s in sets):
            chosen = [
                (s, backlog)
                for s, backlog in zip(sets, backlogs, strict=True)
                if s.identity_number == identity_number
            ]
            try:
                encoder: StreamingEncoder | None = encoders.for_identity(chosen[0][0].identity)
            except ConfigurationError as error:
                encoder = None
                frozen = f"set {chosen[0][0].number} is frozen: {error}"
            model = chosen[0][0].model
            if options.max_cost_usd is not None and encoder:
                encoders.require_price(model)
            encoding = Encoding(
                database,
                names,
                chosen,
                encoder,
                options,
                usd_per_token=encoders.usd_per_token(model),
                keep=keep,
            )
            done.append(encoding)
            encoding.run()
            options = options.less(encoding.counts)
    finally:
        seconds = Counts(seconds=time.monotonic() - started)
        for encoding in done:
            _record(database, encoding, seconds)
            seconds = Counts()
    return EncodeResult(
        sets=sets,
        keys=sorted({key for backlog in backlogs for key in backlog.pending}),
        counts=sum((encoding.counts for encoding in done), Counts()),
        by_model={e.model: e.counts for e in done},
        devices=sorted({e.device for e in done if e.device}),
        frozen=frozen,
        finished=all(encoding.finished for encoding in done),
    )


@resumed
def _backlog(
    database: Postgres, names: TableNames, vector_set: VectorSet, options: RunOptions
) -> Backlog:
    with open_tables(database, names) as tables:
        return pending.backlog(tables, vector_set, options.scope(names.source.entity))


@resumed
def _replacement(
    database: Postgres, names: TableNames, live: VectorSet, backlog: Backlog
) -> VectorSet | None:
    with open_tables(database, names) as tables:
        return vector_sets.replace_where_much_is_missing(tables, live, backlog.missing)


@resumed
def _record(database: Postgres, encoding: Encoding, seconds: Counts) -> None:
    with open_tables(database, encoding.names) as tables:
        run_ledger.record(
            tables,
            encoding.options.run_id,
            "encode",
            encoding.counts + seconds,
            keys=encoding.keys,
            model=encoding.model,
            device=encoding.device,
            kind=encoding.options.kind,
        )


class Encoding:
    """The encoding of what some sets of one identity wait for, and what it has done so far. Its
    methods are called by the threads of a stream, too."""

    def __init__(
        self,
        database: Postgres,
        names: TableNames,
        sets: Sequence[tuple[VectorSet, Backlog]],
        encoder: StreamingEncoder | None,
        options: RunOptions,
        *,
        usd_per_token: float,
        keep: bool,
    ) -> None:
        self.names = names
        self.options = options
        self.encoder = encoder
        self.usd_per_token = usd_per_token
        self.model = sets[0][0].model
        self.keys = sorted({key for _, backlog in sets for key in backlog.pending})
        self.device: str | None = None
        self.finished = True
        self._database = database
        self._sets = [vector_set for vector_set, _ in sets]
        self._stored = self._sets[0].stored_identity
        self._to_project = sum(backlog.to_project for _, backlog in sets)
        self._keep = keep
        self._scope = options.scope(names.source.entity)
        self._counts = Counts(pending=sum(backlog.chunks for _, backlog in sets))
        self._projected = Projected()
        self._analyzed = 0
        # texts of each claim, by its version
        self._unwritten: Counter[int] = Counter()
        self._lock = Lock()
        self._started = self._reported = time.monotonic()
        self._planned = False
        self._fed = 0
        self._reserved = 0.0
        self._unaffordable: float | None = None
        # what failed without an entry in quarantine is not tried again in this run, either
        self._failed: set[bytes] = set()

    @property
    def counts(self) -> Counts:
        """What was done so far."""
        with self._lock:
            reused = max(0, self._projected.chunks - self._counts.encoded)
            share = reused / self._projected.chunks if reused else 0.0
            saved = share * self._projected.tokens * self.usd_per_token
            return self._counts + Counts(reused=reused, saved_usd=saved)

    def run(self) -> None:
        """Project what the cache has, encode what it lacks, and project that as it comes."""
        if self._counts.pending:
            if self._to_project:
                self.project()
                self._analyze()
            if self.encoder:
                self._encode_all(self.encoder)
            # rows whose last chunk came from another run, or was put in quarantine
            self.project()
            self._report(at_once=True)
        self._finish()

    def _encode_all(self, encoder: StreamingEncoder) -> None:
        waiting_since: float | None = None
        while True:
            fed = self._fed
            if not self._encode_some(encoder):
                return
            if self._fed > fed:
                waiting_since = None
            elif self._unaffordable is not None:
                self._refuse_cost(self._unaffordable)
            else:
                # other runs have claimed all that is left
                waiting_since = waiting_since or time.monotonic()
                self._wait_for_others(waiting_since)

    # done again where an encoder loses the database in which it keeps its limits
    @resumed
    def _encode_some(self, encoder: StreamingEncoder) -> bool:
        """Select texts and encode what of them no other run has claimed; False where there is none,
        or no more may be encoded."""
        limit = self.options.limit
        left = _SLAB if limit is None else max(0, min(_SLAB, limit - self._fed))
        selected = self._select(left)
        if not self._keep and self._seed(selected):
            self.project()
            selected = self._select(left)
        if not self._planned:
            self._record_plan(encoder, selected)
            self._planned = True
        if len(selected):
            self._stream(encoder, selected)
        else:
            self.finished = left > 0
        return len(selected) > 0

    def _select(self, limit: int) -> Selected:
        """What is to be encoded now."""

        @resumed
        def select() -> Selected:
            with open_tables(self._database, self.names) as tables:
                return pending.select_to_encode(
                    tables,
                    self._sets,
                    self._scope,
                    limit + len(self._failed) if limit else 0,
                )

        selected = select()
        if not self._failed:
            return selected
        fresh = [n for n, h in enumerate(selected.hashes) if bytes(h) not in self._failed][:limit]
        return Selected(selected.hashes[fresh], selected.tokens[fresh], selected.floors[fresh])

    def _seed(self, selected: Selected) -> int:
        """Copy what sets have of these hashes into the cache, which keeps nothing itself."""

        @resumed
        def seed(hashes: Sequence[bytes]) -> int:
            with open_tables(self._database, self.names) as tables:
                return EmbeddingCache(tables, self._stored).seed(hashes)

        return seed([bytes(text_hash) for text_hash in selected.hashes]) if len(selected) else 0

    def _stream(self, encoder: StreamingEncoder, selected: Selected) -> None:
        try:
            with (
                Heartbeat(self.renew_claims),
                Feed(self, encoder, selected) as feed,
                Writer(self) as writer,
                closing(encoder.encode_stream(feed)) as batches,
            ):
                for batch in batches:
                    self._take(encoder, feed, batch, writer)
                    self._report()
        except Interrupted:
            raise Interrupted(
                f"{self.names.source.entity.name}: stopped after {self._projected.chunks:,} of"
                f" {self._counts.pending:,} chunks; run again to go on"
            ) from None
        finally:
            self.release_claims()
        # what asks for the rest would otherwise take the sets to be as they were before
        self._analyze()

    def _take(
        self, encoder: StreamingEncoder, feed: Feed, batch: EncodedBatch, writer: Writer
    ) -> None:
        """Hand what became of a batch to the writer."""
        places = [feed.places.pop(place) for place in batch.places]
        probe = [sources.PROBE if self.names.source.entity.image else PROBE_TEXT]
        self._use(batch.encodings.usage, sum(place.dollars for place in places))
        if batch.error:
            outcomes, usage = isolated(
                encoder.encode_documents, [place.text for place in places], probe, batch.error
            )
            self._use(usage, 0.0)
        else:
            outcomes = checked(batch.encodings)
            if broken := none_usable(outcomes):
                refuse_broken_model(encoder.encode_documents, probe, broken)
        if places and not self.device:
            # a model that was not asked is not loaded, nor is it asked where it would compute
            self.device = encoder.device
        writer.put(places, outcomes)

    def _use(self, usage: Usage, reserved: float) -> None:
        with self._lock:
            self._reserved -= reserved
            self._counts += Counts(
                truncated=usage.truncated,
                tokens=usage.tokens,
                cost_usd=usage.tokens * self.usd_per_token,
                encode_seconds=usage.seconds,
            )

    def reserve(self, dollars: float) -> bool:
        """Reserve so much for a text that is about to be sent; whether the run may spend it."""
        most = self.options.max_cost_usd
        if not dollars:
            self._fed += 1
            return True
        with self._lock:
            # a rounding error is no dollar
            if most is not None and self._counts.cost_usd + self._reserved + dollars > most + 1e-9:
                self._unaffordable = dollars
                return False
            self._unaffordable = None
            self._reserved += dollars
            self._fed += 1
            return True

    def _refuse_cost(self, dollars: float) -> None:
        left = max(0.0, (self.options.max_cost_usd or 0.0) - self._counts.cost_usd)
        raise CostLimitReached(
            f"{self.names.source.entity.name}: the next text would cost ${dollars:.6f}, and"
            f" ${left:.6f} of the run's limit is left; what was encoded before is kept."
            " Raise --max-cost or EMBEDDING_MAX_COST_USD to go on"
        )

    def _wait_for_others(self, since: float) -> None:
        if self.options.stopped():
            raise Interrupted(f"{self.names.source.entity.name}: stopped while it waited for a run")
        if time.monotonic() - since > self.options.patience:
            raise Busy("another run is at work on the same rows: try again later")
        time.sleep(_POLL_SECONDS)

    def claim(
        self, hashes: Sequence[bytes], floors: Sequence[int]
    ) -> tuple[Claim, list[tuple[bytes, str]]]:
        """Claim what no other run has claimed of these hashes; with the text of each, in order."""

        @resumed
        def claim() -> tuple[Claim, dict[bytes, str]]:
            with open_tables(self._database, self.names) as tables:
                claimed = Claims(tables, self._stored, self.options.run_id).take(hashes, floors)
                return claimed, dict(texts.read(tables, claimed.hashes))

        claimed, read = claim()
        with self._lock:
            self._unwritten[claimed.version] = len(read)
        return claimed, [(h, read[h]) for h in claimed.hashes if h in read]

    def renew_claims(self) -> None:
        """Extend the leases of the run."""
        with open_tables(self._database, self.names) as tables:
            Claims(tables, self._stored, self.options.run_id).renew()

    @resumed
    def release_claims(self) -> None:
        """Give up what the run has claimed."""
        with open_tables(self._database, self.names) as tables:
            Claims(tables, self._stored, self.options.run_id).release()

    def write(
        self,
        vectors: Mapping[bytes, tuple[Vector, int]],
        errors: Mapping[bytes, tuple[str, int]],
    ) -> list[bytes]:
        """Write vectors to the cache, and failures to quarantine, each with the version of its
        claim; returns the hashes whose vectors were stored."""
        with self._lock:
            for _, version in (*vectors.values(), *errors.values()):
                self._unwritten[version] -= 1
            ended = [version for version, texts in self._unwritten.items() if not texts]
            for version in ended:
                del self._unwritten[version]

        @resumed
        def write() -> list[bytes]:
            with open_tables(self._database, self.names) as tables, tables.connection.transaction():
                stored: list[bytes] = []
                if vectors:
                    stored = EmbeddingCache(tables, self._stored).write(
                        [*vectors],
                        np.stack([vector for vector, _ in vectors.values()]),
                        [version for _, version in vectors.values()],
                        self.options.run_id,
                    )
                if errors:
                    messages = {text_hash: message for text_hash, (message, _) in errors.items()}
                    quarantine.note_texts(tables, self._stored.number, messages)
                Claims(tables, self._stored, self.options.run_id).end(ended)
                return stored

        stored = write()
        with self._lock:
            self._counts += Counts(encoded=len(stored), quarantined=len(errors))
            self._failed |= errors.keys()
        return stored

    def project(self, hashes: Sequence[bytes] | None = None) -> None:
        """Project what waits for these hashes, or all that is pending, into each set."""
        for vector_set in self._sets:
            project_pending(
                self._database,
                self.names,
                vector_set,
                self._scope,
                hashes=hashes,
                written=self._note_projected,
            )

    def _note_projected(self, projected: Projected) -> None:
        with self._lock:
            self._projected = self._projected.plus(projected)

    def _report(self, *, at_once: bool = False) -> None:
        now = time.monotonic()
        if at_once or now - self._reported >= _REPORT_SECONDS:
            self._reported = now
            self.options.report(
                Progress(
                    self.names.source.entity.name,
                    min(self._projected.chunks, self._counts.pending),
                    self._counts.pending,
                    now - self._started,
                    self.counts,
                )
            )

    @resumed
    def _record_plan(self, encoder: StreamingEncoder, selected: Selected) -> None:
        with open_tables(self._database, self.names) as tables:
            record_plan(
                tables,
                self.model,
                encoder,
                selected,
                self.options,
                usd_per_token=self.usd_per_token,
            )

    @resumed
    def _finish(self) -> None:
        with open_tables(self._database, self.names) as tables:
            for vector_set in self._sets:
                renewals.end_finished(tables, vector_set)
                if self.options.ids is not None:
                    # what counts whole tables is for runs that take all rows
                    continue
                if self.options.partition_keys is None and projection.may_have_orphans(
                    tables, vector_set
                ):
                    projection.remove_orphans(tables, vector_set)

    @resumed
    def _analyze(self) -> None:
        """Refresh the statistics of sets of which much was written since they were."""
        written = self._projected.chunks - self._analyzed
        if written < _FEW:
            return
        with open_tables(self._database, self.names) as tables:
            for vector_set in self._sets:
                projection.analyze(tables, vector_set, written)
        self._analyzed += written


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
        self._windows = prefetch(
            self._read, range(0, len(selected), _READ), threads=1, depth=_READ_AHEAD
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        # a thread of the encoder may still wait in it for the database
        with suppress(ValueError):
            self._windows.close()

    def __iter__(self) -> Iterator[str]:
        images = self._encoding.names.source.entity.image is not None
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


# a text that every encoder can take: where it fails too, the fault is not in the rows
PROBE_TEXT = "probe"

_OF_NONE = (
    "the model has no usable vector of any text ({}): no text was put in quarantine; mend the"
    " model, or declare another"
)

Encode = Callable[[Sequence[str]], Encodings]
Outcome = Vector | RowError


def isolated(
    encode: Encode, texts: Sequence[str], probe: Sequence[str], error: Exception
) -> tuple[list[Outcome], Usage]:
    """A vector for each of the texts on which the model raised the error together, or why it has
    none: they are asked for again in halves, until the texts at fault stand alone.

    Raises the error where the model fails on the probe too.
    """
    if len(texts) == 1:
        refuse_broken_model(encode, probe, error)
        return [RowError(f"{type(error).__name__}: {error}")], Usage()
    outcomes: list[Outcome] = []
    usage = Usage()
    half = len(texts) // 2
    for part in (texts[:half], texts[half:]):
        made, used = _encoded(encode, part, probe)
        outcomes += made
        usage += used
    return outcomes, usage


def _encoded(
    encode: Encode, texts: Sequence[str], probe: Sequence[str]
) -> tuple[list[Outcome], Usage]:
    try:
        done = encode(texts).raise_if_stopped()
        if len(done.vectors) != len(texts):
            raise RowError(f"the encoder gave {len(done.vectors)} vectors for {len(texts)} texts")
    except EmbeddingsError as error:
        if not isinstance(error, RowError):
            raise
        return isolated(encode, texts, probe, error)
    except psycopg.OperationalError:
        # of the database that keeps the limits of requests
        raise
    # an encoder may raise anything for a text that it cannot take
    except Exception as error:
        return isolated(encode, texts, probe, error)
    return checked(done), done.usage


def refuse_broken_model(encode: Encode, probe: Sequence[str], error: Exception) -> None:
    """Raise the error where the model has no usable vector of the probe, either: then it is not
    of the texts."""
    try:
        (outcome,) = checked(encode(probe).raise_if_stopped())
    except Exception:
        raise error from None
    if isinstance(outcome, RowError):
        raise error


def none_usable(outcomes: Sequence[Outcome]) -> EmbeddingsError | None:
    """The error of a model none of whose vectors is usable; None where one is."""
    failed = [outcome for outcome in outcomes if isinstance(outcome, RowError)]
    if not outcomes or len(failed) < len(outcomes):
        return None
    return EmbeddingsError(_OF_NONE.format(failed[0]))


def checked(done: Encodings) -> list[Outcome]:
    """The vectors, or why a text has no usable one."""
    vectors = done.vectors
    largest = np.abs(vectors).max(axis=1, initial=0.0) if len(vectors) else np.empty(0)
    odd = {*np.flatnonzero(~(np.isfinite(largest) & (largest > 0) & (largest <= MAX_COMPONENT)))}
    return [
        RowError(done.failures[index])
        if index in done.failures
        else _reason(vector)
        if index in odd
        else vector
        for index, vector in enumerate(vectors)
    ]


def _reason(vector: Vector) -> RowError:
    if not np.isfinite(vector).all():
        return RowError("the vector is not finite")
    if not vector.any():
        return RowError("the vector is zero")
    return RowError(
        f"the vector has a component beyond {MAX_COMPONENT:,.0f}, which no halfvec holds"
    )
