"""The requests and answers of the search engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeAlias, TypedDict

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
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from embeddings_pipeline.entities.fields import MAX_ID_BYTES
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.store.search.published_search import (
    Bars,
    CountRequest,
    Counts,
    Hit,
    StoredRow,
    Suggestion,
)

if TYPE_CHECKING:
    import pandas as pd
    from pydantic_core import ErrorDetails

MAX_TOP_K = 1000
MAX_QUERY = 8192
MAX_FILTERS = 20
MAX_VALUES = 1000
MAX_COLUMNS = 50
MAX_FACETS = 10
MAX_BARS = 100
# rows that are counted at most, and those that have words, unless the request says otherwise
MAX_COUNTED, COUNTED_WORDS = 100_000, 1_000
MAX_ROWS = 100
MAX_DIMENSION = 16_000
_MAX_VALUE = 1024
# filters within filters
_MAX_DEPTH = 8

Mode: TypeAlias = Literal["dense", "text", "hybrid"]


def require_storable(text: str) -> str:
    if any(c == "\0" or "\ud800" <= c <= "\udfff" for c in text):
        raise ValueError("contains a NUL or half a surrogate pair, which no stored text can have")
    return text


def require_not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("is blank: write a text")
    return text


def require_short(number: int) -> int:
    if abs(number) >= 10**_MAX_VALUE:
        raise ValueError(f"should have at most {_MAX_VALUE} digits")
    return number


Word = Annotated[StrictStr, Field(max_length=_MAX_VALUE), AfterValidator(require_storable)]
Number = Annotated[StrictFloat, Field(allow_inf_nan=False)]
Integer = Annotated[StrictInt, AfterValidator(require_short)]
Scalar: TypeAlias = StrictBool | Integer | Number | Word
# openapi-generator's client for Python cannot be made of a union of several types and null
_NullableWord = Annotated[
    Word | None, WithJsonSchema({"type": ["string", "null"], "maxLength": _MAX_VALUE})
]
Nullable: TypeAlias = StrictBool | Integer | Number | _NullableWord
_MAX_NAME = 63
RowId = Annotated[str, Field(max_length=MAX_ID_BYTES), AfterValidator(require_storable)]
Name = Annotated[str, Field(min_length=1, max_length=_MAX_NAME), AfterValidator(require_storable)]
Query = Annotated[
    str,
    Field(max_length=MAX_QUERY),
    AfterValidator(require_storable),
    AfterValidator(require_not_blank),
]


class RequestModel(BaseModel):
    """A model that has no fields but its own; an error of another one names them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _has_known_fields(cls, value: Any) -> Any:
        for name in value if isinstance(value, dict) else ():
            if name not in cls.model_fields:
                fields = {"fields": ", ".join(cls.model_fields)}
                kind = PydanticCustomError("unknown_field", "is unknown (fields: {fields})", fields)
                problem = InitErrorDetails(type=kind, loc=(name,), input=None)
                raise ValidationError.from_exception_data(cls.__name__, [problem])
        return value


Members = Annotated[tuple[Scalar, ...], Field(min_length=1, max_length=MAX_VALUES)]


class Operators(RequestModel):
    """Bounds of a value (`gt`, `gte`, `lt`, `lte`); or what a list has: a value (`has`), any of
    several (`has_any`) or all of several (`has_all`)."""

    # one model, since a generated client cannot tell two objects without required fields apart
    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    gt: Scalar | None = None
    gte: Scalar | None = None
    lt: Scalar | None = None
    lte: Scalar | None = None
    has: Scalar | None = None
    has_any: Members | None = None
    has_all: Members | None = None

    @model_validator(mode="after")
    def _has_an_operator(self) -> Self:
        if not self.given():
            raise ValueError(f"write one of {', '.join(_OPERATORS)}")
        return self

    def given(self) -> dict[str, Scalar | tuple[Scalar, ...]]:
        """Return the given operators, with their values."""
        return self.model_dump(exclude_none=True)


_OPERATORS = tuple(Operators.model_fields)
Values = Annotated[tuple[Nullable, ...], Field(min_length=1, max_length=MAX_VALUES)]


def one_reason(otherwise: str) -> WrapValidator:
    """Return a validator for a union, whose error is one reason in place of one of each member:
    the reason of our own checks, or else `otherwise`."""

    def validate(value: Any, inner: ValidatorFunctionWrapHandler) -> Any:
        try:
            return inner(value)
        except ValidationError as error:
            own = dict.fromkeys(_message(p) for p in error.errors() if p["type"] == "value_error")
            raise ValueError("; ".join(own) or otherwise) from None

    return WrapValidator(validate)


# equal to a value, one of several (null may be among them), compared by operators, or null; a list
# has a value, or one of several
Filter: TypeAlias = Annotated[
    Nullable | Values | Operators,
    one_reason(
        f"write a text of at most {_MAX_VALUE:,} characters, a finite number, true, false or null,"
        f" a list of 1 to {MAX_VALUES:,} of these, or bounds or elements ({', '.join(_OPERATORS)});"
        """ a date is a text like '2026-01-31', and a jsonb value one like '{"colour": "red"}'"""
    ),
]
_COMBINED = ("and", "or", "not")
# by field, for who writes a text or a list in place of an object
_OBJECTS = {
    "filters": '{"category": "lamp"}',
    "sort": '{"by": "price", "order": "desc"}',
    "histograms": '{"column": "price", "least": 0, "most": 100}',
}


class Filters(BaseModel):
    """Conditions on filter columns, by column; a row must pass all of them, and also all filters of
    `and`, one of `or`, and not `not`."""

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, Filter]

    all_of: Annotated[tuple[Filters, ...], Field(min_length=1)] | None = Field(None, alias="and")
    any_of: Annotated[tuple[Filters, ...], Field(min_length=1)] | None = Field(None, alias="or")
    none_of: Filters | None = Field(None, alias="not")

    @model_validator(mode="before")
    @classmethod
    def _is_shallow(cls, value: Any) -> Any:
        if _depth(value) > _MAX_DEPTH:
            raise ValueError(f"filters may stand in one another {_MAX_DEPTH} times")
        return value

    @model_validator(mode="before")
    @classmethod
    def _has_known_operators(cls, value: Any) -> Any:
        for column, condition in value.items() if isinstance(value, dict) else ():
            if isinstance(condition, dict) and column not in _COMBINED:
                unknown = [key for key in condition if key not in _OPERATORS]
                if unknown:
                    raise ValueError(
                        f"filter {column!r} has no operator {unknown[0]!r}"
                        f" (operators: {', '.join(_OPERATORS)}); a jsonb column is compared with"
                        """ a whole value as text, like '{"colour": "red"}'"""
                    )
        return value

    @model_validator(mode="after")
    def _has_few_conditions(self) -> Self:
        if self._count() > MAX_FILTERS:
            raise ValueError(f"there may be {MAX_FILTERS} filters")
        for column in self.columns:
            if not 1 <= len(column) <= _MAX_NAME:
                raise ValueError(f"a column has 1 to {_MAX_NAME} characters, not {len(column)}")
            require_storable(column)
        return self

    @property
    def columns(self) -> Mapping[str, Filter]:
        """The conditions on columns."""
        return self.__pydantic_extra__ or {}

    def plain(self) -> dict[str, Any]:
        """Return the filters in the form that `store.filters.parse` takes: a value, a tuple of
        values, a mapping of bounds or members, and groups of these."""
        groups: dict[str, Any] = {}
        if self.all_of:
            groups["and"] = [part.plain() for part in self.all_of]
        if self.any_of:
            groups["or"] = [part.plain() for part in self.any_of]
        if self.none_of:
            groups["not"] = self.none_of.plain()
        return {column: _plain(condition) for column, condition in self.columns.items()} | groups

    def _count(self) -> int:
        parts = [*(self.all_of or ()), *(self.any_of or ()), *filter(None, [self.none_of])]
        return len(self.columns) + sum(part._count() for part in parts)


def _depth(value: Any) -> int:
    """How often filters stand in one another."""
    depth, level = 0, [value]
    while level:
        inner: list[Any] = []
        for filters in level:
            if isinstance(filters, Mapping):
                for group in (filters.get("and"), filters.get("or"), [filters.get("not")]):
                    inner += group if isinstance(group, list | tuple) else []
        level = [part for part in inner if isinstance(part, Mapping)]
        depth += bool(level)
    return depth


class Order(RequestModel):
    """Orders rows by a filter column, rows without a value last."""

    by: Name
    order: Literal["asc", "desc"] = "asc"


class Sort(Order):
    """Orders the `among` best rows of a search by a filter column, rows without a value last."""

    among: Annotated[int, Field(ge=1, le=MAX_TOP_K)] = 100


class HistogramBars(RequestModel):
    """Counts rows in `bars` ranges of equal width of a filter column of numbers, days or times,
    from `least` to `most`; a value between two is in the upper one, and the first and the last
    have the values beyond, too. Days and times are seconds since 1970."""

    column: Name
    least: Annotated[float, Field(allow_inf_nan=False)]
    most: Annotated[float, Field(allow_inf_nan=False)]
    bars: Annotated[int, Field(ge=1, le=MAX_BARS)] = 20

    @model_validator(mode="after")
    def _has_a_width(self) -> Self:
        if self.least >= self.most or self.most - self.least == float("inf"):
            raise ValueError("least must be less than most, by a finite number")
        return self


class _CountingRequest(RequestModel):
    """The fields of every request that counts rows."""

    entity: Name = Field(description="One of GET /entities.")
    filters: Filters = Field(Filters(), description="The rows to search; all by default.")
    total: bool = Field(False, description="Count the rows that match.")
    facets: Annotated[tuple[Name, ...], Field(max_length=MAX_FACETS)] = Field(
        (), description="Filter columns; the 20 most frequent values among the rows that match."
    )
    facet_prefix: Annotated[Word, Field(min_length=1)] | None = Field(
        None,
        description="Only facet values with a word that begins like this, in any case.",
    )
    histograms: Annotated[tuple[HistogramBars, ...], Field(max_length=MAX_FACETS)] = Field(
        (), description="Count the rows that match in ranges of filter columns."
    )

    @model_validator(mode="after")
    def _has_one_histogram_of_a_column(self) -> Self:
        columns = [histogram.column for histogram in self.histograms]
        if len(set(columns)) < len(columns):
            raise ValueError(f"histograms: a column has one, not two ({', '.join(columns)})")
        return self

    @property
    def counts(self) -> CountRequest | None:
        """What is counted; None where nothing is."""
        if not (self.total or self.facets or self.histograms):
            return None
        bars = (Bars(h.column, h.least, h.most, h.bars) for h in self.histograms)
        return CountRequest(self.facets, self.facet_prefix, tuple(bars))

    @classmethod
    def of(cls, **values: Any) -> Self:
        """Return a request of these values. Raises ConfigurationError that names a wrong one."""
        try:
            return cls(**values)
        except ValidationError as error:
            raise ConfigurationError(f"search: {describe_invalid(error.errors())}") from None


class ListRequest(_CountingRequest):
    """A request for rows that pass the filters, without a query."""

    top_k: Annotated[int, Field(ge=0, le=MAX_ROWS)] = Field(
        20, description="How many rows; with 0, they are only counted."
    )
    sort: Order | None = Field(None, description="By default, rows come in the order of their ids.")
    after: RowId | None = Field(
        None, description="The id of the last row of a page, for the next page."
    )


class _Request(_CountingRequest):
    """The fields of every search. docs/search.md explains thresholds."""

    top_k: Annotated[int, Field(ge=1, le=MAX_TOP_K)] | None = Field(
        None, description="How many rows; by default EMBEDDING_SIMILARITY_TOP_K of the service, 10."
    )
    offset: Annotated[int, Field(ge=0, lt=MAX_TOP_K)] = Field(
        0,
        description=(
            "How many of the best rows to skip: with `top_k` at most 1,000, and with `sort` at most"
            " its `among`."
        ),
    )
    sort: Sort | None = Field(None, description="By default, the best rows come first.")
    count_to: Annotated[int, Field(ge=1, le=MAX_COUNTED)] = Field(
        COUNTED_WORDS,
        description="The most rows to count in mode text; the other modes count 100,000.",
    )
    vectors: bool = Field(False, description="Add the vector of each hit.")
    min_similarity: Annotated[float, Field(allow_inf_nan=False)] | None = Field(
        None,
        description=(
            "Leave out rows that are less similar; by default EMBEDDING_SIMILARITY_THRESHOLD of the"
            " service, where it is set."
        ),
    )
    max_distance: Annotated[float, Field(allow_inf_nan=False)] | None = Field(
        None, description="Leave out rows that are farther."
    )
    exact: bool = Field(False, description="Compare every vector, without the index.")
    columns: Annotated[tuple[Name, ...], Field(max_length=MAX_COLUMNS)] = Field(
        (), description="Columns of the staging model to add to `fields` of each hit."
    )


class SearchRequest(_Request):
    """A search for rows that answer a query, or are near to a `vector` that stands in place of the
    query's own."""

    query: Query | None = Field(None, description="What to search for; needed without a `vector`.")
    vector: Annotated[tuple[Number, ...], Field(min_length=1, max_length=MAX_DIMENSION)] | None = (
        Field(
            None, description="Numbers in place of the query's vector, in modes dense and hybrid."
        )
    )
    mode: Mode = Field("dense", description="By vectors, by words (text), or by both (hybrid).")
    text_weight: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None,
        description=(
            "The weight of the words in mode hybrid, where the vectors have the rest of 1; by"
            " default the tuned weight of the entity."
        ),
    )
    highlight: bool = Field(False, description="Where words of the query stand in each text.")
    spelling: bool = Field(
        False,
        description=(
            "Compare words that no text has with those that texts have, in modes text and hybrid."
        ),
    )
    rerank: Annotated[str, Field(min_length=1, max_length=200)] | None = Field(
        None, description="A cross-encoder of SEARCH_RERANKERS that orders the best rows again."
    )

    @model_validator(mode="after")
    def _has_what_its_mode_needs(self) -> Self:
        if self.query is None and (self.vector is None or self.mode != "dense"):
            needed = "query or vector" if self.mode == "dense" else "query"
            raise ValueError(f"{needed} is missing, which mode {self.mode} needs")
        if self.vector is not None and self.mode == "text":
            raise ValueError("vector does not apply to mode text, which compares words")
        if self.query is None and (self.highlight or self.rerank):
            raise ValueError("highlight and rerank need a query")
        if self.spelling and self.mode == "dense":
            raise ValueError("spelling applies to modes text and hybrid, which search words")
        if self.text_weight is not None and self.mode != "hybrid":
            raise ValueError(f"text_weight applies to mode hybrid, not to mode {self.mode}")
        if self.sort and self.rerank:
            raise ValueError("sort and rerank exclude one another: keep one")
        return self

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

    id: RowId


class ImageRequest(_Request):
    """A search for the rows whose vectors are nearest to an image, given by its bytes."""

    image: Annotated[bytes, Field(repr=False)]


AnyRequest: TypeAlias = SearchRequest | SimilarRequest | ImageRequest


@dataclass(frozen=True)
class Total:
    """The number of rows that match; there are more where it is not `exact`."""

    rows: int
    exact: bool


@dataclass(frozen=True)
class FacetValue:
    """A value of a filter column (of lists, an element), and the number of rows with it."""

    value: Any
    count: int


@dataclass(frozen=True)
class Answer:
    """The hits of a search, best first.

    `coverage` is the percentage of the entity's rows that have vectors. `data_lag_seconds` is the
    time that the oldest change has waited for its vector; 0 where no change waits. Both are null
    during the first count of a large entity. `model` and `vector_set` were searched. `shortfall`
    is the number of hits missing to `top_k`.

    `words` are the query's words, as the language reduces them, with the number of texts that have
    each, where words are searched: no row has a word of the query if all are 0. `best_similarity`
    is the similarity of the nearest vector, where vectors are searched. `suggestion` is the query
    with words that texts have in place of those that none has. `total`, `facets`, `histograms` (the
    number of rows in each bar) and `suggestion` are null unless the request asks for them.
    """

    entity: str
    mode: Mode
    results: Sequence[Hit]
    coverage: float | None
    data_lag_seconds: float | None
    model: str
    vector_set: int
    shortfall: int
    words: Mapping[str, int] | None = None
    best_similarity: float | None = None
    total: Total | None = None
    facets: Mapping[str, Sequence[FacetValue]] | None = None
    histograms: Mapping[str, Sequence[int]] | None = None
    suggestion: Suggestion | None = None

    def to_pandas(self) -> pd.DataFrame:
        """Return a data frame with a row for each hit: id, chunk, score, title, url, image_url,
        text and the fields."""
        import pandas as pd

        return pd.DataFrame(
            [
                {
                    **{"id": h.id, "chunk": h.chunk, "score": h.score, "title": h.title},
                    **{"url": h.url, "image_url": h.image_url, "text": h.text},
                    **h.fields,
                }
                for h in self.results
            ]
        )


@dataclass(frozen=True)
class RowList:
    """Published rows in order, each with its first text. `total`, `facets` and `histograms` are as
    in an answer."""

    entity: str
    rows: Sequence[StoredRow]
    total: Total | None = None
    facets: Mapping[str, Sequence[FacetValue]] | None = None
    histograms: Mapping[str, Sequence[int]] | None = None


@dataclass(frozen=True)
class Rows:
    """Published rows, in the order of their ids in the request; `missing` ids have none."""

    entity: str
    rows: Sequence[StoredRow]
    missing: Sequence[str]


def mode_of(request: AnyRequest) -> Mode:
    """Return the mode of a search; images and similar rows are searched by vector."""
    return request.mode if isinstance(request, SearchRequest) else "dense"


def page_size(request: AnyRequest, default: int) -> int:
    """Return the most hits of an answer: `top_k`, or this default as far as the search ranks.

    Raises ConfigurationError where `offset` and `top_k` together are more than a search ranks.
    """
    most, limit = MAX_TOP_K, ""
    if request.sort:
        most, limit = request.sort.among, ", the `among` of sort"
    top_k = request.top_k or max(1, min(default, most - request.offset))
    if request.offset + top_k > most:
        raise ConfigurationError(
            f"offset and top_k together may be {most}{limit}, not {request.offset + top_k}"
        )
    return top_k


class Counted(TypedDict):
    """The fields of an answer that count rows."""

    total: Total | None
    facets: Mapping[str, Sequence[FacetValue]] | None
    histograms: Mapping[str, Sequence[int]] | None


def counted(request: _CountingRequest, counts: Counts | None) -> Counted:
    """Return the counts as fields of an answer, null where the request does not ask for them."""
    if counts is None:
        return Counted(total=None, facets=None, histograms=None)
    facets = {
        column: [FacetValue(value, count) for value, count in values]
        for column, values in counts.facets.items()
    }
    return Counted(
        total=Total(counts.rows, counts.exact),
        facets=facets if request.facets else None,
        histograms=counts.histograms if request.histograms else None,
    )


def _plain(condition: Filter) -> Any:
    return condition.given() if isinstance(condition, Operators) else condition


def describe_invalid(problems: Sequence[ErrorDetails]) -> str:
    """Return what is wrong with the fields of a request, at most ten of them, without the input,
    which may be long or secret."""
    # a list with a wrong item is also said to be too short
    wrong = {p["loc"][:depth] for p in problems for depth in range(len(p["loc"]))}
    told = [p for p in problems if p["type"] != "too_short" or p["loc"] not in wrong]
    return "; ".join(f"{_path(problem)}{_message(problem)}" for problem in told[:10])


def _path(problem: ErrorDetails) -> str:
    # FastAPI adds the place in the body where its JSON ends
    parts = problem["loc"][:1] if problem["type"] == "json_invalid" else problem["loc"]
    path = ".".join(str(part)[:64] for part in parts)
    return f"{path}: " if path else ""


def _message(problem: ErrorDetails) -> str:
    kind, context = problem["type"], problem.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind in ("too_short", "too_long"):
        least, most = context.get("min_length"), context.get("max_length")
        bound = f"at least {least}" if kind == "too_short" else f"at most {most}"
        return f"should have {bound} items, not {context['actual_length']}"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        *_, field = [part for part in problem["loc"] if isinstance(part, str)] or [""]
        example = _OBJECTS.get(field)
        return "should be an object" + (f" like {example}" if example else "")
    if kind == "tuple_type":
        return "should be a list"
    if kind == "json_invalid":
        *_, place = problem["loc"] or [None]
        at = f" at character {place}" if isinstance(place, int) else ""
        return f"is not JSON: {context['error']}{at}"
    return problem["msg"]
