"""The run ledger: what each run of an entity did, in one row that its steps add to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from psycopg import Connection, sql
from psycopg.rows import dict_row
from psycopg.sql import Identifier
from psycopg.types.json import Jsonb

from embeddings_pipeline.store.postgres import Row
from embeddings_pipeline.store.statements import Statements


@dataclass(frozen=True)
class Counts:
    """What a step did: rows for read, deleted and quarantined, chunks for the rest.

    `encoded` counts the texts that got a vector from the encoder, `cached` those of them that it
    had in its cache. `seconds` are all of its time, `encode_seconds` those of a loaded model at
    work; `saved_usd` is what reuse and cache spared.
    """

    read: int = 0
    pending: int = 0
    encoded: int = 0
    cached: int = 0
    reused: int = 0
    deleted: int = 0
    quarantined: int = 0
    truncated: int = 0
    tokens: int = 0
    cost_usd: float = 0.0
    saved_usd: float = 0.0
    seconds: float = 0.0
    encode_seconds: float = 0.0

    def __add__(self, other: Counts) -> Counts:
        mine, others = asdict(self), asdict(other)
        return Counts(**{name: mine[name] + others[name] for name in mine})


def record(
    connection: Connection[Row],
    on: Statements,
    run_id: str,
    counts: Counts,
    *,
    keys: Sequence[str] = (),
    model: str | None = None,
    device: str | None = None,
) -> None:
    """Add a step's counts to the ledger row of its run."""
    columns = [field.name for field in fields(Counts)]
    connection.execute(
        on.fill(
            """
            insert into {run_ledger} as l
                (entity, run_id, kind, partition_keys, model, device, {columns}, finished_at,
                started_at)
            values ({entity}, %s, 'run', %s, %s, %s, {values}, clock_timestamp(),
                clock_timestamp() - make_interval(secs => %s))
            on conflict (entity, run_id) do update set
                partition_keys = array(
                    select unnest(l.partition_keys) union select unnest(excluded.partition_keys)
                    order by 1
                ),
                model = coalesce(excluded.model, l.model),
                device = coalesce(excluded.device, l.device),
                finished_at = excluded.finished_at,
                {sums}
            """,
            columns=sql.SQL(", ").join(Identifier(c) for c in columns),
            values=sql.SQL(", ").join(sql.Placeholder() for _ in columns),
            sums=sql.SQL(", ").join(
                sql.SQL("{c} = l.{c} + excluded.{c}").format(c=Identifier(c)) for c in columns
            ),
        ),
        (run_id, list(keys), model, device, *_numbers(counts), counts.seconds),
    )


def record_plan(
    connection: Connection[Row], on: Statements, run_id: str, plan: dict[str, Any]
) -> None:
    """Add what a run is about to do to one set; the plans of a run's sets stand in a list."""
    connection.execute(
        on.fill(
            """
            insert into {run_ledger} as l (entity, run_id, kind, plan)
            values ({entity}, %s, 'run', jsonb_build_array(%s::jsonb))
            on conflict (entity, run_id) do update set
                plan = coalesce(l.plan, '[]'::jsonb) || excluded.plan
            """
        ),
        (run_id, Jsonb(plan)),
    )


def read(connection: Connection[Row], on: Statements, run_id: str) -> dict[str, Any] | None:
    """The counts of a run, by name; None where the ledger has no such run."""
    columns = [field.name for field in fields(Counts)]
    row = connection.execute(
        on.fill(
            "select {columns} from {run_ledger} where entity = {entity} and run_id = %s",
            columns=sql.SQL(", ").join(Identifier(c) for c in columns),
        ),
        (run_id,),
    ).fetchone()
    return None if row is None else dict(zip(columns, row, strict=True))


def latest(connection: Connection[Row], on: Statements, count: int) -> list[dict[str, Any]]:
    """The latest runs of an entity, newest first, as columns by name."""
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(
            on.fill(
                "select * from {run_ledger} where entity = {entity}"
                " order by started_at desc limit {count}",
                count=sql.Literal(count),
            )
        ).fetchall()


@dataclass(frozen=True)
class Cost:
    """US dollars: of the last run, of all runs, and what reuse and cache saved in them."""

    last_run_usd: float = 0.0
    total_usd: float = 0.0
    saved_usd: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.last_run_usd + other.last_run_usd,
            self.total_usd + other.total_usd,
            self.saved_usd + other.saved_usd,
        )


def cost(connection: Connection[Row], on: Statements) -> Cost:
    """What the runs of an entity cost."""
    return Cost(
        *on.one(
            connection,
            """
            select
                coalesce((array_agg(cost_usd order by started_at desc))[1], 0)::float,
                coalesce(sum(cost_usd), 0)::float,
                coalesce(sum(saved_usd), 0)::float
            from {run_ledger}
            where entity = {entity}
            """,
        )
    )


def _numbers(counts: Counts) -> list[float]:
    return list(asdict(counts).values())
