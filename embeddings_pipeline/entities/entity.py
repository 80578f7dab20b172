"""An entity, which is a staging model whose rows get vectors, as declared in its yml; and the
messages for a wrong declaration."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import ErrorDetails

from embeddings_pipeline.entities.partitions import DayPartitions, HashPartitions, Partitions
from embeddings_pipeline.entities.values import (
    Column,
    Columns,
    Cron,
    Duration,
    Language,
    Name,
    Number,
    StrictModel,
    Template,
    Text,
    TypeOrOptions,
    Whole,
)

# types and distances of vectors in pgvector
Storage = Literal["vector", "halfvec"]
Metric = Literal["cosine", "l2", "ip"]
# columns of the pipeline's own tables, without the filter columns
RESERVED_COLUMNS = frozenset(
    [
        "chunk",
        "partition_key",
        "fingerprint",
        "text",
        "parts",
        "weights",
        "text_hash",
        "tokens",
        "part_hashes",
        "part_tokens",
        "lexemes",
        "source_changed_at",
        "serialised_at",
        "embedding",
        "version",
        "run_id",
        "model",
        "updated_at",
    ]
)
# column names that search statements use themselves
_SEARCH_COLUMNS = frozenset(
    {"score", "distance", "length", "rank", "way", "weight", "fields", "shown"}
)
# what a result shows, each a key of the declaration and a column of the pipeline's tables
SHOWN = ("title", "url", "image_url")
# keys of the declaration that decide the content of the texts
KEYS_OF_TEXTS = (
    *("include", "exclude", "template", "weights", "chunk", "image", "filters", "changed_at"),
    *("deleted", "where", "partitions", *SHOWN),
)
# words that join the filters of a search; no filter column has such a name
FILTER_OPERATORS = ("and", "or", "not")
# bookkeeping columns, which the default text leaves out
BOOKKEEPING_COLUMNS = frozenset({"created_at", "updated_at", "ingested_at", "deleted"})
# Dagster's shortest freshness window
_SHORTEST_FRESHNESS = timedelta(minutes=1)
# most dimensions of an indexed `vector` and `halfvec` column: github.com/pgvector/pgvector#hnsw
MAX_INDEXED_VECTOR, MAX_INDEXED_HALFVEC = 2000, 4000


class Chunk(StrictModel):
    """Splits a long text into chunks of at most `tokens` tokens, each with a vector.

    Neighbouring chunks share up to `overlap` tokens, in whole sentences, or in whole words where a
    sentence is split. The columns of `repeat` stand in front of each chunk, in at most half of its
    tokens, and say what it is a part of.
    """

    tokens: Whole = Field(ge=16, le=8192)
    overlap: Whole = Field(0, ge=0)
    repeat: Columns = ()

    @model_validator(mode="after")
    def _overlap_leaves_room(self) -> Self:
        if self.overlap * 2 > self.tokens:
            raise ValueError(f"overlap {self.overlap} is more than half of tokens {self.tokens}")
        return self


class Prompts(StrictModel):
    """What is put before each query, and before each document or chunk. Replaces the model's own
    prompts."""

    query: str = ""
    document: str = ""


class Index(StrictModel):
    """The vector index of an entity.

    `recall` is the recall@10 against exact search that the index must reach. `rebuild` is the share
    of changed rows at which the index is rebuilt.
    """

    type: Literal["hnsw", "ivfflat", "none"] = "hnsw"
    m: Whole = Field(16, ge=2, le=100)
    ef_construction: Whole = Field(64, ge=4, le=1000)
    lists: Whole | None = Field(None, ge=1, le=32768)
    recall: Number = Field(0.99, ge=0, le=1)
    rebuild: Number = Field(0.2, ge=0, le=1)

    @model_validator(mode="after")
    def _options_fit_the_type(self) -> Self:
        strangers = self.model_fields_set - self._applying()
        if strangers:
            raise ValueError(f"{', '.join(sorted(strangers))} does not apply to {self.type}")
        if self.type == "hnsw" and self.ef_construction < 2 * self.m:
            raise ValueError("ef_construction must be at least twice m")
        return self

    @model_serializer(mode="wrap")
    def _without_what_does_not_apply(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # keys of another type would fail the validation when the JSON is read back
        return {key: value for key, value in whole(self).items() if key in self._applying()}

    def _applying(self) -> set[str]:
        own = {"hnsw": {"m", "ef_construction"}, "ivfflat": {"lists"}, "none": set()}
        return {"type", "recall", "rebuild", *own[self.type]}


class Freshness(StrictModel):
    """The ages of the published view's last materialisation at which the check warns and fails."""

    warn: Duration = timedelta(hours=26)
    fail: Duration = timedelta(hours=50)

    @model_validator(mode="after")
    def _warns_first(self) -> Self:
        if self.warn >= self.fail:
            raise ValueError("warn must be shorter than fail")
        if self.warn < _SHORTEST_FRESHNESS:
            raise ValueError("warn must be at least 1m")
        return self


class Retrieval(StrictModel):
    """Golden queries: a CSV file of the dbt project with the columns `query` and `id`, a row for
    each id that answers a query. A set whose nDCG@10 is below the bound is not published, or, with
    severity warn, is published with a warning."""

    queries: Text
    ndcg_at_10: Number = Field(ge=0, le=1)
    severity: Literal["error", "warn"] = "error"


# of Dagster; default is the code location's own
ExecutorName = Literal["in_process", "multiprocess", "default"]


class Resources(StrictModel):
    """What a run needs: `cpu` in cores, `memory` in Mi or Gi bytes, `gpu` in cards."""

    cpu: Annotated[Number, Field(gt=0)] | None = None
    memory: str | None = Field(None, pattern=r"^[1-9]\d*(Mi|Gi)$")
    gpu: Whole | None = Field(None, ge=1)


class Placement(StrictModel):
    """Where the runs of an entity go: `tags` of its job and runs, `op_tags` of its ops, the
    concurrency `pool` of the step that encodes, the `queue` of Celery, and the `executor` of the
    job."""

    tags: dict[Text, Text] = Field(default_factory=dict)
    op_tags: dict[Text, Any] = Field(default_factory=dict)
    pool: Text | None = None
    queue: Text | None = None
    resources: Resources = Resources()
    executor: ExecutorName | None = None


class Entity(StrictModel):
    """A validated entity. All fields except the first three are keys of `meta.embedding`."""

    name: Name
    db_schema: str
    table: str

    id: Column
    title: Column | None = None
    url: Column | None = None
    image_url: Column | None = None
    include: Columns | None = Field(None, min_length=1)
    exclude: Columns = ()
    template: Template | None = None
    weights: dict[Column, Annotated[Number, Field(gt=0)]] | None = Field(None, min_length=1)
    chunk: Chunk | None = None
    image: Column | None = None
    filters: Columns = ()
    language: Language = "english"
    deleted: Column | None = None
    where: Text | None = None
    changed_at: Column | None = None
    model: Text | None = None
    prompts: Prompts | None = None
    dimension: Whole | None = Field(None, ge=1, le=16000)
    storage: Storage | None = None
    metric: Metric = "cosine"
    index: Annotated[Index, TypeOrOptions] = Index()
    partitions: Annotated[Partitions, Field(discriminator="by")] = HashPartitions()
    schedule: Cron = "0 2 * * *"
    automation: Literal["eager"] | None = None
    limit: Whole | None = Field(None, ge=1)
    run: Placement = Placement()
    freshness: Freshness = Freshness()
    publish: Literal["auto", "manual"] = "auto"
    keep_sets: Whole = Field(1, ge=0)
    max_delete_share: Number = Field(0.5, ge=0, le=1)
    retrieval: Retrieval | None = None

    @field_validator("id", mode="before")
    @classmethod
    def _is_one_column(cls, value: object) -> object:
        if isinstance(value, list):
            raise ValueError(
                "must be one column: for a key of several columns add one to the model, like"
                " order_id || '-' || line"
            )
        return value

    @model_validator(mode="before")
    @classmethod
    def _partitions_by_hash_unless_said(cls, values: Any) -> Any:
        partitions = values.get("partitions") if isinstance(values, dict) else None
        if isinstance(partitions, dict) and "by" not in partitions:
            return {**values, "partitions": {**partitions, "by": "hash"}}
        return values

    @model_validator(mode="after")
    def _one_way_to_text(self) -> Self:
        ways = [key for key in ("include", "template", "weights") if getattr(self, key)]
        texts_only = [key for key in ("exclude", "chunk") if getattr(self, key)]
        texts_only += ["prompts"] if self.prompts else []
        of_text = [*ways, *texts_only]
        if self.image and of_text:
            raise ValueError(
                f"image and {' and '.join(of_text)} exclude one another: a row has an image or a"
                " text"
            )
        if len(ways) > 1:
            raise ValueError(f"{' and '.join(ways)} exclude one another: keep one")
        if self.exclude and ways:
            raise ValueError(f"exclude goes with the default text, not with {ways[0]}")
        if self.weights and self.chunk:
            raise ValueError("weights and chunk exclude one another: keep one")
        return self

    @model_validator(mode="after")
    def _filters_have_free_names(self) -> Self:
        operators = sorted(set(self.filters) & set(FILTER_OPERATORS))
        if operators:
            raise ValueError(
                f"filters {', '.join(operators)}: the word joins the filters of a search: rename"
                " the column in the staging model"
            )
        taken = sorted(set(self.filters) & (RESERVED_COLUMNS | {self.id}))
        if taken:
            raise ValueError(
                f"filters {', '.join(taken)}: the name is reserved for a column of the pipeline's"
                " tables: rename the column in the staging model"
            )
        if self.id in RESERVED_COLUMNS | _SEARCH_COLUMNS | self.shown.keys():
            raise ValueError(
                f"id {self.id!r}: the name is reserved: rename the column in the staging model"
            )
        for key, column in self.shown.items():
            if key in self.filters and key != column:
                raise ValueError(
                    f"{key} {column!r}: the filter {key!r} has the same name and is another"
                    f" column: write `{key}: {key}`, or rename the column in the staging model"
                )
        return self

    @property
    def repeated(self) -> Columns:
        """The columns that stand in front of each chunk."""
        return self.chunk.repeat if self.chunk else ()

    @property
    def shown(self) -> dict[str, str]:
        """The declared keys of SHOWN, each with its column of the staging model."""
        return {key: column for key in SHOWN if (column := getattr(self, key))}

    def declaration(self) -> str:
        """Return the declared keys without defaults, as JSON for `model_validate_json`."""
        return self.model_dump_json(exclude_unset=True)

    def __str__(self) -> str:
        return self.name


_NESTED: Mapping[str, type[BaseModel]] = {
    "chunk": Chunk,
    "prompts": Prompts,
    "index": Index,
    "freshness": Freshness,
    "run": Placement,
    "retrieval": Retrieval,
    "resources": Resources,
    "hash": HashPartitions,
    "day": DayPartitions,
}
_MESSAGES = {
    "missing": "is missing",
    "string_type": "must be text",
    "string_too_short": "must not be empty",
    "too_short": "must not be empty",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "tuple_type": "must be a list, like [a, b]",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
    "union_tag_invalid": "by must be hash or day",
}
_REWORDED = {
    "Input should": "must",
    "String should": "must",
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
}


def describe_problem(problem: ErrorDetails) -> str:
    """Return the message `<key> is <value>: <what is wrong>` for a validation error."""
    kind, location = problem["type"], problem["loc"]
    key = ".".join(["meta.embedding", *_path(location)])
    if kind == "extra_forbidden":
        choices = _NESTED[str(location[-2])].model_fields
        return (
            f"{key.rpartition('.')[0]} has no key {location[-1]!r} (keys:"
            f" {', '.join(sorted(choices))})"
        )
    message = _message(problem)
    if kind == "missing":
        return f"{key} {message}"
    own = kind in ("value_error", "union_tag_invalid") and isinstance(problem["input"], Mapping)
    return f"{key}: {message}" if own else f"{key} is {_as_yaml(problem['input'])}: {message}"


def _path(location: Sequence[int | str]) -> list[str]:
    # remove what pydantic adds: the tag of a union's member, and the marker of a mapping's key
    parts = [part for part in location if part != "[key]"]
    if parts[:1] == ["partitions"]:
        del parts[1:2]
    # the field `name` is declared by the key `entity`
    return ["entity" if part == "name" and len(parts) == 1 else str(part) for part in parts]


def _message(problem: ErrorDetails) -> str:
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    if problem["type"] in _MESSAGES:
        return _MESSAGES[problem["type"]]
    message = problem["msg"]
    for theirs, ours in _REWORDED.items():
        message = message.replace(theirs, ours)
    return message


def _as_yaml(value: object) -> str:
    # null and true, not None and True
    return repr(value) if isinstance(value, str) else json.dumps(value, default=str)
