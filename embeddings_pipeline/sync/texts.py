"""Brings `<entity>_texts` up to date with the staging model. Never encodes.

Changed rows are found by content: the staging database computes a fingerprint of each row, and the
pass compares digests of buckets of fingerprints, then the fingerprints of differing buckets.
Timestamps are not trusted. Deletes come last, so that a pass that is refused or killed loses
nothing. Before them, texts that moved to other rows are projected there, so that searches always
find them.
"""

from __future__ import annotations

import time
from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain, islice, repeat

from psycopg import Connection

from embeddings_pipeline.encoders.images.decoding import mime_type
from embeddings_pipeline.encoders.images.sources import ImageFiles
from embeddings_pipeline.encoders.prefetch import capture_row_error, prefetch, prefetch_iterator
from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.entities import chunking
from embeddings_pipeline.entities.fields import BYTES, Source
from embeddings_pipeline.entities.partitions import DayPartitions
from embeddings_pipeline.entities.rendering import (
    MAX_IMAGE_BYTES,
    Rendered,
    content_hash,
    render,
    render_header,
    within_limit,
)
from embeddings_pipeline.errors import DeletesRefused, RowError
from embeddings_pipeline.store import locks, run_ledger, vector_sets
from embeddings_pipeline.store.connection import Postgres, Row
from embeddings_pipeline.store.retry import resumed
from embeddings_pipeline.store.run_ledger import Counts
from embeddings_pipeline.store.staging import diff, reader
from embeddings_pipeline.store.staging.reader import StagedRow
from embeddings_pipeline.store.tables import EntityTables, TableNames, open_tables
from embeddings_pipeline.store.texts import erasures, partition_keys, quarantine, text_tables, texts
from embeddings_pipeline.store.texts.quarantine import UNSETTLED, Failure
from embeddings_pipeline.store.texts.texts import Text
from embeddings_pipeline.store.vectors import cache, pending
from embeddings_pipeline.store.vectors.pending import Scope
from embeddings_pipeline.store.vectors.sets import replace_where_much_is_missing
from embeddings_pipeline.sync.erase import collect_erased
from embeddings_pipeline.sync.progress import Progress
from embeddings_pipeline.sync.project import project_pending
from embeddings_pipeline.sync.retention import finish_migration
from embeddings_pipeline.sync.run_options import RunOptions

# rows and bytes that are written, and rows that are deleted, in one transaction
_WINDOW_ROWS, _WINDOW_BYTES = 2_000, 8 << 20
# images read at the same time
_IMAGE_THREADS = 16
# the share of written rows from which statistics are refreshed at once, not by autovacuum
_ANALYZE_SHARE = 0.1

# the chunks of a row; None is a chunk without text
Pieces = list[Rendered | None]


@dataclass(frozen=True)
class TextsResult:
    """What a pass did, in rows. `read` counts the new and changed rows that were rendered, `reused`
    the chunks whose vector was in the cache."""

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
        """The counts that the pass adds to the run's ledger row."""
        return Counts(
            read=self.read,
            pending=self.reused,  # these chunks had no vector before
            reused=self.reused,
            deleted=self.deleted,
            quarantined=self.quarantined,
            saved_usd=self.saved_usd,
            seconds=self.seconds,
        )


@dataclass
class PassCounts:
    """The counts of a pass so far; they survive a lost connection."""

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
    names: TableNames,
    encoders: Encoders,
    options: RunOptions,
    *,
    keep: bool = True,
) -> TextsResult:
    """One pass over the run's partitions: render new and changed rows, project those whose vectors
    are in the cache, delete rows that are gone from staging.

    A forced run reads every image again, because no fingerprint shows that an image was replaced at
    the same URI. `keep` is False where caches are emptied after the run; the vectors of moved texts
    are then taken from the sets.

    Raises ConfigurationError for null or repeated ids, and DeletesRefused where more than
    `max_delete_share` of the rows would be deleted. Only erased rows are deleted before that.
    """
    return _Pass(staged, vectors, names, encoders, options, keep=keep).run()


class _Pass:
    """One pass over an entity's texts. Its counts survive a lost connection."""

    def __init__(
        self,
        staged: Postgres,
        vectors: Postgres,
        names: TableNames,
        encoders: Encoders,
        options: RunOptions,
        *,
        keep: bool,
    ) -> None:
        self._staged = staged
        self._vectors = vectors
        self._names = names
        self._entity = names.source.entity
        self._encoders = encoders
        self._options = options
        self._keep = keep
        self._done = PassCounts()

    def run(self) -> TextsResult:
        """Do what `sync_texts` says, and record the counts in the ledger."""
        started = time.monotonic()
        finish_migration(self._vectors, self._names, self._options, keep=self._keep)
        if self._options.force and self._entity.image:
            self._unsettle()
        finished = False
        try:
            self._bring_up_to_date()
            finished = True
        finally:
            result = TextsResult(**asdict(self._done), seconds=time.monotonic() - started)
            # rows that a failed pass has written are stored, so its counts are recorded
            if finished or any(asdict(self._done).values()):
                record(self._vectors, self._names, self._options, result.counts)
        collect_erased(self._vectors, self._names, self._encoders.cache.evict)
        return result

    @resumed
    def _unsettle(self) -> None:
        """Let the pass read each image again."""
        with open_tables(self._vectors, self._names) as tables, locks.entity(tables):
            text_tables.ensure_entity(tables.connection, tables.schema, tables.source)
            quarantine.unsettle(tables)

    @resumed
    def _bring_up_to_date(self) -> None:
        keys, done = self._options.partition_keys, self._done
        with (
            self._staged.connection() as source,
            open_tables(self._vectors, self._names) as tables,
            locks.entity(tables, self._options.patience),
        ):
            text_tables.ensure_entity(tables.connection, tables.schema, tables.source)
            if erased := erasures.stored(tables):
                done.deleted += texts.delete(tables, erased, erased=True)
            done.rekeyed += partition_keys.rekey(tables)
            found = diff.compare(source, tables, keys)
            done.new = max(done.new, found.new)
            unfinished = partition_keys.begin_pass(tables, writes=bool(found.changed or found.gone))
            if found.stored or keys is not None:
                text_tables.create_text_indexes(tables.connection, tables.schema, self._entity)
            report_rows = self._reporter(done.read + found.changed)
            images = self._encoders.images
            for ids, new in diff.changed_slices(tables):
                write_rows(source, tables, images, ids, done, report_rows, new=new)
            text_tables.create_text_indexes(tables.connection, tables.schema, self._entity)
            if found.stored and (unfinished or found.changed or found.gone):
                self._project_moved(tables)
            if not self._options.allow_deletes:
                _refuse_mass_deletes(self._names, found)
            for ids in diff.gone_slices(tables, _WINDOW_ROWS):
                done.deleted += texts.delete(tables, ids)
            written = done.read + done.deleted + done.rekeyed
            analyze = written > _ANALYZE_SHARE * found.stored
            partition_keys.finish_pass(tables, keys, analyze=analyze)

    def _project_moved(self, tables: EntityTables) -> None:
        """Project rows whose text has a vector already, because it moved from another row. The
        other row is deleted afterwards."""
        if self._options.force:
            return
        everything = Scope(self._options.partition_keys)
        for vector_set in vector_sets.maintained(vector_sets.read(tables)):
            backlog = pending.backlog(tables, vector_set, everything)
            if not self._keep and backlog.missing:
                wanted = pending.select_missing(tables, [vector_set], everything, backlog.missing)
                stored = vector_set.stored_identity
                if cache.EmbeddingCache(tables, stored).seed([bytes(h) for h in wanted.hashes]):
                    backlog = pending.backlog(tables, vector_set, everything)
            if not backlog.to_project:
                continue
            if self._options.is_unrestricted and replace_where_much_is_missing(
                tables, vector_set, backlog.missing
            ):
                # the vectors asset projects the replacement set instead
                continue
            projected = project_pending(
                self._vectors,
                tables.names,
                vector_set,
                replace(everything, without_gone=True),
                session=tables,
            )
            self._done.reused += projected.chunks
            usd_per_token = self._encoders.usd_per_token(vector_set.model)
            self._done.saved_usd += projected.tokens * usd_per_token

    def _reporter(self, due: int) -> Callable[[], None]:
        """A function that reports how many of the `due` rows are done, and the rate from now on."""
        name, started = f"{self._entity.name} texts", time.monotonic()

        def report_rows() -> None:
            seconds = time.monotonic() - started
            self._options.report(Progress(name, self._done.read, due, seconds, unit="rows"))

        return report_rows


def write_rows(
    source: Connection[Row],
    tables: EntityTables,
    images: ImageFiles,
    ids: Sequence[str],
    done: PassCounts,
    report_rows: Callable[[], None] = lambda: None,
    *,
    new: bool = False,
) -> set[str]:
    """Render and store those of the ids that staging has; returns these. `new` means that none of
    them is stored yet."""
    found: set[str] = set()
    with closing(reader.read_rows(source, tables, ids)) as rows:
        # fetching images may take an hour: no cursor on staging stays open meanwhile
        held = iter([*rows]) if tables.source.has_uris else rows
        render = partial(rendered, names=tables.names, images=images)
        windows = map(render, batches(held, tables.names))
        with closing(prefetch_iterator(windows, depth=2)) as ready:
            for window in ready:
                texts.write(tables, window.texts, window.failures, new=new)
                done.read += window.rows
                done.quarantined += len(window.failures)
                found |= {text.id for text in window.texts}
                report_rows()
    return found


def too_many_deletes(names: TableNames, found: diff.Difference) -> bool:
    """Whether more rows are gone than `max_delete_share` allows."""
    return found.gone > names.source.entity.max_delete_share * found.stored


def _refuse_mass_deletes(names: TableNames, found: diff.Difference) -> None:
    if too_many_deletes(names, found):
        raise DeletesRefused(
            f"entity {names.source.entity.name!r}: {found.gone:,} of {found.stored:,} rows are gone"
            f" from staging, and max_delete_share is {names.source.entity.max_delete_share:.0%};"
            " nothing was deleted. If the deletes are intended, run with --allow-deletes"
        )


@resumed
def record(database: Postgres, names: TableNames, options: RunOptions, counts: Counts) -> None:
    """Add the counts to the ledger row of a run."""
    with open_tables(database, names) as tables:
        run_ledger.record(tables, options.run_id, "texts", counts, kind=options.kind)


@dataclass(frozen=True)
class Window:
    """The chunks of a number of whole rows, and the failures among these rows."""

    rows: int
    texts: list[Text]
    failures: list[Failure]


def batches(rows: Iterable[StagedRow], names: TableNames) -> Iterator[list[StagedRow]]:
    """Cut a stream of rows into windows of at most 2,000 rows and about 8 MiB.

    Raises ConfigurationError for a repeated id.
    """
    seen: set[str] = set()
    batch: list[StagedRow] = []
    size = 0
    for row in rows:
        if row.id in seen:
            diff.refuse_bad_ids(names.source.entity, 0, [row.id])
        seen.add(row.id)
        batch.append(row)
        size += sum(map(len, filter(None, row.values.values())))
        if len(batch) == _WINDOW_ROWS or size > _WINDOW_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def rendered(
    rows: Sequence[StagedRow],
    names: TableNames,
    images: ImageFiles | None,
    *,
    count: Callable[[Sequence[str]], list[int]] = chunking.measure_tokens,
) -> Window:
    """The texts of a window of rows, with tokens counted by `count`; images have no tokens.

    Without `images` no image is read, and an image counts as changed when its URI changes.
    """
    done: list[tuple[StagedRow, str, int, Pieces]] = []
    failures: list[Failure] = []
    for row, pieces in zip(rows, _pieces_of(rows, names, images), strict=True):
        try:
            key = _partition_key(row, names)
        except RowError as error:
            failures.append(Failure(row.id, "partition", str(error)))
            # each pass reads the row again, because its day may still be in the future
            done.append((row, "", UNSETTLED, [None]))
            continue
        if isinstance(pieces, RowError):
            failures.append(
                Failure(row.id, "render", str(pieces), image_uri(names.source, row.values))
            )
            # no fingerprint shows that a host is up again, or that a file arrived
            settled = UNSETTLED if names.source.has_uris else row.fingerprint
            done.append((row, key, settled, [None]))
        else:
            done.append((row, key, row.fingerprint, pieces))
    inputs = [piece.inputs for *_, pieces in done for piece in pieces if piece]
    every = chain.from_iterable(inputs)
    counts = repeat(0) if names.source.entity.image else iter(count([*every]))
    tokens = ([*islice(counts, len(of_piece))] for of_piece in inputs)
    written = [
        _text(row, key, fingerprint, chunk, piece, next(tokens) if piece else [])
        for row, key, fingerprint, pieces in done
        for chunk, piece in enumerate(pieces)
    ]
    return Window(len(rows), written, failures)


def _pieces_of(
    rows: Sequence[StagedRow], names: TableNames, images: ImageFiles | None
) -> Iterator[Pieces | RowError]:
    """The chunks of each row, at least one, or the error that rendering raised."""
    if column := names.source.entity.image:

        def image_pieces(row: StagedRow) -> Pieces:
            _refuse_unreadable(row)
            return [render_image(names.source, row.values[column], images)]

        read_image = capture_row_error(image_pieces)
        yield from prefetch(read_image, rows, threads=_IMAGE_THREADS, depth=2 * _IMAGE_THREADS)
        return
    for row in rows:
        try:
            yield _pieces(row, names)
        except RowError as error:
            yield error


def _pieces(row: StagedRow, names: TableNames) -> Pieces:
    """The chunks of a row; a row without text has one chunk, None."""
    _refuse_unreadable(row)
    entity = names.source.entity
    rendered = render(entity, names.source.text_columns, row.values)
    if rendered is None or entity.chunk is None:
        return [rendered]
    header = render_header(entity, row.values)
    return [Rendered(piece) for piece in chunking.split(rendered.text, entity.chunk, header)]


def _refuse_unreadable(row: StagedRow) -> None:
    if row.error:
        raise RowError(row.error)


def _partition_key(row: StagedRow, names: TableNames) -> str:
    partitions = names.source.entity.partitions
    if isinstance(partitions, DayPartitions):
        return partitions.key_of(row.day)
    return row.bucket or partitions.key_of(row.id)


def _text(
    row: StagedRow,
    key: str,
    fingerprint: int,
    chunk: int,
    piece: Rendered | None,
    tokens: list[int],
) -> Text:
    parts = piece.parts if piece else None
    return Text(
        row.id,
        chunk,
        key,
        fingerprint,
        piece.text if piece else None,
        piece.text_hash if piece else None,
        sum(tokens),
        list(parts) if parts else None,
        piece.part_hashes if piece else None,
        tokens if parts else None,
        list(piece.weights) if piece and piece.weights else None,
        row.changed_at,
        row.copied,
    )


def render_image(source: Source, value: str | None, images: ImageFiles | None) -> Rendered | None:
    """The image of a row, hashed by its bytes; None where the row has none.

    `value` is a URI, or base64 for a column of bytes. Without `images` nothing is read, and the URI
    is hashed instead of the image. Raises RowError for an image that cannot be read.
    """
    value = (value or "").strip()
    if not value:
        return None
    if source.columns[source.text_columns[0]] == BYTES:
        uri, data = _data_uri(value)
    else:
        uri = within_limit(value)
        data = images.read(uri) if images else uri.encode()
    return Rendered(uri, image_hash=content_hash(data))


def image_uri(source: Source, values: Mapping[str, str | None]) -> str | None:
    """The URI of a row's image; None for an entity of texts, or of images in a column of bytes."""
    image = source.entity.image
    return (values[image] or "").strip() if image and source.has_uris else None


def _data_uri(base64: str) -> tuple[str, bytes]:
    data = b64decode(base64)
    if len(data) > MAX_IMAGE_BYTES:
        raise RowError(
            f"the image has more than {MAX_IMAGE_BYTES:,} bytes, the maximum of a data URI: store"
            " larger images in files or a bucket, and their URIs in the column"
        )
    return f"data:{mime_type(data)};base64,{base64}", data
