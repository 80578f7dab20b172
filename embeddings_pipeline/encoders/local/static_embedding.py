"""Runs a static model: the vector of a text is the mean of the vectors of its tokens.

Such models are distilled from a transformer by model2vec (github.com/MinishLab/model2vec), or
trained as the StaticEmbedding of sentence-transformers. They need no torch: a process that uses
nothing else starts without the seconds that importing torch takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from safetensors import deserialize, safe_open
from tokenizers import Tokenizer

from embeddings_pipeline.encoders.local.loaded_model import BatchLimits, PreparedInput, Tokens
from embeddings_pipeline.encoders.local.model_files import parts_of
from embeddings_pipeline.encoders.local.weights import TOKEN_VECTORS, WEIGHTS
from embeddings_pipeline.entities.model import Vectors


class StaticEmbedding:
    """A loaded static model; its vectors are cut to `dimension`.

    Loading may raise any exception for damaged files.
    """

    # the vectors of a batch's tokens fit in a processor's cache
    limits = BatchLimits(texts=1024, tokens=4096)
    # reading the tokens takes longer than adding their vectors, and uses all processors
    workers = None
    adds_prompts = False

    def __init__(self, folder: Path, dimension: int) -> None:
        part = parts_of(folder)[0].folder
        self._tokenizer: Tokenizer = Tokenizer.from_file(str(part / "tokenizer.json"))
        self._tokenizer.no_padding()
        stored = _read(part / WEIGHTS)
        (name,) = set(TOKEN_VECTORS) & set(stored)
        self._vectors = stored[name][:, :dimension].astype(np.float32)
        # of model2vec: which vector a token has, and its weight
        self._rows = stored.get("mapping")
        self._weights = stored.get("weights")
        known = self._vectors if self._rows is None else self._rows
        if len(known) < (tokens := self._tokenizer.get_vocab_size()):
            raise ValueError(
                f"{WEIGHTS} has vectors for {len(known)} tokens, and the tokenizer {tokens} tokens"
            )

    def prepare(self, texts: Sequence[str], *, query: bool) -> list[PreparedInput]:
        """Tokenise each text, without special tokens. `query` has no effect."""
        del query
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [
            PreparedInput(len(encoding), np.array(encoding.ids, np.int32)) for encoding in encodings
        ]

    def encode(self, batch: Sequence[PreparedInput], *, query: bool) -> Vectors:
        """Return the mean of each text's token vectors, float32, shape (texts, dimension).

        A text without tokens has the zero vector. `query` has no effect on it.
        """
        del query
        texts = [cast(Tokens, text.content) for text in batch]
        lengths = np.fromiter(map(len, texts), np.intp, len(texts))
        means = np.zeros((len(texts), self._vectors.shape[1]), np.float32)
        filled = lengths > 0
        if filled.any():
            starts = np.cumsum(lengths) - lengths
            sums = np.add.reduceat(self._token_vectors(np.concatenate(texts)), starts[filled])
            means[filled] = sums / lengths[filled, None]
        return means

    def _token_vectors(self, tokens: Tokens) -> Vectors:
        vectors: Vectors = self._vectors[tokens if self._rows is None else self._rows[tokens]]
        if self._weights is not None:
            vectors *= self._weights[tokens, None]
        return vectors


def _read(weights: Path) -> dict[str, NDArray[Any]]:
    with safe_open(weights, framework="np") as file:
        types = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
        stored = {name: file.get_tensor(name) for name in types if types[name] != "BF16"}
    if missing := types.keys() - stored:
        # numpy has no bfloat16, which is the upper half of a float32
        raw = dict(deserialize(weights.read_bytes()))  # type: ignore[no-untyped-call]
        for name in missing:
            upper = np.frombuffer(raw[name]["data"], "<u2").astype("<u4")
            stored[name] = (upper << 16).view("<f4").reshape(raw[name]["shape"])
    return stored
