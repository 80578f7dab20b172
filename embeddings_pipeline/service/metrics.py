"""The metrics of the service and of its entities, in Prometheus' format."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from threading import Lock

import psycopg
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from embeddings_pipeline.encoders.encoder import Kind, Usage
from embeddings_pipeline.errors import EmbeddingsError
from embeddings_pipeline.service.schemas import EntityState, Stats
from embeddings_pipeline.settings import counts_in_files

# from a cached query to a scan of millions of vectors
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_RESULTS = (0, 1, 5, 10, 20, 50, 100, 200, 500, 1000)


@dataclass(frozen=True)
class Encoded:
    """The usage of encoding since a moment, and its cost in US dollars."""

    since: datetime = field(default_factory=lambda: datetime.now(UTC))
    usage: Usage = field(default_factory=Usage)
    cost_usd: float = 0.0

    @property
    def hit_rate(self) -> float | None:
        """The share of texts that came from the cache; None without any texts."""
        texts = self.usage.texts + self.usage.cached
        return self.usage.cached / texts if texts else None


class Metrics:
    """The counters of one service. Thread-safe. `state` has the gauges."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._generation = Histogram(
            "embedding_generation_seconds",
            "Seconds of a model at work, by call",
            ["model", "kind"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._hits = self._counter("embedding_cache_hits", "Texts whose vector was remembered")
        self._misses = self._counter("embedding_cache_misses", "Texts that a model read")
        self._cost = self._counter("embedding_cost_usd", "US dollars that encoding took")
        self._search = Histogram(
            "search_seconds",
            "Seconds of a search, encoding included",
            ["entity", "mode"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._results = Histogram(
            "search_results",
            "Rows that a search found",
            ["entity", "mode"],
            buckets=_RESULTS,
            registry=self.registry,
        )
        self._requests = Counter(
            "http_requests",
            "Requests by operation and status; status 499 is a client that left",
            ["operation", "status"],
            registry=self.registry,
        )
        self._request = Histogram(
            "http_request_seconds",
            "Seconds of a request, until the end of its answer",
            ["operation"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.state = CollectorRegistry()
        if not counts_in_files():
            ProcessCollector(registry=self.state)
        self._encoded = Encoded()
        self._lock = Lock()

    def exposition(self) -> bytes:
        """Return the metrics in Prometheus' text format, of all processes of the service."""
        counted = self.registry
        if counts_in_files():
            counted = CollectorRegistry()
            MultiProcessCollector(counted)  # type: ignore[no-untyped-call]
        return generate_latest(counted) + generate_latest(self.state)

    @property
    def encoded(self) -> Encoded:
        """The usage since the start or the last reset."""
        return self._encoded

    def reset(self) -> None:
        """Set `encoded` to zero. Prometheus' counters continue."""
        with self._lock:
            self._encoded = Encoded()

    def generated(self, model: str, kind: Kind, usage: Usage) -> None:
        """Count one call of a model."""
        self._generation.labels(model, kind).observe(usage.seconds)

    def answered(self, model: str, usage: Usage, cost_usd: float) -> None:
        """Count the vectors returned to a caller."""
        self._hits.labels(model).inc(usage.cached)
        self._misses.labels(model).inc(usage.texts)
        self._cost.labels(model).inc(cost_usd)
        with self._lock:
            so_far = self._encoded
            self._encoded = replace(
                so_far, usage=so_far.usage + usage, cost_usd=so_far.cost_usd + cost_usd
            )

    def requested(self, operation: str, status: int, seconds: float) -> None:
        """Count one request."""
        self._requests.labels(operation, str(status)).inc()
        self._request.labels(operation).observe(seconds)

    def searched(self, entity: str, mode: str, seconds: float, results: int) -> None:
        """Count one answered search."""
        self._search.labels(entity, mode).observe(seconds)
        self._results.labels(entity, mode).observe(results)

    def _counter(self, name: str, what: str) -> Counter:
        return Counter(name, what, ["model"], registry=self.registry)


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
    """Reads the state at each scrape. Without a database the only gauge is `database_up`."""

    def __init__(self, stats: Callable[[], Stats]) -> None:
        self._stats = stats

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Return nothing: otherwise registering would read the database."""
        return ()

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Yield each gauge, with a value for each entity."""
        try:
            stats = self._stats()
        except (EmbeddingsError, psycopg.Error):
            stats = None
        entities = stats.entities if stats else ()
        up = stats is not None
        yield GaugeMetricFamily("database_up", "Whether the database answers", value=float(up))
        if stats and stats.replica_lag_seconds is not None:
            yield GaugeMetricFamily(
                "replica_lag_seconds",
                "Seconds that the replica is behind its primary",
                value=stats.replica_lag_seconds,
            )
        for name, (what, value_of) in _GAUGES.items():
            gauge = GaugeMetricFamily(name, what, labels=["entity"])
            for entity in entities:
                if entity.problem:
                    continue
                value = value_of(entity)
                if value is not None:
                    gauge.add_metric([entity.entity], value)
            yield gauge
