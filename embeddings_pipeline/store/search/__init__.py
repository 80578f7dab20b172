"""The SQL of searches: dense, lexical, hybrid, and what is published."""

# the modules that other rooms may import; the rest is this room's own
__all__ = [
    "dense",
    "hybrid",
    "lexical",
    "published",
    "published_search",
    "session",
    "snapshots",
]
