"""What the service takes to encode and to sync, and what it answers."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

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
