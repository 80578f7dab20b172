"""Text templates like `{title} by {creator}`, with column names in braces."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from string import Formatter


def template_columns(template: str) -> tuple[str, ...]:
    """Return the columns that a template names, in order, each once.

    Raises ValueError for a format, a conversion or an attribute in braces.
    """
    names = []
    for _, name, spec, conversion in Formatter().parse(template):
        if name is None:
            continue
        if not name or spec or conversion or set(name) & set(".[]"):
            raise ValueError(
                "write only a column in braces, like {column}; write a brace as {{ or }}"
            )
        names.append(name)
    if not names:
        raise ValueError("names no column, like {title}")
    return tuple(dict.fromkeys(names))


def fill(template: str, values: Mapping[str, str]) -> str:
    """Return the template with each column replaced by its value."""
    pattern, names = _compiled(template)
    return pattern % tuple([values[name] for name in names])


@lru_cache
def _compiled(template: str) -> tuple[str, tuple[str, ...]]:
    """The template with %s for each column, which is faster to fill, and the columns."""
    parsed = [(literal, name) for literal, name, _, _ in Formatter().parse(template)]
    pattern = "".join(
        literal.replace("%", "%%") + ("" if name is None else "%s") for literal, name in parsed
    )
    return pattern, tuple(name for _, name in parsed if name is not None)
