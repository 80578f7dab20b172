"""Models of OpenAI, and of endpoints that speak its protocol.

Enter by `encoder.OpenAIEncoder`.
"""

# the modules that other rooms may import; the rest is this room's own
__all__ = [
    "encoder",
    "endpoint",
    "models",
    "rate_limits",
]
