"""The routes of the service: search, state, encoding and documents."""

from __future__ import annotations

import json
from inspect import signature
from typing import Annotated, Any, Literal, TypeVar

import psycopg
from anyio.from_thread import check_cancelled
from fastapi import APIRouter, Body, Depends, HTTPException, Path, Query, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import TypeAdapter

from embeddings_pipeline.encoders.encoder import Encodings, Kind
from embeddings_pipeline.encoders.images.decoding import FORMATS
from embeddings_pipeline.entities.fields import MAX_ID_BYTES
from embeddings_pipeline.entities.model import ModelIdentity
from embeddings_pipeline.errors import ConfigurationError, EmbeddingsError, Unavailable
from embeddings_pipeline.search.requests import (
    COUNTED_WORDS,
    MAX_COUNTED,
    MAX_FACETS,
    MAX_QUERY,
    MAX_ROWS,
    MAX_TOP_K,
    Answer,
    ImageRequest,
    ListRequest,
    Mode,
    Name,
    RowList,
    Rows,
    SearchRequest,
    SimilarRequest,
    Word,
)
from embeddings_pipeline.service import examples, problems
from embeddings_pipeline.service.auth import count_searches, count_texts, reader, writer
from embeddings_pipeline.service.bodies import (
    content_type,
    documented,
    read_body,
    require_json,
    validated,
)
from embeddings_pipeline.service.middleware import allow_body
from embeddings_pipeline.service.queues import CurrentQueues
from embeddings_pipeline.service.schemas import (
    BatchBody,
    Documents,
    DocumentsBody,
    Embedding,
    Embeddings,
    EmbedMetrics,
    Entities,
    Health,
    Id,
    Live,
    Model,
    Models,
    Part,
    Searches,
    SearchesBody,
    SearchResult,
    Stats,
    TextBody,
)
from embeddings_pipeline.service.service import CurrentService, Service

T = TypeVar("T")
_TYPES = [f"image/{kind.lower()}" for kind in FORMATS]
# for the OpenAPI document: FastAPI describes only bodies that it parses itself
IMAGE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The file itself, of at most EMBEDDING_IMAGE_MAX_BYTES (20 MiB).",
        "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in _TYPES},
    }
}


async def _image(request: Request, service: CurrentService) -> bytes:
    """Read the body, after the key was checked. Raises HTTPException 400, 413 or 415."""
    kind = content_type(request)
    # another site's page cannot send these types without a CORS preflight
    if kind not in _TYPES:
        raise HTTPException(
            415, f"Content-Type {kind!r} is not supported (types: {', '.join(_TYPES)})"
        )
    allow_body(request, service.pipeline.settings.embedding_image_max_bytes)
    return await read_body(request)


Image = Annotated[bytes, Depends(_image)]


async def _is_json(request: Request) -> None:
    require_json(request)


_JSON = Depends(_is_json)

_ANSWER_ADAPTER = TypeAdapter(Answer)
_ROWS_ADAPTER = TypeAdapter(Rows)
_LIST_ADAPTER = TypeAdapter(RowList)

search_router = APIRouter(
    tags=["search"],
    dependencies=[Depends(reader)],
    responses=problems.responses(401, 403, 404, 409, 422, 429, 503),
)

Entity = Annotated[str, Path(max_length=63, examples=["clip"])]
TopK = Annotated[int | None, Query(ge=1, le=MAX_TOP_K)]
Filters = Annotated[
    str,
    Query(
        max_length=8192,
        description="As in POST /search, as JSON.",
        examples=['{"category": "maps"}'],
    ),
]
Columns = Annotated[list[Name], Query(max_length=50, description="Columns of the staging model.")]
Offset = Annotated[int, Query(ge=0, lt=MAX_TOP_K, description="Skip as many of the best rows.")]
SortBy = Annotated[Name | None, Query(description="Order the best rows by this filter column.")]
Order = Annotated[Literal["asc", "desc"], Query(description="The order of `sort`.")]
Among = Annotated[
    int | None, Query(ge=1, le=MAX_TOP_K, description="How many best rows `sort` orders.")
]
CountTo = Annotated[
    int, Query(ge=1, le=MAX_COUNTED, description="How many rows with words to count at most.")
]
Facets = Annotated[
    list[Name], Query(max_length=MAX_FACETS, description="Filter columns to count by value.")
]
FacetPrefix = Annotated[
    Word | None,
    Query(min_length=1, description="Facets have values with a word that begins like this."),
]
Histograms = Annotated[
    str, Query(max_length=8192, description="As in POST /search, as JSON.", examples=["[]"])
]
MinSimilarity = Annotated[float | None, Query(description="Leave out hits that are less similar.")]
MaxDistance = Annotated[float | None, Query(description="Leave out hits that are farther.")]


@search_router.post(
    "/search",
    response_model=Answer,
    responses={**examples.response(examples.ANSWER), **problems.responses(400, 413, 415)},
    dependencies=[_JSON],
)
async def search(
    request: Request,
    body: Annotated[SearchRequest, Body(openapi_examples=examples.QUERIES)],
    service: CurrentService,
    queues: CurrentQueues,
) -> Response:
    """Find the rows of an entity that answer a query, by vector, by words, or by both fused."""
    return await queues.queries.run(request, lambda: _json_response(service.search(body)))


async def _common_parameters(
    top_k: TopK = None,
    offset: Offset = 0,
    filters: Filters = "{}",
    sort: SortBy = None,
    order: Order = "asc",
    among: Among = None,
    total: bool = False,
    count_to: CountTo = COUNTED_WORDS,
    facets: Facets = [],  # noqa: B006 - FastAPI copies it
    facet_prefix: FacetPrefix = None,
    histograms: Histograms = "[]",
    columns: Columns = [],  # noqa: B006 - FastAPI copies it
    vectors: bool = False,
    min_similarity: MinSimilarity = None,
    max_distance: MaxDistance = None,
    exact: bool = False,
) -> dict[str, Any]:
    bound = {} if among is None else {"among": among}
    return {
        "top_k": top_k,
        "offset": offset,
        "filters": _json("filters", filters, dict, '{"category": "maps"}'),
        "sort": None if sort is None else {"by": sort, "order": order, **bound},
        "total": total,
        "count_to": count_to,
        "facets": tuple(facets),
        "facet_prefix": facet_prefix,
        "histograms": tuple(
            _json("histograms", histograms, list, '[{"column": "price", "least": 0, "most": 9}]')
        ),
        "columns": tuple(columns),
        "vectors": vectors,
        "min_similarity": min_similarity,
        "max_distance": max_distance,
        "exact": exact,
    }


# query parameters of every search by GET
CommonParameters = Annotated[dict[str, Any], Depends(_common_parameters)]


def _only_parameters(*more: str) -> Any:
    """Return a dependency that rejects unknown query parameters.

    A misspelt filter would otherwise find rows that it should leave out.
    """
    return _only(*more, *signature(_common_parameters).parameters)


def _only(*known: str) -> Any:
    async def check(request: Request) -> None:
        for name in request.query_params:
            if name not in known:
                raise ConfigurationError(
                    f"parameter {name!r} is unknown (parameters: {', '.join(known)})"
                )

    return Depends(check)


@search_router.get(
    "/search/{entity}",
    response_model=Answer,
    responses=examples.response(examples.ANSWER),
    dependencies=[_only_parameters("q", "mode", "highlight", "spelling")],
)
async def search_entity(
    request: Request,
    entity: Entity,
    service: CurrentService,
    queues: CurrentQueues,
    q: Annotated[str, Query(max_length=MAX_QUERY, examples=["maps"])],
    parameters: CommonParameters,
    mode: Mode = "dense",
    highlight: bool = False,
    spelling: bool = False,
) -> Response:
    """Find rows as POST /search does, by a link."""
    search = SearchRequest.of(
        entity=entity, query=q, mode=mode, highlight=highlight, spelling=spelling, **parameters
    )
    return await queues.queries.run(request, lambda: _json_response(service.search(search)))


@search_router.post(
    "/search/{entity}/image",
    response_model=Answer,
    responses={**examples.response(examples.BY_IMAGE), **problems.responses(400, 408, 413, 415)},
    openapi_extra=IMAGE_BODY,
    dependencies=[_only_parameters()],
)
async def search_by_image(
    request: Request,
    entity: Entity,
    image: Image,
    service: CurrentService,
    queues: CurrentQueues,
    parameters: CommonParameters,
) -> Response:
    """Find the rows whose images are nearest to an image, by the model of the entity.

    The body is the image file: `curl -H 'Content-Type: image/jpeg' --data-binary @photo.jpg URL`.
    """
    search = ImageRequest.of(entity=entity, image=image, **parameters)
    return await queues.queries.run(request, lambda: _json_response(service.by_image(search)))


@search_router.get(
    "/similar/{entity}/{id:any_text}",
    response_model=Answer,
    responses=examples.response(examples.ANSWER),
    dependencies=[_only_parameters()],
)
async def similar(
    request: Request,
    entity: Entity,
    id: Annotated[str, Path(max_length=MAX_ID_BYTES, examples=["aiXdP9gqxHc"])],
    service: CurrentService,
    queues: CurrentQueues,
    parameters: CommonParameters,
) -> Response:
    """Find the rows whose vectors are nearest to a row, without that row."""
    search = SimilarRequest.of(entity=entity, id=id, **parameters)
    return await queues.queries.run(request, lambda: _json_response(service.similar(search)))


@search_router.post(
    "/searches",
    response_model=Searches,
    responses={
        **examples.response({"results": [{"answer": examples.ANSWER, "problem": None}]}),
        **problems.responses(400, 413, 415),
    },
    dependencies=[_JSON],
)
async def searches(
    request: Request,
    body: Annotated[SearchesBody, Body(examples=[examples.SEARCHES])],
    service: CurrentService,
    queues: CurrentQueues,
) -> Response:
    """Answer several searches, each as POST /search does. One that fails does not fail the others.

    Each counts as a request.
    """
    count_searches(request, len(body.searches))
    return await queues.queries.run(request, lambda: _search_each(request, body, service))


def _search_each(request: Request, body: SearchesBody, service: Service) -> Response:
    results = []
    for search in body.searches:
        check_cancelled()
        try:
            results.append(SearchResult(answer=service.search(search)))
        except (EmbeddingsError, psycopg.Error) as error:
            results.append(SearchResult(problem=problems.of_error(request, error)))
    return Response(Searches(results=results).model_dump_json(), media_type="application/json")


@search_router.get(
    "/entities/{entity}/rows",
    response_model=Rows,
    responses=examples.response(examples.ROWS),
    dependencies=[_only("id")],
)
async def rows(
    request: Request,
    entity: Entity,
    service: CurrentService,
    queues: CurrentQueues,
    id: Annotated[
        list[Id],
        Query(min_length=1, max_length=MAX_ROWS, examples=[["aiXdP9gqxHc", "none"]]),
    ],
) -> Response:
    """Return published rows by their ids; `id` may be given several times.

    An id is data: it may have slashes, dots and control characters, in percent encoding.
    """

    def read() -> Response:
        found = service.rows(entity, id)
        return Response(_ROWS_ADAPTER.dump_json(found), media_type="application/json")

    return await queues.queries.run(request, read)


@search_router.post(
    "/rows",
    response_model=RowList,
    responses={**examples.response(examples.LISTED), **problems.responses(400, 413, 415)},
    dependencies=[_JSON],
)
async def list_rows(
    request: Request,
    body: Annotated[ListRequest, Body(examples=[examples.LISTING])],
    service: CurrentService,
    queues: CurrentQueues,
) -> Response:
    """List the rows that pass filters, in the order of their ids or of a filter column, each with
    its first text. The next page begins behind the last row of this one: name it as `after`."""

    def read() -> Response:
        return Response(
            _LIST_ADAPTER.dump_json(service.listed(body)), media_type="application/json"
        )

    return await queues.queries.run(request, read)


def _json_response(answer: Answer) -> Response:
    # serialised in the thread of the search; FastAPI would do it in the event loop
    return Response(_ANSWER_ADAPTER.dump_json(answer), media_type="application/json")


def _json(parameter: str, text: str, kind: type[T], example: str) -> T:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, kind):
        name = "object" if kind is dict else "array"
        raise ConfigurationError(f"{parameter}: not a JSON {name}: write for example {example}")
    return value


state_router = APIRouter(
    tags=["state"],
    dependencies=[Depends(reader)],
    responses=problems.responses(401, 403, 429, 503),
)
# probes send no key
open_router = APIRouter(prefix="/health", tags=["health"])


@state_router.get("/entities")
async def entities(request: Request, service: CurrentService, queues: CurrentQueues) -> Entities:
    """List the entities that can be searched, with their filter columns and values."""
    return await queues.state.run(request, service.state.entities)


@state_router.get("/stats")
async def stats(request: Request, service: CurrentService, queues: CurrentQueues) -> Stats:
    """Show the state of each entity: rows, vectors, coverage, lag, model, index, runs, cost."""
    return await queues.state.run(request, service.state.stats)


@state_router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(request: Request, service: CurrentService, queues: CurrentQueues) -> Response:
    """Metrics in Prometheus' format."""
    content = await queues.state.run(request, service.metrics)
    return Response(content, media_type=CONTENT_TYPE_LATEST)


@open_router.get("")
async def health(request: Request, service: CurrentService, queues: CurrentQueues) -> Health:
    """Show whether the process lives and whether it can answer."""
    return await queues.health.run(request, service.health)


@open_router.get("/live")
async def live() -> Live:
    """Show that the process lives."""
    return Live()


@open_router.get("/ready", responses={503: {"model": Health}})
async def ready(
    request: Request, service: CurrentService, queues: CurrentQueues, response: Response
) -> Health:
    """Show whether the service can answer; `parts` names what is missing."""
    found = await queues.health.run(request, service.health)
    if not found.ready:
        response.status_code = 503
    return found


embed_router = APIRouter(
    prefix="/embed",
    tags=["embed"],
    dependencies=[Depends(reader)],
    responses=problems.responses(401, 403, 429, 503),
)
_BODY = problems.responses(400, 404, 413, 415, 422)


@embed_router.post("/text", responses=_BODY, dependencies=[_JSON])
async def embed_text(
    request: Request, body: TextBody, service: CurrentService, queues: CurrentQueues
) -> Embedding:
    """Encode a text as a document, which searches find."""
    count_texts(request, 1)
    return await queues.queries.run(request, lambda: _embed_one("document", body, service))


@embed_router.post("/query", responses=_BODY, dependencies=[_JSON])
async def embed_query(
    request: Request, body: TextBody, service: CurrentService, queues: CurrentQueues
) -> Embedding:
    """Encode a text as a query."""
    count_texts(request, 1)
    return await queues.queries.run(request, lambda: _embed_one("query", body, service))


async def _batch(request: Request, queues: CurrentQueues) -> bytes:
    """Read the body, after the key was checked and where the queue has a place.

    FastAPI would read and parse it first, which takes longer than the refusal of a batch.
    """
    require_json(request)
    await queues.batches.admit(request)
    return await read_body(request)


@embed_router.post(
    "/batch",
    response_model=Embeddings,
    responses={**_BODY, **problems.responses(408)},
    openapi_extra=documented(BatchBody),
)
async def embed_batch(
    request: Request,
    body: Annotated[bytes, Depends(_batch)],
    service: CurrentService,
    queues: CurrentQueues,
) -> Response:
    """Encode several texts."""
    return await queues.batches.run(request, lambda: _embed_batch(request, body, service))


def _embed_batch(request: Request, content: bytes, service: Service) -> Response:
    body = validated(BatchBody, content)
    count_texts(request, len(body.texts))
    identity = service.models.named(body.model, body.dimension, body.entity, body.kind)
    made = service.models.encode_batch(body.kind, identity, body.texts, use_cache=body.use_cache)
    answer = Embeddings(
        embeddings=[
            None if index in made.failures else vector.tolist()
            for index, vector in enumerate(made.vectors)
        ],
        failures=dict(made.failures),
        cached=made.usage.cached,
        **_usage_fields(service, identity, made),
    )
    return Response(answer.model_dump_json(), media_type="application/json")


@embed_router.get("/models")
async def embed_models(request: Request, service: CurrentService, queues: CurrentQueues) -> Models:
    """List the models that can encode."""
    return await queues.state.run(request, lambda: _models(service))


def _models(service: Service) -> Models:
    return Models(
        models=[
            Model(
                model=identity.model,
                dimension=identity.dimension,
                max_tokens=identity.max_tokens,
                usd_per_million_tokens=1e6 * service.models.usd_per_token(identity),
                loaded=identity in service.models.loaded,
                entities=entities,
            )
            for identity, entities in service.models.served()
        ]
    )


@embed_router.get("/health", responses={503: {"model": Part}})
async def embed_health(
    request: Request, service: CurrentService, queues: CurrentQueues, response: Response
) -> Part:
    """Show whether the default model can encode. Loads the model if needed."""
    # not in the queue of probes: loading takes long
    part = await queues.queries.run(request, lambda: _default_model(service))
    if not part.ready:
        response.status_code = 503
    return part


def _default_model(service: Service) -> Part:
    try:
        identity = service.models.default()
        service.models.load(identity)
    except Unavailable:
        return Part.missing("default model", "cannot be loaded: see the service's log")
    return Part(part=f"model {identity.model}", ready=True)


@embed_router.get("/metrics")
async def embed_metrics(service: CurrentService) -> EmbedMetrics:
    """Show the usage of encoding since the start or the last reset."""
    encoded = service.counters.encoded
    return EmbedMetrics(
        since=encoded.since,
        generated=encoded.usage.texts,
        cached=encoded.usage.cached,
        hit_rate=encoded.hit_rate,
        tokens=encoded.usage.tokens,
        cost_usd=encoded.cost_usd,
        seconds=encoded.usage.seconds,
        models_loaded=sorted({identity.model for identity in service.models.loaded}),
    )


@embed_router.post("/metrics/reset", dependencies=[Depends(writer)])
async def reset_embed_metrics(service: CurrentService) -> EmbedMetrics:
    """Set the usage of encoding to zero."""
    service.counters.reset()
    return await embed_metrics(service)


def _embed_one(kind: Kind, body: TextBody, service: Service) -> Embedding:
    identity = service.models.named(body.model, body.dimension, body.entity, kind)
    made = service.models.encode(kind, identity, [body.text], use_cache=body.use_cache)
    if made.failures:
        raise ConfigurationError(f"the text cannot be encoded: {made.failures[0]}")
    return Embedding(
        embedding=made.vectors[0].tolist(),
        cached=made.usage.cached > 0,
        **_usage_fields(service, identity, made),
    )


def _usage_fields(service: Service, identity: ModelIdentity, made: Encodings) -> dict[str, Any]:
    return {
        "dimension": identity.dimension,
        "model": identity.model,
        "tokens": made.usage.tokens,
        "cost_usd": service.models.cost(identity, made),
    }


documents_router = APIRouter(
    tags=["documents"],
    dependencies=[Depends(writer)],
    responses=problems.responses(400, 401, 403, 404, 409, 413, 415, 422, 429, 501, 503),
)


@documents_router.post("/entities/{entity}/documents", dependencies=[_JSON])
async def documents(
    request: Request,
    entity: Annotated[str, Path(max_length=63, examples=["product"])],
    body: DocumentsBody,
    service: CurrentService,
    queues: CurrentQueues,
) -> Documents:
    """Read rows from the staging model and bring their texts and vectors up to date.

    The next run has no work left for these rows. A refused id has a `reason`.
    """
    sync = service.documents.begin(entity, body.ids)
    return await queues.documents.run(request, sync)
