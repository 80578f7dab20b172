"""How many tokens a model reads of a text, told without loading the model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from embeddings_pipeline.entities import chunking


@dataclass(frozen=True)
class TokenCount:
    """`of` gives the tokens of each text, special ones included, nothing truncated.

    Where it is not `exact`, the model or its provider may count a little more or less.
    """

    of: Callable[[Sequence[str]], list[int]]
    exact: bool = True


# as texts are measured wherever no model has a say
FIXED = TokenCount(chunking.count_tokens)


@lru_cache
def token_count(folder: Path) -> TokenCount:
    """That of the sentence-transformers model in a folder, by its tokenizer.json; without one,
    texts are measured as for all."""
    modules = folder / "modules.json"
    parts = json.loads(modules.read_text()) if modules.is_file() else [{"path": ""}]
    tokenizer = folder / str(parts[0]["path"]) / "tokenizer.json"
    if not tokenizer.is_file():
        return TokenCount(chunking.count_tokens, exact=False)
    if tokenizer.read_bytes() == chunking.TOKENIZER.read_bytes():
        return FIXED
    from tokenizers import Tokenizer

    try:
        own: Tokenizer = Tokenizer.from_file(str(tokenizer))
    # the library raises no kind of its own; whoever loads the model says what is wrong, if it is
    except Exception:
        return TokenCount(chunking.count_tokens, exact=False)
    own.no_truncation()
    own.no_padding()
    return TokenCount(lambda texts: [len(e.ids) for e in own.encode_batch_fast(list(texts))])
