"""An entity: one staging model whose rows get vectors, as its yml declares it; and what is said
of a declaration that is wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
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
    Template,
    Text,
    TypeOrOptions,
    Whole,
)

# columns that the pipeline's own tables have beside the filters
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
# what a search statement calls its own columns beside the id
_SEARCH_COLUMNS = frozenset({"score", "distance", "length", "rank", "way", "weight", "fields"})
# bookkeeping columns that say nothing about a row's meaning
BOOKKEEPING_COLUMNS = frozenset({"created_at", "updated_at", "ingested_at", "deleted"})
# Dagster takes no shorter one
_SHORTEST_FRESHNESS = timedelta(minutes=1)
# above this a `vector` column cannot be indexed: github.com/pgvector/pgvector#hnsw
MAX_INDEXED_VECTOR, MAX_INDEXED_HALFVEC = 2000, 4000


class _Declared(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Chunk(_Declared):
    """Long text becomes several vectors of at most `tokens` tokens. Neighbours share up to
    `overlap` of them: as many whole sentences (words, where a sentence is cut) as fit."""

    tokens: Whole = Field(ge=16, le=8192)
    overlap: Whole = Field(0, ge=0)

    @model_validator(mode="after")
    def _overlap_leaves_room(self) -> Self:
        if self.overlap * 2 > self.tokens:
            raise ValueError(f"overlap {self.overlap} is more than half of tokens {self.tokens}")
        return self


class Index(_Declared):
    """The vector index, the recall@10 against exact search that it must reach, and the share of
    the rows that may change before it is built anew."""

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
        # so that what is stored can be read back
        return {key: value for key, value in whole(self).items() if key in self._applying()}

    def _applying(self) -> set[str]:
        own = {"hnsw": {"m", "ef_construction"}, "ivfflat": {"lists"}, "none": set()}
        return {"type", "recall", "rebuild", *own[self.type]}


class Freshness(_Declared):
    """How long after its last materialisation the published view warns, then fails."""

    warn: Duration = timedelta(hours=26)
    fail: Duration = timedelta(hours=50)

    @model_validator(mode="after")
    def _warns_first(self) -> Self:
        if self.warn >= self.fail:
            raise ValueError("warn must be shorter than fail")
        if self.warn < _SHORTEST_FRESHNESS:
            raise ValueError("warn must be at least 1m")
        return self


class Entity(_Declared):
    """One entity, validated. Every key but the first three is a key of `meta.embedding`."""

    name: Name
    db_schema: str
    table: str

    id: Column
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
    dimension: Whole | None = Field(None, ge=1, le=16000)
    storage: Literal["vector", "halfvec"] | None = None
    metric: Literal["cosine", "l2", "ip"] = "cosine"
    index: Annotated[Index, TypeOrOptions] = Index()
    partitions: Annotated[Partitions, Field(discriminator="by")] = HashPartitions()
    schedule: Cron = "0 2 * * *"
    limit: Whole | None = Field(None, ge=1)
    freshness: Freshness = Freshness()
    publish: Literal["auto", "manual"] = "auto"
    keep_sets: Whole = Field(1, ge=0)
    max_delete_share: Number = Field(0.5, ge=0, le=1)

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
        of_text = [*ways, *(key for key in ("exclude", "chunk") if getattr(self, key))]
        if self.image and of_text:
            raise ValueError(
                f"image excludes {' and '.join(of_text)}: a row has an image or a text"
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
        taken = sorted(set(self.filters) & (RESERVED_COLUMNS | {self.id}))
        if taken:
            raise ValueError(
                f"filters {', '.join(taken)}: the pipeline's tables have such a column already;"
                " rename it in the staging model"
            )
        if self.id in RESERVED_COLUMNS | _SEARCH_COLUMNS:
            raise ValueError(f"id {self.id!r}: rename it in the staging model, the name is taken")
        return self

    def declaration(self) -> str:
        """What was declared, without the defaults, as JSON that `model_validate_json` takes."""
        return self.model_dump_json(exclude_unset=True)

    def __str__(self) -> str:
        return self.name


_NESTED: Mapping[str, type[BaseModel]] = {
    "chunk": Chunk,
    "index": Index,
    "freshness": Freshness,
    "hash": HashPartitions,
    "day": DayPartitions,
}
_SAYS = {
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


def sentence(problem: ErrorDetails) -> str:
    """`<key> is <value>: <what is wrong>`."""
    kind, location = problem["type"], problem["loc"]
    key = ".".join(["meta.embedding", *_path(location)])
    if kind == "extra_forbidden":
        choices = _NESTED[str(location[-2])].model_fields
        return (
            f"{key.rpartition('.')[0]} has no key {location[-1]!r} (keys:"
            f" {', '.join(sorted(choices))})"
        )
    says = _says(problem)
    if kind == "missing":
        return f"{key} {says}"
    own = kind in ("value_error", "union_tag_invalid") and isinstance(problem["input"], Mapping)
    return f"{key}: {says}" if own else f"{key} is {_shown(problem['input'])}: {says}"


def _path(location: Sequence[int | str]) -> list[str]:
    # what pydantic adds: the tag of a union's member, and that a mapping's key is meant
    parts = [part for part in location if part != "[key]"]
    if parts[:1] == ["partitions"]:
        del parts[1:2]
    # an entity's name is the key `entity`
    return ["entity" if part == "name" and len(parts) == 1 else str(part) for part in parts]


def _says(problem: ErrorDetails) -> str:
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    if problem["type"] in _SAYS:
        return _SAYS[problem["type"]]
    says = problem["msg"]
    for theirs, ours in _REWORDED.items():
        says = says.replace(theirs, ours)
    return says


def _shown(value: object) -> str:
    # as yml has it: null and true, not None and True
    return repr(value) if isinstance(value, str) else json.dumps(value, default=str)
