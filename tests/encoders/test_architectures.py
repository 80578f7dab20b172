"""Models of other architectures: their vectors are those of sentence-transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from sentence_transformers import SentenceTransformer

from embeddings_pipeline.encoders.local.plain_bert import is_plain_bert
from embeddings_pipeline.entities.model import Vectors
from tests.support import tiny_models
from tests.support.local_encoders import encoder_of
from tests.support.streaming import streamed
from tests.support.tiny_models import MAX_TOKENS, TEXTS


@pytest.fixture(scope="module", params=[*tiny_models.ARCHITECTURES, "static"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with prompts in its files, of each architecture in turn."""
    path = tmp_path_factory.mktemp(request.param)
    if request.param == "static":
        return tiny_models.make_static(path, tiny_models.PROMPTS)
    return tiny_models.make(request.param, path, tiny_models.PROMPTS)


@pytest.fixture(scope="module")
def reference(folder: Path) -> SentenceTransformer:
    return SentenceTransformer(str(folder), device="cpu")


def one_by_one(reference: SentenceTransformer, texts: Sequence[str], prompt: str) -> Vectors:
    """The vectors of texts that share no batch, and so have no padding."""
    return np.stack([reference.encode([text], prompt=prompt)[0] for text in texts])


def test_documents_have_the_vectors_of_sentence_transformers(
    folder: Path, reference: SentenceTransformer
) -> None:
    encoder = encoder_of(folder)
    found = encoder.encode_documents(TEXTS).vectors
    np.testing.assert_allclose(found, reference.encode_document(list(TEXTS)), atol=1e-5)
    np.testing.assert_allclose(found, one_by_one(reference, TEXTS, "text: "), atol=1e-5)
    stream = streamed(encoder.encode_stream(TEXTS))
    np.testing.assert_allclose(stream.vectors(16), found, atol=1e-5)


def test_queries_have_the_vectors_of_sentence_transformers(
    folder: Path, reference: SentenceTransformer
) -> None:
    found = encoder_of(folder).encode_query(TEXTS).vectors
    np.testing.assert_allclose(found, reference.encode_query(list(TEXTS)), atol=1e-5)
    assert not np.allclose(found, reference.encode_document(list(TEXTS)), atol=1e-2)


def test_a_shortened_vector_is_that_of_sentence_transformers(
    folder: Path, reference: SentenceTransformer
) -> None:
    found = encoder_of(folder, 8).encode_documents(TEXTS).vectors
    wanted = reference.encode_document(list(TEXTS), truncate_dim=8, normalize_embeddings=True)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_the_limit_is_that_of_the_model_and_longer_texts_are_counted(folder: Path) -> None:
    encoder = encoder_of(folder)
    usage = encoder.encode_documents(TEXTS).usage
    lengths = encoder.token_count.of(TEXTS)
    limit = encoder.identity.max_tokens
    assert usage.tokens == sum(min(length, limit) for length in lengths)
    assert usage.truncated == sum(length > limit for length in lengths)
    assert (limit == MAX_TOKENS) is not folder.name.startswith("static")


def test_the_fast_way_takes_berts_with_either_pooling(folder: Path) -> None:
    fast = folder.parent.name.startswith(("bert", "xlm-roberta"))
    assert is_plain_bert(folder) is fast


@pytest.mark.parametrize("name", tiny_models.OTHERS)
def test_architectures_that_are_seen_less_often_have_their_vectors_too(
    name: str, tmp_path: Path
) -> None:
    folder = tiny_models.make(name, tmp_path, tiny_models.PROMPTS)
    encoder = encoder_of(folder)
    reference = SentenceTransformer(str(folder), device="cpu")
    for found, wanted in [
        (encoder.encode_documents(TEXTS), reference.encode_document(list(TEXTS))),
        (encoder.encode_query(TEXTS), reference.encode_query(list(TEXTS))),
    ]:
        np.testing.assert_allclose(found.vectors, wanted, atol=1e-5)
    assert encoder.identity.max_tokens == MAX_TOKENS
    assert is_plain_bert(folder) is (name in {"camembert", "roberta"})


def heads_changed(tmp_path: Path, query: float, key: float) -> Path:
    """A BERT whose queries are as many times as long, and whose keys have this bias."""
    folder = tiny_models.make("bert", tmp_path)
    weights = load_file(folder / "model.safetensors")
    for name, weight in weights.items():
        if name.endswith("attention.self.query.weight"):
            weights[name] = weight * np.float32(query)
        for part, bias in (("query", 1), ("key", key)):
            if name.endswith(f"attention.self.{part}.bias"):
                weights[name] = np.full_like(weight, bias)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("query", "key"),
    [
        # scores of some hundred, for which exp() is infinite
        (100, 0),
        # each score becomes 8 * 40 / sqrt(8) lower: exp() of -113 is 0
        (0, -40),
    ],
)
def test_scores_of_attention_may_be_beyond_what_exp_can_represent(
    tmp_path: Path, query: float, key: float
) -> None:
    folder = heads_changed(tmp_path, query, key)

    found = encoder_of(folder, embedding_cpu_kernels="exp").encode_documents(TEXTS).vectors

    wanted = SentenceTransformer(str(folder), device="cpu").encode_document(list(TEXTS))
    np.testing.assert_allclose(found, wanted, atol=1e-4)
