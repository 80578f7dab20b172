"""Connections to Postgres: pooled, in autocommit, with fixed session settings."""

from __future__ import annotations

import os
import re
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from copy import copy
from threading import Lock, Timer
from typing import Any, LiteralString, NamedTuple

import psycopg
from psycopg import Connection, Cursor, IsolationLevel, ServerCursor, sql
from psycopg.conninfo import make_conninfo
from psycopg.errors import LockNotAvailable, ProtocolViolation
from psycopg.pq import PGconn, PollingStatus, TransactionStatus
from psycopg.types.json import set_json_loads
from psycopg_pool import ConnectionPool, PoolTimeout

from embeddings_pipeline.database import Database
from embeddings_pipeline.errors import Busy, ConfigurationError, ReadOnly, Unavailable
from embeddings_pipeline.store.wire import exact_json

Row = tuple[Any, ...]


def only(cursor: Cursor[Row]) -> Row:
    """The row of a statement that always returns one."""
    row = cursor.fetchone()
    if row is None:
        raise LookupError("the statement returned no row")
    return row


@contextmanager
def asynchronous_commit(connection: Connection[Row]) -> Iterator[None]:
    """A transaction whose commit does not wait for the disk, for data that can be computed again. A
    crash of the server may lose the last half second of such transactions, always whole ones
    (https://www.postgresql.org/docs/current/wal-async-commit.html)."""
    with connection.transaction():
        connection.execute("set local synchronous_commit to off")
        yield


@contextmanager
def consistent_read(connection: Connection[Row]) -> Iterator[None]:
    """A transaction whose reads all see the same state of the database, and that writes nothing. It
    is part of the one that is open, where there is one."""
    begins = connection.info.transaction_status is TransactionStatus.IDLE
    with connection.transaction():
        if begins:
            connection.execute("set transaction isolation level repeatable read, read only")
        yield


@contextmanager
def server_cursor(
    connection: Connection[Row], name: str, *, binary: bool = False
) -> Iterator[ServerCursor[Row]]:
    """A cursor that leaves its rows on the server until they are fetched."""
    with connection.cursor(name, binary=binary) as cursor, cursor:
        # psycopg leaves a cursor open whose connection is lost while it closes, and warns of that
        # when it is collected; the second close has nothing to send
        yield cursor


class NoConnection(psycopg.OperationalError):
    """No connection was available in time, or the server takes none now. A run waits for it.

    `since` is the time.monotonic() since which the server takes none, as far as that is known.
    """

    since: float | None = None


class _Absence:
    """Since when a server takes no connection, by attempts without a long pause between them."""

    def __init__(self) -> None:
        self.since: float | None = None
        self._until = 0.0

    def note(self, refusal: NoConnection) -> None:
        """Note a failed attempt, and in its error since when the server is away."""
        now = time.monotonic()
        if self.since is None or now - self._until > _ABSENCE_PAUSE_SECONDS:
            self.since = now
        self._until = now
        refusal.since = self.since

    def end(self) -> None:
        """Note that the server took a connection."""
        self.since = None


# parts of messages of libpq, servers and poolers where a later attempt may succeed. A server with
# another language than English says the same in its own words; then the SQLSTATE tells
_MAY_PASS = (
    *("Connection refused", "timeout expired", "timed out", "closed the connection"),
    *("reset by peer", "EOF detected", "unexpected eof", "unreachable", "No route to host"),
    *("Temporary failure in name resolution", "terminating connection", "starting up"),
    # also where the socket of a server that is stopped is gone
    *("shutting down", "in recovery mode", "accepting connections"),
    *("too many", "remaining connection slots", "no more connections allowed"),
    # PgBouncer
    *("query_wait_timeout", "server_login_retry", "cannot connect to server"),
    # Supavisor, the proxies of RDS and of Neon, pgcat, Odyssey
    *("max clients reached", "Max client connections reached", "not available"),
    *("acquire database connection", "connect to compute node", "connection from the pool"),
    "connect to remote server",
)
# too many connections; a server that shuts down or starts; a database that is closed for now
_CODES_THAT_MAY_PASS = ("53", "57P01", "57P02", "57P03", "55000")
# what to do about some of them
_REMEDIES = {
    "too many connections for role": "end other sessions of the role, or raise its limit with"
    " `alter role … connection limit N`",
    "too many connections for database": "end other sessions, or raise the limit with `alter"
    " database … connection limit N`",
    "too many clients": "end other sessions, or raise max_connections of the server",
    "remaining connection slots": "end other sessions, or raise max_connections of the server",
    "no more connections allowed": "raise max_client_conn of PgBouncer",
    "query_wait_timeout": "raise default_pool_size of PgBouncer",
    "SQLSTATE 53300": "end other sessions, or raise the limit of the role, the database or the"
    " server",
}

# longer than an attempt and the pause after it; an attempt after that counts from its own time
_ABSENCE_PAUSE_SECONDS = 60
# libpq would wait about two minutes for a server that does not answer
_CONNECT_SECONDS = 10
_CONNECTION: dict[str, Any] = {
    "application_name": "embeddings_pipeline",
    "client_encoding": "UTF8",
    "connect_timeout": _CONNECT_SECONDS,
    # a server that vanished is noticed in a minute instead of two hours
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    # also where it vanished before a statement reached it, which keepalives do not notice
    "tcp_user_timeout": 60_000,
}
# the text of a value, and so the fingerprint of a row, must not depend on the client. Set by
# statements, because PGTZ and PGDATESTYLE override the options of a connection. `scope` is session,
# or local for the transaction
_SETTINGS = """
    set {scope} datestyle = 'ISO, YMD'; set {scope} intervalstyle = 'postgres';
    set {scope} timezone = 'UTC'; set {scope} extra_float_digits = 1;
    set {scope} bytea_output = 'hex'; set {scope} lc_monetary = 'C';
    set {scope} quote_all_identifiers = off;
    -- a backslash in a literal is a backslash
    set {scope} standard_conforming_strings = on;
    set {scope} client_min_messages = 'warning';
    -- comparing a whole table sorts and hashes it, which with the default of 4 MB goes to disk
    set {scope} work_mem = '64MB';
    -- compiling a statement over a large table takes seconds, and saves less
    set {scope} jit = off;
    -- limits that a role or a server sets for its applications would cancel what is paid for
    set {scope} statement_timeout = {statement_timeout}; set {scope} lock_timeout = 0;
    set {scope} idle_session_timeout = 0; set {scope} idle_in_transaction_session_timeout = 0;
    -- a statement must see what was committed while it waited for a lock
    set {scope} default_transaction_isolation = 'read committed';
    -- the extension may be in a schema that the role does not search, or behind one with a table or
    -- a type of the same name
    select set_config('search_path', concat_ws(', ',
            case when other.hides then quote_ident(n.nspname) end,
            nullif(current_setting('search_path'), ''), quote_ident(n.nspname)), {is_local})
        from pg_extension e join pg_namespace n on n.oid = e.extnamespace
        cross join lateral (
            select bool_or(to_regtype(t.typname) <> t.oid) as hides from pg_type t
            where t.typnamespace = n.oid and t.typname in ('vector', 'halfvec')
        ) as other
        where e.extname = 'vector' and (other.hides or n.nspname <> all(current_schemas(true)))
"""
_LOOKS_AT_POOLER = 5
_EVENTS = {PollingStatus.READING: select.POLLIN, PollingStatus.WRITING: select.POLLOUT}
# a run reads staging, writes what was read, and projects, each in a session of its own
SESSIONS_OF_RUN = 3
# the most connections of a run
CONNECTIONS_OF_RUN = 8
# how long an idle connection keeps a session of a pooler from its other clients
_POOLED_IDLE_SECONDS = 20.0
# the first version with transaction_timeout
_TRANSACTION_TIMEOUT_SINCE = 170000
_SINCE_17 = "; set {scope} transaction_timeout = 0"
# how long a replica may take to answer, and after how long it is tried again
_REPLICA_SECONDS, _REPLICA_AGAIN_SECONDS = 2, 300


class ServiceConnections(NamedTuple):
    """The most connections of the search service: for searches, for the state of the entities, and
    for documents."""

    searches: int
    state: int
    documents: int


CONNECTIONS_OF_SERVICE = ServiceConnections(searches=8, state=4, documents=4)
# it works with one for searches and one for the state
SESSIONS_OF_SERVICE = 2


class Deadlines(NamedTuple):
    """When waits for locks end, and when statements end, by time.monotonic()."""

    locks: float
    statements: float


def _milliseconds_until(end: float) -> str:
    # 0 would mean no limit
    return str(max(1, int(1000 * (end - time.monotonic()))))


class Postgres:
    """A pool of connections to one database, in autocommit. A returned connection is reset. A
    number of a JSON value with more digits than a float has is read as a text.

    Where a pooler gives each transaction another session, and `reads` says that this will do, each
    block is one transaction, a `consistent_read`, with the settings of a session.
    """

    def __init__(
        self,
        database: Database,
        *,
        max_size: int = CONNECTIONS_OF_RUN,
        prepare: Callable[[Connection[Row]], None] | None = None,
        settings: LiteralString = "",
        reads: bool = False,
        pools: int = 1,
        patience: float = 30,
        statement_seconds: float = 0,
    ) -> None:
        """`prepare` prepares each new connection; such connections are not reset on return.
        `settings` are further statements like those of `_SETTINGS`. `reads` means that no session
        is needed: no locks and no temporary tables. `pools` of this process divide the connections
        that the role may have, where their number is limited.

        `patience` is the longest wait for a connection in seconds, `statement_seconds` the
        statement timeout, 0 for none.
        """
        self.database = database
        self._prepare = prepare
        self._settings = _SETTINGS + settings
        self._reads = reads
        self._pools = pools
        self._sessions_are_shared = False
        self._required = 0
        self._codes: dict[str, str | None] = {}
        # statements may take two seconds on a busy machine
        self._answer_seconds = min(max(patience, 2), _CONNECT_SECONDS)
        self._opening = Lock()
        self._absence = _Absence()
        self._statement_seconds = statement_seconds
        self._deadlines: Deadlines | None = None
        self._pool: ConnectionPool[Connection[Row]] = ConnectionPool(
            database.url,
            min_size=0,
            max_size=max_size,
            timeout=patience,
            # pauses between attempts grow; a later caller begins with short ones again
            reconnect_timeout=patience,
            # a replica that is back is used again
            max_lifetime=_REPLICA_AGAIN_SECONDS if database.fallback else 3600,
            # psycopg does not notice that `discard all` drops prepared statements
            kwargs={
                **_connection_of(database),
                "autocommit": True,
                "prepare_threshold": 5 if prepare else None,
            },
            configure=self._configure,
            # a search retries after a lost connection instead
            check=None if prepare else self._check,
            # removes temporary tables, locks and settings of the session
            reset=None if prepare else self._forget,
            open=False,
        )

    @contextmanager
    def connection(self) -> Iterator[Connection[Row]]:
        """A connection for a block; session-level locks end with the block.

        Raises Unavailable with the reason where the first connection is refused for good, ReadOnly
        where it goes through a pooler that does not keep sessions, NoConnection where none is
        available in time, and Busy where the block's wait for a lock is over.
        """
        with self._opening:
            if self._pool.closed and (refusal := self._refusal()):
                raise refusal
            self._pool.open()
        if self._absence.since is not None:
            # the pool would wait for a server that is known to be away
            self._raise_absence()
        try:
            with self._pool.connection() as connection:
                self._absence.end()
                self.apply_deadlines(connection)
                if not self._sessions_are_shared:
                    yield connection
                    return
                with connection.transaction():
                    self._apply_settings(connection, "local")
                    yield connection
        except PoolTimeout:
            self._raise_absence()
            raise NoConnection(
                f"none of the {self._pool.max_size} connections to {self.database} was free in"
                f" {self._pool.timeout:.0f} s: all are in use, or are still being opened"
            ) from None
        except LockNotAvailable as error:
            raise Busy(
                "another transaction holds the same rows or tables (`embeddings-pipeline doctor`"
                " shows which): try again later"
            ) from error

    def _raise_absence(self) -> None:
        if refusal := self._refusal():
            away = NoConnection(str(refusal))
            self._absence.note(away)
            raise away from None

    def require(self, sessions: int) -> None:
        """Check that a connection can be made. The first time, check also that the role may have
        this number of connections at a time, and temporary tables.

        Raises Unavailable where the role may have fewer, ConfigurationError where it may not have
        temporary tables, NoConnection where a pooler gives fewer in time, and what `connection`
        raises.
        """
        with ExitStack() as held:
            connection = held.enter_context(self.connection())
            if sessions <= self._required:
                return
            _check_temporary_tables(connection)
            role = connection.info.user
            limit, place = connection_limit(connection)
            if limit is not None and limit < sessions:
                raise Unavailable(
                    f"{self.database} allows {limit} connections of {place} at a time, and this"
                    f" needs {sessions}: an administrator may run `alter {place} connection limit"
                    f" {CONNECTIONS_OF_RUN}`"
                )
            for count in range(1, sessions if is_pooled(connection) else 1):
                try:
                    held.enter_context(self._pool.connection())
                except PoolTimeout:
                    raise NoConnection(
                        f"{self.database} is reached through a pooler that gives user {role!r}"
                        f" {count} of the {sessions} sessions that this needs at a time: raise"
                        " default_pool_size of PgBouncer, or end other clients"
                    ) from None
        self._required = sessions

    def with_deadlines(self, deadlines: Deadlines) -> Postgres:
        """The same pool, for work with deadlines. Not for a pool with `prepare`, whose sessions are
        not reset."""
        limited = copy(self)
        limited._deadlines = deadlines
        return limited

    def apply_deadlines(self, connection: Connection[Row]) -> None:
        """Give the statements of a session the time that is left, in a pool
        `with_deadlines`. A new connection has had it."""
        if self._deadlines is not None:
            connection.execute(
                "select set_config('lock_timeout', %s, false),"
                " set_config('statement_timeout', %s, false)",
                [_milliseconds_until(end) for end in self._deadlines],
            )

    @contextmanager
    def transaction_in(self, schema: str) -> Iterator[Connection[Row]]:
        """A transaction in which unqualified table names refer to this schema."""
        with self.connection() as connection, connection.transaction():
            path = sql.SQL("set local search_path to {}").format(sql.Identifier(schema))
            connection.execute(path)
            yield connection

    def _check(self, connection: Connection[Row]) -> None:
        try:
            ConnectionPool.check_connection(connection)
        except psycopg.Error:
            # after a restart of the server each of them is lost, and the pool pauses after each,
            # twice as long as after the one before
            self.renew()
            raise

    def _configure(self, connection: Connection[Row]) -> None:
        scope: LiteralString = "session"
        block: AbstractContextManager[object] = nullcontext()
        if self._sessions_are_shared:
            connection.prepare_threshold = None
            connection.isolation_level = IsolationLevel.REPEATABLE_READ
            connection.read_only = True
            scope, block = "local", connection.transaction()
        set_json_loads(exact_json, connection)
        with block:
            self._apply_settings(connection, scope)
            if self._prepare:
                self._prepare(connection)

    def _forget(self, connection: Connection[Row]) -> None:
        if self._sessions_are_shared:
            return
        connection.execute("discard all")
        self._apply_settings(connection)

    def _apply_settings(
        self, connection: Connection[Row], scope: LiteralString = "session"
    ) -> None:
        version = connection.info.server_version
        newer = _SINCE_17 if version >= _TRANSACTION_TIMEOUT_SINCE else ""
        connection.execute(
            sql.SQL(self._settings + newer).format(
                scope=sql.SQL(scope),
                is_local=sql.Literal(scope == "local"),
                statement_timeout=sql.Literal(int(self._statement_seconds * 1000)),
            )
        )

    def _refusal(self) -> ReadOnly | Unavailable | NoConnection | None:
        """Why a connection cannot be made or used, or None. The pool retries without a reason."""
        try:
            with self._connect() as connection, _answers_within(connection, self._answer_seconds):
                self._sessions_are_shared |= self._keeps_no_session(connection)
                if self._sessions_are_shared and not self._reads:
                    return ReadOnly(
                        f"{self.database} is reached through a pooler in transaction mode"
                        " (pool_mode = transaction of PgBouncer), which gives each transaction"
                        " another session; this needs sessions of its own, for locks and temporary"
                        " tables: set pool_mode = session for this database, or connect to the"
                        " server directly"
                    )
                if self._sessions_are_shared and not _has_transactions(connection):
                    return Unavailable(
                        f"{self.database} is reached through a pooler in statement mode"
                        " (pool_mode = statement of PgBouncer), which has no transactions: set"
                        " pool_mode = transaction or session for this database, or connect to the"
                        " server directly"
                    )
                if is_pooled(connection):
                    self._pool.max_idle = _POOLED_IDLE_SECONDS
                limit, _ = connection_limit(connection)
                if limit is not None:
                    most = max(1, limit // self._pools)
                    self._pool.resize(0, min(self._pool.max_size, most))
        except NoConnection as refusal:
            return refusal
        except psycopg.OperationalError as error:
            reason = " ".join(str(error).split())
            may_pass = any(part in reason for part in _MAY_PASS)
            if not may_pass and (code := error.sqlstate or self._code_of(reason)):
                reason += f" (SQLSTATE {code})"
                may_pass = code.startswith(_CODES_THAT_MAY_PASS)
            message = f"cannot connect to {self.database} as {self.database.user!r}: {reason}"
            remedies = [remedy for words, remedy in _REMEDIES.items() if words in reason]
            message = ": ".join([message, *remedies[:1]])
            return NoConnection(message) if may_pass else Unavailable(message)
        return None

    def _code_of(self, reason: str) -> str | None:
        """The SQLSTATE of a refused connection; one attempt is made for each reason."""
        if reason not in self._codes:
            conninfo = make_conninfo(self.database.url, **_connection_of(self.database))
            self._codes[reason] = _refusal_code(conninfo)
        return self._codes[reason]

    def _connect(self) -> Connection[Row]:
        return psycopg.connect(self.database.url, autocommit=True, **_connection_of(self.database))

    def _keeps_no_session(self, connection: Connection[Row]) -> bool:
        """Whether another connection gets the server's process of this one, or this one gets
        another process. Raises NoConnection where the pooler has no session for another."""
        if not is_pooled(connection):
            return False
        process = _process_of(connection)
        # less than the first connection has for all of this
        seconds = self._answer_seconds / 2
        try:
            with self._connect() as other, _answers_within(other, seconds):
                # other clients of the pooler may hide it once
                return any(
                    process == _process_of(other) or process != _process_of(connection)
                    for _ in range(_LOOKS_AT_POOLER)
                )
        except psycopg.OperationalError:
            raise NoConnection(
                f"{self.database} is reached through a pooler that gives no second session in"
                f" {seconds:g} seconds: raise default_pool_size of PgBouncer, or end other clients"
            ) from None

    @property
    def keeps_sessions(self) -> bool:
        """Whether a session lasts as long as its connection, as far as the first one showed."""
        return not self._sessions_are_shared

    def renew(self) -> None:
        """Replace lost connections."""
        self._pool.check()

    def close(self) -> None:
        """Close every connection. What still connects ends with the process."""
        # a pooler without a free session lets it wait for minutes
        self._pool.close(timeout=1)


def _refusal_code(conninfo: str) -> str | None:
    """The SQLSTATE with which a server refuses a connection; None where it does not. The error of
    psycopg has the message alone, without its fields."""
    if sys.platform != "linux":
        # psycopg traces nowhere else
        return None
    # in memory: the trace also has what authenticates the client
    with os.fdopen(os.memfd_create("trace"), "w+b") as trace:
        connection = PGconn.connect_start(conninfo.encode())
        try:
            connection.trace(trace.fileno())
            end = time.monotonic() + _CONNECT_SECONDS
            while time.monotonic() < end:
                status = PollingStatus(connection.connect_poll())
                if status not in _EVENTS:
                    break
                waiting = select.poll()
                waiting.register(connection.socket, _EVENTS[status])
                waiting.poll(1000)
            connection.untrace()
        except psycopg.Error:
            return None
        finally:
            connection.finish()
        trace.seek(0)
        found = re.search(rb'ErrorResponse.* C "(\w{5})"', trace.read())
    return found[1].decode() if found else None


@contextmanager
def _answers_within(connection: Connection[Row], seconds: float) -> Iterator[None]:
    """End the connection where the block takes longer: a pooler lets a statement wait for a
    session."""
    with socket.socket(fileno=os.dup(connection.fileno())) as line:
        timer = Timer(seconds, line.shutdown, [socket.SHUT_RDWR])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def connection_limit(connection: Connection[Row]) -> tuple[int | None, str]:
    """How many connections this role may have at a time, None where that is not limited; and the
    role or the database that has the limit, as in `alter role app`."""
    limit, place = only(
        connection.execute(
            """
            select case when n >= 0 and not rolsuper then n end, kind || ' ' || quote_ident(name)
            from pg_roles cross join pg_database
            cross join lateral (values
                ('role', rolname, rolconnlimit), ('database', datname, datconnlimit)
            ) as limits (kind, name, n)
            where rolname = session_user and datname = current_database()
            order by 1 nulls last limit 1
            """
        )
    )
    return limit, place


def _has_transactions(connection: Connection[Row]) -> bool:
    try:
        connection.execute("begin")
        connection.execute("rollback")
    except ProtocolViolation:
        return False
    return True


def _check_temporary_tables(connection: Connection[Row]) -> None:
    may = only(connection.execute("select has_database_privilege(current_database(), 'temporary')"))
    if not may[0]:
        user, database = connection.info.user, connection.info.dbname
        raise ConfigurationError(
            f"user {user!r} may not create temporary tables in database {database!r}: run"
            f' `grant temporary on database "{database}" to "{user}"` as its owner'
        )


def is_pooled(connection: Connection[Row]) -> bool:
    """Whether a pooler is in between, which announces a number of its own in place of the process's
    id."""
    return _process_of(connection) != connection.info.backend_pid


def _process_of(connection: Connection[Row]) -> int:
    """The id of the server's process that executes this statement."""
    return int(only(connection.execute("select pg_backend_pid()"))[0])


def _connection_of(database: Database) -> dict[str, Any]:
    # searches wait less for a replica, since the primary answers instead
    return _CONNECTION | ({"connect_timeout": _REPLICA_SECONDS} if database.fallback else {})


def replica_lag(connection: Connection[Row]) -> float | None:
    """The seconds that this replica is behind its primary; None on a primary.

    A replica that receives nothing is as old as the last transaction that it replayed.
    """
    (lag,) = only(
        connection.execute(
            """
            select case
                when not pg_is_in_recovery() then null
                when pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn()
                    and exists (select from pg_stat_wal_receiver) then 0
                -- null before the first transaction that it replayed
                else coalesce(
                    extract(epoch from clock_timestamp() - pg_last_xact_replay_timestamp()), 0)
            end::float8
            """
        )
    )
    return None if lag is None else float(lag)


def trusted(fragment: str, *, escaped: bool = True) -> sql.SQL:
    """SQL from the project's own yml, like a `where` or the name of a type.

    `escaped` is for statements with parameters, in which a percent sign begins a placeholder.
    """
    return sql.SQL(fragment.replace("%", "%%") if escaped else fragment)


def columns_of(connection: Connection[Row], schema: str, table: str) -> dict[str, str]:
    """The columns of a table or view with their types, in order; empty where it does not exist."""
    rows = connection.execute(
        """
        select a.attname, format_type(t.oid, b.modifier)
        from pg_attribute a
        join pg_class c on c.oid = a.attrelid
        join pg_namespace n on n.oid = c.relnamespace
        -- the base type of a domain, which may be one over a domain
        cross join lateral (
            with recursive bases as (
                select oid, typtype, typelem, typbasetype, a.atttypmod as modifier
                from pg_type where oid = a.atttypid
                union all
                select t.oid, t.typtype, t.typelem, t.typbasetype, d.typtypmod
                from bases b join pg_type d on d.oid = b.oid join pg_type t on t.oid = d.typbasetype
                where b.typtype = 'd'
            )
            select oid, typtype, typelem, modifier from bases where typtype <> 'd'
        ) b
        left join pg_type e on e.oid = b.typelem and e.typtype = 'e'
        -- an enum becomes text, because its type is unknown elsewhere
        join pg_type t on t.oid = case
            when e.oid is not null then 'text[]'::regtype
            when b.typtype = 'e' then 'text'::regtype
            else b.oid end
        where n.nspname = %s and c.relname = %s and a.attnum > 0 and not a.attisdropped
        order by a.attnum
        """,
        (schema, table),
    )
    return dict(rows)
