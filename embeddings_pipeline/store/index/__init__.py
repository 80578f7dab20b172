"""The vector index of a set: building it, and measuring its recall."""

# the modules that other rooms may import; the rest is this room's own
__all__ = [
    "build",
    "filter_indexes",
    "progress",
    "recall",
]
