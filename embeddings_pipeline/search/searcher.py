"""Answers search requests from the live vector set of an entity, while another may be published."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol, Self

from psycopg import OperationalError
from psycopg.errors import UndefinedTable

from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.encoders.reranker import Rerankers
from embeddings_pipeline.entities.model import Vector
from embeddings_pipeline.errors import ConfigurationError, NotFound
from embeddings_pipeline.search.find import MovedError, Wanted, find, near_enough
from embeddings_pipeline.search.freshness import Freshness
from embeddings_pipeline.search.query_vectors import Encode, encode_one
from embeddings_pipeline.search.requests import (
    Answer,
    AnyRequest,
    Hit,
    ImageRequest,
    Mode,
    SearchRequest,
    SimilarRequest,
)
from embeddings_pipeline.settings import Settings
from embeddings_pipeline.store.connection import NoConnection, Postgres
from embeddings_pipeline.store.retry import is_lost_connection
from embeddings_pipeline.store.search import hybrid, session
from embeddings_pipeline.store.search import published as store
from embeddings_pipeline.store.search.hybrid import Found
from embeddings_pipeline.store.search.published import Published

# a search that cannot be answered by then is of no use to who asked
_PATIENCE_SECONDS, _STATEMENT_SECONDS = 5, 10
# rows that a re-ranker reads, at the least
_RERANKED = 50


class SearchContext(Protocol):
    """What a searcher needs: settings, models, and the database of the vectors. A `Pipeline` has
    them."""

    settings: Settings
    encoders: Encoders

    @property
    def vectors(self) -> Postgres: ...

    @property
    def schema(self) -> str: ...

    @property
    def one_database(self) -> bool: ...


class Searcher:
    """Searches entities; several threads may use one. Close it, or use it in a `with`.

    `encode` may gather the queries of concurrent requests; without it each is encoded by itself.
    """

    def __init__(
        self, context: SearchContext, encode: Encode | None = None, *, connections: int = 8
    ) -> None:
        self._context = context
        self._encode = encode or encode_one(context.encoders)
        self._database = Postgres(
            context.vectors.database,
            max_size=connections,
            prepare=session.prepare,
            patience=_PATIENCE_SECONDS,
            statement_seconds=_STATEMENT_SECONDS,
        )
        self._rerankers = Rerankers(context.settings)
        self._live = LiveSets(self._database, context.schema)
        self._freshness = Freshness(self._database, context.schema)

    def search(self, request: SearchRequest) -> Answer:
        """The rows that answer the query best.

        Raises ConfigurationError where there is no such entity, column or model, or nothing is
        published yet; psycopg.Error where the database fails.
        """
        return self._steadily(lambda: self._search(request))

    def similar(self, request: SimilarRequest) -> Answer:
        """The rows nearest to a stored one, itself left out. Raises as `search` does, and where
        the row has no published vector."""

        def query_for(published: Published) -> RowQuery:
            (row_id,) = published.names.source.canonical_ids([request.id])
            with self._database.connection() as connection:
                vector = hybrid.vector_of(connection, published, row_id)
            if vector is None:
                raise NotFound(
                    f"entity {request.entity!r}: row {request.id!r} has no published vector"
                )
            return self._near(request, vector, without=row_id)

        return self._steadily(lambda: self._nearest(request, wanted))

    def by_image(self, request: ImageRequest) -> Answer:
        """The rows nearest to an image. Raises as `search` does, and ConfigurationError where the
        image cannot be decoded, or the entity has none."""

        def wanted(published: Published) -> Wanted:
            identity = published.vector_set.identity
            return self._near(request, self._encode(identity, request.image))

        return self._steadily(lambda: self._nearest(request, wanted))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._freshness.close()
        self._database.close()

    def _search(self, request: SearchRequest) -> Answer:
        rows = self._rows(request)

        def wanted(published: Published) -> Wanted:
            identity = published.vector_set.identity
            return Wanted(
                rows=max(rows, _RERANKED) if request.rerank else rows,
                vector=None if request.mode == "text" else self._encode(identity, request.query),
                query=None if request.mode == "dense" else request.query,
                filters=request.plain_filters(),
                exact=request.exact,
            )

        published, found = self._live.find(request.entity, wanted)
        if request.mode == "dense":
            metric = published.vector_set.metric
            found = near_enough(request, self._context.settings, metric, found)
        if request.rerank:
            found = self._reranked(request.rerank, request.query, found)[:rows]
        return self._answer(request, request.mode, published, found)

    def _near(self, request: AnyRequest, vector: Vector, without: str | None = None) -> Wanted:
        return Wanted(
            rows=self._rows(request),
            vector=vector,
            filters=request.plain_filters(),
            without=without,
            exact=request.exact,
        )

    def _nearest(self, request: AnyRequest, wanted: Callable[[Published], Wanted]) -> Answer:
        published, found = self._live.find(request.entity, wanted)
        metric = published.vector_set.metric
        near = near_enough(request, self._context.settings, metric, found)
        return self._answer(request, "dense", published, near)

    def _steadily(self, work: Callable[[], Answer]) -> Answer:
        """Once more where a kept connection was lost, as all are when the server restarts."""
        try:
            return work()
        except OperationalError as error:
            # who waited in vain is not made to wait as long again
            if isinstance(error, NoConnection) or not is_lost_connection(error):
                raise
            self._database.renew()
            return work()

    def _answer(
        self,
        request: AnyRequest,
        mode: Mode,
        published: Published,
        found: Sequence[Found],
    ) -> Answer:
        covered = self._freshness.of(request.entity)
        return Answer(
            entity=request.entity,
            mode=mode,
            results=[
                Hit(row.id, row.chunk, row.score, row.text, row.fields)
                for row in self._with_columns(published, request.columns, found)
            ],
            coverage=covered.coverage,
            data_lag_seconds=covered.data_lag_seconds,
            model=published.vector_set.model,
            vector_set=published.vector_set.number,
            shortfall=self._rows(request) - len(found),
        )

    def _with_columns(
        self, published: Published, columns: Sequence[str], found: Sequence[Found]
    ) -> Sequence[Found]:
        if not columns:
            return found
        if not self._context.one_database:
            raise ConfigurationError(
                "columns of the staging model can be asked for only where it is in the database"
                " of the vectors"
            )
        with self._database.connection() as connection:
            return hybrid.with_columns(connection, published, columns, found)

    def _reranked(self, model: str, query: str, found: Sequence[Found]) -> list[Found]:
        scores = self._rerankers.scores(model, query, [row.text for row in found])
        best = sorted(zip(scores, found, strict=True), key=lambda pair: -pair[0])
        return [replace(row, score=score) for score, row in best]

    def _rows(self, request: AnyRequest) -> int:
        return request.top_k or self._context.settings.embedding_similarity_top_k


# what is published may move while it is searched, but not again and again
_TRIES = 5


class LiveSets:
    """The live vector set of each entity, remembered until a search meets another in its place."""

    def __init__(self, database: Postgres, schema: str) -> None:
        self._database = database
        self._schema = schema
        self._known: dict[str, Published] = {}

    def find(
        self, entity: str, wanted: Callable[[Published], Wanted]
    ) -> tuple[Published, Sequence[Found]]:
        """What was searched, and what was found there of what is `wanted` of it.

        Raises ConfigurationError where there is no such entity, or nothing is published yet, and
        what `wanted` raises.
        """
        for _ in range(_TRIES):
            published = self._known.get(entity) or self._read(entity)
            try:
                asked = wanted(published)
                with self._database.connection() as connection:
                    return published, find(connection, published, asked)
            except (MovedError, UndefinedTable):
                self._known.pop(entity, None)
            except ConfigurationError:
                # what was known of the entity may be at fault
                if self._read(entity).version == published.version:
                    raise
        raise ConfigurationError(f"entity {entity!r} is published anew again and again: try later")

    def _read(self, entity: str) -> Published:
        with self._database.connection() as connection:
            published = store.read(connection, self._schema, entity)
        self._known[entity] = published
        return published
