"""The routes of the service: searches, its state, encoding, and rows that have just arrived."""

from __future__ import annotations

import json
from inspect import signature
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, HTTPException, Path, Query, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import TypeAdapter
from starlette.requests import ClientDisconnect

from embeddings_pipeline.encoders.encoder import Encodings, Kind
from embeddings_pipeline.encoders.images.decoding import FORMATS
from embeddings_pipeline.entities.model import ModelIdentity
from embeddings_pipeline.errors import ConfigurationError, Unavailable
from embeddings_pipeline.search.requests import (
    MAX_QUERY,
    MAX_TOP_K,
    Answer,
    ImageRequest,
    Mode,
    Name,
    SearchRequest,
    SimilarRequest,
)
from embeddings_pipeline.service import problems
from embeddings_pipeline.service.auth import reader, writer
from embeddings_pipeline.service.middleware import allow_body
from embeddings_pipeline.service.schemas import (
    BatchBody,
    Documents,
    DocumentsBody,
    Embedding,
    Embeddings,
    EmbedMetrics,
    Entities,
    Health,
    Live,
    Model,
    Models,
    Part,
    Stats,
    TextBody,
)
from embeddings_pipeline.service.service import Asked, Service

_TYPES = [f"image/{kind.lower()}" for kind in FORMATS]
# for the OpenAPI document: FastAPI knows only of bodies that it reads itself
IMAGE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The file itself, of at most EMBEDDING_IMAGE_MAX_BYTES (20 MiB).",
        "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in _TYPES},
    }
}


async def _image(request: Request, asked: Asked) -> bytes:
    """The body, read after the key was looked at. Raises HTTPException 400, 413 or 415."""
    kind = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    # a page of another site cannot send these unasked
    if kind not in _TYPES:
        raise HTTPException(415, f"Content-Type: {kind!r} is none of these: {', '.join(_TYPES)}")
    allow_body(request, asked.pipeline.settings.embedding_image_max_bytes)
    try:
        return await request.body()
    except ClientDisconnect:
        raise HTTPException(400, "the body ended before it was whole") from None


Image = Annotated[bytes, Depends(_image)]


_EXAMPLES: dict[str, Any] = {
    "query": {
        "summary": "By vector",
        "value": {"entity": "product", "query": "something to water the garden", "top_k": 5},
    },
    "filters": {
        "summary": "By vector and words, among some rows",
        "value": {
            "entity": "product",
            "query": "garden hose",
            "mode": "hybrid",
            "filters": {"category": ["garden", "tools"], "price": {"lte": 50}},
        },
    },
}
_ANSWER = {
    "entity": "product",
    "mode": "dense",
    "results": [
        {
            "id": "1001",
            "chunk": 0,
            "score": 0.71,
            "text": "name: Garden hose. price: 19.90",
            "fields": {"category": "garden", "price": 19.9},
        }
    ],
    "coverage": 100.0,
    "data_lag_seconds": 0.0,
    "model": "sentence-transformers/all-MiniLM-L6-v2",
    "vector_set": 1,
    "shortfall": 4,
}
_BY_IMAGE = {
    **_ANSWER,
    "entity": "photo",
    "results": [
        {
            "id": "17",
            "chunk": 0,
            "score": 0.93,
            "text": "2026/garden.jpg",
            "fields": {"place": "Perm"},
        }
    ],
    "model": "sentence-transformers/clip-ViT-B-32",
}


def _found(example: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    return {200: {"content": {"application/json": {"example": example}}}}


_FOUND = _found(_ANSWER)
_JSON = TypeAdapter(Answer)

search_router = APIRouter(
    tags=["search"],
    dependencies=[Depends(reader)],
    responses=problems.responses(401, 403, 404, 409, 422, 429, 503),
)

Entity = Annotated[str, Path(max_length=63, examples=["product"])]
TopK = Annotated[int | None, Query(ge=1, le=MAX_TOP_K)]
Filters = Annotated[
    str,
    Query(
        max_length=8192,
        description="As in POST /search, as JSON.",
        examples=['{"category": "garden"}'],
    ),
]
Columns = Annotated[list[Name], Query(max_length=50, description="Columns of the staging model.")]
Least = Annotated[float | None, Query(description="Leave out hits that are less similar.")]
Most = Annotated[float | None, Query(description="Leave out hits that are farther.")]


@search_router.post(
    "/search", response_model=Answer, responses={**_FOUND, **problems.responses(400, 413)}
)
def search(
    body: Annotated[SearchRequest, Body(openapi_examples=_EXAMPLES)], asked: Asked
) -> Response:
    """Find the rows of an entity that answer a query: by vector, by words, or by both fused."""
    return _written(asked.search(body))


async def _narrowing(
    top_k: TopK = None,
    filters: Filters = "{}",
    columns: Columns = [],  # noqa: B006 - FastAPI copies it
    min_similarity: Least = None,
    max_distance: Most = None,
    exact: bool = False,
) -> dict[str, Any]:
    return {
        "top_k": top_k,
        "filters": _mapping(filters),
        "columns": tuple(columns),
        "min_similarity": min_similarity,
        "max_distance": max_distance,
        "exact": exact,
    }


# what a link may say of any search
Narrowing = Annotated[dict[str, Any], Depends(_narrowing)]


def _takes(*more: str) -> Any:
    """A dependency that refuses parameters of another name: a filter that is misspelt would find
    rows that were to be left out."""
    known = (*more, *signature(_narrowing).parameters)

    async def check(request: Request) -> None:
        for name in request.query_params:
            if name not in known:
                raise ConfigurationError(f"parameter {name!r} is none of these: {', '.join(known)}")

    return Depends(check)


@search_router.get(
    "/search/{entity}",
    response_model=Answer,
    responses=_FOUND,
    dependencies=[_takes("q", "mode")],
)
def search_entity(
    entity: Entity,
    asked: Asked,
    q: Annotated[str, Query(max_length=MAX_QUERY, examples=["garden hose"])],
    narrowing: Narrowing,
    mode: Mode = "dense",
) -> Response:
    """The same as POST /search, for a link."""
    return _written(asked.search(SearchRequest.of(entity=entity, query=q, mode=mode, **narrowing)))


@search_router.post(
    "/search/{entity}/image",
    response_model=Answer,
    responses={**_found(_BY_IMAGE), **problems.responses(400, 408, 413, 415)},
    openapi_extra=IMAGE_BODY,
    dependencies=[_takes()],
)
def search_by_image(entity: Entity, image: Image, asked: Asked, narrowing: Narrowing) -> Response:
    """The rows whose images are nearest to the one that is sent as it is, by the model of the
    entity: `curl -H 'Content-Type: image/jpeg' --data-binary @photo.jpg URL`."""
    return _written(asked.by_image(ImageRequest.of(entity=entity, image=image, **narrowing)))


@search_router.get(
    "/similar/{entity}/{id:path}",
    response_model=Answer,
    responses=_FOUND,
    dependencies=[_takes()],
)
def similar(
    entity: Entity,
    id: Annotated[str, Path(max_length=1024, examples=["1001"])],
    asked: Asked,
    narrowing: Narrowing,
) -> Response:
    """The rows whose vectors are nearest to those of a row, itself left out."""
    return _written(asked.similar(SimilarRequest.of(entity=entity, id=id, **narrowing)))


def _written(answer: Answer) -> Response:
    # in the thread of the search: FastAPI would take it to another
    return Response(_JSON.dump_json(answer), media_type="application/json")


def _mapping(text: str) -> dict[str, Any]:
    try:
        filters = json.loads(text)
    except (ValueError, RecursionError):
        filters = None
    if not isinstance(filters, dict):
        raise ConfigurationError("filters: is not a JSON object")
    return filters


state_router = APIRouter(
    tags=["state"],
    dependencies=[Depends(reader)],
    responses=problems.responses(401, 403, 429, 503),
)
# probes have no key
open_router = APIRouter(prefix="/health", tags=["health"])


@state_router.get("/entities")
def entities(asked: Asked) -> Entities:
    """What can be searched, with its filters and the values that these have."""
    return asked.state.entities()


@state_router.get("/stats")
def stats(asked: Asked) -> Stats:
    """How far each entity is: rows, vectors, coverage, lag, model, index, last runs, cost."""
    return asked.state.stats()


@state_router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def metrics(asked: Asked) -> Response:
    """For Prometheus."""
    return Response(asked.metrics(), media_type=CONTENT_TYPE_LATEST)


@open_router.get("")
def health(asked: Asked) -> Health:
    """Both: that the process lives, and whether it can answer."""
    return asked.health()


@open_router.get("/live")
async def live() -> Live:
    """That the process lives."""
    return Live()


@open_router.get("/ready", responses={503: {"model": Health}})
def ready(asked: Asked, response: Response) -> Health:
    """Whether it can answer; where not, `parts` says what is missing."""
    found = asked.health()
    if not found.ready:
        response.status_code = 503
    return found


embed_router = APIRouter(
    prefix="/embed",
    tags=["embed"],
    dependencies=[Depends(reader)],
    responses=problems.responses(401, 403, 429, 503),
)
_BODY = problems.responses(400, 404, 413, 422)


@embed_router.post("/text", responses=_BODY)
def text(body: TextBody, asked: Asked) -> Embedding:
    """The vector of a text that is to be found."""
    return _one("document", body, asked)


@embed_router.post("/query", responses=_BODY)
def query(body: TextBody, asked: Asked) -> Embedding:
    """The vector of a text to find others by."""
    return _one("query", body, asked)


@embed_router.post("/batch", responses=_BODY)
def batch(body: BatchBody, asked: Asked) -> Embeddings:
    """The vectors of several texts."""
    identity = asked.models.named(body.model, body.dimension)
    made = asked.models.encode(body.kind, identity, body.texts, use_cache=body.use_cache)
    return Embeddings(
        embeddings=[
            None if index in made.failures else vector.tolist()
            for index, vector in enumerate(made.vectors)
        ],
        failures=dict(made.failures),
        cached=made.usage.cached,
        **_common(asked, identity, made),
    )


@embed_router.get("/models")
def models(asked: Asked) -> Models:
    """The models that can be asked for."""
    return Models(
        models=[
            Model(
                model=identity.model,
                dimension=identity.dimension,
                max_tokens=identity.max_tokens,
                usd_per_million_tokens=1e6 * asked.models.usd_per_token(identity),
                loaded=identity in asked.models.loaded,
                entities=entities,
            )
            for identity, entities in asked.models.served()
        ]
    )


@embed_router.get("/health", name="health", responses={503: {"model": Part}})
def embed_health(asked: Asked, response: Response) -> Part:
    """Whether texts can be encoded by the default model; loads it where it is not yet."""
    try:
        identity = asked.models.default()
        asked.models.load(identity)
    except Unavailable:
        response.status_code = 503
        return Part.missing("default model", "it cannot be loaded; the service's log says why")
    return Part(part=f"model {identity.model}", ready=True)


@embed_router.get("/metrics", name="metrics")
def embed_metrics(asked: Asked) -> EmbedMetrics:
    """What was encoded since the start or the last reset."""
    encoded = asked.counted.encoded
    return EmbedMetrics(
        since=encoded.since,
        generated=encoded.usage.texts,
        cached=encoded.usage.cached,
        hit_rate=encoded.hit_rate,
        tokens=encoded.usage.tokens,
        cost_usd=encoded.cost_usd,
        seconds=encoded.usage.seconds,
        models_loaded=sorted({identity.model for identity in asked.models.loaded}),
    )


@embed_router.post("/metrics/reset", dependencies=[Depends(writer)])
def reset(asked: Asked) -> EmbedMetrics:
    """Count anew from now on."""
    asked.counted.reset()
    return embed_metrics(asked)


def _one(kind: Kind, body: TextBody, asked: Service) -> Embedding:
    identity = asked.models.named(body.model, body.dimension)
    made = asked.models.encode(kind, identity, [body.text], use_cache=body.use_cache)
    if made.failures:
        raise ConfigurationError(f"the text cannot be encoded: {made.failures[0]}")
    return Embedding(
        embedding=made.vectors[0].tolist(),
        cached=made.usage.cached > 0,
        **_common(asked, identity, made),
    )


def _common(asked: Service, identity: ModelIdentity, made: Encodings) -> dict[str, Any]:
    return {
        "dimension": identity.dimension,
        "model": identity.model,
        "tokens": made.usage.tokens,
        "cost_usd": asked.models.cost(identity, made),
    }


documents_router = APIRouter(
    tags=["documents"],
    dependencies=[Depends(writer)],
    responses=problems.responses(400, 401, 403, 404, 409, 413, 422, 429, 503),
)


@documents_router.post("/entities/{entity}/documents")
def documents(
    entity: Annotated[str, Path(max_length=63, examples=["product"])],
    body: DocumentsBody,
    asked: Asked,
) -> Documents:
    """Read these rows from the staging model, and bring their texts and vectors up to date as a
    run would; the next one finds them done. Each id that is refused comes with its reason."""
    return asked.documents.sync(entity, body.ids)
