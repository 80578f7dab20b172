"""The Postgres server that this package brings along.

Enter by `server.start` and `server.stop`.
"""

# the modules that other rooms may import; the rest is this room's own
__all__ = [
    "server",
]
