"""What the service says of its entities, remembered for some seconds: it reads whole tables."""

from __future__ import annotations

from collections.abc import Callable
from threading import Condition

from cachetools import TTLCache, cached
from psycopg import Connection

from embeddings_pipeline.engine import Engine
from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.search.schemas_state import (
    Entities,
    EntityInfo,
    EntityState,
    Facet,
    FilterColumn,
    IndexState,
    Run,
    Stats,
)
from embeddings_pipeline.store import definitions, facets, ledger, published
from embeddings_pipeline.store.postgres import Postgres, Row, columns_of
from embeddings_pipeline.store.published import Published
from embeddings_pipeline.store.tables import EntityTables
from embeddings_pipeline.store.texts import quarantine
from embeddings_pipeline.store.vectors import sets as vector_sets
from embeddings_pipeline.store.vectors.pending import states_of
from embeddings_pipeline.store.vectors.vector_set import VectorSet
from embeddings_pipeline.sync.status import served, status

# facets change slowly, coverage does not
_ENTITIES_SECONDS, _STATS_SECONDS, _SETS_SECONDS = 60, 10, 5
# values of a filter column that a person can choose among
_FEW = 20
_RUNS = 5


class State:
    """Entities and their state. Safe between threads; one of them reads for all."""

    def __init__(self, engine: Engine, database: Callable[[], Postgres]) -> None:
        self._engine = engine
        self._database = database
        self.entities = cached(TTLCache(1, _ENTITIES_SECONDS), condition=Condition())(
            self._entities
        )
        self.stats = cached(TTLCache(1, _STATS_SECONDS), condition=Condition())(self._stats)
        self.live_sets = cached(TTLCache(1, _SETS_SECONDS), condition=Condition())(self._live_sets)

    def _live_sets(self) -> list[VectorSet]:
        with self._database().connection() as connection:
            return vector_sets.live_sets(connection, self._engine.schema)

    def _entities(self) -> Entities:
        with self._database().connection() as connection:
            return Entities(
                entities=[
                    self._info(connection, published.read(connection, self._engine.schema, name))
                    for name in published.names(connection, self._engine.schema)
                ]
            )

    def _info(self, connection: Connection[Row], shown: Published) -> EntityInfo:
        entity = shown.on.source.entity
        fields = shown.filters
        if self._engine.one_database:
            fields = columns_of(connection, entity.db_schema, entity.table)
        return EntityInfo(
            entity=entity.name,
            model=shown.vector_set.model,
            metric=shown.vector_set.metric,
            language=entity.language,
            images=entity.image is not None,
            filters=[_filter(connection, shown, *column) for column in shown.filters.items()],
            fields=fields,
        )

    def _stats(self) -> Stats:
        with self._database().connection() as connection:
            known = definitions.entities(connection, self._engine.schema)
        return Stats(entities=[self._state(entity) for entity in known.values()])

    def _state(self, entity: Entity) -> EntityState:
        on = definitions.as_stored(self._engine.schema, entity)
        now = status(self._database(), self._engine.schema, entity)
        with self._database().connection() as connection:
            shown = served(vector_sets.vector_sets(connection, on, ("live", "building")))
            quarantined = quarantine.rows_affected(
                EntityTables(connection, on), states_of(on, shown)
            )
            latest = ledger.latest(connection, on, _RUNS)
            cost = ledger.cost(connection, on)
        runs = [Run.model_validate(run) for run in latest]
        return EntityState(
            entity=entity.name,
            rows=now.rows,
            chunks=now.chunks,
            vectors=now.vectors,
            coverage=now.coverage,
            pending=now.pending,
            quarantined=quarantined,
            data_lag_seconds=now.oldest_pending_seconds or 0,
            model=now.live_set.model if now.live_set else None,
            dimension=now.live_set.dimension if now.live_set else None,
            vector_set=now.live_set.number if now.live_set else None,
            index=IndexState(type=now.index.type, recall_at_10=now.index.recall_at_10),
            cost_usd=cost.total_usd,
            last_run=runs[0] if runs else None,
            runs=runs,
        )


def _filter(connection: Connection[Row], shown: Published, name: str, kind: str) -> FilterColumn:
    found = facets.facets(connection, shown, name, _FEW)
    values = None if found is None else [Facet(value=value, count=n) for value, n in found]
    return FilterColumn(name=name, type=kind, values=values)
