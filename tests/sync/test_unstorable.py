"""Ids and values that a database, an index or JSON cannot hold as given: the row that has one goes
to quarantine, or the value is kept exactly. The other rows are stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from hashlib import md5
from itertools import count
from types import SimpleNamespace
from typing import Any, cast

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from embeddings_pipeline.database import Database
from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.entities.fields import bind
from embeddings_pipeline.errors import ConfigurationError, NotFound
from embeddings_pipeline.pipeline import Pipeline
from embeddings_pipeline.search.requests import SearchRequest, SimilarRequest
from embeddings_pipeline.search.searcher import Searcher
from embeddings_pipeline.store.connection import Postgres
from embeddings_pipeline.store.staging.source import staging_columns
from embeddings_pipeline.store.tables import TableNames
from embeddings_pipeline.sync.erase import erase, lift
from embeddings_pipeline.sync.explain import explain
from embeddings_pipeline.sync.run_options import RunOptions
from embeddings_pipeline.sync.texts import sync_texts
from tests.support.databases import needs_version
from tests.support.world import SCHEMA, World, world_in

# not compressible, so that an index entry is as long as the id
LONG_ID = "".join(md5(bytes([n])).hexdigest() for n in range(120))
LONG = "(select string_agg(md5(n::text), '') from generate_series(1, 1000) n)"
FAILED = f"select id, stage, error from {SCHEMA}.quarantine order by id"


def all_keys(item: Entity) -> list[str]:
    return item.partitions.keys()


@pytest.mark.parametrize("partitions", [{"count": 1}, {"count": 5}])
def test_a_row_whose_id_no_index_holds_goes_to_quarantine_and_comes_back(
    world: World, partitions: dict[str, Any]
) -> None:
    world.table("id text, name text")
    world.insert(("pump", "Pump"), (LONG_ID, "Hose"), ("x" * 2600, "Tap"), ("x" * 9999, "Bolt"))
    item = world.declare(include=["name"], partitions=partitions)
    world.run(item)

    assert {row_id for row_id, _ in world.view()} == {"pump", "x" * 2600}
    failed = world.sql(FAILED)
    assert [row_id[:12] for row_id, *_ in failed] == [LONG_ID[:12], "x" * 12]
    assert failed[0][1:] == (
        "render",
        "its id has 3,840 bytes, more than the 2,600 that an index holds",
    )

    assert world.plan(item).changed == world.plan(item).new == 0
    assert world.texts(item).read == 0
    for key in all_keys(item):
        assert world.texts(item, keys=[key]).read == 0

    world.sql("update staging.stg_item set id = 'bolt' where name = 'Bolt'")
    world.sql("delete from staging.stg_item where name = 'Hose'")
    world.run(item)
    assert {row_id for row_id, _ in world.view()} == {"pump", "x" * 2600, "bolt"}
    assert world.sql(FAILED) == []
    assert world.sql(f"select count(*) from {SCHEMA}.item_texts") == [(3,)]


def test_a_row_whose_id_no_index_holds_is_explained_and_erased_by_its_id(world: World) -> None:
    world.table("id text, name text")
    world.insert(("pump", "Pump"), (LONG_ID, "Hose"))
    item = world.declare(include=["name"])
    world.run(item)
    names = world.names_of(item)

    explained = explain(world.postgres, world.postgres, names, world.encoders, LONG_ID)
    assert "its id has 3,840 bytes" in explained.next
    again = explain(world.postgres, world.postgres, names, world.encoders, explained.id)
    assert again == explained

    erase(world.postgres, names, [LONG_ID], world.encoders.cache.evict)
    world.run(item)
    assert world.sql(FAILED) == []
    assert world.sql(f"select id from {SCHEMA}.item_texts") == [("pump",)]


def test_an_id_that_looks_like_a_stand_in_is_an_id(world: World) -> None:
    world.table("id text, name text")
    odd = f"pump... (md5 {'0' * 32})"
    world.insert((odd, "Pump"), ("a\tb\nc\\d", "Hose"), ("\x01\x1b[2J\u202e", "Tap"))
    world.run(world.declare(include=["name"]))
    assert {row_id for row_id, _ in world.view()} == {odd, "a\tb\nc\\d", "\x01\x1b[2J\u202e"}


@pytest.fixture
def databases(superuser: Database) -> Iterator[Callable[[str], Database]]:
    """Makes empty databases of an encoding, and the extension in them, which others may not."""
    # which names the provider of a locale
    needs_version(superuser, 15)
    numbers = count()
    with closing(psycopg.connect(superuser.url, autocommit=True)) as server, ExitStack() as stack:

        def make(encoding: str) -> Database:
            made = replace(superuser, name=f"{superuser.name}_{next(numbers)}")
            server.execute(
                SQL(
                    "create database {} template template0 encoding {} locale_provider libc"
                    " lc_collate 'C' lc_ctype 'C'"
                ).format(Identifier(made.name), encoding)
            )
            drop = SQL("drop database {} with (force)").format(Identifier(made.name))
            stack.callback(server.execute, drop)
            with closing(psycopg.connect(made.url, autocommit=True)) as connection:
                connection.execute("create extension vector")
            return made

        yield make


@pytest.fixture
def apart(
    database: Database, databases: Callable[[str], Database]
) -> Iterator[Callable[..., tuple[World, Postgres]]]:
    """A world whose vectors are in a database of one encoding, and its staging in another."""
    with ExitStack() as stack:

        def make(vectors: str, staging: str = "UTF8") -> tuple[World, Postgres]:
            world = stack.enter_context(world_in(databases(vectors)))
            there = database if staging == "UTF8" else databases(staging)
            staged = stack.enter_context(closing(Postgres(there)))
            with staged.connection() as connection:
                connection.execute("create schema staging")
            return world, staged

        yield make


def names_in(staged: Postgres, item: Entity) -> TableNames:
    with staged.connection() as connection:
        columns = staging_columns(connection, item.db_schema, item.table)
    return TableNames(SCHEMA, bind(item, columns))


def pass_over(world: World, staged: Postgres, item: Entity, **options: Any) -> int:
    """How many rows a pass reads."""
    names, run = names_in(staged, item), RunOptions("run", **options)
    return sync_texts(staged, world.postgres, names, world.encoders, run).read


def fill(staged: Postgres, columns: str, *values: str) -> None:
    with staged.connection() as connection:
        connection.execute(f"create table staging.stg_item ({columns})".encode())
        for row in values:
            connection.execute(f"insert into staging.stg_item values ({row})".encode())


@pytest.mark.parametrize("encoding", ["LATIN1", "WIN1251", "EUC_JP", "KOI8R"])
def test_a_row_that_the_encoding_of_the_vectors_lacks_goes_to_quarantine(
    apart: Callable[..., tuple[World, Postgres]], encoding: str
) -> None:
    world, staged = apart(encoding)
    own = {"LATIN1": "é", "WIN1251": "ж", "EUC_JP": "日", "KOI8R": "ж"}[encoding]
    fill(
        staged,
        "id text, name text, kind text, tags text[]",
        f"'{own}', 'Pump {own}', '{own}', '{{{own}}}'",
        "'text', 'a 😀 b', null, null",
        "'filter', 'Tap', '😀', null",
        "'list', 'Tap', null, '{a,😀}'",
        "'id 😀', 'Tap', null, null",
    )
    item = world.declare(include=["name"], filters=["kind", "tags"], partitions={"count": 3})
    assert pass_over(world, staged, item) == 5

    stored = world.sql(f"select id, text from {SCHEMA}.item_texts where text is not null")
    assert stored == [(own, f"name: Pump {own}")]
    failed = {row_id[:6]: (stage, error) for row_id, stage, error in world.sql(FAILED)}
    assert {stage for stage, _ in failed.values()} == {"render"}
    assert [*failed] == ["filter", "id ???", "list", "text"]
    assert "column 'kind' has characters that are not in the encoding" in failed["filter"][1]
    assert "its id is not text in the encoding" in failed["id ???"][1]
    assert pass_over(world, staged, item) == 0
    for key in all_keys(item):
        assert pass_over(world, staged, item, keys=[key]) == 0

    names = names_in(staged, item)
    explained = explain(staged, world.postgres, names, world.encoders, "id 😀")
    assert "its id is not text in the encoding" in explained.next
    erase(world.postgres, names, ["id 😀"], world.encoders.cache.evict)
    assert "id ???" not in {row_id[:6] for row_id, *_ in world.sql(FAILED)}
    assert pass_over(world, staged, item) == 0
    assert lift(world.postgres, names, ["id 😀"]) == 1


def test_a_query_that_the_encoding_lacks_finds_what_its_other_words_find(
    databases: Callable[[str], Database],
) -> None:
    with world_in(databases("LATIN1")) as world, closing(searcher_over(world)) as searcher:
        world.table("id text, name text, kind text")
        world.insert(("é", "Pump", "é"), ("b", "Hose", "x"))
        world.run(world.declare(include=["name"], filters=["kind"]))
        for mode in ("text", "hybrid", "dense"):
            request = SearchRequest.of(entity="item", query="日本 pump", mode=mode, top_k=1)
            assert [hit.id for hit in searcher.search(request).results] == ["é"]
        with pytest.raises(ConfigurationError, match="filter 'kind': '日' is not a text"):
            searcher.search(SearchRequest.of(entity="item", query="x", filters={"kind": "日"}))
        with pytest.raises(NotFound, match="'日' has no published vector"):
            searcher.similar(SimilarRequest.of(entity="item", id="日"))


def searcher_over(world: World) -> Searcher:
    context = SimpleNamespace(
        search_database=world.database,
        schema=SCHEMA,
        encoders=world.encoders,
        settings=world.settings,
        one_database=True,
    )
    return Searcher(cast(Pipeline, context))


@pytest.mark.parametrize("staging", ["UTF8", "SQL_ASCII"])
def test_a_database_that_holds_any_bytes_holds_every_text(
    apart: Callable[..., tuple[World, Postgres]], staging: str
) -> None:
    world, staged = apart("SQL_ASCII", staging)
    fill(staged, "id text, name text", "'日本', 'Pump 😀'", "'b', 'Tap'")
    assert pass_over(world, staged, world.declare(include=["name"])) == 2
    stored = world.sql(f"select id, text from {SCHEMA}.item_texts order by text")
    assert stored == [("日本", "name: Pump 😀"), ("b", "name: Tap")]


@pytest.mark.parametrize(
    "encodings", [("UTF8", "LATIN1"), ("LATIN1", "UTF8"), ("LATIN1", "LATIN9")]
)
def test_an_id_is_in_one_partition_whatever_the_encodings(
    apart: Callable[..., tuple[World, Postgres]], encodings: tuple[str, str]
) -> None:
    world, staged = apart(*encodings)
    fill(staged, "id text, name text", *(f"'é{n}', 'Pump'" for n in range(9)))
    assert pass_over(world, staged, world.declare(include=["name"], partitions={"count": 2})) == 9
    item = world.declare(include=["name"], partitions={"count": 4})
    for _ in range(2):
        for key in all_keys(item):
            assert pass_over(world, staged, item, keys=[key]) == 0
    assert world.sql(f"select count(*) from {SCHEMA}.item_texts") == [(9,)]


def test_an_id_that_is_no_text_goes_to_quarantine(
    apart: Callable[..., tuple[World, Postgres]],
) -> None:
    world, staged = apart("UTF8", "SQL_ASCII")
    fill(
        staged,
        'id text, "größe" text',
        r"E'\xff\xfe', 'Pump'",
        "'é', 'Tap'",
        r"'bad', E'\xff'",
        rf"E'\xff' || {LONG}, 'Hose'",
    )
    item = world.declare(include=["größe"], partitions={"count": 4})
    assert pass_over(world, staged, item) == 4
    stored = world.sql(f"select id, text from {SCHEMA}.item_texts where text is not null")
    assert stored == [("é", "größe: Tap")]
    failed = [(row_id[:3], error[:30]) for row_id, _, error in world.sql(FAILED)]
    assert failed == [
        ("??.", "its id is not text in the enco"),
        ("?c4", "its id has 32,001 bytes, more "),
        ("bad", "staging has a value that canno"),
    ]
    assert pass_over(world, staged, item) == 0
    for key in all_keys(item):
        assert pass_over(world, staged, item, keys=[key]) == 0


def test_a_filter_value_that_no_index_holds_goes_to_quarantine(world: World) -> None:
    world.table("id bigint, name text, price numeric, tags text[], kind text")
    for row in (
        f"1, 'Pump', 5, '{{a}}', {LONG}",
        "2, 'Hose', repeat('1237', 3000)::numeric, null, null",
        f"3, 'Tap', null, array['a', {LONG}], null",
        "4, 'Bolt', ('0.' || repeat('0', 6000) || '1')::numeric, null, null",
        "5, 'Nut', (repeat('9', 4999))::numeric, array_fill('x'::text, array[5000]), null",
    ):
        world.sql(f"insert into staging.stg_item values ({row})")
    item = world.declare(include=["name"], filters=["price", "tags", "kind"])
    world.run(item)
    assert world.sql(FAILED) == [
        (
            "2",
            "render",
            "filter 'price' has 12,000 digits, more than the 5,000 that an index holds",
        ),
        (
            "3",
            "render",
            "filter 'tags' has an element of 32,000 bytes, more than the 2,600 that an index holds",
        ),
    ]
    assert {row_id for row_id, _ in world.view()} == {"1", "4", "5"}
    same = (
        f"select count(*) from {SCHEMA}.item_embeddings v join staging.stg_item s using (id)"
        " where row(v.price::text, v.tags, v.kind) = row(s.price::text, s.tags, s.kind)"
    )
    world.sql("update staging.stg_item set tags = '{}', kind = '' where id = 4")
    world.sql("update staging.stg_item set tags = '{}', kind = '' where id = 5")
    world.run(item)
    assert world.sql(same) == [(3,)]


ODD = {
    "numeric": ["'NaN'", "'-Infinity'", "0.1234567890123456789012345678901234567890"],
    "double precision": ["'NaN'", "'Infinity'", "1e-320"],
    "timestamptz": ["'infinity'", "'0044-03-15 BC'", "'99999-01-01'"],
    "date": ["'-infinity'", "'0044-03-15 BC'", "'99999-01-01'"],
    "jsonb": ["""'{"a": 1e400, "b": "\\u0001"}'""", "'1.10'", "'null'"],
    "bytea": [r"'\x00ff'", "''", r"'\x1b'"],
    "text": [LONG, r"E'\x1b]0;X\x07'", "''"],
    "int[]": ["'{1,null}'", "'{}'", "'{{1},{2}}'"],
    "int4range": ["'[1,5)'", "'empty'", "'(,)'"],
    "staging.mood": ["'sad'", "'happy'", "null"],
    "staging.moods": ["'sad'", "'happy'", "null"],
    "staging.few": ["5", "7", "null"],
}


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_value_is_kept_exactly_as_a_filter_and_in_a_text(world: World, kind: str) -> None:
    world.sql("create type staging.mood as enum ('sad', 'happy')")
    world.sql("create domain staging.moods as staging.mood")
    world.sql("create domain staging.whole as int check (value > 0)")
    world.sql("create domain staging.few as staging.whole check (value < 9)")
    world.table(f"id bigint, name text, odd {kind}")
    for n, value in enumerate(ODD[kind]):
        world.sql(f"insert into staging.stg_item values ({n}, 'Pump', {value})")
    item = world.declare(include=["name", "odd"], filters=["odd"])
    world.run(item)
    assert world.sql(FAILED) == []
    different = (
        f"select s.id from staging.stg_item s left join {SCHEMA}.item_embeddings v using (id)"
        " where s.odd::text is distinct from v.odd::text"
        " or position(s.odd::text in v.text) = 0 and not (s.odd is null or s.odd::text = '')"
    )
    if not kind.endswith("[]"):
        assert world.sql(different) == []
    world.sql("update staging.stg_item set odd = (select odd from staging.stg_item where id = 1)")
    world.run(item)
    if not kind.endswith("[]"):
        assert world.sql(different) == []


@pytest.mark.parametrize(
    ("kind", "before", "after"),
    [
        ("interval", "24:00:00", "1 day"),
        ("numeric", "1.0", "1.00"),
        ("jsonb", "1.0", "1.00"),
        ("double precision", "-0", "0"),
    ],
)
def test_a_value_that_equals_the_former_one_and_reads_otherwise_is_taken_over(
    world: World, kind: str, before: str, after: str
) -> None:
    world.table(f"id bigint, name text, odd {kind}")
    world.insert((1, "Pump", before))
    item = world.declare(include=["name"], filters=["odd"])
    world.run(item)
    world.sql("update staging.stg_item set odd = %s", after)
    world.run(item)
    assert world.sql(f"select odd::text from {SCHEMA}.item_embeddings") == [(after,)]


@pytest.mark.parametrize("kind", ["date", "timestamp", "timestamptz", "timestamptz(3)"])
def test_a_day_beyond_the_calendar_fails_its_own_row(world: World, kind: str) -> None:
    world.table(f"id bigint, name text, sold {kind}, seen {kind}")
    days = ["'infinity'", "'-infinity'", "'0044-03-15 BC'", "'99999-01-01'", "'2026-01-05'", "null"]
    for n, day in enumerate(days):
        world.sql(f"insert into staging.stg_item values ({n}, 'Pump', {day}, {day})")
    by_day = {"by": "day", "column": "sold", "start": "2026-01-01"}
    item = world.declare(include=["name"], changed_at="seen", partitions=by_day)
    world.run(item)
    assert sorted(row_id for row_id, _ in world.view()) == ["1", "2", "4", "5"]
    assert [row_id for row_id, *_ in world.sql(FAILED)] == ["0", "3"]
    world.plan(item)
    world.texts(item, keys=["2026-01-05"])
