"""Vector sets: one physical table for each (entity, model, revision, dimension, storage)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple

from psycopg import Connection, sql
from psycopg.errors import UndefinedObject
from psycopg.rows import class_row

from embeddings_pipeline.entities.entity import (
    MAX_INDEXED_HALFVEC,
    MAX_INDEXED_VECTOR,
    Entity,
)
from embeddings_pipeline.entities.model import ModelIdentity
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.store import views
from embeddings_pipeline.store.postgres import Row
from embeddings_pipeline.store.schema import filter_columns
from embeddings_pipeline.store.statements import Statements

State = Literal["building", "live", "retired"]


@dataclass(frozen=True)
class VectorSet:
    """A row of `vector_sets`. `recall` is recall@10 of the index as it was last measured."""

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
    """A vectors table whose vectors another set of the same model may take over."""

    entity: str
    id_column: str
    table: str


_COLUMNS = sql.SQL(
    "entity, number, provider, model, revision, dimension, storage, metric, max_tokens,"
    " normalized, table_name, state, published_at, index_settings, index_rows, recall, ef_search"
)


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
            order by s.entity <> {entity}, s.entity, s.number desc
            """
        ),
        {
            "provider": identity.provider,
            "model": identity.model,
            "revision": identity.revision,
            "dimension": identity.dimension,
        },
    )
    return [Origin(*row) for row in rows]


def ensure_set(connection: Connection[Row], on: Statements, identity: ModelIdentity) -> VectorSet:
    """The set for this model with the entity's storage, made as `building` where there is none.

    A retired set of the same model comes back as `building`; other building sets are abandoned
    and retired. Raises ConfigurationError where the dimension cannot be stored or indexed.
    """
    entity = on.source.entity
    storage = storage_of(entity, identity.dimension)
    with connection.transaction():
        connection.execute(on.fill("select from {entities} where entity = {entity} for update"))
        known = vector_sets(connection, on, ("building", "live", "retired"))
        found = [s for s in known if s.identity == identity and s.storage == storage]
        if found:
            chosen = max(found, key=lambda s: (s.state == "live", s.number))
        else:
            number = max((s.number for s in known), default=0) + 1
            chosen = _create(connection, on, identity, storage, number)
            views.replace_coverage(connection, on.schema)
        for other in known:
            if other.state == "building" and other.number != chosen.number:
                set_state(connection, on, other.number, "retired")
        if chosen.state == "retired":
            set_state(connection, on, chosen.number, "building")
        if chosen.metric != entity.metric:
            # another operator class, the same vectors: the index is made anew
            connection.execute(
                on.fill(
                    "update {vector_sets} set metric = %s, index_settings = null, recall = null"
                    " where entity = {entity} and number = %s"
                ),
                (entity.metric, chosen.number),
            )
    return read(connection, on, chosen.number)


def storage_of(entity: Entity, dimension: int) -> Literal["vector", "halfvec"]:
    """The declared storage, or the one that can be indexed at this dimension."""
    storage = entity.storage or ("vector" if dimension <= MAX_INDEXED_VECTOR else "halfvec")
    most = MAX_INDEXED_VECTOR if storage == "vector" else MAX_INDEXED_HALFVEC
    if dimension > most and entity.index.type != "none":
        raise ConfigurationError(
            f"entity {entity.name!r}: {storage} of {dimension} dimensions cannot be indexed (at"
            f" most {most}): set a smaller `dimension`, `storage: halfvec` or `index: none`"
        )
    return storage


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
    """Drop a set with its vectors."""
    with connection.transaction():
        connection.execute(
            on.fill("drop table if exists {table}", table=on.table(vector_set.table_name))
        )
        connection.execute(
            on.fill("delete from {vector_sets} where entity = {entity} and number = %s"),
            (vector_set.number,),
        )


def _create(
    connection: Connection[Row],
    on: Statements,
    identity: ModelIdentity,
    storage: Literal["vector", "halfvec"],
    number: int,
) -> VectorSet:
    table = f"{on.source.entity.name}_vectors_{number}"
    try:
        connection.execute(
            on.fill(
                """
                create table {table} (
                    {id} {id_type} not null,
                    chunk int not null,
                    text text not null,
                    text_hash bytea not null,
                    embedding {storage}({dimension}) not null,
                    run_id text not null,
                    reused_from text,
                    embedded_at timestamptz not null default clock_timestamp(),
                    primary key ({id}, chunk) include (text_hash)
                    {filters}
                )
                """,
                table=on.table(table),
                storage=sql.SQL(storage),
                dimension=sql.Literal(identity.dimension),
                filters=filter_columns(on.source),
            )
        )
    except UndefinedObject:
        raise ConfigurationError(
            "the type vector is not on the search path: run"
            " `alter extension vector set schema public`"
        ) from None
    connection.execute(
        on.fill(
            "create index {index} on {table} (text_hash)",
            index=sql.Identifier(f"{table}_by_hash"),
            table=on.table(table),
        )
    )
    entity = on.source.entity
    with connection.cursor(row_factory=class_row(VectorSet)) as cursor:
        created = cursor.execute(
            on.fill(
                """
                insert into {vector_sets} (entity, number, provider, model, revision, dimension,
                    max_tokens, normalized, storage, metric, table_name, state)
                values ({entity}, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, 'building')
                returning {columns}
                """,
                columns=_COLUMNS,
            ),
            (
                number,
                identity.provider,
                identity.model,
                identity.revision,
                identity.dimension,
                identity.max_tokens,
                identity.normalized,
                storage,
                entity.metric,
                table,
            ),
        ).fetchone()
    assert created is not None  # noqa: S101 - `returning` of one row
    return created
