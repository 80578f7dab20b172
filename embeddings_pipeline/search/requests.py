"""What can be asked of the search engine, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
    model_validator,
)

from embeddings_pipeline.errors import ConfigurationError

if TYPE_CHECKING:
    import pandas as pd

MAX_TOP_K = 1000
MAX_QUERY = 8192
MAX_FILTERS = 20
MAX_VALUES = 1000
MAX_COLUMNS = 50
_MAX_VALUE = 1024

Mode: TypeAlias = Literal["dense", "text", "hybrid"]


def storable(text: str) -> str:
    if any(c == "\0" or "\ud800" <= c <= "\udfff" for c in text):
        raise ValueError("holds a NUL or half a surrogate pair, which no stored text can have")
    return text


def not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("is blank: ask for something")
    return text


Word = Annotated[StrictStr, Field(max_length=_MAX_VALUE), AfterValidator(storable)]
Number = Annotated[StrictFloat, Field(allow_inf_nan=False)]
Integer = Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)]
Scalar: TypeAlias = StrictBool | Integer | Number | Word
Name = Annotated[str, Field(min_length=1, max_length=63), AfterValidator(storable)]
Query = Annotated[
    str, Field(max_length=MAX_QUERY), AfterValidator(storable), AfterValidator(not_blank)
]


class _Asked(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Range(_Asked):
    """Values between bounds, of which at least one is given."""

    gt: Scalar | None = None
    gte: Scalar | None = None
    lt: Scalar | None = None
    lte: Scalar | None = None

    @model_validator(mode="after")
    def _has_a_bound(self) -> Self:
        if not self.bounds():
            raise ValueError("a range needs one of gt, gte, lt, lte")
        return self

    def bounds(self) -> dict[str, Scalar]:
        """The bounds that are given, by name."""
        return self.model_dump(exclude_none=True)


Values = Annotated[tuple[Scalar | None, ...], Field(min_length=1, max_length=MAX_VALUES)]
# equal to a value, one of several (null may be among them), within a range, or null
Filter: TypeAlias = Scalar | Values | Range | None
Filters = Annotated[Mapping[Name, Filter], Field(max_length=MAX_FILTERS)]


class _Request(_Asked):
    """What every request may say. Without `top_k` it is EMBEDDING_SIMILARITY_TOP_K.

    `columns` of the staging model come with each hit, beside the filter columns. Thresholds are
    explained in docs/search.md; without `min_similarity` it is EMBEDDING_SIMILARITY_THRESHOLD.
    """

    entity: Name
    top_k: Annotated[int, Field(ge=1, le=MAX_TOP_K)] | None = None
    filters: Filters = Field(default_factory=dict)
    min_similarity: Annotated[float, Field(allow_inf_nan=False)] | None = None
    max_distance: Annotated[float, Field(allow_inf_nan=False)] | None = None
    exact: bool = False
    columns: Annotated[tuple[Name, ...], Field(max_length=MAX_COLUMNS)] = ()

    def plain_filters(self) -> dict[str, Any]:
        """The filters as values, tuples of them, and bounds by name."""
        return {
            column: wanted.bounds() if isinstance(wanted, Range) else wanted
            for column, wanted in self.filters.items()
        }

    @classmethod
    def of(cls, **values: Any) -> Self:
        """A request of these values. Raises ConfigurationError that says which one is wrong."""
        try:
            return cls(**values)
        except ValidationError as error:
            raise ConfigurationError(f"search: {_describe(error)}") from None


class SearchRequest(_Request):
    """Rows that answer a query. `rerank` names a cross-encoder that orders the best anew."""

    query: Query
    mode: Mode = "dense"
    rerank: Annotated[str, Field(min_length=1, max_length=200)] | None = None

    @model_validator(mode="after")
    def _thresholds_are_of_vectors(self) -> Self:
        if self.mode != "dense" and (self.min_similarity, self.max_distance) != (None, None):
            raise ValueError(
                f"min_similarity and max_distance are of vectors: mode {self.mode} has other"
                " scores, without a threshold"
            )
        return self


class SimilarRequest(_Request):
    """Rows whose vectors are nearest to those of the row `id`, which is not among them."""

    id: Annotated[str, Field(min_length=1, max_length=_MAX_VALUE), AfterValidator(storable)]


class ImageRequest(_Request):
    """Rows whose vectors are nearest to that of an image, given by its bytes."""

    image: Annotated[bytes, Field(repr=False)]


AnyRequest: TypeAlias = SearchRequest | SimilarRequest | ImageRequest


@dataclass(frozen=True)
class Hit:
    """A row that was found, by its best chunk. `fields` holds plain values for JSON.

    `score`: the greater, the better; what it is in each mode says docs/search.md.
    """

    id: str
    chunk: int
    score: float
    text: str
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class Answer:
    """Hits, the best first. `coverage` is the percentage of the entity's rows that have vectors,
    `data_lag_seconds` how long the oldest change has waited for one (0: nothing waits), both null
    while a large entity is counted for the first time; `model`
    and `vector_set` what was searched; `shortfall` how many fewer than `top_k` were found."""

    entity: str
    mode: Mode
    results: Sequence[Hit]
    coverage: float | None
    data_lag_seconds: float | None
    model: str
    vector_set: int
    shortfall: int

    def to_pandas(self) -> pd.DataFrame:
        """A data frame with a row for each hit: id, chunk, score, text and the fields."""
        import pandas as pd

        return pd.DataFrame(
            [
                {"id": h.id, "chunk": h.chunk, "score": h.score, "text": h.text, **h.fields}
                for h in self.results
            ]
        )


def _describe(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, problem['loc'])) or 'request'}: {problem['msg']}"
        for problem in error.errors(include_url=False)
    )
