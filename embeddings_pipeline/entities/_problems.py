"""Says in a sentence what is wrong with a declaration, in the words of who wrote its yml."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from embeddings_pipeline.entities.entity import Chunk, Freshness, Index
from embeddings_pipeline.entities.partitions import DayPartitions, HashPartitions

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
