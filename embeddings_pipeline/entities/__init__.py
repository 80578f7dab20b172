"""Entities: what a dbt model declares in `meta.embedding`, and how its rows become texts."""

# the modules that other rooms may import; the rest is this room's own
__all__ = [
    "chunking",
    "entity",
    "fields",
    "manifest",
    "model",
    "partitions",
    "rendering",
]
