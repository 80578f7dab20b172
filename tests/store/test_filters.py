"""A filter passes the same rows in Postgres and in a snapshot."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import DataError
from psycopg.sql import SQL, Literal

from embeddings_pipeline.database import Database
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.store import filters
from embeddings_pipeline.store.connection import Postgres
from embeddings_pipeline.store.search.snapshots import SnapshotRow, SnapshotRows, write

# by type: stored values, and the values that filters compare them with
TYPES: dict[str, tuple[Sequence[str], Sequence[Any]]] = {
    "boolean": (["true", "false"], [True, False, "t", "YES", "of", " 1 ", "0"]),
    "smallint": (["-32768", "0", "32767"], [0, "-32768", "+7", " 32767 "]),
    "integer": (["-5", "0", "2147483647"], [0, "5", "-5"]),
    "bigint": (
        ["-5", "9007199254740993", "9007199254740992", "9223372036854775807"],
        ["9007199254740993", 9223372036854775807, 0],
    ),
    "numeric": (
        ["-1.5", "0.1", "1", "1.10", "9007199254740993", "Infinity", "NaN"],
        [0.1, "1.0", "1.1", 1, "9007199254740993", "-infinity", "inf", "nan"],
    ),
    "numeric(8,2)": (["0.10", "11.00", "999999.99"], ["0.1", 11, "11.004"]),
    "real": (
        ["0.1", "16777216", "-Infinity", "NaN"],
        ["0.1", "0.10000000001", "16777217", "NaN", "-Infinity"],
    ),
    "double precision": (["0.1", "1e300", "NaN"], ["0.1", "0.10000000001", "1E300", "nan"]),
    "text": (
        ["", "a", "B", "b ", "Ä", "é", "z", "10", "9", "\U0001f600"],
        ["a", "B", "", "Z", "9"],
    ),
    "character varying(9)": (["a", "B", "a "], ["a", "a ", "B"]),
    "character(3)": (["a", "ab", "B"], ["a", "a   ", "ab ", "B"]),
    "uuid": (
        ["00000000-0000-0000-0000-00000000000a", "ffffffff-0000-0000-0000-000000000000"],
        ["{0000000000000000000000000000000A}", "ffffffff-0000-0000-0000-000000000000"],
    ),
    "date": (
        ["2026-01-05", "1999-12-31", "-infinity", "infinity"],
        ["2026-01-05", "20260105", "2026-01-05T10:00:00", "infinity", "-Infinity"],
    ),
    "timestamp without time zone": (
        ["2026-01-05 10:00:00", "2026-01-05 10:00:00.000001", "infinity"],
        ["2026-01-05T10:00:00", "2026-01-05T10:00:00+02:00", "2026-01-05", "infinity"],
    ),
    "timestamp(3) with time zone": (
        ["2026-01-05T10:00:00Z", "2026-01-05T10:00:00.5+02:00", "-infinity"],
        ["2026-01-05T10:00:00", "2026-01-05T12:00:00+02:00", "2026-01-05", "-infinity"],
    ),
}
# a snapshot knows only whether these have a value
ONLY_NULL = {"interval": ["1 day"], "text[]": ["{a,b}"], "jsonb": ['{"a": 1}'], "inet": ["::1"]}
OUTSIDE = {
    "boolean": ["o", "", "2"],
    "smallint": ["32768", "1.0", "\u0661", ""],
    "bigint": ["9223372036854775808"],
    "numeric": ["cheap", "\u0663", ""],
    "double precision": ["x"],
    "uuid": ["x"],
    "date": ["2026-02-30", "x"],
    "timestamp with time zone": ["x"],
}


@pytest.fixture
def connection(database: Database) -> Iterator[psycopg.Connection]:
    with closing(Postgres(database)) as pool, pool.connection() as connection:
        yield connection


@pytest.fixture
def passing(connection: psycopg.Connection, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """The numbers of the rows that pass a filter, in Postgres and in a snapshot."""
    types = {**TYPES, **{kind: (values, ()) for kind, values in ONLY_NULL.items()}}
    columns = {f"c{n}": kind for n, kind in enumerate(types)}
    number = 0
    connection.execute(
        SQL("create table v (number int, {})").format(
            SQL(", ").join(SQL(f"{column} {kind}") for column, kind in columns.items())
        )
    )
    for column, (stored, _) in zip(columns, types.values(), strict=True):
        for value in stored:
            connection.execute(
                SQL(f"insert into v (number, {column}) values (%s, {{}})").format(Literal(value)),
                (number,),
            )
            number += 1
    rows = [
        SnapshotRow(number, str(number), 0, "", fields, 1.0)
        for number, fields in connection.execute("select number, to_jsonb(v) from v")
    ]
    write(tmp_path / "rows.sqlite", columns, [rows])
    snapshot = SnapshotRows(tmp_path / "rows.sqlite", columns)

    def both(kind: str, wanted: Any) -> tuple[set[int], set[int]]:
        asked = {f"c{list(types).index(kind)}": wanted}
        conditions = filters.parse(asked, columns)
        where = filters.where([condition.predicate for condition in conditions])
        found = connection.execute(
            SQL("select number from v where {}").format(where), filters.parameters(conditions)
        )
        there = snapshot.passing(asked, None)
        return {n for (n,) in found}, set(there.tolist())

    yield both
    snapshot.close()


def test_every_operator_passes_the_same_rows_of_every_type(passing: Callable[..., Any]) -> None:
    for kind, (stored, compared) in TYPES.items():
        wanted: list[Any] = [None, *stored, *compared, [*compared], [*compared[:2], None], [None]]
        wanted += [{bound: value} for bound in filters.BOUNDS for value in compared]
        wanted += [{"gte": a, "lt": b} for a in compared for b in compared]
        for one in wanted:
            here, there = passing(kind, one)
            assert there == here, (kind, one)
        # the values tell rows apart
        assert all(0 < len(passing(kind, value)[0]) < len(stored) for value in stored), kind


def test_a_row_without_a_value_is_told_from_one_with_a_value_of_any_type(
    passing: Callable[..., Any],
) -> None:
    for kind in ONLY_NULL:
        here, there = passing(kind, None)
        assert there == here
        assert 0 in here


def test_a_value_that_is_not_of_the_type_is_refused_by_both(
    connection: psycopg.Connection, tmp_path: Path
) -> None:
    for kind, values in OUTSIDE.items():
        write(tmp_path / f"{kind}.sqlite", {"c": kind}, [])
        with closing(SnapshotRows(tmp_path / f"{kind}.sqlite", {"c": kind})) as snapshot:
            for value in values:
                with pytest.raises(DataError):
                    connection.execute(SQL(f"select {{}}::{kind}").format(Literal(value)))
                with pytest.raises(ConfigurationError, match=f"{value!r} is not a {kind}"):
                    snapshot.passing({"c": value}, None)


def test_a_snapshot_says_which_type_it_does_not_compare(tmp_path: Path) -> None:
    write(tmp_path / "rows.sqlite", {"c": "interval"}, [])
    with (
        closing(SnapshotRows(tmp_path / "rows.sqlite", {"c": "interval"})) as snapshot,
        pytest.raises(ConfigurationError, match="does not compare values of type interval"),
    ):
        snapshot.passing({"c": "1 day"}, None)


def test_a_list_is_no_filter_on_arrays_and_a_column_must_be_a_filter() -> None:
    with pytest.raises(ConfigurationError, match="filter 'tags' has arrays: ask for one"):
        filters.parse({"tags": ["{a}"]}, {"tags": "text[]"})
    with pytest.raises(ConfigurationError, match=r"'name' is not a filter column \(tags\)"):
        filters.parse({"name": 1}, {"tags": "text[]"})
