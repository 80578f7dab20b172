"""Answers search requests from the published vector set of an entity."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from threading import Lock
from typing import Protocol, Self, TypeVar

from cachetools import TTLCache
from psycopg import OperationalError
from psycopg.errors import UndefinedTable

from embeddings_pipeline.database import Database
from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.encoders.reranker import Rerankers
from embeddings_pipeline.entities.model import Vector
from embeddings_pipeline.errors import ConfigurationError, NotFound
from embeddings_pipeline.search.freshness import Freshness
from embeddings_pipeline.search.query_vectors import Encode, query_encoder, vector_of
from embeddings_pipeline.search.requests import (
    MAX_COUNTED,
    Answer,
    AnyRequest,
    ImageRequest,
    ListRequest,
    RowList,
    Rows,
    SearchRequest,
    SimilarRequest,
    counted,
    mode_of,
    page_size,
)
from embeddings_pipeline.search.threshold import apply_threshold, bounded
from embeddings_pipeline.settings import Settings
from embeddings_pipeline.store.connection import NoConnection, Postgres
from embeddings_pipeline.store.retry import is_lost_connection
from embeddings_pipeline.store.schema import refuse_unreadable
from embeddings_pipeline.store.search import published as store
from embeddings_pipeline.store.search import session
from embeddings_pipeline.store.search.published import Published
from embeddings_pipeline.store.search.published_search import (
    CountRequest,
    Counts,
    Found,
    Hit,
    Listing,
    PublishedSearch,
    PublishedSetChanged,
    RowQuery,
)

# seconds to wait for a connection, and for a statement; a slower search is of no use
_PATIENCE_SECONDS, STATEMENT_SECONDS = 5, 10
# fewest rows that a re-ranker scores
_MIN_RERANKED = 50
# how many counts of rows by filters are remembered, and for how long
_COUNTS, _COUNT_SECONDS = 1024, 10

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
    `connections` is the size of the connection pool, and `pools` the number of pools of this
    process.
    """

    def __init__(
        self,
        context: SearchContext,
        encode: Encode | None = None,
        *,
        connections: int = 8,
        pools: int = 1,
    ) -> None:
        self._context = context
        self._encode = encode or query_encoder(context.encoders)
        self._database = Postgres(
            context.search_database,
            max_size=connections,
            prepare=session.prepare,
            settings=session.SETTINGS,
            reads=True,
            pools=pools,
            patience=_PATIENCE_SECONDS,
            statement_seconds=STATEMENT_SECONDS,
        )
        self._rerankers = Rerankers(context.settings)
        self._published_sets = PublishedSets(self._database, context.schema)
        self._freshness = Freshness(self._database, context.schema)
        self._known_counts: TTLCache[tuple[object, ...], Counts] = TTLCache(_COUNTS, _COUNT_SECONDS)
        self._counts_lock = Lock()

    def listed(self, request: ListRequest) -> RowList:
        """Return rows in order, without a search.

        Raises ConfigurationError for an unknown entity or column, NotFound where the row `after` is
        gone, psycopg.Error where the database fails.
        """

        def read(published: Published) -> RowList:
            after = None
            if request.after is not None:
                (after,) = published.names.source.canonical_ids([request.after])
            listing = Listing(
                rows=request.top_k,
                filters=request.filters.plain(),
                by=request.sort.by if request.sort else None,
                descending=request.sort is not None and request.sort.order == "desc",
                after=after,
            )
            with self._search_of(published) as search:
                rows = search.listed(listing)
                counts = None
                if wanted := request.counts:
                    query = RowQuery(rows=0, filters=listing.filters)
                    counts = self._counted(request, wanted, published, search, query)
            return RowList(request.entity, rows, **counted(request, counts))

        return self._retry_lost_connection(lambda: self._published_sets.use(request.entity, read))

    def search(self, request: SearchRequest) -> Answer:
        """Return the rows that answer the query best.

        Raises ConfigurationError for an unknown entity, column or model and for an entity without
        published vectors, psycopg.Error where the database fails.
        """

        def query_for(published: Published) -> RowQuery:
            return self._query(
                request,
                vector=self._vector(request, published),
                query=None if request.mode == "dense" else request.query,
            )

        return self._answered(request, query_for)

    def similar(self, request: SimilarRequest) -> Answer:
        """Return the rows nearest to a stored row, without that row.

        Raises as `search` does, and NotFound where the row has no published vector.
        """

        def query_for(published: Published) -> RowQuery:
            (row_id,) = published.names.source.canonical_ids([request.id])
            with self._search_of(published) as search:
                vector = search.vector_of(row_id)
            if vector is None:
                raise NotFound(
                    f"entity {request.entity!r}: row {request.id!r} has no published vector"
                )
            return self._query(request, vector=vector, exclude=row_id)

        return self._answered(request, query_for)

    def by_image(self, request: ImageRequest) -> Answer:
        """Return the rows nearest to an image.

        Raises as `search` does, and ConfigurationError where the image cannot be decoded or the
        entity has no images.
        """

        def query_for(published: Published) -> RowQuery:
            identity = published.vector_set.identity
            return self._query(request, vector=self._encode(identity, request.image))

        return self._answered(request, query_for)

    def rows(self, entity: str, ids: Sequence[str]) -> Rows:
        """Return the published rows with these ids.

        Raises ConfigurationError for an unknown entity and for an id of a wrong type, psycopg.Error
        where the database fails.
        """

        def read(published: Published) -> Rows:
            canonical = published.names.source.canonical_ids(ids)
            with self._search_of(published) as search:
                rows = search.rows(canonical)
            found = {row.id for row in rows}
            missing = [given for given, key in zip(ids, canonical, strict=True) if key not in found]
            return Rows(entity, rows, missing)

        return self._retry_lost_connection(lambda: self._published_sets.use(entity, read))

    def stored_ids(self, entity: str, ids: Sequence[str]) -> dict[str, str]:
        """Return the id of each published row as answers have it, by the id that is given; ids
        without a row are left out.

        Raises as `rows` does.
        """

        def read(published: Published) -> dict[str, str]:
            canonical = published.names.source.canonical_ids(ids)
            with self._search_of(published) as search:
                present = search.present(canonical)
            return {i: key for i, key in zip(ids, canonical, strict=True) if key in present}

        return self._retry_lost_connection(lambda: self._published_sets.use(entity, read))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._freshness.close()
        self._database.close()

    def _answered(self, request: AnyRequest, query_for: Callable[[Published], RowQuery]) -> Answer:
        # before a model encodes the query
        top_k = self._top_k(request)

        def answer(published: Published) -> Answer:
            query = query_for(published)
            with self._search_of(published) as search:
                typed, suggestion = query.query, None
                if typed and isinstance(request, SearchRequest) and request.spelling:
                    suggestion = search.suggestion(typed)
                if suggestion and suggestion.used:
                    query = replace(query, query=suggestion.query)
                found = search.find(query)
                words = found.words if query.query == typed else search.words(typed or "")
                metric = published.vector_set.metric
                hits = apply_threshold(request, self._context.settings, metric, found.hits)
                if request.sort:
                    descending = request.sort.order == "desc"
                    hits = search.sorted(hits, request.sort.by, descending=descending)
                counts = self._counts(request, published, search, query, found, hits)
            if isinstance(request, SearchRequest) and request.rerank:
                hits = self._reranked(request.rerank, request.query or "", hits)
            page = hits[request.offset : request.offset + top_k]
            covered = self._freshness.of(request.entity)
            return Answer(
                entity=request.entity,
                mode=mode_of(request),
                results=self._with_details(request, published, page, query.query),
                coverage=covered.coverage,
                data_lag_seconds=covered.data_lag_seconds,
                model=published.vector_set.model,
                vector_set=published.vector_set.number,
                shortfall=top_k - len(page),
                words=words,
                best_similarity=found.best_similarity,
                suggestion=suggestion,
                **counted(request, counts),
            )

        return self._retry_lost_connection(lambda: self._published_sets.use(request.entity, answer))

    def _query(
        self,
        request: AnyRequest,
        *,
        vector: Vector | None = None,
        query: str | None = None,
        exclude: str | None = None,
    ) -> RowQuery:
        rows = request.offset + self._top_k(request)
        if request.sort:
            rows = request.sort.among
        elif isinstance(request, SearchRequest) and request.rerank:
            rows = max(rows, _MIN_RERANKED)
        return RowQuery(
            rows=rows,
            vector=vector,
            query=query,
            filters=request.filters.plain(),
            exclude=exclude,
            exact=request.exact,
            text_weight=request.text_weight if isinstance(request, SearchRequest) else None,
            counts=request.counts,
            count_to=max(request.count_to, rows),
        )

    def _vector(self, request: SearchRequest, published: Published) -> Vector | None:
        if request.mode == "text":
            return None
        return vector_of(request, published.vector_set.identity, self._encode)

    def _counts(
        self,
        request: AnyRequest,
        published: Published,
        search: PublishedSearch,
        query: RowQuery,
        found: Found,
        hits: Sequence[Hit],
    ) -> Counts | None:
        wanted = query.counts
        if wanted is None:
            return None
        if not (wanted.facets or wanted.histograms) and len(found.hits) < query.rows:
            return Counts(len(hits), exact=True, facets={})
        if query.vector is None:
            counts = found.counts or search.count(query, wanted, query.count_to)
        else:
            counts = self._counted(request, wanted, published, search, query)
        return bounded(counts, request, self._context.settings, query.rows, found.hits, hits)

    def _counted(
        self,
        request: AnyRequest | ListRequest,
        wanted: CountRequest,
        published: Published,
        search: PublishedSearch,
        query: RowQuery,
    ) -> Counts:
        """The counts where the filters alone decide, since every row is near to some degree."""
        filters = sha256(request.filters.model_dump_json(by_alias=True).encode()).digest()
        key = (request.entity, published.version, filters, query.exclude, wanted)
        with self._counts_lock:
            counts = self._known_counts.get(key)
        if counts is None:
            counts = search.count(query, wanted, MAX_COUNTED)
            with self._counts_lock:
                self._known_counts[key] = counts
        return counts

    def _with_details(
        self, request: AnyRequest, published: Published, hits: Sequence[Hit], words: str | None
    ) -> Sequence[Hit]:
        """The hits with what else the request asks for; `words` are those that were searched."""
        highlighted = isinstance(request, SearchRequest) and request.highlight
        if not hits or not (request.columns or request.vectors or highlighted):
            return hits
        if request.columns and not self._context.one_database:
            raise ConfigurationError(
                "columns of the staging model need a staging model in the database of the vectors:"
                " set STAGING_DB_* if it is there, or declare the columns as filters"
            )
        with self._search_of(published) as search:
            if request.columns:
                hits = search.with_columns(hits, request.columns)
            if request.vectors:
                hits = search.with_vectors(hits)
            if isinstance(request, SearchRequest) and request.highlight:
                hits = search.with_highlights(hits, words or request.query or "")
        return hits

    @contextmanager
    def _search_of(self, published: Published) -> Iterator[PublishedSearch]:
        with self._database.connection() as connection:
            yield PublishedSearch(connection, published)

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

    def _reranked(self, model: str, query: str, found: Sequence[Hit]) -> list[Hit]:
        scores = self._rerankers.scores(model, query, [row.text for row in found])
        best = sorted(zip(scores, found, strict=True), key=lambda pair: -pair[0])
        return [replace(row, score=score) for score, row in best]

    def _top_k(self, request: AnyRequest) -> int:
        return page_size(request, self._context.settings.embedding_similarity_top_k)


# tries of a search while other vector sets are published
_TRIES = 5


class PublishedSets:
    """The published vector set of each entity, cached until a search finds that it changed."""

    def __init__(self, database: Postgres, schema: str) -> None:
        self._database = database
        self._schema = schema
        self._known: dict[str, Published] = {}

    def use(self, entity: str, work: Callable[[Published], T]) -> T:
        """Return the result of the work on the published set, done again where another set was
        published meanwhile.

        Raises ConfigurationError for an unknown entity or one without a published set, and the
        errors of the work.
        """
        for _ in range(_TRIES):
            published = self._known.get(entity) or self._read(entity)
            try:
                return work(published)
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
