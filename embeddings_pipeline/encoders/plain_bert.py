"""Runs a BERT with mean pooling by itself: what most small sentence-transformers models are.

`import sentence_transformers` takes longer than to encode a hundred texts. The vectors are the
same; a test compares them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from safetensors import SafetensorError, safe_open
from tokenizers import Encoding, Tokenizer

from embeddings_pipeline.encoders.base import Vectors
from embeddings_pipeline.encoders.lanes import Lanes
from embeddings_pipeline.encoders.loaded import Prepared

if TYPE_CHECKING:
    import torch


def is_plain_bert(folder: Path) -> bool:
    """Whether a model is a BERT, mean pooling and no prompts, as far as its files tell."""
    modules = _read(folder / "modules.json") or []
    kinds = [str(module["type"]).rpartition(".")[2] for module in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        return False
    prompts = _read(folder / "config_sentence_transformers.json").get("prompts") or {}
    return (
        modules[0]["path"] == ""
        and (folder / "tokenizer.json").exists()
        and _is_bert(_read(folder / "config.json"))
        and _is_named_as_ours(folder / "model.safetensors")
        and not _read(folder / "sentence_bert_config.json").get("do_lower_case")
        and _is_mean(_read(folder / modules[1]["path"] / "config.json"))
        and not any(prompts.values())
    )


class PlainBert:
    """The loaded model. Raises whatever its files make the loading raise."""

    def __init__(self, folder: Path, *, max_tokens: int, device: str, dtype: torch.dtype) -> None:
        from embeddings_pipeline.encoders.bert import Bert

        self.lanes = Lanes() if device == "cpu" else None
        self._device = device
        self._tokenizer: Tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(max_tokens)
        self._tokenizer.no_padding()
        config = _read(folder / "config.json")
        self._model = Bert(folder / "model.safetensors", config, device=device, dtype=dtype)

    def prepare(self, texts: Sequence[str]) -> list[Prepared]:
        """The tokens of each text."""
        return [
            Prepared(
                len(encoding.ids) + sum(_text_tokens(o) for o in encoding.overflowing), encoding.ids
            )
            for encoding in self._tokenizer.encode_batch_fast(list(texts))
        ]

    def encode(self, batch: Sequence[Prepared], *, query: bool) -> Vectors:
        """Means of the tokens' vectors, float32, shape (texts, dimension), not normalized.

        Such a model has no prompts: a query is read like a document.
        """
        del query
        import torch

        from embeddings_pipeline.encoders.bert import Group

        tokens = [cast(list[int], text.content) for text in batch]
        groups = [Group(len([*same]), length) for length, same in groupby(map(len, tokens))]
        ids = torch.tensor([*chain.from_iterable(tokens)])
        with torch.inference_mode():
            hidden = self._model(ids.to(self._device), groups).float()
            texts = torch.split(hidden, [group.texts * group.tokens for group in groups])
            means = [
                part.view(*group, -1).mean(1) for part, group in zip(texts, groups, strict=True)
            ]
            vectors: Vectors = torch.cat(means).cpu().numpy()
        return vectors


def _text_tokens(overflow: Encoding) -> int:
    return len(overflow.ids) - sum(overflow.special_tokens_mask)


def _is_bert(config: dict[str, Any]) -> bool:
    return (
        config.get("model_type") == "bert"
        and config.get("hidden_act") == "gelu"
        and config.get("position_embedding_type", "absolute") == "absolute"
        and not config.get("is_decoder")
    )


def _is_named_as_ours(weights: Path) -> bool:
    # a BERT that was saved with a head on it has `bert.` before each name
    try:
        with safe_open(weights, framework="np") as file:
            return "embeddings.word_embeddings.weight" in file.keys()  # noqa: SIM118
    # it is not there, or broken: whoever loads it says so
    except (OSError, SafetensorError):
        return False


def _is_mean(pooling: dict[str, Any]) -> bool:
    former = {key for key, on in pooling.items() if key.startswith("pooling_mode_") and on is True}
    return former == {"pooling_mode_mean_tokens"} or (
        not former and pooling.get("pooling_mode") == "mean"
    )


def _read(path: Path) -> Any:
    # what is optional in a model's folder is read as empty
    return json.loads(path.read_text()) if path.exists() else {}
