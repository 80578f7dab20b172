"""A cross-encoder with random weights, built by the test, reorders the best rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from embeddings_pipeline.encoders.reranker import Rerankers
from embeddings_pipeline.entities import chunking
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.settings import Settings
from tests.search.conftest import Search
from tests.support.world import World


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("reranker")
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=30522,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        initializer_range=0.5,
    )
    config.num_labels = 1
    BertForSequenceClassification(config).save_pretrained(folder, safe_serialization=True)
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_file=str(Path(chunking.__file__).with_name("tokenizer.json")),
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        unk_token="[UNK]",
        model_max_length=64,
    ).save_pretrained(folder)
    return folder


def test_rows_come_as_the_cross_encoder_scores_them(
    world: World, opened: Callable[..., Search], model: Path
) -> None:
    world.table("id bigint, name text")
    world.insert(*[(n, f"thing {n} of {n % 7}") for n in range(30)])
    world.run(world.declare(template="{name}"))
    search = opened(embedding_device="cpu")
    settings = Settings(_env_file=None, embedding_device="cpu")
    answer = search.answer("thing 5", top_k=5, rerank=str(model))
    everything = search.answer("thing 5", top_k=30).results
    scores = Rerankers(settings).scores(str(model), "thing 5", [hit.text for hit in everything])
    best = sorted(zip(scores, everything, strict=True), key=lambda pair: -pair[0])[:5]
    assert [hit.id for hit in answer.results] == [hit.id for _, hit in best]
    assert [hit.score for hit in answer.results] == pytest.approx([s for s, _ in best], abs=1e-4)
    assert answer.shortfall == 0


def test_a_reranker_that_is_not_at_hand_is_refused(tmp_path: Path) -> None:
    rerankers = Rerankers(Settings(_env_file=None, embedding_model_cache_dir=tmp_path))
    with pytest.raises(ConfigurationError, match="re-ranker 'no/such' cannot be loaded"):
        rerankers.scores("no/such", "query", ["text"])


def test_pickled_weights_are_not_loaded(model: Path, tmp_path: Path) -> None:
    import shutil

    import torch
    from safetensors.torch import load_file

    folder = tmp_path / "pickled"
    shutil.copytree(model, folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigurationError, match="cannot be loaded"):
        Rerankers(Settings(_env_file=None)).scores(str(folder), "query", ["text"])
