"""Processes share what a provider allows in a minute."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from threading import Event, Timer

import pytest

from embeddings_pipeline.database import Database
from embeddings_pipeline.encoders.openai.rate_limits import RateLimits
from embeddings_pipeline.errors import EmbeddingsError
from embeddings_pipeline.store.connection import Postgres
from embeddings_pipeline.store.migrations import create_control_tables
from tests.support.world import SCHEMA

# takes what it gets until nothing is left for it, and says how often it got something
TAKER = """
import sys
from threading import Event, Timer
from pydantic import SecretStr
from embeddings_pipeline.encoders.openai.rate_limits import RateLimits
from embeddings_pipeline.errors import EmbeddingsError
from embeddings_pipeline.database import Database
from embeddings_pipeline.store.connection import Postgres

host, port, name, user, schema, requests, tokens = sys.argv[1:]
postgres = Postgres(Database(host, int(port), name, user, SecretStr(sys.stdin.readline().strip())))
limits = RateLimits(
    lambda: postgres.transaction_in(schema),
    requests=int(requests) or None,
    tokens=int(tokens) or None,
)
print("ready", flush=True)
sys.stdin.readline()
taken = 0
try:
    while True:
        stopped = Event()
        timer = Timer(3, stopped.set)
        timer.start()
        limits.wait(100, stopped)
        timer.cancel()
        taken += 1
except EmbeddingsError:
    print(taken)
postgres.close()
"""


@pytest.fixture
def postgres(database: Database) -> Iterator[Postgres]:
    with closing(Postgres(database)) as postgres:
        with postgres.connection() as connection:
            create_control_tables(connection, SCHEMA)
        yield postgres


@pytest.mark.parametrize(("requests", "tokens"), [(30, 0), (0, 3_000), (30, 1_000_000)])
def test_two_processes_together_get_no_more_than_a_minute_has(
    postgres: Postgres, requests: int, tokens: int
) -> None:
    where = postgres.database
    command = [sys.executable, "-c", TAKER, where.host, str(where.port), where.name, where.user]
    takers = [
        subprocess.Popen(
            [*command, SCHEMA, str(requests), str(tokens)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for taker in takers:
        assert taker.stdin is not None
        assert taker.stdout is not None
        taker.stdin.write(where.password.get_secret_value() + "\n")
        taker.stdin.flush()
        assert taker.stdout.readline() == "ready\n"
    for taker in takers:
        assert taker.stdin is not None
        taker.stdin.write("go\n")
        taker.stdin.flush()
    assert sum(int(taker.communicate(timeout=120)[0]) for taker in takers) == 30


def test_units_are_counted_in_our_schema(postgres: Postgres) -> None:
    limits = RateLimits(lambda: postgres.transaction_in(SCHEMA), requests=5, tokens=7)
    limits.wait(3, Event())
    with postgres.connection() as connection:
        tables = connection.execute(
            "select tablename from pg_tables"
            " where schemaname = %s and starts_with(tablename, 'ratelimit')",
            (SCHEMA,),
        ).fetchall()
        (taken,) = connection.execute(
            f"select count(*) from {SCHEMA}.ratelimit___tokens"
        ).fetchone() or (0,)
    assert {name for (name,) in tables} == {"ratelimit___requests", "ratelimit___tokens"}
    assert taken == 3


def test_a_request_of_more_tokens_than_a_minute_has_goes_alone(postgres: Postgres) -> None:
    limits = RateLimits(lambda: postgres.transaction_in(SCHEMA), requests=None, tokens=50_000)
    limits.wait(400_000, Event())
    stopped = Event()
    Timer(0.1, stopped.set).start()
    with pytest.raises(EmbeddingsError, match="stopped while waiting"):
        limits.wait(1, stopped)
