"""The rows of the `vector_sets` table: the sets that each entity has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, Literal, LiteralString

from psycopg import Connection, sql
from psycopg.rows import class_row
from psycopg.sql import Identifier

from embeddings_pipeline.entities.entity import Metric, Storage
from embeddings_pipeline.entities.model import ModelIdentity
from embeddings_pipeline.store.connection import Row
from embeddings_pipeline.store.tables import EntityTables, SetDropped

State = Literal["building", "live", "retired"]

# by metric: the operator of the distance, and the similarity, where greater is nearer; <#> is the
# negative inner product
OPERATORS: dict[str, LiteralString] = {"cosine": "<=>", "l2": "<->", "ip": "<#>"}
SIMILARITY: dict[str, LiteralString] = {
    "cosine": "1 - distance",
    "l2": "1 / (1 + distance)",
    "ip": "-distance",
}
# the setting for the effort of a search, by index type
EFFORT_SETTINGS: dict[str, LiteralString] = {
    "hnsw": "hnsw.ef_search",
    "ivfflat": "ivfflat.probes",
}
MAX_EF_SEARCH = 1000
# shares of the rows below this are alike
_LEAST_SHARE = 1e-6


@dataclass(frozen=True)
class StoredIdentity:
    """A model identity, its number and the name of its cache table."""

    number: int
    identity: ModelIdentity
    cache_table: str


@dataclass(frozen=True)
class VectorSet:
    """A row of `vector_sets` and its identity. `index_rows` is the number of rows when the index
    was built, at `indexed_at`. `recall` is recall@10 of the index without a filter, `ef_search` the
    effort that reaches it (for IVFFlat, the probes), and `recall_check` the whole last measurement.
    `text_weight` is the weight of the words in hybrid search, where it was tuned."""

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
    query_prompt: str
    cache_table: str
    storage: Storage
    metric: Metric
    table_name: str
    state: State
    published_at: datetime | None
    index_settings: dict[str, Any] | None = None
    index_rows: int | None = None
    recall: float | None = None
    ef_search: int | None = None
    indexed_at: datetime | None = None
    recall_check: dict[str, Any] | None = None
    text_weight: float | None = None

    # each search asks for it
    @cached_property
    def identity(self) -> ModelIdentity:
        """The model that encoded the vectors."""
        return ModelIdentity.of(self)

    @property
    def stored_identity(self) -> StoredIdentity:
        """The identity with its number and its cache table."""
        return StoredIdentity(self.identity_number, self.identity, self.cache_table)

    @property
    def searched_index(self) -> str | None:
        """The type of the index that searches use; None where they compare all vectors."""
        kind = (self.index_settings or {}).get("type")
        return kind if kind in EFFORT_SETTINGS and self.ef_search else None

    def effort(self, share: float) -> int | None:
        """The effort of a search whose filters leave this share of the rows: of the measured share
        that is nearest. None where comparing the rows is faster, and without an index."""
        if self.searched_index is None:
            return None
        levels = (self.recall_check or {}).get("levels", [])
        # versions before measured one effort for all searches
        measured = [level for level in levels if "effort" in level]
        if share >= 1 or not measured:
            return self.ef_search
        share = max(share, _LEAST_SHARE)
        nearest = min(measured, key=lambda level: abs(math.log(level["share"] / share)))
        effort: int | None = nearest["effort"]
        return effort

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


_QUERY = """
    select s.entity, s.number, s.identity as identity_number, i.provider, i.model, i.revision,
        i.dimension, i.max_tokens, i.normalized, i.document_prompt, s.query_prompt, i.cache_table,
        s.storage, s.metric, s.table_name, s.state, s.published_at, s.index_settings, s.index_rows,
        s.recall, s.ef_search, s.indexed_at, s.recall_check, s.text_weight
    from {sets} s join {identities} i on i.number = s.identity
"""


def live_sets(connection: Connection[Row], schema: str) -> list[VectorSet]:
    """The published set of each entity that has one."""
    return _of_all_entities(connection, schema, ("live",))


def served_sets(connection: Connection[Row], schema: str) -> dict[str, VectorSet]:
    """The `served` set of each entity that has one, by entity."""
    sets = _of_all_entities(connection, schema, ("live", "building"))
    by_entity = {s.entity: [other for other in sets if other.entity == s.entity] for s in sets}
    return {entity: found for entity, own in by_entity.items() if (found := served(own))}


def _of_all_entities(
    connection: Connection[Row], schema: str, states: Sequence[State]
) -> list[VectorSet]:
    with connection.cursor(row_factory=class_row(VectorSet)) as cursor:
        return cursor.execute(
            sql.SQL(_QUERY + " where s.state = any(%s) order by s.entity, s.number").format(
                sets=Identifier(schema, "vector_sets"),
                identities=Identifier(schema, "model_identities"),
            ),
            (list(states),),
        ).fetchall()


def read(
    tables: EntityTables,
    states: Sequence[State] = ("building", "live", "retired"),
) -> list[VectorSet]:
    """The entity's sets in these states, oldest first."""
    with tables.connection.cursor(row_factory=class_row(VectorSet)) as cursor:
        return cursor.execute(
            tables.fill(
                _QUERY + " where s.entity = {entity} and s.state = any(%s) order by s.number",
                sets=tables.names.identifiers["vector_sets"],
                identities=tables.names.identifiers["model_identities"],
            ),
            (list(states),),
        ).fetchall()


def live_set(tables: EntityTables) -> VectorSet | None:
    """The published set of the entity."""
    return next(iter(read(tables, ("live",))), None)


def building_set(tables: EntityTables) -> VectorSet | None:
    """The set of the entity that is built, to be published when it is ready."""
    return next(iter(read(tables, ("building",))), None)


def read_one(tables: EntityTables, number: int) -> VectorSet:
    """One set as it is stored now. Raises SetDropped where another run dropped it."""
    found = next((s for s in read(tables) if s.number == number), None)
    if found is None:
        raise SetDropped(tables.entity, number)
    return found


def maintained(sets: Sequence[VectorSet]) -> list[VectorSet]:
    """The sets that runs keep up to date, the live one first. A live set whose replacement is being
    built is left out."""
    in_use = [s for s in sets if s.state != "retired"]
    return sorted(
        (s for s in in_use if not any(other.replaces(s) for other in in_use)),
        key=lambda s: s.state != "live",
    )


def served(sets: Sequence[VectorSet]) -> VectorSet | None:
    """The live set, or the first set while it is built; None without sets."""
    in_use = [s for s in sets if s.state != "retired"]
    return min(in_use, key=lambda s: s.state != "live", default=None)


def table_names(connection: Connection[Row], schema: str, entity: str) -> list[str]:
    """The tables of all vector sets of the entity, in any state."""
    rows = connection.execute(
        sql.SQL("select table_name from {} where entity = %s order by number").format(
            Identifier(schema, "vector_sets")
        ),
        (entity,),
    )
    return [name for (name,) in rows]


def set_text_weight(
    connection: Connection[Row], schema: str, entity: str, number: int, weight: float
) -> None:
    """Store the weight of the words in hybrid searches of a set, from 0 to 1."""
    connection.execute(
        sql.SQL("update {} set text_weight = %s where entity = %s and number = %s").format(
            Identifier(schema, "vector_sets")
        ),
        (weight, entity, number),
    )
