"""Runs a BERT or an XLM-RoBERTa in plain torch, as most small sentence-transformers models are.

Importing `transformers` or `sentence_transformers` takes three seconds, longer than encoding a
hundred texts. The vectors are the same; a test compares them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from safetensors import SafetensorError, safe_open
from tokenizers import Encoding

from embeddings_pipeline.encoders.local.devices import has_nvidia_card
from embeddings_pipeline.encoders.local.loaded_model import PreparedInput, Tokens
from embeddings_pipeline.encoders.local.model_files import (
    model_settings,
    normalizes_vectors,
    padding_id,
    parts_of,
    pooling_modes,
    transformer_settings,
)
from embeddings_pipeline.encoders.local.tokenizer import load_tokenizer
from embeddings_pipeline.encoders.local.weights import WEIGHTS
from embeddings_pipeline.encoders.local.workers import CpuWorkers, CudaWorkers, Workers
from embeddings_pipeline.entities.model import ModelIdentity, Vectors

if TYPE_CHECKING:
    import torch

    from embeddings_pipeline.encoders.local.bert import Bert, Pooling
    from embeddings_pipeline.encoders.local.cpu_kernels import Kernels
    from embeddings_pipeline.encoders.local.cuda_bert import CudaBert

# families with the weights of a BERT
_FAMILIES = {"bert", "camembert", "roberta", "xlm-roberta"}
_SIZES = ("hidden_size", "intermediate_size", "num_attention_heads")
# keys of config.json that are read here; where one is missing, `transformers` has a default
_NEEDED = {*_SIZES, "num_hidden_layers", "layer_norm_eps"}
# short and long ones, whose vectors all ways to compute must give
_SAMPLE = ("a", "A red shoe.", "A blue lamp that stands on a desk and gives light. " * 8)


def is_plain_bert(folder: Path) -> bool:
    """Whether the files of a model describe a BERT or XLM-RoBERTa with mean or CLS pooling."""
    parts = parts_of(folder)
    if [part.kind for part in parts] not in (
        ["Transformer", "Pooling"],
        ["Transformer", "Pooling", "Normalize"],
    ):
        return False
    transformer, pooling, *normalize = parts
    return (
        transformer.folder == folder
        and (folder / "tokenizer.json").exists()
        and _is_bert(transformer.config)
        and _is_named_as_ours(folder / WEIGHTS)
        and set(transformer_settings(folder)) <= {"max_seq_length"}
        and "truncate_dim" not in model_settings(folder)
        and pooling_modes(pooling.config) in (["mean"], ["cls"])
        and pooling.config.get("include_prompt", True)
        and all(map(normalizes_vectors, normalize))
    )


class PlainBert:
    """A loaded BERT with its tokenizer. Loading may raise any exception for damaged files."""

    adds_prompts = False

    def __init__(
        self,
        identity: ModelIdentity,
        folder: Path,
        *,
        device: str,
        dtype: torch.dtype,
        kernels: str,
    ) -> None:
        from embeddings_pipeline.encoders.local.bert import Bert, read_weights
        from embeddings_pipeline.encoders.local.cpu_kernels import TORCH, Shape, kernels_for

        self._tokenizer = load_tokenizer(folder, max_tokens=identity.max_tokens)
        self._dimension = identity.dimension
        transformer, pooling_part, *_ = parts_of(folder)
        weights, config = folder / WEIGHTS, transformer.config
        (mode,) = pooling_modes(pooling_part.config)
        pooling = cast("Pooling", mode)
        self.workers: Workers | None = None
        self._model: Bert | CudaBert
        if has_nvidia_card(device):
            from embeddings_pipeline.encoders.local.cuda_bert import CudaBert

            self.workers = CudaWorkers()
            read = read_weights(weights, config, device=device, dtype=dtype)
            self._model = CudaBert(read, pooling, padding_id(config))
        else:

            def bert(chosen: Kernels) -> Bert:
                return Bert(weights, config, pooling, chosen, device=device, dtype=dtype)

            def vectors(chosen: Kernels) -> Vectors:
                return self._vectors(bert(chosen), self.prepare(_SAMPLE, query=False))

            chosen = TORCH
            if device == "cpu":
                self.workers = CpuWorkers()
                shape = Shape(*(int(config[size]) for size in _SIZES))
                # timed in a thread as those that run the model
                chosen = self.workers.pool.submit(
                    kernels_for, kernels, shape, dtype, identity.revision, vectors
                ).result()
            self._model = bert(chosen)
        self.limits = self._model.limits

    def prepare(self, texts: Sequence[str], *, query: bool) -> list[PreparedInput]:
        """Tokenise each text. `query` has no effect."""
        del query
        encodings = self._tokenizer.encode_batch_fast(list(texts))
        ends = [0, *accumulate(map(len, encodings))]
        # one array of which each text has a view: an array each would take longer
        ids = np.fromiter(chain.from_iterable(e.ids for e in encodings), np.int32, ends[-1])
        return [
            PreparedInput(
                end - start + sum(map(_text_tokens, encoding.overflowing)), ids[start:end]
            )
            for encoding, (start, end) in zip(encodings, pairwise(ends), strict=True)
        ]

    def encode(self, batch: Sequence[PreparedInput], *, query: bool) -> Vectors:
        """Return the pooled token vectors of each text, float32, shape (texts, dimension).

        The vectors are not normalized. A text without tokens has the zero vector. `query` has no
        effect.
        """
        del query
        return self._vectors(self._model, batch)

    def _vectors(self, model: Bert | CudaBert, batch: Sequence[PreparedInput]) -> Vectors:
        texts = [cast(Tokens, text.content) for text in batch]
        filled = [number for number, text in enumerate(texts) if len(text)]
        if len(filled) == len(texts):
            return model.vectors(texts)
        # a tokenizer without special tokens makes none of an empty text
        vectors = np.zeros((len(texts), self._dimension), np.float32)
        if filled:
            vectors[filled] = model.vectors([texts[number] for number in filled])
        return vectors


def _text_tokens(overflow: Encoding) -> int:
    return len(overflow.ids) - sum(overflow.special_tokens_mask)


def _is_bert(config: dict[str, Any]) -> bool:
    return (
        config.get("model_type") in _FAMILIES
        and config.get("hidden_act") == "gelu"
        and config.keys() >= _NEEDED
        and config["hidden_size"] % config["num_attention_heads"] == 0
        and config.get("position_embedding_type", "absolute") == "absolute"
        and not config.get("is_decoder")
    )


def _is_named_as_ours(weights: Path) -> bool:
    # a BERT saved with a task head has `bert.` before each name
    try:
        with safe_open(weights, framework="np") as file:
            return "embeddings.word_embeddings.weight" in file.keys()  # noqa: SIM118
    # missing or damaged: loading reports the error
    except (OSError, SafetensorError):
        return False
