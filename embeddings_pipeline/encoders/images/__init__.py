"""Images as the input of a model: where they are, how they are read and decoded.

Enter by `encoder.ImageEncoder` and `sources.ImageFiles`.
"""

# the modules that other rooms may import; the rest is this room's own
__all__ = [
    "decoding",
    "encoder",
    "sources",
]
