"""Reads a published set as a whole, and stores the rows of a snapshot in one SQLite file. The
number of a row is that of its vector in the index."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from threading import Lock
from typing import Any, TypeAlias
from uuid import UUID

import numpy as np
from pgvector.psycopg import register_vector
from psycopg import Connection, sql
from psycopg.sql import Literal

from embeddings_pipeline.errors import ConfigurationError, EmbeddingsError
from embeddings_pipeline.store.connection import Row
from embeddings_pipeline.store.search.hybrid import fields
from embeddings_pipeline.store.search.published import Published, read, version
from embeddings_pipeline.store.tables import EntityTables
from embeddings_pipeline.store.texts.texts import SAMPLED

_BATCH = 2_000


@dataclass(frozen=True)
class Batch:
    """(id, chunk, text, fields) of some chunks, and their vectors, of shape (n, dimension)."""

    rows: Sequence[tuple[str, int, str, Mapping[str, Any]]]
    vectors: np.ndarray[tuple[int, int], np.dtype[np.float32]]


@contextmanager
def one_moment(connection: Connection[Row], schema: str, entity: str) -> Iterator[Published]:
    """The published set of an entity. All reads in the block see the same state of the database.

    Raises ConfigurationError where nothing is published.
    """
    register_vector(connection)
    published = read(connection, schema, entity)
    with connection.transaction():
        connection.execute("set transaction isolation level repeatable read, read only")
        query = sql.SQL("select {}").format(version(schema, entity))
        if connection.execute(query).fetchone() != (published.version,):
            raise EmbeddingsError(
                f"entity {entity!r} was published again during the read: try again"
            )
        yield published


def count(connection: Connection[Row], published: Published) -> int:
    """The number of vectors of the set."""
    tables = EntityTables(connection, published.names)
    (vectors,) = tables.one(
        "select count(*) from {vectors}", vectors=tables.table(published.vector_set.table_name)
    )
    return int(vectors)


def sample(
    connection: Connection[Row], published: Published, size: int
) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """A sample of the vectors, shape (at most size, dimension), the same each time."""
    rows = connection.execute(
        published.names.fill(
            "select v.embedding::vector from ({sampled} limit {size}) as t"
            " join {vectors} v using ({id}, chunk)",
            sampled=published.names.fill(SAMPLED),
            vectors=published.names.table(published.vector_set.table_name),
            size=Literal(size),
        ),
        binary=True,
    ).fetchall()
    return np.stack([vector.to_numpy() for (vector,) in rows]).astype(np.float32)


def batches(connection: Connection[Row], published: Published) -> Iterator[Batch]:
    """All chunks of the set, a few thousand at a time."""
    with connection.cursor(name="export", binary=True) as cursor:
        cursor.execute(
            published.names.fill(
                "select v.{id}::text, v.chunk, v.text, {fields}, v.embedding::vector"
                " from {vectors} v",
                fields=fields(published),
                vectors=published.names.table(published.vector_set.table_name),
            )
        )
        while rows := cursor.fetchmany(_BATCH):
            vectors = np.stack([row[4].to_numpy() for row in rows]).astype(np.float32)
            yield Batch([row[:4] for row in rows], vectors)


Numbers: TypeAlias = np.ndarray[tuple[int], np.dtype[np.int64]]

_OPERATORS = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


@dataclass(frozen=True)
class SnapshotRow:
    """One chunk; `norm` is the length of its vector before it was normalized."""

    number: int
    id: str
    chunk: int
    text: str
    fields: Mapping[str, Any]
    norm: float


def write(path: Path, columns: Mapping[str, str], batches: Iterable[Sequence[SnapshotRow]]) -> None:
    """Write rows batch by batch, without holding all of them in memory."""
    # columns are named by number, because a filter may have any name
    filters = [f"c{n}" for n in range(len(columns))]
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        # an unfinished file is never read
        file.execute("pragma journal_mode = off")
        file.execute("pragma synchronous = off")
        file.execute("begin")
        names = ", ".join(["number integer primary key", "id", "chunk", "text", "fields", "norm"])
        file.execute(f"create table rows ({', '.join([names, *filters])})")
        insert = f"insert into rows values ({', '.join('?' * (6 + len(filters)))})"  # noqa: S608 - marks only
        for batch in batches:
            file.executemany(insert, (_stored(row, columns) for row in batch))
        for name in ("id", *filters):
            file.execute(f"create index by_{name} on rows ({name})")
        file.execute("commit")


def _stored(row: SnapshotRow, columns: Mapping[str, str]) -> tuple[Any, ...]:
    fields = json.dumps(row.fields, ensure_ascii=False)
    values = [stored(kind, row.fields[column]) for column, kind in columns.items()]
    return (row.number, row.id, row.chunk, row.text, fields, row.norm, *values)


class SnapshotRows:
    """Reads the rows of a snapshot; several threads may use it."""

    def __init__(self, path: Path, columns: Mapping[str, str]) -> None:
        self._columns = columns
        # an open file stays readable when a new snapshot replaces it
        self._file = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False
        )
        self._lock = Lock()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def numbered(self, numbers: Numbers) -> list[SnapshotRow]:
        """The rows with these numbers, in no particular order."""
        rows = self._rows(
            "select number, id, chunk, text, fields, norm from rows"
            " where number in (select value from json_each(?))",
            [json.dumps(numbers.tolist())],
        )
        return [SnapshotRow(n, i, c, t, json.loads(f), norm) for n, i, c, t, f, norm in rows]

    def of(self, row_id: str) -> list[tuple[int, float]]:
        """Number and norm of each chunk of a row."""
        return self._rows("select number, norm from rows where id = ?", [row_id])

    def passing(self, filters: Mapping[str, Any], without: str | None) -> Numbers | None:
        """The numbers of the rows that pass the filters, except the row `without`; None where all
        rows pass.

        Raises ConfigurationError for a column that is not a filter, or a value of a wrong type.
        """
        clauses: list[str] = []
        values: list[Any] = []
        for column, wanted in filters.items():
            self._add(column, wanted, clauses, values)
        if without is not None:
            clauses.append("id <> ?")
            values.append(without)
        if not clauses:
            return None
        rows = self._rows("select number from rows where " + " and ".join(clauses), values)  # noqa: S608 - marks only
        return np.array([number for (number,) in rows], dtype=np.int64)

    def _add(self, column: str, wanted: Any, clauses: list[str], values: list[Any]) -> None:
        if column not in self._columns:
            choices = ", ".join(self._columns) or "none is declared"
            raise ConfigurationError(f"filter {column!r} is not a filter column ({choices})")
        name, kind = f"c{list(self._columns).index(column)}", self._columns[column]
        if wanted is None:
            clauses.append(f"{name} is null")
        elif isinstance(wanted, Mapping):
            for bound, value in wanted.items():
                clauses.append(f"{name} {_OPERATORS[bound]} ?")
                values.append(filter_value(column, kind, value))
        elif isinstance(wanted, list | tuple):
            among = [filter_value(column, kind, value) for value in wanted if value is not None]
            clauses.append(
                f"({name} in ({', '.join('?' * len(among))})"
                f"{f' or {name} is null' if None in wanted else ''})"
            )
            values += among
        else:
            clauses.append(f"{name} = ?")
            values.append(filter_value(column, kind, wanted))

    def _rows(self, query: str, values: Sequence[Any]) -> list[Any]:
        with self._lock:
            return self._file.execute(query, values).fetchall()


Comparable: TypeAlias = int | float | str | None

_BOOLEANS = {"true": 1, "t": 1, "false": 0, "f": 0}


def _time(text: str) -> str:
    return datetime.fromisoformat(text).replace(tzinfo=None).isoformat(timespec="microseconds")


def _moment(text: str) -> str:
    moment = datetime.fromisoformat(text)
    # a time without a zone is in UTC, as in the pipeline's sessions
    with_zone = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return with_zone.astimezone(UTC).isoformat(timespec="microseconds")


_PARSERS: Mapping[str, Callable[[str], Comparable]] = {
    "boolean": lambda text: _BOOLEANS[text.lower()],
    **dict.fromkeys(("smallint", "integer", "bigint"), int),
    **dict.fromkeys(("numeric", "real", "double precision"), float),
    **dict.fromkeys(("text", "character varying", "character"), str),
    "uuid": lambda text: str(UUID(text)),
    "date": lambda text: date.fromisoformat(text).isoformat(),
    "timestamp without time zone": _time,
    "timestamp with time zone": _moment,
}


def stored(kind: str, value: Any) -> Comparable:
    """A JSON value from the database in comparable form. A value that Python cannot parse
    (infinity, a year beyond 9999) stays a text."""
    read = _PARSERS.get(_base(kind))
    if value is None or read is None:
        return None
    with suppress(ValueError, KeyError, OverflowError):
        return read(str(value))
    return str(value)


def filter_value(column: str, kind: str, value: Any) -> Comparable:
    """A value of a request in comparable form. Raises ConfigurationError where it does not fit the
    column, or where a snapshot cannot compare the type."""
    read = _PARSERS.get(_base(kind))
    if read is None:
        raise ConfigurationError(
            f"filter {column!r}: a snapshot does not compare values of type {kind}"
        )
    try:
        return read(str(value))
    except (ValueError, KeyError):
        raise ConfigurationError(f"filter {column!r}: {value!r} is not a {kind}") from None


def _base(kind: str) -> str:
    """A type without length or precision."""
    head, _, rest = kind.partition("(")
    return (head + rest.partition(")")[2]).strip()
