"""Reads a published set as a whole, and stores the rows of a snapshot in one SQLite file. The
number of a row is that of its vector in the index."""

from __future__ import annotations

import json
import math
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any, TypeAlias
from uuid import UUID

import numpy as np
from pgvector.psycopg import register_vector
from psycopg import Connection, sql
from psycopg.sql import Literal

from embeddings_pipeline.errors import ConfigurationError, EmbeddingsError
from embeddings_pipeline.store.connection import Row, consistent_read, server_cursor
from embeddings_pipeline.store.filters import (
    Condition,
    Filter,
    Group,
    base_type,
    is_not_a,
    parse,
    type_of,
)
from embeddings_pipeline.store.search.counts import MAX_VALUES
from embeddings_pipeline.store.search.hybrid import fields, shown
from embeddings_pipeline.store.search.published import Published, coverage, read, version
from embeddings_pipeline.store.search.published_search import Counts, Hit, StoredRow
from embeddings_pipeline.store.tables import EntityTables, drop_noticed
from embeddings_pipeline.store.texts.texts import SAMPLED

BATCH_ROWS = 2_000
# title, url and image_url
Shown: TypeAlias = tuple[str | None, str | None, str | None]


@dataclass(frozen=True)
class Batch:
    """(id, chunk, text, fields, shown) of chunks, and their vectors, of shape (n, dimension)."""

    rows: Sequence[tuple[str, int, str, Mapping[str, Any], Shown]]
    vectors: np.ndarray[tuple[int, int], np.dtype[np.float32]]


class PublishedRows:
    """Reads a published set as a whole, over one connection."""

    def __init__(self, connection: Connection[Row], published: Published) -> None:
        self._tables = EntityTables(connection, published.names)
        self.published = published

    def count(self) -> int:
        """The number of vectors of the set."""
        (vectors,) = self._tables.one(
            "select count(*) from {vectors}", vectors=self.published.vectors
        )
        return int(vectors)

    def sample(self, size: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        """A sample of the vectors, shape (at most size, dimension), the same each time."""
        query = self._tables.fill(
            "select v.embedding::vector from ({sampled} limit {size}) as t"
            " join {vectors} v using ({id}, chunk)",
            sampled=self._tables.fill(SAMPLED),
            vectors=self.published.vectors,
            size=Literal(size),
        )
        rows = self._tables.connection.execute(query, binary=True).fetchall()
        return np.stack([vector.to_numpy() for (vector,) in rows]).astype(np.float32)

    def batches(self) -> Iterator[Batch]:
        """All chunks of the set, a few thousand at a time."""
        with server_cursor(self._tables.connection, "export", binary=True) as cursor:
            cursor.execute(
                self._tables.fill(
                    "select v.{id}::text, v.chunk, v.text, {fields}, {shown}, v.embedding::vector"
                    " from {vectors} v",
                    fields=fields(self.published),
                    shown=shown(self.published),
                    vectors=self.published.vectors,
                )
            )
            while rows := cursor.fetchmany(BATCH_ROWS):
                vectors = np.stack([row[5].to_numpy() for row in rows]).astype(np.float32)
                yield Batch([row[:5] for row in rows], vectors)

    def coverage(self) -> float:
        """The percentage of the entity's rows with vectors."""
        return coverage(self._tables.connection, self._tables.schema, self._tables.entity)[0]


@contextmanager
def one_moment(connection: Connection[Row], schema: str, entity: str) -> Iterator[PublishedRows]:
    """The published set of an entity. All reads in the block see the same state of the database.

    Raises ConfigurationError where nothing is published.
    """
    register_vector(connection)
    published = read(connection, schema, entity)
    with consistent_read(connection):
        query = sql.SQL("select {}").format(version(schema, entity))
        if connection.execute(query).fetchone() != (published.version,):
            raise EmbeddingsError(
                f"entity {entity!r} was published again during the read: try again"
            )
        with drop_noticed(entity):
            yield PublishedRows(connection, published)


Numbers: TypeAlias = np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(frozen=True)
class SnapshotRow:
    """One chunk; `shown` are title, url and image_url of its row, and `norm` is the length of its
    vector before it was normalized."""

    number: int
    id: str
    chunk: int
    text: str
    fields: Mapping[str, Any]
    shown: Shown
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
        names = ", ".join(
            ["number integer primary key", "id", "chunk", "text", "fields", "shown", "norm"]
        )
        file.execute(f"create table rows ({', '.join([names, *filters])})")
        insert = f"insert into rows values ({', '.join('?' * (7 + len(filters)))})"  # noqa: S608 - marks only
        for batch in batches:
            file.executemany(insert, (_stored(row, columns) for row in batch))
        for name in ("id", *filters):
            file.execute(f"create index by_{name} on rows ({name})")
        file.execute("commit")


def _stored(row: SnapshotRow, columns: Mapping[str, str]) -> tuple[Any, ...]:
    fields, shown = (json.dumps(part, ensure_ascii=False) for part in (row.fields, row.shown))
    values = [stored(kind, row.fields[column]) for column, kind in columns.items()]
    return (row.number, row.id, row.chunk, row.text, fields, shown, row.norm, *values)


class SnapshotRows:
    """Reads the rows of a snapshot; several threads may use it. Raises EmbeddingsError for a file
    that does not have `count` rows with these filter columns, and wherever it is damaged."""

    def __init__(self, path: Path, columns: Mapping[str, str], count: int) -> None:
        self._path = path
        self._columns = columns
        # an open file stays readable when a new snapshot replaces it
        self._file = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False
        )
        self._lock = Lock()
        names = ", ".join(["chunk", "text", "fields", "shown", "norm", *self._names()])
        try:
            # a column that is missing is an error
            self._rows(f"select id, {names} from rows limit 1", [])  # noqa: S608 - fixed names
            found = self._rows("select count(*), min(number), max(number) from rows", [])
            if found != [(count, 0, count - 1)]:
                raise self._damaged(f"rows {found[0]} instead of {count}")
        except EmbeddingsError:
            self.close()
            raise

    def _names(self) -> list[str]:
        return [f"c{n}" for n in range(len(self._columns))]

    def _damaged(self, why: object) -> EmbeddingsError:
        return EmbeddingsError(f"{self._path} is damaged ({why}): export the entity again")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def numbered(self, numbers: Numbers) -> list[SnapshotRow]:
        """The rows with these numbers, in no particular order."""
        rows = self._rows(
            "select number, id, chunk, text, fields, shown, norm from rows"
            " where number in (select value from json_each(?))",
            [json.dumps(numbers.tolist())],
        )
        try:
            return [
                SnapshotRow(n, i, c, t, json.loads(f), (*json.loads(s),), norm)
                for n, i, c, t, f, s, norm in rows
            ]
        except (TypeError, ValueError) as error:
            raise self._damaged(error) from None

    def of(self, row_id: str) -> list[tuple[int, float]]:
        """Number and norm of each chunk of a row."""
        return self._rows("select number, norm from rows where id = ?", [row_id])

    def passing(self, filters: Mapping[str, Any], without: str | None) -> Numbers | None:
        """The numbers of the rows that pass the filters, except the row `without`; None where all
        rows pass.

        Raises ConfigurationError for a column that is not a filter, or a value of a wrong type.
        """
        chosen = parse(filters, self._columns)
        if not chosen and without is None:
            return None
        clause, values = self._where(chosen)
        if without is not None:
            clause += " and id <> ?"
            values.append(without)
        rows = self._rows(f"select number from rows where {clause}", values)  # noqa: S608 - marks only
        return np.array([number for (number,) in rows], dtype=np.int64)

    def _where(self, chosen: Filter) -> tuple[str, list[Comparable]]:
        values: list[Comparable] = []
        conditions = iter(chosen.conditions())

        def joined(group: Group) -> str:
            parts = []
            for member in group.members:
                if isinstance(member, Group):
                    parts.append(f"({joined(member)})")
                    continue
                # columns are named by number, because a filter may have any name
                number = list(self._columns).index(member.column)
                clause, compared = _compare(f"c{number}", next(conditions))
                parts.append(f"({clause})")
                values.extend(compared)
            if group.operator == "not":
                return f"{parts[0]} is not true"
            return f" {group.operator} ".join(parts or ["true"])

        return joined(chosen.predicates), values

    def by_id(self, ids: Sequence[str]) -> dict[str, StoredRow]:
        """The rows with these ids."""
        found: dict[str, StoredRow] = {}
        for row_id, text, values, titles in self._rows(
            "select id, text, fields, shown from rows"
            " where id in (select value from json_each(?)) order by id, chunk",
            [json.dumps(ids)],
        ):
            texts = found[row_id].texts if row_id in found else ()
            try:
                found[row_id] = StoredRow(
                    row_id, (*texts, text), json.loads(values), *json.loads(titles)
                )
            except (TypeError, ValueError) as error:
                raise self._damaged(error) from None
        return found

    def place(self, row_id: str, chunk: int) -> tuple[int, float]:
        """Number and norm of a chunk."""
        (found,) = self._rows(
            "select number, norm from rows where id = ? and chunk = ?", [row_id, chunk]
        )
        return found[0], found[1]

    def counts(self, numbers: Numbers | None, facets: Sequence[str]) -> Counts:
        """How many rows these chunks, or all, belong to; and for each facet its most frequent
        values (as JSON) with their numbers of rows. Of lists, the values are the elements.

        Raises ConfigurationError for a facet that is not a filter column.
        """
        among, chosen = "where true", []
        if numbers is not None:
            among = "where rows.number in (select value from json_each(?))"
            chosen = [json.dumps(numbers.tolist())]
        ((total,),) = self._rows(f"select count(distinct id) from rows {among}", chosen)  # noqa: S608 - marks only
        found = {column: self._facet(column, among, chosen) for column in facets}
        return Counts(total, exact=True, facets=found)

    def _facet(self, column: str, among: str, chosen: list[str]) -> list[tuple[Any, int]]:
        name = f"rows.{self._column(column, 'facet')}"
        value, source = name, "rows"
        element_type = self._columns[column].removesuffix("[]")
        if lists := self._columns[column].endswith("[]"):
            value, source = "e.value", f"rows, json_each({name}) as e"
            among += " and e.value is not null"
        rows = self._rows(
            f"select rows.fields, {value}, count(distinct rows.id) from {source} {among}"  # noqa: S608 - marks only
            f" group by 2 order by 3 desc, 2 nulls last limit {MAX_VALUES}",
            chosen,
        )
        found = []
        for fields_of_a_row, comparable, count in rows:
            shown_value = json.loads(fields_of_a_row)[column]
            if lists:
                elements = _flat(shown_value)
                shown_value = next(e for e in elements if stored(element_type, e) == comparable)
            found.append((shown_value, count))
        return found

    def sorted(self, found: Sequence[Hit], column: str, *, descending: bool) -> list[Hit]:
        """The rows in the order of a filter column, nulls last; equal values keep their order.

        Raises ConfigurationError for a column that is not a filter, or of a type that a snapshot
        does not compare.
        """
        name = self._column(column, "sort:")
        kind = base_type(self._columns[column])
        _parser(kind, f"sort: {column!r}")
        query = f"select id, {name} from rows where id in (select value from json_each(?))"  # noqa: S608 - marks only
        values = dict(self._rows(query, [json.dumps([hit.id for hit in found])]))
        without = [hit for hit in found if values[hit.id] is None]
        lists = kind.endswith("[]")

        def place(hit: Hit) -> list[tuple[Any, ...]]:
            value = values[hit.id]
            return [_place(element) for element in (json.loads(value) if lists else [value])]

        ordered = [hit for hit in found if values[hit.id] is not None]
        return sorted(ordered, key=place, reverse=descending) + without

    def _column(self, column: str, what: str) -> str:
        type_of(column, self._columns, what)
        return f"c{list(self._columns).index(column)}"

    def _rows(self, query: str, values: Sequence[Any]) -> list[Any]:
        try:
            with self._lock:
                return self._file.execute(query, values).fetchall()
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from None


Comparable: TypeAlias = int | float | str | None


def _compare(name: str, condition: Condition) -> tuple[str, list[Comparable]]:
    """A condition on a column of SQLite, and its values.

    Raises ConfigurationError for a value that does not fit the type, or a type that a snapshot
    does not compare.
    """
    predicate = condition.predicate
    if predicate.operator == "is null":
        return f"{name} is null", []
    parse_value = _parser(predicate.kind, f"filter {predicate.column!r}")
    values = []
    for value in condition.values:
        try:
            values.append(parse_value(value))
        except (ValueError, OverflowError):
            raise is_not_a(condition, value) from None
    if predicate.operator == "has all":
        return " and ".join([_has(name, "= ?")] * len(values)), values
    if predicate.operator in ("any", "has any"):
        marks = f"in ({', '.join('?' * len(values))})"
        among = f"{name} {marks}" if predicate.operator == "any" else _has(name, marks)
        return (f"({among} or {name} is null)" if predicate.or_null else among), values
    return f"{name} {predicate.operator} ?", values


_BOOLEANS = {"true": 1, "yes": 1, "on": 1, "1": 1, "false": 0, "no": 0, "off": 0, "0": 0}


def _boolean(text: str) -> int:
    # Postgres takes a part of a word that is the beginning of only one of them
    word = text.strip().lower()
    (value,) = {value for name, value in _BOOLEANS.items() if word and name.startswith(word)}
    return value


def _integer(text: str, bits: int) -> int:
    if not re.fullmatch(r"\s*[+-]?[0-9]+\s*", text) or not -(2**bits) <= int(text) < 2**bits:
        raise ValueError(text)
    return int(text)


def _float(text: str) -> float | str:
    if not text.isascii() or "_" in text:
        raise ValueError(text)
    number = float(text)
    # SQLite has no NaN. Postgres sorts it above all numbers, as SQLite sorts a text
    return "NaN" if math.isnan(number) else number


def _real(text: str) -> float | str:
    number = _float(text)
    return number if isinstance(number, str) else float(np.float32(number))


_DECIMAL = re.compile(
    r"\s*([+-]?)(?:(?=\.?[0-9])0*([0-9]*)(?:\.([0-9]*))?(?:e([+-]?[0-9]{1,6}))?"
    r"|(inf(?:inity)?)|(nan))\s*",
    re.ASCII | re.IGNORECASE,
)
# numeric has at most 131,072 digits before the point, and 16,383 after it
_EXPONENTS = 200_000
_COMPLEMENT = str.maketrans("0123456789", "9876543210")


def _numeric(text: str) -> str:
    """A key that sorts as the number does: a float has only 15 digits.

    It is a sign, the exponent and the digits; of a negative number these are complemented.
    """
    match = _DECIMAL.fullmatch(text)
    if not match:
        raise ValueError(text)
    sign, before, after, exponent, infinite, nan = match.groups(default="")
    if nan:
        return "4"
    if infinite:
        return "/" if sign == "-" else "3"
    digits = (before + after).lstrip("0")
    if not digits:
        return "1"
    zeros = len(before + after) - len(digits)
    power = len(before) - zeros + int(exponent or 0)
    if abs(power) > _EXPONENTS:
        raise ValueError(text)
    key = f"{power + _EXPONENTS:06}{digits.rstrip('0')}"
    return f"0{key.translate(_COMPLEMENT)}~" if sign == "-" else f"2{key}"


_YEAR = re.compile(r"([0-9]{4,6})(-.*?)( BC)?", re.DOTALL)
# years after which the calendar repeats; Python's has those from 1 to 9999
_CYCLE = 400
_BEFORE_ALL = 10_000


def _calendar(text: str) -> tuple[int, datetime]:
    """A time in a year that Python knows, and the years that it lies before the one that is
    meant."""
    match = _YEAR.fullmatch(text.strip())
    if not match:
        return 0, datetime.fromisoformat(text.strip())
    meant = 1 - int(match[1]) if match[3] else int(match[1])
    known = 2 * _CYCLE + meant % _CYCLE
    return meant - known, datetime.fromisoformat(f"{known:04}{match[2]}")


def _date(text: str) -> str:
    if infinite := _infinite(text):
        return infinite
    years, found = _calendar(text)
    return _key(years, found).partition("T")[0]


def _time(text: str) -> str:
    if infinite := _infinite(text):
        return infinite
    years, found = _calendar(text)
    return _key(years, found.replace(tzinfo=None))


def _moment(text: str) -> str:
    if infinite := _infinite(text):
        return infinite
    years, found = _calendar(text)
    # a time without a zone is in UTC, as in the pipeline's sessions
    with_zone = found if found.tzinfo else found.replace(tzinfo=UTC)
    return _key(years, with_zone.astimezone(UTC).replace(tzinfo=None))


def _key(years: int, found: datetime) -> str:
    _, _, rest = found.isoformat(timespec="microseconds").partition("-")
    return f"{found.year + years + _BEFORE_ALL:06}-{rest}"


def _infinite(text: str) -> str | None:
    # as texts, they sort below and above all digits
    word = text.strip().lower()
    return word if word in ("infinity", "-infinity") else None


def _uuid(text: str) -> str:
    # UUID() also reads underscores and the digits of every script
    if not text.isascii() or "_" in text:
        raise ValueError(text)
    return str(UUID(text))


# by type; values compare in SQLite as those of the type do in Postgres
_PARSERS: Mapping[str, Callable[[str], Comparable]] = {
    "boolean": _boolean,
    "smallint": lambda text: _integer(text, 15),
    "integer": lambda text: _integer(text, 31),
    "bigint": lambda text: _integer(text, 63),
    "numeric": _numeric,
    "real": _real,
    "double precision": _float,
    **dict.fromkeys(("text", "character varying"), str),
    # Postgres ignores the blanks with which it fills a `character`
    "bpchar": lambda text: text.rstrip(" "),
    "uuid": _uuid,
    "date": _date,
    "timestamp without time zone": _time,
    "timestamp with time zone": _moment,
}


def _parser(kind: str, used_as: str) -> Callable[[str], Comparable]:
    """What reads a value of this type, or an element of these lists. Raises ConfigurationError for
    a type that a snapshot does not compare."""
    found = _PARSERS.get(kind.removesuffix("[]"))
    if found is None:
        raise ConfigurationError(f"{used_as}: a snapshot does not compare values of type {kind}")
    return found


def _place(value: Comparable) -> tuple[Any, ...]:
    """A comparable value or element among those of its column: texts come after numbers, as in
    SQLite, and null is last, as Postgres orders elements."""
    return (2,) if value is None else (isinstance(value, str), value)


def stored(kind: str, value: Any) -> Comparable:
    """A JSON value from the database in comparable form. A value that Python cannot parse (a year
    beyond 9999), and one of a type that a snapshot does not compare, stays a text."""
    if value is None:
        return None
    base = base_type(kind)
    if base.endswith("[]"):
        kind = base.removesuffix("[]")
        return f"[{', '.join(_element(stored(kind, element)) for element in _flat(value))}]"
    parse_value = _PARSERS.get(base, str)
    with suppress(ValueError, OverflowError):
        return parse_value(_as_text(value))
    return _as_text(value)


def _flat(elements: Iterable[Any]) -> Iterator[Any]:
    """The elements of a list that may have lists in it, as Postgres compares them."""
    for element in elements:
        if isinstance(element, list):
            yield from _flat(element)
        else:
            yield element


def _element(value: Comparable) -> str:
    text = json.dumps(value, ensure_ascii=False)
    # SQLite reads a number beyond all floats as infinity, for which JSON has no word
    return text.replace("Infinity", "9e999") if isinstance(value, float) else text


def _has(name: str, condition: str) -> str:
    return f"exists (select 1 from json_each({name}) where value {condition})"  # noqa: S608 - marks only


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
