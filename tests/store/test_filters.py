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
from embeddings_pipeline.store.search.published_search import Hit
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
        [
            *("-1.5", "-1.55", "-0.02", "0", "0.1", "1", "1.10", "9007199254740993", "12"),
            *("0.12345678901234567891", "0.12345678901234567892", "1e-300", "-1e300"),
            *("9" * 4400, "-Infinity", "Infinity", "NaN"),
        ],
        [
            *(0.1, "1.0", "1.1", 1, "9007199254740993", "-infinity", "inf", "nan", "-0", ".5"),
            *("0.123456789012345678915", "-1.50", 1e16, "12e0", "1e4400", "-0.03"),
        ],
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
        ["2026-01-05", "1999-12-31", "-infinity", "infinity", "0044-03-15 BC", "10001-01-01"],
        [
            "0001-01-01",
            "12026-03-01",
            "2026-01-05",
            "20260105",
            "2026-01-05T10:00:00",
            "infinity",
            "-Infinity",
        ],
    ),
    "timestamp without time zone": (
        [
            *("2026-01-05 10:00:00", "2026-01-05 10:00:00.000001", "infinity"),
            *("0001-01-01 00:00:00", "0001-12-31 23:59:59 BC", "99999-01-01 00:00:00"),
        ],
        ["2026-01-05T10:00:00", "2026-01-05T10:00:00+02:00", "2026-01-05", "infinity"],
    ),
    "timestamp(3) with time zone": (
        [
            *("2026-01-05T10:00:00Z", "2026-01-05T10:00:00.5+02:00", "-infinity"),
            *("10000-01-01 00:30:00+02", "0001-01-01 00:30:00+02", "4713-12-31 00:00:00 BC"),
        ],
        ["2026-01-05T10:00:00", "2026-01-05T12:00:00+02:00", "2026-01-05", "-infinity"],
    ),
}
# a snapshot knows only whether these have a value
ONLY_NULL = {"interval": ["1 day"], "jsonb": ['{"a": 1}'], "inet": ["::1"]}
# by the type of a list: stored lists, and values that filters look for
LISTS: dict[str, tuple[Sequence[str], Sequence[Any]]] = {
    "text[]": (
        ["{red,blue}", "{red}", "{}", "{Red,NULL}", '{"a,b","",Infinity}', "{{x,y},{red,z}}"],
        ["red", "Red", "blue", "a,b", "", "{red}", "y", "Infinity", "null"],
    ),
    "character varying(3)[]": (["{ab,c}", "{}"], ["ab", "a"]),
    "character(3)[]": (["{ab,c}", "{}"], ["ab", "a", "ab "]),
    "integer[]": (["{1,2}", "{NULL,3}", "{-1}"], [1, "2", 3, -1, "+1"]),
    "numeric(8,2)[]": (["{1.50,NaN}", "{2}", "{10}"], [1.5, "1.50", "nan", 2]),
    "double precision[]": (["{Infinity,0.1}", "{-Infinity}"], ["inf", 0.1, "-Infinity"]),
    "boolean[]": (["{t,f}", "{t}"], [True, False, "no"]),
    "date[]": (["{2026-01-05,infinity}", "{}"], ["20260105", "infinity", "2026-01-06"]),
    "uuid[]": (["{0000000000000000000000000000000a}"], ["0000000000000000000000000000000A"]),
}
OUTSIDE = {
    "boolean": ["o", "", "2"],
    "integer[]": ["x", "1.5", "\u0661"],
    "smallint": ["32768", "1.0", "\u0661", ""],
    "bigint": ["9223372036854775808"],
    "numeric": ["cheap", "\u0663", "", ".", "e0", "1e", "--1"],
    "double precision": ["x"],
    "uuid": ["x", "0000000000000000000000000000_00a", "\u0661" * 32],
    "date": ["2026-02-30", "x"],
    "timestamp with time zone": ["x"],
}


@pytest.fixture
def connection(database: Database) -> Iterator[psycopg.Connection]:
    with closing(Postgres(database)) as pool, pool.connection() as connection:
        yield connection


ALL_TYPES = {**TYPES, **LISTS, **{kind: (values, ()) for kind, values in ONLY_NULL.items()}}
COLUMNS = {f"c{n}": kind for n, kind in enumerate(ALL_TYPES)}


@pytest.fixture
def snapshot(connection: psycopg.Connection, tmp_path: Path) -> Iterator[SnapshotRows]:
    """Rows with a value of one type each, in a snapshot and in the table `v`."""
    number = 0
    connection.execute(
        SQL("create table v (number int, {})").format(
            SQL(", ").join(SQL(f"{column} {kind}") for column, kind in COLUMNS.items())
        )
    )
    for column, (stored, _) in zip(COLUMNS, ALL_TYPES.values(), strict=True):
        for value in stored:
            connection.execute(
                SQL(f"insert into v (number, {column}) values (%s, {{}})").format(Literal(value)),
                (number,),
            )
            number += 1
    rows = [
        SnapshotRow(number, str(number), 0, "", fields, (None,) * 3, 1.0)
        for number, fields in connection.execute("select number, to_jsonb(v) from v")
    ]
    write(tmp_path / "rows.sqlite", COLUMNS, [rows])
    with closing(SnapshotRows(tmp_path / "rows.sqlite", COLUMNS, number)) as snapshot:
        yield snapshot


@pytest.fixture
def passing(connection: psycopg.Connection, snapshot: SnapshotRows) -> Callable[..., Any]:
    """The numbers of the rows that pass a filter, in Postgres and in a snapshot."""

    def both(kind: str, wanted: Any) -> tuple[set[int], set[int]]:
        column = f"c{list(ALL_TYPES).index(kind)}"
        asked = wanted(column) if callable(wanted) else {column: wanted}
        parsed = filters.parse(asked, COLUMNS)
        found = connection.execute(
            SQL("select number from v where {}").format(filters.where(parsed.predicates)),
            parsed.parameters(),
        )
        there = snapshot.passing(asked, None)
        assert there is not None
        return {n for (n,) in found}, set(there.tolist())

    return both


@pytest.mark.parametrize("descending", [False, True])
def test_rows_are_sorted_alike_by_values_of_every_type(
    connection: psycopg.Connection, snapshot: SnapshotRows, descending: bool
) -> None:
    hits = [Hit(str(n), 0, 0.0, "", {}) for (n,) in connection.execute("select number from v")]
    for column, kind in COLUMNS.items():
        if kind in ONLY_NULL:
            with pytest.raises(ConfigurationError, match=f"'{column}': a snapshot does not"):
                snapshot.sorted(hits, column, descending=descending)
            continue
        collate = ' collate "C"' if any(text in kind for text in ("text", "char")) else ""
        direction = "desc" if descending else "asc"
        order = SQL(f"{column}{collate} {direction} nulls last, number")
        rows = connection.execute(SQL("select number from v order by {}").format(order))
        found = snapshot.sorted(hits, column, descending=descending)
        assert [hit.id for hit in found] == [str(n) for (n,) in rows], kind


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


@pytest.mark.parametrize(
    ("between", "whole"),
    [
        ({"gte": -0.5}, {"gte": 0}),
        ({"gt": -0.5}, {"gt": -1}),
        ({"lte": -0.5}, {"lte": -1}),
        ({"lt": 0.5}, {"lt": 1}),
        ({"gte": -5.0, "lt": 0.0}, {"gte": -5, "lt": 0}),
        # as the page writes it
        ({"gte": "-1.2", "lte": "0.8"}, {"gte": -1, "lte": 0}),
        (0.0, 0),
        ([0.0, 7], [0, 7]),
    ],
)
def test_whole_numbers_are_compared_with_any_number(
    passing: Callable[..., Any], between: Any, whole: Any
) -> None:
    for kind in ("smallint", "integer", "bigint"):
        assert passing(kind, between) == passing(kind, whole)
    assert passing("integer", between)[0]


def test_a_list_is_searched_for_its_elements_in_both(passing: Callable[..., Any]) -> None:
    for kind, (stored, compared) in LISTS.items():
        wanted: list[Any] = [None, *compared, [*compared], [*compared[:2], None]]
        wanted += [{"has": value} for value in compared]
        for name in ("has_any", "has_all"):
            wanted += [{name: [a, b]} for a in compared for b in compared]
        wanted += [{"has_any": [compared[0]], "has": compared[-1]}]
        for one in wanted:
            here, there = passing(kind, one)
            assert there == here, (kind, one)
        assert (
            passing(kind, compared[0])[0] == passing(kind, {"has_all": [compared[0]]})[0] != {*()}
        )
        assert len(passing(kind, None)[0]) >= len(stored)


def test_filters_are_joined_in_both(passing: Callable[..., Any]) -> None:
    for kind, (stored, compared) in (TYPES | LISTS).items():
        a, b = compared[0], compared[-1]
        every, _ = passing(kind, lambda c: {"or": [{c: None}, {"not": {c: None}}]})
        first, _ = passing(kind, a)
        last, _ = passing(kind, b)
        joined = {
            "or": (lambda c, a=a, b=b: {"or": [{c: a}, {c: b}]}, first | last),
            "and": (lambda c, a=a, b=b: {"and": [{c: a}, {c: b}]}, first & last),
            # a row without a value is not equal to it
            "not": (lambda c, a=a: {"not": {c: a}}, every - first),
            "nested": (
                lambda c, a=a, b=b: {"not": {"or": [{c: a}, {"not": {c: b}}]}},
                last - first,
            ),
            "beside": (lambda c, a=a, b=b: {"or": [{c: a}, {}], "not": {c: b}}, every - last),
        }
        assert len(every) >= len(stored)
        for name, (asked, wanted) in joined.items():
            assert passing(kind, asked) == (wanted, wanted), (kind, name)


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
        (tmp_path / kind).mkdir()
        rows = one_row(tmp_path / kind, kind)
        element = kind.removesuffix("[]")
        with closing(SnapshotRows(rows, {"c": kind}, 1)) as snapshot:
            for value in values:
                with pytest.raises(DataError):
                    connection.execute(SQL(f"select {{}}::{element}").format(Literal(value)))
                with pytest.raises(ConfigurationError, match=f"{value!r} is not an? {element}"):
                    snapshot.passing({"c": value}, None)


def test_a_snapshot_says_which_type_it_does_not_compare(tmp_path: Path) -> None:
    rows = one_row(tmp_path, "interval")
    with (
        closing(SnapshotRows(rows, {"c": "interval"}, 1)) as snapshot,
        pytest.raises(ConfigurationError, match="does not compare values of type interval"),
    ):
        snapshot.passing({"c": "1 day"}, None)


def one_row(folder: Path, kind: str) -> Path:
    path = folder / "rows.sqlite"
    write(path, {"c": kind}, [[SnapshotRow(0, "0", 0, "", {"c": None}, (None,) * 3, 1.0)]])
    return path


FOR_LISTS = "is for lists: write a value, or a list of values of which one must match"


@pytest.mark.parametrize(
    ("wanted", "kind", "says"),
    [
        ({"gte": "a"}, "text[]", "filter 'c' has lists: ask for has, has_any, has_all, not gte"),
        ({"has": "a"}, "text", f"filter 'c' is a text, and has {FOR_LISTS}"),
        ({"has_all": ["a"]}, "numeric(8,2)", f"filter 'c' is a numeric, and has_all {FOR_LISTS}"),
    ],
)
def test_bounds_are_for_values_and_members_for_lists(wanted: Any, kind: str, says: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        filters.parse({"c": wanted}, {"c": kind})
    assert str(refused.value) == says


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("integer", "filter 'c': 'soon' is not an integer"),
        ("date", "filter 'c': 'soon' is not a date: write one like '2026-01-31'"),
        (
            "timestamp with time zone[]",
            "filter 'c': 'soon' is not a timestamp with time zone: write one like"
            " '2026-01-31T12:00:00+02:00'",
        ),
    ],
)
def test_a_value_of_another_type_is_refused_with_how_to_write_one(kind: str, says: str) -> None:
    (condition,) = filters.parse({"c": "soon"}, {"c": kind}).conditions()
    assert str(filters.is_not_a(condition, "soon")) == says


def test_a_column_must_be_a_filter() -> None:
    with pytest.raises(ConfigurationError, match=r"'name' is not a filter column \(tags\)"):
        filters.parse({"name": 1}, {"tags": "text[]"})
