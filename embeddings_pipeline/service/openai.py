"""The vectors and models in the form of OpenAI's API, for clients that were written for it.

Source: platform.openai.com/docs/api-reference/embeddings.
"""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema

from embeddings_pipeline.entities.model import ModelIdentity, Vector
from embeddings_pipeline.errors import ConfigurationError, NotFound, Unavailable
from embeddings_pipeline.search.requests import Name, RequestModel
from embeddings_pipeline.service import problems
from embeddings_pipeline.service.auth import count_texts, reader
from embeddings_pipeline.service.bodies import documented, read_body, require_json, validated
from embeddings_pipeline.service.problems import ParameterError
from embeddings_pipeline.service.queues import CurrentQueues
from embeddings_pipeline.service.schemas import MAX_TEXT, ModelName, Text
from embeddings_pipeline.service.service import CurrentService, Service

# as OpenAI; the body's size is limited, too
MAX_INPUTS = 2_048


def _as_texts(given: Any) -> Any:
    if isinstance(given, str):
        return [given]
    if isinstance(given, list) and given and isinstance(given[0], int | list):
        raise ValueError(
            "token ids are not supported: send the text itself (in LangChain,"
            " check_embedding_ctx_length=False)"
        )
    return given


_TEXT_SCHEMA = {"type": "string", "minLength": 1, "maxLength": MAX_TEXT}
Inputs = Annotated[
    tuple[Text, ...],
    Field(min_length=1, max_length=MAX_INPUTS),
    BeforeValidator(_as_texts),
    WithJsonSchema(
        {
            "anyOf": [
                _TEXT_SCHEMA,
                {
                    "type": "array",
                    "items": _TEXT_SCHEMA,
                    "minItems": 1,
                    "maxItems": MAX_INPUTS,
                },
            ]
        }
    ),
]


class CreateEmbeddingRequest(RequestModel):
    """One text or several, and one of the models of `GET /v1/models`.

    `dimensions` is the dimension that the model is served with. `input_type` and `entity` are no
    fields of OpenAI's: a model with prompts encodes queries otherwise than documents, and the
    prompt of queries may be another for each entity. `user` is not read.
    """

    input: Inputs = Field(examples=[["A cordless drill", "A garden hose, 20 m"]])
    model: ModelName = Field(examples=["sentence-transformers/all-MiniLM-L6-v2"])
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1, le=16_000)] | None = None
    input_type: Literal["document", "query"] = "document"
    entity: Name | None = None
    user: str | None = None


class EmbeddingObject(BaseModel):
    """The vector of the text at `index`; in base64, its numbers are little-endian float32."""

    object: Literal["embedding"] = "embedding"
    index: int = Field(examples=[0])
    embedding: list[float] | str = Field(examples=[[0.0123, -0.0456, 0.0789]])


class EmbeddingUsage(BaseModel):
    """The tokens that the model reads of the texts, whether or not their vectors are cached."""

    prompt_tokens: int = Field(examples=[14])
    total_tokens: int = Field(examples=[14])


class CreateEmbeddingResponse(BaseModel):
    """Vectors in the order of the texts."""

    object: Literal["list"] = "list"
    data: list[EmbeddingObject]
    model: str = Field(examples=["sentence-transformers/all-MiniLM-L6-v2"])
    usage: EmbeddingUsage


class ModelObject(BaseModel):
    """A model that can encode. `created` is always 0: it is not known."""

    id: str = Field(examples=["sentence-transformers/all-MiniLM-L6-v2"])
    object: Literal["model"] = "model"
    created: int = Field(0, examples=[0])
    owned_by: str = Field(examples=["local"])


class ModelList(BaseModel):
    """The models that can encode, the default first."""

    object: Literal["list"] = "list"
    data: list[ModelObject]


router = APIRouter(
    prefix=problems.OPENAI_PREFIX,
    tags=["openai"],
    dependencies=[Depends(reader)],
    responses=problems.openai_responses(401, 403, 429, 503),
)


async def _content(request: Request) -> bytes:
    """Read the body, after the key was checked."""
    require_json(request)
    return await read_body(request)


@router.post(
    "/embeddings",
    response_model=CreateEmbeddingResponse,
    responses=problems.openai_responses(400, 404, 408, 413, 415, 422),
    openapi_extra=documented(CreateEmbeddingRequest),
)
async def create_embeddings(
    request: Request,
    content: Annotated[bytes, Depends(_content)],
    service: CurrentService,
    queues: CurrentQueues,
) -> Response:
    """Encode one text or several, as OpenAI's API does."""
    # the body says which queue is its own
    body = await run_in_threadpool(validated, CreateEmbeddingRequest, content)
    queue = queues.queries if len(body.input) == 1 else queues.batches
    return await queue.run(request, lambda: _embed(request, body, service))


@router.get("/models")
async def list_models(
    request: Request, service: CurrentService, queues: CurrentQueues
) -> ModelList:
    """List the models that can encode, as OpenAI's API does."""
    return await queues.state.run(request, lambda: ModelList(data=_models(service)))


@router.get("/models/{model:any_text}", responses=problems.openai_responses(404, 422))
async def retrieve_model(
    request: Request,
    model: Annotated[ModelName, Path(examples=["sentence-transformers/all-MiniLM-L6-v2"])],
    service: CurrentService,
    queues: CurrentQueues,
) -> ModelObject:
    """Show a model that can encode, as OpenAI's API does."""

    def named() -> ModelObject:
        return _model(_identity(service, model, None))

    return await queues.state.run(request, named)


def _embed(request: Request, body: CreateEmbeddingRequest, service: Service) -> Response:
    count_texts(request, len(body.input))
    identity = _identity(service, body.model, body.dimensions)
    if body.entity is not None or body.input_type == "query":
        identity = _prompted(service, body)
    encode = service.models.encode if len(body.input) == 1 else service.models.encode_batch
    made = encode(body.input_type, identity, body.input)
    if made.failures:
        index, why = next(iter(made.failures.items()))
        raise ParameterError(422, f"input.{index}: the text cannot be encoded: {why}", "input")
    tokens = service.models.tokens(identity, body.input, made.usage)
    form = _base64 if body.encoding_format == "base64" else _floats
    answer = CreateEmbeddingResponse(
        data=[
            EmbeddingObject(index=index, embedding=form(vector))
            for index, vector in enumerate(made.vectors)
        ],
        model=identity.model,
        usage=EmbeddingUsage(prompt_tokens=tokens, total_tokens=tokens),
    )
    return Response(answer.model_dump_json(), media_type="application/json")


def _identity(service: Service, model: str, dimensions: int | None) -> ModelIdentity:
    """Return the served model. Raises ParameterError for another name or dimension."""
    try:
        identity = service.models.named(model, None)
    except NotFound as error:
        raise ParameterError(404, str(error), "model") from None
    if dimensions is None:
        return identity
    try:
        return service.models.named(model, dimensions)
    except NotFound as error:
        raise ParameterError(422, str(error), "dimensions") from None


def _prompted(service: Service, body: CreateEmbeddingRequest) -> ModelIdentity:
    """Return the served model with the query prompt of the entity. Raises ParameterError where it
    is not the model of the entity, or the prompt depends on an entity that is not named."""
    try:
        return service.models.named(body.model, body.dimensions, body.entity, body.input_type)
    except NotFound as error:
        raise ParameterError(404, str(error), "entity") from None
    except Unavailable:
        raise
    except ConfigurationError as error:
        raise ParameterError(422, str(error), "entity") from None


def _models(service: Service) -> list[ModelObject]:
    # a model may be served with several dimensions
    by_name = {identity.model: identity for identity, _ in reversed(service.models.served())}
    return [_model(identity) for identity in reversed(by_name.values())]


def _model(identity: ModelIdentity) -> ModelObject:
    return ModelObject(id=identity.model, owned_by=identity.provider)


def _floats(vector: Vector) -> list[float]:
    floats: list[float] = vector.tolist()
    return floats


def _base64(vector: Vector) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
