"""The HTTP search service and its page.

Enter by `app.create_app`, and serve it by `server.server`.
"""

# the modules that other rooms may import; the rest is this room's own
__all__ = [
    "app",
    "auth",
    "mcp",
    "server",
]
