"""The `<entity>_texts` table: the text of each row. It is written in windows of whole rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import LiteralString, NamedTuple

from psycopg import sql
from psycopg.errors import UniqueViolation
from psycopg.sql import Identifier, Literal

from embeddings_pipeline.store import vector_sets
from embeddings_pipeline.store.connection import asynchronous_commit
from embeddings_pipeline.store.tables import EntityTables
from embeddings_pipeline.store.texts import candidates, quarantine
from embeddings_pipeline.store.texts.quarantine import Failure
from embeddings_pipeline.store.wire import hash_array

# a random but stable order of chunks, by an index of `texts`; a limit follows
SAMPLED: LiteralString = (
    "select {id}, chunk from {texts} where text_hash is not null order by text_hash"
)
_COLUMNS = (
    *("chunk", "partition_key", "fingerprint", "text", "text_hash", "tokens", "parts"),
    *("part_hashes", "part_tokens", "weights", "source_changed_at"),
)


class Text(NamedTuple):
    """One chunk of a row. `text` is None for a row without text, or one that failed to render."""

    id: str
    chunk: int
    partition_key: str
    fingerprint: int
    text: str | None
    text_hash: bytes | None
    tokens: int
    parts: list[str] | None
    part_hashes: list[bytes] | None
    part_tokens: list[int] | None
    weights: list[float] | None
    source_changed_at: str | None
    copied: tuple[str | None, ...]


class TextToRead(NamedTuple):
    """The model's input for a hash: a text, a weighted part of a text, or the URI of an image."""

    text_hash: bytes
    text: str


def write(
    tables: EntityTables, texts: Sequence[Text], failures: Sequence[Failure], *, new: bool = False
) -> None:
    """Store whole rows in one transaction, and remove chunks that they no longer have. `new` means
    that none of the rows is stored yet.

    The vectors of the rows get their new copied columns in the same transaction. A row that lost
    its text loses its vectors. Erased ids are left out. A row keeps its text where its image was
    read before from the same URI, but cannot be read now.
    """
    if new and not failures:
        try:
            with asynchronous_commit(tables.connection):
                _copy(tables, tables.names.identifiers["texts"], texts)
            return
        except UniqueViolation:
            # another run has written some of the rows since the pass began
            pass
    with asynchronous_commit(tables.connection):
        _receive(tables, texts)
        _keep_unread(tables, failures)
        candidates.note(tables, _replaced(tables))
        _upsert(tables)
        tables.execute(
            """
            delete from {texts} t using (
                select {id}, max(chunk) as chunk from incoming_texts group by {id}
            ) as i
            where t.{id} = i.{id} and t.chunk > i.chunk
            """
        )
        for table in vector_sets.table_names(tables.connection, tables.schema, tables.entity):
            _trim(tables, table)
            if tables.source.copied:
                _update_copied(tables, table)
        quarantine.note_rows(tables, failures)


def delete(tables: EntityTables, ids: Sequence[str], *, erased: bool = False) -> int:
    """Delete rows in one transaction, and note their hashes as cache candidates; returns how many
    rows were deleted.

    Texts are locked first, so that a writer of vectors waits and then finds no text. A live set
    that is being replaced keeps the vectors of a text that moved to another id, unless it is
    erased, so that searches find the text until the new set is live.
    """
    names: dict[str, sql.Composable] = {
        "chosen": tables.fill("any({ids}::{id_type}[])", ids=Literal(list(ids))),
    }
    with tables.connection.transaction():
        tables.execute(
            "select from {texts} where {id} = {chosen} order by {id}, chunk for update", **names
        )
        candidates.note(
            tables,
            tables.fill(
                "select text_hash, part_hashes from {texts} where {id} = {chosen}", **names
            ),
            erased=erased,
        )
        (deleted,) = tables.one(
            "with deleted as (delete from {texts} where {id} = {chosen} returning chunk)"
            " select count(*) filter (where chunk = 0) from deleted",
            **names,
        )
        sets = vector_sets.read(tables)
        for vector_set in sets:
            rests = not erased and any(other.replaces(vector_set) for other in sets)
            tables.execute(
                "delete from {vectors} v where v.{id} = {chosen} and not ({rests}"
                " and exists (select from {texts} t where t.text_hash = v.text_hash))",
                vectors=tables.table(vector_set.table_name),
                rests=Literal(rests),
                **names,
            )
        tables.execute(
            "delete from {quarantine} where entity = {entity} and id = any(%s)", (list(ids),)
        )
    return int(deleted)


def read(tables: EntityTables, hashes: Sequence[bytes]) -> list[TextToRead]:
    """The model's input for each of these hashes, once; hashes without a text are left out."""
    # a scalar subquery makes the planner use the index, whichever row count it estimates
    text: LiteralString = (
        "select p.part from {texts} t, unnest(t.part_hashes, t.parts) as p (part_hash, part)"
        " where t.part_hashes @> array[h.text_hash] and p.part_hash = h.text_hash limit 1"
        if tables.source.entity.weights
        else "select t.text from {texts} t where t.text_hash = h.text_hash limit 1"
    )
    rows = tables.execute(
        """
        select place, text from (
            select h.place::int4 as place, ({text}) as text
            from unnest(%s::uuid[]) with ordinality as h (text_hash, place)
        ) as found where text is not null
        """,
        (hash_array(hashes),),
        text=tables.fill(text),
    )
    return [TextToRead(hashes[place - 1], text) for place, text in rows]


def count(tables: EntityTables) -> int:
    """The number of chunks, including those without a text."""
    (chunks,) = tables.one("select count(*) from {texts}")
    return int(chunks)


def _column_list(tables: EntityTables) -> sql.Composable:
    return sql.SQL(", ").join(
        Identifier(column) for column in (tables.source.entity.id, *_COLUMNS, *tables.source.copied)
    )


def _copy(tables: EntityTables, table: sql.Composable, texts: Sequence[Text]) -> None:
    query = sql.SQL("copy {} ({}) from stdin").format(table, _column_list(tables))
    with tables.connection.cursor() as cursor, cursor.copy(query) as copy:
        for text in texts:
            copy.write_row(
                (
                    text.id,
                    text.chunk,
                    text.partition_key,
                    text.fingerprint,
                    text.text,
                    text.text_hash.hex() if text.text_hash else None,
                    text.tokens,
                    text.parts,
                    [part.hex() for part in text.part_hashes] if text.part_hashes else None,
                    text.part_tokens,
                    text.weights,
                    text.source_changed_at,
                    *text.copied,
                )
            )


def _receive(tables: EntityTables, texts: Sequence[Text]) -> None:
    tables.execute(
        "create temporary table if not exists incoming_texts on commit delete rows"
        " as select {columns} from {texts} with no data",
        columns=_column_list(tables),
    )
    _copy(tables, Identifier("incoming_texts"), texts)
    tables.execute("analyze incoming_texts")


def _keep_unread(tables: EntityTables, failures: Sequence[Failure]) -> None:
    # the images of a host that is down for an hour have not changed
    unread = [(failure.id, failure.unread) for failure in failures if failure.unread]
    if unread:
        tables.execute(
            """
            update incoming_texts i set text = t.text, text_hash = t.text_hash
            from {texts} t, unnest(%s::text[], %s::text[]) as f (id, uri)
            where t.{id} = i.{id} and t.chunk = i.chunk and t.{id}::text = f.id and t.text = f.uri
            """,
            [*map(list, zip(*unread, strict=True))],
        )


def _replaced(tables: EntityTables) -> sql.Composable:
    """The hashes of chunks that `incoming_texts` replaces or removes."""
    return tables.fill(
        """
        select t.text_hash, t.part_hashes
        from {texts} t
        left join incoming_texts i on i.{id} = t.{id} and i.chunk = t.chunk
        where t.{id} = any(array(select {id} from incoming_texts))
            and t.text_hash is distinct from i.text_hash
        """
    )


def _upsert(tables: EntityTables) -> None:
    mutable = (*_COLUMNS[1:], *tables.source.copied)
    tables.execute(
        """
        insert into {texts} as t ({columns})
        select {columns} from incoming_texts i
        where not exists (
            select from {erasures} e where e.entity = {entity} and e.id = i.{id}::text
        )
        -- in the order in which projections lock the rows
        order by {id}, chunk
        on conflict ({id}, chunk) do update set {assignments},
            -- from this moment the vector is missing
            serialised_at = case when t.text_hash is distinct from excluded.text_hash
                then clock_timestamp() else t.serialised_at end
        """,
        columns=_column_list(tables),
        assignments=sql.SQL(", ").join(
            sql.SQL("{c} = excluded.{c}").format(c=Identifier(c)) for c in mutable
        ),
    )


def _trim(tables: EntityTables, table: str) -> None:
    """Remove the vectors of chunks that a row no longer has, for rows that need no projection: a
    projection replaces the other rows as a whole."""
    tables.execute(
        """
        delete from {vectors} v using (
            select {id}, max(chunk) filter (where text_hash is not null) as chunk
            from incoming_texts group by {id}
        ) as i
        where v.{id} = i.{id} and v.chunk > coalesce(i.chunk, -1) and not exists (
            select from incoming_texts t
            left join {vectors} w on w.{id} = t.{id} and w.chunk = t.chunk
            where t.{id} = v.{id} and t.text_hash is not null
                and w.text_hash is distinct from t.text_hash
        )
        """,
        vectors=tables.table(table),
    )


def _update_copied(tables: EntityTables, table: str) -> None:
    """Copy the columns of the staging model from the rows to their vectors.

    Compares them as they are stored: values of another spelling may be equal, like 1.0 and 1.00.
    """
    copied = tables.source.copied
    tables.execute(
        """
        update {vectors} v set ({names}) = row({values})
        from incoming_texts i
        where v.{id} = i.{id} and v.chunk = i.chunk
            and row({current})::record *<> row({values})::record
        """,
        vectors=tables.table(table),
        names=sql.SQL(", ").join(Identifier(c) for c in copied),
        values=sql.SQL(", ").join(Identifier("i", c) for c in copied),
        current=sql.SQL(", ").join(Identifier("v", c) for c in copied),
    )
