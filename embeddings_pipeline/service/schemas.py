"""What the service takes, and what it answers."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictInt, StrictStr

from embeddings_pipeline.search.requests import not_blank, storable

MAX_TEXT = 32_768
MAX_TEXTS = 256
MAX_IDS = 1_000

Text = Annotated[
    StrictStr,
    Field(min_length=1, max_length=MAX_TEXT),
    AfterValidator(storable),
    AfterValidator(not_blank),
]
Id = Annotated[StrictStr, Field(min_length=1, max_length=1024), AfterValidator(storable)]
BigInt = Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)]
ModelName = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(storable)]


class _Asked(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EncodeOptions(_Asked):
    """With which model, of those that `GET /embed/models` lists; without one, the default.

    `use_cache: false` has the model read the texts, whatever is remembered.
    """

    model: ModelName | None = None
    dimension: Annotated[int, Field(ge=1, le=16_000)] | None = None
    use_cache: bool = True


class TextBody(EncodeOptions):
    """One text."""

    text: Text = Field(examples=["A cordless drill with two batteries"])


class BatchBody(EncodeOptions):
    """Several texts, encoded as documents or as queries."""

    texts: Annotated[tuple[Text, ...], Field(min_length=1, max_length=MAX_TEXTS)] = Field(
        examples=[["A cordless drill", "A garden hose, 20 m"]]
    )
    kind: Literal["document", "query"] = "document"


class Embedding(BaseModel):
    """A vector of `dimension` numbers, and what it took: `tokens` that the model read, which cost
    so many US dollars; nothing where it was `cached`."""

    embedding: list[float] = Field(examples=[[0.0123, -0.0456, 0.0789]])
    dimension: int = Field(examples=[384])
    model: str = Field(examples=["sentence-transformers/all-MiniLM-L6-v2"])
    cached: bool
    tokens: int = Field(examples=[9])
    cost_usd: float = Field(examples=[0.0])


class Embeddings(BaseModel):
    """Vectors in the order of the texts; `cached` counts those that were remembered.

    A text that the model does not take has null, and its reason in `failures`, by its index.
    """

    embeddings: list[list[float] | None] = Field(examples=[[[0.0123, -0.0456], [0.0789, 0.01]]])
    failures: dict[int, str] = Field(examples=[{}])
    dimension: int = Field(examples=[384])
    model: str = Field(examples=["sentence-transformers/all-MiniLM-L6-v2"])
    cached: int = Field(examples=[1])
    tokens: int = Field(examples=[14])
    cost_usd: float = Field(examples=[0.0])


class Model(BaseModel):
    """A model that can be asked for, the default first. `entities` are those whose published
    vectors are of it."""

    model: str = Field(examples=["sentence-transformers/all-MiniLM-L6-v2"])
    dimension: int = Field(examples=[384])
    max_tokens: int = Field(examples=[256])
    usd_per_million_tokens: float = Field(examples=[0.0])
    loaded: bool
    entities: list[str] = Field(examples=[["product"]])


class Models(BaseModel):
    """The models that can be asked for."""

    models: list[Model]


class EmbedMetrics(BaseModel):
    """What was encoded `since` the start or the last reset: `generated` by models, `cached` from
    memory, and the share of the latter in both."""

    since: datetime
    generated: int = Field(examples=[1200])
    cached: int = Field(examples=[800])
    hit_rate: float | None = Field(examples=[0.4])
    tokens: int = Field(examples=[10_500])
    cost_usd: float = Field(examples=[0.0])
    seconds: float = Field(examples=[3.2])
    models_loaded: list[str] = Field(examples=[["sentence-transformers/all-MiniLM-L6-v2"]])


class DocumentsBody(_Asked):
    """Ids of rows of the staging model that have just arrived or changed."""

    ids: Annotated[tuple[Id | BigInt, ...], Field(min_length=1, max_length=MAX_IDS)] = Field(
        examples=[["1001", "1002"]]
    )


class Document(BaseModel):
    """What became of a row; without a `reason` it can be found now."""

    id: str = Field(examples=["1001"])
    status: Literal["searchable", "without text", "quarantined", "refused"]
    reason: str | None = Field(None, examples=[None])


class Documents(BaseModel):
    """What became of each id, in the order in which they came; `encoded` counts chunks."""

    entity: str = Field(examples=["product"])
    documents: list[Document]
    encoded: int = Field(examples=[1])
    reused: int = Field(examples=[0])
    tokens: int = Field(examples=[32])
    cost_usd: float = Field(examples=[0.0])


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
