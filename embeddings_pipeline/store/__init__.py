"""The database: all SQL stands here.

There is a room for each kind of table, in the order of a row's path: staging, texts, vectors,
index, search. A room imports only earlier rooms. Beside them stand the tools of all (`connection`,
`tables`, `vector_sets`, `filters` …), and what reads or makes the tables of several rooms
(`planning`, `rows`, `migrations` …).
"""

# the modules that other rooms may import; the rest is this room's own
__all__ = [
    "connection",
    "declarations",
    "filters",
    "inspection",
    "locks",
    "migrations",
    "planning",
    "removal",
    "retry",
    "rows",
    "run_ledger",
    "schema",
    "tables",
    "vector_sets",
    "views",
    "wire",
]
