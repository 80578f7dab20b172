"""Answers search requests from the published vector set of an entity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol, Self, TypeVar

from psycopg import OperationalError
from psycopg.errors import UndefinedTable

from embeddings_pipeline.database import Database
from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.encoders.reranker import Rerankers
from embeddings_pipeline.entities.model import Vector
from embeddings_pipeline.errors import ConfigurationError, NotFound
from embeddings_pipeline.search.freshness import Freshness
from embeddings_pipeline.search.query_vectors import Encode, query_encoder
from embeddings_pipeline.search.requests import (
    Answer,
    AnyRequest,
    ImageRequest,
    Mode,
    Rows,
    SearchRequest,
    SimilarRequest,
)
from embeddings_pipeline.search.threshold import apply_threshold
from embeddings_pipeline.settings import Settings
from embeddings_pipeline.store.connection import NoConnection, Postgres
from embeddings_pipeline.store.retry import is_lost_connection
from embeddings_pipeline.store.schema import refuse_unreadable
from embeddings_pipeline.store.search import published as store
from embeddings_pipeline.store.search import session
from embeddings_pipeline.store.search.published import Published
from embeddings_pipeline.store.search.published_search import (
    Hit,
    PublishedSearch,
    PublishedSetChanged,
    RowQuery,
)

# seconds to wait for a connection, and for a statement; a slower search is of no use
_PATIENCE_SECONDS, STATEMENT_SECONDS = 5, 10
# fewest rows that a re-ranker scores
_MIN_RERANKED = 50

T = TypeVar("T")


class SearchContext(Protocol):
    """What a searcher needs: settings, encoders, and the database of the vectors. A `Pipeline` is
    one."""

    settings: Settings
    encoders: Encoders

    @property
    def search_database(self) -> Database: ...

    @property
    def schema(self) -> str: ...

    @property
    def one_database(self) -> bool: ...


class Searcher:
    """Searches entities. Thread-safe. Close a searcher or use it in a `with`.

    `encode` may batch the queries of concurrent requests; the default encodes each by itself.
    `connections` is the size of the connection pool.
    """

    def __init__(
        self, context: SearchContext, encode: Encode | None = None, *, connections: int = 8
    ) -> None:
        self._context = context
        self._encode = encode or query_encoder(context.encoders)
        self._database = Postgres(
            context.search_database,
            max_size=connections,
            prepare=session.prepare,
            settings=session.SETTINGS,
            reads=True,
            patience=_PATIENCE_SECONDS,
            statement_seconds=STATEMENT_SECONDS,
        )
        self._rerankers = Rerankers(context.settings)
        self._published_sets = PublishedSets(self._database, context.schema)
        self._freshness = Freshness(self._database, context.schema)

    def search(self, request: SearchRequest) -> Answer:
        """Return the rows that answer the query best.

        Raises ConfigurationError for an unknown entity, column or model and for an entity without
        published vectors, psycopg.Error where the database fails.
        """
        return self._retry_lost_connection(lambda: self._search(request))

    def similar(self, request: SimilarRequest) -> Answer:
        """Return the rows nearest to a stored row, without that row.

        Raises as `search` does, and NotFound where the row has no published vector.
        """

        def query_for(published: Published) -> RowQuery:
            (row_id,) = published.names.source.canonical_ids([request.id])
            with self._database.connection() as connection:
                vector = PublishedSearch(connection, published).vector_of(row_id)
            if vector is None:
                raise NotFound(
                    f"entity {request.entity!r}: row {request.id!r} has no published vector"
                )
            return self._near(request, vector, exclude=row_id)

        return self._retry_lost_connection(lambda: self._nearest(request, query_for))

    def by_image(self, request: ImageRequest) -> Answer:
        """Return the rows nearest to an image.

        Raises as `search` does, and ConfigurationError where the image cannot be decoded or the
        entity has no images.
        """

        def query_for(published: Published) -> RowQuery:
            identity = published.vector_set.identity
            return self._near(request, self._encode(identity, request.image))

        return self._retry_lost_connection(lambda: self._nearest(request, query_for))

    def rows(self, entity: str, ids: Sequence[str]) -> Rows:
        """Return the published rows with these ids.

        Raises ConfigurationError for an unknown entity and for an id of a wrong type, psycopg.Error
        where the database fails.
        """

        def read() -> Rows:
            with self._database.connection() as connection:
                published = store.read(connection, self._context.schema, entity)
                canonical = published.names.source.canonical_ids(ids)
                rows = PublishedSearch(connection, published).rows(canonical)
            found = {row.id for row in rows}
            missing = [given for given, key in zip(ids, canonical, strict=True) if key not in found]
            return Rows(entity, rows, missing)

        return self._retry_lost_connection(read)

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

        def query_for(published: Published) -> RowQuery:
            identity = published.vector_set.identity
            return RowQuery(
                rows=max(rows, _MIN_RERANKED) if request.rerank else rows,
                vector=None if request.mode == "text" else self._encode(identity, request.query),
                query=None if request.mode == "dense" else request.query,
                filters=request.plain_filters(),
                exact=request.exact,
            )

        published, found = self._published_sets.find(request.entity, query_for)
        if request.mode == "dense":
            metric = published.vector_set.metric
            found = apply_threshold(request, self._context.settings, metric, found)
        if request.rerank:
            found = self._reranked(request.rerank, request.query, found)[:rows]
        return self._answer(request, request.mode, published, found)

    def _near(self, request: AnyRequest, vector: Vector, exclude: str | None = None) -> RowQuery:
        return RowQuery(
            rows=self._rows(request),
            vector=vector,
            filters=request.plain_filters(),
            exclude=exclude,
            exact=request.exact,
        )

    def _nearest(self, request: AnyRequest, query_for: Callable[[Published], RowQuery]) -> Answer:
        published, found = self._published_sets.find(request.entity, query_for)
        metric = published.vector_set.metric
        near = apply_threshold(request, self._context.settings, metric, found)
        return self._answer(request, "dense", published, near)

    def _retry_lost_connection(self, work: Callable[[], T]) -> T:
        """Run the search again with new connections where a pooled connection was lost."""
        try:
            return work()
        except OperationalError as error:
            # a timeout for a connection is not repeated
            if isinstance(error, NoConnection) or not is_lost_connection(error):
                raise
            self._database.renew()
            return work()

    def _answer(
        self,
        request: AnyRequest,
        mode: Mode,
        published: Published,
        found: Sequence[Hit],
    ) -> Answer:
        covered = self._freshness.of(request.entity)
        return Answer(
            entity=request.entity,
            mode=mode,
            results=self._with_columns(published, request.columns, found),
            coverage=covered.coverage,
            data_lag_seconds=covered.data_lag_seconds,
            model=published.vector_set.model,
            vector_set=published.vector_set.number,
            shortfall=self._rows(request) - len(found),
        )

    def _with_columns(
        self, published: Published, columns: Sequence[str], found: Sequence[Hit]
    ) -> Sequence[Hit]:
        if not columns:
            return found
        if not self._context.one_database:
            raise ConfigurationError(
                "columns of the staging model need a staging model in the database of the vectors:"
                " declare the columns as filters"
            )
        with self._database.connection() as connection:
            return PublishedSearch(connection, published).with_columns(found, columns)

    def _reranked(self, model: str, query: str, found: Sequence[Hit]) -> list[Hit]:
        scores = self._rerankers.scores(model, query, [row.text for row in found])
        best = sorted(zip(scores, found, strict=True), key=lambda pair: -pair[0])
        return [replace(row, score=score) for score, row in best]

    def _rows(self, request: AnyRequest) -> int:
        return request.top_k or self._context.settings.embedding_similarity_top_k


# tries of a search while other vector sets are published
_TRIES = 5


class PublishedSets:
    """The published vector set of each entity, cached until a search finds that it changed."""

    def __init__(self, database: Postgres, schema: str) -> None:
        self._database = database
        self._schema = schema
        self._known: dict[str, Published] = {}

    def find(
        self, entity: str, query_for: Callable[[Published], RowQuery]
    ) -> tuple[Published, Sequence[Hit]]:
        """Return the published set that was searched, and the rows found by `query_for(set)`.

        Raises ConfigurationError for an unknown entity or one without a published set, and the
        errors of `query_for`.
        """
        for _ in range(_TRIES):
            published = self._known.get(entity) or self._read(entity)
            try:
                query = query_for(published)
                with self._database.connection() as connection:
                    return published, PublishedSearch(connection, published).find(query)
            except (PublishedSetChanged, UndefinedTable):
                self._known.pop(entity, None)
            except ConfigurationError:
                # a cached set that has changed may be the cause
                if self._read(entity).version == published.version:
                    raise
        raise ConfigurationError(
            f"entity {entity!r} was published {_TRIES} times during the search: try again later"
        )

    def _read(self, entity: str) -> Published:
        with self._database.connection() as connection:
            refuse_unreadable(connection, self._schema)
            published = store.read(connection, self._schema, entity)
        self._known[entity] = published
        return published
