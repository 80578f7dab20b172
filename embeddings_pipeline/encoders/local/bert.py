"""Runs a BERT or an XLM-RoBERTa in plain torch, as most small sentence-transformers models are.

Importing `transformers` or `sentence_transformers` takes three seconds, longer than encoding a
hundred texts. The vectors are the same; a test compares them. Architecture: Devlin et al. 2019,
arxiv.org/abs/1810.04805; weights are named as in its checkpoints.

On a CPU the forward pass is one TorchScript function. In Python the pass is a hundred small
operations, each of which takes the interpreter's lock; in a service with other busy threads,
waiting for the lock takes longer than the computation.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from itertools import accumulate, chain, groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, cast

import numpy as np
from safetensors import SafetensorError, safe_open
from tokenizers import Encoding, Tokenizer

from embeddings_pipeline.encoders.local.bert_weights import read_weights
from embeddings_pipeline.encoders.local.cpu_workers import CpuWorkers
from embeddings_pipeline.encoders.local.devices import has_nvidia_card
from embeddings_pipeline.encoders.local.loaded_model import (
    DEFAULT_LIMITS,
    PreparedInput,
    Tokens,
)
from embeddings_pipeline.encoders.local.model_files import parts_of, pooling_modes
from embeddings_pipeline.encoders.local.workers import Workers
from embeddings_pipeline.entities.model import Vectors

if TYPE_CHECKING:
    import torch

    from embeddings_pipeline.encoders.local.cpu_kernels import Kernels
    from embeddings_pipeline.encoders.local.cuda_bert import CudaBert


Pooling: TypeAlias = Literal["mean", "cls"]
# families with the weights of a BERT
_FAMILIES = {"bert", "camembert", "roberta", "xlm-roberta"}
_SIZES = ("hidden_size", "intermediate_size", "num_attention_heads")


class Group(NamedTuple):
    """Consecutive texts of one length: the number of texts, and the tokens of each."""

    texts: int
    tokens: int


class Bert:
    """A BERT on any device, whose batches hold texts of like length. Thread-safe.

    In bfloat16 on a CPU the weights of linear layers are reordered for oneDNN once, not in each
    call. Raises KeyError where a weight is missing.
    """

    limits = DEFAULT_LIMITS

    def __init__(
        self,
        weights: Path,
        config: dict[str, Any],
        pooling: Pooling,
        kernels: Kernels,
        *,
        device: str,
        dtype: torch.dtype,
    ) -> None:
        from embeddings_pipeline.encoders.local.cpu_kernels import packed, packs_weights

        packs = device == "cpu" and packs_weights(dtype)
        pack = {"pack": packed} if packs else {}
        self._weights = read_weights(weights, config, device=device, dtype=dtype, **pack)
        self._pooling = pooling
        self._device = device
        self._exp_tokens = kernels.exp_tokens
        self._forward = forward_pass(device, packed=packs, fused_gelu=kernels.fused_gelu)

    def vectors(self, texts: Sequence[Tokens]) -> Vectors:
        """Return the pooled token vectors of each text, float32, shape (texts, dimension)."""
        import torch

        groups = [Group(len([*same]), length) for length, same in groupby(map(len, texts))]
        ids = torch.from_numpy(np.concatenate(texts)).long().to(self._device)
        places = torch.cat([torch.arange(group.tokens).repeat(group.texts) for group in groups])
        with torch.inference_mode():
            hidden = self._forward(
                ids,
                places.to(self._device),
                [(group.texts, group.tokens) for group in groups],
                self._exp_tokens,
                *self._weights,
            ).float()
            parts = [
                part.view(*group, -1)
                for part, group in zip(
                    torch.split(hidden, [group.texts * group.tokens for group in groups]),
                    groups,
                    strict=True,
                )
            ]
            pooled = [part[:, 0] if self._pooling == "cls" else part.mean(1) for part in parts]
            vectors: Vectors = torch.cat(pooled).cpu().numpy()
        return vectors


if TYPE_CHECKING:
    Forward: TypeAlias = Callable[
        [
            torch.Tensor,
            torch.Tensor,
            list[tuple[int, int]],
            int,
            list[torch.Tensor],
            list[list[torch.Tensor]],
            int,
            float,
        ],
        torch.Tensor,
    ]


def forward_pass(device: str, *, packed: bool, fused_gelu: bool) -> Forward:
    """Return the forward pass for a device; `packed` says whether weights are packed for oneDNN,
    and `fused_gelu` whether a product computes the GELU that follows it.

    The arguments of the forward pass:
    - token ids of consecutive texts, shape (tokens,)
    - the position of each token in its text, shape (tokens,)
    - (number of texts, tokens of each) for each group of texts of one length
    - the tokens of the longest text for `attention_by_exp`
    - word embeddings, position embeddings, and the weight and bias of their layer norm
    - the weights of each layer, in the order of use
    - the number of attention heads
    - the epsilon of layer norms

    Returns the last hidden states, shape (tokens, hidden).
    """
    import torch
    from torch.nn import functional

    from embeddings_pipeline.encoders.local.cpu_kernels import (
        attention_by_exp,
        attention_by_torch,
        packed_linear,
        packed_linear_gelu,
    )

    def linear(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return functional.linear(hidden, weight, bias)

    product = packed_linear if packed else linear

    def activated(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return functional.gelu(product(hidden, weight, bias))

    expanded = packed_linear_gelu if fused_gelu else activated

    def forward(
        ids: torch.Tensor,
        places: torch.Tensor,
        groups: list[tuple[int, int]],
        exp_tokens: int,
        embeddings: list[torch.Tensor],
        layers: list[list[torch.Tensor]],
        heads: int,
        epsilon: float,
    ) -> torch.Tensor:
        words, positions, weight, bias = embeddings
        hidden = words[ids] + positions[places]
        shape = hidden.shape[1:]
        hidden = functional.layer_norm(hidden, shape, weight, bias, epsilon)
        for layer in layers:
            # each weight is followed by its bias
            qkv, qkv_b, out, out_b, norm_1, norm_1_b, up, up_b, down, down_b, norm_2, norm_2_b = (
                layer
            )
            projected = product(hidden, qkv, qkv_b)
            attended = torch.empty_like(hidden)
            start = 0
            for texts, tokens in groups:
                end = start + texts * tokens
                parts = projected[start:end].view(texts, tokens, 3, heads, -1)
                parts = parts.permute(2, 0, 3, 1, 4)
                if tokens <= exp_tokens:
                    mixed = attention_by_exp(parts)
                else:
                    mixed = attention_by_torch(parts)
                attended[start:end].view(texts, tokens, heads, -1).copy_(mixed.transpose(1, 2))
                start = end
            hidden = hidden + product(attended, out, out_b)
            hidden = functional.layer_norm(hidden, shape, norm_1, norm_1_b, epsilon)
            inner = expanded(hidden, up, up_b)
            hidden = hidden + product(inner, down, down_b)
            hidden = functional.layer_norm(hidden, shape, norm_2, norm_2_b, epsilon)
        return hidden

    if device != "cpu":
        return forward
    with warnings.catch_warnings():
        # torch recommends torch.compile, which takes 43 s; scripting takes 0.02 s
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted: Forward = torch.jit.script(forward)
    return scripted


def is_plain_bert(folder: Path) -> bool:
    """Whether the files of a model describe a BERT or XLM-RoBERTa with mean or CLS pooling."""
    parts = parts_of(folder)
    if [part.kind for part in parts] not in (
        ["Transformer", "Pooling"],
        ["Transformer", "Pooling", "Normalize"],
    ):
        return False
    pooling = _read(parts[1].folder / "config.json")
    return (
        parts[0].folder == folder
        and (folder / "tokenizer.json").exists()
        and _is_bert(_read(folder / "config.json"))
        and _is_named_as_ours(folder / "model.safetensors")
        and not _read(folder / "sentence_bert_config.json").get("do_lower_case")
        and pooling_modes(pooling) in (["mean"], ["cls"])
        and pooling.get("include_prompt", True)
    )


class PlainBert:
    """A loaded BERT with its tokenizer. Loading may raise any exception for damaged files."""

    adds_prompts = False

    def __init__(
        self, folder: Path, *, max_tokens: int, device: str, dtype: torch.dtype, kernels: str
    ) -> None:
        self._tokenizer: Tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(max_tokens)
        self._tokenizer.no_padding()
        weights, config = folder / "model.safetensors", _read(folder / "config.json")
        (mode,) = pooling_modes(_read(parts_of(folder)[1].folder / "config.json"))
        pooling = cast(Pooling, mode)
        self.workers: Workers | None = None
        self._model: Bert | CudaBert
        if has_nvidia_card(device):
            from embeddings_pipeline.encoders.local.cuda_bert import CudaBert, CudaWorkers

            self.workers = CudaWorkers()
            read = read_weights(weights, config, device=device, dtype=dtype)
            self._model = CudaBert(read, pooling)
        else:
            from embeddings_pipeline.encoders.local.cpu_kernels import TORCH, Shape, kernels_for

            chosen = TORCH
            if device == "cpu":
                self.workers = CpuWorkers()
                shape = Shape(*(int(config[size]) for size in _SIZES))
                # timed in a thread as those that run the model
                chosen = self.workers.pool.submit(kernels_for, kernels, shape, dtype).result()
            self._model = Bert(weights, config, pooling, chosen, device=device, dtype=dtype)
        self.limits = self._model.limits

    def prepare(self, texts: Sequence[str]) -> list[PreparedInput]:
        """Tokenise each text."""
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

        The vectors are not normalized. `query` has no effect.
        """
        del query
        return self._model.vectors([cast(Tokens, text.content) for text in batch])


def _text_tokens(overflow: Encoding) -> int:
    return len(overflow.ids) - sum(overflow.special_tokens_mask)


def _is_bert(config: dict[str, Any]) -> bool:
    return (
        config.get("model_type") in _FAMILIES
        and config.get("hidden_act") == "gelu"
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


def _read(path: Path) -> Any:
    # a missing optional file counts as empty
    return json.loads(path.read_text()) if path.exists() else {}
