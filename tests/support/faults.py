"""Makes one chosen exchange with the database go wrong, the way SQLite tests its I/O."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import RLock, current_thread, local
from typing import Any

import psycopg
import pytest
from psycopg import Connection
from psycopg.errors import InFailedSqlTransaction
from psycopg.pq import TransactionStatus
from psycopg_pool import ConnectionPool

from embeddings_pipeline.store.connection import Postgres

_UNCOUNTED = (
    # rows of a COPY gather in a buffer until its end
    "copy_to",
    # a connection that goes back to the pool has no transaction to commit
    "BaseConnection._commit_gen",
    # a cursor ends with its transaction, whose end comes next; the driver warns of one left open
    "ServerCursorMixin._close_gen",
)


class Died(BaseException):
    """The process is no more; nothing but the test itself catches it."""


class Exchanges:
    """Counts what the process exchanges with the server while armed, and spoils one of it.

    All threads are counted together, in the order in which they come. An exchange
    is a call that waits for the server: a statement, a begin or a commit, a part of a COPY. Calls
    of the pool before it lends a connection do not count.
    """

    def __init__(self) -> None:
        self.seen = 0
        self.dead = False
        self.kind = ""
        self._at = 0
        self._spoil: Spoil = passes
        self._armed = False
        self._lock = RLock()
        self._unseen = local()
        self._lent: set[Connection[Any]] = set()

    @contextmanager
    def armed(self, spoil: Spoil, at: int | None = None) -> Iterator[None]:
        """Count from 1, and spoil exchange `at`; every one of them without it."""
        self.seen = 0
        self._spoil, self._at, self._armed = spoil, at or 0, True
        try:
            yield
        finally:
            self._armed = self.dead = False

    def die(self) -> None:
        """Cut every connection that is in use; from now on nothing is sent."""
        self.dead = True
        for connection in [*self._lent]:
            cut(connection)
        raise Died

    @contextmanager
    def unseen(self) -> Iterator[None]:
        """Neither count nor spoil exchanges in the block."""
        former, self._unseen.now = getattr(self._unseen, "now", False), True
        try:
            yield
        finally:
            self._unseen.now = former

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Stand between the driver and the server."""
        wait, check, connect = Connection.wait, ConnectionPool.check_connection, Postgres.connection

        def counted(connection: Connection[Any], gen: Any, *args: Any, **kwargs: Any) -> Any:
            def go_on() -> Any:
                return wait(connection, gen, *args, **kwargs)

            of_the_pool = current_thread().name.startswith("pool-")
            unseen = not self._armed or of_the_pool or getattr(self._unseen, "now", False)
            if unseen or gen.__qualname__ in _UNCOUNTED:
                return go_on()
            with self._lock:
                if self.dead:
                    raise Died
                self.seen += 1
                chosen = self._at in (0, self.seen)
                self.kind = gen.__qualname__ if chosen else self.kind
            if not chosen:
                return go_on()
            with self.unseen():
                return self._spoil(self, connection, go_on)

        def checked(connection: Connection[Any]) -> None:
            with self.unseen():
                check(connection)

        @contextmanager
        def lent(postgres: Postgres) -> Iterator[Connection[Any]]:
            if self.dead:
                raise Died
            with connect(postgres) as connection:
                self._lent.add(connection)
                try:
                    yield connection
                finally:
                    self._lent.discard(connection)

        patch.setattr(Connection, "wait", counted)
        patch.setattr(ConnectionPool, "check_connection", staticmethod(checked))
        patch.setattr(Postgres, "connection", lent)


def cut(connection: Connection[Any]) -> None:
    """End a connection. A thread that waits for its answer hears of it, as it would not of a closed
    descriptor."""
    with suppress(OSError, psycopg.OperationalError):
        descriptor = os.dup(connection.pgconn.socket)
        with socket.socket(fileno=descriptor) as line:
            line.shutdown(socket.SHUT_RDWR)


Spoil = Callable[[Exchanges, Connection[Any], Callable[[], Any]], Any]


def passes(exchanges: Exchanges, connection: Connection[Any], go_on: Callable[[], Any]) -> Any:
    """Spoils nothing."""
    return go_on()


def refused(error: type[psycopg.Error]) -> Spoil:
    """The server answers with this error, and an open transaction is lost."""

    def spoil(exchanges: Exchanges, connection: Connection[Any], go_on: Callable[[], Any]) -> Any:
        kind = exchanges.kind
        if kind == "copy_end":
            go_on()
        if connection.pgconn.transaction_status == TransactionStatus.INTRANS:
            # a commit that fails leaves no transaction; any other statement an aborted one
            commits = kind.endswith("_exit_gen") and connection._num_transactions == 1
            connection.pgconn.exec_(b"rollback" if commits else b"select 1 / 0")
        if kind.endswith(("_enter_gen", "_exit_gen")):
            # the driver's own count of open blocks has to be kept; a savepoint fails by itself now
            with suppress(InFailedSqlTransaction):
                go_on()
        raise error(f"refused: {kind}")

    return spoil


def dies(exchanges: Exchanges, connection: Connection[Any], go_on: Callable[[], Any]) -> Any:
    """The server has done it, and the process is killed before it hears of that."""
    go_on()
    exchanges.die()


def answer_lost(exchanges: Exchanges, connection: Connection[Any], go_on: Callable[[], Any]) -> Any:
    """The server has done it, and the connection breaks before the process hears of that."""
    go_on()
    connection.pgconn.finish()
    raise psycopg.OperationalError("server closed the connection unexpectedly")


def cut_off(exchanges: Exchanges, connection: Connection[Any], go_on: Callable[[], Any]) -> Any:
    """The server ends the session before it hears of this."""
    with psycopg.connect(connection.info.dsn, password=connection.info.password) as other:
        # waits until the session is gone
        other.execute("select pg_terminate_backend(%s, 10000)", (connection.info.backend_pid,))
    return go_on()
