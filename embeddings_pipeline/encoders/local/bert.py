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
    from torch import Tensor

    from embeddings_pipeline.encoders.local.cuda_bert import CudaBert


Pooling: TypeAlias = Literal["mean", "cls"]
# families with the weights of a BERT
_FAMILIES = {"bert", "camembert", "roberta", "xlm-roberta"}
# number of rows that oneDNN optimises the packed weights for; other numbers also work
_ROWS = 2048


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
        *,
        device: str,
        dtype: torch.dtype,
    ) -> None:
        import torch

        packed = (
            device == "cpu"
            and dtype == torch.bfloat16
            and hasattr(torch.ops.mkldnn, "_linear_pointwise")
            and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        )

        def pack(weight: Tensor) -> Tensor:
            if not packed:
                return weight
            reordered: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
            return reordered

        self._weights = read_weights(weights, config, device=device, dtype=dtype, pack=pack)
        self._pooling = pooling
        self._device = device
        self._forward = forward_pass(device, packed=packed)

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
            list[torch.Tensor],
            list[list[torch.Tensor]],
            int,
            float,
        ],
        torch.Tensor,
    ]


def forward_pass(device: str, *, packed: bool) -> Forward:
    """Return the forward pass for a device; `packed` says whether weights are packed for oneDNN.

    The arguments of the forward pass:
    - token ids of consecutive texts, shape (tokens,)
    - the position of each token in its text, shape (tokens,)
    - (number of texts, tokens of each) for each group of texts of one length
    - word embeddings, position embeddings, and the weight and bias of their layer norm
    - the weights of each layer, in the order of use
    - the number of attention heads
    - the epsilon of layer norms

    Returns the last hidden states, shape (tokens, hidden).
    """
    import torch
    from torch.nn import functional

    def linear(
        hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, gelu: bool
    ) -> torch.Tensor:
        product = functional.linear(hidden, weight, bias)
        return functional.gelu(product) if gelu else product

    def packed_linear(
        hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, gelu: bool
    ) -> torch.Tensor:
        # the private operation that torch.compile emits for a frozen model
        after, how = ("gelu", "none") if gelu else ("none", "")
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            hidden, weight, bias, after, [], how
        )
        return product

    # softmax(QK'/sqrt(d))V, arxiv.org/abs/1706.03762, from q, k and v: (3, texts, heads, tokens, d)
    def mixed(qkv: torch.Tensor) -> torch.Tensor:
        return functional.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])

    # torch's softmax computes the last tokens % 32 scores of each row one by one, and takes up to
    # six times as long for it. exp() and a sum need no maximum subtracted: keys less their mean
    # have the same softmax, and scores whose mean is 0, so that only large sums are out of range
    def mixed_on_cpu(qkv: torch.Tensor) -> torch.Tensor:
        # the scores of a text of 8,192 tokens would take gigabytes
        if qkv.shape[3] <= 1024 and qkv.dtype != torch.float16:
            q, k, v = qkv.contiguous().flatten(1, 2).unbind(0)
            weights = torch.baddbmm(
                torch.empty(1, dtype=q.dtype),
                q,
                (k - k.mean(1, keepdim=True)).transpose(1, 2),
                beta=0,
                alpha=float(q.shape[2]) ** -0.5,
            ).exp_()
            sums = weights.sum(-1, keepdim=True)
            # bfloat16 and float32 go up to 3e38, which leaves a factor of 3,000 for the values
            if float(sums.amax()) < 1e35:
                return (torch.bmm(weights, v) / sums).view(qkv.shape[1:])
        return functional.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])

    product = packed_linear if packed else linear
    mix = mixed_on_cpu if device == "cpu" else mixed

    def forward(
        ids: torch.Tensor,
        places: torch.Tensor,
        groups: list[tuple[int, int]],
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
            projected = product(hidden, qkv, qkv_b, False)
            attended = torch.empty_like(hidden)
            start = 0
            for texts, tokens in groups:
                end = start + texts * tokens
                parts = projected[start:end].view(texts, tokens, 3, heads, -1)
                part = mix(parts.permute(2, 0, 3, 1, 4)).transpose(1, 2)
                attended[start:end].view(texts, tokens, heads, -1).copy_(part)
                start = end
            hidden = hidden + product(attended, out, out_b, False)
            hidden = functional.layer_norm(hidden, shape, norm_1, norm_1_b, epsilon)
            inner = product(hidden, up, up_b, True)
            hidden = hidden + product(inner, down, down_b, False)
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

    def __init__(self, folder: Path, *, max_tokens: int, device: str, dtype: torch.dtype) -> None:
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
            self.workers = CpuWorkers() if device == "cpu" else None
            self._model = Bert(weights, config, pooling, device=device, dtype=dtype)
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
