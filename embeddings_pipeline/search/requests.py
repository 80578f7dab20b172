"""The requests and answers of the search engine."""

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

from embeddings_pipeline.entities.fields import MAX_ID_BYTES
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.store.search.published_search import Hit, StoredRow

if TYPE_CHECKING:
    import pandas as pd

MAX_TOP_K = 1000
MAX_QUERY = 8192
MAX_FILTERS = 20
MAX_VALUES = 1000
MAX_COLUMNS = 50
_MAX_VALUE = 1024

Mode: TypeAlias = Literal["dense", "text", "hybrid"]


def require_storable(text: str) -> str:
    if any(c == "\0" or "\ud800" <= c <= "\udfff" for c in text):
        raise ValueError("contains a NUL or half a surrogate pair, which no stored text can have")
    return text


def require_not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("is blank: write a text")
    return text


Word = Annotated[StrictStr, Field(max_length=_MAX_VALUE), AfterValidator(require_storable)]
Number = Annotated[StrictFloat, Field(allow_inf_nan=False)]
Integer = Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)]
Scalar: TypeAlias = StrictBool | Integer | Number | Word
Name = Annotated[str, Field(min_length=1, max_length=63), AfterValidator(require_storable)]
Query = Annotated[
    str,
    Field(max_length=MAX_QUERY),
    AfterValidator(require_storable),
    AfterValidator(require_not_blank),
]


class _StrictModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Range(_StrictModel):
    """A range of values with at least one bound."""

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
        """Return the given bounds by name."""
        return self.model_dump(exclude_none=True)


Members = Annotated[tuple[Scalar, ...], Field(min_length=1, max_length=MAX_VALUES)]


class Lists(_StrictModel):
    """What a list has: one value, any of several, or all of several."""

    has: Scalar | None = None
    has_any: Members | None = None
    has_all: Members | None = None

    @model_validator(mode="after")
    def _has_a_member(self) -> Self:
        if not self.members():
            raise ValueError("a filter on a list needs one of has, has_any, has_all")
        return self

    def members(self) -> dict[str, Scalar | tuple[Scalar, ...]]:
        """Return the given values by name."""
        return self.model_dump(exclude_none=True)


Values = Annotated[tuple[Scalar | None, ...], Field(min_length=1, max_length=MAX_VALUES)]
# equal to a value, one of several (null may be among them), within a range, or null; a list has a
# value, or one of several
Filter: TypeAlias = Scalar | Values | Range | Lists | None
Filters = Annotated[Mapping[Name, Filter], Field(max_length=MAX_FILTERS)]


class _Request(_StrictModel):
    """The fields of every request. The default of `top_k` is EMBEDDING_SIMILARITY_TOP_K.

    `columns` names columns of the staging model that each hit has in addition to the filter
    columns. The default of `min_similarity` is EMBEDDING_SIMILARITY_THRESHOLD; docs/search.md
    explains thresholds.
    """

    entity: Name
    top_k: Annotated[int, Field(ge=1, le=MAX_TOP_K)] | None = None
    filters: Filters = Field(default_factory=dict)
    min_similarity: Annotated[float, Field(allow_inf_nan=False)] | None = None
    max_distance: Annotated[float, Field(allow_inf_nan=False)] | None = None
    exact: bool = False
    columns: Annotated[tuple[Name, ...], Field(max_length=MAX_COLUMNS)] = ()

    def plain_filters(self) -> dict[str, Any]:
        """Return each filter as a value, a tuple of values, or a mapping of bounds or members."""
        return {column: _plain(condition) for column, condition in self.filters.items()}

    @classmethod
    def of(cls, **values: Any) -> Self:
        """Return a request of these values. Raises ConfigurationError that names a wrong one."""
        try:
            return cls(**values)
        except ValidationError as error:
            raise ConfigurationError(f"search: {_describe(error)}") from None


class SearchRequest(_Request):
    """A search for rows that answer a query. `rerank` names a cross-encoder for the best rows."""

    query: Query
    mode: Mode = "dense"
    rerank: Annotated[str, Field(min_length=1, max_length=200)] | None = None

    @model_validator(mode="after")
    def _thresholds_are_of_vectors(self) -> Self:
        if self.mode != "dense" and (self.min_similarity, self.max_distance) != (None, None):
            raise ValueError(
                "min_similarity and max_distance apply only to mode dense: the scores of mode"
                f" {self.mode} have no threshold"
            )
        return self


class SimilarRequest(_Request):
    """A search for the rows whose vectors are nearest to the row `id`, which is left out."""

    id: Annotated[str, Field(max_length=MAX_ID_BYTES), AfterValidator(require_storable)]


class ImageRequest(_Request):
    """A search for the rows whose vectors are nearest to an image, given by its bytes."""

    image: Annotated[bytes, Field(repr=False)]


AnyRequest: TypeAlias = SearchRequest | SimilarRequest | ImageRequest


@dataclass(frozen=True)
class Answer:
    """The hits of a search, best first.

    `coverage` is the percentage of the entity's rows that have vectors. `data_lag_seconds` is the
    time that the oldest change has waited for its vector; 0 where no change waits. Both are null
    during the first count of a large entity. `model` and `vector_set` were searched. `shortfall`
    is the number of hits missing to `top_k`.
    """

    entity: str
    mode: Mode
    results: Sequence[Hit]
    coverage: float | None
    data_lag_seconds: float | None
    model: str
    vector_set: int
    shortfall: int

    def to_pandas(self) -> pd.DataFrame:
        """Return a data frame with a row for each hit: id, chunk, score, text and the fields."""
        import pandas as pd

        return pd.DataFrame(
            [
                {"id": h.id, "chunk": h.chunk, "score": h.score, "text": h.text, **h.fields}
                for h in self.results
            ]
        )


@dataclass(frozen=True)
class Rows:
    """Published rows, in the order of their ids in the request; `missing` ids have none."""

    entity: str
    rows: Sequence[StoredRow]
    missing: Sequence[str]


def _plain(condition: Filter) -> Any:
    if isinstance(condition, Range):
        return condition.bounds()
    return condition.members() if isinstance(condition, Lists) else condition


def _describe(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, problem['loc'])) or 'request'}: {problem['msg']}"
        for problem in error.errors(include_url=False)
    )
