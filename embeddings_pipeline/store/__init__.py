"""The database: all SQL stands here.

There is a room for each kind of table. What all rooms use stands beside them: `connection`,
`retry`, `locks` and `tables`.
"""

# the modules that other rooms may import; the rest is this room's own
__all__ = [
    "adoption",
    "comparison",
    "connection",
    "coverage",
    "declarations",
    "filters",
    "locks",
    "migrations",
    "planning",
    "retry",
    "row_history",
    "row_status",
    "run_ledger",
    "schema",
    "tables",
    "vector_sets",
    "views",
    "wire",
]
