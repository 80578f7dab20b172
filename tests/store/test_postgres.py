"""Connections: the errors of a failed connection, and the settings of a session."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import replace

import psycopg
import pytest
from psycopg import Connection, ServerCursor
from psycopg.errors import LockNotAvailable, UndefinedTable
from pydantic import SecretStr

from embeddings_pipeline.database import Database
from embeddings_pipeline.errors import Busy, Unavailable
from embeddings_pipeline.store import connection as store_connection
from embeddings_pipeline.store.connection import (
    Deadlines,
    NoConnection,
    Postgres,
    Row,
    only,
    server_cursor,
)
from tests.support.faults import cut

FIXED = {
    "DateStyle": ("German", "ISO, YMD"),
    "IntervalStyle": ("iso_8601", "postgres"),
    "TimeZone": ("Asia/Tokyo", "UTC"),
    "extra_float_digits": ("-5", "1"),
    "bytea_output": ("escape", "hex"),
    "lc_monetary": ("POSIX", "C"),
    "jit": ("on", "off"),
    "client_min_messages": ("error", "warning"),
}


@pytest.fixture
def pool(database: Database) -> Iterator[Postgres]:
    with closing(Postgres(database, max_size=1)) as pool:
        yield pool


def settings_of(pool: Postgres) -> dict[str, str]:
    with pool.connection() as connection:
        return {name: only(connection.execute(f"show {name}"))[0] for name in FIXED}


def refusal(database: Database) -> str:
    # a test that waited for so long would be ended
    with (
        closing(Postgres(database, patience=3600)) as pool,
        pytest.raises((Unavailable, NoConnection)) as error,
        pool.connection(),
    ):
        raise AssertionError("connected")
    return str(error.value)


def test_a_wrong_password_is_said_at_once_and_not_shown(database: Database) -> None:
    message = refusal(replace(database, password=SecretStr("hunter2")))
    assert message.startswith(f"cannot connect to {database} as {database.user!r}: ")
    assert message.endswith(f'failed for user "{database.user}" (SQLSTATE 28P01)')
    assert "hunter2" not in message


def test_a_database_that_is_not_there_is_said_at_once(database: Database) -> None:
    assert 'database "nowhere" does not exist' in refusal(replace(database, name="nowhere"))


def test_a_server_that_does_not_run_is_said_at_once(database: Database) -> None:
    message = refusal(replace(database, port=1))
    assert "Connection refused" in message
    assert "\n" not in message


def test_a_host_that_is_not_known_is_said_at_once(database: Database) -> None:
    assert "no.such.host.invalid" in refusal(replace(database, host="no.such.host.invalid"))


def test_a_socket_that_is_not_there_is_said_at_once(database: Database) -> None:
    assert "No such file or directory" in refusal(replace(database, host="/nowhere"))


def test_a_server_that_never_answers_is_given_up_on(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store_connection._CONNECTION["connect_timeout"] == 10
    monkeypatch.setitem(store_connection._CONNECTION, "connect_timeout", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        message = refusal(replace(database, port=silent.getsockname()[1]))
    assert "timeout" in message


def test_a_pool_that_is_used_up_is_told_from_a_server_that_is_gone(database: Database) -> None:
    with (
        closing(Postgres(database, max_size=1, patience=1)) as pool,
        pool.connection(),
        pytest.raises(psycopg.OperationalError, match=r"none of the 1 connections to test_.* free"),
        pool.connection(),
    ):
        raise AssertionError("connected")


def test_a_database_that_goes_away_later_is_an_error_of_the_work(
    database: Database, role: Database
) -> None:
    with closing(Postgres(role, patience=1)) as pool:
        with pool.connection() as connection:
            assert connection.execute("select 1").fetchone() == (1,)
        with closing(psycopg.connect(database.url, autocommit=True)) as admin:
            admin.execute(f"alter role {role.user} nologin")
            admin.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where usename = %s",
                (role.user,),
            )
        with (
            pytest.raises(psycopg.OperationalError, match="is not permitted to log in"),
            pool.connection(),
        ):
            raise AssertionError("connected")


def test_connections_that_were_all_lost_are_replaced_at_once(database: Database) -> None:
    # the pool would need longer for eight, one after the other
    with closing(Postgres(database, patience=5)) as pool:
        with ExitStack() as held:
            pids = [held.enter_context(pool.connection()).info.backend_pid for _ in range(8)]
        with closing(psycopg.connect(database.url, autocommit=True)) as admin:
            admin.execute("select pg_terminate_backend(pid, 10000) from unnest(%s) pid", [pids])
        with pool.connection() as connection:
            assert connection.info.backend_pid not in pids


def test_a_server_that_vanished_is_given_up_on_within_a_minute(pool: Postgres) -> None:
    with pool.connection() as connection, socket.socket(fileno=os.dup(connection.fileno())) as line:
        assert line.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000


def test_a_closed_pool_stays_closed(pool: Postgres) -> None:
    with pool.connection():
        pass
    pool.close()
    with pytest.raises(psycopg.OperationalError, match="closed"), pool.connection():
        raise AssertionError("connected")


def test_a_session_leaves_nothing_to_the_next(pool: Postgres) -> None:
    with pool.connection() as connection:
        pid = connection.info.backend_pid
        connection.execute("create temporary table left_over (id int)")
        connection.execute("select pg_advisory_lock(7)")
        connection.execute("listen left_over")
        connection.execute("set work_mem = '1234kB'")
        connection.execute("set timezone = 'Asia/Tokyo'")
        connection.execute("prepare left_over as select 1")
    with pool.connection() as connection:
        assert connection.info.backend_pid == pid
        with pytest.raises(UndefinedTable):
            connection.execute("select * from left_over")
        for held in (
            "pg_locks where locktype = 'advisory' and pid = pg_backend_pid()",
            "pg_listening_channels() as l",
            "pg_prepared_statements",
            "pg_settings where name = 'work_mem' and setting = '1234'",
        ):
            assert connection.execute(f"select 1 from {held}").fetchall() == [], held
    assert settings_of(pool)["TimeZone"] == "UTC"


def test_a_transaction_left_open_is_rolled_back(pool: Postgres) -> None:
    with pool.connection() as connection:
        connection.execute("create table kept (id int)")
    with suppress(RuntimeError), pool.connection() as connection:
        connection.execute("begin")
        connection.execute("insert into kept values (1)")
        raise RuntimeError
    with pool.connection() as connection:
        assert connection.execute("select * from kept").fetchall() == []


def test_settings_are_ours_whatever_the_role_and_the_environment_say(
    database: Database, role: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(psycopg.connect(database.url, autocommit=True)) as admin:
        for name, (strange, _) in FIXED.items():
            admin.execute(f"alter role {role.user} set {name} = '{strange}'")
    monkeypatch.setenv("PGTZ", "Asia/Tokyo")
    monkeypatch.setenv("PGDATESTYLE", "German")
    monkeypatch.setenv("PGOPTIONS", "-c intervalstyle=iso_8601")
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    expected = {name: ours for name, (_, ours) in FIXED.items()}
    with closing(Postgres(role, max_size=1)) as pool:
        assert settings_of(pool) == expected
        # and so in a session that another has used
        assert settings_of(pool) == expected
        with pool.connection() as connection:
            assert connection.info.encoding == "utf-8"


def test_what_a_value_looks_like_does_not_depend_on_the_role(
    database: Database, role: Database
) -> None:
    with closing(psycopg.connect(database.url, autocommit=True)) as admin:
        for name, (strange, _) in FIXED.items():
            admin.execute(f"alter role {role.user} set {name} = '{strange}'")
    values = (
        "select row(timestamptz '2026-03-01 23:30+00', date '2026-03-01', interval '1 day 2 hours',"
        " 0.1::float8 + 0.2::float8, '\\x00ff'::bytea, 12.5::numeric::money)::text"
    )
    printed = []
    for who in (database, role):
        with closing(Postgres(who)) as pool, pool.connection() as connection:
            printed.append(connection.execute(values).fetchone())
    assert printed[0] == printed[1]
    assert "0.30000000000000004" in str(printed[0])


def test_a_number_of_json_with_more_digits_than_a_float_has_stays_a_text(pool: Postgres) -> None:
    numbers = """select '[0.5, 9007199254740993, 0.12345678901234567891]'::jsonb"""
    # and so in a session that another has used
    for _ in range(2):
        with pool.connection() as connection:
            found = only(connection.execute(numbers))[0]
        assert found == [0.5, "9007199254740993", "0.12345678901234567891"]


def test_a_cursor_whose_connection_is_lost_is_closed(pool: Postgres) -> None:
    lost: list[ServerCursor[Row]] = []

    def read() -> None:
        with (
            pool.connection() as connection,
            connection.transaction(),
            server_cursor(connection, "rows") as cursor,
        ):
            lost.append(cursor.execute("select 1"))
            cut(connection)

    with pytest.raises(psycopg.OperationalError):
        read()
    assert lost[0].closed


def timeouts_of(connection: Connection[Row]) -> list[int]:
    """The timeouts for locks and for statements, in milliseconds."""
    rows = connection.execute(
        "select setting::int from pg_settings where name in ('lock_timeout', 'statement_timeout')"
        " order by name"
    )
    return [milliseconds for (milliseconds,) in rows]


def test_statements_within_deadlines_have_the_time_that_is_left(pool: Postgres) -> None:
    now = time.monotonic()
    limited = pool.with_deadlines(Deadlines(locks=now + 1_000, statements=now + 2_000))
    with limited.connection() as connection:
        locks, statements = timeouts_of(connection)
        assert 0 < locks <= 1_000_000 < statements <= 2_000_000
        time.sleep(0.01)
        limited.apply_deadlines(connection)
        assert timeouts_of(connection) < [locks, statements]
    # to Postgres 0 is no limit
    with pool.with_deadlines(Deadlines(now, now + 60)).connection() as connection:
        assert timeouts_of(connection)[0] == 1
    with pool.connection() as connection:
        assert timeouts_of(connection) == [0, 0]


def test_a_lock_that_is_not_free_in_time_is_said_to_be_held(pool: Postgres) -> None:
    with closing(psycopg.connect(pool.database.url, autocommit=True)) as holder:
        holder.execute("create table held (id int)")
        with holder.transaction():
            holder.execute("lock table held")
            limited = pool.with_deadlines(Deadlines(time.monotonic(), time.monotonic() + 60))
            with (
                pytest.raises(Busy, match="another transaction holds the same rows or tables"),
                limited.connection() as connection,
            ):
                connection.execute("select from held")
            # the timeout of a statement's own is the statement's own business
            with pool.connection() as connection:
                connection.execute("set lock_timeout = 1")
                with pytest.raises(LockNotAvailable):
                    connection.execute("select from held")
