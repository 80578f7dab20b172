"""Vector sets are created, replaced, retired and dropped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from psycopg import sql
from psycopg.errors import UndefinedObject
from psycopg.sql import Literal

from embeddings_pipeline.entities.entity import (
    MAX_INDEXED_HALFVEC,
    MAX_INDEXED_VECTOR,
    Entity,
    Storage,
)
from embeddings_pipeline.entities.model import ModelIdentity
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.store import views
from embeddings_pipeline.store.tables import EntityTables
from embeddings_pipeline.store.texts.text_tables import copied_columns
from embeddings_pipeline.store.vector_sets import (
    State,
    VectorSet,
    building_set,
    maintained,
    read,
    read_one,
)
from embeddings_pipeline.store.vectors import identities
from embeddings_pipeline.store.vectors.pending import chunk_states

# a live set that lacks more than this share of its rows is replaced by a new one, which is
# projected, indexed in bulk and published: pgvector adds about 700 rows a second to an HNSW graph
REPLACE_SHARE = 0.2
# fewer missing chunks are updated in place quickly enough
_REPLACE_MIN_CHUNKS = 1_000


def ensure_set(tables: EntityTables, identity: ModelIdentity) -> VectorSet:
    """The set for this model with the entity's storage, created as `building` where it is missing.

    A retired set of the same model becomes `building` again. Other building sets are retired.
    Raises ConfigurationError where the dimension cannot be stored or indexed.
    """
    entity = tables.source.entity
    storage = storage_of(entity, identity.dimension)
    with tables.connection.transaction():
        tables.execute("select from {entities} where entity = {entity} for update")
        known = read(tables)
        chosen = _find_set(known, identity, storage) or _create(tables, identity, storage)
        if chosen.state == "retired":
            identities.ensure(tables.connection, tables.schema, identity)
        for other in known:
            if other.state == "building" and other.number != chosen.number:
                set_state(tables, other.number, "retired")
        if chosen.state == "retired":
            set_state(tables, chosen.number, "building")
        if chosen not in known or chosen.state == "retired":
            # the view shows the set that is built where none is live
            views.replace_coverage(tables.connection, tables.schema)
        if chosen.query_prompt != identity.query_prompt:
            # the vectors of documents are the same
            tables.execute(
                "update {vector_sets} set query_prompt = %s"
                " where entity = {entity} and number = %s",
                (identity.query_prompt, chosen.number),
            )
        if chosen.metric != entity.metric:
            # the index is built again, for another operator class on the same vectors
            tables.execute(
                "update {vector_sets} set metric = %s, index_settings = null, recall = null"
                " where entity = {entity} and number = %s",
                (entity.metric, chosen.number),
            )
    return read_one(tables, chosen.number)


def planned_sets(tables: EntityTables, identity: ModelIdentity) -> list[VectorSet | None]:
    """The sets that runs maintain after `ensure_set`, in their order; None is one that it creates.
    Writes nothing."""
    known = read(tables)
    chosen = _find_set(known, identity, storage_of(tables.source.entity, identity.dimension))
    kept = [s for s in known if s.state == "live" and s != chosen]
    if chosen:
        kept.append(replace(chosen, state="building") if chosen.state == "retired" else chosen)
    return [*maintained(kept), *([] if chosen else [None])]


def _find_set(
    known: Sequence[VectorSet], identity: ModelIdentity, storage: Storage
) -> VectorSet | None:
    """The set of this model and storage that a run keeps up to date; None where it is missing."""
    return max(
        (s for s in known if (s.identity, s.storage) == (identity, storage)),
        # a building set of the same kind as the live one is its replacement
        key=lambda s: (s.state != "retired", s.number),
        default=None,
    )


def replace_where_much_is_missing(
    tables: EntityTables, live: VectorSet, missing: int
) -> VectorSet | None:
    """A building set that will replace the live one, where projecting and indexing the missing
    chunks in bulk is faster; None where the live set is updated in place."""
    if not is_faster_replaced(tables, live, missing):
        return None
    with tables.connection.transaction():
        tables.execute("select from {entities} where entity = {entity} for update")
        if building := building_set(tables):
            return building if building.replaces(live) else None
        return _create(tables, live.identity, live.storage)


def is_faster_replaced(tables: EntityTables, live: VectorSet, missing: int) -> bool:
    """Whether replacing a live set that lacks these chunks is faster than updating it: the set
    has an index, and its replacement is published automatically."""
    index = live.index_settings or {"type": "none"}
    return (
        live.state == "live"
        and index["type"] != "none"
        and missing > REPLACE_SHARE * max(live.index_rows or 0, 1)
        and missing >= _REPLACE_MIN_CHUNKS
        and tables.source.entity.publish == "auto"
        and not publishing_held(tables)
    )


def storage_of(entity: Entity, dimension: int) -> Storage:
    """The declared storage, or by default the one that can be indexed at this dimension."""
    storage: Storage = entity.storage or (
        "vector" if dimension <= MAX_INDEXED_VECTOR else "halfvec"
    )
    most = MAX_INDEXED_VECTOR if storage == "vector" else MAX_INDEXED_HALFVEC
    if dimension > most and entity.index.type != "none":
        raise ConfigurationError(
            f"entity {entity.name!r}: {storage} of {dimension} dimensions cannot be indexed (at"
            f" most {most}): set a smaller `dimension`, `storage: halfvec` or `index: none`"
        )
    return storage


def _create(tables: EntityTables, identity: ModelIdentity, storage: Storage) -> VectorSet:
    entity = tables.source.entity
    stored = identities.ensure(tables.connection, tables.schema, identity)
    number = max((s.number for s in read(tables)), default=0) + 1
    table = f"{tables.entity}_vectors_{number}"
    try:
        tables.execute(
            """
            create table {table} (
                {id} {id_type} not null,
                chunk int not null,
                text text not null,
                text_hash uuid not null,
                embedding {storage}({dimension}) not null,
                version bigint not null,
                run_id text not null,
                updated_at timestamptz not null default clock_timestamp(),
                primary key ({id}, chunk) include (text_hash, version)
                {copied}
            );
            -- no plan needs statistics of the first two, and computing them would sort the values;
            -- a small sample of the others does: the largest one sets how many rows are read
            alter table {table} alter column embedding set statistics 0,
                alter column text set statistics 0,
                alter column {id} set statistics 10, alter column chunk set statistics 10,
                alter column text_hash set statistics 10, alter column version set statistics 10,
                alter column run_id set statistics 10, alter column updated_at set statistics 10
            """,
            table=tables.table(table),
            storage=sql.SQL(storage),
            dimension=Literal(identity.dimension),
            copied=copied_columns(tables.source),
        )
    except UndefinedObject:
        raise ConfigurationError(
            "the type vector is not on the search path: run"
            " `alter extension vector set schema public`"
        ) from None
    tables.execute(
        "insert into {vector_sets}"
        " (entity, number, identity, storage, query_prompt, metric, table_name, state)"
        " values ({entity}, %s, %s, %s, %s, %s, %s, 'building')",
        (number, stored.number, storage, identity.query_prompt, entity.metric, table),
    )
    created = read_one(tables, number)
    create_states_view(tables, created)
    return created


def create_states_view(tables: EntityTables, vector_set: VectorSet) -> None:
    """Create the view that shows the state of each chunk in a set."""
    tables.execute(
        "create view {view} as {states}",
        view=tables.table(vector_set.states_view),
        states=chunk_states(tables.names, vector_set),
    )


def set_state(tables: EntityTables, number: int, state: State) -> None:
    """Move a set to a state; a set that goes live gets its `published_at`."""
    tables.execute(
        "update {vector_sets} set state = %s,"
        " published_at = case when %s = 'live' then clock_timestamp() else published_at end"
        " where entity = {entity} and number = %s",
        (state, state, number),
    )


def retire(tables: EntityTables, vector_set: VectorSet, *, superseded: bool) -> None:
    """Retire a live set. A `superseded` set is not a choice for a rollback."""
    set_state(tables, vector_set.number, "retired")
    if superseded:
        tables.execute(
            "update {vector_sets} set published_at = null where entity = {entity} and number = %s",
            (vector_set.number,),
        )


def hold_publishing(tables: EntityTables, *, held: bool) -> None:
    """Hold or release automatic publishing."""
    tables.execute(
        "update {entities} set publish_held = %s where entity = {entity}",
        (held,),
    )


def publishing_held(tables: EntityTables) -> bool:
    """Whether a rollback holds automatic publishing."""
    return bool(tables.one("select publish_held from {entities} where entity = {entity}")[0])


def drop_set(tables: EntityTables, vector_set: VectorSet) -> None:
    """Drop a set with its vectors. Raises LockNotAvailable where a long query reads it."""
    with tables.connection.transaction():
        views.limit_lock_wait(tables.connection)
        for statement in (
            "drop view if exists {view}",
            "drop table if exists {table}",
            "delete from {renewals} where entity = {entity} and vector_set = {number}",
            "delete from {vector_sets} where entity = {entity} and number = {number}",
        ):
            tables.execute(
                statement,
                view=tables.table(vector_set.states_view),
                table=tables.table(vector_set.table_name),
                number=Literal(vector_set.number),
            )
