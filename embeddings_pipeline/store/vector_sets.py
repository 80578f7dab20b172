"""Vector sets: one table for each entity, model as it is used (`ModelIdentity`) and storage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple

from psycopg import Connection, sql
from psycopg.rows import class_row

from embeddings_pipeline.entities.model import ModelIdentity
from embeddings_pipeline.store.postgres import Row
from embeddings_pipeline.store.statements import Statements
from embeddings_pipeline.store.views import wait_little

State = Literal["building", "live", "retired"]


@dataclass(frozen=True)
class VectorSet:
    """A row of `vector_sets`. `index_rows` is how many it had when its index was built, at
    `indexed_at`; `recall` is recall@10 of the index, `ef_search` the effort that it takes (for
    IVFFlat the probes), and `canary` all of what was last measured. `force_since` is when a forced
    run began that is not finished yet."""

    entity: str
    number: int
    provider: str
    model: str
    revision: str
    dimension: int
    storage: Literal["vector", "halfvec"]
    metric: str
    max_tokens: int
    normalized: bool
    table_name: str
    state: State
    published_at: datetime | None
    index_settings: dict[str, Any] | None = field(default=None)
    index_rows: int | None = None
    recall: float | None = None
    ef_search: int | None = None
    indexed_at: datetime | None = None
    canary: dict[str, Any] | None = None
    force_since: datetime | None = None

    @property
    def identity(self) -> ModelIdentity:
        """The model of its vectors."""
        return ModelIdentity(
            self.provider,
            self.model,
            self.revision,
            self.dimension,
            self.max_tokens,
            self.normalized,
        )


class Origin(NamedTuple):
    """Vectors that a set of the same model may take over; a table, or a query in parentheses."""

    entity: str
    id_column: str
    table: sql.Composable


_COLUMNS = sql.SQL(
    "entity, number, provider, model, revision, dimension, storage, metric, max_tokens,"
    " normalized, table_name, state, published_at, index_settings, index_rows, recall, ef_search,"
    " indexed_at, canary, force_since"
)


def live_sets(connection: Connection[Row], schema: str) -> list[VectorSet]:
    """The published set of each entity that has one."""
    with connection.cursor(row_factory=class_row(VectorSet)) as cursor:
        return cursor.execute(
            sql.SQL("select {} from {} where state = 'live' order by entity").format(
                _COLUMNS, sql.Identifier(schema, "vector_sets")
            )
        ).fetchall()


def vector_sets(
    connection: Connection[Row], on: Statements, states: Sequence[State]
) -> list[VectorSet]:
    """The entity's sets in these states, oldest first."""
    with connection.cursor(row_factory=class_row(VectorSet)) as cursor:
        return cursor.execute(
            on.fill(
                "select {columns} from {vector_sets}"
                " where entity = {entity} and state = any(%s) order by number",
                columns=_COLUMNS,
            ),
            (list(states),),
        ).fetchall()


def read(connection: Connection[Row], on: Statements, number: int) -> VectorSet:
    """One set as it is stored now."""
    found = vector_sets(connection, on, ("building", "live", "retired"))
    return next(s for s in found if s.number == number)


def same_model(
    connection: Connection[Row], on: Statements, identity: ModelIdentity
) -> list[Origin]:
    """Every set, of any entity, with the same model; the entity's own first.

    A weighted text has a hash of its own kind, so that it never meets a plain one.
    """
    rows = connection.execute(
        on.fill(
            """
            select s.entity, e.definition->>'id', s.table_name
            from {vector_sets} s join {entities} e using (entity)
            where s.provider = %(provider)s and s.model = %(model)s
                and s.revision = %(revision)s and s.dimension = %(dimension)s
                and s.max_tokens = %(max_tokens)s and s.normalized = %(normalized)s
            order by s.entity <> {entity}, s.entity, s.number desc
            """
        ),
        asdict(identity),
    )
    return [Origin(entity, id_column, on.table(table)) for entity, id_column, table in rows]


def set_state(connection: Connection[Row], on: Statements, number: int, state: State) -> None:
    """Move a set to a state; a set that goes live is stamped."""
    connection.execute(
        on.fill(
            "update {vector_sets} set state = %s,"
            " published_at = case when %s = 'live' then clock_timestamp() else published_at end"
            " where entity = {entity} and number = %s"
        ),
        (state, state, number),
    )


def hold_publishing(connection: Connection[Row], on: Statements, *, held: bool) -> None:
    """While held, no set flips by itself."""
    connection.execute(
        on.fill("update {entities} set publish_held = %s where entity = {entity}"), (held,)
    )


def publishing_held(connection: Connection[Row], on: Statements) -> bool:
    """Whether a rollback holds back flips."""
    return bool(
        on.one(connection, "select publish_held from {entities} where entity = {entity}")[0]
    )


def drop_set(connection: Connection[Row], on: Statements, vector_set: VectorSet) -> None:
    """Drop a set with its vectors. Raises LockNotAvailable where someone reads it for long."""
    with connection.transaction():
        wait_little(connection)
        connection.execute(
            on.fill("drop table if exists {table}", table=on.table(vector_set.table_name))
        )
        connection.execute(
            on.fill(
                "with entries as (delete from {quarantine} where entity = {entity}"
                " and vector_set = %(number)s)"
                " delete from {vector_sets} where entity = {entity} and number = %(number)s"
            ),
            {"number": vector_set.number},
        )
