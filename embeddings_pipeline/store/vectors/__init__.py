"""Vectors: the embedding cache of each model identity, and the vector sets projected from it."""

# the modules that other rooms may import; the rest is this room's own
__all__ = [
    "cache",
    "claims",
    "identities",
    "pending",
    "projection",
    "renewals",
    "sets",
]
