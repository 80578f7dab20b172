"""Settings in a model's files that change its vectors: these are those of sentence-transformers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling
from transformers import BertModel

from embeddings_pipeline.encoders.local.plain_bert import is_plain_bert
from tests.support import tiny_models
from tests.support.local_encoders import edit, encoder_of
from tests.support.tiny_models import PROMPTS

TEXTS = [
    *tiny_models.TEXTS,
    "a",
    " spaces  around and\tbetween \n",
    "A Blue LAMP: Été à l'Île",
    "紅い靴 と 青いランプ",
    "<pad> and [PAD] are <pad><s>special</s> tokens [SEP]",
]
# settings that `transformers` follows where tokenizer.json says otherwise
BERT_TOKENIZER = {"tokenizer_class": "BertTokenizer", "mask_token": "[UNK]"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder with `model`, a tiny model with prompts, and its transformer in `bare`."""
    folders: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp("made")
            tiny_models.make(name, folders[name], PROMPTS)
        return folders[name]

    return make


def require_same_vectors(folder: Path) -> None:
    encoder = encoder_of(folder)
    # in float32 also where the weights are stored as another type
    reference = SentenceTransformer(
        str(folder), device="cpu", model_kwargs={"dtype": torch.float32}
    )
    documents, queries = reference.encode_document(TEXTS), reference.encode_query(TEXTS)
    assert encoder.identity.dimension == documents.shape[1]
    for found, wanted in [
        (encoder.encode_documents(TEXTS).vectors, documents),
        (encoder.encode_query(TEXTS).vectors, queries),
    ]:
        lengths = np.linalg.norm(wanted, axis=1, keepdims=True)
        # vectors that are cut after they had length 1 have it again
        unit = wanted / lengths if encoder.identity.normalized else wanted
        np.testing.assert_allclose(found, unit, atol=1e-5)


SETTINGS: dict[str, tuple[str, str, dict[str, object]]] = {
    "texts lose their beginning": ("bert", "tokenizer_config.json", {"truncation_side": "left"}),
    "upper case": ("bert", "tokenizer_config.json", BERT_TOKENIZER | {"do_lower_case": False}),
    "accents": ("bert", "tokenizer_config.json", BERT_TOKENIZER | {"strip_accents": False}),
    "Chinese": (
        "bert",
        "tokenizer_config.json",
        BERT_TOKENIZER | {"tokenize_chinese_chars": False},
    ),
    "a space in front": (
        "roberta",
        "tokenizer_config.json",
        {"tokenizer_class": "RobertaTokenizer", "add_prefix_space": True},
    ),
    "words": ("xlm-roberta", "tokenizer_config.json", {"tokenizer_class": "XLMRobertaTokenizer"}),
    "lower case": ("bert", "sentence_bert_config.json", {"do_lower_case": True}),
    "the tokenizer's limit": (
        "bert",
        "sentence_bert_config.json",
        {"tokenizer_args": {"model_max_length": 9}},
    ),
    "a limit when it is called": (
        "bert",
        "sentence_bert_config.json",
        {"processing_kwargs": {"text": {"max_length": 9}}},
    ),
    "limits of queries and documents": (
        "bert",
        "sentence_bert_config.json",
        {"query_length": 7, "document_length": 9},
    ),
    "fewer dimensions": ("bert", "config_sentence_transformers.json", {"truncate_dim": 5}),
    "a prompt for other texts": (
        "bert",
        "config_sentence_transformers.json",
        {"prompts": {"other": "other: "}, "default_prompt_name": "other"},
    ),
    "pooling without the prompt": ("bert", "1_Pooling/config.json", {"include_prompt": False}),
    "pooling of the square root": (
        "bert",
        "1_Pooling/config.json",
        {"pooling_mode": "mean_sqrt_len_tokens"},
    ),
    "lengths of tokens": (
        "bert",
        "2_Normalize/config.json",
        {"module_input_name": "token_embeddings", "module_output_name": "token_embeddings"},
    ),
    "another activation": ("bert", "config.json", {"hidden_act": "gelu_new"}),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_settings_are_followed(case: str, made: Callable[[str], Path], tmp_path: Path) -> None:
    name, file, values = SETTINGS[case]
    folder = tmp_path / "model"
    shutil.copytree(made(name) / "model", folder)
    edit(folder / file, **values)
    require_same_vectors(folder)


def test_a_setting_that_is_left_out_has_its_usual_value(
    made: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(made("bert") / "model", folder)
    config = json.loads((folder / "config.json").read_text())
    del config["layer_norm_eps"]
    (folder / "config.json").write_text(json.dumps(config))
    require_same_vectors(folder)


def test_a_transformer_may_have_its_settings_under_the_name_of_its_family(
    made: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(made("bert") / "model", folder)
    (folder / "sentence_bert_config.json").unlink()
    edit(folder / "sentence_albert_config.json", max_seq_length=9, do_lower_case=False)
    assert encoder_of(folder).identity.max_tokens == 9
    require_same_vectors(folder)


def test_a_static_model_may_be_shortened_by_its_files(tmp_path: Path) -> None:
    folder = tiny_models.make_static(tmp_path, PROMPTS)
    edit(folder / "config_sentence_transformers.json", truncate_dim=5)
    require_same_vectors(folder)


@pytest.mark.parametrize(
    "parts",
    [
        [partial(Pooling, 16, ("cls", "max", "mean"))],
        [partial(Pooling, 16), partial(Dense, 16, 24), Normalize],
        [
            partial(Pooling, 16),
            partial(Dense, 16, 5, bias=False, activation_function=torch.nn.GELU()),
        ],
        [partial(Pooling, 16), partial(Dense, 16, 16, use_residual=True), Normalize],
        [partial(Pooling, 16), partial(LayerNorm, 16), Normalize],
        [partial(Dense, 16, 24, module_input_name="token_embeddings"), partial(Pooling, 24)],
    ],
)
def test_parts_after_the_transformer_are_applied(
    parts: list[Callable[[], torch.nn.Module]], made: Callable[[str], Path], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    modules = [Transformer(str(made("bert") / "bare")), *(part() for part in parts)]
    SentenceTransformer(modules=modules, prompts=PROMPTS, device="cpu").save(str(tmp_path))
    require_same_vectors(tmp_path)


@pytest.mark.parametrize("options", [{"num_attention_heads": 1}, {"type_vocab_size": 1}])
def test_a_bert_may_have_other_sizes(options: dict[str, int], tmp_path: Path) -> None:
    folder = tiny_models.make("bert", tmp_path, PROMPTS, **options)
    assert is_plain_bert(folder)
    require_same_vectors(folder)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_may_be_stored_as_another_type(
    dtype: torch.dtype, made: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(made("bert") / "model", folder)
    stored = load_file(folder / "model.safetensors")
    save_file(
        {name: weight.to(dtype) for name, weight in stored.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    require_same_vectors(folder)


def test_weights_may_be_in_several_files(made: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    shutil.copytree(made("bert") / "model", folder)
    model = BertModel.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="4KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    require_same_vectors(folder)
