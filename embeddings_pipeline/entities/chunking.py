"""Counts tokens and splits long text, with one tokenizer for every entity and model.

The tokenizer belongs to the default model (`tokenizer.json` beside this file, Apache-2.0, from
sentence-transformers/all-MiniLM-L6-v2). A change of model therefore does not change the texts.
"""

from __future__ import annotations

import math
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
# share of the texts that `estimate_tokens` measures
_COUNT_ONE_IN = 10
# no text model truncates a text this short, since a token has at least one byte
_SHORT_BYTES = 120
_HEADER_STEP = 4
# average of English prose in a WordPiece vocabulary
_BYTES_A_TOKEN = 4.5


def measure_tokens(texts: Sequence[str]) -> list[int]:
    """Return about how many tokens each text has, special tokens included.

    The tokens of long texts are counted. The tokens of short texts, which no model truncates, are
    estimated from the number of bytes.
    """
    sizes = [len(text) if text.isascii() else len(text.encode()) for text in texts]
    counts = iter(
        count_tokens([t for t, size in zip(texts, sizes, strict=True) if size > _SHORT_BYTES])
    )
    return [
        next(counts) if size > _SHORT_BYTES else SPECIAL_TOKENS + round(size / _BYTES_A_TOKEN)
        for size in sizes
    ]


def count_tokens(texts: Sequence[str]) -> list[int]:
    """Return the tokens of each text, special tokens included, without truncation."""
    return [len(encoding) for encoding in _tokenizer().encode_batch_fast(list(texts))]


def estimate_tokens(texts: Sequence[str]) -> list[int]:
    """Estimate the result of `measure_tokens` from a sample of one text in ten.

    The other texts count the sample's average tokens per character. The hash of a text decides
    whether the text is in the sample, so the order of the texts has no effect.
    """
    distinct = dict.fromkeys(texts)
    sample = [text for text in distinct if crc32(text.encode()) % _COUNT_ONE_IN == 0]
    sample = sample or [*distinct][:1]
    counted = dict(zip(sample, measure_tokens(sample), strict=True))
    characters = sum(map(len, counted))
    read = sum(counted.values()) - SPECIAL_TOKENS * len(counted)
    rate = read / characters if characters else 0.0
    return [counted.get(text) or SPECIAL_TOKENS + round(rate * len(text)) for text in texts]


def split(text: str, chunk: Chunk, header: str = "") -> list[str]:
    """Split a text into pieces of at most `chunk.tokens` tokens, special tokens included, each with
    the header in front. A long header is cut to half of the tokens.

    A cut is at the largest boundary that fits: paragraph, sentence, word, character.
    """
    if not header:
        return _splitter(chunk.tokens, chunk.overlap).chunks(text) or [text]
    header = _splitter(chunk.tokens // 2, 0).chunks(header)[0]
    # a splitter takes long to make: headers of a like length share one
    taken = math.ceil(count_tokens([f"{header}. "])[0] / _HEADER_STEP) * _HEADER_STEP
    left = chunk.tokens + SPECIAL_TOKENS - taken
    pieces = _splitter(left, min(chunk.overlap, (left - SPECIAL_TOKENS) // 2)).chunks(text)
    return [f"{header}. {piece}" for piece in pieces] or [header]


@lru_cache(maxsize=1)
def _tokenizer() -> Tokenizer:
    from tokenizers import Tokenizer

    tokenizer: Tokenizer = Tokenizer.from_file(str(TOKENIZER))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


@lru_cache(maxsize=64)
def _splitter(tokens: int, overlap: int) -> TextSplitter:
    from semantic_text_splitter import TextSplitter

    capacity = tokens - SPECIAL_TOKENS
    return TextSplitter.from_huggingface_tokenizer(_tokenizer(), capacity, overlap)
