"""Checks an entity against the columns of its staging model."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal
from uuid import UUID

from embeddings_pipeline.entities.entity import BOOKKEEPING_COLUMNS, Entity
from embeddings_pipeline.entities.partitions import DayPartitions
from embeddings_pipeline.entities.template import template_columns
from embeddings_pipeline.errors import ConfigurationError

# increment when the same declaration and row produce another text than before
RENDERING = 1

IdType = Literal["bigint", "uuid", "text"]
_ID_TYPES: Mapping[str, IdType] = {
    "smallint": "bigint",
    "integer": "bigint",
    "bigint": "bigint",
    "uuid": "uuid",
    "text": "text",
    "character varying": "text",
}
BYTES = "bytea"
_TIMES = ("date", "timestamp without time zone", "timestamp with time zone")
# the types of the columns that keys of the declaration name
_TYPES = {
    "id": tuple(_ID_TYPES),
    "deleted": ("boolean",),
    "changed_at": _TIMES,
    "image": (BYTES, "text", "character varying"),
    "partitions.column": _TIMES,
}
# a B-tree page holds entries of up to 2,704 bytes: the id, and what stands beside it in a key
MAX_ID_BYTES = 2_600
# characters of an id that a message quotes
_SHOWN_ID = 100
_STAND_IN = re.compile(r".{0,60}\.\.\. \(md5 ([0-9a-f]{32})\)")
_NOT_PLAIN = re.compile(rb"[^\x20-\x7e]|\\")


def stand_in(row_id: bytes) -> str:
    """Return the name under which a row is stored whose id no database column can hold: the
    beginning of the id and its md5."""
    digest = hashlib.md5(row_id, usedforsecurity=False).hexdigest()
    return f"{_NOT_PLAIN.sub(b'?', row_id[:60]).decode()}... (md5 {digest})"


def digest_of_stand_in(row_id: str) -> str | None:
    """Return the md5 of the id that this is a stand-in for; None for an id."""
    match = _STAND_IN.fullmatch(row_id)
    return match[1] if match else None


def _bigint(row_id: str) -> str:
    # int() reads 1_0, and the digits of every script
    if not re.fullmatch(r"\s*[+-]?[0-9]{1,100}\s*", row_id, re.ASCII):
        raise ValueError
    number = int(row_id)
    if not -(2**63) <= number < 2**63:
        raise ValueError
    return str(number)


def _uuid(row_id: str) -> str:
    # UUID() reads urn:uuid:, underscores and the digits of every script
    if not re.fullmatch(r"\{?[0-9A-Fa-f]{4}(-?[0-9A-Fa-f]{4}){7}\}?", row_id):
        raise ValueError
    return str(UUID(row_id))


def _text(row_id: str) -> str:
    encoded = row_id.encode()
    if b"\0" in encoded:
        raise ValueError
    return row_id if len(encoded) <= MAX_ID_BYTES else stand_in(encoded)


_CANONICAL: Mapping[IdType, Callable[[str], str]] = {
    "bigint": _bigint,
    "uuid": _uuid,
    "text": _text,
}


@dataclass(frozen=True)
class Source:
    """An entity with its columns resolved. `columns` and `filters` map names to Postgres types."""

    entity: Entity
    columns: Mapping[str, str]
    id_type: IdType
    text_columns: tuple[str, ...]
    filters: Mapping[str, str]

    @property
    def has_uris(self) -> bool:
        """Whether the entity's images are at URIs, not in the column itself."""
        return self.entity.image is not None and self.columns[self.entity.image] != BYTES

    def canonical_ids(self, ids: Sequence[str]) -> list[str]:
        """Return the ids as they are stored: 007 as 7, a uuid in lower case, an id that is too long
        for an index as its stand-in.

        Raises ConfigurationError for a value that is not of the id's type.
        """
        return [self._canonical_id(row_id) for row_id in ids]

    def _canonical_id(self, row_id: str) -> str:
        try:
            return _CANONICAL[self.id_type](row_id)
        except ValueError:
            shown = row_id if len(row_id) <= _SHOWN_ID else f"{row_id[:_SHOWN_ID]}…"
            raise ConfigurationError(
                f"entity {self.entity.name!r}: id {shown!r} is not a {self.id_type}, the type of"
                f" {self.entity.id}"
            ) from None

    @property
    def copied(self) -> dict[str, tuple[str, str]]:
        """The columns of `texts` and the vector sets that are copied from the staging model: the
        filters, and what a result shows as text. Name -> (column of the staging model, type)."""
        shown = {key: (column, "text") for key, column in self.entity.shown.items()}
        return shown | {name: (name, kind) for name, kind in self.filters.items()}

    @cached_property
    def definition_hash(self) -> str:
        """The sha256, in hex, of the declaration that decides the rows of `texts`.

        Each row's fingerprint contains this hash: when the hash changes, every row is rendered
        again.
        """
        entity = self.entity
        partitions = entity.partitions
        decides = {
            "rendering": RENDERING,
            "columns": [[column, self.columns[column]] for column in self.text_columns],
            "template": entity.template,
            "weights": entity.weights,
            # a key that is not declared leaves the hashes of earlier versions as they are
            "chunk": entity.chunk.model_dump(exclude=None if entity.repeated else {"repeat"})
            if entity.chunk
            else None,
            "image": entity.image,
            "filters": dict(self.filters),
            "changed_at": entity.changed_at,
            "day": [partitions.column, partitions.start.isoformat()]
            if isinstance(partitions, DayPartitions)
            else None,
        }
        if entity.shown:
            decides["shown"] = entity.shown
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def bind(entity: Entity, columns: Mapping[str, str]) -> Source:
    """Check an entity against the columns (name -> Postgres type) of its staging model.

    Raises ConfigurationError that names the key, the column and the choices.
    """
    partitions = entity.partitions
    single = {
        "id": entity.id,
        "deleted": entity.deleted,
        "changed_at": entity.changed_at,
        "image": entity.image,
        "partitions.column": partitions.column if isinstance(partitions, DayPartitions) else None,
        **entity.shown,
    }
    several = {
        "include": entity.include or (),
        "exclude": entity.exclude,
        "weights": tuple(entity.weights or ()),
        "filters": entity.filters,
        "template": template_columns(entity.template) if entity.template else (),
        "chunk.repeat": entity.repeated,
    }
    declared = {key: column for key, column in single.items() if column}
    for key, names in ({key: (column,) for key, column in declared.items()} | several).items():
        _require(entity, key, names, columns)
    for key, types in _TYPES.items():
        if key in declared:
            _require_type(entity, key, declared[key], columns, types)
    text_columns = tuple(dict.fromkeys([*entity.repeated, *_text_columns(entity, columns)]))
    for column in (*declared.values(), *text_columns, *entity.filters):
        # psycopg reads a percent sign in a statement as the start of a placeholder
        if "%" in column:
            raise ConfigurationError(
                f"entity {entity.name!r}: column {column!r} of {entity.table} has a % in its name:"
                " rename it in the staging model, or exclude it"
            )
    return Source(
        entity=entity,
        columns=dict(columns),
        id_type=_ID_TYPES[_without_length(columns[entity.id])],
        text_columns=text_columns,
        filters={name: columns[name] for name in entity.filters},
    )


def _require(entity: Entity, key: str, names: tuple[str, ...], columns: Mapping[str, str]) -> None:
    for name in names:
        if name not in columns:
            raise ConfigurationError(
                f"entity {entity.name!r}: {key} column {name!r} is not in {entity.table}"
                f" (columns: {', '.join(columns)})"
            )


def _require_type(
    entity: Entity, key: str, column: str, columns: Mapping[str, str], types: tuple[str, ...]
) -> None:
    kind = columns[column]
    if _without_length(kind) not in types:
        choices = types[0] if len(types) == 1 else f"one of {', '.join(types)}"
        raise ConfigurationError(
            f"entity {entity.name!r}: {key} {column!r} is {kind}, not {choices}: cast it in the"
            " staging model"
        )


def _without_length(kind: str) -> str:
    """A type without precision and length, as in timestamp(3) with time zone and varchar(80)."""
    return re.sub(r"\(\d+\)", "", kind)


def _text_columns(entity: Entity, columns: Mapping[str, str]) -> tuple[str, ...]:
    if entity.image:
        return (entity.image,)
    if entity.include:
        return entity.include
    if entity.weights:
        return tuple(entity.weights)
    if entity.template:
        return template_columns(entity.template)
    left_out = {entity.id, *entity.exclude, *BOOKKEEPING_COLUMNS, entity.deleted}
    chosen = tuple(column for column in columns if column not in left_out)
    if not chosen:
        raise ConfigurationError(
            f"entity {entity.name!r}: no column of {entity.table} is left for the text: name"
            " columns in `include`, or shorten `exclude`"
        )
    return chosen
