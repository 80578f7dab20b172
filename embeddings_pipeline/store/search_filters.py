"""Conditions on the filter columns of an entity, composed of what a request says."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, LiteralString

from psycopg import Connection, DataError, ProgrammingError, sql
from psycopg.sql import Identifier, Placeholder

from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.store.postgres import Row, trusted

_OPERATORS: dict[str, LiteralString] = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


@dataclass(frozen=True)
class Condition:
    """SQL on the columns of a table that is called `v`, and the parameters in it."""

    clause: sql.Composable
    values: Mapping[str, Any]


def condition(filters: Mapping[str, Any], types: Mapping[str, str]) -> Condition:
    """That each filter holds: a value, a list of them, {gt, gte, lt, lte: value}, or None.

    Raises ConfigurationError for a column that is no filter of the entity.
    """
    values: dict[str, Any] = {}
    clauses: list[sql.Composable] = [sql.SQL("true")]
    for number, (column, wanted) in enumerate(filters.items()):
        if column not in types:
            choices = ", ".join(types) or "none is declared"
            raise ConfigurationError(f"filter {column!r} is not a filter column ({choices})")
        clauses += _clauses(f"f{number}", column, base_type(types[column]), wanted, values)
    return Condition(sql.SQL(" and ").join(clauses), values)


def base_type(kind: str) -> str:
    """A type without length or precision: a cast to it neither cuts nor rounds a value."""
    without = re.sub(r"\([\d, -]+\)", "", kind)
    return without.replace("character", "bpchar") if without == "character" else without


def explain_refusal(
    connection: Connection[Row], filters: Mapping[str, Any], types: Mapping[str, str]
) -> None:
    """Raises ConfigurationError that names the value which its column's type does not take."""
    for column, wanted in filters.items():
        kind = base_type(types[column])
        for value in _values(wanted):
            try:
                connection.execute(
                    sql.SQL("select %(v)s::{kind} = %(v)s::{kind}").format(kind=trusted(kind)),
                    {"v": _as_text(value)},
                )
            except DataError:
                raise ConfigurationError(
                    f"filter {column!r}: {value!r} is no {kind}, as the column is"
                ) from None
            except ProgrammingError:
                raise ConfigurationError(
                    f"filter {column!r}: values of type {kind} cannot be compared"
                ) from None


def _clauses(
    name: str, column: str, kind: str, wanted: Any, values: dict[str, Any]
) -> Iterator[sql.Composable]:
    target = Identifier("v", column)
    typed = sql.SQL("{}::{}")
    if wanted is None:
        yield sql.SQL("{} is null").format(target)
    elif isinstance(wanted, Mapping):
        for operator, bound in wanted.items():
            values[f"{name}_{operator}"] = _as_text(bound)
            yield sql.SQL("{} {} {}").format(
                target,
                sql.SQL(_OPERATORS[operator]),
                typed.format(Placeholder(f"{name}_{operator}"), trusted(kind)),
            )
    elif isinstance(wanted, list | tuple):
        values[name] = [_as_text(value) for value in wanted if value is not None]
        among = sql.SQL("{} = any({})").format(
            target, typed.format(Placeholder(name), trusted(f"{kind}[]"))
        )
        or_null = sql.SQL("({} or {} is null)").format(among, target)
        yield or_null if None in wanted else among
    else:
        values[name] = _as_text(wanted)
        yield sql.SQL("{} = {}").format(target, typed.format(Placeholder(name), trusted(kind)))


def _values(wanted: Any) -> list[Any]:
    if isinstance(wanted, Mapping):
        return list(wanted.values())
    many = wanted if isinstance(wanted, list | tuple) else (wanted,)
    return [value for value in many if value is not None]


def _as_text(value: Any) -> str:
    # every type reads its values from text, and Python's true is Postgres' too
    return str(value).lower() if isinstance(value, bool) else str(value)
