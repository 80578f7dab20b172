"""Makes the vector set that an entity's model and storage ask for."""

from __future__ import annotations

from typing import Literal

from psycopg import Connection, sql
from psycopg.errors import UndefinedObject

from embeddings_pipeline.entities.entity import (
    MAX_INDEXED_HALFVEC,
    MAX_INDEXED_VECTOR,
    Entity,
)
from embeddings_pipeline.entities.model import ModelIdentity
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.store import coverage_view, provenance
from embeddings_pipeline.store.entity_tables import filter_columns
from embeddings_pipeline.store.postgres import Row
from embeddings_pipeline.store.statements import Statements
from embeddings_pipeline.store.vector_sets import VectorSet, read, set_state, vector_sets


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
            coverage_view.replace_coverage(connection, on.schema)
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
    provenance.create_index(connection, on, table)
    entity = on.source.entity
    connection.execute(
        on.fill(
            """
            insert into {vector_sets} (entity, number, provider, model, revision, dimension,
                max_tokens, normalized, storage, metric, table_name, state)
            values ({entity}, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, 'building')
            """
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
    )
    return read(connection, on, number)
