"""Texts: the chunks of each row, what could not be rendered or encoded, what was erased."""

# the modules that other rooms may import; the rest is this room's own
__all__ = [
    "candidates",
    "erasures",
    "lexemes",
    "partition_keys",
    "quarantine",
    "text_tables",
    "texts",
]
