"""Filters on the filter columns of an entity: their parsed form, and its evaluation in Postgres.

`store.search.snapshots` evaluates the same form in a snapshot.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from itertools import count
from math import ceil, floor
from typing import Any, Literal, LiteralString, NamedTuple, TypeAlias

from psycopg import sql
from psycopg.sql import Identifier, Placeholder

from embeddings_pipeline.entities.entity import FILTER_OPERATORS
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.store.connection import trusted

Operator: TypeAlias = Literal["is null", "=", "any", ">", ">=", "<", "<=", "has any", "has all"]
BOUNDS: Mapping[str, Operator] = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
# on columns of lists
MEMBERS: Mapping[str, Operator] = {"has": "has all", "has_any": "has any", "has_all": "has all"}
_WHOLE_NUMBERS = frozenset({"smallint", "integer", "bigint"})
_FRACTION = re.compile(r"[+-]?[0-9]{1,19}\.[0-9]+")
# texts are compared by their characters' code points, so that every server and a snapshot agree
TEXTS = frozenset({"text", "character varying", "bpchar"})
# how to write values of types that people write in many ways
_WRITTEN = {"date": "2026-01-31", "timestamp": "2026-01-31T12:00:00+02:00"}
_OR_OPERATORS = f", nor one of {', '.join(FILTER_OPERATORS)}"


class Predicate(NamedTuple):
    """A condition without its values. Requests with equal predicates share a statement.

    `kind` is the type of the column without length or precision. `or_null` also passes rows without
    a value.
    """

    column: str
    kind: str
    operator: Operator
    or_null: bool = False


class Condition(NamedTuple):
    """A predicate and its values: none for `is null`, any number for `any`, `has any` and
    `has all`, else one. A value is written as text, which the type of the column or of its elements
    parses."""

    predicate: Predicate
    values: tuple[str, ...] = ()


class Group(NamedTuple):
    """Predicates and groups that are joined. `not` has one member, and passes the rows that the
    member does not pass, also those in which it is null."""

    operator: Literal["and", "or", "not"]
    members: tuple[Predicate | Group, ...]


@dataclass(frozen=True)
class Filter:
    """The filters of a request: their predicates, and the values of each predicate in order.
    Requests with equal predicates share a statement."""

    predicates: Group
    values: tuple[tuple[str, ...], ...]

    def __bool__(self) -> bool:
        return bool(self.predicates.members)

    def conditions(self) -> list[Condition]:
        """The predicates with their values."""
        return [
            Condition(predicate, values)
            for predicate, values in zip(_leaves(self.predicates), self.values, strict=True)
        ]

    def parameters(self) -> dict[str, Any]:
        """The parameters of `where`."""
        return {
            f"f{n}": list(values) if predicate.operator in _OF_SEVERAL else values[0]
            for n, (predicate, values) in enumerate(self.conditions())
            if predicate.operator != "is null"
        }


def _leaves(group: Group) -> Iterator[Predicate]:
    for member in group.members:
        if isinstance(member, Group):
            yield from _leaves(member)
        else:
            yield member


def parse(filters: Mapping[str, Any], types: Mapping[str, str]) -> Filter:
    """The filters of a request, all of which a row must pass. Each filter is a value, None, a list
    of values and None, or a mapping: of `gt`, `gte`, `lt` or `lte` to a value; on a column of
    lists, of `has` to a value, `has_any` or `has_all` to values. There a value alone means `has`,
    and a list of values `has_any`.

    The key `or` has a list of such filters, one of which a row must pass; `and` a list, all of
    which it must pass; `not` filters that it must not all pass.

    Raises ConfigurationError for a column that is not a filter, and for a mapping that does not fit
    the column.
    """
    values: list[tuple[str, ...]] = []
    return Filter(_group(filters, types, values), tuple(values))


def _group(
    filters: Mapping[str, Any], types: Mapping[str, str], values: list[tuple[str, ...]]
) -> Group:
    members: list[Predicate | Group] = []
    for key, wanted in filters.items():
        if key == "not":
            members.append(Group("not", (_group(wanted, types, values),)))
        elif key == "or":
            alternatives = tuple(_group(part, types, values) for part in wanted)
            members.append(Group("or", alternatives))
        elif key == "and":
            members += [_group(part, types, values) for part in wanted]
        else:
            kind = type_of(key, types, "filter", others=_OR_OPERATORS)
            for predicate, given in _conditions(key, kind, wanted):
                members.append(predicate)
                values.append(given)
    return Group("and", tuple(members))


def type_of(column: str, types: Mapping[str, str], used_as: str, *, others: str = "") -> str:
    """The type of a filter column without length or precision.

    Raises ConfigurationError for another column, which begins with what the column is `used_as` and
    ends with what else is allowed.
    """
    if column not in types:
        choices = ", ".join(types) or "none is declared"
        raise ConfigurationError(f"{used_as} {column!r} is not a filter column ({choices}){others}")
    return base_type(types[column])


def _conditions(column: str, kind: str, wanted: Any) -> Iterator[Condition]:
    lists = kind.endswith("[]")
    if wanted is None:
        yield Condition(Predicate(column, kind, "is null"))
    elif isinstance(wanted, Mapping):
        for name, value in wanted.items():
            if lists and name not in MEMBERS:
                raise ConfigurationError(
                    f"filter {column!r} has lists: ask for {', '.join(MEMBERS)}, not {name}"
                )
            if not lists and name not in BOUNDS:
                raise ConfigurationError(
                    f"filter {column!r} is a {kind}, and {name} is for lists: write a value, or a"
                    " list of values of which one must match"
                )
            values = value if isinstance(value, list | tuple) else (value,)
            if kind in _WHOLE_NUMBERS:
                values = tuple(_whole(name, one) for one in values)
            operator = MEMBERS[name] if lists else BOUNDS[name]
            yield Condition(Predicate(column, kind, operator), tuple(map(_as_text, values)))
    elif isinstance(wanted, list | tuple):
        among: Operator = "has any" if lists else "any"
        values = tuple(_as_text(value) for value in wanted if value is not None)
        yield Condition(Predicate(column, kind, among, or_null=None in wanted), values)
    else:
        yield Condition(Predicate(column, kind, "has all" if lists else "="), (_as_text(wanted),))


def _whole(bound: str, value: Any) -> Any:
    """The bound of whole numbers for one that lies between two, as the edge of a bar may."""
    if not isinstance(value, float) and not _FRACTION.fullmatch(str(value)):
        return value
    return floor(Decimal(value)) if bound in ("gt", "lte") else ceil(Decimal(value))


def _as_text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        # in JSON, 5.0 and 5 are one number
        value = int(value)
    # Postgres writes its booleans in lower case
    return str(value).lower() if isinstance(value, bool) else str(value)


def base_type(kind: str) -> str:
    """A type without length or precision: a cast to it neither cuts nor rounds a value."""
    if kind.endswith("[]"):
        return f"{base_type(kind.removesuffix('[]'))}[]"
    without = re.sub(r"\([\d, -]+\)", "", kind)
    # without a length, these two types have length 1
    return {"character": "bpchar", "bit": "varbit"}.get(without, without)


def is_not_a(condition: Condition, value: str) -> ConfigurationError:
    """The error for a value that does not fit the type of its column."""
    column, kind, *_ = condition.predicate
    element = kind.removesuffix("[]")
    article = "an" if element[0] in "aei" else "a"
    example = next((text for name, text in _WRITTEN.items() if element.startswith(name)), None)
    like = f": write one like {example!r}" if example else ""
    return ConfigurationError(f"filter {column!r}: {value!r} is not {article} {element}{like}")


def where(predicates: Group, table: str = "v") -> sql.Composable:
    """The predicates as a condition on this table, with the parameters of `Filter.parameters`."""
    return _joined(predicates, table, count())


def _joined(group: Group, table: str, numbers: Iterator[int]) -> sql.Composable:
    parts = [
        sql.SQL("({})").format(_joined(member, table, numbers))
        if isinstance(member, Group)
        else _compare(f"f{next(numbers)}", table, member)
        for member in group.members
    ]
    if group.operator == "not":
        # a comparison with null is null, and such a row passes, too
        return sql.SQL("{} is not true").format(*parts)
    if group.operator == "or":
        return sql.SQL(" or ").join(parts)
    return sql.SQL(" and ").join([sql.SQL("true"), *parts])


_OF_SEVERAL: frozenset[Operator] = frozenset({"any", "has any", "has all"})
_MEMBERSHIP: dict[Operator, LiteralString] = {"has any": "&&", "has all": "@>"}
COMPARED_BY: dict[Operator, LiteralString] = {"=": "=", ">": ">", ">=": ">=", "<": "<", "<=": "<="}


def _compare(parameter: str, table: str, predicate: Predicate) -> sql.Composable:
    column: sql.Composable = Identifier(table, predicate.column)
    if predicate.operator == "is null":
        return sql.SQL("{} is null").format(column)
    if predicate.operator in _OF_SEVERAL:
        if membership := _MEMBERSHIP.get(predicate.operator):
            among = sql.SQL("{} {} {}::{}").format(
                column, sql.SQL(membership), Placeholder(parameter), trusted(predicate.kind)
            )
        else:
            among = sql.SQL("{} = any({}::{})").format(
                column, Placeholder(parameter), trusted(f"{predicate.kind}[]")
            )
        return sql.SQL("({} or {} is null)").format(among, column) if predicate.or_null else among
    if predicate.operator != "=" and predicate.kind in TEXTS:
        column = sql.SQL('{} collate "C"').format(column)
    return sql.SQL("{} {} {}::{}").format(
        column,
        sql.SQL(COMPARED_BY[predicate.operator]),
        Placeholder(parameter),
        trusted(predicate.kind),
    )
