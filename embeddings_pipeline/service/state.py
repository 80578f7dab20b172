"""The entities of the service and their state, cached for some seconds: reading scans tables."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from threading import Condition

from cachetools import TTLCache, cached
from psycopg import Connection

from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.errors import Failures, Unavailable
from embeddings_pipeline.pipeline import Pipeline
from embeddings_pipeline.search.requests import FacetValue
from embeddings_pipeline.service.schemas import (
    Entities,
    EntityInfo,
    EntityState,
    FilterColumn,
    IndexState,
    PendingPartition,
    Run,
    Stats,
)
from embeddings_pipeline.store import declarations, run_ledger, vector_sets
from embeddings_pipeline.store.connection import Postgres, Row, columns_of, replica_lag
from embeddings_pipeline.store.retry import is_lost_connection, read_again
from embeddings_pipeline.store.search import published
from embeddings_pipeline.store.search.published import Published
from embeddings_pipeline.store.search.published_search import PublishedSearch, StoredRow
from embeddings_pipeline.store.tables import drop_noticed, open_tables
from embeddings_pipeline.store.texts import quarantine
from embeddings_pipeline.store.vector_sets import VectorSet
from embeddings_pipeline.store.vectors import coverage, quality
from embeddings_pipeline.store.vectors.coverage import PartitionCoverage
from embeddings_pipeline.store.vectors.pending import states_of
from embeddings_pipeline.sync.status import status

logger = logging.getLogger(__name__)

# cache lifetimes: facets change slowly, coverage quickly
_ENTITIES_SECONDS, _STATS_SECONDS, _SETS_SECONDS = 60, 10, 5
# most values of a filter column that are offered as choices
_FEW = 20
_BARS = 20
# chunks whose values make a histogram: bars of a larger sample look the same
_SAMPLE = 20_000
# rows that show what an entity holds, each with the first characters of its text
_EXAMPLES, _EXAMPLE_CHARACTERS = 20, 1_000
_RUNS = 30
_MEASUREMENTS = 60
_PARTITIONS = 60
_FAILURES, _FAILURE_CHARACTERS = 10, 300


class State:
    """The entities and their state. Thread-safe: concurrent callers share one read."""

    def __init__(self, pipeline: Pipeline, database: Callable[[], Postgres]) -> None:
        self._pipeline = pipeline
        self._database = database
        self.entities = cached(TTLCache(1, _ENTITIES_SECONDS), condition=Condition())(
            self._entities
        )
        self.stats = cached(TTLCache(1, _STATS_SECONDS), condition=Condition())(self._stats)
        self.live_sets = cached(TTLCache(1, _SETS_SECONDS), condition=Condition())(self._live_sets)

    def forget(self) -> None:
        """Read everything again at the next call, after a run of this process."""
        for read in (self.entities, self.stats, self.live_sets):
            read.cache_clear()

    def _live_sets(self) -> list[VectorSet]:
        with self._database().connection() as connection:
            return vector_sets.live_sets(connection, self._pipeline.schema)

    def _entities(self) -> Entities:
        with self._database().connection() as connection:
            names = published.names(connection, self._pipeline.schema)
        return Entities(entities=[info for name in names if (info := self._known(name))])

    def _known(self, name: str) -> EntityInfo | None:
        """Return what can be searched in an entity; log an error and return None where it fails."""
        failures = Failures()
        with failures.of(name):
            return self._info(name)
        _raise_lost(failures)
        return None

    @read_again
    def _info(self, name: str) -> EntityInfo:
        with drop_noticed(name), self._database().connection() as connection:
            shown = published.read(connection, self._pipeline.schema, name)
            return self._info_of(connection, shown)

    def _info_of(self, connection: Connection[Row], shown: Published) -> EntityInfo:
        entity = shown.names.source.entity
        fields = shown.filters
        if self._pipeline.one_database:
            fields = columns_of(connection, entity.db_schema, entity.table)
        search = PublishedSearch(connection, shown)
        return EntityInfo(
            entity=entity.name,
            model=shown.vector_set.model,
            metric=shown.vector_set.metric,
            language=entity.language,
            images=entity.image is not None,
            filters=_filters(search, shown.filters),
            fields=fields,
            examples=_examples(search, images=entity.image is not None),
        )

    def _stats(self) -> Stats:
        with self._database().connection() as connection:
            known, failures = declarations.stored_entities(connection, self._pipeline.schema)
            lag = replica_lag(connection)
        states = {}
        for name, entity in known.items():
            with failures.of(name):
                states[name] = self._state(entity)
        _raise_lost(failures)
        for name, problem in failures.messages().items():
            states[name] = EntityState(entity=name, problem=problem)
        return Stats(entities=[states[name] for name in sorted(states)], replica_lag_seconds=lag)

    @read_again
    def _state(self, entity: Entity) -> EntityState:
        names = declarations.as_stored(self._pipeline.schema, entity)
        now = status(self._database(), self._pipeline.schema, entity)
        with open_tables(self._database(), names) as tables:
            shown = vector_sets.served(vector_sets.read(tables, ("live", "building")))
            quarantined = quarantine.rows_affected(tables, states_of(names, shown))
            latest = run_ledger.latest(tables, _RUNS)
            cost = run_ledger.cost(tables)
            measured = quality.latest(tables, _MEASUREMENTS)
            identity = shown.identity_number if shown else None
            failures = quarantine.latest(tables, identity, _FAILURES, _FAILURE_CHARACTERS)
            partitions = []
            if now.pending or quarantined:
                partitions = _unfinished(coverage.coverage(tables, shown))
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
            index=IndexState(
                type=now.index.type,
                recall_at_10=now.index.recall_at_10,
                target=entity.index.recall,
            ),
            cost_usd=cost.total_usd,
            last_run=runs[0] if runs else None,
            runs=runs,
            partitions=partitions[:_PARTITIONS],
            failures=failures,
            quality=measured,
            ndcg_target=entity.retrieval.ndcg_at_10 if entity.retrieval else None,
        )


def _unfinished(partitions: Sequence[PartitionCoverage]) -> list[PendingPartition]:
    return [
        PendingPartition(
            partition_key=part.partition_key, pending=part.pending, quarantined=part.quarantined
        )
        for part in partitions
        if part.pending or part.quarantined
    ]


def _raise_lost(failures: Failures) -> None:
    """Log the errors of entities. Raises the error where the database does not answer."""
    for name, error in failures.items():
        if isinstance(error, Unavailable) or is_lost_connection(error):
            raise error
        logger.warning("entity %r: %s", name, " ".join(str(error).split()))


def _examples(search: PublishedSearch, *, images: bool) -> list[StoredRow]:
    """Some rows with the beginning of their first text; an image is whole or left out."""
    return [
        replace(row, texts=(row.texts[0][:_EXAMPLE_CHARACTERS],))
        for row in search.sample(_EXAMPLES)
        if not images or len(row.texts[0]) <= _EXAMPLE_CHARACTERS
    ]


def _filters(search: PublishedSearch, types: Mapping[str, str]) -> list[FilterColumn]:
    columns = []
    for name, kind in types.items():
        found = search.facets(name, _FEW)
        values = None if found is None else [FacetValue(value, n) for value, n in found]
        columns.append(
            FilterColumn(
                name=name,
                type=kind,
                values=values,
                histogram=search.histogram(name, _BARS, _SAMPLE),
            )
        )
    return columns
