"""Turns a stream of staged rows into windows of texts. Touches no database."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, repeat

from embeddings_pipeline.encoders.ahead import ahead, attempted
from embeddings_pipeline.encoders.image_files import ImageFiles
from embeddings_pipeline.entities import chunking
from embeddings_pipeline.entities.partitions import DayPartitions
from embeddings_pipeline.entities.serialise import Rendered, render
from embeddings_pipeline.errors import ConfigurationError, RowError
from embeddings_pipeline.store.staging import StagedRow
from embeddings_pipeline.store.statements import Statements
from embeddings_pipeline.store.texts.quarantine import UNSETTLED, Failure
from embeddings_pipeline.store.texts.texts import Text
from embeddings_pipeline.sync.images import image_uri, render_image

# a window ends with whichever comes first
_WINDOW_ROWS = 2_000
_WINDOW_BYTES = 8 << 20
# images that are read at once
_READERS = 16

Pieces = list[Rendered | None]


@dataclass(frozen=True)
class Window:
    """The chunks of so many whole rows, and those rows that failed."""

    rows: int
    texts: list[Text]
    failures: list[Failure]


def batches(rows: Iterable[StagedRow], on: Statements) -> Iterator[list[StagedRow]]:
    """Cut a stream of rows into windows, bounded in rows and bytes.

    Raises ConfigurationError for an id that comes twice.
    """
    seen: set[str] = set()
    batch: list[StagedRow] = []
    size = 0
    for row in rows:
        if row.id in seen:
            refuse_bad_ids(on, 0, [row.id])
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
    on: Statements,
    images: ImageFiles | None,
    *,
    count: Callable[[Sequence[str]], list[int]] = chunking.measure_tokens,
) -> Window:
    """The texts of a window of rows, their tokens as `count` has them; images have none.

    Without `images` none is read: each is taken to be another where its URI is.
    """
    done: list[tuple[StagedRow, str, int, Pieces]] = []
    failures: list[Failure] = []
    for row, pieces in zip(rows, _pieces_of(rows, on, images), strict=True):
        try:
            key = _partition_key(row, on)
        except RowError as error:
            failures.append(Failure(row.id, "partition", str(error)))
            # looked at again by each pass, until its day has come
            done.append((row, "", UNSETTLED, [None]))
            continue
        if isinstance(pieces, RowError):
            failures.append(
                Failure(row.id, "render", str(pieces), image_uri(on.source, row.values))
            )
            # a host that was down, or a file that came late, shows in no fingerprint
            settled = UNSETTLED if on.source.has_uris else row.fingerprint
            done.append((row, key, settled, [None]))
        else:
            done.append((row, key, row.fingerprint, pieces))
    pieces_with_text = [piece for *_, pieces in done for piece in pieces if piece]
    parts = [piece.parts or (piece.text,) for piece in pieces_with_text]
    each = chain.from_iterable(parts)
    counts = repeat(0) if on.source.entity.image else iter(count([*each]))
    tokens = iter([[next(counts) for _ in group] for group in parts])
    written = [
        _text(row, key, fingerprint, chunk, piece, next(tokens) if piece else [])
        for row, key, fingerprint, pieces in done
        for chunk, piece in enumerate(pieces)
    ]
    return Window(len(rows), written, failures)


def _pieces_of(
    rows: Sequence[StagedRow], on: Statements, images: ImageFiles | None
) -> Iterator[Pieces | RowError]:
    """The chunks of each row, at least one, or why it has none."""
    if column := on.source.entity.image:

        def image_of(row: StagedRow) -> Pieces:
            _refuse_unreadable(row)
            return [render_image(on.source, row.values[column], images)]

        yield from ahead(attempted(image_of), rows, threads=_READERS, depth=2 * _READERS)
        return
    for row in rows:
        try:
            yield _pieces(row, on)
        except RowError as error:
            yield error


def _pieces(row: StagedRow, on: Statements) -> Pieces:
    """A row without text has one chunk that is None."""
    _refuse_unreadable(row)
    entity = on.source.entity
    rendered = render(entity, on.source.text_columns, row.values)
    if rendered is None or entity.chunk is None:
        return [rendered]
    return [Rendered(piece) for piece in chunking.split(rendered.text, entity.chunk)]


def _refuse_unreadable(row: StagedRow) -> None:
    if row.error:
        raise RowError(f"staging has a value that cannot be read: {row.error}")


def _partition_key(row: StagedRow, on: Statements) -> str:
    partitions = on.source.entity.partitions
    if isinstance(partitions, DayPartitions):
        return partitions.key_of(row.day)
    return partitions.key_of(row.id)


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
        row.filters,
    )


def refuse_bad_ids(on: Statements, nulls: int, repeated: list[str]) -> None:
    """Raise ConfigurationError where a row has no id or ids repeat."""
    entity = on.source.entity
    where = f"entity {entity.name!r}: {entity.db_schema}.{entity.table}"
    if nulls:
        raise ConfigurationError(
            f"{where} has {nulls} rows whose {entity.id} is null: an id must be unique and not"
            " null; correct the staging model"
        )
    if repeated:
        raise ConfigurationError(
            f"{where} has {entity.id} more than once, among them"
            f" {', '.join(repr(row_id) for row_id in repeated)}: an id must be unique; correct"
            " the staging model"
        )
