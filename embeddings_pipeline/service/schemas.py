"""The bodies of the service's requests and answers."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, StrictInt, StrictStr
from starlette.convertors import Convertor, register_url_convertor

from embeddings_pipeline.entities.fields import MAX_ID_BYTES
from embeddings_pipeline.search.requests import (
    Answer,
    FacetValue,
    Name,
    RequestModel,
    SearchRequest,
    one_reason,
    require_not_blank,
    require_storable,
)
from embeddings_pipeline.service.problems import Problem
from embeddings_pipeline.store.search.published_search import Histogram, StoredRow
from embeddings_pipeline.store.texts.quarantine import FailedRow
from embeddings_pipeline.store.vectors.quality import Quality

MAX_TEXT = 32_768
MAX_TEXTS = 256
MAX_IDS = 1_000
MAX_SEARCHES = 16

Text = Annotated[
    StrictStr,
    Field(min_length=1, max_length=MAX_TEXT),
    AfterValidator(require_storable),
    AfterValidator(require_not_blank),
]
Id = Annotated[StrictStr, Field(max_length=MAX_ID_BYTES), AfterValidator(require_storable)]
BigInt = Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)]
AnyId = Annotated[
    Id | BigInt,
    one_reason(
        f"write an id as a text of at most {MAX_ID_BYTES:,} characters, or as a whole number of 64"
        " bits"
    ),
]
ModelName = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(require_storable)]


class _AnyText(Convertor[str]):
    """The rest of a path. Starlette's own `path` ends at a line break, which an id may have."""

    regex = r"[\s\S]*"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


# for paths of routes: `{id:any_text}`
register_url_convertor("any_text", _AnyText())


class EncodeOptions(RequestModel):
    """The model, one of `GET /embed/models`; the default is EMBEDDING_MODEL, with the prompts of
    its own files. With an `entity`, texts are encoded as its searches encode them, by its model and
    with its prompts.

    `use_cache: false` makes the model encode texts that are in the cache.
    """

    model: ModelName | None = None
    dimension: Annotated[int, Field(ge=1, le=16_000)] | None = None
    entity: Name | None = None
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
    """A vector of `dimension` numbers. `tokens` and `cost_usd`, in US dollars, are 0 for a `cached`
    vector."""

    embedding: list[float] = Field(examples=[[0.0123, -0.0456, 0.0789]])
    dimension: int = Field(examples=[384])
    model: str = Field(examples=["sentence-transformers/all-MiniLM-L6-v2"])
    cached: bool
    tokens: int = Field(examples=[9])
    cost_usd: float = Field(examples=[0.0])


class Embeddings(BaseModel):
    """Vectors in the order of the texts; `cached` counts the vectors from the cache.

    A text that the model rejects has null as its vector, and a reason in `failures` by its index.
    """

    embeddings: list[list[float] | None] = Field(examples=[[[0.0123, -0.0456], [0.0789, 0.01]]])
    failures: dict[int, str] = Field(examples=[{}])
    dimension: int = Field(examples=[384])
    model: str = Field(examples=["sentence-transformers/all-MiniLM-L6-v2"])
    cached: int = Field(examples=[1])
    tokens: int = Field(examples=[14])
    cost_usd: float = Field(examples=[0.0])


class Model(BaseModel):
    """A model that can encode; the default is first. `entities` have published vectors of it."""

    model: str = Field(examples=["sentence-transformers/all-MiniLM-L6-v2"])
    dimension: int = Field(examples=[384])
    max_tokens: int = Field(examples=[256])
    usd_per_million_tokens: float = Field(examples=[0.0])
    loaded: bool
    entities: list[str] = Field(examples=[["product"]])


class Models(BaseModel):
    """The models that can encode."""

    models: list[Model]


class EmbedMetrics(BaseModel):
    """The texts encoded `since` the start or the last reset: `generated` by a model, `cached` in
    the cache; `hit_rate` is the share of `cached`."""

    since: datetime
    generated: int = Field(examples=[1200])
    cached: int = Field(examples=[800])
    hit_rate: float | None = Field(examples=[0.4])
    tokens: int = Field(examples=[10_500])
    cost_usd: float = Field(examples=[0.0])
    seconds: float = Field(examples=[3.2])
    models_loaded: list[str] = Field(examples=[["sentence-transformers/all-MiniLM-L6-v2"]])


class DocumentsBody(RequestModel):
    """The ids of new or changed rows of the staging model."""

    ids: Annotated[tuple[AnyId, ...], Field(min_length=1, max_length=MAX_IDS)] = Field(
        examples=[["89", "90"]]
    )


class Document(BaseModel):
    """The outcome of a row. A row without a `reason` is searchable now."""

    id: str = Field(examples=["89"])
    status: Literal["searchable", "without text", "quarantined", "refused"]
    reason: str | None = Field(None, examples=[None])


class Documents(BaseModel):
    """The outcome of each id, in the order of the request; `encoded` counts chunks."""

    entity: str = Field(examples=["product"])
    documents: list[Document]
    encoded: int = Field(examples=[1])
    reused: int = Field(examples=[0])
    tokens: int = Field(examples=[32])
    cost_usd: float = Field(examples=[0.0])


class SearchesBody(RequestModel):
    """Several searches."""

    searches: Annotated[tuple[SearchRequest, ...], Field(min_length=1, max_length=MAX_SEARCHES)]


class SearchResult(BaseModel):
    """The outcome of one search: its answer, or the problem that it met."""

    answer: Answer | None = None
    problem: Problem | None = None


class Searches(BaseModel):
    """The outcome of each search, in the order of the request."""

    results: list[SearchResult]


class FilterColumn(BaseModel):
    """A filter column and its Postgres type; `values` lists the values where they are at most 20,
    and `histogram` is of numbers, days and times, and of a sample in a large set."""

    name: str = Field(examples=["category"])
    type: str = Field(examples=["text"])
    values: list[FacetValue] | None = None
    histogram: Histogram | None = None


class EntityInfo(BaseModel):
    """An entity that can be searched; with `images`, also by an image.

    `fields` maps the columns that `columns` of a search may name to their types. `examples` are
    some of its rows, always the same as long as the texts are.
    """

    entity: str = Field(examples=["product"])
    model: str = Field(examples=["sentence-transformers/all-MiniLM-L6-v2"])
    metric: str = Field(examples=["cosine"])
    language: str = Field(examples=["english"])
    images: bool = Field(examples=[False])
    filters: list[FilterColumn]
    fields: dict[str, str] = Field(examples=[{"name": "text", "price": "numeric"}])
    examples: list[StoredRow] = []


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
        """Return a part that is not ready."""
        return cls(part=part, ready=False, detail=detail)


class Health(BaseModel):
    """Whether the process lives, and whether it can answer; `parts` names what is missing."""

    live: bool = True
    ready: bool
    parts: list[Part]


class Live(BaseModel):
    """The process lives."""

    live: bool = True


class IndexState(BaseModel):
    """The vector index and its recall against exact search, as last measured, with the recall that
    the entity declares."""

    type: str = Field(examples=["hnsw"])
    recall_at_10: float | None = Field(None, examples=[0.995])
    target: float | None = Field(None, examples=[0.99])


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


class PendingPartition(BaseModel):
    """A partition with chunks that are pending or quarantined."""

    partition_key: str = Field(examples=["2026-01-31"])
    pending: int
    quarantined: int


class EntityState(BaseModel):
    """The state of an entity.

    `coverage` is the percentage of rows that have all their vectors. `data_lag_seconds` is the time
    that the oldest change has waited for its vector. `cost_usd` is the cost of all runs. `problem`
    is the error that kept the other values from being read, or null. `partitions` are the first
    with pending or quarantined chunks, `failures` the latest failures of rows and texts, `runs` the
    latest runs, and `quality` the latest measurements of recall and of golden queries, whose bound
    is `ndcg_target`.
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
    partitions: list[PendingPartition] = []
    failures: list[FailedRow] = []
    quality: list[Quality] = []
    ndcg_target: float | None = Field(None, examples=[0.6])


class Stats(BaseModel):
    """The state of each entity. `replica_lag_seconds` is how far the database is behind its
    primary, null where it is the primary."""

    entities: list[EntityState]
    replica_lag_seconds: float | None = None
