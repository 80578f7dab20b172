"""Searches: requests, and the searcher that answers them from what is published."""

# the modules that other rooms may import; the rest is this room's own
__all__ = [
    "batching",
    "evaluation",
    "query_vectors",
    "requests",
    "searcher",
    "snapshot",
]
