"""What answers: the parts of the service, opened when they are first needed."""

from __future__ import annotations

import time
from threading import Lock
from typing import Annotated

from fastapi import Depends, Request
from prometheus_client import generate_latest

from embeddings_pipeline.engine import Engine
from embeddings_pipeline.search.metrics import Metrics
from embeddings_pipeline.search.models import Models
from embeddings_pipeline.search.requests import Answer, SearchRequest, SimilarRequest
from embeddings_pipeline.search.schemas_state import Health
from embeddings_pipeline.search.searcher import Searcher
from embeddings_pipeline.search.state import State


class Service:
    """Answers requests; many threads use one. The engine stays the caller's to close.

    A database that is not there at the start is one that a later request may find.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.counted = Metrics()
        self.models = Models(engine.encoders, self.counted)
        self.state = State(engine)
        self._searcher: Searcher | None = None
        self._lock = Lock()

    @property
    def searcher(self) -> Searcher:
        """Searches. Raises Unavailable where the database is."""
        with self._lock:
            if self._searcher is None:
                self._searcher = Searcher(self.engine, self.models.vector_of)
            return self._searcher

    def search(self, request: SearchRequest) -> Answer:
        """Answer a search, and count it. Raises as `Searcher.search` does."""
        started = time.perf_counter()
        answer = self.searcher.search(request)
        self._count(answer, request.mode, started)
        return answer

    def similar(self, request: SimilarRequest) -> Answer:
        """Answer what is similar, and count it. Raises as `Searcher.similar` does."""
        started = time.perf_counter()
        answer = self.searcher.similar(request)
        self._count(answer, "similar", started)
        return answer

    def health(self) -> Health:
        """What is there and what is missing."""
        return Health(ready=True, parts=[])

    def metrics(self) -> bytes:
        """All that Prometheus is told."""
        return generate_latest(self.counted.registry)

    def close(self) -> None:
        """Close what was opened, after the requests."""
        if self._searcher is not None:
            self._searcher.close()
        self.models.close()

    def _count(self, answer: Answer, mode: str, started: float) -> None:
        seconds = time.perf_counter() - started
        self.counted.searched(answer.entity, mode, seconds, len(answer.results))


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Asked = Annotated[Service, Depends(_service)]
