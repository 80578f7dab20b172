"""Vectors of texts that someone brings along."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Response

from embeddings_pipeline.encoders.base import Encodings, Kind
from embeddings_pipeline.entities.model import ModelIdentity
from embeddings_pipeline.errors import ConfigurationError, Unavailable
from embeddings_pipeline.search import problems
from embeddings_pipeline.search.keys import reader, writer
from embeddings_pipeline.search.schemas import (
    BatchBody,
    Embedding,
    Embeddings,
    EmbedMetrics,
    Model,
    Models,
    TextBody,
)
from embeddings_pipeline.search.schemas_state import Part
from embeddings_pipeline.search.service import Asked, Service

router = APIRouter(
    prefix="/embed",
    tags=["embed"],
    dependencies=[Depends(reader)],
    responses=problems.responses(401, 403, 429, 503),
)
_BODY = problems.responses(400, 404, 413, 422)


@router.post("/text", responses=_BODY)
def text(body: TextBody, asked: Asked) -> Embedding:
    """The vector of a text that is to be found."""
    return _one("document", body, asked)


@router.post("/query", responses=_BODY)
def query(body: TextBody, asked: Asked) -> Embedding:
    """The vector of a text to find others by."""
    return _one("query", body, asked)


@router.post("/batch", responses=_BODY)
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


@router.get("/models")
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


@router.get("/health", responses={503: {"model": Part}})
def health(asked: Asked, response: Response) -> Part:
    """Whether texts can be encoded by the default model; loads it where it is not yet."""
    try:
        identity = asked.models.default()
        asked.models.load(identity)
    except Unavailable:
        response.status_code = 503
        return Part.missing("default model", "it cannot be loaded; the service's log says why")
    return Part(part=f"model {identity.model}", ready=True)


@router.get("/metrics")
def metrics(asked: Asked) -> EmbedMetrics:
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


@router.post("/metrics/reset", dependencies=[Depends(writer)])
def reset(asked: Asked) -> EmbedMetrics:
    """Count anew from now on."""
    asked.counted.reset()
    return metrics(asked)


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
