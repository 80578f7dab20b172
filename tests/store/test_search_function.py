"""The SQL function that a client of the vectors searches with, and the comments that name it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from embeddings_pipeline.database import Database
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.sync.publish import rollback
from tests.support.databases import needs_version
from tests.support.pgbouncer import pgbouncer
from tests.support.roles import role_in
from tests.support.world import SCHEMA, World, world_in

ROWS = 300
VIEW, FUNCTION = f"{SCHEMA}.item_embeddings", f"{SCHEMA}.search_item"


def publish(world: World, rows: int = ROWS, **keys: Any) -> None:
    world.table("id bigint, name text, kind text")
    world.insert(*((n, f"thing {n} of shelf {n % 7}", f"kind {n % 3}") for n in range(rows)))
    world.run(world.declare(**{"include": ["name"], "filters": ["kind"]} | keys))


def vector_of(world: World, text: str) -> str:
    return str(world.encoder.encode_query([text]).vectors[0].tolist())


@pytest.fixture
def query(world: World) -> str:
    return vector_of(world, "name: thing 5 of shelf 5")


@pytest.fixture
def reader(world: World, superuser: Database) -> Iterator[Database]:
    """The database as a role sees it that may read the view and nothing else."""
    with role_in(superuser, f"grant usage on schema {SCHEMA} to {{role}}") as role:
        yield role


def ask(database: Database, *statements: str) -> list[tuple[Any, ...]]:
    """The rows of the last of these statements, in a session of its own."""
    with closing(psycopg.connect(database.url, autocommit=True)) as connection:
        for statement in statements:
            cursor = connection.execute(statement)
        return cursor.fetchall()


OPERATORS = {"cosine": "<=>", "l2": "<->", "ip": "<#>"}


@pytest.mark.parametrize(
    ("index", "storage", "metric"),
    [
        *(("hnsw", storage, metric) for storage in ("vector", "halfvec") for metric in OPERATORS),
        ("ivfflat", "vector", "cosine"),
        ("none", "halfvec", "ip"),
    ],
)
def test_as_many_rows_come_as_were_asked_for_best_first(
    world: World, query: str, metric: str, storage: str, index: str
) -> None:
    publish(world, metric=metric, storage=storage, index={"type": index})
    for k in (1, 10, 100, 299, 300):
        rows = world.sql(f"select * from {FUNCTION}('{query}', {k})")
        assert len(rows) == k
        assert rows == sorted(rows, key=lambda row: row[4])
    exact = world.sql(
        f"select id, embedding {OPERATORS[metric]} '{query}' from {VIEW} order by 2, 1"
    )
    assert [row[0] for row in rows[:5]] == [row[0] for row in exact[:5]]
    assert {row[0] for row in rows} == {row[0] for row in exact}
    assert [row[4] for row in rows] == pytest.approx([row[1] for row in exact], abs=2e-3)
    assert len(world.sql(f"select id from {FUNCTION}('{query}', 1000)")) == ROWS


def test_the_similarity_is_the_score_of_a_search(world: World, query: str) -> None:
    publish(world)
    rows = world.sql(f"select * from {FUNCTION}('{query}')")
    assert rows[0][:4] == (5, 0, "name: thing 5 of shelf 5", "kind 2")
    assert rows[0][4:] == pytest.approx((0, 1), abs=1e-5)
    assert len(rows) == 10


def test_the_view_alone_gives_fewer_rows(world: World, query: str) -> None:
    publish(world)
    plain = f"select id from {VIEW} order by embedding <=> '{query}' limit 100"
    assert len(ask(world.database, "set enable_seqscan = off", plain)) < 100
    # what docs/clients.md says of a role that sends such statements
    assert len(ask(world.database, "set hnsw.iterative_scan = relaxed_order", plain)) == 100


@pytest.mark.parametrize("storage", ["vector", "halfvec"])
def test_the_index_answers(world: World, query: str, storage: str) -> None:
    # with pg_stat_force_next_flush()
    needs_version(world.database, 15)
    publish(world, storage=storage)
    table = next(s.table_name for s in world.sets(world.declare()))
    scans = (
        "select pg_stat_force_next_flush(), pg_stat_clear_snapshot(),"
        f" idx_scan from pg_stat_user_indexes where indexrelname = '{table}_index'"
    )
    with closing(psycopg.connect(world.database.url, autocommit=True)) as connection:
        before = connection.execute(scans).fetchall()[0][2]
        for _ in range(8):
            connection.execute(f"select id from {FUNCTION}('{query}', 100)")
        connection.execute("select pg_stat_force_next_flush()")
        assert connection.execute(scans).fetchall()[0][2] == before + 8


def test_many_equal_vectors_hide_no_row(world: World) -> None:
    world.table("id bigint, name text")
    world.insert(*((n, "the same" if n < 250 else f"other {n}") for n in range(ROWS)))
    world.run(world.declare(index={"type": "hnsw", "m": 4, "ef_construction": 8, "recall": 0.0}))
    query = vector_of(world, "name: the same")
    for k in (100, 280):
        assert len(world.sql(f"select id from {FUNCTION}('{query}', {k})")) == k


def test_rows_that_were_deleted_leave_no_gap(world: World, query: str) -> None:
    publish(world)
    world.sql("delete from staging.stg_item where id % 7 = 5 and id <> 5")
    item = world.declare(include=["name"], filters=["kind"], max_delete_share=1)
    world.run(item)
    assert len(world.sql(f"select id from {FUNCTION}('{query}', 100)")) == 100


@pytest.mark.parametrize("storage", ["vector", "halfvec"])
def test_a_role_that_may_read_the_view_may_search(
    world: World, query: str, reader: Database, storage: str
) -> None:
    publish(world, storage=storage)
    search = f"select id from {FUNCTION}('{query}', 100)"
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        ask(reader, search)
    world.sql(f"grant select on {VIEW} to {reader.user}")
    assert len(ask(reader, search)) == 100
    assert ask(reader, search)[0] == (5,)


def test_nothing_of_a_search_stays_in_the_session(world: World, query: str) -> None:
    publish(world)
    shown = (
        "select current_setting('hnsw.ef_search'), current_setting('hnsw.iterative_scan'),"
        " current_setting('enable_seqscan'), current_setting('search_path')"
    )
    search = f"select id from {FUNCTION}('{query}', 100)"
    before = ask(world.database, "select '[1]'::vector", shown)
    assert ask(world.database, search, shown) == before
    assert ask(world.database, "begin", search, shown) == before


def test_it_works_behind_a_pooler_that_keeps_no_sessions(world: World, query: str) -> None:
    publish(world)
    with pgbouncer(world.database, "transaction") as pooled:
        for _ in range(3):
            assert len(ask(pooled, f"select id from {FUNCTION}('{query}', 100)")) == 100


@pytest.mark.usefixtures("superuser")
def test_the_extension_may_be_in_any_schema(world: World, query: str) -> None:
    publish(world)
    world.sql("create schema elsewhere; alter extension vector set schema elsewhere")
    world.sql(f"alter database {world.database.name} set search_path = public, elsewhere")
    with world_in(world.database, fresh=False) as again:
        again.publish(again.declare(include=["name"], filters=["kind"]))
    search = f"select id from {FUNCTION}('{query}', 100)"
    assert len(ask(world.database, "set search_path = ''", search)) == 100


def test_a_set_that_was_published_before_gets_the_function_at_the_next_publish(
    world: World, query: str
) -> None:
    publish(world)
    world.sql(f"drop function {FUNCTION}")
    world.publish(world.declare(include=["name"], filters=["kind"]))
    assert len(world.sql(f"select id from {FUNCTION}('{query}', 100)")) == 100


def test_an_unchanged_function_is_not_replaced(world: World) -> None:
    publish(world)
    query = f"select xmin::text from pg_proc where oid = '{FUNCTION}'::regproc"
    before = world.sql(query)
    world.publish(world.declare(include=["name"], filters=["kind"]))
    assert world.sql(query) == before


def test_the_function_follows_the_live_set(world: World, query: str) -> None:
    publish(world, 50)
    keys: dict[str, Any] = {"include": ["name"], "filters": ["kind"]}
    search = f"select distance from {FUNCTION}('{query}', 20)"
    settings = f"select proconfig::text from pg_proc where oid = '{FUNCTION}'::regproc"
    for change, setting in (
        ({"storage": "halfvec"}, "hnsw"),
        ({"metric": "l2"}, "hnsw"),
        ({"index": {"type": "ivfflat"}}, "ivfflat"),
        ({"index": {"type": "none"}}, "search_path"),
    ):
        keys |= change
        item = world.declare(**keys)
        world.run(item)
        assert len(world.sql(search)) == 20
        ((shown,),) = world.sql(settings)
        assert setting in shown
    assert "ivfflat" not in shown
    world.use(world.encoder.revised("r2"))
    world.run(item)
    other = vector_of(world, "name: thing 5 of shelf 5")
    ((nearest,),) = world.sql(f"select id from {FUNCTION}('{other}', 1)")
    assert nearest == 5
    rollback(world.postgres, world.names_of(item))
    assert world.sql(search)[0][0] == pytest.approx(0, abs=0.01)


def test_a_filter_that_comes_or_goes_keeps_the_grants(
    world: World, query: str, reader: Database
) -> None:
    publish(world, 50)
    world.sql(f"grant select on {VIEW} to {reader.user}")
    world.sql(f"grant execute on function {FUNCTION} to {reader.user} with grant option")
    grants = f"select proacl::text from pg_proc where oid = '{FUNCTION}'::regproc"
    granted = world.sql(grants)
    world.sql("alter table staging.stg_item add stock int default 3")
    for filters, row in ((["kind", "stock"], ("kind 2", 3)), (["stock"], (3,))):
        world.run(world.declare(include=["name"], filters=filters))
        found = ask(reader, f"select * from {FUNCTION}('{query}', 1)")
        assert found[0][3:-2] == row
        assert world.sql(grants) == granted


def test_who_depends_on_the_columns_is_named(world: World, query: str) -> None:
    publish(world, 50)
    world.sql(f"create view staging.mart as select id from {FUNCTION}('{query}', 3)")
    world.sql("alter table staging.stg_item add stock int default 3")
    with pytest.raises(ConfigurationError, match=r"search_item.*staging\.mart"):
        world.run(world.declare(include=["name"], filters=["kind", "stock"]))
    assert len(world.sql("select * from staging.mart")) == 3


def test_columns_named_like_the_functions_own_get_an_underscore(world: World) -> None:
    world.table('k bigint, name text, query text, distance int, n int, "Wei""rd" text')
    world.insert((1, "Pump", "a", 7, 2, "b"), (2, "Hose", "c", 8, 3, "d"))
    filters = ["query", "distance", "n", 'Wei"rd']
    world.run(world.declare(id="k", include=["name"], filters=filters))
    query = vector_of(world, "name: Hose")
    with world.postgres.connection() as connection:
        cursor = connection.execute(
            SQL("select * from {}(query => %s, k => 1)").format(Identifier(SCHEMA, "search_item")),
            (query,),
        )
        names = [column.name for column in cursor.description or ()]
        assert names == [
            *("k_", "chunk", "text", "query_", "distance_", "n", 'Wei"rd'),
            *("distance", "similarity"),
        ]
        assert cursor.fetchall()[0][:7] == (2, 0, "name: Hose", "c", 8, 3, "d")


def test_a_vector_of_another_dimension_and_odd_numbers_of_rows(world: World, query: str) -> None:
    publish(world)
    with pytest.raises(psycopg.DataError, match="different vector dimensions 2 and 64"):
        world.sql(f"select id from {FUNCTION}('[1,2]', 3)")
    assert world.sql(f"select id from {FUNCTION}('{query}', 0)") == []
    assert world.sql(f"select id from {FUNCTION}('{query}', null)") == []
    assert world.sql(f"select id from {FUNCTION}('{'[' + '0,' * 63 + '0]'}', 3)") == []


def test_the_view_says_what_it_is_and_names_the_function(world: World) -> None:
    publish(world)
    ((comment,),) = world.sql(f"select obj_description('{VIEW}'::regclass)")
    assert "search_item" in comment
    comments = dict(
        world.sql(
            "select attname, col_description(attrelid, attnum) from pg_attribute"
            f" where attrelid = '{VIEW}'::regclass and attnum > 0"
        )
    )
    assert "search_item" in comments["embedding"]
    assert all(comments.values())
    ((comment,),) = world.sql(f"select obj_description('{FUNCTION}'::regproc, 'pg_proc')")
    assert "best first" in comment


def test_the_view_has_one_unique_column(world: World) -> None:
    world.table("id text, name text")
    words = " ".join(f"word{n}" for n in range(60))
    world.insert(("a", words), ("a/1", words), ("", "Pump"))
    world.run(world.declare(include=["name"], chunk={"tokens": 20, "overlap": 5}))
    keys = world.sql(f"select key, id, chunk from {VIEW}")
    assert len({key for key, *_ in keys}) == len(keys) > 6
    assert all(key == f"{row}/{chunk}" for key, row, chunk in keys)


def test_a_view_that_was_published_before_gets_the_key_beside_what_depends_on_it(
    world: World, reader: Database
) -> None:
    publish(world, 50)
    without = f"create view {VIEW} as select {{}} from {SCHEMA}.item_vectors_1"
    columns = (
        "id, chunk, text, embedding::vector as embedding, 'fake/words'::text as model,"
        " uuid_send(text_hash) as text_hash, updated_at, kind"
    )
    world.sql(f"drop view {VIEW}; {without.format(columns)}")
    world.sql(f"create view staging.mart as select * from {VIEW}")
    world.sql(f"grant select on {VIEW} to {reader.user}")
    world.publish(world.declare(include=["name"], filters=["kind"]))
    assert ask(reader, f"select key, kind from {VIEW} where id = 5") == [("5/0", "kind 2")]
    assert len(world.sql("select id, kind from staging.mart")) == 50
    comment = f"select col_description('{VIEW}'::regclass, 9)"
    assert "unique" in world.sql(comment)[0][0]


def test_a_column_of_the_entity_that_is_named_key_stands_in_its_place(
    world: World, reader: Database
) -> None:
    publish(world, 5)
    world.sql(f"grant select on {VIEW} to {reader.user}")
    world.sql("alter table staging.stg_item add key int default 3")
    item = world.declare(include=["name"], filters=["kind", "key"])
    world.sql(f"create view staging.mart as select key from {VIEW}")
    with pytest.raises(ConfigurationError, match=r"took the name key, but .*staging\.mart"):
        world.run(item)
    world.sql("drop view staging.mart")
    world.run(item)
    assert ask(reader, f"select key, key_ from {VIEW} where id = 2") == [(3, "2/0")]
    world.run(world.declare(include=["name"], filters=["kind"]))
    assert ask(reader, f"select key from {VIEW} where id = 2") == [("2/0",)]
