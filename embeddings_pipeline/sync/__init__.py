"""What a run does to an entity: one file for each stage, and one for each question about it."""

# the modules that other rooms may import; the rest is this room's own
__all__ = [
    "adopt",
    "checks",
    "documents",
    "encode",
    "erase",
    "explain",
    "index",
    "plan",
    "progress",
    "publish",
    "quality",
    "retention",
    "run_metrics",
    "run_options",
    "snapshot",
    "status",
    "texts",
]
