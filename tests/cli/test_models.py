"""`models` lists what can encode, and how fast it was on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from embeddings_pipeline.cli.main import app
from embeddings_pipeline.encoders import speeds
from embeddings_pipeline.settings import DEFAULT_MODEL
from tests.support import CHECKOUT, tiny_models


@pytest.fixture(autouse=True)
def static(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A static model is the default of the repository's own dbt project."""
    folder = tmp_path / "static"
    folder.mkdir()
    tiny_models.make_static(folder, tiny_models.PROMPTS)
    for name, value in {
        "DBT_PROJECT_DIR": str(CHECKOUT / "dbt_project"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "EMBEDDING_MODEL": "my/static",
        "EMBEDDING_MODEL_PATH": str(folder),
        "EMBEDDING_MODEL_CACHE_DIR": str(tmp_path / "hub"),
        "HF_HUB_OFFLINE": "1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(speeds, "_SECONDS", 0.05)


def listed(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["models", "--json", *arguments])
    assert result.exit_code == 0, result.output
    return {model["model"]: model for model in json.loads(result.stdout)["models"]}


def test_models_are_timed_on_demand_and_their_speeds_are_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert {model["tokens_per_second"] for model in listed().values()} == {None}
    timed = listed("--time")
    fast = {name for name, model in timed.items() if model["tokens_per_second"]}
    assert fast == {"my/static", DEFAULT_MODEL}
    assert listed() == timed
    # with other settings they were not timed
    monkeypatch.setenv("EMBEDDING_PRECISION", "float32")
    assert {model["tokens_per_second"] for model in listed().values()} == {None}


def test_a_model_that_is_here_is_shown_as_its_files_say() -> None:
    static = listed()["my/static"]
    assert (static["dimension"], static["max_tokens"], static["pooling"]) == (16, None, "static")
    assert (static["query_prompt"], static["document_prompt"]) == ("find: ", "text: ")
    assert static["at_hand"]


def test_a_known_model_that_is_not_here_is_shown_as_its_card_says() -> None:
    gemma = listed()["google/embeddinggemma-300m"]
    assert (gemma["dimension"], gemma["shorter"], gemma["max_tokens"]) == (
        *(768, [512, 256, 128]),
        2048,
    )
    assert (gemma["license"], gemma["at_hand"]) == ("gemma", False)
    shown = CliRunner().invoke(app, ["models"])
    assert "google/embeddinggemma-300m: only on the hub; pooling mean" in shown.output
    assert "query prompt 'task: search result | query: '" in shown.output
    assert "unlimited" in shown.output
