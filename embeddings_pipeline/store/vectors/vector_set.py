"""A vector set: the vectors of one entity, with one model identity and one storage."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from embeddings_pipeline.entities.model import ModelIdentity
from embeddings_pipeline.store.vectors.identities import StoredIdentity

State = Literal["building", "live", "retired"]
Storage = Literal["vector", "halfvec"]


@dataclass(frozen=True)
class VectorSet:
    """A row of `vector_sets` and its identity. `index_rows` is the number of rows when the index
    was built, at `indexed_at`. `recall` is recall@10 of the index, `ef_search` the effort
    that reaches it (for IVFFlat, the probes), and `recall_check` the whole last measurement."""

    entity: str
    number: int
    identity_number: int
    provider: str
    model: str
    revision: str
    dimension: int
    max_tokens: int
    normalized: bool
    document_prompt: str
    cache_table: str
    storage: Storage
    metric: str
    table_name: str
    state: State
    published_at: datetime | None
    index_settings: dict[str, Any] | None = None
    index_rows: int | None = None
    recall: float | None = None
    ef_search: int | None = None
    indexed_at: datetime | None = None
    recall_check: dict[str, Any] | None = None

    @property
    def identity(self) -> ModelIdentity:
        """The model that encoded the vectors."""
        return ModelIdentity(
            self.provider,
            self.model,
            self.revision,
            self.dimension,
            self.max_tokens,
            self.normalized,
            self.document_prompt,
        )

    @property
    def stored_identity(self) -> StoredIdentity:
        """The identity with its number and its cache table."""
        return StoredIdentity(self.identity_number, self.identity, self.cache_table)

    @property
    def states_view(self) -> str:
        """The name of the view that shows the state of each chunk in this set."""
        return f"{self.entity}_chunks_{self.number}"

    def replaces(self, other: VectorSet) -> bool:
        """Whether this set is being built to replace the live set `other`, which is not updated
        meanwhile."""
        return self.state == "building" and other.state == "live" and self.is_like(other)

    def is_like(self, other: VectorSet) -> bool:
        """Whether both sets have the same identity and storage."""
        mine, others = (self.identity_number, self.storage), (other.identity_number, other.storage)
        return mine == others
