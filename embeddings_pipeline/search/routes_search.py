"""Searches."""

from __future__ import annotations

import json
from inspect import signature
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Path, Query, Request, Response
from pydantic import TypeAdapter

from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.search import problems
from embeddings_pipeline.search.keys import reader
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
from embeddings_pipeline.search.service import Asked
from embeddings_pipeline.search.uploads import IMAGE_BODY, Image

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

router = APIRouter(
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


@router.post("/search", response_model=Answer, responses={**_FOUND, **problems.responses(400, 413)})
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


@router.get(
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


@router.post(
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


@router.get(
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
