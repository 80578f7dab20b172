"""Staging models: which rows changed, and the rows themselves."""

# the modules that other rooms may import; the rest is this room's own
__all__ = [
    "columns",
    "diff",
    "reader",
    "source",
]
