"""What a set lacks, summed up as a run would find it: in windows, equal texts once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import Connection, sql
from psycopg.sql import Identifier

from embeddings_pipeline.entities.partitions import HashPartitions
from embeddings_pipeline.store import heirs, to_encode
from embeddings_pipeline.store.failures import left_alone
from embeddings_pipeline.store.passes import hash_key
from embeddings_pipeline.store.pending import in_windows, pending_of, stale
from embeddings_pipeline.store.postgres import Row
from embeddings_pipeline.store.statements import Statements
from embeddings_pipeline.store.to_encode import Terms
from embeddings_pipeline.store.vector_sets import VectorSet


@dataclass(frozen=True)
class Work:
    """What a set lacks: chunks, how many of them can be taken over, and the texts to encode."""

    pending: int
    reusable: int
    encode: int
    tokens: int
    rows: int


def plan_work(
    connection: Connection[Row],
    on: Statements,
    vector_set: VectorSet | None,
    terms: Terms,
    keys: Sequence[str] | None,
    *,
    max_rows: int,
    max_tokens: int,
) -> Work:
    """What a set, or one that is yet to be made, will lack once the texts are up to date.

    Looks into the partitions `keys`, or all. `lacking` has it in windows of so many rows and
    tokens; in none of them, and of any partition, is what the pass over the texts fills.
    """
    _find_wanting(connection, on, vector_set, terms)
    inheriting = None if terms.renew else vector_set
    if inheriting:
        heirs.find_planned(connection, on, inheriting)
    rows = on.fill(
        "select * from wanting where ({all} or partition_key = any({keys})) and not {inherited}",
        all=sql.Literal(keys is None),
        keys=sql.Literal(list(keys or [])),
        inherited=sql.SQL("text_hash in (select text_hash from inheriting)")
        if inheriting
        else sql.SQL("false"),
    )
    connection.execute("drop table if exists lacking")
    connection.execute(
        on.fill(
            "create temporary table lacking as {windows}",
            windows=in_windows(rows, max_rows=max_rows, max_tokens=max_tokens, first=terms.first),
        )
    )
    # what a retired set is given belongs to no run of it
    if inheriting and inheriting.state != "retired":
        connection.execute("insert into lacking select *, null, null from inheriting")
    parts = on.fill(
        """
        select id, chunk, part_ids, part_tokens from planned
        union all
        select id, chunk, part_ids, part_tokens from ({stored}) as s
        where not exists (select from changed_rows c where c.id = s.id)
        """,
        stored=_stored_parts(on),
    )
    to_encode.choose(connection, on, "lacking", terms)
    return _summed_up(connection, on, "lacking", parts, terms)


def _find_wanting(
    connection: Connection[Row], on: Statements, vector_set: VectorSet | None, terms: Terms
) -> None:
    """Fill the temporary table `wanting` with what has no vector of its text, or a stale one."""
    connection.execute("drop table if exists wanting")
    connection.execute(
        on.fill(
            """
            create temporary table wanting as
            select {key} as partition_key, t.{id} as id, t.chunk, t.text_hash, t.tokens
            from {pending}
                and not exists (select from changed_rows c where c.id = t.{id})
                and not exists (select from gone_rows g where g.id = t.{id})
            union all
            select p.partition_key, p.id, p.chunk, p.text_hash, p.tokens
            from planned p left join {vectors} v on v.{id} = p.id and v.chunk = p.chunk
            where p.text_hash is not null
                and (v.text_hash is distinct from p.text_hash or {stale})
                and not {left_alone}
            """,
            key=_key(on),
            pending=pending_of(on, vector_set, terms.renew),
            vectors=on.vectors(vector_set.table_name if vector_set else None),
            stale=stale(terms.renew),
            left_alone=left_alone(on, vector_set, "p", Identifier("id")),
        )
    )


def found_work(connection: Connection[Row], on: Statements, terms: Terms) -> Work:
    """What `find_pending` found."""
    to_encode.choose(connection, on, "pending_rows", terms)
    return _summed_up(connection, on, "pending_rows", _stored_parts(on), terms)


def waiting_rows(connection: Connection[Row]) -> int:
    """Rows of `lacking` whose text stands already: they wait for nothing but a vector."""
    row = connection.execute(
        "select count(distinct id) from lacking l"
        " where not exists (select from changed_rows c where c.id = l.id)"
    ).fetchone()
    return int(row[0]) if row else 0


def _key(on: Statements) -> sql.Composable:
    """The partition of a stored text `t`, by the scheme that the next pass gives it."""
    partitions = on.source.entity.partitions
    if isinstance(partitions, HashPartitions):
        return hash_key(on, partitions, Identifier("t", on.source.entity.id))
    return sql.SQL("t.partition_key")


def _stored_parts(on: Statements) -> sql.Composable:
    return on.fill(
        "select {id} as id, chunk, part_tokens,"
        " array(select md5(part)::uuid from unnest(parts) with ordinality as p (part, n)"
        " order by n) as part_ids from {texts}"
    )


def _summed_up(
    connection: Connection[Row],
    on: Statements,
    table: str,
    parts: sql.Composable,
    terms: Terms,
) -> Work:
    """Sum up `to_encode` and the table that it was chosen from; `parts` has of each (id, chunk)
    those of its text."""
    return Work(
        *on.one(
            connection,
            """
            with counted as ({counted})
            select
                (select count(*) from {lacking}),
                (select count(*) from {lacking}) - (select count(*) from to_encode),
                (select count(*) from to_encode where within),
                (select coalesce(sum(least(tokens, {max_tokens})), 0)::bigint from counted),
                (select count(distinct id) from {lacking})
            """,
            lacking=Identifier("pg_temp", table),
            counted=_parts_of_encoded(parts, terms)
            if on.source.entity.weights
            else sql.SQL("select tokens from to_encode where within"),
            max_tokens=sql.Literal(terms.max_tokens),
        )
    )


def _parts_of_encoded(parts: sql.Composable, terms: Terms) -> sql.Composable:
    """Tokens of the parts that a model is given: equal ones once, at least within a window."""
    return sql.SQL(
        """
        select max(u.tokens) as tokens
        from to_encode e
        join ({parts}) as p on p.id = e.id and p.chunk = e.chunk,
            unnest(p.part_ids, p.part_tokens) as u (part, tokens)
        where e.within
        group by u.part, {apart}
        """
    ).format(
        parts=parts,
        apart=sql.SQL("null::int" if terms.remembered and not terms.renew else "e.in_window"),
    )
