"""The vectors of queries, remembered in this process or in Redis.

Enter by `encoder.CachedEncoder`.
"""

# the modules that other rooms may import; the rest is this room's own
__all__ = [
    "encoder",
]
