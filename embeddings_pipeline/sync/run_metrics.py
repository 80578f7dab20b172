"""The figures of the last run of each entity: for Prometheus, as a text file that the textfile
collector of node_exporter reads (https://github.com/prometheus/node_exporter#textfile-collector),
and for OpenTelemetry.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

from embeddings_pipeline import files
from embeddings_pipeline.encoders import deadline
from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.errors import ConfigurationError, EmbeddingsError
from embeddings_pipeline.settings import Settings, opentelemetry_exporter
from embeddings_pipeline.store import run_ledger, vector_sets
from embeddings_pipeline.store.connection import Postgres, columns_of
from embeddings_pipeline.store.declarations import as_stored
from embeddings_pipeline.store.retry import read_again
from embeddings_pipeline.store.tables import EntityTables, drop_noticed
from embeddings_pipeline.store.texts import quarantine
from embeddings_pipeline.store.vectors.pending import states_of
from embeddings_pipeline.sync import status

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Observation
    from opentelemetry.sdk.metrics import MeterProvider

logger = logging.getLogger(__name__)

_PREFIX = "embeddings_run_"
_LOCK_SECONDS = 10
# the SDK's own timeout begins again with each byte of an answer
_EXPORT_SECONDS = 30.0
# the exporters of the values of OTEL_EXPORTER_OTLP_PROTOCOL
_OTLP = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
# name, type and help, in the order of the file
_METRICS: Mapping[str, tuple[str, str]] = {
    "rows": ("gauge", "Rows that have a text"),
    "texts_encoded": ("gauge", "Texts that the last run encoded"),
    "chunks_reused": ("gauge", "Chunks for which the last run reused a vector"),
    "tokens": ("gauge", "Tokens that the last run encoded"),
    "cost_usd": ("gauge", "US dollars that the last run cost"),
    "stage_seconds": ("gauge", "Seconds of each stage of the last run"),
    "pending_chunks": ("gauge", "Chunks that were pending after the last run"),
    "lag_seconds": ("gauge", "Age of the oldest pending change after the last run"),
    "quarantined_rows": ("gauge", "Rows in quarantine after the last run"),
    "failed": ("gauge", "1 where the last run failed, else 0"),
    "failures_total": ("counter", "Runs that failed"),
    "last_success_timestamp_seconds": ("gauge", "End of the last run that did not fail"),
}

_Labels: TypeAlias = tuple[tuple[str, str], ...]
_Samples: TypeAlias = dict[tuple[str, _Labels], float]


@dataclass(frozen=True)
class Figures:
    """What a run of an entity did, with the seconds of its stages, and the entity's state after."""

    rows: int
    encoded: int
    reused: int
    tokens: int
    cost_usd: float
    pending: int
    lag_seconds: float
    quarantined: int
    stages: Mapping[str, float]


@read_again
def read_figures(database: Postgres, schema: str, entity: Entity, run_id: str) -> Figures | None:
    """The figures of a run; None for an entity that has no texts yet."""
    now = status.status(database, schema, entity)
    with drop_noticed(entity.name), database.connection() as connection:
        columns = columns_of(connection, schema, f"{entity.name}_texts")
        if not columns:
            return None
        tables = EntityTables(connection, as_stored(schema, entity, columns))
        shown = vector_sets.served(vector_sets.read(tables, ("live", "building")))
        counts = run_ledger.read(tables, run_id) or {}
        return Figures(
            rows=now.rows,
            encoded=counts.get("encoded", 0),
            reused=counts.get("reused", 0),
            tokens=counts.get("tokens", 0),
            cost_usd=float(counts.get("cost_usd", 0)),
            pending=now.pending,
            lag_seconds=now.oldest_pending_seconds or 0,
            quarantined=quarantine.rows_affected(tables, states_of(tables.names, shown)),
            stages=run_ledger.stages(tables, run_id),
        )


class RunMetrics(Protocol):
    """Where the figures of runs go."""

    @property
    def name(self) -> str:
        """What configures it, for messages."""

    def record(self, entity: str, figures: Figures | None, *, failed: bool) -> None:
        """Note the end of a run. Without figures, those of the run before stay."""


def configured_metrics(settings: Settings) -> list[RunMetrics]:
    """Where the figures of runs go: to the file of RUN_METRICS_FILE, where one is set, and to
    OpenTelemetry, where its variables are set and its SDK is installed."""
    found: list[RunMetrics] = []
    if file := settings.run_metrics_file:
        found.append(MetricsFile(file))
    exporter = opentelemetry_exporter()
    if exporter and opentelemetry_installed():
        found.append(OpenTelemetryMetrics(partial(configured_provider, *exporter)))
    return found


def pass_on(
    metrics: Iterable[RunMetrics], entity: str, figures: Figures | None, *, failed: bool
) -> None:
    """Record the end of a run with each of these. What cannot be passed on fails no run."""
    for one in metrics:
        try:
            one.record(entity, figures, failed=failed)
        # an exporter may be another package's, and raise anything
        except Exception as error:
            logger.error("the figures of a run are not passed on (%s): %s", one.name, error)


class MetricsFile:
    """The file of RUN_METRICS_FILE, which several processes may write at once."""

    name = "RUN_METRICS_FILE"

    def __init__(self, path: Path) -> None:
        self._path = path

    def record(self, entity: str, figures: Figures | None, *, failed: bool) -> None:
        """Write the figures of a run. Raises OSError, or ConfigurationError where the file stays
        locked."""
        path = self._path
        # the exporter reads only names that end with .prom
        lock = path.with_name(f"{path.name}.lock")
        busy = f"another process is still writing {path} after {_LOCK_SECONDS} seconds"
        with files.lock(lock, seconds=_LOCK_SECONDS, busy=busy):
            text = path.read_text(errors="replace") if path.exists() else ""
            samples = _parsed(text)
            _note(samples, entity, figures, failed=failed)
            files.write_atomically(path, _exposition(samples))


class OpenTelemetryMetrics:
    """Metrics of OpenTelemetry, `embeddings.run.…` with the names of the file, exported when a run
    ends. The provider is made once for a process, when the first run ends."""

    name = "OTEL_METRICS_EXPORTER"

    def __init__(self, provider: Callable[[], MeterProvider]) -> None:
        self._provider = provider

    def record(self, entity: str, figures: Figures | None, *, failed: bool) -> None:
        """Export the figures of a run. Raises ConfigurationError for an unknown exporter, and
        EmbeddingsError where the receiver does not answer in time."""
        instruments = _instruments(self._provider())
        _note(instruments.samples, entity, figures, failed=failed)
        try:
            # a worker's process may end without the exit handlers of Python
            deadline.call_blocking(instruments.provider.force_flush, _EXPORT_SECONDS)
        except TimeoutError:
            raise EmbeddingsError(
                f"the receiver did not answer within {_EXPORT_SECONDS:g} seconds"
            ) from None


class _Instruments:
    """The instruments of a provider, which report the samples whenever it collects."""

    def __init__(self, provider: MeterProvider) -> None:
        self.provider = provider
        self.samples: _Samples = {}
        meter = provider.get_meter("embeddings_pipeline")
        for name, (kind, description) in _METRICS.items():
            create = {
                "counter": meter.create_observable_counter,
                "gauge": meter.create_observable_gauge,
            }[kind]
            create(
                # exporters for Prometheus add the ending of counters
                f"embeddings.run.{name.removesuffix('_total')}",
                [partial(self._observed, name)],
                unit="s" if name.endswith("_seconds") else "",
                description=description,
            )

    def _observed(self, name: str, options: CallbackOptions) -> list[Observation]:
        from opentelemetry.metrics import Observation

        return [
            Observation(value, dict(labels))
            # other threads note runs meanwhile
            for (metric, labels), value in [*self.samples.items()]
            if metric == name
        ]


_instruments = cache(_Instruments)


def opentelemetry_installed() -> bool:
    """Whether the SDK is there; the package of its API alone exports nothing."""
    try:
        return find_spec("opentelemetry.sdk") is not None
    except ModuleNotFoundError:
        return False


@cache
def configured_provider(exporter: str, protocol: str) -> MeterProvider:
    """The provider that the program has set, or one of our own with this exporter. The SDK reads
    its further variables, OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_RESOURCE_ATTRIBUTES and others.

    Raises ConfigurationError for an exporter that is not installed.
    """
    from opentelemetry import metrics
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    given = metrics.get_meter_provider()
    if isinstance(given, MeterProvider):
        return given
    name = _OTLP.get(protocol, protocol) if exporter == "otlp" else exporter
    found = {point.name: point for point in entry_points(group="opentelemetry_metrics_exporter")}
    if name not in found:
        raise ConfigurationError(
            f"no metrics exporter {name!r} of OpenTelemetry is installed"
            f" (installed: {', '.join(found)}): set OTEL_METRICS_EXPORTER and"
            " OTEL_EXPORTER_OTLP_PROTOCOL to one of these, or install its package"
        )
    reader = PeriodicExportingMetricReader(found[name].load()())
    # each run exports its own figures; once more would wait for a receiver that is away
    return MeterProvider([reader], shutdown_on_exit=False)


def _note(samples: _Samples, entity: str, figures: Figures | None, *, failed: bool) -> None:
    own = ("entity", entity)
    if figures:
        for name, labels in [*samples]:
            if name == "stage_seconds" and own in labels:
                del samples[name, labels]
        for name, value in {
            "rows": figures.rows,
            "texts_encoded": figures.encoded,
            "chunks_reused": figures.reused,
            "tokens": figures.tokens,
            "cost_usd": figures.cost_usd,
            "pending_chunks": figures.pending,
            "lag_seconds": figures.lag_seconds,
            "quarantined_rows": figures.quarantined,
        }.items():
            samples[name, (own,)] = value
        for stage, seconds in figures.stages.items():
            samples["stage_seconds", (own, ("stage", stage))] = seconds
    samples["failed", (own,)] = int(failed)
    samples["failures_total", (own,)] = samples.get(("failures_total", (own,)), 0) + failed
    if not failed:
        samples["last_success_timestamp_seconds", (own,)] = time.time()


# https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
_LABEL = re.compile(r'(\w+)="((?:\\.|[^"\\])*)",?')
_SAMPLE = re.compile(rf"{_PREFIX}(\w+)\{{((?:{_LABEL.pattern})+)\}} (\d\S*)")
_ESCAPES = {"\\": "\\\\", "\n": "\\n", '"': '\\"'}
_ESCAPED = {escape: character for character, escape in _ESCAPES.items()}


def _parsed(text: str) -> _Samples:
    """The samples of a file of ours; lines that are not of it are left out."""
    samples: _Samples = {}
    for line in text.split("\n"):
        sample = _SAMPLE.fullmatch(line)
        if sample is None or sample[1] not in _METRICS:
            continue
        labels = tuple((name, _unescaped(value)) for name, value in _LABEL.findall(sample[2]))
        try:
            samples[sample[1], labels] = float(sample[sample.re.groups])
        except ValueError:
            continue
    return samples


def _exposition(samples: _Samples) -> str:
    lines = []
    for name, (kind, what) in _METRICS.items():
        lines += [f"# HELP {_PREFIX}{name} {what}", f"# TYPE {_PREFIX}{name} {kind}"]
        for (metric, labels), value in sorted(samples.items()):
            if metric == name:
                written = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels)
                lines.append(f"{_PREFIX}{name}{{{written}}} {_number(value)}")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return re.sub(r'[\\\n"]', lambda character: _ESCAPES[character[0]], text)


def _unescaped(text: str) -> str:
    return re.sub(r"\\.", lambda escape: _ESCAPED.get(escape[0], escape[0]), text)


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))
