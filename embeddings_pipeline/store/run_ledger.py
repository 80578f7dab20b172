"""The run ledger: one row for each run of an entity, to which its stages add their counts. After a
while the rows of a day become one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from psycopg import sql
from psycopg.rows import dict_row
from psycopg.sql import Identifier
from psycopg.types.json import Jsonb

from embeddings_pipeline.store.tables import EntityTables


@dataclass(frozen=True)
class Counts:
    """What a stage did. `read`, `deleted` and `quarantined` count rows, the others chunks.

    `encoded` counts entries written to the embedding cache, `reused` the projected chunks beyond
    these. `seconds` is the time of the stage, `encode_seconds` the time of the loaded model.
    `saved_usd` is the cost that reuse saved.
    """

    read: int = 0
    pending: int = 0
    encoded: int = 0
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


# days after which rows are put together: a client may ask for documents a thousand times an hour
_DOCUMENTS_DAYS, _RUN_DAYS = 1, 90

Stage = Literal["texts", "encode", "index"]
Kind = Literal["run", "documents"]


def record(
    tables: EntityTables,
    run_id: str,
    stage: Stage,
    counts: Counts,
    *,
    keys: Sequence[str] = (),
    model: str | None = None,
    device: str | None = None,
    kind: Kind = "run",
) -> None:
    """Add a stage's counts to the ledger row of its run."""
    columns = [field.name for field in fields(Counts)]
    tables.execute(
        """
        insert into {run_ledger} as l
            (entity, run_id, kind, partition_keys, model, device, stages, {columns},
            finished_at, started_at)
        values ({entity}, %s, %s, %s, %s, %s, jsonb_build_object({stage}, %s::float8),
            {values}, clock_timestamp(), clock_timestamp() - make_interval(secs => %s))
        on conflict (entity, run_id) do update set
            partition_keys = array(
                select unnest(l.partition_keys) union select unnest(excluded.partition_keys)
                order by 1
            ),
            model = coalesce(excluded.model, l.model),
            device = coalesce(excluded.device, l.device),
            stages = l.stages || jsonb_build_object({stage},
                coalesce((l.stages->>{stage})::float8, 0)
                    + (excluded.stages->>{stage})::float8),
            finished_at = excluded.finished_at,
            {sums}
        """,
        (
            run_id,
            kind,
            list(keys),
            model,
            device,
            counts.seconds,
            *_numbers(counts),
            counts.seconds,
        ),
        stage=sql.Literal(stage),
        columns=sql.SQL(", ").join(Identifier(c) for c in columns),
        values=sql.SQL(", ").join(sql.Placeholder() for _ in columns),
        sums=sql.SQL(", ").join(
            sql.SQL("{c} = l.{c} + excluded.{c}").format(c=Identifier(c)) for c in columns
        ),
    )


def record_plan(tables: EntityTables, run_id: str, plan: dict[str, Any]) -> None:
    """Add the plan for one set to the list of plans of a run."""
    tables.execute(
        """
        insert into {run_ledger} as l (entity, run_id, kind, plan)
        values ({entity}, %s, 'run', jsonb_build_array(%s::jsonb))
        on conflict (entity, run_id) do update set
            plan = coalesce(l.plan, '[]'::jsonb) || excluded.plan
        """,
        (run_id, Jsonb(plan)),
    )


def read(tables: EntityTables, run_id: str) -> dict[str, Any] | None:
    """The counts of a run, by name; None where the ledger has no such run."""
    columns = [field.name for field in fields(Counts)]
    row = tables.execute(
        "select {columns} from {run_ledger} where entity = {entity} and run_id = %s",
        (run_id,),
        columns=sql.SQL(", ").join(Identifier(c) for c in columns),
    ).fetchone()
    return None if row is None else dict(zip(columns, row, strict=True))


def stages(tables: EntityTables, run_id: str) -> dict[str, float]:
    """The seconds of each stage of a run; empty where the ledger has no such run."""
    row = tables.execute(
        "select stages from {run_ledger} where entity = {entity} and run_id = %s", (run_id,)
    ).fetchone()
    return dict(row[0]) if row else {}


def changed_rows_by_partition(tables: EntityTables, run_id: str) -> dict[str, int]:
    """How many rows of each partition have a text that was written since a run began."""
    return dict(
        tables.execute(
            "select partition_key, count(distinct {id}) from {texts}"
            " where serialised_at >= (select started_at from {run_ledger}"
            " where entity = {entity} and run_id = %s) group by 1",
            (run_id,),
        ).fetchall()
    )


def encoded_texts_by_partition(
    tables: EntityTables, set_tables: Sequence[str], run_id: str
) -> dict[str, int]:
    """How many distinct texts a run encoded for these sets, by the first partition that has the
    text: the counts of all partitions add up to the run's."""
    found: dict[str, int] = {}
    for name in set_tables:
        rows = tables.execute(
            """
            select partition_key, count(*)
            from (
                select v.text_hash, min(t.partition_key) as partition_key
                from {vectors} v join {texts} t using ({id}, chunk)
                where v.run_id = %s
                group by v.text_hash
            ) as by_text
            group by partition_key
            """,
            (run_id,),
            vectors=tables.table(name),
        )
        for key, count in rows:
            found[key] = found.get(key, 0) + count
    return found


def latest(tables: EntityTables, count: int) -> list[dict[str, Any]]:
    """The latest runs of an entity, newest first, as columns by name; not calls for documents."""
    with tables.connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(
            tables.fill(
                "select * from {run_ledger} where entity = {entity} and kind = 'run'"
                " order by started_at desc limit {count}",
                count=sql.Literal(count),
            )
        ).fetchall()


def throughput(tables: EntityTables, model: str) -> float | None:
    """Tokens per second of the last runs with this model, on the device used last; None before the
    first run."""
    row = tables.execute(
        """
        with runs as (
            select device, tokens, encode_seconds, finished_at from {run_ledger}
            where model = %s and encoded > 0 and encode_seconds > 0
            order by finished_at desc limit 20
        )
        select sum(tokens) / sum(encode_seconds) from runs
        where device = (select device from runs order by finished_at desc limit 1)
        """,
        (model,),
    ).fetchone()
    return float(row[0]) if row and row[0] else None


@dataclass(frozen=True)
class Rates:
    """Seconds that earlier runs took.

    `scan` is for each row that a pass compares, `render` for each row that it renders, `start` for
    what a run of a model takes beside the encoding, `project` for each projected chunk, and `index`
    for each row of an index that is built.
    """

    scan: float
    render: float
    start: float
    project: float
    index: float

    def of(
        self, *, rows: int, rendered: int, projected: int, indexed: int, encode_seconds: float
    ) -> float:
        """The seconds of a run over this many rows; `indexed` is the number of sets to index."""
        start = self.start if encode_seconds else 0.0
        return (
            self.scan * rows
            + self.render * rendered
            + start
            + encode_seconds
            + self.project * projected
            + self.index * rows * indexed
        )


def rates(tables: EntityTables) -> Rates | None:
    """The rates of the entity's last runs, or of other entities where it never ran; None where the
    ledger is empty."""
    rows = tables.execute("""
            select l.entity = {entity} as own, read, encoded, encoded + reused,
                encode_seconds, coalesce((stages->>'texts')::float8, 0),
                coalesce((stages->>'encode')::float8, 0), coalesce((stages->>'index')::float8, 0),
                greatest(e.documents, 1)
            from {run_ledger} l join {entities} e using (entity)
            where kind = 'run' and stages ? 'texts' and e.documents is not null
            order by own desc, started_at desc limit 20
            """).fetchall()
    own = [row[1:] for row in rows if row[0]] or [row[1:] for row in rows]
    if not own:
        return None
    scan = min(texts / documents for *_, texts, _, _, documents in own)
    rendered = sum(read for read, *_ in own)
    beyond = sum(max(0.0, texts - scan * docs) for *_, texts, _, _, docs in own)
    encoding = [max(0.0, wall - model) for _, n, _, model, _, wall, _, _ in own if n]
    start = min(encoding, default=0.0)
    projected = sum(chunks for _, n, chunks, *_ in own if n)
    builds = [seconds / docs for *_, seconds, docs in own if seconds]
    return Rates(
        scan=scan,
        render=beyond / rendered if rendered else 0.0,
        start=start,
        project=(sum(encoding) - start * len(encoding)) / projected if projected else 0.0,
        index=max(builds, default=0.0),
    )


@dataclass(frozen=True)
class Cost:
    """US dollars: of the last run, of all runs, and saved by reuse in all runs."""

    last_run_usd: float = 0.0
    total_usd: float = 0.0
    saved_usd: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.last_run_usd + other.last_run_usd,
            self.total_usd + other.total_usd,
            self.saved_usd + other.saved_usd,
        )


def cost(tables: EntityTables) -> Cost:
    """The cost of the runs of an entity."""
    return Cost(
        *tables.one(
            """
            select
                coalesce((
                    array_agg(cost_usd order by started_at desc) filter (where kind = 'run')
                )[1], 0)::float,
                coalesce(sum(cost_usd), 0)::float,
                coalesce(sum(saved_usd), 0)::float
            from {run_ledger}
            where entity = {entity}
            """,
        )
    )


def summarize(tables: EntityTables) -> int:
    """Put the rows of a day into one: of calls for documents after a day, of runs after ninety.
    Returns how many rows are gone. What they did and cost in all stays the same."""
    columns = [field.name for field in fields(Counts)]
    with tables.connection.transaction():
        tables.execute(
            """
            create temporary table summarized on commit drop as
            select kind, started_at::date as day, array_agg(run_id) as run_ids, max(model) as model,
                min(started_at) as started_at, max(finished_at) as finished_at, {sums}
            from {run_ledger}
            where entity = {entity} and started_at < current_date - case kind
                when 'documents' then {documents_days} else {run_days} end
            group by kind, day having count(*) > 1
            """,
            sums=sql.SQL(", ").join(
                sql.SQL("sum({c}) as {c}").format(c=Identifier(c)) for c in columns
            ),
            documents_days=sql.Literal(_DOCUMENTS_DAYS),
            run_days=sql.Literal(_RUN_DAYS),
        )
        gone = tables.execute(
            "delete from {run_ledger} l using summarized s"
            " where l.entity = {entity} and l.run_id = any(s.run_ids)"
        ).rowcount
        kept = tables.execute(
            """
            insert into {run_ledger}
                (entity, run_id, kind, model, started_at, finished_at, {columns})
            select {entity}, kind || ' of ' || day, kind, model, started_at, finished_at,
                {columns}
            from summarized
            """,
            columns=sql.SQL(", ").join(map(Identifier, columns)),
        ).rowcount
    return gone - kept


def _numbers(counts: Counts) -> list[float]:
    return list(asdict(counts).values())
