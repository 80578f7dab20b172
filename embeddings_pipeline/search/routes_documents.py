"""Rows that have just arrived, made searchable at once."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path

from embeddings_pipeline.search import problems
from embeddings_pipeline.search.keys import writer
from embeddings_pipeline.search.schemas import Documents, DocumentsBody
from embeddings_pipeline.search.service import Asked

router = APIRouter(
    tags=["documents"],
    dependencies=[Depends(writer)],
    responses=problems.responses(400, 401, 403, 404, 409, 413, 422, 429, 503),
)


@router.post("/entities/{entity}/documents")
def documents(
    entity: Annotated[str, Path(max_length=63, examples=["product"])],
    body: DocumentsBody,
    asked: Asked,
) -> Documents:
    """Read these rows from the staging model, and bring their texts and vectors up to date as a
    run would; the next one finds them done. Each id that is refused comes with its reason."""
    return asked.documents.sync(entity, body.ids)
