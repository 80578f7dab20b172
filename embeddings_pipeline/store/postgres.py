"""Connections to Postgres: pooled, in autocommit, with the session settings that we rely on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import psycopg
from psycopg import Connection, sql
from psycopg.errors import InsufficientPrivilege
from psycopg_pool import ConnectionPool, PoolTimeout
from tenacity import (
    Retrying,
    before_sleep_log,
    retry_if_exception,
    stop_after_delay,
    wait_exponential_jitter,
)

from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.settings import Database

Row = tuple[Any, ...]

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger(__name__)

_PATIENCE_SECONDS = 120
# admin_shutdown, crash_shutdown, cannot_connect_now, deadlock_detected, serialization_failure
_PASSING_STATES = ("57P01", "57P02", "57P03", "40P01", "40001")

MINIMUM_SERVER = 140000
MINIMUM_PGVECTOR = (0, 7)
# the text of a value, and with it a row's fingerprint, must not depend on who asks
_SESSION = {
    "application_name": "embeddings_pipeline",
    "client_encoding": "UTF8",
    "options": "-c datestyle=ISO,YMD -c intervalstyle=postgres -c timezone=UTC"
    " -c extra_float_digits=1 -c bytea_output=hex -c client_min_messages=warning",
}


class Postgres:
    """A pool over one database. Connections come in autocommit and go back as they came."""

    def __init__(self, database: Database, *, max_size: int = 8) -> None:
        self.database = database
        self._pool: ConnectionPool[Connection[Row]] = ConnectionPool(
            database.url,
            min_size=0,
            max_size=max_size,
            timeout=30,
            # `discard all` would take prepared statements away behind psycopg's back
            kwargs={**_SESSION, "autocommit": True, "prepare_threshold": None},
            check=ConnectionPool.check_connection,
            # a session leaves no temporary table, lock or setting to the next
            reset=_forget,
            open=False,
        )

    @contextmanager
    def connection(self) -> Iterator[Connection[Row]]:
        """A connection for a block of work; session-level locks end with the block."""
        self._pool.open()
        try:
            with self._pool.connection() as connection:
                yield connection
        except PoolTimeout:
            raise psycopg.OperationalError(
                f"cannot connect to {self.database}: is it running, and are its credentials right?"
            ) from None

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


def _forget(connection: Connection[Row]) -> None:
    connection.execute("discard all")


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


def check_server(connection: Connection[Row], schema: str) -> None:
    """Make sure of Postgres, pgvector and the schema.

    Raises ConfigurationError that says what to run where one is missing.
    """
    version = connection.info.server_version
    if version < MINIMUM_SERVER:
        raise ConfigurationError(f"the server is Postgres {version // 10000}; 14 is the oldest")
    found = connection.execute(
        "select extversion from pg_extension where extname = 'vector'"
    ).fetchone()
    user = connection.info.user
    if found is None:
        try:
            connection.execute("create extension if not exists vector")
        except psycopg.Error as error:
            raise ConfigurationError(
                f"database {connection.info.dbname!r} lacks the extension vector"
                f" ({str(error).splitlines()[0]}): install pgvector on the server and run"
                " `create extension vector` as a superuser"
            ) from None
    elif tuple(int(part) for part in found[0].split(".")[:2]) < MINIMUM_PGVECTOR:
        raise ConfigurationError(
            f"pgvector is {found[0]}; 0.7 is the oldest: upgrade it and run"
            " `alter extension vector update`"
        )
    try:
        connection.execute(sql.SQL("create schema if not exists {}").format(sql.Identifier(schema)))
    except InsufficientPrivilege:
        raise ConfigurationError(
            f"user {user!r} may not create schema {schema!r}: run"
            f' `create schema "{schema}" authorization "{user}"` as its database\'s owner'
        ) from None
