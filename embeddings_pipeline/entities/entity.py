"""An entity: one staging model whose rows get vectors, as its yml declares it."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from embeddings_pipeline.entities.partitions import HashPartitions, Partitions

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
        "source_changed_at",
        "serialised_at",
        "embedding",
        "run_id",
        "reused_from",
        "embedded_at",
        "model",
        "updated_at",
    ]
)
# bookkeeping columns that say nothing about a row's meaning
BOOKKEEPING_COLUMNS = frozenset({"created_at", "updated_at", "ingested_at", "deleted"})
# above this a `vector` column cannot be indexed: github.com/pgvector/pgvector#hnsw
MAX_INDEXED_VECTOR, MAX_INDEXED_HALFVEC = 2000, 4000

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def _duration(value: object) -> object:
    # ISO 8601 is how a stored declaration has it
    if not isinstance(value, str) or value.startswith("P"):
        return value
    match = re.fullmatch(r"(\d+)\s*([smhd])", value.strip())
    if not match:
        raise ValueError("write a duration as a number with s, m, h or d, like 26h")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


Duration = Annotated[timedelta, BeforeValidator(_duration)]
# Postgres cuts names at 63 bytes without a word; the longest suffix added to one is 25 bytes
Name = Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_]*$", max_length=38)]
Column = Annotated[str, Field(min_length=1, max_length=63)]


class _Declared(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Chunk(_Declared):
    """Long text becomes several vectors of at most `tokens` tokens, sharing `overlap`."""

    tokens: int = Field(ge=16, le=8192)
    overlap: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _overlap_leaves_room(self) -> Self:
        if self.overlap * 2 > self.tokens:
            raise ValueError(f"overlap {self.overlap} is more than half of tokens {self.tokens}")
        return self


class Index(_Declared):
    """The vector index and the recall@10 against exact search that it must reach."""

    type: Literal["hnsw", "ivfflat", "none"] = "hnsw"
    m: int = Field(16, ge=2, le=100)
    ef_construction: int = Field(64, ge=4, le=1000)
    lists: int | None = Field(None, ge=1, le=32768)
    recall: float = Field(0.99, ge=0, le=1)

    @model_validator(mode="after")
    def _options_fit_the_type(self) -> Self:
        belongs = {"hnsw": {"m", "ef_construction"}, "ivfflat": {"lists"}, "none": set()}
        strangers = self.model_fields_set - belongs[self.type] - {"type", "recall"}
        if strangers:
            raise ValueError(f"{', '.join(sorted(strangers))} does not apply to {self.type}")
        if self.type == "hnsw" and self.ef_construction < 2 * self.m:
            raise ValueError("ef_construction must be at least twice m")
        return self


class Freshness(_Declared):
    """How long after its last materialisation the published view warns, then fails."""

    warn: Duration = timedelta(hours=26)
    fail: Duration = timedelta(hours=50)

    @model_validator(mode="after")
    def _warns_first(self) -> Self:
        if self.warn >= self.fail:
            raise ValueError(f"warn ({self.warn}) must be shorter than fail ({self.fail})")
        return self


class Entity(_Declared):
    """One entity, validated. Every key but the first three is a key of `meta.embedding`."""

    name: Name
    db_schema: str
    table: str

    id: Column
    include: tuple[Column, ...] | None = Field(None, min_length=1)
    exclude: tuple[Column, ...] = ()
    template: str | None = Field(None, min_length=1)
    weights: dict[Column, Annotated[float, Field(gt=0)]] | None = Field(None, min_length=1)
    chunk: Chunk | None = None
    filters: tuple[Column, ...] = ()
    deleted: Column | None = None
    where: str | None = None
    changed_at: Column | None = None
    model: str | None = Field(None, min_length=1)
    dimension: int | None = Field(None, ge=1, le=16000)
    storage: Literal["vector", "halfvec"] | None = None
    metric: Literal["cosine", "l2", "ip"] = "cosine"
    index: Index = Index()
    partitions: Annotated[Partitions, Field(discriminator="by")] = HashPartitions()
    schedule: str = Field("0 2 * * *", pattern=r"^\S+( \S+){4}$")
    limit: int | None = Field(None, ge=1)
    freshness: Freshness = Freshness()
    publish: Literal["auto", "manual"] = "auto"
    keep_sets: int = Field(1, ge=0)
    max_delete_share: float = Field(0.5, ge=0, le=1)

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
        if self.id in RESERVED_COLUMNS:
            raise ValueError(f"id {self.id!r}: rename it in the staging model, the name is taken")
        return self

    def declaration(self) -> str:
        """What was declared, without the defaults, as JSON that `model_validate_json` takes."""
        return self.model_dump_json(exclude_unset=True)

    def __str__(self) -> str:
        return self.name
