"""Models that run on this machine: their files, devices and forward passes.

Enter by `encoder.SentenceTransformersEncoder` and `shared_model.SharedModel`.
"""

# the modules that other rooms may import; the rest is this room's own
__all__ = [
    "description",
    "devices",
    "download",
    "encoder",
    "known_models",
    "loaded_model",
    "loading",
    "model_files",
    "shared_model",
]
