"""The state of entities as Prometheus asks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import psycopg
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from embeddings_pipeline.errors import EmbeddingsError
from embeddings_pipeline.search.schemas_state import EntityState, Stats

_GAUGES: Mapping[str, tuple[str, Callable[[EntityState], float | None]]] = {
    "entity_rows": ("Rows that have a text", lambda e: e.rows),
    "entity_coverage_ratio": (
        "Share of the rows that have all their vectors",
        lambda e: None if e.coverage is None else e.coverage / 100,
    ),
    "entity_data_lag_seconds": ("Age of the oldest pending change", lambda e: e.data_lag_seconds),
    "entity_pending_chunks": ("Chunks that are pending", lambda e: e.pending),
    "entity_quarantined_rows": ("Rows that failed", lambda e: e.quarantined),
    "entity_run_cost_usd": ("US dollars that all runs cost", lambda e: e.cost_usd),
    "entity_index_recall": (
        "recall@10 of the index against exact search",
        lambda e: e.index.recall_at_10,
    ),
}


class Gauges(Collector):
    """Reads the state when it is asked; without a database `database_up` is all there is."""

    def __init__(self, stats: Callable[[], Stats]) -> None:
        self._stats = stats

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Nothing: to know the names, it would be asked before there is a database."""
        return ()

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """A gauge for each figure, with a value for each entity."""
        try:
            entities = self._stats().entities
        except (EmbeddingsError, psycopg.Error):
            entities = None
        up = entities is not None
        yield GaugeMetricFamily("database_up", "Whether the database answers", value=float(up))
        for name, (what, value_of) in _GAUGES.items():
            gauge = GaugeMetricFamily(name, what, labels=["entity"])
            for entity in entities or ():
                if entity.problem:
                    continue
                value = value_of(entity)
                if value is not None:
                    gauge.add_metric([entity.entity], value)
            yield gauge
