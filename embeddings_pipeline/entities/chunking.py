"""Counts tokens and splits long text, with one tokenizer for every entity and model.

The tokenizer is that of the default model (`tokenizer.json` beside this file, Apache-2.0, from
sentence-transformers/all-MiniLM-L6-v2), so that a change of model leaves the texts alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import crc32

from embeddings_pipeline.entities.entity import Chunk

if TYPE_CHECKING:
    from semantic_text_splitter import TextSplitter
    from tokenizers import Tokenizer

TOKENIZER = Path(__file__).with_name("tokenizer.json")
# [CLS] and [SEP], which the model adds to each text
SPECIAL_TOKENS = 2
_COUNT_ONE_IN = 10
# no text model truncates a text of so few bytes, since a token has at least one
_SHORT_BYTES = 120
# of English prose in a WordPiece vocabulary
_BYTES_A_TOKEN = 4.5


def measure_tokens(texts: Sequence[str]) -> list[int]:
    """About how many tokens each text has: those of long texts are counted, those of short ones,
    which no model truncates, are told from their length."""
    sizes = [len(text) if text.isascii() else len(text.encode()) for text in texts]
    counts = iter(
        count_tokens([t for t, size in zip(texts, sizes, strict=True) if size > _SHORT_BYTES])
    )
    return [
        next(counts) if size > _SHORT_BYTES else SPECIAL_TOKENS + round(size / _BYTES_A_TOKEN)
        for size in sizes
    ]


def count_tokens(texts: Sequence[str]) -> list[int]:
    """Tokens of each text, special tokens included, nothing truncated."""
    return [len(encoding) for encoding in _tokenizer().encode_batch_fast(list(texts))]


def estimate_tokens(texts: Sequence[str]) -> list[int]:
    """What `measure_tokens` says, from the length of most texts: one in ten is measured, and the
    others are taken to have as many tokens a character.

    The hash of a text decides whether it is measured, so that no order of them weighs in.
    """
    distinct = dict.fromkeys(texts)
    sample = [text for text in distinct if crc32(text.encode()) % _COUNT_ONE_IN == 0]
    sample = sample or [*distinct][:1]
    counted = dict(zip(sample, measure_tokens(sample), strict=True))
    characters = sum(map(len, counted))
    read = sum(counted.values()) - SPECIAL_TOKENS * len(counted)
    rate = read / characters if characters else 0.0
    return [counted.get(text) or SPECIAL_TOKENS + round(rate * len(text)) for text in texts]


def split(text: str, chunk: Chunk) -> list[str]:
    """Pieces of at most `chunk.tokens` tokens (special ones included), cut at the largest
    boundary that fits: paragraph, sentence, word, character."""
    return _splitter(chunk.tokens, chunk.overlap).chunks(text) or [text]


@lru_cache(maxsize=1)
def _tokenizer() -> Tokenizer:
    from tokenizers import Tokenizer

    tokenizer: Tokenizer = Tokenizer.from_file(str(TOKENIZER))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


@lru_cache(maxsize=32)
def _splitter(tokens: int, overlap: int) -> TextSplitter:
    from semantic_text_splitter import TextSplitter

    capacity = tokens - SPECIAL_TOKENS
    return TextSplitter.from_huggingface_tokenizer(_tokenizer(), capacity, overlap)
