"""What can be searched, how far it is, and whether the service can answer."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Response
from prometheus_client import CONTENT_TYPE_LATEST

from embeddings_pipeline.search import problems
from embeddings_pipeline.search.keys import reader
from embeddings_pipeline.search.schemas_state import Entities, Health, Live, Stats
from embeddings_pipeline.search.service import Asked

router = APIRouter(
    tags=["state"],
    dependencies=[Depends(reader)],
    responses=problems.responses(401, 403, 429, 503),
)
# probes have no key
open_router = APIRouter(prefix="/health", tags=["health"])


@router.get("/entities")
def entities(asked: Asked) -> Entities:
    """What can be searched, with its filters and the values that these have."""
    return asked.state.entities()


@router.get("/stats")
def stats(asked: Asked) -> Stats:
    """How far each entity is: rows, vectors, coverage, lag, model, index, last runs, cost."""
    return asked.state.stats()


@router.get(
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
