"""The tokenizer of a model on this machine, and the number of tokens of a text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import ByteLevel, Metaspace, WhitespaceSplit
from tokenizers.pre_tokenizers import Sequence as InTurn

from embeddings_pipeline.encoders.encoder import DEFAULT_TOKEN_COUNT, TokenCount
from embeddings_pipeline.encoders.local.model_files import STATIC, parts_of, read_json
from embeddings_pipeline.entities import chunking

# classes of `transformers`: those that use tokenizer.json as it is, and those that split by words
_AS_IT_IS = {"PreTrainedTokenizer", "TokenizersBackend"}
_BY_WORDS = {"CamembertTokenizer", "XLMRobertaTokenizer"}


def load_tokenizer(folder: Path, *, max_tokens: int | None = None) -> Tokenizer:
    """Return the tokenizer in the folder of a transformer; it truncates texts to `max_tokens`.

    It splits texts as `transformers` 5 does, which makes some parts by tokenizer_config.json and
    its own rules, not by tokenizer.json.

    May raise any exception for damaged files.
    """
    tokenizer: Tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    config = read_json(folder / "tokenizer_config.json")
    kind = str(config.get("tokenizer_class")).removesuffix("Fast")
    if kind in _BY_WORDS:
        scheme = "always" if config.get("add_prefix_space", True) else "never"
        tokenizer.pre_tokenizer = InTurn([WhitespaceSplit(), Metaspace(prepend_scheme=scheme)])
    elif kind not in _AS_IT_IS:
        if isinstance(tokenizer.normalizer, BertNormalizer):
            tokenizer.normalizer = BertNormalizer(
                lowercase=config.get("do_lower_case", True),
                strip_accents=config.get("strip_accents"),
                handle_chinese_chars=config.get("tokenize_chinese_chars", True),
            )
        if isinstance(tokenizer.pre_tokenizer, ByteLevel):
            tokenizer.pre_tokenizer = ByteLevel(
                add_prefix_space=config.get("add_prefix_space", False)
            )
    in_file = tokenizer.truncation or {}
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if max_tokens is not None:
        side = config.get("truncation_side") or in_file.get("direction", "right")
        tokenizer.enable_truncation(max_tokens, direction=side)
    return tokenizer


@lru_cache
def token_count(folder: Path) -> TokenCount:
    """Return the token counter of the sentence-transformers model in a folder.

    The counter uses the model's tokenizer.json. Without a readable one, the counter uses the
    pipeline's own tokenizer and is not exact.
    """
    part = parts_of(folder, trusted=True)[0]
    file, special = part.folder / "tokenizer.json", part.kind != STATIC
    if not file.is_file():
        return TokenCount(chunking.count_tokens, exact=False)
    if special and file.read_bytes() == chunking.TOKENIZER.read_bytes():
        return DEFAULT_TOKEN_COUNT
    try:
        own = load_tokenizer(part.folder)
    # tokenizers raises plain Exception; a broken file is reported when the model is loaded
    except Exception:
        return TokenCount(chunking.count_tokens, exact=False)

    def count(texts: Sequence[str]) -> list[int]:
        return [len(e) for e in own.encode_batch_fast(list(texts), add_special_tokens=special)]

    return TokenCount(count)
