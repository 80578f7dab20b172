"""The rows of a snapshot, numbered as the vectors in its index are: one SQLite file."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, TypeAlias

import numpy as np

from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.store.snapshot_values import asked, stored

Numbers: TypeAlias = np.ndarray[tuple[int], np.dtype[np.int64]]

_OPERATORS = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


@dataclass(frozen=True)
class SnapshotRow:
    """One chunk; `norm` is the length that its vector had before it was made 1."""

    number: int
    id: str
    chunk: int
    text: str
    fields: Mapping[str, Any]
    norm: float


def write(path: Path, columns: Mapping[str, str], batches: Iterable[Sequence[SnapshotRow]]) -> None:
    """Write rows as they come; the whole is never held in memory."""
    # by number: a column may have any name
    filters = [f"c{n}" for n in range(len(columns))]
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        # nobody reads a file that is not finished
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
    """Reads the rows; several threads may."""

    def __init__(self, path: Path, columns: Mapping[str, str]) -> None:
        self._columns = columns
        # open, it stays readable when a new snapshot takes its place
        self._file = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False
        )
        self._lock = Lock()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def numbered(self, numbers: Numbers) -> list[SnapshotRow]:
        """The rows of these numbers, in no promised order."""
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
        """Numbers of the rows that pass, the row `without` left out; None where all do.

        Raises ConfigurationError for a column that is no filter or a value that it does not take.
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
                values.append(asked(column, kind, value))
        elif isinstance(wanted, list | tuple):
            among = [asked(column, kind, value) for value in wanted if value is not None]
            clauses.append(
                f"({name} in ({', '.join('?' * len(among))})"
                f"{f' or {name} is null' if None in wanted else ''})"
            )
            values += among
        else:
            clauses.append(f"{name} = ?")
            values.append(asked(column, kind, wanted))

    def _rows(self, query: str, values: Sequence[Any]) -> list[Any]:
        with self._lock:
            return self._file.execute(query, values).fetchall()
