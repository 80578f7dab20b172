"""Tiny random models of the architectures that people use, with tokenizers of their kinds.

Each is a folder as a hub has it, with weights of a few kilobytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import (
    AlbertConfig,
    BertConfig,
    CamembertConfig,
    DebertaConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    Gemma3TextConfig,
    ModernBertConfig,
    MPNetConfig,
    NomicBertConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    RobertaConfig,
    T5Config,
    XLMRobertaConfig,
)
from transformers.models.auto import AutoModel

MAX_TOKENS = 32
TEXTS = (
    "A red shoe.",
    "Красный башмак.",
    "",
    "a blue lamp that stands on a desk and gives light " * 8,
    "A blue lamp that stands on a desk.",
    "{braces} and 👩‍👩‍👧‍👦",
    "A red shoe.",
)
PROMPTS = {"query": "find: ", "document": "text: "}
_WIDTH = 16
_SIZE = {
    "hidden_size": _WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    # with the usual 0.02 texts hardly differ in so small a model
    "initializer_range": 0.5,
}
# of decoders
_GROUPED = {"num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": MAX_TOKENS}


@dataclass(frozen=True)
class Architecture:
    """How a model of one architecture is made; `special` are its tokens for padding, unknown
    characters, the beginning and the end, in order of their ids."""

    config: Callable[..., PreTrainedConfig]
    tokenizer: Callable[[Sequence[str]], Tokenizer]
    special: Mapping[str, str]
    options: dict[str, Any] = field(default_factory=dict)
    pooling: str = "mean"
    dense: Sequence[int] = ()
    padding_side: str = "right"


def word_pieces(special: Sequence[str]) -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return trained(made, trainers.WordPieceTrainer(vocab_size=300, special_tokens=[*special]))


def sentence_pieces(special: Sequence[str]) -> Tokenizer:
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=[*special], unk_token="<unk>", show_progress=False
    )
    return trained(made, trainer)


def byte_pairs(special: Sequence[str]) -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=[*special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    return trained(made, trainer)


def trained(tokenizer: Tokenizer, trainer: trainers.Trainer) -> Tokenizer:
    tokenizer.train_from_iterator([*TEXTS, *PROMPTS.values()], trainer)
    return tokenizer


_BERT = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "[CLS]", "eos_token": "[SEP]"}
_ROBERTA = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
ARCHITECTURES = {
    "bert": Architecture(
        BertConfig, word_pieces, _BERT, {"max_position_embeddings": MAX_TOKENS}, pooling="cls"
    ),
    "xlm-roberta": Architecture(
        XLMRobertaConfig,
        sentence_pieces,
        _ROBERTA,
        # position 1 is for padding, and texts begin behind it
        {"max_position_embeddings": MAX_TOKENS + 2, "type_vocab_size": 1},
    ),
    "modernbert": Architecture(
        ModernBertConfig,
        byte_pairs,
        _BERT,
        {"local_attention": 8, "num_hidden_layers": 4, "max_position_embeddings": MAX_TOKENS},
        pooling="cls",
    ),
    "nomic": Architecture(
        NomicBertConfig, word_pieces, _BERT, {"max_position_embeddings": MAX_TOKENS}
    ),
    "qwen3": Architecture(
        Qwen3Config,
        byte_pairs,
        {"pad_token": "<|endoftext|>", "eos_token": "<|endoftext|>"},
        _GROUPED,
        pooling="lasttoken",
        padding_side="left",
    ),
    "gemma3": Architecture(
        Gemma3TextConfig,
        sentence_pieces,
        {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"},
        _GROUPED | {"use_bidirectional_attention": True, "sliding_window": 8},
        dense=(48, 16),
    ),
}


# seen less often
OTHERS = {
    "albert": Architecture(
        AlbertConfig, sentence_pieces, _ROBERTA, {"max_position_embeddings": MAX_TOKENS}
    ),
    "camembert": Architecture(
        CamembertConfig, sentence_pieces, _ROBERTA, {"max_position_embeddings": MAX_TOKENS + 2}
    ),
    # which does not run in bfloat16
    "deberta": Architecture(
        DebertaConfig,
        byte_pairs,
        _BERT,
        {
            "max_position_embeddings": MAX_TOKENS,
            "relative_attention": True,
            "pos_att_type": ["c2p"],
        },
    ),
    "deberta-v2": Architecture(
        DebertaV2Config,
        sentence_pieces,
        _ROBERTA,
        {"max_position_embeddings": MAX_TOKENS, "relative_attention": True, "position_buckets": 8},
    ),
    "distilbert": Architecture(
        DistilBertConfig,
        word_pieces,
        _BERT,
        {"hidden_dim": 32, "max_position_embeddings": MAX_TOKENS},
    ),
    "electra": Architecture(
        ElectraConfig,
        word_pieces,
        _BERT,
        {"embedding_size": 8, "max_position_embeddings": MAX_TOKENS},
        pooling="max",
    ),
    "mpnet": Architecture(
        MPNetConfig, word_pieces, _BERT, {"max_position_embeddings": MAX_TOKENS + 2}
    ),
    "qwen3 padded on the right": replace(
        ARCHITECTURES["qwen3"], pooling="weightedmean", padding_side="right"
    ),
    "roberta": Architecture(
        RobertaConfig, byte_pairs, _ROBERTA, {"max_position_embeddings": MAX_TOKENS + 2}
    ),
    "t5": Architecture(
        T5Config,
        sentence_pieces,
        {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"},
        {"d_kv": 8, "d_ff": 32, "initializer_factor": 3.0},
        dense=(12,),
    ),
}


def make(name: str, folder: Path, prompts: dict[str, str] | None = None, **options: Any) -> Path:
    """Make the model of an architecture below the folder, and return its own folder; `options` are
    of its config.json."""
    of = (ARCHITECTURES | OTHERS)[name]
    tokenizer = of.tokenizer([*dict.fromkeys(of.special.values())])
    torch.manual_seed(0)
    ids = {f"{role}_id": tokenizer.token_to_id(token) for role, token in of.special.items()}
    ids.pop("unk_token_id", None)
    vocabulary = {"vocab_size": tokenizer.get_vocab_size()}
    config = of.config(**{**_SIZE, **ids, **vocabulary, **of.options, **options})
    bare = folder / "bare"
    AutoModel.from_config(config).save_pretrained(bare)  # type: ignore[no-untyped-call]
    _with_ends(tokenizer, of.special)
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        model_max_length=MAX_TOKENS,
        padding_side=of.padding_side,
        **of.special,
    ).save_pretrained(bare)
    sizes = [_WIDTH, *of.dense]
    parts: list[torch.nn.Module] = [
        Transformer(str(bare)),
        Pooling(_WIDTH, of.pooling),
        *(
            Dense(before, after, bias=False, activation_function=torch.nn.Identity())
            for before, after in pairwise(sizes)
        ),
        Normalize(),
    ]
    SentenceTransformer(modules=parts, prompts=prompts, device="cpu").save(str(folder / "model"))
    return folder / "model"


def make_static(folder: Path, prompts: dict[str, str] | None = None) -> Path:
    """Make a static model in the folder."""
    torch.manual_seed(0)
    part = StaticEmbedding(word_pieces(["[PAD]", "[UNK]"]), embedding_dim=16)
    parts: list[torch.nn.Module] = [part, Normalize()]
    SentenceTransformer(modules=parts, prompts=prompts, device="cpu").save(str(folder))
    return folder


def _with_ends(tokenizer: Tokenizer, special: Mapping[str, str]) -> None:
    begin, end = special.get("bos_token"), special["eos_token"]
    tokenizer.post_processor = TemplateProcessing(
        single=[*([begin] if begin else []), "$A", end],
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (begin, end) if token],
    )
