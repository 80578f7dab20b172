"""What the service says of its entities and of itself."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel, Field


class Facet(BaseModel):
    """A value of a filter column, and how many chunks have it."""

    value: Any = Field(examples=["tools"])
    count: int = Field(examples=[120])


class FilterColumn(BaseModel):
    """A column to filter by, with its Postgres type; `values` where they are few."""

    name: str = Field(examples=["category"])
    type: str = Field(examples=["text"])
    values: list[Facet] | None = None


class EntityInfo(BaseModel):
    """An entity that can be searched; where its rows are `images`, by an image, too. `fields` are
    the columns, and their types, that `columns` of a search may name."""

    entity: str = Field(examples=["product"])
    model: str = Field(examples=["sentence-transformers/all-MiniLM-L6-v2"])
    metric: str = Field(examples=["cosine"])
    language: str = Field(examples=["english"])
    images: bool = Field(examples=[False])
    filters: list[FilterColumn]
    fields: dict[str, str] = Field(examples=[{"name": "text", "price": "numeric"}])


class Entities(BaseModel):
    """The entities that can be searched."""

    entities: list[EntityInfo]


class Part(BaseModel):
    """One thing that the service needs."""

    part: str = Field(examples=["database"])
    ready: bool
    detail: str | None = Field(None, examples=[None])

    @classmethod
    def missing(cls, part: str, detail: str) -> Self:
        """One that is not there."""
        return cls(part=part, ready=False, detail=detail)


class Health(BaseModel):
    """Whether the process lives, and whether it can answer; `parts` says what is missing."""

    live: bool = True
    ready: bool
    parts: list[Part]


class Live(BaseModel):
    """The process lives."""

    live: bool = True


class IndexState(BaseModel):
    """The vector index and its recall against exact search, as last measured."""

    type: str = Field(examples=["hnsw"])
    recall_at_10: float | None = Field(None, examples=[0.995])


class Run(BaseModel):
    """A run, from the ledger."""

    run_id: str
    started_at: datetime
    finished_at: datetime | None
    read: int
    encoded: int
    reused: int
    deleted: int
    quarantined: int
    cost_usd: float
    seconds: float


class EntityState(BaseModel):
    """How far an entity is. `coverage` is the percentage of its rows that have all their vectors,
    `data_lag_seconds` how long the oldest change has waited for one, `cost_usd` that of all runs.
    `problem` says why the rest could not be read, where it could not.
    """

    entity: str = Field(examples=["product"])
    problem: str | None = Field(None, examples=[None])
    rows: int = Field(0, examples=[1000])
    chunks: int = Field(0, examples=[1000])
    vectors: int = Field(0, examples=[1000])
    coverage: float | None = Field(None, examples=[100.0])
    pending: int = Field(0, examples=[0])
    quarantined: int = Field(0, examples=[0])
    data_lag_seconds: float = Field(0.0, examples=[0.0])
    model: str | None = Field(None, examples=["sentence-transformers/all-MiniLM-L6-v2"])
    dimension: int | None = Field(None, examples=[384])
    vector_set: int | None = Field(None, examples=[1])
    index: IndexState = IndexState(type="none")
    cost_usd: float = Field(0.0, examples=[0.0])
    last_run: Run | None = None
    runs: list[Run] = []


class Stats(BaseModel):
    """How far each entity is."""

    entities: list[EntityState]
