"""The figures of runs as metrics of OpenTelemetry, exported by its SDK to a receiver on this
machine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from embeddings_pipeline.errors import EmbeddingsError
from embeddings_pipeline.pipeline import Pipeline
from embeddings_pipeline.settings import Settings
from embeddings_pipeline.sync import run_metrics
from embeddings_pipeline.sync.run_metrics import configured_provider
from tests.support.declared import manifest_of
from tests.support.dripping import dripping
from tests.support.world import World

messages = pytest.importorskip("opentelemetry.proto.collector.metrics.v1.metrics_service_pb2")


class Receiver(HTTPServer):
    """Takes metrics as the collector of OpenTelemetry does, OTLP over HTTP."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.values: dict[tuple[str, ...], float] = {}
        self.resources: set[tuple[str, str]] = set()


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        assert self.path == "/v1/metrics"
        body = self.rfile.read(int(self.headers["Content-Length"]))
        for resource in messages.ExportMetricsServiceRequest.FromString(body).resource_metrics:
            self.server.resources |= {
                (attribute.key, attribute.value.string_value)
                for attribute in resource.resource.attributes
            }
            for metric in (m for scope in resource.scope_metrics for m in scope.metrics):
                for point in getattr(metric, metric.WhichOneof("data")).data_points:
                    labels = [attribute.value.string_value for attribute in point.attributes]
                    value = getattr(point, point.WhichOneof("value"))
                    self.server.values[(metric.name, *labels)] = value
        self.send_response(200)
        self.end_headers()


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """A receiver that the standard variables name, and an exporter of the test's own."""
    with Receiver() as receiver:
        thread = Thread(target=receiver.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
        monkeypatch.setenv("OTEL_SERVICE_NAME", "nightly")
        yield receiver
        configured_provider("otlp", "http/protobuf").shutdown()
        configured_provider.cache_clear()
        receiver.shutdown()
        thread.join()


@pytest.fixture
def pipeline(world: World) -> Iterator[Pipeline]:
    world.table("id bigint, name text")
    world.insert((1, "pump"), (2, "garden hose"))
    url = world.database.url
    settings = Settings(
        _env_file=None, staging_db_url=url, pgvector_url=url, embedding_model="fake/words"
    )
    with Pipeline(settings, manifest_of("item", id="id")) as pipeline:
        pipeline.encoders.add(world.encoder)
        yield pipeline


def test_a_run_exports_its_figures(receiver: Receiver, pipeline: Pipeline) -> None:
    pipeline.run("item")
    found = receiver.values
    assert found["embeddings.run.rows", "item"] == 2
    assert found["embeddings.run.texts_encoded", "item"] == 2
    assert found["embeddings.run.tokens", "item"] > 0
    assert found["embeddings.run.pending_chunks", "item"] == 0
    assert found["embeddings.run.failures", "item"] == 0
    assert {("embeddings.run.stage_seconds", "item", stage) for stage in ("texts", "encode")} <= {
        *found
    }
    assert ("service.name", "nightly") in receiver.resources


def test_a_failed_run_is_counted(receiver: Receiver, pipeline: Pipeline, world: World) -> None:
    def fail(texts: object) -> None:
        raise RuntimeError("out of memory")

    world.encoder.before = fail
    for _ in range(2):
        with pytest.raises(EmbeddingsError):
            pipeline.run("item")
    assert receiver.values["embeddings.run.failures", "item"] == 2
    assert receiver.values["embeddings.run.failed", "item"] == 1
    assert receiver.values["embeddings.run.pending_chunks", "item"] == 2


def test_a_receiver_that_is_away_fails_no_run(
    receiver: Receiver, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    (run,) = pipeline.run("item")
    assert run.counts["encoded"] == 2


@pytest.mark.parametrize("begin", [b"", b"HTTP/1.1 200 OK\r\nX-More: "])
def test_a_receiver_that_drips_holds_no_run(
    receiver: Receiver,
    pipeline: Pipeline,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    begin: bytes,
) -> None:
    monkeypatch.setattr(run_metrics, "_EXPORT_SECONDS", 0.5)
    with dripping(begin, b"H") as port:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        (run,) = pipeline.run("item")
    assert run.counts["encoded"] == 2
    assert "the receiver did not answer within 0.5 seconds" in caplog.text


def test_an_exporter_that_is_not_installed_is_logged(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "carrier_pigeon")
    pipeline.run("item")
    assert "no metrics exporter 'carrier_pigeon'" in caplog.text
    assert "otlp_proto_http" in caplog.text


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_METRICS_EXPORTER": "none"},
    ],
)
def test_where_it_is_not_configured_the_sdk_is_not_imported(
    variables: dict[str, str], pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert pipeline.run_metrics == []
    code = (
        "import sys; from embeddings_pipeline.pipeline import Pipeline;"
        " from embeddings_pipeline.settings import Settings;"
        " assert Pipeline(Settings(_env_file=None)).run_metrics == [];"
        " print([m for m in sys.modules if m.startswith('opentelemetry.sdk')])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"
