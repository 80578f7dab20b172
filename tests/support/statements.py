"""Statements with drawn values, for tests that Hypothesis makes up."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from psycopg import sql


def statement(query: str, *values: st.SearchStrategy[Any]) -> st.SearchStrategy[str]:
    """A change of staging, with each `{}` a literal."""
    literals = st.tuples(*values).map(lambda drawn: [sql.Literal(v).as_string() for v in drawn])
    return literals.map(lambda drawn: query.format(*drawn))
