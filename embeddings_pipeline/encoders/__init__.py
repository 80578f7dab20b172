"""Encoders: what turns a text or an image into a vector.

Enter by `registry.Encoders`, which makes the encoder of a model; `encoder` has the protocol.
"""

# the modules that other rooms may import; the rest is this room's own
__all__ = [
    "catalogue",
    "deadline",
    "encoder",
    "prefetch",
    "registry",
    "reranker",
    "speeds",
]
