"""How well a vector set finds: judged queries and their measures, golden queries before a set is
published, and two sets beside one another."""

# the modules that other rooms may import; the rest is this room's own
__all__ = ["compare", "qrels", "retrieval"]
