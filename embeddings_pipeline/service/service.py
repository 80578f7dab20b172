"""What answers: the parts of the service, opened when they are first needed."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, RLock
from typing import Annotated

import psycopg
from fastapi import Depends, Request
from prometheus_client import generate_latest

from embeddings_pipeline.entities.model import ModelIdentity
from embeddings_pipeline.errors import ConfigurationError, EmbeddingsError, Unavailable
from embeddings_pipeline.pipeline import Pipeline
from embeddings_pipeline.search.requests import (
    Answer,
    ImageRequest,
    SearchRequest,
    SimilarRequest,
)
from embeddings_pipeline.search.searcher import Searcher
from embeddings_pipeline.service.documents import DocumentSync
from embeddings_pipeline.service.metrics import Gauges, Metrics
from embeddings_pipeline.service.models import Models
from embeddings_pipeline.service.schemas import Health, Part
from embeddings_pipeline.service.state import State
from embeddings_pipeline.store.connection import Postgres

_PATIENCE_SECONDS, _STATEMENT_SECONDS = 5, 10
_WARM_AGAIN_SECONDS = 2

logger = logging.getLogger(__name__)


class Service:
    """Answers requests; many threads use one. The pipeline stays the caller's to close.

    A database that is not there at the start is one that a later request may find.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.stopping = Event()
        self.counted = Metrics()
        self.state = State(pipeline, self.database)
        self.models = Models(pipeline, self.state.live_sets, self.counted)
        self.documents = DocumentSync(pipeline, self.database, self.stopping)
        self.counted.registry.register(Gauges(self.state.stats))
        self._opened: Postgres | None = None
        self._searcher: Searcher | None = None
        self._lock = RLock()

    def database(self) -> Postgres:
        """Connections to read the state by. Raises Unavailable where there is no database."""
        with self._alone():
            if self._opened is None:
                self._opened = Postgres(
                    self.pipeline.vectors.database,
                    max_size=4,
                    patience=_PATIENCE_SECONDS,
                    statement_seconds=_STATEMENT_SECONDS,
                )
            return self._opened

    def searcher(self) -> Searcher:
        """Searches. Raises Unavailable where there is no database."""
        with self._alone():
            if self._searcher is None:
                self._searcher = Searcher(self.pipeline, self.models.vector_of)
            return self._searcher

    def search(self, request: SearchRequest) -> Answer:
        """Answer a search, and count it. Raises as `Searcher.search` does."""
        choices = self.pipeline.settings.search_rerankers
        if request.rerank is not None and request.rerank not in choices:
            named = ", ".join(choices) or "none"
            raise ConfigurationError(f"rerank: {request.rerank!r} is none of these: {named}")
        started = time.perf_counter()
        answer = self.searcher().search(request)
        self._count(answer, request.mode, started)
        return answer

    def similar(self, request: SimilarRequest) -> Answer:
        """Answer what is similar, and count it. Raises as `Searcher.similar` does."""
        started = time.perf_counter()
        answer = self.searcher().similar(request)
        self._count(answer, "similar", started)
        return answer

    def by_image(self, request: ImageRequest) -> Answer:
        """Answer what is near to an image, and count it. Raises as `Searcher.by_image` does."""
        started = time.perf_counter()
        answer = self.searcher().by_image(request)
        self._count(answer, "image", started)
        return answer

    def health(self) -> Health:
        """What is there and what is missing.

        It is ready while the database answers and one of the published models is loaded: one
        entity whose model is gone keeps no other from being searched.
        """
        try:
            # the pool asks a connection for a sign of life before it lends it
            with self.database().connection():
                pass
            live = self.state.live_sets()
        except (EmbeddingsError, psycopg.Error):
            return Health(ready=False, parts=[Part.missing("database", "it does not answer")])
        parts = [Part(part="database", ready=True)]
        if not live:
            parts.append(Part.missing("published vectors", "run `embeddings-pipeline run` first"))
        identities = dict.fromkeys(vector_set.identity for vector_set in live)
        models = [self._part(identity) for identity in identities]
        return Health(ready=any(model.ready for model in models), parts=[*parts, *models])

    def metrics(self) -> bytes:
        """All that Prometheus is told."""
        return generate_latest(self.counted.registry)

    def warm(self) -> None:
        """Open the database and load the published models, as soon as there are some."""
        while not self.stopping.is_set() and not self._warmed():
            self.stopping.wait(_WARM_AGAIN_SECONDS)

    def close(self) -> None:
        """Close what was opened, after the requests."""
        self.stopping.set()
        if self._searcher is not None:
            self._searcher.close()
        if self._opened is not None:
            self._opened.close()
        self.models.close()

    def _warmed(self) -> bool:
        try:
            self.searcher()
            live = self.state.live_sets()
        except (EmbeddingsError, psycopg.Error) as error:
            logger.warning("not ready yet: %s", error)
            return False
        loaded = [self._loads(v.identity) for v in live]
        return bool(loaded) and all(loaded)

    def _loads(self, identity: ModelIdentity) -> bool:
        try:
            self.models.load(identity)
        except Unavailable as error:
            logger.warning("not ready yet: %s", error)
            return False
        except Exception:
            # the models of other entities are still to be loaded
            logger.exception("not ready yet: model %s", identity.model)
            return False
        return True

    def _part(self, identity: ModelIdentity) -> Part:
        name = f"model {identity.model}"
        if identity in self.models.loaded:
            return Part(part=name, ready=True)
        return Part.missing(name, "it is not loaded")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One thread opens the database; others do not wait for ever in its line."""
        if not self._lock.acquire(timeout=_PATIENCE_SECONDS):
            raise Unavailable("the database is being waited for")
        try:
            yield
        finally:
            self._lock.release()

    def _count(self, answer: Answer, mode: str, started: float) -> None:
        seconds = time.perf_counter() - started
        self.counted.searched(answer.entity, mode, seconds, len(answer.results))


# no `def`: each of those takes a request to another thread and back
async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Asked = Annotated[Service, Depends(_service)]
