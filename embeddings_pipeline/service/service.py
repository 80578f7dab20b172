"""The parts of the service, each opened on first use."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Event, RLock
from typing import Annotated

import psycopg
from fastapi import Depends, Request

from embeddings_pipeline.database import Database
from embeddings_pipeline.entities.model import ModelIdentity
from embeddings_pipeline.errors import (
    ConfigurationError,
    EmbeddingsError,
    RunNeeded,
    Unavailable,
)
from embeddings_pipeline.pipeline import Pipeline
from embeddings_pipeline.search.requests import (
    Answer,
    ImageRequest,
    ListRequest,
    RowList,
    Rows,
    SearchRequest,
    SimilarRequest,
)
from embeddings_pipeline.search.searcher import Searcher
from embeddings_pipeline.service.documents import DocumentSync
from embeddings_pipeline.service.metrics import Gauges, Metrics
from embeddings_pipeline.service.models import Models
from embeddings_pipeline.service.schemas import Health, Part
from embeddings_pipeline.service.state import State
from embeddings_pipeline.store.connection import CONNECTIONS_OF_SERVICE, Postgres, replica_lag
from embeddings_pipeline.store.schema import refuse_unreadable

_PATIENCE_SECONDS, _STATEMENT_SECONDS = 5, 10
_WARM_AGAIN_SECONDS = 2
_SIZES = CONNECTIONS_OF_SERVICE

logger = logging.getLogger(__name__)


class Service:
    """Answers requests. Thread-safe. The caller closes the pipeline, unless the service `owns` it.

    A database that is down at the start is tried again by later requests.
    """

    def __init__(self, pipeline: Pipeline, *, owns: bool = False) -> None:
        self.pipeline = pipeline
        self._owns = owns
        self.stopping = Event()
        self.counters = Metrics()
        self.state = State(pipeline, self.database)
        self.models = Models(pipeline, self.state.live_sets, self.counters)
        self.documents = DocumentSync(pipeline, self.writable, self.stopping)
        self.counters.state.register(Gauges(self.state.stats))
        self._read: Postgres | None = None
        self._written: Postgres | None = None
        self._searcher: Searcher | None = None
        self._lock = RLock()

    def database(self) -> Postgres:
        """Return the connection pool for what the service reads. Raises Unavailable without a
        database, and RunNeeded before the first run."""
        with self._opening():
            if self._read is None:
                self._read = self._open(self.pipeline.search_database, _SIZES.state, reads=True)
            return self._read

    def writable(self) -> Postgres:
        """Return the connection pool for documents. Raises as `database` does, and ReadOnly behind
        a pooler that keeps no sessions."""
        with self._opening():
            if self._written is None:
                self._written = self._open(
                    self.pipeline.vectors_database, _SIZES.documents, reads=False
                )
            return self._written

    def _open(self, database: Database, connections: int, *, reads: bool) -> Postgres:
        opened = Postgres(
            database,
            max_size=connections,
            reads=reads,
            pools=len(_SIZES),
            patience=_PATIENCE_SECONDS,
            statement_seconds=_STATEMENT_SECONDS,
        )
        try:
            with opened.connection() as connection:
                refuse_unreadable(connection, self.pipeline.schema)
        except Exception:
            opened.close()
            raise
        return opened

    def searcher(self) -> Searcher:
        """Return the searcher. Raises Unavailable without a database."""
        with self._opening():
            if self._searcher is None:
                self._searcher = Searcher(
                    self.pipeline,
                    self.models.vector_of,
                    connections=_SIZES.searches,
                    pools=len(_SIZES),
                )
            return self._searcher

    def search(self, request: SearchRequest) -> Answer:
        """Answer a search, and count it. Raises as `Searcher.search` does."""
        choices = self.pipeline.settings.search_rerankers
        if request.rerank is not None and request.rerank not in choices:
            names = ", ".join(choices) or "none"
            raise ConfigurationError(
                f"rerank: {request.rerank!r} is not in SEARCH_RERANKERS ({names})"
            )
        started = time.perf_counter()
        answer = self.searcher().search(request)
        self._count(answer, request.mode, started)
        return answer

    def similar(self, request: SimilarRequest) -> Answer:
        """Answer a search for similar rows, and count it. Raises as `Searcher.similar` does."""
        started = time.perf_counter()
        answer = self.searcher().similar(request)
        self._count(answer, "similar", started)
        return answer

    def by_image(self, request: ImageRequest) -> Answer:
        """Answer a search by an image, and count it. Raises as `Searcher.by_image` does."""
        started = time.perf_counter()
        answer = self.searcher().by_image(request)
        self._count(answer, "image", started)
        return answer

    def listed(self, request: ListRequest) -> RowList:
        """Return rows in order. Raises as `Searcher.listed` does."""
        return self.searcher().listed(request)

    def rows(self, entity: str, ids: Sequence[str]) -> Rows:
        """Return rows by their ids. Raises as `Searcher.rows` does."""
        return self.searcher().rows(entity, ids)

    def health(self) -> Health:
        """Return whether the service can answer, and the state of each part.

        The service is ready while the database answers and one of the published models is loaded:
        a missing model of one entity does not stop searches of others.
        """
        try:
            # the pool checks a connection before handing it out
            with self.database().connection() as connection:
                lag = replica_lag(connection)
            live = self.state.live_sets()
        except RunNeeded as error:
            missing = Part.missing("published vectors", str(error))
            return Health(ready=False, parts=[Part(part="database", ready=True), missing])
        except (EmbeddingsError, psycopg.Error):
            return Health(ready=False, parts=[Part.missing("database", "does not answer")])
        detail = None if lag is None else f"a replica, {lag:.1f} seconds behind"
        parts = [Part(part="database", ready=True, detail=detail)]
        if not live:
            parts.append(Part.missing("published vectors", "run `embeddings-pipeline run` first"))
        identities = dict.fromkeys(vector_set.identity for vector_set in live)
        models = [self._part(identity) for identity in identities]
        return Health(ready=any(model.ready for model in models), parts=[*parts, *models])

    def metrics(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return self.counters.exposition()

    def warm(self) -> None:
        """Open the database and load the published models; repeat until a model is loaded."""
        while not self.stopping.is_set() and not self._warmed():
            self.stopping.wait(_WARM_AGAIN_SECONDS)

    def close(self) -> None:
        """Close the open parts, after the last request."""
        self.stopping.set()
        if self._searcher is not None:
            self._searcher.close()
        for opened in (self._read, self._written):
            if opened is not None:
                opened.close()
        self.models.close()
        if self._owns:
            self.pipeline.close()

    def _warmed(self) -> bool:
        try:
            self.searcher()
            live = self.state.live_sets()
        except (EmbeddingsError, psycopg.Error) as error:
            logger.warning("not ready yet: %s", error)
            return False
        except Exception:
            # the thread must go on, for example after too many open files
            logger.exception("not ready yet")
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
            # go on with the models of other entities
            logger.exception("not ready yet: model %s", identity.model)
            return False
        return True

    def _part(self, identity: ModelIdentity) -> Part:
        name = f"model {identity.model}"
        if identity in self.models.loaded:
            return Part(part=name, ready=True)
        return Part.missing(name, "not loaded")

    @contextmanager
    def _opening(self) -> Iterator[None]:
        """Let one thread open the database; the others wait for a limited time.

        Raises Unavailable where the database is still being opened after that time.
        """
        if not self._lock.acquire(timeout=_PATIENCE_SECONDS):
            raise Unavailable(
                f"the database did not open within {_PATIENCE_SECONDS} s: try again later"
            )
        try:
            yield
        finally:
            self._lock.release()

    def _count(self, answer: Answer, mode: str, started: float) -> None:
        seconds = time.perf_counter() - started
        self.counters.searched(answer.entity, mode, seconds, len(answer.results))


# async, since FastAPI runs a plain function in another thread
async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


CurrentService = Annotated[Service, Depends(_service)]
