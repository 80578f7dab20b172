"""Encodes the texts that vector sets need, in one stream, and projects the vectors.

The stages run at the same time: select hashes, claim them and read their texts, call the model,
write the vectors to the embedding cache, project them into the sets. Each written batch is final.
No session stays open while the model works. Every read and write takes its own connection, and is
repeated when the connection is lost.
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
from embeddings_pipeline.encoders.openai.models import remote_model
from embeddings_pipeline.encoders.prefetch import prefetch
from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.entities.model import ModelIdentity, Vector
from embeddings_pipeline.errors import (
    Busy,
    ConfigurationError,
    CostLimitReached,
    EmbeddingsError,
    Interrupted,
    RowError,
)
from embeddings_pipeline.store import run_ledger, vector_sets
from embeddings_pipeline.store.connection import Postgres
from embeddings_pipeline.store.retry import resumed
from embeddings_pipeline.store.run_ledger import Counts
from embeddings_pipeline.store.tables import TableNames, open_tables
from embeddings_pipeline.store.texts import quarantine, texts
from embeddings_pipeline.store.vector_sets import VectorSet
from embeddings_pipeline.store.vectors import pending, projection, renewals
from embeddings_pipeline.store.vectors.cache import MAX_COMPONENT, EmbeddingCache
from embeddings_pipeline.store.vectors.claims import RENEW_SECONDS, Claim, Claims
from embeddings_pipeline.store.vectors.pending import Backlog, Scope, Selected
from embeddings_pipeline.store.vectors.projection import Projected
from embeddings_pipeline.store.vectors.sets import ensure_set, replace_where_much_is_missing
from embeddings_pipeline.sync.progress import Progress
from embeddings_pipeline.sync.project import project_pending
from embeddings_pipeline.sync.retention import finish_migration
from embeddings_pipeline.sync.run_options import RunOptions
from embeddings_pipeline.sync.token_costs import dollars, record_plan

logger = logging.getLogger(__name__)

# hashes selected by one query
_SELECT_AT_ONCE = 500_000
_REPORT_SECONDS = 0.2
_POLL_SECONDS = 0.2
# fewer written chunks leave the statistics to autovacuum
_ANALYZE_MIN_CHUNKS = 1_000
# texts claimed and read by one query, and how many such reads are ahead of the encoder
_READ_AT_ONCE, _PREFETCH = 2_000, 2
# vectors are written at this number or after this time, and vectors of a paid model at once, so
# that a kill loses no more. A slow database gets larger batches, up to a maximum at which the
# encoder waits
_WRITE_BATCH, _WRITE_SECONDS, _WRITE_BATCH_MAX = 1_000, 2.0, 4_000
# hashes that may wait for their projection before writes wait, too
_MAX_UNPROJECTED = 20_000
# a text that every encoder accepts: where it fails, too, the model is at fault, not the rows
PROBE_TEXT = "probe"

_NO_USABLE_VECTOR = (
    "the model returned no usable vector for any text ({}): no text was quarantined; repair the"
    " model, or declare another one"
)

Encode = Callable[[Sequence[str]], Encodings]
Outcome = Vector | RowError


@dataclass(frozen=True)
class EncodeResult:
    """What a run did to the sets of an entity. `keys` are the partitions that had pending chunks.
    `frozen` is the reason why the live set was not encoded. `finished` is whether no chunk in the
    run's scope is pending any more."""

    sets: Sequence[VectorSet]
    keys: Sequence[str]
    counts: Counts
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
    """Bring an entity's sets up to date with its texts: the live set and the building one.

    `keep` is False where the caches are emptied after the run. A live set whose model cannot be
    loaded any more is only projected.

    Raises:
        Interrupted: `options.stopped()` is true.
        Busy: other runs hold the texts for longer than `options.patience` seconds.
        CostLimitReached: the next text would cost more than the run may spend.
        ConfigurationError: the entity's own model is not available, or the cost is limited and the
            price of a model is unknown.
        Exception: the model fails on every text. No text is quarantined then.
    """
    name = names.source.entity.name
    try:
        return _encode_entity(database, names, encoders, options, keep=keep)
    except EmbeddingsError as error:
        if isinstance(error, Interrupted) or not options.stopped():
            raise
        # the wait for a provider ended because of the stop
        raise Interrupted(f"{name}: stopped, {error}") from error


def prepare_sets(
    database: Postgres, names: TableNames, encoders: Encoders, options: RunOptions
) -> list[VectorSet]:
    """The sets that the run maintains; creates a set for the entity's model where it is missing,
    and records the floors of a forced run. A run of chosen ids uses the existing sets."""

    @resumed
    def stored() -> list[ModelIdentity]:
        with open_tables(database, names) as tables:
            return [s.identity for s in vector_sets.read(tables)]

    identity = (
        None
        if options.ids is not None
        else encoders.for_entity(names.source.entity, stored()).identity
    )

    @resumed
    def prepare() -> list[VectorSet]:
        with open_tables(database, names) as tables:
            if identity is not None:
                ensure_set(tables, identity)
            sets = vector_sets.maintained(vector_sets.read(tables))
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
    scope = options.scope(names.source.entity)
    backlogs = [_backlog(database, names, s, scope) for s in sets]
    if sets and options.is_unrestricted and not options.force:
        replacement = _replacement(database, names, sets[0], backlogs[0])
        if replacement:
            sets[0], backlogs[0] = replacement, _backlog(database, names, replacement, scope)
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
        spent = Counts(seconds=time.monotonic() - started)
        for number, encoding in enumerate(done):
            _record(database, encoding, Counts() if number else spent)
    return EncodeResult(
        sets=sets,
        keys=sorted({key for backlog in backlogs for key in backlog.pending}),
        counts=sum((encoding.counts for encoding in done), spent),
        devices=sorted({e.device for e in done if e.device}),
        frozen=frozen,
        finished=all(encoding.finished for encoding in done),
    )


@resumed
def _backlog(database: Postgres, names: TableNames, vector_set: VectorSet, scope: Scope) -> Backlog:
    with open_tables(database, names) as tables:
        return pending.backlog(tables, vector_set, scope)


@resumed
def _replacement(
    database: Postgres, names: TableNames, live: VectorSet, backlog: Backlog
) -> VectorSet | None:
    with open_tables(database, names) as tables:
        return replace_where_much_is_missing(tables, live, backlog.missing)


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
    """Encodes pending chunks of some sets of one identity, and counts what was done. The threads of
    the stream call its methods, too."""

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
        self._backlogs = [backlog for _, backlog in sets]
        self._keep = keep
        self._scope = options.scope(names.source.entity)
        self._counts = Counts(pending=sum(backlog.chunks for _, backlog in sets))
        self._projected = Projected()
        self._analyzed = 0
        # unwritten texts of each claim, by its version
        self._unwritten: Counter[int] = Counter()
        self._lock = Lock()
        self._started = self._reported = time.monotonic()
        self._planned = False
        self._sent = 0
        self._reserved = 0.0
        self._unaffordable: float | None = None
        # failed texts are not tried again in this run, even those that are not quarantined
        self._failed: set[bytes] = set()

    @property
    def counts(self) -> Counts:
        """The counts so far."""
        with self._lock:
            reused = max(0, self._projected.chunks - self._counts.encoded)
            share = reused / self._projected.chunks if reused else 0.0
            saved = share * self._projected.tokens * self.usd_per_token
            return self._counts + Counts(reused=reused, saved_usd=saved)

    def run(self) -> None:
        """Project the chunks whose entries are in the cache, encode the others and project them,
        until no chunk is pending, or none that is left can be encoded."""
        backlogs = self._backlogs
        waiting_since: float | None = None
        while any(backlog.chunks for backlog in backlogs):
            if any(backlog.to_project for backlog in backlogs):
                self.project()
                self._analyze()
            sent = self._sent
            if not (self.encoder and self._encode_some(self.encoder)):
                # rows whose last entry another run has stored since the backlog was read
                self.project()
                break
            if self._sent > sent:
                waiting_since = None
            elif self._unaffordable is not None:
                self._refuse_cost(self._unaffordable)
            else:
                # other runs have claimed all remaining texts
                waiting_since = waiting_since or time.monotonic()
                self._wait_for_others(waiting_since)
            # one look finds chunks that are left to encode, and projections that a crash of the
            # server took back
            backlogs = [_backlog(self._database, self.names, s, self._scope) for s in self._sets]
        if self._counts.pending:
            self._report(at_once=True)
        self._finish()

    # repeated when an encoder loses the connection to the database with its rate limits
    @resumed
    def _encode_some(self, encoder: StreamingEncoder) -> bool:
        """Select texts and encode those that no other run has claimed; False where no text is left,
        or where the limit is reached."""
        limit = self.options.limit
        unsent = _SELECT_AT_ONCE if limit is None else limit - self._sent
        left = max(0, min(_SELECT_AT_ONCE, unsent))
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
        """The next hashes to encode."""

        @resumed
        def select() -> Selected:
            with open_tables(self._database, self.names) as tables:
                return pending.select_missing(
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
        """Copy vectors with these hashes from sets into the cache, which is emptied after a run."""

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
                    # what was read ahead may take minutes; the answers of a provider are kept,
                    # since they are paid for
                    if self.options.stopped() and not remote_model(encoder.identity.model):
                        raise Interrupted("stopped")
        except Interrupted:
            raise Interrupted(
                f"{self.names.source.entity.name}: stopped after {self._projected.chunks:,} of"
                f" {self._counts.pending:,} chunks; run again to go on"
            ) from None
        finally:
            self.release_claims()
        # the next query of pending chunks is planned by these statistics
        self._analyze()

    def _take(
        self, encoder: StreamingEncoder, feed: Feed, batch: EncodedBatch, writer: Writer
    ) -> None:
        """Pass the vectors and failures of a batch to the writer."""
        streamed = [feed.unanswered.pop(place) for place in batch.places]
        probe = [sources.PROBE if self.names.source.entity.image else PROBE_TEXT]
        self._use(batch.encodings.usage, sum(text.dollars for text in streamed))
        if batch.error:
            outcomes, usage = isolated(
                encoder.encode_documents, [text.text for text in streamed], probe, batch.error
            )
            self._use(usage, 0.0)
        else:
            outcomes = checked(batch.encodings)
            if broken := none_usable(outcomes):
                refuse_broken_model(encoder.encode_documents, probe, broken)
        if streamed and not self.device:
            # reading the device would load a model that no text needs
            self.device = encoder.device
        writer.put(streamed, outcomes)

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
        """Reserve the cost of the next text; False where the run may not spend it."""
        limit = self.options.max_cost_usd
        if not dollars:
            self._sent += 1
            return True
        with self._lock:
            # the tolerance absorbs rounding errors
            total = self._counts.cost_usd + self._reserved + dollars
            if limit is not None and total > limit + 1e-9:
                self._unaffordable = dollars
                return False
            self._unaffordable = None
            self._reserved += dollars
            self._sent += 1
            return True

    def _refuse_cost(self, dollars: float) -> None:
        left = max(0.0, (self.options.max_cost_usd or 0.0) - self._counts.cost_usd)
        raise CostLimitReached(
            f"{self.names.source.entity.name}: the next text would cost ${dollars:.6f}, and"
            f" ${left:.6f} of the run's limit is left; earlier vectors are kept."
            " Raise --max-cost or EMBEDDING_MAX_COST_USD to continue"
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
        """Claim the hashes that no other run has claimed; returns the claim, and each claimed hash
        with its text, in order."""

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
        """End all claims of the run."""
        with open_tables(self._database, self.names) as tables:
            Claims(tables, self._stored, self.options.run_id).release()

    def write(
        self,
        vectors: Mapping[bytes, tuple[Vector, int]],
        errors: Mapping[bytes, tuple[str, int]],
    ) -> list[bytes]:
        """Write vectors to the cache and failures to quarantine, each with the version of its
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
        """Project the rows with these hashes, or all pending rows, into each set."""
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
                    # the check counts whole tables, which is too slow for a run of a few ids
                    continue
                if self.options.partition_keys is None and projection.may_have_orphans(
                    tables, vector_set
                ):
                    projection.remove_orphans(tables, vector_set)

    @resumed
    def _analyze(self) -> None:
        """Refresh the statistics of the sets, where many chunks were written since then."""
        written = self._projected.chunks - self._analyzed
        if written < _ANALYZE_MIN_CHUNKS:
            return
        with open_tables(self._database, self.names) as tables:
            for vector_set in self._sets:
                projection.analyze(tables, vector_set, written)
        self._analyzed += written


class StreamedText(NamedTuple):
    """A text in the stream: its hash, the model's input, its claim and its highest cost."""

    text_hash: bytes
    text: str
    claim: Claim
    dollars: float


class Feed:
    """The texts that an encoder reads, claimed and prefetched. `unanswered` has the texts without a
    result, by their position in the stream."""

    def __init__(self, encoding: Encoding, encoder: StreamingEncoder, selected: Selected) -> None:
        self.unanswered: dict[int, StreamedText] = {}
        self._encoding = encoding
        self._encoder = encoder
        self._selected = selected
        self._windows = prefetch(
            self._read, range(0, len(selected), _READ_AT_ONCE), threads=1, depth=_PREFETCH
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        # a thread of the encoder may still be in the generator, waiting for the database
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
                    # batches that the model has begun are completed; no further text is sent
                    raise Interrupted("stopped")
                if not self._encoding.reserve(cost):
                    return
                self.unanswered[number] = StreamedText(text_hash, text, claim, cost)
                yield text
                number += 1

    def _read(self, first: int) -> tuple[Claim, list[tuple[bytes, str]]]:
        part = slice(first, first + _READ_AT_ONCE)
        hashes = [bytes(text_hash) for text_hash in self._selected.hashes[part]]
        return self._encoding.claim(hashes, self._selected.floors[part].tolist())


class Writer:
    """Writes vectors to the cache and projects them, in two threads. `put` waits when the threads
    fall behind."""

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
        except Exception as failed:
            if error is None:
                raise
            expected = isinstance(failed, psycopg.Error | EmbeddingsError)
            logger.warning(
                "%s: vectors encoded before the run failed are not stored: %s",
                self._encoding.names.source.entity.name,
                " ".join(str(failed).split()),
                exc_info=not expected,
            )
        finally:
            self._writing.shutdown(cancel_futures=True)
            self._projecting.shutdown(cancel_futures=True)

    def put(self, streamed: Sequence[StreamedText], outcomes: Sequence[Outcome]) -> None:
        """Take the results of some texts."""
        for text, outcome in zip(streamed, outcomes, strict=True):
            if isinstance(outcome, RowError):
                self._errors[text.text_hash] = (str(outcome), text.claim.version)
            else:
                self._vectors[text.text_hash] = (outcome, text.claim.version)
        waiting = len(self._vectors) + len(self._errors)
        many = waiting >= _WRITE_BATCH
        late = time.monotonic() - self._written_at >= _WRITE_SECONDS
        idle = self._write is None or self._write.done()
        full = waiting >= _WRITE_BATCH_MAX
        if self._at_once or full or (many and late) or (idle and (many or late)):
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
            # a failure can complete a row whose other chunks are encoded
            self._unprojected += [*stored, *errors]
            waiting = len(self._unprojected)
        if self._projection is None or self._projection.done():
            if self._projection:
                self._projection.result()
            self._projection = self._projecting.submit(self._project)
        elif waiting > _MAX_UNPROJECTED:
            self._projection.result()

    def _project(self) -> None:
        while True:
            with self._lock:
                hashes, self._unprojected = self._unprojected, []
            if not hashes:
                return
            self._encoding.project(hashes)


class Heartbeat:
    """Calls `beat` every few seconds while a block runs, in its own thread."""

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
                # reads and writes wait for the database to come back; claims may expire meanwhile
                logger.debug("claims were not renewed", exc_info=True)


def isolated(
    encode: Encode, texts: Sequence[str], probe: Sequence[str], error: Exception
) -> tuple[list[Outcome], Usage]:
    """A vector or a failure for each text of a batch on which the model raised the error. Encodes
    the batch again in halves, until each text at fault is alone.

    Raises the error where the model fails on the probe, too.
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
        # from the database with the rate limits of requests
        raise
    # an encoder may raise any exception for a text that it rejects
    except Exception as error:
        return isolated(encode, texts, probe, error)
    return checked(done), done.usage


def refuse_broken_model(encode: Encode, probe: Sequence[str], error: Exception) -> None:
    """Raise the error where the model returns no usable vector for the probe: then the texts are
    not at fault."""
    try:
        (outcome,) = checked(encode(probe).raise_if_stopped())
    except Exception:
        raise error from None
    if isinstance(outcome, RowError):
        raise error


def none_usable(outcomes: Sequence[Outcome]) -> EmbeddingsError | None:
    """The error for a batch without a usable vector; None where one vector is usable."""
    failed = [outcome for outcome in outcomes if isinstance(outcome, RowError)]
    if not outcomes or len(failed) < len(outcomes):
        return None
    return EmbeddingsError(_NO_USABLE_VECTOR.format(failed[0]))


def checked(done: Encodings) -> list[Outcome]:
    """For each text its vector, or why the vector is not usable."""
    vectors = done.vectors
    largest = np.abs(vectors).max(axis=1, initial=0.0) if len(vectors) else np.empty(0)
    usable = np.isfinite(largest) & (largest > 0) & (largest <= MAX_COMPONENT)
    unusable = {*np.flatnonzero(~usable)}
    return [
        RowError(done.failures[index])
        if index in done.failures
        else _reason(vector)
        if index in unusable
        else vector
        for index, vector in enumerate(vectors)
    ]


def _reason(vector: Vector) -> RowError:
    if not np.isfinite(vector).all():
        return RowError("the vector is not finite")
    if not vector.any():
        return RowError("the vector is zero")
    return RowError(
        f"the vector has a component beyond {MAX_COMPONENT:,.0f}, the maximum of a halfvec"
    )
