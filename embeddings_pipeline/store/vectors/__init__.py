"""Vectors: the embedding cache of each model identity, and the vector sets projected from it: what
is pending in them, how many rows they cover, how good they are."""

# the modules that other rooms may import; the rest is this room's own
__all__ = [
    "adoption",
    "cache",
    "claims",
    "coverage",
    "identities",
    "pending",
    "projection",
    "quality",
    "renewals",
    "sets",
]
