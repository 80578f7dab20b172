"""Which partition a row is in, the same in Python and in SQL, and how partitions are chosen."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from datetime import date, timedelta
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embeddings_pipeline.database import Database
from embeddings_pipeline.entities import partitions
from embeddings_pipeline.entities.fields import bind
from embeddings_pipeline.entities.partitions import DayPartitions, HashPartitions, select_keys
from embeddings_pipeline.errors import ConfigurationError, RowError
from embeddings_pipeline.store.staging.columns import hash_key
from embeddings_pipeline.store.tables import TableNames
from tests.support.declared import declared

COUNTS = (1, 2, 7, 8, 10, 11, 100, 101, 1000, 1001, 1024)
NAUGHTY = Path(__file__).parent.parent.joinpath("data", "blns.txt").read_text().split("\n")
# what a text of Postgres can hold
STRINGS = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
DAYS = DayPartitions(by="day", column="seen_at", start=date(2026, 1, 1), lookback_days=7)
TODAY = date(2026, 3, 10)


@pytest.fixture
def tenth_of_march(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partitions, "today", lambda: TODAY)


def keys_in_sql(database: Database, kind: str, ids: list[str], count: int) -> list[str]:
    scheme = HashPartitions(count=count)
    names = TableNames("s", bind(declared(), {"product_id": kind, "name": "text"}))
    query = names.fill(
        "select {key} from unnest(%s::{id_type}[]) with ordinality as u ({id}, n) order by n",
        key=hash_key(names.source, scheme, names.identifiers["id"]),
    )
    with closing(psycopg.connect(database.url)) as connection:
        return [key for (key,) in connection.execute(query, (ids,))]


@pytest.mark.parametrize("count", COUNTS)
def test_naughty_ids_have_the_same_key_in_python_and_in_sql(database: Database, count: int) -> None:
    scheme = HashPartitions(count=count)
    assert keys_in_sql(database, "text", NAUGHTY, count) == [scheme.key_of(i) for i in NAUGHTY]


@given(ids=st.lists(STRINGS, min_size=1), count=st.integers(1, 1024))
@settings(max_examples=50)
def test_any_text_id_has_the_same_key_in_python_and_in_sql(
    database: Database, ids: list[str], count: int
) -> None:
    scheme = HashPartitions(count=count)
    assert keys_in_sql(database, "text", ids, count) == [scheme.key_of(i) for i in ids]


@given(ids=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
@settings(max_examples=25)
def test_any_number_has_the_same_key_in_python_and_in_sql(
    database: Database, ids: list[int]
) -> None:
    texts = [str(number) for number in ids]
    scheme = HashPartitions(count=16)
    assert keys_in_sql(database, "bigint", texts, 16) == [scheme.key_of(text) for text in texts]


@given(ids=st.lists(st.uuids(), min_size=1))
@settings(max_examples=25)
def test_any_uuid_has_the_same_key_in_python_and_in_sql(
    database: Database, ids: list[UUID]
) -> None:
    texts = [str(number) for number in ids]
    scheme = HashPartitions(count=16)
    assert keys_in_sql(database, "uuid", texts, 16) == [scheme.key_of(text) for text in texts]


def test_the_key_of_an_id_stays_the_same_from_version_to_version() -> None:
    # md5('1') begins with c4ca4238
    assert HashPartitions(count=8).key_of("1") == "00"
    assert HashPartitions(count=1000).key_of("1") == f"{0xC4CA4238 % 1000:03}"


@pytest.mark.parametrize("count", COUNTS)
def test_hash_keys_sort_as_their_numbers_do(count: int) -> None:
    keys = HashPartitions(count=count).keys()
    assert keys == sorted(set(keys))
    assert [int(key) for key in keys] == list(range(count))


def test_ids_spread_evenly_over_all_partitions() -> None:
    scheme = HashPartitions(count=8)
    rows = Counter(scheme.key_of(str(n)) for n in range(8_000))
    assert sorted(rows) == scheme.keys()
    assert all(900 < n < 1100 for n in rows.values())


@pytest.mark.usefixtures("tenth_of_march")
def test_days_go_from_the_start_to_today() -> None:
    keys = DAYS.keys()
    assert (keys[0], keys[-1], len(keys)) == ("2026-01-01", "2026-03-10", 69)
    assert keys == sorted(keys)


@pytest.mark.usefixtures("tenth_of_march")
@pytest.mark.parametrize("start", [TODAY, TODAY + timedelta(days=30)])
def test_days_that_start_today_or_later_have_one_partition(start: date) -> None:
    scheme = DayPartitions(by="day", column="seen_at", start=start)
    assert scheme.keys() == [start.isoformat()]
    assert scheme.key_of("2026-03-10") == start.isoformat()
    assert scheme.key_of(None) == start.isoformat()


@pytest.mark.usefixtures("tenth_of_march")
@pytest.mark.parametrize(
    ("day", "key"),
    [
        (None, "2026-01-01"),
        ("2025-12-31", "2026-01-01"),
        ("0001-01-01", "2026-01-01"),
        ("0044-03-15 BC", "2026-01-01"),
        ("10000-01-01 BC", "2026-01-01"),
        ("-infinity", "2026-01-01"),
        ("2026-01-01", "2026-01-01"),
        ("2026-02-28", "2026-02-28"),
        ("2026-03-10", "2026-03-10"),
    ],
)
def test_a_day_has_a_partition(day: str | None, key: str) -> None:
    keys = DAYS.keys()
    assert DAYS.key_of(day) == key
    assert key in keys


@pytest.mark.usefixtures("tenth_of_march")
@pytest.mark.parametrize(
    "day", ["2026-03-11", "9999-12-31", "10000-01-01", "294276-12-31", "infinity"]
)
def test_a_day_in_the_future_has_no_partition_yet(day: str) -> None:
    with pytest.raises(RowError, match=f"seen_at is {day}, after today"):
        DAYS.key_of(day)


def test_every_day_that_postgres_has_can_be_placed(database: Database) -> None:
    days = ("-infinity", "infinity", "4713-01-01 BC", "0001-01-01", "9999-12-31", "5874897-12-31")
    with closing(psycopg.connect(database.url)) as connection:
        printed = connection.execute(
            "select d::date::text from unnest(%s::text[]) as u (d)", (list(days),)
        )
        for (day,) in printed:
            try:
                assert DAYS.key_of(day) == "2026-01-01"
            except RowError:
                assert day in ("infinity", "9999-12-31", "5874897-12-31")


def test_today_is_in_utc() -> None:
    assert abs((partitions.today() - date.today()).days) <= 1
    assert DAYS.key_of(partitions.today().isoformat()) == DAYS.keys()[-1]


@pytest.mark.usefixtures("tenth_of_march")
def test_a_scheduled_run_covers_today_and_the_days_before_it() -> None:
    assert DAYS.recent() == [f"2026-03-{day:02}" for day in range(3, 11)]
    young = DayPartitions(by="day", column="seen_at", start=date(2026, 3, 9), lookback_days=7)
    assert young.recent() == ["2026-03-09", "2026-03-10"]


KEYS = HashPartitions(count=8).keys()


@pytest.mark.parametrize(
    ("selection", "chosen"),
    [
        ("03", ["03"]),
        ("02..04", ["02", "03", "04"]),
        ("04..04", ["04"]),
        ("06, 01..02 ,06", ["01", "02", "06"]),
        ("07,00", ["00", "07"]),
        ("00..07", KEYS),
    ],
)
def test_partitions_are_chosen_one_by_one_or_as_a_range(selection: str, chosen: list[str]) -> None:
    assert select_keys(selection, KEYS) == chosen


@pytest.mark.parametrize(
    ("selection", "missing"),
    [
        ("3", "3"),
        ("08", "08"),
        ("02..08", "08"),
        ("01,x", "x"),
        ("", ""),
        ("01,", ""),
        ("02..", ""),
        ("..02", ""),
        ("..", ""),
        ("01..02..03", "02..03"),
    ],
)
def test_a_partition_that_does_not_exist_is_named_with_the_choices(
    selection: str, missing: str
) -> None:
    with pytest.raises(ConfigurationError) as error:
        select_keys(selection, KEYS)
    assert str(error.value) == f"partition {missing!r} does not exist (partitions: 00..07)"


def test_a_range_that_runs_backwards_is_refused() -> None:
    with pytest.raises(
        ConfigurationError, match=r"partitions 05\.\.02 are in reverse order: write 02\.\.05"
    ):
        select_keys("01,05..02", KEYS)
