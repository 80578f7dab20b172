"""One encoder for each model of a process."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embeddings_pipeline.encoders.local import loading
from embeddings_pipeline.encoders.local.plain_bert import PlainBert
from embeddings_pipeline.encoders.openai.encoder import request_options
from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.entities.model import ModelIdentity
from embeddings_pipeline.errors import ConfigurationError, EmbeddingsError
from embeddings_pipeline.settings import DEFAULT_MODEL, Settings
from tests.support.declared import declared
from tests.support.provider import KEY, Provider
from tests.support.words import WordsEncoder


def encoders(**settings: Any) -> Encoders:
    return Encoders(Settings(_env_file=None, **settings))


def test_a_model_is_made_once_for_each_dimension() -> None:
    made = encoders()
    assert made.get(DEFAULT_MODEL) is made.get(DEFAULT_MODEL)
    assert made.get(DEFAULT_MODEL, 64) is not made.get(DEFAULT_MODEL)
    assert made.get(DEFAULT_MODEL, 64).identity.dimension == 64


def test_a_model_is_loaded_once_for_all_its_dimensions(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []

    def load(identity: ModelIdentity, folder: Path, **options: Any) -> PlainBert:
        loaded.append(folder)
        return PlainBert(identity, folder, **options)

    monkeypatch.setattr(loading, "PlainBert", load)
    made = encoders()
    whole, own, short = (made.get(DEFAULT_MODEL, n) for n in (None, 384, 128))
    vectors = [
        encoder.encode_documents(["red boots"]).vectors[0] for encoder in (whole, own, short)
    ]

    assert len(loaded) == 1
    assert (vectors[0] == vectors[1]).all()
    cut = vectors[0][:128] / np.linalg.norm(vectors[0][:128])
    assert vectors[2] == pytest.approx(cut, abs=1e-6)
    made.cleanup()
    made.get(DEFAULT_MODEL).check()
    assert len(loaded) == 2


def test_a_folder_for_the_model_of_a_provider_is_refused(tiny: Path) -> None:
    made = encoders(
        embedding_model="text-embedding-3-small",
        embedding_model_path=tiny / "model",
        openai_api_key="sk-test",
    )
    with pytest.raises(
        ConfigurationError, match="'text-embedding-3-small' is a provider's model: unset"
    ):
        made.for_entity(declared())
    assert made.get(DEFAULT_MODEL).identity.model == DEFAULT_MODEL


def test_an_entity_has_its_own_model_or_the_default() -> None:
    made = encoders(embedding_model="fake/words")
    words = WordsEncoder()
    made.add(words)
    assert made.for_entity(declared()) is words
    assert made.for_entity(declared(model=DEFAULT_MODEL, dimension=64)).identity.dimension == 64


def test_nothing_is_encoded_where_that_is_switched_off() -> None:
    with pytest.raises(ConfigurationError, match="EMBEDDING_ENABLED is false"):
        encoders(embedding_enabled=False).get(DEFAULT_MODEL)


def test_a_model_that_reads_longer_texts_is_not_the_identical_one() -> None:
    stored = encoders().get(DEFAULT_MODEL).identity
    with pytest.raises(
        ConfigurationError, match=r" 128 tokens; the current model is .* 256 tokens"
    ):
        encoders().for_identity(replace(stored, max_tokens=128))


def test_a_model_with_other_weights_is_not_the_identical_one(tiny: Path) -> None:
    stored = encoders().get(DEFAULT_MODEL).identity
    assert encoders().for_identity(stored).identity == stored
    with pytest.raises(
        ConfigurationError,
        match=r"has changed: .* sha256 [0-9a-f]{12}, .*; the current model is sha256",
    ):
        encoders(embedding_model_path=tiny / "bert").for_identity(replace(stored, dimension=16))


def test_a_name_decides_who_encodes() -> None:
    made = encoders(openai_api_key="sk-test")
    remote = made.get("text-embedding-3-large")
    assert (remote.identity.provider, remote.identity.dimension) == ("openai", 3072)
    assert remote.identity.revision == "text-embedding-3-large"
    assert remote.device == "api.openai.com"
    named = made.get("openai:text-embedding-3-small", 512).identity
    assert (named.model, named.dimension) == ("openai:text-embedding-3-small", 512)
    assert made.get(DEFAULT_MODEL).identity.provider == "sentence-transformers"
    made.cleanup()


def test_the_same_name_at_another_host_is_another_model() -> None:
    model = "text-embedding-3-small"
    stored = encoders(openai_api_key="sk-test").get(model).identity
    elsewhere = encoders(openai_base_url="http://localhost:8000/v1")
    with pytest.raises(
        ConfigurationError, match=f"made with {model}, .* is {model}@localhost:8000, "
    ):
        elsewhere.for_identity(stored)


def test_a_remote_model_without_a_key_says_what_to_set() -> None:
    with pytest.raises(ConfigurationError, match="OPENAI_API_KEY is not set: set it, or"):
        encoders().get("text-embedding-3-small")


def test_requests_are_no_larger_than_the_settings_allow() -> None:
    settings = Settings(
        _env_file=None, embedding_batch_size=100, embedding_tokens_per_minute=40_000
    )
    options = request_options(settings)
    assert (options.batch_texts, options.batch_tokens) == (100, 40_000)
    options = request_options(Settings(_env_file=None, embedding_batch_size=4096))
    assert (options.batch_texts, options.batch_tokens) == (2_048, 300_000)


@pytest.mark.parametrize("priced", ["text-embedding-3-small", "openai:text-embedding-3-small"])
def test_a_price_is_for_both_names_of_a_model(priced: str) -> None:
    made = encoders(embedding_prices={priced: 0.01, "openai:some/model": 7})
    for model in ("text-embedding-3-small", "openai:text-embedding-3-small"):
        assert made.usd_per_token(model) * 1_000_000 == pytest.approx(0.01)
    # without the prefix it is another model, a local one
    assert made.usd_per_token("some/model") == 0


@pytest.mark.parametrize(
    ("model", "usd_per_million"),
    [
        ("text-embedding-3-large", 0.13),
        ("openai:text-embedding-3-large", 0.13),
        ("openai:my/model", 7.0),
        ("text-embedding-3-small", 0.01),
        ("openai:text-embedding-3-small", 0.01),
        (DEFAULT_MODEL, 0.0),
    ],
)
def test_a_price_is_the_list_s_or_the_setting_s(model: str, usd_per_million: float) -> None:
    made = encoders(embedding_prices={"openai:my/model": 7, "text-embedding-3-small": 0.01})
    assert made.usd_per_token(model) * 1_000_000 == pytest.approx(usd_per_million)


def test_a_model_s_own_code_runs_only_where_a_setting_names_it(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny / "model", folder)
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "4_Own").mkdir()
    modules.append({"idx": 4, "name": "4", "path": "4_Own", "type": "own.Negative"})
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "own.py").write_text(
        "from torch import nn\n"
        "class Negative(nn.Module):\n"
        "    def forward(self, features, **more):\n"
        "        return features | {'sentence_embedding': -features['sentence_embedding']}\n"
        "    @classmethod\n"
        "    def load(cls, *args, **more):\n"
        "        return cls()\n"
    )
    monkeypatch.setattr(
        "transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "code")
    )
    given = {
        "embedding_model": "my/model",
        "embedding_device": "cpu",
        "embedding_precision": "float32",
    }
    plain = encoders(**given, embedding_model_path=tiny / "model").get("my/model")
    with pytest.raises(ConfigurationError, match="name the model in EMBEDDING_TRUST_REMOTE_CODE"):
        encoders(**given, embedding_model_path=folder).get("my/model")

    trusted = encoders(
        **given, embedding_model_path=folder, embedding_trust_remote_code="other/one, my/model"
    ).get("my/model")
    assert trusted.identity.revision != plain.identity.revision
    wanted = -plain.encode_documents(["pump"]).vectors
    np.testing.assert_allclose(trusted.encode_documents(["pump"]).vectors, wanted, atol=1e-5)


def test_models_are_let_go() -> None:
    made = encoders()
    before = made.get(DEFAULT_MODEL)
    made.cleanup()
    assert made.get(DEFAULT_MODEL) is not before


def test_a_run_that_is_to_stop_ends_no_call_of_another_thread(provider: Provider) -> None:
    made = encoders(openai_base_url=provider.url, openai_api_key=KEY)
    encoder = made.get("text-embedding-3-small")
    with ThreadPoolExecutor(1) as threads, made.stop_when(lambda: True):
        search = threads.submit(encoder.encode_query, ["red boots"])
        assert len(search.result().vectors) == 1
        with pytest.raises(EmbeddingsError, match="stopped"):
            encoder.encode_query(["red boots"])
    with (
        ThreadPoolExecutor(1) as threads,
        made.stop_all(),
        pytest.raises(EmbeddingsError, match="stopped"),
    ):
        threads.submit(encoder.encode_query, ["red boots"]).result()
    assert len(encoder.encode_query(["red boots"]).vectors) == 1
    made.cleanup()
