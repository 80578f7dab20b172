"""Connections to Postgres: pooled, in autocommit, with the session settings that we rely on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import psycopg
from psycopg import Connection, sql
from psycopg_pool import ConnectionPool, PoolTimeout
from tenacity import (
    Retrying,
    before_sleep_log,
    retry_if_exception,
    stop_after_delay,
    wait_exponential_jitter,
)

from embeddings_pipeline.errors import Unavailable
from embeddings_pipeline.settings import Database

Row = tuple[Any, ...]

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger(__name__)

_PATIENCE_SECONDS = 120
# admin_shutdown, crash_shutdown, cannot_connect_now, deadlock_detected, serialization_failure
_PASSING_STATES = ("57P01", "57P02", "57P03", "40P01", "40001")

# of a server that does not answer; libpq itself would wait for the system, some two minutes
_CONNECT_SECONDS = 10
_CONNECTION: dict[str, Any] = {
    "application_name": "embeddings_pipeline",
    "client_encoding": "UTF8",
    "connect_timeout": _CONNECT_SECONDS,
    # a server that vanished without a word is noticed in a minute rather than in two hours
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
}
# the text of a value, and with it a row's fingerprint, must not depend on who asks. Set in the
# session, because PGTZ and PGDATESTYLE outdo what a connection is opened with
_SETTINGS = """
    set datestyle = 'ISO, YMD'; set intervalstyle = 'postgres'; set timezone = 'UTC';
    set extra_float_digits = 1; set bytea_output = 'hex'; set lc_monetary = 'C';
    set client_min_messages = 'warning';
    -- what compares a whole table sorts and hashes it; the server's default of 4 MB goes to disk
    set work_mem = '64MB'
"""


class Postgres:
    """A pool over one database. Connections come in autocommit and go back as they came."""

    def __init__(
        self,
        database: Database,
        *,
        max_size: int = 8,
        prepare: Callable[[Connection[Row]], None] | None = None,
        patience: float = 30,
        statement_seconds: float | None = None,
    ) -> None:
        """With `prepare` each connection is prepared once, and nobody leaves anything in it.

        `patience` is how many seconds one waits for a connection, and `statement_seconds` how
        many a statement may take.
        """
        self.database = database
        self._prepare = prepare
        self._statement_seconds = statement_seconds
        self._pool: ConnectionPool[Connection[Row]] = ConnectionPool(
            database.url,
            min_size=0,
            max_size=max_size,
            timeout=patience,
            # an attempt pauses longer and longer: who comes later begins a new one instead
            reconnect_timeout=patience,
            # `discard all` would take prepared statements away behind psycopg's back
            kwargs={
                **_CONNECTION,
                "autocommit": True,
                "prepare_threshold": 5 if prepare else None,
            },
            configure=self._configure,
            # a search that meets a lost connection is tried again instead
            check=None if prepare else ConnectionPool.check_connection,
            # a session leaves no temporary table, lock or setting to the next
            reset=None if prepare else self._forget,
            open=False,
        )

    @contextmanager
    def connection(self) -> Iterator[Connection[Row]]:
        """A connection for a block of work; session-level locks end with the block.

        Raises Unavailable with the reason where not even the first one can be made.
        """
        if self._pool.closed and (reason := self._refusal()):
            raise Unavailable(reason)
        self._pool.open()
        try:
            with self._pool.connection() as connection:
                yield connection
        except PoolTimeout:
            raise psycopg.OperationalError(
                self._refusal()
                or f"all {self._pool.max_size} connections to {self.database} are in use"
            ) from None

    @contextmanager
    def transaction_in(self, schema: str) -> Iterator[Connection[Row]]:
        """A transaction in which a table without a schema's name is in this one."""
        with self.connection() as connection, connection.transaction():
            path = sql.SQL("set local search_path to {}").format(sql.Identifier(schema))
            connection.execute(path)
            yield connection

    def _configure(self, connection: Connection[Row]) -> None:
        self._begin(connection)
        if self._prepare:
            self._prepare(connection)

    def _forget(self, connection: Connection[Row]) -> None:
        connection.execute("discard all")
        self._begin(connection)

    def _begin(self, connection: Connection[Row]) -> None:
        _settle(connection)
        if self._statement_seconds is not None:
            connection.execute(
                "select set_config('statement_timeout', %s, false)",
                (f"{self._statement_seconds * 1000:.0f}ms",),
            )

    def _refusal(self) -> str | None:
        """Why a connection cannot be made, or None. The pool itself tries on and does not say."""
        try:
            psycopg.connect(self.database.url, **_CONNECTION).close()
        except psycopg.OperationalError as error:
            reason = " ".join(str(error).split())
            return f"cannot connect to {self.database} as {self.database.user!r}: {reason}"
        return None

    def renew(self) -> None:
        """Replace the connections that were lost."""
        self._pool.check()

    def close(self) -> None:
        """Close every connection."""
        self._pool.close()


def resumed(work: Callable[P, T]) -> Callable[P, T]:
    """Do the work again, with growing pauses, when its connection was lost in the middle.

    For work that goes on from what is stored. It takes its connections and locks anew; any other
    error, and a database that stays away for two minutes, ends it.
    """

    @wraps(work)
    def persistent(*args: P.args, **kwargs: P.kwargs) -> T:
        return Retrying(
            retry=retry_if_exception(is_lost_connection),
            wait=wait_exponential_jitter(multiplier=0.1, max=10),
            stop=stop_after_delay(_PATIENCE_SECONDS),
            before_sleep=before_sleep_log(logger, logging.WARNING),
            reraise=True,
        )(work, *args, **kwargs)

    return persistent


def is_lost_connection(error: BaseException) -> bool:
    """Whether the server went away, or ended one of two transactions that wait for each other."""
    if not isinstance(error, psycopg.OperationalError):
        return False
    state = error.sqlstate
    return state is None or state.startswith("08") or state in _PASSING_STATES


def _settle(connection: Connection[Row]) -> None:
    connection.execute(_SETTINGS)


def trusted(fragment: str, *, escaped: bool = True) -> sql.SQL:
    """SQL that the project's own yml gives (a `where`, a type's name).

    `escaped` for a statement with parameters, where a percent sign would be a placeholder.
    """
    return sql.SQL(fragment.replace("%", "%%") if escaped else fragment)


def columns_of(connection: Connection[Row], schema: str, table: str) -> dict[str, str]:
    """Column -> type of a table or view, in their order; empty where there is no such relation."""
    rows = connection.execute(
        """
        select a.attname, format_type(t.oid, a.atttypmod)
        from pg_attribute a
        join pg_class c on c.oid = a.attrelid
        join pg_namespace n on n.oid = c.relnamespace
        join pg_type d on d.oid = a.atttypid
        -- the type below a domain; an enum has no meaning in another database, text has
        join pg_type t on t.oid = case
            when d.typtype = 'd' then d.typbasetype
            when d.typtype = 'e' then 'text'::regtype
            else d.oid end
        where n.nspname = %s and c.relname = %s and a.attnum > 0 and not a.attisdropped
        order by a.attnum
        """,
        (schema, table),
    )
    return dict(rows)
