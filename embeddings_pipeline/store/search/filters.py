"""Conditions on the filter columns of an entity, and the values of these columns."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, LiteralString, TypeAlias

from psycopg import Connection, DataError, ProgrammingError, sql
from psycopg.errors import QueryCanceled
from psycopg.sql import Identifier, Placeholder

from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.store.connection import Row, trusted
from embeddings_pipeline.store.search.published import Published

_OPERATORS: dict[str, LiteralString] = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


# the form of each filter: value, any, any_or_null, null, or the bounds of a range
Forms: TypeAlias = tuple[tuple[str, str], ...]


def forms(filters: Mapping[str, Any]) -> Forms:
    """Column and form of each filter. Requests with equal forms share a statement."""
    return tuple((column, _form(wanted)) for column, wanted in filters.items())


def clause(forms: Forms, types: Mapping[str, str]) -> sql.Composable:
    """A condition on a table `v`, with the parameters of `values`.

    Raises ConfigurationError for a column that is not a filter of the entity.
    """
    clauses: list[sql.Composable] = [sql.SQL("true")]
    for number, (column, form) in enumerate(forms):
        if column not in types:
            choices = ", ".join(types) or "none is declared"
            raise ConfigurationError(f"filter {column!r} is not a filter column ({choices})")
        kind = base_type(types[column])
        if kind.endswith("[]") and form.startswith("any"):
            raise ConfigurationError(f"filter {column!r} has arrays: ask for one, like '{{a,b}}'")
        clauses += _clauses(f"f{number}", Identifier("v", column), kind, form)
    return sql.SQL(" and ").join(clauses)


def values(filters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of `clause`."""
    found: dict[str, Any] = {}
    for number, wanted in enumerate(filters.values()):
        if isinstance(wanted, Mapping):
            found |= {f"f{number}_{bound}": _as_text(value) for bound, value in wanted.items()}
        elif isinstance(wanted, list | tuple):
            found[f"f{number}"] = [_as_text(value) for value in wanted if value is not None]
        elif wanted is not None:
            found[f"f{number}"] = _as_text(wanted)
    return found


def estimate(
    connection: Connection[Row],
    table: sql.Composable,
    condition: sql.Composable,
    filters: Mapping[str, Any],
) -> int:
    """How many rows of the table the planner expects to pass the condition."""
    plan = connection.execute(
        sql.SQL("explain (format json) select from {} as v where {}").format(table, condition),
        values(filters),
    ).fetchone()
    return int(plan[0][0]["Plan"]["Plan Rows"]) if plan else 0


def base_type(kind: str) -> str:
    """A type without length or precision: a cast to it neither cuts nor rounds a value."""
    without = re.sub(r"\([\d, -]+\)", "", kind)
    # without a length, these two types have length 1
    return {"character": "bpchar", "bit": "varbit"}.get(without, without)


def explain_refusal(
    connection: Connection[Row], filters: Mapping[str, Any], types: Mapping[str, str]
) -> None:
    """Raise ConfigurationError with the value that does not fit the type of its column."""
    for column, wanted in filters.items():
        kind = base_type(types[column])
        for value in _values(wanted):
            try:
                connection.execute(
                    sql.SQL("select %(v)s::{kind} = %(v)s::{kind}").format(kind=trusted(kind)),
                    {"v": _as_text(value)},
                )
            except DataError:
                raise ConfigurationError(f"filter {column!r}: {value!r} is not a {kind}") from None
            except ProgrammingError:
                raise ConfigurationError(
                    f"filter {column!r}: values of type {kind} cannot be compared"
                ) from None


def _form(wanted: Any) -> str:
    if wanted is None:
        return "null"
    if isinstance(wanted, Mapping):
        return " ".join(wanted)
    if isinstance(wanted, list | tuple):
        return "any_or_null" if None in wanted else "any"
    return "value"


def _clauses(name: str, target: sql.Composable, kind: str, form: str) -> Iterator[sql.Composable]:
    value = sql.SQL("{}::{}").format(Placeholder(name), trusted(kind))
    values = sql.SQL("{}::{}").format(Placeholder(name), trusted(f"{kind}[]"))
    if form == "null":
        yield sql.SQL("{} is null").format(target)
    elif form == "value":
        yield sql.SQL("{} = {}").format(target, value)
    elif form == "any":
        yield sql.SQL("{} = any({})").format(target, values)
    elif form == "any_or_null":
        yield sql.SQL("({} = any({}) or {} is null)").format(target, values, target)
    else:
        for bound in form.split():
            yield sql.SQL("{} {} {}::{}").format(
                target,
                sql.SQL(_OPERATORS[bound]),
                Placeholder(f"{name}_{bound}"),
                trusted(kind),
            )


def _values(wanted: Any) -> list[Any]:
    if isinstance(wanted, Mapping):
        return list(wanted.values())
    many = wanted if isinstance(wanted, list | tuple) else (wanted,)
    return [value for value in many if value is not None]


def _as_text(value: Any) -> str:
    # every type parses its values from text, and Postgres accepts Python's `true`
    return str(value).lower() if isinstance(value, bool) else str(value)


def facets(
    connection: Connection[Row], published: Published, column: str, most: int
) -> list[tuple[Any, int]] | None:
    """The values of a filter column as JSON, the most frequent first, with their counts.

    None where there are more than `most` values, where values cannot be compared, or where the
    query times out.
    """
    try:
        rows = connection.execute(
            published.names.fill(
                "select to_jsonb({column}), count(*) from {vectors} where chunk = 0"
                " group by {column} order by 2 desc, {column} limit {limit}",
                column=Identifier(column),
                vectors=published.names.table(published.vector_set.table_name),
                limit=sql.Literal(most + 1),
            )
        ).fetchall()
    except (ProgrammingError, QueryCanceled):
        return None
    return rows if len(rows) <= most else None
